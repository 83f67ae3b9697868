"""JSON files: rows with their source, errors with the line, arrays and indented objects."""

import codecs
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import chain, islice, repeat
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from flax_ner.data.field_names import (
    ANNOTATION_FIELDS,
    TEXT_FIELDS,
    TOKEN_FIELDS,
    is_start_field,
    is_words,
    parse_span,
)
from flax_ner.data.files import DataFile
from flax_ner.data.row_fields import may_be_text
from flax_ner.errors import UserError
from flax_ner.text.utf8 import Line, decode_line, read_text, stream_lines


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
    """Read JSON objects as `read_rows` does, from any file that `json_records` reads.

    An element of an array that spans several lines is yielded as one line, otherwise unchanged. Other objects
    that span lines are yielded as `json.dumps` writes them.
    """
    with open(path, "rb") as file:
        start = next((line for line in file if line.strip()), b"").removeprefix(codecs.BOM_UTF8)
    if start.lstrip().startswith(b"{") and is_json(start.decode("utf-8", "replace")):
        yield from read_rows(path)
        return
    records = list(json_records(DataFile(path), "row"))  # raises if the file is invalid
    if not records:
        return
    is_array = start.lstrip().startswith(b"[") and isinstance(records[0][1], ParsedValue)
    lines = _array_elements(path) if is_array else repeat("")
    for (source, record), line in zip(records, lines, strict=is_array):
        row = json_object(record, source, "objects", pairs=True)
        yield source, line or json.dumps(row, ensure_ascii=False), row


def _array_elements(path: Path) -> Iterator[str]:
    """Yield the source text of each element of a valid JSON array, on one line."""
    text = read_text(path)
    position = text.index("[") + 1
    while text[position := _SEPARATOR.match(text, position).end()] != "]":  # type: ignore[union-attr]
        _, end = _DECODER.raw_decode(text, position)
        # Valid JSON has line breaks between tokens only, never within strings.
        yield re.sub("[\r\n]+", " ", text[position:end])
        position = end


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
        problem = _describe(error, "line") if isinstance(error, json.JSONDecodeError) else error
        raise UserError(
            f"{source}: not JSON ({problem}). Expected one JSON object per line."
        ) from None


def _describe(error: json.JSONDecodeError, unit: str) -> str:
    """Return what is wrong in a `unit` ("line" or "file") of JSON."""
    if error.msg.startswith("Unterminated string"):
        return f"the {unit} ends inside the string that starts at column {error.colno}"
    if error.pos >= len(error.doc.rstrip()):
        return f"the {unit} ends too early, at column {error.colno}"
    return f"{error.msg.removesuffix(' at')}, column {error.colno}"


class ParsedValue(NamedTuple):
    """A JSON value that has already been parsed."""

    value: Any


def json_records(file: DataFile, name: str) -> Iterator[tuple[str, Line | ParsedValue]]:
    """Yield the source and content of each record of a JSON file.

    The file is JSON lines, one array, objects that span several lines, or one object that holds all records
    in its only list or under one key each.

    Args:
        file: the file.
        name: noun for a record, for its source.

    Yields:
        ("file:line", line) for JSON lines, otherwise ("file: NAME 1", parsed value).

    Raises:
        UserError: the file starts like an array but is not valid JSON (names the line), or it is one object
            with several lists.
    """
    filled = ((number, row) for number, row in enumerate(file.lines(), 1) if row.strip())
    head = list(islice(filled, 2))
    if not head:
        return
    first, several = head[0][1], len(head) > 1
    rows = ((f"{file.path}:{number}", row) for number, row in chain(head, filled))
    is_array = first.lstrip()[:1] in ("[", b"[")
    one_line = is_json(first)
    if one_line and (several or not is_array):
        value = None if several else json.loads(first)
        if isinstance(value, dict) and {"columns", "data"} <= value.keys():
            raise UserError(
                f"{file.path}: a table of pandas in the form 'split'. Write it with "
                "to_json(PATH, orient='records', lines=True)."
            )
        if _is_container(value):
            yield from _numbered(file.path, name, _unwrap(value, file.path))
        else:
            yield from rows
        return
    values = _parse_values(file, is_array)
    if values is None:  # the first line is damaged
        yield from rows
        return
    if len(values) == 1:
        values = _unwrap(values[0], file.path)
    yield from _numbered(file.path, name, values)


def _numbered(path: Path, name: str, values: list[Any]) -> Iterator[tuple[str, ParsedValue]]:
    for number, value in enumerate(values, 1):
        yield f"{path}: {name} {number}", ParsedValue(value)


def is_json(line: Line) -> bool:
    """Return whether a line is valid JSON as a whole."""
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return False
    return True


def _parse_values(file: DataFile, is_array: bool) -> list[Any] | None:
    """Parse a file of JSON values that may span lines. None: the first value is damaged and no array."""
    lines = enumerate(file.lines(), 1)
    text = "\n".join(decode_line(line, f"{file.path}:{number}") for number, line in lines)
    values, position = list[Any](), 0
    while (position := _SEPARATOR.match(text, position).end()) < len(text):  # type: ignore[union-attr]
        try:
            value, position = _DECODER.raw_decode(text, position)
        except json.JSONDecodeError as error:
            if not values and not is_array:
                return None
            raise UserError(
                f"{file.path}:{error.lineno}: not JSON ({_describe(error, 'file')}). Expected an "
                "array, [{...}, {...}], or one JSON object per line."
            ) from None
        except (ValueError, RecursionError) as error:
            raise UserError(f"{file.path}: not JSON ({error}).") from None
        values.append(value)
    return values


def _is_container(value: Any) -> bool:
    """Return whether an object holds records instead of being one."""
    if not isinstance(value, dict) or any(isinstance(value.get(name), str) for name in TEXT_FIELDS):
        return False
    # One task of Label Studio, or one row with tokens.
    if isinstance(value.get("data"), dict) or any(is_words(value.get(n)) for n in TOKEN_FIELDS):
        return False
    return any(_is_list_of_records(v) for v in value.values()) or (
        len(value) > 1 and all(isinstance(v, dict) for v in value.values())
    )


def _is_list_of_records(value: Any) -> bool:
    def is_record(item: Any) -> bool:
        if isinstance(item, dict):
            has_content = any(isinstance(v, str | dict) or is_words(v) for v in item.values())
            return has_content and not parse_span(item)
        return isinstance(item, list) and is_pair(item)

    # NER Annotator writes null for a text that was skipped.
    records = [item for item in value if item is not None] if isinstance(value, list) else []
    return bool(records) and all(map(is_record, records))


def is_pair(value: list[Any]) -> bool:
    """Return whether a list is spaCy's `[text, {"entities": [...]}]`."""
    return len(value) == 2 and isinstance(value[0], str) and isinstance(value[1], dict)


def _unwrap(value: Any, path: Path) -> list[Any]:
    """Return the records of an array, or of an object that holds records."""
    if isinstance(value, list):
        return [value] if is_pair(value) else value
    if not _is_container(value):
        return [value]
    lists = {key: v for key, v in value.items() if _is_list_of_records(v)}
    if len(lists) > 1:
        with_text = {key: records for key, records in lists.items() if any(map(_has_text, records))}
        lists = with_text if len(with_text) == 1 else lists
    if len(lists) > 1:
        raise UserError(
            f"{path}: one object with records in {', '.join(map(repr, lists))}. Save each list as a file of "
            "its own."
        )
    if not lists:
        return list(value.values())
    (records,) = lists.values()
    for key in value.keys() - lists.keys():
        if isinstance(value[key], str) and may_be_text(key) and _has_all(value[key], records):
            return [value]  # one text, and the list of what is in it
        if key in ANNOTATION_FIELDS and _has_spans(value[key]):
            raise UserError(
                f"{path}: {key!r} has annotations apart from their texts. Put the spans of each text into its "
                "own object."
            )
    return records


def _has_text(record: Any) -> bool:
    return isinstance(record, dict) and any(
        isinstance(record.get(name), str) or is_words(record.get(name))
        for name in (*TEXT_FIELDS, *TOKEN_FIELDS)
    )


def _has_all(text: str, records: list[Any]) -> bool:
    """Return whether a text has the field "text" of all records."""
    parts = [record.get("text") if isinstance(record, dict) else None for record in records]
    return all(isinstance(part, str) and len(part) < len(text) and part in text for part in parts)


def _has_spans(value: Any) -> bool:
    """Return whether a list has spans, or an object lists of spans."""
    lists = (
        [value] if isinstance(value, list) else value.values() if isinstance(value, dict) else ()
    )
    return any(
        parse_span(item) or (isinstance(item, dict) and any(map(is_start_field, item)))
        for items in lists
        if isinstance(items, list)
        for item in items
    )


def json_value(record: Line | ParsedValue, source: str) -> Any:
    """Return the value of a record of `json_records`.

    Raises:
        UserError: the record is a line that is not JSON.
    """
    if isinstance(record, ParsedValue):
        return record.value
    return parse_json(decode_line(record, source), source)


def json_object(
    record: Line | ParsedValue, source: str, form: str, pairs: bool = False
) -> dict[str, Any]:
    """Return the object of a record of `json_records`. With `pairs`, `[text, {...}]` becomes one object.

    Raises:
        UserError: the record is not an object; the message shows the expected `form`.
    """
    row = json_value(record, source)
    if pairs and isinstance(row, list) and is_pair(row):
        row = {"text": row[0], **row[1]}
    if row is None:
        raise UserError(f"{source}: is null, not a JSON object. Delete it.")
    if not isinstance(row, dict):
        raise UserError(f"{source}: not a JSON object. Expected {form}.")
    return row


def write_json_lines(path: Path, rows: Iterable[Any]) -> None:
    """Write JSON lines. Lone surrogates, which UTF-8 cannot encode, become JSON escapes."""
    with open(path, "w", encoding="utf-8", errors="backslashreplace", newline="\n") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
