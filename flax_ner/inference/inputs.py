"""Texts to tag: plain text, one per line, or data.

A JSON row comes along with its text, to be written again with its entities.
"""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from flax_ner.errors import UserError
from flax_ner.inference.outputs import ENTITIES
from flax_ner.text.files import read_objects, stream_rows
from flax_ner.text.formats import READERS, read_examples
from flax_ner.text.recognise import format_by_name, recognise
from flax_ner.text.utf8 import STDIN, stream_lines

INPUT_FORMATS = ("auto", "text", "jsonl", *READERS)
WITH_ROWS = ("cluener", "doccano", "label_studio", "tokens")  # formats of JSON


class Input(NamedTuple):
    """A text to tag."""

    text: str
    row: str | None = None  # the JSON object it is from, on one line
    has_text: bool = True  # whether the row has the text as its field `text`


def read_inputs(
    file: str,
    input_format: str = "auto",
    text_field: str | None = None,
    keep_rows: bool = False,
    tell: Callable[[str], None] = lambda note: None,
) -> Iterator[Input]:
    """Read the texts of a file in their order.

    Plain text has one text per line; only \\n and \\r\\n end a line, and a blank line is an empty
    text. It is streamed, as JSON lines are.

    Args:
        file: a file, a folder of brat documents, or "-" for standard input.
        input_format: one of `INPUT_FORMATS`. "auto" goes by the name, see `format_by_name`; the
            content says which kind of JSON it is.
        text_field: the field of JSON rows to read; by default "text".
        keep_rows: whether the rows are to be written again with their entities.
        tell: takes what "auto" assumed.

    Raises:
        UserError: no such file, or, once it is reached, a line or row that cannot be read.
    """
    path, name = Path(file), STDIN if file == "-" else file
    if file != "-" and not path.exists():
        raise UserError(
            f"FILE: no file {file!r}. Give a file with one text per line, or - for standard input."
        )
    found, kind = input_format, ""
    if input_format == "auto":
        found, kind = _assumed(file, text_field)
        tell(f"{name} is read as {kind}. --input-format names another format.")
    if text_field is not None and found != "jsonl":
        raise UserError(
            f"--text-field: {name} is read as {kind or found}, which has no field to choose. "
            "JSON rows have: --input-format jsonl."
        )
    if found == "text":
        yield from _plain(file)
    elif found == "jsonl":
        yield from _rows(file, text_field or "text", keep_rows)
    elif file != "-":
        yield from _data(path, found, keep_rows)
    else:
        with TemporaryDirectory() as folder:  # readers of data need a file
            path = Path(folder, STDIN)
            path.write_bytes(sys.stdin.buffer.read())
            try:
                yield from _data(path, found, keep_rows)
            except UserError as error:
                raise UserError(str(error).replace(str(path), STDIN)) from None


def _assumed(file: str, text_field: str | None) -> tuple[str, str]:
    """The input format that the name of a file stands for, and what to call it."""
    path = Path(file)
    by_name = None if file == "-" else format_by_name(path)
    if by_name is None:
        return "text", "plain text, one text per line"
    if by_name != "auto":
        return by_name, by_name
    if path.is_dir():
        return "brat", "brat"
    _, _, first = next(read_objects(path), ("", "", {"text": ""}))
    if text_field is None and not isinstance(first.get("text"), str):
        found = recognise(path)
        if found in ("label_studio", "tokens") or (found == "doccano" and "data" in first):
            return found, found
    return "jsonl", f"JSON rows with the text in the field {text_field or 'text'!r}"


def _plain(file: str) -> Iterator[Input]:
    if file == "-":
        yield from (Input(text) for _, text in stream_lines(sys.stdin.buffer, STDIN))
    else:
        with open(file, "rb") as lines:
            yield from (Input(text) for _, text in stream_lines(lines, file))


def _rows(file: str, text_field: str, keep_rows: bool) -> Iterator[Input]:
    """The rows of JSON lines, or of a file with one array."""
    rows = stream_rows(sys.stdin.buffer, STDIN) if file == "-" else read_objects(Path(file))
    for place, line, row in rows:
        text = row_text(row, text_field, place)
        if keep_rows:
            check_no_entities(row, place)
        yield Input(text, line)


def _data(path: Path, data_format: str, keep_rows: bool) -> Iterator[Input]:
    """The texts of data as its reader gives them."""
    examples = read_examples(str(path), data_format, "FILE")
    if not keep_rows or data_format not in WITH_ROWS:
        yield from (Input(example.text) for example in examples)
        return
    for example, (place, line, row) in zip(examples, read_objects(path), strict=True):
        check_no_entities(row, place)
        has_text = "text" in row
        if has_text and row["text"] != example.text:
            raise UserError(f"{place}: the field 'text' is not the text. Rename or delete it.")
        yield Input(example.text, line, has_text)


def row_text(row: dict[str, Any], text_field: str, place: str) -> str:
    """Return the text of a row.

    Raises:
        UserError: the field is missing or not a string. The message begins with `place`.
    """
    if text_field not in row:
        raise UserError(
            f"{place}: no field {text_field!r}. --text-field names the one to tag; "
            f"there are: {', '.join(row) or 'none'}."
        )
    text = row[text_field]
    if not isinstance(text, str):
        kind = "null" if text is None else type(text).__name__
        raise UserError(f"{place}: {text_field!r} is {kind}, but a text is a string. Correct it.")
    return text


def check_no_entities(row: dict[str, Any], place: str) -> None:
    """Raise `UserError` for a row that has the field which it is to get."""
    if ENTITIES in row:
        raise UserError(f"{place}: has a field {ENTITIES!r} already. Rename or delete it.")
