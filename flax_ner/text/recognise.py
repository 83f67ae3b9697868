"""What format a file is in, by its content."""

import json
from pathlib import Path
from typing import Any

from flax_ner.text.brat import TEXT_BOUND
from flax_ner.text.columns import DOCUMENT, is_tagged
from flax_ner.text.utf8 import content

JSON = (".json", ".jsonl", ".ndjson")  # names of files with JSON
COLUMNS = (".conll", ".bio", ".bioes", ".bmes")  # and with columns
LOOKED_AT = 1 << 20  # bytes
LINES = 50  # of them, to tell columns and JSON from text
ROWS = 1000  # of them, to tell one kind of JSON from another


def recognise(path: Path) -> str | None:
    """The format of a data file or a folder, one of `FORMATS`; None where it looks like none of them.

    Looked at are the first lines that say something. Broken ones do not count: of a file with some the
    others decide, so that its reader can name them.
    """
    if path.is_dir():
        return "brat" if any(path.glob("*.txt")) or any(path.glob("*.ann")) else None
    text = content(path)[:LOOKED_AT].decode("utf-8-sig", "replace")
    rows = [row for row in text.split("\n", ROWS) if row.strip()]
    shown = [row for row in rows[:LINES] if not row.startswith(("# ", DOCUMENT))]
    if sum(map(is_tagged, shown)) * 2 > len(shown):
        return "conll"
    if any(TEXT_BOUND.fullmatch(row) for row in rows[:LINES]):
        return "brat"
    if text.lstrip().startswith("["):
        return _of_row(_first_of_array(path))
    if sum(row.lstrip().startswith("{") for row in rows[:LINES]) * 2 <= len(rows[:LINES]):
        return _beside(path)
    # A text alone is an example in several of the formats: the first other one decides.
    return next((name for name in map(_of_row, map(_json, rows)) if name), "cluener")


def format_by_name(path: Path) -> str | None:
    """What a file of texts holds, as its name says.

    Content decides nothing here: a line of text may look like a token and its tag.

    Returns:
        "auto" for JSON, whose kind the content says, and for folders; "conll" or "brat"; None for
        any other name, which is plain text.
    """
    suffix = path.suffix.lower()
    if path.is_dir() or suffix in JSON:
        return "auto"
    if suffix in COLUMNS:
        return "conll"
    return "brat" if suffix == ".ann" else None


def _beside(path: Path) -> str | None:
    annotations = path.with_suffix(".ann")
    return "brat" if path.suffix == ".txt" and annotations.is_file() else None


def _of_row(row: Any) -> str | None:
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


def _json(line: str) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None


def _first_of_array(path: Path) -> Any:
    """The first element that says something of an array of any size."""
    values = _json(content(path).decode("utf-8-sig", "replace"))
    return next((value for value in values or () if _of_row(value)), None)
