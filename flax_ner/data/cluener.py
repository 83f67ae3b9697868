"""Read and write CLUENER's JSON lines: `{"text": ..., "label": {category: {surface: [[start, end], ...]}}}`."""

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from flax_ner.data.files import (
    ConversionWarnings,
    collect_examples,
    parse_json,
    write_json_lines,
)
from flax_ner.errors import UserError
from flax_ner.text.examples import Entity, Example, offset_type_error
from flax_ner.text.utf8 import Line, decode_line, read_lines

CATEGORIES = (
    "address", "book", "company", "game", "government",
    "movie", "name", "organization", "position", "scene",
)  # fmt: skip


def read_cluener(
    path: str | Path, skipped: list[str] | None = None, warnings: ConversionWarnings | None = None
) -> list[Example]:
    """Read CLUENER JSON lines: `{"text": ..., "label": {category: {surface: [[start, end], ...]}}}`.

    Offsets count characters. `end` is inclusive in the file and exclusive in the result. A line
    without `label` gives an unlabelled example.

    Args:
        path: path of the file.
        skipped: see `read_examples`.
        warnings: receives the fields that are left out.

    Returns:
        The examples, with their entities in the order of the file.

    Raises:
        UserError: a line does not have this form. The message names file and line.
    """
    path = Path(path)
    records = ((f"{path}:{number}", line) for number, line in enumerate(read_lines(path), 1))
    empty = f"{path}: contains no examples. Expected one JSON object per line."
    warnings = warnings or ConversionWarnings()
    return collect_examples(
        records, lambda line, source: _parse_line(line, source, warnings), skipped, empty
    )


def write_cluener(path: str | Path, examples: Iterable[Example]) -> None:
    """Write examples as CLUENER JSON lines. An unlabelled example gets no `label`."""

    def row(example: Example) -> dict[str, Any]:
        if example.entities is None:
            return {"text": example.text}
        return {"text": example.text, "label": cluener_label(example.text, example.entities)}

    write_json_lines(Path(path), map(row, examples))


def cluener_label(text: str, entities: Iterable[Entity]) -> dict[str, dict[str, list[list[int]]]]:
    """Return the value of `label` for a text with these entities."""
    label: dict[str, dict[str, list[list[int]]]] = {}
    for entity in entities:
        spans = label.setdefault(entity.type, {}).setdefault(text[entity.start : entity.end], [])
        spans.append([entity.start, entity.end - 1])
    return label


def _parse_line(line: Line, source: str, warnings: ConversionWarnings) -> Example | None:
    content = decode_line(line, source)
    if not content.strip():
        return None
    row = parse_json(content, source)
    if not isinstance(row, dict) or not isinstance(row.get("text"), str):
        raise UserError(f'{source}: no "text". Expected {{"text": "...", "label": {{...}}}}.')
    text, label = row["text"], row.get("label")
    for name in row.keys() - {"text", "label"}:
        warnings.add(f"field {name!r}, left out", source)
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
            f'{source}: "label" does not have the form {{category: {{surface: [[start, end], ...]}}}}.'
        ) from None
    for category, surface, start, end in entities:
        if error := offset_type_error(start, end):
            raise UserError(f"{source}: {category} {surface!r}: {error}")
        if not 0 <= start <= end < len(text):
            raise UserError(
                f"{source}: {category} {surface!r} has the span [{start}, {end}] in a text of "
                f"{len(text)} characters. Expected 0 <= start <= end < {len(text)}, end inclusive."
            )
        if text[start : end + 1] != surface:
            raise UserError(
                f"{source}: {category} {surface!r} at [{start}, {end}], but the text has "
                f"{text[start : end + 1]!r} there. Correct the span or the surface."
            )
    if len(set(entities)) < len(entities):
        counts = Counter(entities)
        category, surface, start, end = next(e for e in entities if counts[e] > 1)
        raise UserError(
            f"{source}: {category} {surface!r} at [{start}, {end}] is a duplicate. Delete one."
        )
    return Example(text, tuple(Entity(c, s, e + 1, t) for c, t, s, e in entities), source)
