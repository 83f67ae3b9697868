"""A file over HTTP: under another name until it is whole, and going on where a transfer broke off."""

import errno
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.request import Request, build_opener

from flax_ner.errors import UserError

TIMEOUT = 30.0  # seconds without an answer
BLOCK = 1 << 16
AGAIN = "The same command goes on from there, where the server lets it."

Progress = Callable[[int, int | None], None]  # bytes that are there, bytes in all if they are known


def fetch(
    url: str, target: Path, limit: int, progress: Progress = lambda done, total: None
) -> None:
    """Fetch a file; proxies are those of `http_proxy`, `https_proxy` and `no_proxy`.

    What came so far is in `TARGET.part`. `TARGET.part.json` has by what the server tells this state
    of the file from others, its ETag or Last-Modified: the next call goes on where this one broke
    off if that is unchanged and the server gives parts, else it begins anew.

    Args:
        url: http or https.
        target: the file's name once it is whole.
        limit: bytes it may have.
        progress: called at the beginning and after every block.

    Raises:
        UserError: the server cannot be reached or gives no such file, the transfer breaks off, or
            the file is too large or cannot be written.
    """
    if not url.lower().startswith(("http://", "https://")):
        raise UserError(f"url: {url!r} is no web address. Give one that begins with https://.")
    part, notes = Path(f"{target}.part"), Path(f"{target}.part.json")
    begin, response = _resumed(url, part, notes)
    with response:
        _receive(response, url, part, notes, begin, limit, progress)
    with disk_told(target):
        os.replace(part, target)
        notes.unlink(missing_ok=True)


@contextmanager
def disk_told(path: Path) -> Iterator[None]:
    """Turn what prevents writing `path` into a `UserError`."""
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        fix = "Make room on that disk" if full else "See that it can be written"
        why = error.strerror or type(error).__name__
        raise UserError(f"{path}: cannot be written ({why}). {fix}, then try again.") from error


def _resumed(url: str, part: Path, notes: Path) -> tuple[int, HTTPResponse]:
    """The answer to write to the part, and the byte it begins at."""
    validator = _noted(url, notes)
    begin = part.stat().st_size if validator and part.is_file() else 0
    if begin:
        try:
            response = _open(url, {"Range": f"bytes={begin}-", "If-Range": validator})
        except HTTPError as error:
            error.close()
            if error.code != 416:  # nothing is behind the part
                raise _refused(url, error) from None
        else:
            if response.status == 200:  # another state of the file, or no parts: all of it
                return 0, response
            range_told = response.headers.get("Content-Range", "")
            if range_told.startswith(f"bytes {begin}-") and _validator(response) == validator:
                return begin, response
            response.close()
    try:
        return 0, _open(url, {})
    except HTTPError as error:
        error.close()
        raise _refused(url, error) from None


def _open(url: str, headers: dict[str, str]) -> HTTPResponse:
    # Content as it is, or sizes would be those of something else.
    headers = {"User-Agent": "flax_ner", "Accept-Encoding": "identity", **headers}
    try:
        # An opener of its own: the shared one keeps the proxies of its first use.
        request = Request(url, headers=headers)
        response: HTTPResponse = build_opener().open(request, timeout=TIMEOUT)
    except HTTPError:
        raise
    except (OSError, HTTPException, ValueError) as error:
        why = error.reason if isinstance(error, URLError) else error
        raise UserError(
            f"{url}: cannot be reached ({str(why) or type(error).__name__}). Check the address, the "
            "connection, and https_proxy if one is needed."
        ) from error
    return response


def _refused(url: str, error: HTTPError) -> UserError:
    fix = "Check the address" if error.code in (404, 410) else "Try again later"
    return UserError(f"{url}: the server answers {error.code} {error.reason}. {fix}.")


def _receive(
    response: HTTPResponse,
    url: str,
    part: Path,
    notes: Path,
    begin: int,
    limit: int,
    progress: Progress,
) -> None:
    told = response.headers.get("Content-Length", "")
    total = begin + int(told) if told.isdecimal() else None
    size = begin
    if (total or 0) > limit:
        raise UserError(f"{url}: {total:,} bytes, more than the {limit:,} that are expected.")
    progress(size, total)
    with disk_told(part):
        if not begin:
            notes.unlink(missing_ok=True)  # it is of what the part held before
        with open(part, "ab" if begin else "wb") as file:
            if validator := _validator(response):
                notes.write_text(json.dumps({"url": url, "validator": validator}), "utf-8")
            for block in _blocks(response, url, size):
                size += len(block)
                if size > limit:
                    part.unlink()
                    raise UserError(f"{url}: more than the {limit:,} bytes that are expected.")
                file.write(block)
                progress(size, total)
    if total is not None and size != total:
        raise UserError(f"{url}: broke off after {size:,} of {total:,} bytes. {AGAIN}")


def _blocks(response: HTTPResponse, url: str, size: int) -> Iterator[bytes]:
    while True:
        try:
            block = response.read(BLOCK)
        except (OSError, HTTPException) as error:
            why = str(error) or type(error).__name__
            raise UserError(f"{url}: broke off after {size:,} bytes ({why}). {AGAIN}") from error
        if not block:
            return
        size += len(block)
        yield block


def _validator(response: HTTPResponse) -> str:
    """What If-Range takes: an ETag unless it is a weak one, which is no word on every byte."""
    tag = response.headers.get("ETag", "")
    if tag and not tag.startswith("W/"):
        return tag
    return response.headers.get("Last-Modified", "")


def _noted(url: str, notes: Path) -> str:
    """The validator of the part that is there; "" where there is none or it is of another address."""
    try:
        row = json.loads(notes.read_text("utf-8"))
    except (OSError, ValueError):
        return ""
    if not isinstance(row, dict) or row.get("url") != url:
        return ""
    validator = row.get("validator")
    return validator if isinstance(validator, str) and validator.isprintable() else ""
