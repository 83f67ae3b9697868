"""A file over HTTP, from a server on this machine."""

import json
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from flax_ner.errors import UserError
from flax_ner.text.download import fetch
from tests.local_server import NOWHERE
from tests.text.file_server import FileServer

CONTENT = random.Random(0).randbytes(300_000)
LIMIT = 1 << 20


@pytest.fixture
def server() -> Iterator[FileServer]:
    with FileServer(CONTENT) as server:
        yield server


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def break_off(server: FileServer, target: Path, after: int = 100_000) -> None:
    server.cut = after
    with pytest.raises(UserError, match="broke off after"):
        fetch(server.url, target, LIMIT)
    assert names(target.parent)[0] == "file.part"
    server.requests.clear()


def test_a_file_is_fetched_with_its_progress(server: FileServer, tmp_path: Path) -> None:
    told = list[tuple[int, int | None]]()
    fetch(server.url, tmp_path / "file", LIMIT, lambda *figures: told.append(figures))
    assert (tmp_path / "file").read_bytes() == CONTENT and names(tmp_path) == ["file"]
    assert told[0] == (0, len(CONTENT)) and told[-1] == (len(CONTENT), len(CONTENT))
    assert told == sorted(told) and len(told) > 3


def test_a_length_that_is_not_told_is_no_hindrance(server: FileServer, tmp_path: Path) -> None:
    server.length = False
    fetch(server.url, tmp_path / "file", LIMIT)
    assert (tmp_path / "file").read_bytes() == CONTENT


def test_an_empty_file_is_a_file(server: FileServer, tmp_path: Path) -> None:
    server.content = b""
    fetch(server.url, tmp_path / "file", LIMIT)
    assert (tmp_path / "file").read_bytes() == b""


@pytest.mark.parametrize("length", [True, False], ids=["length", "chunks"])
@pytest.mark.parametrize("header", ["ETag", "Last-Modified"])
def test_a_broken_transfer_goes_on_where_it_stopped(
    server: FileServer, tmp_path: Path, header: str, length: bool
) -> None:
    server.headers = {header: '"1"' if header == "ETag" else "Wed, 01 Jan 2020 00:00:00 GMT"}
    server.length = length
    target = tmp_path / "file"
    break_off(server, target)
    there = (tmp_path / "file.part").stat().st_size
    assert there > 0
    told = list[int]()
    fetch(server.url, target, LIMIT, lambda done, total: told.append(done))
    assert target.read_bytes() == CONTENT and names(tmp_path) == ["file"]
    assert server.requests == [("/file.zip", f"bytes={there}-")] and told[0] == there


def test_it_may_break_off_again_and_again(server: FileServer, tmp_path: Path) -> None:
    target = tmp_path / "file"
    for _ in range(3):
        break_off(server, target, 70_000)
    fetch(server.url, target, LIMIT)
    assert target.read_bytes() == CONTENT
    assert server.requests == [("/file.zip", "bytes=210000-")]


def test_without_ranges_it_begins_anew(server: FileServer, tmp_path: Path) -> None:
    break_off(server, tmp_path / "file")
    server.ranges = False
    fetch(server.url, tmp_path / "file", LIMIT)
    assert (tmp_path / "file").read_bytes() == CONTENT and names(tmp_path) == ["file"]


@pytest.mark.parametrize("if_range", [True, False])
def test_of_a_file_that_has_changed_nothing_is_kept(
    server: FileServer, tmp_path: Path, if_range: bool
) -> None:
    break_off(server, tmp_path / "file")
    server.content, server.headers = CONTENT[::-1], {"ETag": '"2"'}
    server.if_range = if_range  # some servers do not know it
    fetch(server.url, tmp_path / "file", LIMIT)
    assert (tmp_path / "file").read_bytes() == CONTENT[::-1]


@pytest.mark.parametrize("headers", [{}, {"ETag": 'W/"1"'}], ids=["nothing", "a weak ETag"])
def test_what_tells_no_state_from_another_is_not_gone_on_from(
    server: FileServer, tmp_path: Path, headers: dict[str, str]
) -> None:
    server.headers = headers
    break_off(server, tmp_path / "file")
    fetch(server.url, tmp_path / "file", LIMIT)
    assert (tmp_path / "file").read_bytes() == CONTENT
    assert server.requests == [("/file.zip", None)]


@pytest.mark.parametrize(
    "notes",
    ["", "{", "[]", '{"url": 1}', '{"url": "URL"}', '{"url": "URL", "validator": "a\\r\\nb: c"}'],
)
def test_notes_that_say_nothing_are_left(server: FileServer, tmp_path: Path, notes: str) -> None:
    (tmp_path / "file.part").write_bytes(b"something else")
    (tmp_path / "file.part.json").write_text(notes.replace("URL", server.url))
    fetch(server.url, tmp_path / "file", LIMIT)
    assert (tmp_path / "file").read_bytes() == CONTENT and names(tmp_path) == ["file"]


def test_a_part_of_another_address_is_not_gone_on_from(server: FileServer, tmp_path: Path) -> None:
    break_off(server, tmp_path / "file")
    fetch(f"{server.url}?other", tmp_path / "file", LIMIT)
    assert server.requests == [("/file.zip?other", None)]


def test_a_part_that_is_whole_or_longer_begins_anew(server: FileServer, tmp_path: Path) -> None:
    (tmp_path / "file.part").write_bytes(CONTENT)
    (tmp_path / "file.part.json").write_text(json.dumps({"url": server.url, "validator": '"1"'}))
    fetch(server.url, tmp_path / "file", LIMIT)
    assert (tmp_path / "file").read_bytes() == CONTENT and names(tmp_path) == ["file"]


@pytest.mark.parametrize("status, fix", [(404, "Check the address"), (503, "Try again later")])
def test_a_refusal_says_why(server: FileServer, tmp_path: Path, status: int, fix: str) -> None:
    server.status = status
    with pytest.raises(UserError, match=rf"file\.zip: the server answers {status} .*{fix}"):
        fetch(server.url, tmp_path / "file", LIMIT)
    assert names(tmp_path) == []


def test_a_refusal_on_going_on_keeps_the_part(server: FileServer, tmp_path: Path) -> None:
    break_off(server, tmp_path / "file")
    server.status = 503
    with pytest.raises(UserError, match="503"):
        fetch(server.url, tmp_path / "file", LIMIT)
    server.status = 200
    fetch(server.url, tmp_path / "file", LIMIT)
    assert server.requests[-1] == ("/file.zip", "bytes=100000-")


@pytest.mark.parametrize("url", [NOWHERE, "http://127.0.0.1:99999/", "http://[/", "http://a b/ü"])
def test_a_server_out_of_reach_is_named(tmp_path: Path, url: str) -> None:
    with pytest.raises(UserError, match=r"cannot be reached|is no web address"):
        fetch(url, tmp_path / "file", LIMIT)
    assert names(tmp_path) == []


@pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://host/a", "host/a", ""])
def test_only_web_addresses_are_asked(tmp_path: Path, url: str) -> None:
    with pytest.raises(UserError, match="is no web address"):
        fetch(url, tmp_path / "file", LIMIT)


@pytest.mark.parametrize("length", [True, False], ids=["length", "chunks"])
def test_too_large_a_file_is_not_kept(server: FileServer, tmp_path: Path, length: bool) -> None:
    server.length = length
    with pytest.raises(UserError, match="more than the 200,000"):
        fetch(server.url, tmp_path / "file", 200_000)
    assert "file" not in names(tmp_path) and "file.part" not in names(tmp_path)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
def test_a_full_disk_is_told(server: FileServer, tmp_path: Path) -> None:
    (tmp_path / "file.part").symlink_to("/dev/full")
    with pytest.raises(UserError, match=r"file\.part: cannot be written \(No space.*Make room"):
        fetch(server.url, tmp_path / "file", LIMIT)


def test_a_folder_that_is_missing_is_told(server: FileServer, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cannot be written \(No such file"):
        fetch(server.url, tmp_path / "none" / "file", LIMIT)


def test_proxies_are_those_of_the_environment(
    server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", server.url.removesuffix("/file.zip"))
    fetch("http://somewhere.invalid/a.zip", tmp_path / "file", LIMIT)
    assert server.requests == [("http://somewhere.invalid/a.zip", None)]
