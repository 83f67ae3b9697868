"""Detect the format of a data file from its content."""

import json
from pathlib import Path
from typing import Any

from flax_ner.data.brat import TEXT_BOUND
from flax_ner.data.conll import DOCUMENT_BOUNDARY, is_tagged_line
from flax_ner.text.utf8 import read_bytes

JSON_SUFFIXES = (".json", ".jsonl", ".ndjson")
COLUMN_SUFFIXES = (".conll", ".bio", ".bioes", ".bmes")
SAMPLE_BYTES = 1 << 20  # read from the start of the file
SAMPLE_LINES = 50  # to distinguish columns, JSON and plain text
SAMPLE_ROWS = 1000  # to distinguish the JSON formats


def detect_format(path: Path) -> str | None:
    """Return the format of a data file or folder, one of `FORMATS`, or None if it looks like none of them.

    Only the start of the file is considered. Broken lines are outvoted by the others, so that the
    reader of the format can report them.
    """
    if path.is_dir():
        return "brat" if any(path.glob("*.txt")) or any(path.glob("*.ann")) else None
    text = read_bytes(path)[:SAMPLE_BYTES].decode("utf-8-sig", "replace")
    rows = [row for row in text.split("\n", SAMPLE_ROWS) if row.strip()]
    sample = rows[:SAMPLE_LINES]
    token_lines = [row for row in sample if not row.startswith(("# ", DOCUMENT_BOUNDARY))]
    if sum(map(is_tagged_line, token_lines)) * 2 > len(token_lines):
        return "conll"
    if any(TEXT_BOUND.fullmatch(row) for row in sample):
        return "brat"
    if text.lstrip().startswith("["):
        return _format_of_row(_first_known_element(path))
    if sum(row.lstrip().startswith("{") for row in sample) * 2 <= len(sample):
        return "brat" if _is_brat_text(path) else None
    # A row with a text only is valid in several formats, so the first row with more decides.
    formats = (_format_of_row(_parse_or_none(row)) for row in rows)
    return next((name for name in formats if name), "cluener")


def format_by_name(path: Path) -> str | None:
    """Return what a file of texts contains, judging by its name alone.

    The content is not considered: a line of plain text may look like a token and its tag.

    Returns:
        "auto" for folders and JSON files, whose format the content decides; "conll" or "brat"; None
        for any other name, which means plain text.
    """
    suffix = path.suffix.lower()
    if path.is_dir() or suffix in JSON_SUFFIXES:
        return "auto"
    if suffix in COLUMN_SUFFIXES:
        return "conll"
    return "brat" if suffix == ".ann" else None


def _is_brat_text(path: Path) -> bool:
    return path.suffix == ".txt" and path.with_suffix(".ann").is_file()


def _format_of_row(row: Any) -> str | None:
    if not isinstance(row, dict):
        return None
    label = row.get("label", row.get("labels"))
    if isinstance(row.get("tokens"), list):
        return "tokens"
    if isinstance(row.get("data"), dict):
        return "label_studio"
    if isinstance(label, list) and label and isinstance(label[0], dict):
        return "label_studio"
    if isinstance(label, list) or isinstance(row.get("entities"), list):
        return "doccano"
    return "cluener" if isinstance(label, dict) else None


def _parse_or_none(line: str) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None


def _first_known_element(path: Path) -> Any:
    """Return the first element of a JSON array whose format is known, or None."""
    values = _parse_or_none(read_bytes(path).decode("utf-8-sig", "replace"))
    return next((value for value in values or () if _format_of_row(value)), None)
