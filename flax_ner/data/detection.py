"""Detect the format of a data file from its content."""

import json
import re
from collections import Counter
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from flax_ner.data.brat import TEXT_BOUND
from flax_ner.data.column_layout import (
    EXCEL_SEPARATOR,
    find_header,
    has_quoted_fields,
    looks_like_columns,
    looks_like_io,
    looks_like_sentences,
    split_columns,
    unquote,
)
from flax_ner.data.column_sentences import DOCUMENT_BOUNDARY, SEPARATOR
from flax_ner.data.field_names import TEXT_FIELDS
from flax_ner.data.files import DataFile, ReadOptions
from flax_ner.data.json_rows import is_json, is_pair, json_records, json_value
from flax_ner.data.row_fields import fields_with_spans
from flax_ner.data.span_rows import format_of_span_row
from flax_ner.data.tables import is_table
from flax_ner.data.tagged import (
    DASHES,
    OUTSIDE,
    OUTSIDE_WORDS,
    TAG_FORM,
    has_categories,
    is_prefixed_tag,
    outside_remedy,
)
from flax_ner.data.token_rows import find_token_fields, split_tag_strings
from flax_ner.errors import UserError

JSON_SUFFIXES = (".json", ".jsonl", ".ndjson")
COLUMN_SUFFIXES = (".conll", ".bio", ".bios", ".bioes", ".bmes", ".iob", ".iob2", ".csv", ".tsv")
_JSON_START = re.compile(r"\s*(\[\s*([\[{\"\]]|$)|\{\s*([\"}]|$))")
_JOINED = re.compile(r"\S+/([Oo]|[BIMELSUW]-\S+)")  # a token and its tag
SAMPLE_LINES = 50  # to distinguish columns, JSON and plain text
SAMPLE_ROWS = 1000  # to distinguish the JSON formats


def detect_format(path: str | Path, encoding: str = "") -> str | None:
    """Return the format of a data file or folder, one of `FORMATS`, or None if it looks like none of them.

    Broken lines are outvoted by the others, so that the reader of the format can report them.

    Args:
        path: path of the file or folder.
        encoding: the encoding of the file; "" is UTF-8.

    Raises:
        UserError: the file is not text, or not in `encoding`.
    """
    path = Path(path)
    if path.is_dir() or is_table(path):
        return detect_folder_format(path, encoding) if path.is_dir() else "table"
    file = DataFile(path, ReadOptions(encoding))
    rows = [
        row if isinstance(row, str) else row.decode("utf-8", "replace")
        for row in islice(file.lines(), SAMPLE_ROWS)
    ]
    sample = [row for row in rows if row.strip() and not row.startswith(EXCEL_SEPARATOR)]
    sample = sample[:SAMPLE_LINES]
    if not sample:
        return None
    if len(rows) == 1 and "\r" in rows[0].strip():
        raise UserError(
            f"{path}: its line ends are CR alone. Convert them: tr '\\r' '\\n' < {path} > NEW_FILE"
        )
    if _JSON_START.match(sample[0]) and is_json(sample[0]):
        return _json_format(file)
    if find_header(sample[0]) or SEPARATOR in sample[0]:
        return "conll"
    token_lines = [row for row in sample if not row.startswith(("# ", DOCUMENT_BOUNDARY))]
    if has_quoted_fields(token_lines):
        token_lines = ["\t".join(map(unquote, split_columns(row))) for row in token_lines]
    if token_lines and (looks_like_columns(token_lines) or looks_like_sentences(token_lines)):
        return "conll"
    if any(TEXT_BOUND.fullmatch(row) for row in sample):
        return "brat"
    if _JSON_START.match(sample[0]) or sum(map(bool, map(_JSON_START.match, sample))) * 2 > len(
        sample
    ):
        return _json_format(file)
    if path.suffix == ".txt" and path.with_suffix(".ann").is_file():
        return "brat"
    return "conll" if token_lines and looks_like_io(token_lines) else None


def detect_folder_format(path: Path, encoding: str = "") -> str | None:
    """Return the format of a folder: "table", "brat", or None. None for a file."""
    if not path.is_dir():
        return None
    if is_table(path):
        return "table"
    if any(path.glob("*.ann")):
        return "brat"
    texts = sorted(path.glob("*.txt"))
    try:
        # Files of columns are not documents, even if their names end in .txt.
        return "brat" if texts and detect_format(texts[0], encoding) is None else None
    except UserError:
        try:
            texts[0].read_text(encoding or "utf-8")
        except UnicodeError:  # the reader reports the encoding
            return "brat"
        raise


def unknown_format_hint(path: Path, encoding: str = "") -> str:
    """Return a sentence for the message that a format is unknown: what the file may be, and what it lacks."""
    if path.suffix.lower() in JSON_SUFFIXES:
        return " If it should be JSON: it is not JSON, or has no texts."
    lines = islice(DataFile(path, ReadOptions(encoding)).lines(), SAMPLE_ROWS)
    numbered = [
        (number, line.strip())
        for number, line in enumerate(lines, 1)
        if isinstance(line, str) and line.strip()
    ]
    numbers, rows = [number for number, _ in numbered], [row for _, row in numbered]
    tagged_rows = [any(map(is_prefixed_tag, row.split(",")[1:])) for row in rows]
    if any(tagged_rows[:1]):
        return " CSV needs a first line that names its columns, such as token,tag."
    if any(tagged_rows):
        first, *_, last = rows[0].split(",") if "," in rows[0] else ("1", "2")
        return f" Name its columns, e.g. --token-column {first!r} --tag-column {last!r} (data.columns)."
    tokens = rows[0].split()
    joined = [token for row in rows for token in row.split()]
    if all(map(_JOINED.fullmatch, joined)) and any(
        is_prefixed_tag(token.rpartition("/")[2]) for token in joined
    ):
        return (
            f" A slash joins its tokens and tags, e.g. {tokens[0]!r}. Write one token per line, a space, and "
            "its tag."
        )
    cells = [split_columns(row) for row in rows]
    width = max(map(len, cells), default=0)
    if width > 1 and all(len(c) == width for c in cells):
        return _column_hint(path, cells, numbers)
    return ""


def _column_hint(path: Path, cells: Sequence[Sequence[str]], numbers: Sequence[int]) -> str:
    """Return what keeps rows of equal length, from lines with these numbers, from being tokens and tags."""
    width = len(cells[0])
    tags = [Counter(c[i] for c in cells) for i in range(width)]
    prefixed = [sum(map(is_prefixed_tag, column.elements())) for column in tags]
    tag = max(range(width), key=lambda i: prefixed[i])
    last = tags[-1]
    if {"B", "O"} <= last.keys() <= {*"BIOESMULW"}:
        return " Its tags have no category. Write B-NAME and I-NAME in place of B and I."
    if not prefixed[tag]:
        word = next((word for word in last if word.lower() in OUTSIDE_WORDS), None)
        if word is not None:
            return f" Its last column may have the tags. {outside_remedy(word)}"
        if has_categories(tags[0]) and len(tags[0]) * 2 <= len(cells):
            return _name_columns(2, 1)
        return ""
    if tag < width - 1:
        return _name_columns(*((2, 1) if tag == 0 else (1, tag + 1)))
    number, value = next(
        (
            (number, c[-1])
            for number, c in zip(numbers, cells, strict=True)
            if not (is_prefixed_tag(c[-1]) or c[-1] in (*OUTSIDE, *DASHES))
        ),
        (0, ""),
    )
    if not value:
        return _name_columns(1, width)
    remedy = outside_remedy(value) if value.lower() in OUTSIDE_WORDS else f"A tag is {TAG_FORM}"
    return f" The last column of {path}:{number} has {value!r}, which is not a tag. {remedy}"


def _name_columns(token: int, tag: int) -> str:
    return (
        f" If it has columns, name those of the tokens and tags, e.g. --token-column {token} --tag-column "
        f"{tag} (data.columns). A tag is {TAG_FORM}"
    )


def format_by_name(path: Path) -> str | None:
    """Return what a file of texts contains, judging by its name alone.

    The content is not considered: a line of plain text may look like a token and its tag.

    Returns:
        "auto" for folders and JSON files, whose format the content decides; "conll", "brat" or "table"; None
        for any other name, which means plain text.
    """
    suffix = path.suffix.lower()
    if is_table(path):
        return "table"
    if path.is_dir() or suffix in JSON_SUFFIXES:
        return "auto"
    if suffix in COLUMN_SUFFIXES:
        return "conll"
    return "brat" if suffix == ".ann" else None


def _json_format(file: DataFile) -> str | None:
    """Return the format that most rows have.

    A row with a text only is valid in several formats, so it does not count unless there are no others.
    """
    formats: Counter[str] = Counter()
    parsed = has_text = only_empty = False
    all_named_text = True
    try:
        for number, (source, record) in enumerate(json_records(file, "row")):
            if number >= SAMPLE_ROWS and (formats or not only_empty):
                break
            try:
                value = json_value(record, source)
            except UserError:
                continue
            parsed = True
            if isinstance(value, list) and is_pair(value):
                formats["spacy"] += 1
            row = value if isinstance(value, dict) else {}
            row = split_tag_strings(row)
            name = format_of_row(row)
            if name == "doccano" and not fields_with_spans(row):
                only_empty = True  # the form of a text without entities is that of several formats
            else:
                formats.update([name] if name else [])
            all_named_text = all_named_text and isinstance(row.get("text"), str)
            has_text = has_text or any(isinstance(row.get(field), str) for field in TEXT_FIELDS)
    except UserError:
        return "spans"  # the file is not JSON as a whole; the reader names the line
    if formats:
        return formats.most_common(1)[0][0]
    # Without a valid line, the reader reports each.
    if only_empty:
        return "doccano"
    if has_text:
        return "cluener" if all_named_text else "spans"
    return None if parsed else "spans"


def format_of_row(row: dict[str, Any]) -> str | None:
    """Return the format of a JSON row, None if it has no annotations of any."""
    label = row.get("label")
    if isinstance(row.get("data"), dict) and not isinstance(row.get("text"), str):
        return "label_studio"
    if isinstance(label, dict) and isinstance(row.get("text"), str):
        return "cluener"
    fields = find_token_fields(row)
    if fields and fields[1]:
        return "tokens"
    if name := format_of_span_row(row):
        return name
    return "tokens" if fields and isinstance(row[fields[0]], list) else None


def describe_start(path: Path, encoding: str = "") -> str:
    """Return the start of a file for the message that its format is unknown."""
    for line in DataFile(path, ReadOptions(encoding)).lines():
        text = line if isinstance(line, str) else line.decode("utf-8", "replace")
        if text.strip():
            try:
                value = json.loads(text)
            except (ValueError, RecursionError):
                return repr(text.strip()[:60])
            if isinstance(value, list) and value:
                value = value[0]
            return (
                f"fields {', '.join(value)}" if isinstance(value, dict) else repr(text.strip()[:60])
            )
    return "nothing"
