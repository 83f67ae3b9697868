"""What readers and writers of data files share: lines, JSON, faults with file and line, named losses."""

import codecs
import gc
import json
import re
import shlex
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from flax_ner.errors import UserError
from flax_ner.text.examples import Entity, Example, type_fault

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


class Losses:
    """What a format cannot hold, or a reader leaves out: how often, and where first."""

    def __init__(self) -> None:
        self._found: dict[str, tuple[int, str]] = {}

    def add(self, what: str, source: str, count: int = 1) -> None:
        """Count `what`, as in "overlapping entities, left out"; nothing where `count` is 0."""
        if count:
            before, first = self._found.get(what, (0, source))
            self._found[what] = before + count, first

    def lines(self) -> list[str]:
        """One line a kind, in the order of their first appearance."""
        return [
            f"{what}: {count}" + (f" (first: {source})" if source else "")
            for what, (count, source) in self._found.items()
        ]


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


def read_rows(path: str | Path) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Read JSON objects one line at a time: `file:line`, the line and its object. Blank lines are left out.

    Raises:
        UserError: with file and line, once a line is reached that is no JSON object.
    """
    with open(path, "rb") as file:
        yield from stream_rows(file, path)


def stream_rows(file: BinaryIO, path: str | Path) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """As `read_rows`, from an open file; `path` as in `stream_lines`."""
    for source, line in stream_lines(file, path):
        line = line.strip()
        if line:
            row = parse(line, source)
            if not isinstance(row, dict):
                raise UserError(f"{source}: no JSON object. One a line is expected.")
            yield source, line, row


def read_objects(path: Path) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """As `read_rows`, but the objects may also be the elements of one array.

    An element that is written over several lines comes as one line; nothing else of it is changed.
    """
    with open(path, "rb") as file:
        start = next((line for line in file if line.strip()), b"")
    if not start.removeprefix(codecs.BOM_UTF8).lstrip().startswith(b"["):
        yield from read_rows(path)
        return
    units = list(json_rows(path, "row"))  # raises for a damaged array
    for (source, unit), line in zip(units, _elements(path), strict=True):
        row = json_object(unit, source, "an array of objects")
        yield source, line, row


def _elements(path: Path) -> Iterator[str]:
    """The elements of a sound array as they are written, each on one line."""
    text = read_text(path)
    place = text.index("[") + 1
    while text[place := _BETWEEN.match(text, place).end()] != "]":  # type: ignore[union-attr]
        _, end = _DECODER.raw_decode(text, place)
        yield re.sub("[\r\n]+", " ", text[place:end])  # line breaks lie between tokens only
        place = end


def collect(
    units: Iterable[tuple[str, Any]],
    example: Callable[[Any, str], Example | None],
    skipped: list[str] | None,
    empty: str,
    name: str = "lines",
) -> list[Example]:
    """The examples of a file's units (lines, sentences, tasks).

    Args:
        units: each with its source, "file:line"; or the fault that was found in it before.
        example: makes one of a unit and its source; None for a unit without any.
        skipped: takes the fault of each unit that cannot be read. Without it the first one raises.
        empty: what to say of a file without examples.
        name: of many units.

    Raises:
        UserError: a unit that cannot be read, or no example at all.
    """
    examples, faults = [], list[str]()
    with _collector_paused():
        for source, unit in units:
            try:
                if isinstance(unit, UserError):
                    raise unit
                made = example(unit, source)
            except UserError as error:
                if skipped is None:
                    raise
                faults.append(str(error))
            else:
                if made is not None:
                    examples.append(made)
    if skipped is not None:
        skipped += faults
    if not examples:
        tried = f" {len(faults)} {name} cannot be read, the first: {faults[0]}" if faults else ""
        raise UserError(f"{empty}{tried}")
    return examples


@contextmanager
def _collector_paused() -> Iterator[None]:
    """Examples hold no cycles, and of many the collector would look at all again and again."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _no_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object; of a name given twice, Python would silently keep the second value only."""
    row = dict(pairs)
    if len(row) < len(pairs):
        counts = Counter(name for name, _ in pairs)
        twice = next(name for name, _ in pairs if counts[name] > 1)
        raise ValueError(f"{twice!r} is there twice in one object")
    return row


_DECODER = json.JSONDecoder(object_pairs_hook=_no_repeats)
_BETWEEN = re.compile(r"[ \t\r\n,]*")  # what separates elements of an array


def parse(line: str, source: str) -> Any:
    """A line of JSON. As `json.loads` with the hook, which makes a decoder for every call: half of its time.

    Raises:
        UserError: it is none; begins with `source`.
    """
    try:
        if line.startswith("\ufeff"):
            json.loads(line)  # raises, with words of its own
        return _DECODER.decode(line)
    except (ValueError, RecursionError) as error:
        raise UserError(
            f"{source}: not JSON ({error}). One JSON object a line is expected."
        ) from None


class Value(NamedTuple):
    """A value of a JSON array that has been parsed already."""

    value: Any


def json_rows(path: Path, name: str) -> Iterator[tuple[str, Line | Value]]:
    """The units of a file of JSON lines ("file:line", a line) or of one array ("file: NAME 1", a value).

    Raises:
        UserError: the file begins as an array and is none, with the line of the fault.
    """
    rows = lines(path)
    first = next((row for row in rows if row.strip()), "")
    if first.lstrip()[:1] not in ("[", b"["):
        for number, row in enumerate(rows, 1):
            if row.strip():
                yield f"{path}:{number}", row
        return
    text = "\n".join(decoded(row, f"{path}:{number}") for number, row in enumerate(rows, 1))
    try:
        values = _DECODER.decode(text)
    except json.JSONDecodeError as error:
        raise UserError(
            f"{path}:{error.lineno}: not JSON ({error.msg}, column {error.colno}). Expected is an "
            "array, [{...}, {...}], or one JSON object a line."
        ) from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not JSON ({error}).") from None
    for number, value in enumerate(values, 1):
        yield f"{path}: {name} {number}", Value(value)


def json_object(unit: Line | Value, source: str, form: str) -> dict[str, Any]:
    """The object of a unit of `json_rows`.

    Raises:
        UserError: it is none, and of which form it should be.
    """
    row = unit.value if isinstance(unit, Value) else parse(decoded(unit, source), source)
    if not isinstance(row, dict):
        raise UserError(f"{source}: no JSON object. Expected is {form}.")
    return row


def checked_entity(category: Any, start: Any, end: Any, text: str, source: str) -> Entity:
    """Return an entity that is sure to lie in its text; `end` exclusive.

    Raises:
        UserError: the category is no name, an offset is not a whole number, or the span is not within
            the text.
    """
    if not isinstance(category, str) or not category:
        raise UserError(
            f"{source}: the category of [{start}, {end}) is {category!r}. Give its name as text."
        )
    if fault := type_fault(start, end):
        raise UserError(f"{source}: {category}: {fault}")
    if not 0 <= start < end <= len(text):
        raise UserError(
            f"{source}: {category} has the span [{start}, {end}) in a text of {len(text)} characters. "
            f"Expected 0 <= start < end <= {len(text)}, end exclusive."
        )
    return Entity(category, int(start), int(end), text[start:end])


def distinct(entities: Sequence[Entity], source: str, losses: Losses) -> tuple[Entity, ...]:
    """The entities in their order, each once."""
    kept = tuple(dict.fromkeys(entities))
    losses.add("entities that are there twice, taken once", source, len(entities) - len(kept))
    return kept


def category_names(examples: Sequence[Example], losses: Losses) -> dict[str, str]:
    """How categories are called where a name has no white space in it.

    Raises:
        UserError: two of them would become one.
    """
    names: dict[str, str] = {}
    for example in examples:
        for entity in example.entities or ():
            name = re.sub(r"\s", "_", entity.type)
            if names.setdefault(entity.type, name) != entity.type:
                losses.add(f"category {entity.type!r}, written as {name}", example.source)
    twice = [name for name, times in Counter(names.values()).items() if times > 1]
    if twice:
        both = ", ".join(repr(old) for old, new in names.items() if new == twice[0])
        raise UserError(f"the categories {both} would all be written as {twice[0]}. Rename one.")
    return names


def write_json_lines(path: Path, rows: Iterable[Any]) -> None:
    """Write JSON lines; a lone surrogate, which UTF-8 lacks, as JSON's escape."""
    with open(path, "w", encoding="utf-8", errors="backslashreplace", newline="\n") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
