"""What readers and writers of data files share: lines, JSON, faults with file and line, named losses."""

import codecs
import gc
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from flax_ner.errors import UserError
from flax_ner.text.examples import Entity, Example, type_fault
from flax_ner.text.utf8 import Line, decoded, lines, read_text, stream_lines


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
