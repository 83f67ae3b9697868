"""What notebooks need: files from Drive, uploads and zips, with a stand-in for Colab's own modules."""

import re
import sys
import zipfile
from html import unescape
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from flax_ner import notebook
from flax_ner.errors import UserError
from flax_ner.notebook import Page, hand_over, obtain


class Colab:
    """What Colab's `files` and `drive` do, as far as it is called: google.colab.files, google.colab.drive."""

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
    """Where Drive would be mounted, and where zips are unpacked."""
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


def test_a_page_stays_in_its_frame_as_it_is() -> None:
    html = '<!DOCTYPE html><p title="a&amp;b">甲\'s</p><script>let x = 1 < 2;</script>\ud83d'
    shown = Page(html, height=300)._repr_html_()
    (source,) = re.findall(r'^<iframe srcdoc="([^"]*)" sandbox="allow-scripts"', shown)
    assert unescape(source) == html.replace("\ud83d", "\\ud83d")
    assert 'height="300"' in shown and len(repr(Page(html))) < 30


def test_paths_on_drive_are_known_however_they_are_written(
    colab: Colab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for path in ("drive/../temporary", f"{tmp_path}/drive/../temporary"):
        assert obtain(path, "MODEL") == path and not colab.mounts
    assert obtain("temporary/../drive/MyDrive/model", "MODEL").startswith("temporary")
    assert colab.mounts == [str(tmp_path / "drive")]


@pytest.mark.parametrize("name", ["owner/name@main", "train 60", "data/dev.json", "/a/folder"])
def test_names_and_paths_stay_as_they_are(drive: Path, name: str) -> None:
    assert obtain(name, "MODEL") == name


@pytest.mark.parametrize(
    ("names", "meant"),
    [
        (["config.json", "vocab.txt", "params/d/0"], "m"),  # a model directory, by its content
        (["best/config.json", "best/vocab.txt", "best/params/d/0"], "m/best"),
        (["best/config.json", "best/vocab.txt", "__MACOSX/._best", ".DS_Store"], "m/best"),
        (["bert.pth", "vocab.txt"], "m/bert.pth"),
        (["x/model.safetensors", "x/config.json"], "m/x/model.safetensors"),
        (["model-1-of-2.safetensors", "model-2-of-2.safetensors"], "m"),
        (["only/train.json"], "m/only/train.json"),
        (["1.txt", "1.ann", "2.txt", "2.ann"], "m"),
    ],
)
def test_a_zip_is_what_is_in_it(drive: Path, tmp_path: Path, names: list[str], meant: str) -> None:
    found = Path(obtain(zipped(tmp_path / "m.zip", *names), "MODEL"))
    (folder,) = (tmp_path / "temporary" / "flax_ner").iterdir()
    assert found == folder / meant
    assert {p.relative_to(folder / "m").as_posix() for p in folder.rglob("*") if p.is_file()} == {
        *names
    }


def test_the_same_input_has_the_same_path_again(colab: Colab, tmp_path: Path) -> None:
    """Or a run that was stopped would be refused, as one of another configuration."""
    path = zipped(tmp_path / "m.zip", "bert.pth", "vocab.txt")
    assert obtain(path, "WEIGHTS") == obtain(path, "WEIGHTS")
    colab.uploads = {"dev.json": b"{}", "train.json": b"[]"}
    first = obtain("", "DATA")
    assert obtain("", "DATA") == first
    colab.uploads = {"dev.json": b"{}", "train.json": b"{}"}
    assert obtain("", "DATA") != first


def test_a_damaged_or_missing_zip_is_told(drive: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.zip").write_bytes(b"PK\x03\x04 no")
    with pytest.raises(UserError, match=r"^DATA: .*bad\.zip cannot be unpacked"):
        obtain(str(tmp_path / "bad.zip"), "DATA")
    with pytest.raises(UserError, match=r"^DATA: no file '.*none\.zip'"):
        obtain(str(tmp_path / "none.zip"), "DATA")


def test_colab_asks_for_uploads(
    colab: Colab, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UserError, match=r"^MODEL: nothing was uploaded"):
        obtain("", "MODEL")
    colab.uploads = {"dev.json": b"{}"}
    assert Path(obtain("", "DATA")).read_bytes() == b"{}"
    assert "DATA: choose a file" in capsys.readouterr().out
    colab.uploads = {"bert.pth": b"weights", "vocab.txt": b"[PAD]"}
    found = Path(obtain("", "SOURCE"))
    assert found.name == "bert.pth" and found.with_name("vocab.txt").read_bytes() == b"[PAD]"
    colab.uploads = {"1.txt": b"a", "1.ann": b"b"}
    assert {path.name for path in Path(obtain("", "DATA")).iterdir()} == {"1.txt", "1.ann"}
    zipped(tmp_path / "m.zip", "best/config.json", "best/vocab.txt")
    colab.uploads = {"m.zip": (tmp_path / "m.zip").read_bytes()}
    assert Path(obtain("", "MODEL")).parts[-2:] == ("m", "best")


def test_drive_is_mounted_once_for_what_lies_there(colab: Colab, drive: Path) -> None:
    path = f"{drive}/MyDrive/cluener/best"
    assert obtain(path, "MODEL") == path and obtain(path, "MODEL") == path
    assert colab.mounts == [str(drive)]


def test_elsewhere_nothing_of_colab_is_there(drive: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^MODEL: is empty, and only Colab"):
        obtain("", "MODEL")
    with pytest.raises(UserError, match=r"^DATA: .* is on Google Drive, which only Colab has"):
        obtain(f"{drive}/MyDrive/dev.json", "DATA")
    (tmp_path / "model.zip").write_bytes(b"zip")
    with pytest.raises(UserError, match=r"^SAVE_TO: .* is on Google Drive"):
        hand_over(tmp_path / "model.zip", f"{drive}/MyDrive")
    assert hand_over(tmp_path / "model.zip", "") == f"model.zip is in {tmp_path / 'model.zip'}"


def test_results_go_to_a_folder_or_to_the_browser(
    colab: Colab, drive: Path, tmp_path: Path
) -> None:
    file = tmp_path / "model.zip"
    file.write_bytes(b"zip")
    for folder in (tmp_path / "a" / "b", drive / "MyDrive" / "models"):
        told = hand_over(file, str(folder))
        assert told == f"model.zip is in {folder / 'model.zip'}"
        assert (folder / "model.zip").read_bytes() == b"zip"
    assert hand_over(file, str(tmp_path)) == f"model.zip is in {file}"  # it is there already
    assert file.read_bytes() == b"zip"
    assert colab.mounts == [str(drive)] and not colab.downloads
    assert "browser's downloads" in hand_over(file, "")
    assert colab.downloads == [str(file)]
    with pytest.raises(UserError, match=r"^SAVE_TO: .*model\.zip cannot be written"):
        hand_over(file, str(file))
