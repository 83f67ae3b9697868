"""Download a file over HTTP: resume interrupted downloads, rename the file once it is complete.

Not with pooch, which starts an interrupted download over.
"""

import errno
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.request import Request, build_opener

from flax_ner.durable import replace_file
from flax_ner.errors import UserError

TIMEOUT = 30.0  # seconds without an answer
BLOCK_SIZE = 1 << 16  # bytes
RESUME_HINT = "Run the same command to resume, if the server supports it."

# Called with the number of bytes received and the total, None if unknown.
Progress = Callable[[int, int | None], None]


def fetch(
    url: str, target: Path, limit: int, progress: Progress = lambda done, total: None
) -> None:
    """Download a file; honours `http_proxy`, `https_proxy` and `no_proxy`.

    `TARGET.part` holds the bytes received so far, and `TARGET.part.json` the version of the file (its
    ETag or Last-Modified). The next call resumes an interrupted download if the version is unchanged
    and the server supports ranges; otherwise it starts over.

    Args:
        url: http or https URL.
        target: path of the complete file.
        limit: maximum size in bytes.
        progress: called at the start and after every block.

    Raises:
        UserError: the server is unreachable or has no such file, the download is interrupted, or the
            file is too large or cannot be written.
    """
    if not url.lower().startswith(("http://", "https://")):
        raise UserError(f"url: {url!r} is not a web address. Give one that starts with https://.")
    part, state_file = Path(f"{target}.part"), Path(f"{target}.part.json")
    offset, response = _request(url, part, state_file)
    with response:
        _receive(response, url, part, state_file, offset, limit, progress)
    with report_write_errors(target):
        replace_file(part, target)
        state_file.unlink(missing_ok=True)


@contextmanager
def report_write_errors(path: Path) -> Iterator[None]:
    """Turn an `OSError` in the block into a `UserError` that says why `path` cannot be written."""
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        fix = "Free space on that disk" if full else "Check the path and its permissions"
        reason = error.strerror or type(error).__name__
        raise UserError(f"{path}: cannot be written ({reason}). {fix}, then try again.") from error


def _request(url: str, part: Path, state_file: Path) -> tuple[int, HTTPResponse]:
    """Request the file, or the rest of it, and return the offset of the response and the response."""
    validator = _saved_validator(url, state_file)
    offset = part.stat().st_size if validator and part.is_file() else 0
    if offset:
        try:
            response = _open(url, {"Range": f"bytes={offset}-", "If-Range": validator})
        except HTTPError as error:
            error.close()
            if error.code != 416:  # 416: there are no bytes after the offset
                raise _status_error(url, error) from None
        else:
            if response.status == 200:  # the file changed, or no support for ranges: the whole file
                return 0, response
            content_range = response.headers.get("Content-Range", "")
            same_version = _validator(response) == validator
            if content_range.startswith(f"bytes {offset}-") and same_version:
                return offset, response
            response.close()
    try:
        return 0, _open(url, {})
    except HTTPError as error:
        error.close()
        raise _status_error(url, error) from None


def _open(url: str, headers: dict[str, str]) -> HTTPResponse:
    # With a compressed response, sizes and offsets would not be those of the file.
    headers = {"User-Agent": "flax_ner", "Accept-Encoding": "identity", **headers}
    try:
        # A new opener, because the shared one keeps the proxy settings of its first use.
        request = Request(url, headers=headers)
        response: HTTPResponse = build_opener().open(request, timeout=TIMEOUT)
    except HTTPError:
        raise
    except (OSError, HTTPException, ValueError) as error:
        reason = error.reason if isinstance(error, URLError) else error
        raise UserError(
            f"{url}: cannot be reached ({str(reason) or type(error).__name__}). Check the address, the "
            "connection, and https_proxy if you need a proxy."
        ) from error
    return response


def _status_error(url: str, error: HTTPError) -> UserError:
    fix = "Check the address" if error.code in (404, 410) else "Try again later"
    return UserError(f"{url}: the server answers {error.code} {error.reason}. {fix}.")


def _receive(
    response: HTTPResponse,
    url: str,
    part: Path,
    state_file: Path,
    offset: int,
    limit: int,
    progress: Progress,
) -> None:
    """Append the body of the response to `part`, which has `offset` bytes."""
    content_length = response.headers.get("Content-Length", "")
    total = offset + int(content_length) if content_length.isdecimal() else None
    size = offset
    if (total or 0) > limit:
        raise UserError(f"{url}: has {total:,} bytes, more than the expected maximum of {limit:,}.")
    progress(size, total)
    with report_write_errors(part):
        if not offset:
            state_file.unlink(missing_ok=True)  # describes the previous content of `part`
        with open(part, "ab" if offset else "wb") as file:
            if validator := _validator(response):
                state_file.write_text(json.dumps({"url": url, "validator": validator}), "utf-8")
            for block in _blocks(response, url, size):
                size += len(block)
                if size > limit:
                    part.unlink()
                    raise UserError(
                        f"{url}: has more than the expected maximum of {limit:,} bytes."
                    )
                file.write(block)
                progress(size, total)
    if total is not None and size != total:
        raise UserError(f"{url}: interrupted after {size:,} of {total:,} bytes. {RESUME_HINT}")


def _blocks(response: HTTPResponse, url: str, size: int) -> Iterator[bytes]:
    while True:
        try:
            block = response.read(BLOCK_SIZE)
        except (OSError, HTTPException) as error:
            reason = str(error) or type(error).__name__
            raise UserError(
                f"{url}: interrupted after {size:,} bytes ({reason}). {RESUME_HINT}"
            ) from error
        if not block:
            return
        size += len(block)
        yield block


def _validator(response: HTTPResponse) -> str:
    """Return a validator for If-Range: a strong ETag or Last-Modified; "" if there is neither.

    Weak ETags do not guarantee identical bytes.
    """
    etag = response.headers.get("ETag", "")
    if etag and not etag.startswith("W/"):
        return etag
    return response.headers.get("Last-Modified", "")


def _saved_validator(url: str, state_file: Path) -> str:
    """Return the validator of the partial download; "" if there is none for this URL."""
    try:
        state = json.loads(state_file.read_text("utf-8"))
    except (OSError, ValueError):
        return ""
    if not isinstance(state, dict) or state.get("url") != url:
        return ""
    validator = state.get("validator")
    return validator if isinstance(validator, str) and validator.isprintable() else ""
