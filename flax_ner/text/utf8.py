"""Read UTF-8 files. For a file in another encoding, raise an error with the command that converts it."""

import codecs
import re
import shlex
from collections.abc import Iterator, Sequence
from io import BufferedReader
from pathlib import Path
from typing import BinaryIO

from flax_ner.errors import UserError

ARCHIVE_SIGNATURES = {
    b"\x1f\x8b": "compressed by gzip",
    b"PK\x03\x04": "a zip archive or an Office file",
    b"\xfd7zXZ": "compressed by xz",
    b"BZh": "compressed by bzip2",
    b"Rar!": "a RAR archive",
    b"%PDF": "a PDF file",
    b"\xd0\xcf\x11\xe0": "an old Office file",
    b"SQLite format": "an SQLite database",
    b"\x93NUMPY": "a NumPy file",
    b"PAR1": "a Parquet file without the suffix .parquet",
    b"ARROW1": "an Arrow file without the suffix .arrow",
}
_UNPACKING = {
    b"\x1f\x8b": ": unpack it, e.g. with gzip -dc FILE > NEW_FILE",
    b"PK\x03\x04": ": unpack a zip archive (doccano exports one) and give its file; export a sheet as CSV",
    b"\xfd7zXZ": ": unpack it, e.g. with xz -dc FILE > NEW_FILE",
    b"BZh": ": unpack it, e.g. with bzip2 -dc FILE > NEW_FILE",
    b"Rar!": ": unpack it and give the file in it",
}
# UTF-32 comes first: its byte order mark starts with that of UTF-16.
BYTE_ORDER_MARKS = {
    codecs.BOM_UTF32_LE: "UTF-32",
    codecs.BOM_UTF32_BE: "UTF-32",
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}
SURROGATES = re.compile("[\ud800-\udfff]")  # code points that UTF-8 cannot encode
HANGUL, KANA = re.compile("[\uac00-\ud7a3]"), re.compile("[\u3040-\u30ff]")
# The most frequent characters of Chinese: about 40% of most texts.
FREQUENT_CHINESE = frozenset(
    "的一是不了在人有我他这个们中来上大为和国地到以说时要就出会可也你对生能而子那得于着下自之年过发后作里用道行所然家种事成方多经么去法学"
    "如都同现当没动面起看定天分还进好小部其些主样理心本前开但因只从想实日公司市新"
)
# A letter of CP1252 between ASCII characters, or beside an ASCII letter. Two-byte encodings have few of them.
_LATIN_LETTER = re.compile(
    rb"(?<![\x80-\xff])[\x8c\x9c\xc0-\xff](?![\x80-\xff])|(?<=[A-Za-z])[\xc0-\xff]|[\xc0-\xff](?=[A-Za-z])"
)
_LATIN_PUNCTUATION = re.compile(
    rb"[\x80\x85\x91-\x97\xa0\xab\xb0\xb7\xbb]|(?<![A-Za-z\x80-\xff])[\xa1\xbf]"
)
SAMPLE_BYTES = 1 << 20  # bytes at the start of a file from which its encoding is guessed
STDIN = "standard input"


class UndecodedLine(bytes):
    """A line of a file that is not entirely UTF-8.

    Attributes:
        remedy: a sentence that says how to convert the file.
    """

    remedy: str

    def __new__(cls, line: bytes, remedy: str) -> "UndecodedLine":
        self = super().__new__(cls, line)
        self.remedy = remedy
        return self


Line = str | UndecodedLine


def read_bytes(path: Path, fixed_name: bool = False) -> bytes:
    """Return the bytes of a file.

    Args:
        path, fixed_name: see `read_lines`.

    Raises:
        UserError: the file is compressed, an archive, UTF-16 or UTF-32.
    """
    data = path.read_bytes()
    check_plain_text(data, path, fixed_name=fixed_name)
    # Check the whole file: single lines of UTF-16 can be valid UTF-8.
    encoding = guess_encoding(data) if b"\0" in data else None
    if encoding:
        raise _wrong_encoding_error(encoding, path, fixed_name=fixed_name)
    return data


def check_plain_text(
    start: bytes, path: str | Path, unpack: str = "", fixed_name: bool = False
) -> None:
    """Raise `UserError` for a file that starts like an archive or like UTF-16 or UTF-32.

    Args:
        start: first bytes of the file.
        path, unpack: see `iconv_command`.
        fixed_name: see `read_lines`.
    """
    for signature, kind in ARCHIVE_SIGNATURES.items():
        if start.startswith(signature):
            how = _UNPACKING.get(signature, "")
            raise UserError(f"{path}: is {kind}. Save the file as plain UTF-8{how}.")
    encoding = next(
        (name for mark, name in BYTE_ORDER_MARKS.items() if start.startswith(mark)), None
    )
    # ASCII in UTF-16 is valid UTF-8: every second byte is NUL.
    line = start[:1000].partition(b"\n")[0]
    if len(line) >= 8 and b"\0" in line:
        for parity, name in ((0, "UTF-16BE"), (1, "UTF-16LE")):
            if not any(line[parity::2]) and 0 not in line[1 - parity :: 2]:
                encoding = name
    if encoding:
        raise _wrong_encoding_error(encoding, path, unpack, fixed_name)


def _wrong_encoding_error(
    encoding: str, path: str | Path, unpack: str = "", fixed_name: bool = False
) -> UserError:
    if fixed_name:
        return UserError(f"{path}: is {encoding}. {_encoding_option(encoding)}")
    command = iconv_command(encoding, path, unpack)
    return UserError(f"{path}: is {encoding}. Save the file as plain UTF-8: {command}")


def guess_encoding(data: bytes) -> str | None:
    """Guess the encoding of bytes that are not UTF-8.

    Args:
        data: a file, or complete lines of it.

    Returns:
        "UTF-16LE", "UTF-16BE", "GB18030", "EUC-KR" or "EUC-JP". None for UTF-8, for other encodings, and for
        text that is mostly UTF-8: converting it would damage the valid part.
    """
    if _decodes(data, "utf-8"):
        return None
    if _is_mostly_utf8(data):
        return None
    if b"\0" not in data:
        return _guess_east_asian(data)
    data = data[: len(data) // 2 * 2]  # a line of UTF-16 ends within a character
    ascii_characters = {
        name: len(data.decode(name).encode("ascii", "ignore"))
        for name in ("UTF-16LE", "UTF-16BE")
        if _decodes(data, name)
    }
    return max(ascii_characters, key=lambda name: ascii_characters[name], default=None)


def _guess_east_asian(data: bytes) -> str | None:
    """Return "EUC-KR" or "EUC-JP" for text that is mostly Hangul or has much kana, "GB18030" for Chinese."""
    as_chinese = [c for c in data.decode("gb18030", "replace") if c > "\x7f"]
    frequent = sum(character in FREQUENT_CHINESE for character in as_chinese)
    for encoding, letters, share in (("euc_kr", HANGUL, 0.8), ("euc_jp", KANA, 0.3)):
        # Most bytes are valid in several of these encodings.
        if _decodes(data, encoding) and frequent * 10 < len(as_chinese):
            characters = [c for c in data.decode(encoding) if c > "\u2fff"]
            if sum(map(bool, map(letters.match, characters))) > share * len(characters):
                return encoding.upper().replace("_", "-")
    return "GB18030" if _is_chinese(data) else None


def _is_mostly_utf8(data: bytes) -> bool:
    text = data.decode("utf-8", "replace")
    errors = text.count("\ufffd")
    return errors <= len(text) - len(text.encode("ascii", "ignore")) - errors


def _is_chinese(data: bytes) -> bool:
    """Return whether bytes are Chinese in GB18030: most characters are common ones (level 1 of GB 2312)."""
    if not _decodes(data, "gb18030"):
        return False
    characters = [c for c in data.decode("gb18030") if c > "\x7f"]
    common = sum(b"\xa1" <= c.encode("gb2312", "replace")[:1] <= b"\xd7" for c in characters)
    return common * 3 > len(characters) * 2


def _is_latin(data: bytes) -> bool:
    """Return whether bytes are text in Latin script, mostly ASCII, with the letters of CP1252."""
    if not _decodes(data, "cp1252"):
        return False
    high = sum(byte > 0x7F for byte in data)
    letters = len(_LATIN_LETTER.findall(data))
    others = high - letters - len(_LATIN_PUNCTUATION.findall(data))
    return others * 10 <= letters and high * 3 <= len(data)


def _decodes(data: bytes, encoding: str) -> bool:
    try:
        data.decode(encoding)
    except UnicodeDecodeError:
        return False
    return True


def iconv_command(encoding: str, path: str | Path, unpack: str = "") -> str:
    """Return the shell command that converts a file to UTF-8.

    Args:
        encoding: name of the encoding in iconv.
        path: path of the file, or `STDIN`.
        unpack: command that unpacks a compressed file to standard output; "" for a plain file.
    """
    command = f"iconv -f {encoding} -t UTF-8"
    if Path(path).name == STDIN:
        return f"{command} | python -m flax_ner predict ..."
    path = Path(path)
    unpacked = path.with_suffix("") if unpack else path
    # Keep the suffix, which determines the data format.
    target = shlex.quote(str(unpacked.with_name(f"{unpacked.stem}.utf8{unpacked.suffix}")))
    source = shlex.quote(str(path))
    if unpack:
        return f"{unpack} {source} | {command} > {target}"
    return f"{command} {source} > {target}"


def _encoding_option(encoding: str, separator: str = ": ") -> str:
    return f"Name the encoding{separator}--encoding {encoding.lower()} (data.encoding)."


def encoding_remedy(
    data: bytes, path: str | Path, unpack: str = "", fixed_name: bool = False
) -> str:
    """Return a sentence that says how to convert a file that is not UTF-8.

    Args:
        data: the file, or complete lines of it.
        path, unpack: see `iconv_command`.
        fixed_name: see `read_lines`.
    """
    encoding = guess_encoding(data)
    if _is_mostly_utf8(data):
        return "Save the file as UTF-8."
    if encoding:
        guess, separator = f"It looks like {encoding}.", ": "
    elif _is_latin(data):
        encoding, separator = "CP1252", ": "
        guess = "It looks like CP1252 (Western European); check the accented letters."
    else:
        encoding, separator = "BIG5", ", e.g. "
        guess = "It may be Big5, Shift_JIS or CP1252."
    if fixed_name:
        return f"{guess} {_encoding_option(encoding, separator)}"
    return f"{guess} Save it as UTF-8{separator}{iconv_command(encoding, path, unpack)}"


def not_utf8_error(error: UnicodeDecodeError, source: str, remedy: str) -> UserError:
    """Return the error for a line that is not UTF-8."""
    return UserError(
        f"{source}: not UTF-8 ({error.reason} at byte {error.start} of the line). {remedy}"
    )


def read_lines(path: Path, encoding: str = "", fixed_name: bool = False) -> Sequence[Line]:
    r"""Return the lines of a file, split at \n; all as `UndecodedLine` if the file is not entirely UTF-8.

    Args:
        path: path of the file.
        encoding: the encoding of the file; "" is UTF-8.
        fixed_name: whether other files refer to the name of the file. An error then names the option for its
            encoding, because a converted copy under another name is not read.

    Raises:
        UserError: the file is not text, or not in `encoding`.
    """
    if encoding:
        return decode_as(path.read_bytes(), encoding, path).removeprefix("\ufeff").split("\n")
    data = read_bytes(path, fixed_name)
    try:
        return data.decode("utf-8-sig").split("\n")
    except UnicodeDecodeError:
        remedy = encoding_remedy(data, path, fixed_name=fixed_name)
        return [
            UndecodedLine(row, remedy) for row in data.removeprefix(codecs.BOM_UTF8).split(b"\n")
        ]


def read_text_lines(path: Path, encoding: str = "") -> list[Line]:
    r"""Return the lines of a plain-text file, without line ends. Only \n and \r\n end a line.

    Args, Raises: see `read_lines`.
    """
    *ended, last = read_lines(path, encoding)
    rows: list[Line] = [
        row.removesuffix("\r")
        if isinstance(row, str)
        else UndecodedLine(row.removesuffix(b"\r"), row.remedy)
        for row in ended
    ]
    return [*rows, last] if last else rows


def decode_line(line: Line, source: str) -> str:
    """Return a line as text.

    Raises:
        UserError: the line is not UTF-8. The message starts with `source`.
    """
    if isinstance(line, str):
        return line
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError as error:
        raise not_utf8_error(error, source, line.remedy) from None


def iterate_lines(path: Path, encoding: str = "") -> Iterator[Line]:
    r"""Yield the lines of `read_lines` one by one, so that a large file needs little memory.

    Only lines that are not UTF-8 are an `UndecodedLine`.

    Args, Raises: see `read_lines`.
    """
    if encoding:
        yield from read_lines(path, encoding)
        return
    remedy, checked = "", False
    with open(path, "rb") as file:
        check_plain_text(file.peek(SAMPLE_BYTES), path)
        for number, raw in enumerate(file):
            line = raw.removeprefix(codecs.BOM_UTF8) if number == 0 else raw
            if b"\0" in line and not checked:
                read_bytes(path)  # raises if the file is UTF-16
                checked = True
            line = line.removesuffix(b"\n")
            try:
                yield line.decode()
            except UnicodeDecodeError:
                remedy = remedy or encoding_remedy(path.read_bytes(), path)
                yield UndecodedLine(line, remedy)


def decode_as(data: bytes, encoding: str, path: str | Path) -> str:
    """Return bytes in another encoding as text.

    Raises:
        UserError: they are not in this encoding. The message starts with `path`.
    """
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path}: is not {encoding} ({error.reason} at byte {error.start}). Name its encoding, or leave "
            "out the option for UTF-8."
        ) from None


def read_text(path: Path, encoding: str = "", fixed_name: bool = False) -> str:
    """Return the text of a file, with its line ends and byte order mark.

    Args:
        path: path of the file.
        encoding: the encoding of the file; "" is UTF-8.
        fixed_name: see `read_lines`.

    Raises:
        UserError: the file is not UTF-8, or not in `encoding`. The message starts with the path.
    """
    if encoding:
        return decode_as(path.read_bytes(), encoding, path)
    data = read_bytes(path, fixed_name)
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        problem = f"{path}: not UTF-8 ({error.reason} at byte {error.start})."
        remedy = encoding_remedy(data, path, fixed_name=fixed_name)
        raise UserError(f"{problem} {remedy}") from None


def stream_lines(file: BinaryIO, path: str | Path) -> Iterator[tuple[str, str]]:
    r"""Read a file line by line. Yield `file:line` and the text of each line.

    Only \n and \r\n end a line. They are removed; all other control characters stay in the text. A byte order
    mark at the start is skipped.

    Args:
        file: binary file.
        path: path of the file, or `STDIN`; for error messages.

    Raises:
        UserError: the file is an archive, or the current line is not UTF-8.
    """
    for number, raw in enumerate(file, 1):
        source = f"{path}:{number}"
        if number == 1:
            check_plain_text(raw, path)
            raw = raw.removeprefix(codecs.BOM_UTF8)
            if not raw:  # the file has only a byte order mark
                return
        try:
            line = raw.decode()
        except UnicodeDecodeError as error:
            remedy = encoding_remedy(_encoding_sample(raw, file, path), path)
            raise not_utf8_error(error, source, remedy) from None
        yield source, line[:-2] if line.endswith("\r\n") else line.removesuffix("\n")


def _encoding_sample(line: bytes, file: BinaryIO, path: str | Path) -> bytes:
    """Return bytes from which to guess the encoding of a file, given a line that is not UTF-8."""
    if Path(path).is_file():
        with open(path, "rb") as reopened:
            head = reopened.read(SAMPLE_BYTES)
        head = head[: head.rfind(b"\n") + 1]
        return head + line if _decodes(head, "utf-8") else head
    # A pipe cannot be read again. UTF-16LE needs the byte after the line end. Peeking can block, so do it last.
    if isinstance(file, BufferedReader) and guess_encoding(line) is None:
        return line + file.peek(1)
    return line
