"""Download and unpacking of CLUENER2020: verification, invalid and hostile archives, interruptions."""

import io
import json
import random
import struct
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from flax_ner.data import cluener_archive as module
from flax_ner.data.cluener import read_cluener
from flax_ner.data.cluener_archive import CLUENER_SPLITS, SplitCounts, download_cluener
from flax_ner.errors import UserError
from tests.data.file_server import FileServer
from tests.local_server import NOWHERE

LABELLED = '{"text": "王在上海到上海", "label": {"address": {"上海": [[2, 3], [5, 6]]}}}\n'
SMALL = {
    "train.json": SplitCounts(2, 2, 4),
    "dev.json": SplitCounts(1, 1, 2),
    "test.json": SplitCounts(1, 0, 0),
}
MEMBERS = {
    "train.json": LABELLED * 2,
    "dev.json": LABELLED,
    "test.json": '{"id": 0, "text": "王"}\n',
    "README.md": "CLUENER",
    "__MACOSX/._train.json": "left out",
}


def archive(members: dict[str, str] | None = None, **changed: str) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as zipped:
        for name, content in ({**MEMBERS, **changed} if members is None else members).items():
            zipped.writestr(name, content)
    return out.getvalue()


@pytest.fixture
def server() -> Iterator[FileServer]:
    with FileServer(archive()) as server:
        yield server


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*"))


def assert_rejected(server: FileServer, content: bytes, folder: Path, message: str) -> None:
    """Check that an archive is rejected and leaves no files."""
    server.content = content
    with pytest.raises(UserError, match=message):
        download_cluener(folder, server.url, splits=SMALL)
    assert names(folder.parent) == [folder.name]


def test_unpacks_expected_members(server: FileServer, tmp_path: Path) -> None:
    folder = tmp_path / "data" / "cluener"
    assert download_cluener(folder, server.url, splits=SMALL)
    assert names(folder) == ["README.md", "dev.json", "test.json", "train.json"]
    assert (folder / "dev.json").read_text("utf-8") == LABELLED


def test_existing_files_are_not_downloaded_again(server: FileServer, tmp_path: Path) -> None:
    download_cluener(tmp_path, server.url, splits=SMALL)
    assert not download_cluener(tmp_path, NOWHERE, splits=SMALL)
    (tmp_path / "dev.json").unlink()
    before = (tmp_path / "train.json").stat().st_ino
    assert download_cluener(tmp_path, server.url, splits=SMALL)
    assert (tmp_path / "train.json").stat().st_ino == before  # not replaced
    assert len(server.requests) == 2


def test_existing_file_with_other_content_is_kept(server: FileServer, tmp_path: Path) -> None:
    (tmp_path / "dev.json").write_text(LABELLED * 5, "utf-8")
    with pytest.raises(
        UserError, match=r"dev\.json: already exists, but .*: 5 texts.*Move it away"
    ):
        download_cluener(tmp_path, server.url, splits=SMALL)
    assert (tmp_path / "dev.json").read_text("utf-8") == LABELLED * 5 and not server.requests


def test_resumes_an_interrupted_download(server: FileServer, tmp_path: Path) -> None:
    server.cut = 200
    with pytest.raises(UserError, match="interrupted after 200 of"):
        download_cluener(tmp_path, server.url, splits=SMALL)
    assert names(tmp_path) == ["cluener_public.zip.part", "cluener_public.zip.part.json"]
    assert download_cluener(tmp_path, server.url, splits=SMALL)
    assert server.requests[-1][1] == "bytes=200-" and "dev.json" in names(tmp_path)


def test_existing_archive_is_used_and_kept(tmp_path: Path) -> None:
    own = tmp_path / "cluener_public.zip"
    with pytest.raises(
        UserError, match=f"You can also get the archive elsewhere and put it at {own}"
    ):
        download_cluener(tmp_path, NOWHERE, splits=SMALL)
    own.write_bytes(archive())
    assert download_cluener(tmp_path, NOWHERE, splits=SMALL)
    assert own.exists() and (tmp_path / "train.json").exists()
    (tmp_path / "train.json").unlink()
    own.write_bytes(b"damaged")
    with pytest.raises(UserError, match=r"cluener_public\.zip: is not a zip archive"):
        download_cluener(tmp_path, NOWHERE, splits=SMALL)
    assert own.exists()


def test_rejects_content_that_is_not_an_archive(server: FileServer, tmp_path: Path) -> None:
    whole, folder = archive(), tmp_path / "cluener"
    assert_rejected(server, b"<html>Log in</html>", folder, "is not a zip archive")
    assert_rejected(server, whole[: len(whole) // 2], folder, "is not a zip archive")
    assert_rejected(server, b"", folder, "is not a zip archive")


def test_rejects_other_counts(server: FileServer, tmp_path: Path) -> None:
    folder = tmp_path / "cluener"
    more = archive(**{"train.json": LABELLED * 3})
    assert_rejected(server, more, folder, r"train\.json is not from CLUENER2020: 3 texts.*2 texts")
    broken = archive(**{"dev.json": LABELLED.replace("[[2,", "[[1,")})
    assert_rejected(
        server, broken, folder, r"its dev\.json is not from CLUENER2020: .*Correct the offsets"
    )
    empty = archive(**{"test.json": ""})
    assert_rejected(server, empty, folder, r"test\.json is not .*contains no examples")


def test_rejects_archive_without_a_required_file(server: FileServer, tmp_path: Path) -> None:
    some = archive({"train.json": LABELLED, "README.md": ""})
    assert_rejected(server, some, tmp_path / "cluener", r"does not contain dev\.json, test\.json")


@pytest.mark.parametrize("name", ["../evil.json", "/tmp/evil.json", "a/../../evil", "..\\evil"])
def test_rejects_unsafe_paths(server: FileServer, tmp_path: Path, name: str) -> None:
    hostile = archive({**MEMBERS, name: "x"})
    assert_rejected(server, hostile, tmp_path / "cluener", "has an unsafe path")


def test_rejects_zip_bomb(
    server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bomb = archive(**{"train.json": LABELLED + " " * 20_000_000})
    assert len(bomb) < 100_000
    monkeypatch.setattr(module, "MAX_BYTES", 1_000_000)
    assert_rejected(
        server, bomb, tmp_path / "cluener", r"train\.json has more than 1,000,000 bytes"
    )


def test_rejects_encrypted_member_and_unknown_compression(
    server: FileServer, tmp_path: Path
) -> None:
    whole = archive()
    entry = whole.index(b"PK\x01\x02")
    for offset, value in ((8, 1), (10, 99)):  # flags: encrypted; method: unknown
        changed = bytearray(whole)
        struct.pack_into("<H", changed, entry + offset, value)
        assert_rejected(
            server, bytes(changed), tmp_path / "cluener", "is not a zip archive, or is damaged"
        )


def test_damaged_archives_never_give_wrong_files(tmp_path: Path) -> None:
    whole, rng = archive(), random.Random(0)
    own = tmp_path / "cluener_public.zip"
    for _ in range(300):
        changed = bytearray(whole)
        for _ in range(rng.randint(1, 4)):
            changed[rng.randrange(len(whole))] = rng.randrange(256)
        own.write_bytes(changed)
        try:
            download_cluener(tmp_path, NOWHERE, splits=SMALL)
        except UserError:
            assert names(tmp_path) == [own.name]
        for name in SMALL:
            path = tmp_path / name
            if path.exists():
                assert path.read_text("utf-8") == MEMBERS[name]
                path.unlink()
        (tmp_path / "README.md").unlink(missing_ok=True)


def test_full_disk_leaves_no_files(
    server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: Path, content: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    assert_rejected(server, archive(), tmp_path / "cluener", "No space left.*Free space")


def test_folder_that_is_a_file_raises(server: FileServer, tmp_path: Path) -> None:
    (tmp_path / "cluener").write_text("")
    with pytest.raises(UserError, match="cluener: cannot be written"):
        download_cluener(tmp_path / "cluener", server.url, splits=SMALL)


def test_cluener_has_the_expected_counts(cluener: Path, server: FileServer, tmp_path: Path) -> None:
    unlabelled = "".join(
        json.dumps({"id": i, "text": example.text}, ensure_ascii=False) + "\n"
        for i, example in enumerate(read_cluener(cluener / "train.json")[:1345])
    )
    splits = {n: (cluener / n).read_text("utf-8") for n in ("train.json", "dev.json")}
    server.content = archive({**splits, "test.json": unlabelled})
    assert download_cluener(tmp_path, server.url)
    assert names(tmp_path) == sorted(CLUENER_SPLITS)
