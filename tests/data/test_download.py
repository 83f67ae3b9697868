"""Downloads over HTTP from a local server: resuming, changed files, errors."""

import json
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from flax_ner.data.download import fetch
from flax_ner.errors import UserError
from tests.data.file_server import FileServer
from tests.local_server import NOWHERE

CONTENT = random.Random(0).randbytes(300_000)
LIMIT = 1 << 20


@pytest.fixture
def server() -> Iterator[FileServer]:
    with FileServer(CONTENT) as server:
        yield server


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def interrupt_download(server: FileServer, target: Path, after: int = 100_000) -> None:
    server.cut = after
    with pytest.raises(UserError, match="interrupted after"):
        fetch(server.url, target, LIMIT)
    assert names(target.parent)[0] == "file.part"
    server.requests.clear()


def test_fetch_reports_progress(server: FileServer, tmp_path: Path) -> None:
    reported = list[tuple[int, int | None]]()
    fetch(server.url, tmp_path / "file", LIMIT, lambda *args: reported.append(args))
    assert (tmp_path / "file").read_bytes() == CONTENT and names(tmp_path) == ["file"]
    assert reported[0] == (0, len(CONTENT)) and reported[-1] == (len(CONTENT), len(CONTENT))
    assert reported == sorted(reported) and len(reported) > 3


def test_fetch_without_content_length(server: FileServer, tmp_path: Path) -> None:
    server.length = False
    fetch(server.url, tmp_path / "file", LIMIT)
    assert (tmp_path / "file").read_bytes() == CONTENT


def test_fetch_empty_file(server: FileServer, tmp_path: Path) -> None:
    server.content = b""
    fetch(server.url, tmp_path / "file", LIMIT)
    assert (tmp_path / "file").read_bytes() == b""


@pytest.mark.parametrize("length", [True, False], ids=["length", "chunks"])
@pytest.mark.parametrize("header", ["ETag", "Last-Modified"])
def test_resumes_an_interrupted_download(
    server: FileServer, tmp_path: Path, header: str, length: bool
) -> None:
    server.headers = {header: '"1"' if header == "ETag" else "Wed, 01 Jan 2020 00:00:00 GMT"}
    server.length = length
    target = tmp_path / "file"
    interrupt_download(server, target)
    received = (tmp_path / "file.part").stat().st_size
    assert received > 0
    reported = list[int]()
    fetch(server.url, target, LIMIT, lambda done, total: reported.append(done))
    assert target.read_bytes() == CONTENT and names(tmp_path) == ["file"]
    assert server.requests == [("/file.zip", f"bytes={received}-")] and reported[0] == received


def test_resumes_after_several_interruptions(server: FileServer, tmp_path: Path) -> None:
    target = tmp_path / "file"
    for _ in range(3):
        interrupt_download(server, target, 70_000)
    fetch(server.url, target, LIMIT)
    assert target.read_bytes() == CONTENT
    assert server.requests == [("/file.zip", "bytes=210000-")]


def test_starts_over_without_range_support(server: FileServer, tmp_path: Path) -> None:
    interrupt_download(server, tmp_path / "file")
    server.ranges = False
    fetch(server.url, tmp_path / "file", LIMIT)
    assert (tmp_path / "file").read_bytes() == CONTENT and names(tmp_path) == ["file"]


@pytest.mark.parametrize("if_range", [True, False])
def test_starts_over_if_the_file_changed(
    server: FileServer, tmp_path: Path, if_range: bool
) -> None:
    interrupt_download(server, tmp_path / "file")
    server.content, server.headers = CONTENT[::-1], {"ETag": '"2"'}
    server.if_range = if_range  # some servers ignore If-Range
    fetch(server.url, tmp_path / "file", LIMIT)
    assert (tmp_path / "file").read_bytes() == CONTENT[::-1]


@pytest.mark.parametrize("headers", [{}, {"ETag": 'W/"1"'}], ids=["nothing", "a weak ETag"])
def test_starts_over_without_strong_validator(
    server: FileServer, tmp_path: Path, headers: dict[str, str]
) -> None:
    server.headers = headers
    interrupt_download(server, tmp_path / "file")
    fetch(server.url, tmp_path / "file", LIMIT)
    assert (tmp_path / "file").read_bytes() == CONTENT
    assert server.requests == [("/file.zip", None)]


@pytest.mark.parametrize(
    "state",
    ["", "{", "[]", '{"url": 1}', '{"url": "URL"}', '{"url": "URL", "validator": "a\\r\\nb: c"}'],
)
def test_ignores_invalid_state_file(server: FileServer, tmp_path: Path, state: str) -> None:
    (tmp_path / "file.part").write_bytes(b"something else")
    (tmp_path / "file.part.json").write_text(state.replace("URL", server.url))
    fetch(server.url, tmp_path / "file", LIMIT)
    assert (tmp_path / "file").read_bytes() == CONTENT and names(tmp_path) == ["file"]


def test_starts_over_for_another_url(server: FileServer, tmp_path: Path) -> None:
    interrupt_download(server, tmp_path / "file")
    fetch(f"{server.url}?other", tmp_path / "file", LIMIT)
    assert server.requests == [("/file.zip?other", None)]


def test_starts_over_if_the_part_is_already_complete(server: FileServer, tmp_path: Path) -> None:
    (tmp_path / "file.part").write_bytes(CONTENT)
    (tmp_path / "file.part.json").write_text(json.dumps({"url": server.url, "validator": '"1"'}))
    fetch(server.url, tmp_path / "file", LIMIT)
    assert (tmp_path / "file").read_bytes() == CONTENT and names(tmp_path) == ["file"]


@pytest.mark.parametrize("status, fix", [(404, "Check the address"), (503, "Try again later")])
def test_http_status_error_suggests_a_fix(
    server: FileServer, tmp_path: Path, status: int, fix: str
) -> None:
    server.status = status
    with pytest.raises(UserError, match=rf"file\.zip: the server answers {status} .*{fix}"):
        fetch(server.url, tmp_path / "file", LIMIT)
    assert names(tmp_path) == []


def test_http_error_while_resuming_keeps_the_part(server: FileServer, tmp_path: Path) -> None:
    interrupt_download(server, tmp_path / "file")
    server.status = 503
    with pytest.raises(UserError, match="503"):
        fetch(server.url, tmp_path / "file", LIMIT)
    server.status = 200
    fetch(server.url, tmp_path / "file", LIMIT)
    assert server.requests[-1] == ("/file.zip", "bytes=100000-")


@pytest.mark.parametrize("url", [NOWHERE, "http://127.0.0.1:99999/", "http://[/", "http://a b/ü"])
def test_unreachable_server_raises(tmp_path: Path, url: str) -> None:
    with pytest.raises(UserError, match=r"cannot be reached|is not a web address"):
        fetch(url, tmp_path / "file", LIMIT)
    assert names(tmp_path) == []


@pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://host/a", "host/a", ""])
def test_only_http_urls_are_accepted(tmp_path: Path, url: str) -> None:
    with pytest.raises(UserError, match="is not a web address"):
        fetch(url, tmp_path / "file", LIMIT)


@pytest.mark.parametrize("length", [True, False], ids=["length", "chunks"])
def test_too_large_file_is_rejected(server: FileServer, tmp_path: Path, length: bool) -> None:
    server.length = length
    with pytest.raises(UserError, match="more than the expected maximum of 200,000"):
        fetch(server.url, tmp_path / "file", 200_000)
    assert "file" not in names(tmp_path) and "file.part" not in names(tmp_path)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_full_disk_raises(server: FileServer, tmp_path: Path) -> None:
    (tmp_path / "file.part").symlink_to("/dev/full")
    with pytest.raises(UserError, match=r"file\.part: cannot be written \(No space.*Free space"):
        fetch(server.url, tmp_path / "file", LIMIT)


def test_missing_folder_raises(server: FileServer, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cannot be written \(No such file"):
        fetch(server.url, tmp_path / "none" / "file", LIMIT)


def test_proxies_are_taken_from_the_environment(
    server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", server.url.removesuffix("/file.zip"))
    fetch("http://somewhere.invalid/a.zip", tmp_path / "file", LIMIT)
    assert server.requests == [("http://somewhere.invalid/a.zip", None)]
