"""CLUENER's JSON lines: `{"text": ..., "label": {category: {surface: [[start, end], ...]}}}`."""

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from flax_ner.errors import UserError
from flax_ner.text.examples import Entity, Example, type_fault
from flax_ner.text.files import Losses, collect, parse, write_json_lines
from flax_ner.text.utf8 import Line, decoded, lines


def read_cluener(
    path: str | Path, skipped: list[str] | None = None, losses: Losses | None = None
) -> list[Example]:
    """Read CLUENER JSON lines: `{"text": ..., "label": {category: {surface: [[start, end], ...]}}}`.

    Offsets count characters and `end` is inclusive in the file, exclusive in the result. A line
    without `label` gives an unlabelled example. Entities keep the order of the file. `skipped` is
    as in `read_examples`; `losses` takes what else the lines have.

    Raises:
        UserError: with file and line, for anything that is not of that form.
    """
    path = Path(path)
    units = ((f"{path}:{number}", line) for number, line in enumerate(lines(path), 1))
    empty = f"{path}: holds no examples. One JSON object a line is expected."
    losses = losses or Losses()
    return collect(
        units, lambda line, source: _cluener_example(line, source, losses), skipped, empty
    )


def write_cluener(path: str | Path, examples: Iterable[Example]) -> None:
    """Write examples as CLUENER JSON lines; an unlabelled example gets no `label`."""

    def row(example: Example) -> dict[str, Any]:
        if example.entities is None:
            return {"text": example.text}
        return {"text": example.text, "label": cluener_label(example.text, example.entities)}

    write_json_lines(Path(path), map(row, examples))


def cluener_label(text: str, entities: Iterable[Entity]) -> dict[str, dict[str, list[list[int]]]]:
    """The `label` of a text with these entities."""
    label: dict[str, dict[str, list[list[int]]]] = {}
    for entity in entities:
        spans = label.setdefault(entity.type, {}).setdefault(text[entity.start : entity.end], [])
        spans.append([entity.start, entity.end - 1])
    return label


def _cluener_example(line: Line, source: str, losses: Losses) -> Example | None:
    written = decoded(line, source)
    if not written.strip():
        return None
    row = parse(written, source)
    if not isinstance(row, dict) or not isinstance(row.get("text"), str):
        raise UserError(f'{source}: no "text". A line is {{"text": "...", "label": {{...}}}}.')
    text, label = row["text"], row.get("label")
    for name in row.keys() - {"text", "label"}:
        losses.add(f"field {name!r}, left out", source)
    if label is None:
        return Example(text, None, source)
    entities = []
    try:
        for category, surfaces in label.items():
            for surface, spans in surfaces.items():
                for start, end in spans:
                    entities.append((category, surface, start, end))
    except (AttributeError, TypeError, ValueError):
        raise UserError(
            f'{source}: "label" is not of the form {{category: {{surface: [[start, end], ...]}}}}.'
        ) from None
    for category, surface, start, end in entities:
        if fault := type_fault(start, end):
            raise UserError(f"{source}: {category} {surface!r}: {fault}")
        if not 0 <= start <= end < len(text):
            raise UserError(
                f"{source}: {category} {surface!r} has the span [{start}, {end}] in a text of "
                f"{len(text)} characters. Expected 0 <= start <= end < {len(text)}, end inclusive."
            )
        if text[start : end + 1] != surface:
            raise UserError(
                f"{source}: {category} {surface!r} at [{start}, {end}], where the text has "
                f"{text[start : end + 1]!r}. Correct the span or the surface."
            )
    if len(set(entities)) < len(entities):
        counts = Counter(entities)
        category, surface, start, end = next(e for e in entities if counts[e] > 1)
        raise UserError(
            f"{source}: {category} {surface!r} at [{start}, {end}] is there twice. Delete one."
        )
    return Example(text, tuple(Entity(c, s, e + 1, t) for c, t, s, e in entities), source)
