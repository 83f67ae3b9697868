"""Helpers shared by the readers and writers: lines, JSON, errors with file and line, conversion warnings."""

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
from flax_ner.text.examples import Entity, Example, offset_type_error
from flax_ner.text.utf8 import Line, decode_line, read_lines, read_text, stream_lines


class ConversionWarnings:
    """Counts of the information that a reader or writer dropped or changed, with the first occurrence."""

    def __init__(self) -> None:
        self._counts: dict[str, tuple[int, str]] = {}  # message -> (count, first source)

    def add(self, message: str, source: str, count: int = 1) -> None:
        """Add `count` occurrences of a warning, e.g. "overlapping entities, left out"."""
        if count:
            before, first = self._counts.get(message, (0, source))
            self._counts[message] = before + count, first

    def lines(self) -> list[str]:
        """Return one line per message, ordered by first occurrence."""
        return [
            f"{message}: {count}" + (f" (first: {source})" if source else "")
            for message, (count, source) in self._counts.items()
        ]


def read_rows(path: str | Path) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Read JSON lines lazily.

    Yields:
        `file:line`, the line, and its object. Blank lines are left out.

    Raises:
        UserError: a line is reached that is not a JSON object. The message names file and line.
    """
    with open(path, "rb") as file:
        yield from stream_rows(file, path)


def stream_rows(file: BinaryIO, path: str | Path) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Read JSON lines from an open file, as `read_rows` does; `path` as in `stream_lines`."""
    for source, line in stream_lines(file, path):
        line = line.strip()
        if line:
            row = parse_json(line, source)
            if not isinstance(row, dict):
                raise UserError(f"{source}: not a JSON object. Expected one per line.")
            yield source, line, row


def read_objects(path: Path) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Read JSON objects as `read_rows` does, from JSON lines or from one JSON array.

    An array element that spans several lines is yielded as one line, otherwise unchanged.
    """
    with open(path, "rb") as file:
        start = next((line for line in file if line.strip()), b"")
    if not start.removeprefix(codecs.BOM_UTF8).lstrip().startswith(b"["):
        yield from read_rows(path)
        return
    records = list(json_records(path, "row"))  # raises if the array is invalid
    for (source, record), line in zip(records, _array_elements(path), strict=True):
        row = json_object(record, source, "an array of objects")
        yield source, line, row


def _array_elements(path: Path) -> Iterator[str]:
    """Yield the source text of each element of a valid JSON array, on one line."""
    text = read_text(path)
    position = text.index("[") + 1
    while text[position := _SEPARATOR.match(text, position).end()] != "]":  # type: ignore[union-attr]
        _, end = _DECODER.raw_decode(text, position)
        # Valid JSON has line breaks between tokens only, never within strings.
        yield re.sub("[\r\n]+", " ", text[position:end])
        position = end


def collect_examples(
    records: Iterable[tuple[str, Any]],
    make_example: Callable[[Any, str], Example | None],
    skipped: list[str] | None,
    empty: str,
    name: str = "lines",
) -> list[Example]:
    """Convert the records of a file (lines, sentences, tasks) to examples.

    Args:
        records: pairs of source ("file:line") and record. A record may be a `UserError` that an
            earlier step found in it.
        make_example: converts a record and its source to an example; returns None for a record
            without one.
        skipped: list to which the error of each unreadable record is appended. If None, the first
            error is raised.
        empty: error message for a file without examples.
        name: plural noun for the records, for messages.

    Raises:
        UserError: a record is unreadable, or there are no examples.
    """
    examples, errors = [], list[str]()
    with _gc_paused():
        for source, record in records:
            try:
                if isinstance(record, UserError):
                    raise record
                example = make_example(record, source)
            except UserError as error:
                if skipped is None:
                    raise
                errors.append(str(error))
            else:
                if example is not None:
                    examples.append(example)
    if skipped is not None:
        skipped += errors
    if not examples:
        details = (
            f" {len(errors)} {name} cannot be read; first error: {errors[0]}" if errors else ""
        )
        raise UserError(f"{empty}{details}")
    return examples


@contextmanager
def _gc_paused() -> Iterator[None]:
    """Pause the garbage collector: examples have no cycles, and each collection would traverse all of them."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _reject_duplicate_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Build a JSON object. By default Python silently keeps only the last value of a duplicate key."""
    row = dict(pairs)
    if len(row) < len(pairs):
        counts = Counter(key for key, _ in pairs)
        duplicate = next(key for key, _ in pairs if counts[key] > 1)
        raise ValueError(f"duplicate key {duplicate!r} in one object")
    return row


# Built once: `json.loads` with a hook builds a decoder per call, which takes half of its time.
_DECODER = json.JSONDecoder(object_pairs_hook=_reject_duplicate_keys)
_SEPARATOR = re.compile(r"[ \t\r\n,]*")  # between the elements of an array


def parse_json(line: str, source: str) -> Any:
    """Parse a line of JSON; duplicate keys are an error.

    Raises:
        UserError: the line is not JSON; the message starts with `source`.
    """
    try:
        if line.startswith("\ufeff"):
            json.loads(line)  # raises an error that names the byte order mark
        return _DECODER.decode(line)
    except (ValueError, RecursionError) as error:
        raise UserError(
            f"{source}: not JSON ({error}). Expected one JSON object per line."
        ) from None


class ParsedValue(NamedTuple):
    """A value of a JSON array that has already been parsed."""

    value: Any


def json_records(path: Path, name: str) -> Iterator[tuple[str, Line | ParsedValue]]:
    """Yield the source and content of each record of JSON lines or of one JSON array.

    Args:
        path: path of the file.
        name: noun for an array element, for its source.

    Yields:
        ("file:line", line) for JSON lines, ("file: NAME 1", parsed value) for an array.

    Raises:
        UserError: the file starts like an array but is not valid JSON; names the line.
    """
    rows = read_lines(path)
    first = next((row for row in rows if row.strip()), "")
    if first.lstrip()[:1] not in ("[", b"["):
        for number, row in enumerate(rows, 1):
            if row.strip():
                yield f"{path}:{number}", row
        return
    text = "\n".join(decode_line(row, f"{path}:{number}") for number, row in enumerate(rows, 1))
    try:
        values = _DECODER.decode(text)
    except json.JSONDecodeError as error:
        raise UserError(
            f"{path}:{error.lineno}: not JSON ({error.msg}, column {error.colno}). Expected an array, "
            "[{...}, {...}], or one JSON object per line."
        ) from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not JSON ({error}).") from None
    for number, value in enumerate(values, 1):
        yield f"{path}: {name} {number}", ParsedValue(value)


def json_object(record: Line | ParsedValue, source: str, form: str) -> dict[str, Any]:
    """Return the object of a record of `json_records`.

    Raises:
        UserError: the record is not an object; the message shows the expected `form`.
    """
    row = (
        record.value
        if isinstance(record, ParsedValue)
        else parse_json(decode_line(record, source), source)
    )
    if not isinstance(row, dict):
        raise UserError(f"{source}: not a JSON object. Expected {form}.")
    return row


def checked_entity(category: Any, start: Any, end: Any, text: str, source: str) -> Entity:
    """Return an entity after checking its category and span; `end` is exclusive.

    Raises:
        UserError: the category is not a non-empty string, an offset is not a whole number, or the
            span is empty or not within the text.
    """
    if not isinstance(category, str) or not category:
        raise UserError(
            f"{source}: the category of [{start}, {end}) is {category!r}. Give a non-empty string."
        )
    if error := offset_type_error(start, end):
        raise UserError(f"{source}: {category}: {error}")
    if not 0 <= start < end <= len(text):
        raise UserError(
            f"{source}: {category} has the span [{start}, {end}) in a text of {len(text)} characters. "
            f"Expected 0 <= start < end <= {len(text)}, end exclusive."
        )
    return Entity(category, int(start), int(end), text[start:end])


def without_duplicates(
    entities: Sequence[Entity], source: str, warnings: ConversionWarnings
) -> tuple[Entity, ...]:
    """Return the entities in order, without duplicates."""
    kept = tuple(dict.fromkeys(entities))
    warnings.add("duplicate entities, kept once", source, len(entities) - len(kept))
    return kept


def space_free_names(examples: Sequence[Example], warnings: ConversionWarnings) -> dict[str, str]:
    """Map each category to a name without white space, for formats that separate fields by it.

    Raises:
        UserError: two categories would get the same name.
    """
    names: dict[str, str] = {}
    for example in examples:
        for entity in example.entities or ():
            name = re.sub(r"\s", "_", entity.type)
            if names.setdefault(entity.type, name) != entity.type:
                warnings.add(f"category {entity.type!r}, written as {name}", example.source)
    ambiguous = [name for name, times in Counter(names.values()).items() if times > 1]
    if ambiguous:
        clashing = ", ".join(repr(old) for old, new in names.items() if new == ambiguous[0])
        raise UserError(
            f"the categories {clashing} would all be written as {ambiguous[0]}. Rename one."
        )
    return names


def write_json_lines(path: Path, rows: Iterable[Any]) -> None:
    """Write JSON lines. Lone surrogates, which UTF-8 cannot encode, become JSON escapes."""
    with open(path, "w", encoding="utf-8", errors="backslashreplace", newline="\n") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
