"""Read and write CLUENER's JSON lines: `{"text": ..., "label": {category: {surface: [[start, end], ...]}}}`."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from flax_ner.data.field_names import Span, check_unlabelled
from flax_ner.data.files import ConversionWarnings, DataFile, collect, without_duplicates
from flax_ner.data.json_rows import ParsedValue, json_object, json_records, write_json_lines
from flax_ner.data.offsets import entities_from_spans
from flax_ner.data.row_fields import fields_with_spans
from flax_ner.errors import UserError
from flax_ner.text.examples import Entity, Example, offset_type_error
from flax_ner.text.utf8 import Line

FORM = '{"text": "...", "label": {category: {surface: [[start, end], ...]}}}'

_EXCLUSIVE = " If `end` is exclusive in this file, read it with --end exclusive (data.end)."
CATEGORIES = (
    "address", "book", "company", "game", "government",
    "movie", "name", "organization", "position", "scene",
)  # fmt: skip


def read_cluener(path: str | Path, skipped: list[str] | None = None) -> list[Example]:
    """Read a CLUENER file, see `read_cluener_file`.

    Args:
        path: path of the file.
        skipped: see `DataFile`.

    Raises:
        UserError: a line does not have the form. The message names file and line.
    """
    return collect(read_cluener_file(DataFile(Path(path), skipped=skipped))[0])


def read_cluener_file(file: DataFile) -> tuple[Iterable[Example], str]:
    """Read CLUENER's objects: `{"text": ..., "label": {category: {surface: [[start, end], ...]}}}`.

    Offsets count characters. `end` is inclusive in the file and exclusive in the result. An object
    without `label` gives an unlabelled example.

    Returns:
        The examples, with their entities in the order of the file; and a description for messages.

    Raises:
        UserError: an object does not have this form (see `DataFile.convert`). The message names file
            and line.
    """
    end = file.options.end or "inclusive"
    examples = file.convert(
        json_records(file, "row"),
        lambda record, source: _parse_record(record, source, file.warnings, end),
        "one JSON object per line",
    )
    return examples, f"CLUENER JSON lines{'' if end == 'inclusive' else ', `end` exclusive'}"


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


def _parse_record(
    record: Line | ParsedValue, source: str, warnings: ConversionWarnings, end: str
) -> Example:
    row = json_object(record, source, FORM)
    if not isinstance(row.get("text"), str):
        raise UserError(f'{source}: no "text". Expected {FORM}.')
    text, label = row["text"], row.get("label")
    rest = {name: value for name, value in row.items() if name not in ("text", "label")}
    if label is None:
        check_unlabelled(rest, text, source, FORM)
    elif not label:
        check_unlabelled(fields_with_spans(rest), text, source, FORM)
    for name in rest:
        warnings.add(f"field {name!r}, left out", source)
    if label is None:
        return Example(text, None, source)
    spans = []
    try:
        for category, surfaces in label.items():
            for surface, places in surfaces.items():
                warnings.add("surfaces without a span, left out", source, places == [])
                for first, last in places:
                    spans.append(Span(category, first, last, surface))
    except (AttributeError, TypeError, ValueError):
        raise UserError(
            f'{source}: "label" does not have the form {{category: {{surface: [[start, end], ...]}}}}.'
        ) from None
    if end == "exclusive":
        entities = entities_from_spans(text, spans, source, warnings, end)
    elif all(_is_found(text, span) for span in spans):
        entities = [Entity(s.type, s.start, s.end + 1, s.surface or "") for s in spans]
    else:
        _check_offsets(text, spans, source)
        entities = entities_from_spans(text, spans, source, warnings, "inclusive")
    return Example(text, without_duplicates(entities, source, warnings), source)


def _is_found(text: str, span: Span) -> bool:
    start, end = span.start, span.end
    return (
        type(start) is type(end) is int
        and bool(span.type)
        and 0 <= start <= end < len(text)
        and text[start : end + 1] == span.surface
    )


def _check_offsets(text: str, spans: list[Span], source: str) -> None:
    units = len(text.encode("utf-16-le", "surrogatepass")) // 2
    for category, start, end, surface, _ in spans:
        if error := offset_type_error(start, end):
            raise UserError(f"{source}: {category} {surface!r}: {error}")
        if not 0 <= start <= end < units:
            raise UserError(
                f"{source}: {category} {surface!r} has the span [{start}, {end}] in a text of "
                f"{len(text)} characters. Expected 0 <= start <= end < {len(text)}, end inclusive."
                f"{_EXCLUSIVE if end == len(text) else ''}"
            )
