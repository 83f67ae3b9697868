"""CLUENER2020 from an archive: unpacked with care, counted, and there whole or not at all."""

import io
import json
import random
import struct
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from flax_ner.errors import UserError
from flax_ner.text import cluener_archive as module
from flax_ner.text.cluener import read_cluener
from flax_ner.text.cluener_archive import SPLITS, Counts, download_cluener
from tests.local_server import NOWHERE
from tests.text.file_server import FileServer

LABELLED = '{"text": "王在上海到上海", "label": {"address": {"上海": [[2, 3], [5, 6]]}}}\n'
SMALL = {
    "train.json": Counts(2, 2, 4),
    "dev.json": Counts(1, 1, 2),
    "test.json": Counts(1, 0, 0),
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


def refused(server: FileServer, content: bytes, folder: Path, why: str) -> None:
    """Nothing is left of an archive that is no good."""
    server.content = content
    with pytest.raises(UserError, match=why):
        download_cluener(folder, server.url, splits=SMALL)
    assert names(folder.parent) == [folder.name]


def test_the_members_that_are_expected_are_unpacked(server: FileServer, tmp_path: Path) -> None:
    folder = tmp_path / "data" / "cluener"
    assert download_cluener(folder, server.url, splits=SMALL)
    assert names(folder) == ["README.md", "dev.json", "test.json", "train.json"]
    assert (folder / "dev.json").read_text("utf-8") == LABELLED


def test_what_is_there_is_not_fetched_again(server: FileServer, tmp_path: Path) -> None:
    download_cluener(tmp_path, server.url, splits=SMALL)
    assert not download_cluener(tmp_path, NOWHERE, splits=SMALL)
    (tmp_path / "dev.json").unlink()
    before = (tmp_path / "train.json").stat().st_ino
    assert download_cluener(tmp_path, server.url, splits=SMALL)
    assert (tmp_path / "train.json").stat().st_ino == before  # and not replaced
    assert len(server.requests) == 2


def test_somebody_elses_file_is_left_alone(server: FileServer, tmp_path: Path) -> None:
    (tmp_path / "dev.json").write_text(LABELLED * 5, "utf-8")
    with pytest.raises(UserError, match=r"dev\.json: is there, and .*: 5 texts.*Move it away"):
        download_cluener(tmp_path, server.url, splits=SMALL)
    assert (tmp_path / "dev.json").read_text("utf-8") == LABELLED * 5 and not server.requests


def test_a_transfer_that_broke_off_goes_on(server: FileServer, tmp_path: Path) -> None:
    server.cut = 200
    with pytest.raises(UserError, match="broke off after 200 of"):
        download_cluener(tmp_path, server.url, splits=SMALL)
    assert names(tmp_path) == ["cluener_public.zip.part", "cluener_public.zip.part.json"]
    assert download_cluener(tmp_path, server.url, splits=SMALL)
    assert server.requests[-1][1] == "bytes=200-" and "dev.json" in names(tmp_path)


def test_an_archive_from_elsewhere_is_taken_and_left(tmp_path: Path) -> None:
    own = tmp_path / "cluener_public.zip"
    with pytest.raises(UserError, match=f"An archive from elsewhere will do: put it at {own}"):
        download_cluener(tmp_path, NOWHERE, splits=SMALL)
    own.write_bytes(archive())
    assert download_cluener(tmp_path, NOWHERE, splits=SMALL)
    assert own.exists() and (tmp_path / "train.json").exists()
    (tmp_path / "train.json").unlink()
    own.write_bytes(b"damaged")
    with pytest.raises(UserError, match=r"cluener_public\.zip: is no zip archive"):
        download_cluener(tmp_path, NOWHERE, splits=SMALL)
    assert own.exists()


def test_what_is_no_archive_is_refused(server: FileServer, tmp_path: Path) -> None:
    whole, folder = archive(), tmp_path / "cluener"
    refused(server, b"<html>Log in</html>", folder, "is no zip archive")
    refused(server, whole[: len(whole) // 2], folder, "is no zip archive")
    refused(server, b"", folder, "is no zip archive")


def test_other_counts_are_refused(server: FileServer, tmp_path: Path) -> None:
    folder = tmp_path / "cluener"
    more = archive(**{"train.json": LABELLED * 3})
    refused(server, more, folder, r"train\.json is not CLUENER2020's: 3 texts.*2 texts")
    broken = archive(**{"dev.json": LABELLED.replace("[[2,", "[[1,")})
    refused(server, broken, folder, r"its dev\.json is not CLUENER2020's: .*Correct the span")
    empty = archive(**{"test.json": ""})
    refused(server, empty, folder, r"test\.json is not .*holds no examples")


def test_an_archive_that_lacks_a_file_is_refused(server: FileServer, tmp_path: Path) -> None:
    some = archive({"train.json": LABELLED, "README.md": ""})
    refused(server, some, tmp_path / "cluener", r"lacks dev\.json, test\.json")


@pytest.mark.parametrize("name", ["../evil.json", "/tmp/evil.json", "a/../../evil", "..\\evil"])
def test_names_that_lead_out_are_refused(server: FileServer, tmp_path: Path, name: str) -> None:
    hostile = archive({**MEMBERS, name: "x"})
    refused(server, hostile, tmp_path / "cluener", "which leads out of it")


def test_a_member_that_swells_is_refused(
    server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bomb = archive(**{"train.json": LABELLED + " " * 20_000_000})
    assert len(bomb) < 100_000
    monkeypatch.setattr(module, "LIMIT", 1_000_000)
    refused(server, bomb, tmp_path / "cluener", r"train\.json has more than 1,000,000 bytes")


def test_an_encrypted_or_oddly_packed_member_is_refused(server: FileServer, tmp_path: Path) -> None:
    whole = archive()
    entry = whole.index(b"PK\x01\x02")
    for offset, value in ((8, 1), (10, 99)):  # flags: encrypted; method: unknown
        changed = bytearray(whole)
        struct.pack_into("<H", changed, entry + offset, value)
        refused(server, bytes(changed), tmp_path / "cluener", "is no zip archive, or a damaged")


def test_no_damage_goes_unnoticed(tmp_path: Path) -> None:
    whole, chance = archive(), random.Random(0)
    own = tmp_path / "cluener_public.zip"
    for _ in range(300):
        changed = bytearray(whole)
        for _ in range(chance.randint(1, 4)):
            changed[chance.randrange(len(whole))] = chance.randrange(256)
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


def test_a_full_disk_leaves_nothing(
    server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: Path, content: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    refused(server, archive(), tmp_path / "cluener", "No space left.*Make room")


def test_a_folder_that_is_a_file_is_told(server: FileServer, tmp_path: Path) -> None:
    (tmp_path / "cluener").write_text("")
    with pytest.raises(UserError, match="cluener: cannot be written"):
        download_cluener(tmp_path / "cluener", server.url, splits=SMALL)


def test_cluener_has_the_counts_that_are_checked(
    cluener: Path, server: FileServer, tmp_path: Path
) -> None:
    unlabelled = "".join(
        json.dumps({"id": i, "text": example.text}, ensure_ascii=False) + "\n"
        for i, example in enumerate(read_cluener(cluener / "train.json")[:1345])
    )
    splits = {n: (cluener / n).read_text("utf-8") for n in ("train.json", "dev.json")}
    server.content = archive({**splits, "test.json": unlabelled})
    assert download_cluener(tmp_path, server.url)
    assert names(tmp_path) == sorted(SPLITS)
