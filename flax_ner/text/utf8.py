"""Read files as UTF-8 text. Text in another encoding is refused with the command that converts it."""

import codecs
import shlex
from collections.abc import Iterator, Sequence
from io import BufferedReader
from pathlib import Path
from typing import BinaryIO

from flax_ner.errors import UserError

ARCHIVES = {b"\x1f\x8b": "compressed by gzip", b"PK\x03\x04": "a zip archive"}
# UTF-32 comes first: its mark begins as that of UTF-16 does.
MARKS = {
    codecs.BOM_UTF32_LE: "UTF-32",
    codecs.BOM_UTF32_BE: "UTF-32",
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}
HEAD = 1 << 20  # bytes of a file by which its encoding is guessed
STDIN = "standard input"


class Undecoded(bytes):
    """A line of a file that is not all UTF-8, with what to do about the file."""

    remedy: str

    def __new__(cls, line: bytes, remedy: str) -> "Undecoded":
        self = super().__new__(cls, line)
        self.remedy = remedy
        return self


Line = str | Undecoded


def content(path: Path) -> bytes:
    """The bytes of a file that is no archive and not UTF-16."""
    data = path.read_bytes()
    check_plain(data, path)
    encoding = guessed_encoding(data) if b"\0" in data else None
    if encoding:  # of UTF-16, some lines are valid UTF-8
        raise _of_other_encoding(encoding, path)
    return data


def check_plain(start: bytes, path: str | Path, unpack: str = "") -> None:
    """Raise `UserError` for a file that begins as an archive or as UTF-16 does.

    Args:
        start: its first bytes.
        path, unpack: as in `conversion`.
    """
    for mark, kind in ARCHIVES.items():
        if start.startswith(mark):
            raise UserError(f"{path}: is {kind}. Save the file as plain UTF-8.")
    encoding = next((name for mark, name in MARKS.items() if start.startswith(mark)), None)
    # ASCII in UTF-16 is valid UTF-8, with NUL as every second byte.
    line = start[:1000].partition(b"\n")[0]
    if len(line) >= 8 and b"\0" in line:
        for parity, name in ((0, "UTF-16BE"), (1, "UTF-16LE")):
            if not any(line[parity::2]) and 0 not in line[1 - parity :: 2]:
                encoding = name
    if encoding:
        raise _of_other_encoding(encoding, path, unpack)


def _of_other_encoding(encoding: str, path: str | Path, unpack: str = "") -> UserError:
    command = conversion(encoding, path, unpack)
    return UserError(f"{path}: is {encoding}. Save the file as plain UTF-8: {command}")


def guessed_encoding(data: bytes) -> str | None:
    """Guess the encoding of bytes: UTF-16LE, UTF-16BE or GB18030; None for UTF-8 and for any other.

    Some bytes that are not UTF-8 between more that are give None: converting all would damage the rest.

    Args:
        data: a file, or whole lines of it.
    """
    if _decodes(data, "utf-8"):
        return None
    text = data.decode("utf-8", "replace")
    faults = text.count("\ufffd")
    characters = len(text) - len(text.encode("ascii", "ignore")) - faults  # that are not ASCII
    if faults <= characters:
        return None
    if b"\0" not in data:
        return "GB18030" if _decodes(data, "gb18030") else None
    data = data[: len(data) // 2 * 2]  # a line of UTF-16 is cut within its last character
    ascii_characters = {
        name: len(data.decode(name).encode("ascii", "ignore"))
        for name in ("UTF-16LE", "UTF-16BE")
        if _decodes(data, name)
    }
    return max(ascii_characters, key=lambda name: ascii_characters[name], default=None)


def _decodes(data: bytes, encoding: str) -> bool:
    try:
        data.decode(encoding)
    except UnicodeDecodeError:
        return False
    return True


def conversion(encoding: str, path: str | Path, unpack: str = "") -> str:
    """Return the command that converts a file to UTF-8.

    Args:
        encoding: as iconv calls it.
        path: of the file, or `STDIN`.
        unpack: the command that unpacks a compressed file to standard output.
    """
    command = f"iconv -f {encoding} -t UTF-8"
    if Path(path).name == STDIN:
        return f"{command} | python -m flax_ner predict ..."
    path = Path(path)
    whole = path.with_suffix("") if unpack else path
    # The name keeps its ending, which says what the file holds.
    target = shlex.quote(str(whole.with_name(f"{whole.stem}.utf8{whole.suffix}")))
    source = shlex.quote(str(path))
    if unpack:
        return f"{unpack} {source} | {command} > {target}"
    return f"{command} {source} > {target}"


def encoding_remedy(data: bytes, path: str | Path, unpack: str = "") -> str:
    """Return what to do about a file that is not UTF-8.

    Args:
        data: the file, or whole lines of it.
        path, unpack: as in `conversion`.
    """
    encoding = guessed_encoding(data)
    if encoding is None:
        return "Save the file as UTF-8."
    return f"It looks like {encoding}. Save it as UTF-8: {conversion(encoding, path, unpack)}"


def not_utf8(error: UnicodeDecodeError, source: str, remedy: str) -> UserError:
    """Return the error for a line that is not UTF-8."""
    return UserError(
        f"{source}: not UTF-8 ({error.reason} at byte {error.start} of the line). {remedy}"
    )


def lines(path: Path) -> Sequence[Line]:
    """The lines of a file; as bytes where it is not all UTF-8."""
    data = content(path)
    try:
        return data.decode("utf-8-sig").split("\n")
    except UnicodeDecodeError:
        remedy = encoding_remedy(data, path)
        return [Undecoded(row, remedy) for row in data.removeprefix(codecs.BOM_UTF8).split(b"\n")]


def text_lines(path: Path) -> list[Line]:
    r"""The lines of plain text as `lines` gives them. Only \n and \r\n end one."""
    *ended, last = lines(path)
    rows: list[Line] = [
        row.removesuffix("\r")
        if isinstance(row, str)
        else Undecoded(row.removesuffix(b"\r"), row.remedy)
        for row in ended
    ]
    return [*rows, last] if last else rows


def decoded(line: Line, source: str) -> str:
    """A line as text.

    Raises:
        UserError: it is not UTF-8; begins with `source`.
    """
    if isinstance(line, str):
        return line
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError as error:
        raise not_utf8(error, source, line.remedy) from None


def read_text(path: Path) -> str:
    """Read a whole file as text, keeping a byte order mark and line ends.

    Raises:
        UserError: it is not UTF-8; begins with the path.
    """
    data = content(path)
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        what = f"{path}: not UTF-8 ({error.reason} at byte {error.start})."
        raise UserError(f"{what} {encoding_remedy(data, path)}") from None


def stream_lines(file: BinaryIO, path: str | Path) -> Iterator[tuple[str, str]]:
    r"""Yield `file:line` and the text of each line as they are read.

    Only \n and \r\n end a line, and are not part of its text; any other control character is.
    A byte order mark at the start is left out.

    Args:
        file: open for reading bytes.
        path: of the file, or `STDIN`.

    Raises:
        UserError: an archive, or, once it is reached, a line that is not UTF-8.
    """
    for number, raw in enumerate(file, 1):
        source = f"{path}:{number}"
        if number == 1:
            check_plain(raw, path)
            raw = raw.removeprefix(codecs.BOM_UTF8)
            if not raw:  # nothing but the mark
                return
        try:
            line = raw.decode()
        except UnicodeDecodeError as error:
            remedy = encoding_remedy(_sample(raw, file, path), path)
            raise not_utf8(error, source, remedy) from None
        yield source, line[:-2] if line.endswith("\r\n") else line.removesuffix("\n")


def _sample(line: bytes, file: BinaryIO, path: str | Path) -> bytes:
    """What there is to guess an encoding by, once a line is found not to be UTF-8."""
    if Path(path).is_file():
        with open(path, "rb") as again:
            head = again.read(HEAD)
        head = head[: head.rfind(b"\n") + 1]
        return head + line if _decodes(head, "utf-8") else head
    # A pipe cannot be read again. The byte after a line tells UTF-16LE; waiting for it is the last resort.
    if isinstance(file, BufferedReader) and guessed_encoding(line) is None:
        return line + file.peek(1)
    return line
