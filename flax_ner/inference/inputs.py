"""Read the texts to tag: plain text with one text per line, or a data format.

A text from a JSON row carries the row, so that the row can be written back with its entities.
"""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from flax_ner.data.detection import detect_format, format_by_name
from flax_ner.data.files import ReadOptions
from flax_ner.data.formats import READERS, read_examples
from flax_ner.data.json_rows import read_objects, stream_rows
from flax_ner.errors import UserError
from flax_ner.inference.outputs import ENTITIES_FIELD
from flax_ner.text.utf8 import STDIN, decode_as, stream_lines

INPUT_FORMATS = ("auto", "text", "jsonl", *READERS)
# Formats with one JSON object per text, none of which is left out or merged.
JSON_FORMATS = (
    "cluener", "doccano", "label_studio", "tokens", "adaseq", "cmeee", "ccks", "gliner", "luis", "spans",
)  # fmt: skip


class Input(NamedTuple):
    """A text to tag."""

    text: str
    row: str | None = None  # its JSON object, on one line
    has_text: bool = True  # whether the row has the text as its field `text`


def read_inputs(
    file: str,
    input_format: str = "auto",
    text_field: str | None = None,
    keep_rows: bool = False,
    report: Callable[[str], None] = lambda note: None,
    encoding: str = "",
) -> Iterator[Input]:
    """Yield the texts of a file, in order.

    Plain text has one text per line. Only \\n and \\r\\n end a line, and a blank line is an empty text.
    Plain text and JSON lines are streamed.

    Args:
        file: a file, a folder of brat documents, or "-" for standard input.
        input_format: one of `INPUT_FORMATS`. "auto" decides by the file name, see `format_by_name`, and
            detects the JSON format from the content.
        text_field: the field of JSON rows to read. Defaults to "text".
        keep_rows: whether the caller writes the rows back with their entities.
        report: called with a message about the format that "auto" chose.
        encoding: the encoding of the file; "" is UTF-8. A file in another encoding is read at once.

    Raises:
        UserError: the file does not exist, or, while iterating, a line or row cannot be read.
    """
    path, name = Path(file), STDIN if file == "-" else file
    if file != "-" and not path.exists():
        raise UserError(
            f"FILE: no file {file!r}. Give a file with one text per line, or - for standard input."
        )
    if encoding and not path.is_dir() and path.suffix != ".ann":
        yield from _read_encoded(
            file, input_format, text_field, keep_rows, report, ReadOptions(encoding).encoding
        )
        return
    data_format, description = input_format, input_format
    if input_format == "auto":
        data_format, description = _choose_format(file, text_field)
        report(f"{name} is read as {description}. Choose another format with --input-format.")
    if text_field is not None and data_format != "jsonl":
        raise UserError(
            f"--text-field: {name} is read as {description}, which has no fields. "
            "For JSON rows, add --input-format jsonl."
        )
    if data_format == "text":
        yield from _read_plain_text(file)
    elif data_format == "jsonl":
        yield from _read_json_rows(file, text_field or "text", keep_rows)
    elif file != "-":
        yield from _read_data(path, data_format, keep_rows, encoding)
    else:
        with TemporaryDirectory() as folder:  # the readers of data formats need a file
            path = Path(folder, STDIN)
            path.write_bytes(sys.stdin.buffer.read())
            try:
                yield from _read_data(path, data_format, keep_rows)
            except UserError as error:
                raise UserError(str(error).replace(str(path), STDIN)) from None


def _choose_format(file: str, text_field: str | None) -> tuple[str, str]:
    """Return the format of a file by its name, and a description of it for messages."""
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
        detected = detect_format(path)
        if detected and detected != "cluener":
            return detected, detected
    return "jsonl", f"JSON rows with the text in the field {text_field or 'text'!r}"


def _read_encoded(
    file: str,
    input_format: str,
    text_field: str | None,
    keep_rows: bool,
    report: Callable[[str], None],
    encoding: str,
) -> Iterator[Input]:
    """Yield the texts of a file that is not UTF-8, from a copy in UTF-8 with the same name."""
    name = STDIN if file == "-" else file
    data = sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
    with TemporaryDirectory() as folder:
        copy = Path(folder, Path(name).name)
        copy.write_bytes(decode_as(data, encoding, name).encode())
        try:
            yield from read_inputs(
                str(copy), input_format, text_field, keep_rows,
                lambda note: report(note.replace(str(copy), name)),
            )  # fmt: skip
        except UserError as error:
            raise UserError(str(error).replace(str(copy), name)) from None


def _read_plain_text(file: str) -> Iterator[Input]:
    if file == "-":
        yield from (Input(text) for _, text in stream_lines(sys.stdin.buffer, STDIN))
    else:
        with open(file, "rb") as lines:
            yield from (Input(text) for _, text in stream_lines(lines, file))


def _read_json_rows(file: str, text_field: str, keep_rows: bool) -> Iterator[Input]:
    """Yield the rows of JSON lines, or of a file with one array."""
    rows = stream_rows(sys.stdin.buffer, STDIN) if file == "-" else read_objects(Path(file))
    for location, line, row in rows:
        text = row_text(row, text_field, location)
        if keep_rows:
            check_no_entities(row, location)
        yield Input(text, line)


def _read_data(
    path: Path, data_format: str, keep_rows: bool, encoding: str = ""
) -> Iterator[Input]:
    """Yield the texts of a file with the reader of its data format."""
    examples = read_examples(str(path), data_format, "FILE", options=ReadOptions(encoding))
    if not keep_rows or data_format not in JSON_FORMATS:
        yield from (Input(example.text) for example in examples)
        return
    for example, (location, line, row) in zip(examples, read_objects(path), strict=True):
        check_no_entities(row, location)
        has_text = "text" in row
        if has_text and row["text"] != example.text:
            raise UserError(
                f"{location}: the field 'text' differs from the text to tag. Rename or delete it."
            )
        yield Input(example.text, line, has_text)


def row_text(row: dict[str, Any], text_field: str, location: str) -> str:
    """Return the text of a row.

    Args:
        row: a JSON object.
        text_field: the field that holds the text.
        location: file and line of the row, for messages.

    Raises:
        UserError: the field is missing or not a string.
    """
    if text_field not in row:
        raise UserError(
            f"{location}: no field {text_field!r}. Choose the field with --text-field; "
            f"there are: {', '.join(row) or 'none'}."
        )
    text = row[text_field]
    if not isinstance(text, str):
        kind = "null" if text is None else type(text).__name__
        raise UserError(
            f"{location}: {text_field!r} is {kind}, but a text is a string. Correct it."
        )
    return text


def check_no_entities(row: dict[str, Any], location: str) -> None:
    """Raise `UserError` if a row already has the field to which its entities are written."""
    if ENTITIES_FIELD in row:
        raise UserError(f"{location}: has a field {ENTITIES_FIELD!r} already. Rename or delete it.")
