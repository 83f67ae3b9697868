"""Inputs and outputs of notebooks: Drive, uploads and zip files, with a fake of Colab's modules."""

import errno
import re
import sys
import zipfile
from collections.abc import Callable
from html import unescape
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from flax_ner import notebook
from flax_ner.errors import UserError
from flax_ner.notebook import Page, resolve_input, save_output


class Colab:
    """A fake of the functions in google.colab.files and google.colab.drive that are used."""

    def __init__(self, drive: Path):
        self.uploads: dict[str, bytes] = {}
        self.downloads: list[str] = []
        self.mounts: list[str] = []
        self._drive = drive

    def upload(self, target_dir: str = "") -> dict[str, bytes]:
        for name, content in self.uploads.items():
            Path(target_dir, name).write_bytes(content)
        return {str(Path(target_dir, name)): content for name, content in self.uploads.items()}

    def download(self, filename: str) -> None:
        self.downloads.append(filename)

    def mount(self, mountpoint: str) -> None:
        self.mounts.append(mountpoint)
        (self._drive / "MyDrive").mkdir(parents=True)


@pytest.fixture
def drive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a temporary mount point of Drive; zip files are unpacked to a temporary folder too."""
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(notebook.tempfile, "tempdir", str(tmp_path / "temporary"))
    monkeypatch.setattr(notebook, "DRIVE", str(tmp_path / "drive"))
    return tmp_path / "drive"


@pytest.fixture
def colab(drive: Path, monkeypatch: pytest.MonkeyPatch) -> Colab:
    colab = Colab(drive)
    for name in ("google.colab", "google.colab.files", "google.colab.drive"):
        module: Any = ModuleType(name)
        module.upload, module.download, module.mount = colab.upload, colab.download, colab.mount
        monkeypatch.setitem(sys.modules, name, module)
    return colab


def zipped(path: Path, *names: str) -> str:
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            archive.writestr(name, f"content of {name}")
    return str(path)


def test_a_page_is_embedded_unchanged_in_a_frame() -> None:
    html = '<!DOCTYPE html><p title="a&amp;b">甲\'s</p><script>let x = 1 < 2;</script>\ud83d'
    shown = Page(html, height=300)._repr_html_()
    (source,) = re.findall(r'^<iframe srcdoc="([^"]*)" sandbox="allow-scripts"', shown)
    assert unescape(source) == html.replace("\ud83d", "\\ud83d")
    assert 'height="300"' in shown and len(repr(Page(html))) < 30


def test_drive_is_mounted_for_any_spelling_of_a_path_on_it(
    colab: Colab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for path in ("drive/../temporary", f"{tmp_path}/drive/../temporary"):
        assert resolve_input(path, "MODEL") == path and not colab.mounts
    assert resolve_input("temporary/../drive/MyDrive/model", "MODEL").startswith("temporary")
    assert colab.mounts == [str(tmp_path / "drive")]


@pytest.mark.parametrize("name", ["owner/name@main", "train 60", "data/dev.json", "/a/folder"])
def test_names_and_other_paths_are_returned_unchanged(drive: Path, name: str) -> None:
    assert resolve_input(name, "MODEL") == name


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["config.json", "vocab.txt", "params/d/0"], "m"),  # the content of a model directory
        (["best/config.json", "best/vocab.txt", "best/params/d/0"], "m/best"),
        (["best/config.json", "best/vocab.txt", "__MACOSX/._best", ".DS_Store"], "m/best"),
        (["bert.pth", "vocab.txt"], "m/bert.pth"),
        (["x/model.safetensors", "x/config.json"], "m/x/model.safetensors"),
        (["model-1-of-2.safetensors", "model-2-of-2.safetensors"], "m"),
        (["only/train.json"], "m/only/train.json"),
        (["1.txt", "1.ann", "2.txt", "2.ann"], "m"),
    ],
)
def test_a_zip_file_stands_for_its_content(
    drive: Path, tmp_path: Path, names: list[str], expected: str
) -> None:
    path = Path(resolve_input(zipped(tmp_path / "m.zip", *names), "MODEL"))
    (folder,) = (tmp_path / "temporary" / "flax_ner").iterdir()
    assert path == folder / expected
    assert {p.relative_to(folder / "m").as_posix() for p in folder.rglob("*") if p.is_file()} == {
        *names
    }


def test_the_same_input_has_the_same_path_again(colab: Colab, tmp_path: Path) -> None:
    """A stopped run can be resumed only if its configuration, and so its paths, are the same."""
    path = zipped(tmp_path / "m.zip", "bert.pth", "vocab.txt")
    assert resolve_input(path, "WEIGHTS") == resolve_input(path, "WEIGHTS")
    colab.uploads = {"dev.json": b"{}", "train.json": b"[]"}
    first = resolve_input("", "DATA")
    assert resolve_input("", "DATA") == first
    colab.uploads = {"dev.json": b"{}", "train.json": b"{}"}
    assert resolve_input("", "DATA") != first


def test_a_damaged_or_missing_zip_file_is_an_error(drive: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.zip").write_bytes(b"PK\x03\x04 no")
    with pytest.raises(UserError, match=r"^DATA: .*bad\.zip cannot be unpacked.*damaged"):
        resolve_input(str(tmp_path / "bad.zip"), "DATA")
    with pytest.raises(UserError, match=r"^DATA: no file '.*none\.zip'"):
        resolve_input(str(tmp_path / "none.zip"), "DATA")


@pytest.mark.parametrize(
    ("method", "offset"),
    [(zipfile.ZIP_DEFLATED, 0), (zipfile.ZIP_LZMA, 9), (zipfile.ZIP_BZIP2, 4)],
)
def test_damaged_compressed_data_in_a_zip_file_are_an_error(
    drive: Path, tmp_path: Path, method: int, offset: int
) -> None:
    path = tmp_path / "bad.zip"
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.writestr("a.txt", "abc" * 100)
    data = bytearray(path.read_bytes())
    begin = data.index(b"a.txt") + len("a.txt") + offset
    data[begin : begin + 7] = b"\xff" * 7
    path.write_bytes(data)
    with pytest.raises(UserError, match=r"^DATA: .*bad\.zip cannot be unpacked.*is damaged"):
        resolve_input(str(path), "DATA")


def test_each_error_of_a_zip_file_has_its_own_fix(
    drive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "folder.zip").mkdir()
    assert resolve_input(str(tmp_path / "folder.zip"), "DATA") == str(tmp_path / "folder.zip")
    path = zipped(tmp_path / "m.zip", "bert.pth")

    def fail(error: Exception) -> Callable[..., None]:
        def extract(self: zipfile.ZipFile, folder: Path) -> None:
            raise error

        return extract

    for error, advice in (
        (OSError(errno.ENOSPC, "No space left on device"), r"No space left.*Free space there"),
        (RuntimeError("File is encrypted, password required"), "without a password"),
    ):
        monkeypatch.setattr(zipfile.ZipFile, "extractall", fail(error))
        with pytest.raises(UserError, match=advice):
            resolve_input(path, "DATA")


def test_saving_a_file_that_does_not_exist_names_the_file(tmp_path: Path) -> None:
    for folder in ("", str(tmp_path / "out")):
        with pytest.raises(UserError, match=r"model\.zip: no such file\. Run the cell"):
            save_output(tmp_path / "model.zip", folder)


def test_colab_asks_for_uploads(
    colab: Colab, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UserError, match=r"^MODEL: nothing was uploaded"):
        resolve_input("", "MODEL")
    colab.uploads = {"dev.json": b"{}"}
    assert Path(resolve_input("", "DATA")).read_bytes() == b"{}"
    assert "DATA: choose a file" in capsys.readouterr().out
    colab.uploads = {"bert.pth": b"weights", "vocab.txt": b"[PAD]"}
    path = Path(resolve_input("", "SOURCE"))
    assert path.name == "bert.pth" and path.with_name("vocab.txt").read_bytes() == b"[PAD]"
    colab.uploads = {"1.txt": b"a", "1.ann": b"b"}
    assert {path.name for path in Path(resolve_input("", "DATA")).iterdir()} == {"1.txt", "1.ann"}
    zipped(tmp_path / "m.zip", "best/config.json", "best/vocab.txt")
    colab.uploads = {"m.zip": (tmp_path / "m.zip").read_bytes()}
    assert Path(resolve_input("", "MODEL")).parts[-2:] == ("m", "best")


def test_drive_is_mounted_once_for_paths_on_it(colab: Colab, drive: Path) -> None:
    path = f"{drive}/MyDrive/cluener/best"
    assert resolve_input(path, "MODEL") == path and resolve_input(path, "MODEL") == path
    assert colab.mounts == [str(drive)]


def test_drive_and_uploads_are_errors_outside_of_colab(drive: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^MODEL: is empty, and uploads work only in Colab"):
        resolve_input("", "MODEL")
    with pytest.raises(
        UserError, match=r"^DATA: .* is on Google Drive, which is available only in Colab"
    ):
        resolve_input(f"{drive}/MyDrive/dev.json", "DATA")
    (tmp_path / "model.zip").write_bytes(b"zip")
    with pytest.raises(UserError, match=r"^SAVE_TO: .* is on Google Drive"):
        save_output(tmp_path / "model.zip", f"{drive}/MyDrive")
    assert save_output(tmp_path / "model.zip", "") == f"model.zip is in {tmp_path / 'model.zip'}"


def test_outputs_are_copied_to_a_folder_or_downloaded(
    colab: Colab, drive: Path, tmp_path: Path
) -> None:
    file = tmp_path / "model.zip"
    file.write_bytes(b"zip")
    for folder in (tmp_path / "a" / "b", drive / "MyDrive" / "models"):
        message = save_output(file, str(folder))
        assert message == f"model.zip is in {folder / 'model.zip'}"
        assert (folder / "model.zip").read_bytes() == b"zip"
    assert save_output(file, str(tmp_path)) == f"model.zip is in {file}"  # already there
    assert file.read_bytes() == b"zip"
    assert colab.mounts == [str(drive)] and not colab.downloads
    assert "browser's downloads" in save_output(file, "")
    assert colab.downloads == [str(file)]
    with pytest.raises(UserError, match=r"^SAVE_TO: .*model\.zip cannot be written"):
        save_output(file, str(file))
