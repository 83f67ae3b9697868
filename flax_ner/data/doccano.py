"""Read and write doccano's JSONL: `{"text": ..., "label": [[start, end, category], ...]}`, `end` exclusive.

Projects with relations export `"entities": [{"label": ..., "start_offset": ..., "end_offset": ...}]`
and `"relations"`. Old versions name the fields `labels` and `data`.
Source: doccano, backend/data_export/pipeline/factories.py and formatters.py.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from flax_ner.data.files import (
    ConversionWarnings,
    ParsedValue,
    checked_entity,
    collect_examples,
    json_object,
    json_records,
    without_duplicates,
    write_json_lines,
)
from flax_ner.errors import UserError
from flax_ner.text.examples import Entity, Example
from flax_ner.text.utf8 import Line

FORM = '{"text": "...", "label": [[start, end, category], ...]}'


def read_doccano(
    path: Path, skipped: list[str] | None, warnings: ConversionWarnings
) -> tuple[list[Example], str]:
    """Read doccano's JSONL, or a JSON array of the same objects. A row without labels is unlabelled.

    Args:
        path: path of the file.
        skipped: see `collect_examples`.
        warnings: receives what an example cannot represent.

    Returns:
        The examples, and a description of the file for messages.

    Raises:
        UserError: a row is unreadable (see `collect_examples`). The message names file and line.
    """

    def make_example(record: Line | ParsedValue, source: str) -> Example:
        row = json_object(record, source, FORM)
        text = row.pop("text", None)
        if text is None:
            text = row.pop("data", None)
        if not isinstance(text, str):
            raise UserError(f'{source}: no "text". Expected {FORM}.')
        label_fields = [
            name for name in ("label", "labels", "entities") if row.get(name) is not None
        ]
        spans = [span for name in label_fields for span in _spans(row.pop(name), name, source)]
        for name, value in row.items():
            if value is not None and value != []:
                warnings.add(f"field {name!r}, left out", source)
        if not label_fields:
            return Example(text, None, source)
        entities = [
            checked_entity(category, start, end, text, source) for start, end, category in spans
        ]
        return Example(text, without_duplicates(entities, source, warnings), source)

    empty = f"{path}: contains no examples. Expected on each line {FORM}."
    records = json_records(path, "row")
    return collect_examples(records, make_example, skipped, empty), "doccano JSONL"


def _spans(value: Any, name: str, source: str) -> list[tuple[Any, Any, Any]]:
    """Return the unchecked (start, end, category) of each span."""
    try:
        if name == "entities":
            return [(span["start_offset"], span["end_offset"], span["label"]) for span in value]
        return [(start, end, category) for start, end, category in value]
    except (TypeError, ValueError, KeyError):
        form = "[[start, end, category], ...]"
        if name == "entities":
            form = '[{"label": category, "start_offset": start, "end_offset": end}, ...]'
        raise UserError(f'{source}: "{name}" does not have the form {form}.') from None


def write_doccano(path: Path, examples: Sequence[Example], warnings: ConversionWarnings) -> None:
    """Write doccano's JSONL. An unlabelled example gets no `label`."""

    def row(example: Example) -> dict[str, Any]:
        if example.entities is None:
            return {"text": example.text}
        return {"text": example.text, "label": [_span(e) for e in example.entities]}

    write_json_lines(path, map(row, examples))


def _span(entity: Entity) -> list[Any]:
    return [entity.start, entity.end, entity.type]
