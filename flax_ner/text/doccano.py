"""doccano's JSONL: `{"text": ..., "label": [[start, end, category], ...]}`, `end` exclusive.

Projects with relations export `"entities": [{"label": ..., "start_offset": ..., "end_offset": ...}]`
and `"relations"`; old versions say `labels` and `data`.
Source: doccano, backend/data_export/pipeline/factories.py and formatters.py.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from flax_ner.errors import UserError
from flax_ner.text.examples import Entity, Example
from flax_ner.text.files import (
    Losses,
    Value,
    checked_entity,
    collect,
    distinct,
    json_object,
    json_rows,
    write_json_lines,
)
from flax_ner.text.utf8 import Line

FORM = '{"text": "...", "label": [[start, end, category], ...]}'


def read_doccano(
    path: Path, skipped: list[str] | None, losses: Losses
) -> tuple[list[Example], str]:
    """Read doccano's JSONL, or an array of the same objects; a line without labels is unlabelled.

    Returns:
        The examples, and what the file was found to be.

    Raises:
        UserError: with file and line, for what cannot be read (see `collect`).
    """

    def example(unit: Line | Value, source: str) -> Example:
        row = json_object(unit, source, FORM)
        text = row.pop("text", None)
        if text is None:
            text = row.pop("data", None)
        if not isinstance(text, str):
            raise UserError(f'{source}: no "text". Expected is {FORM}.')
        given = [name for name in ("label", "labels", "entities") if row.get(name) is not None]
        spans = [span for name in given for span in _spans(row.pop(name), name, source)]
        for name, value in row.items():
            if value is not None and value != []:
                losses.add(f"field {name!r}, left out", source)
        if not given:
            return Example(text, None, source)
        entities = [checked_entity(kind, start, end, text, source) for start, end, kind in spans]
        return Example(text, distinct(entities, source, losses), source)

    empty = f"{path}: holds no examples. Expected is, a line, {FORM}."
    return collect(json_rows(path, "row"), example, skipped, empty), "doccano JSONL"


def _spans(given: Any, name: str, source: str) -> list[tuple[Any, Any, Any]]:
    try:
        if name == "entities":
            return [(span["start_offset"], span["end_offset"], span["label"]) for span in given]
        return [(start, end, kind) for start, end, kind in given]
    except (TypeError, ValueError, KeyError):
        form = "[[start, end, category], ...]"
        if name == "entities":
            form = '[{"label": category, "start_offset": start, "end_offset": end}, ...]'
        raise UserError(f'{source}: "{name}" is not of the form {form}.') from None


def write_doccano(path: Path, examples: Sequence[Example], losses: Losses) -> None:
    """Write doccano's JSONL; an unlabelled example gets no `label`."""

    def row(example: Example) -> dict[str, Any]:
        if example.entities is None:
            return {"text": example.text}
        return {"text": example.text, "label": [_span(e) for e in example.entities]}

    write_json_lines(path, map(row, examples))


def _span(entity: Entity) -> list[Any]:
    return [entity.start, entity.end, entity.type]
