"""Read and write Label Studio's JSON export: an array of tasks, each with a text and its annotations.

Only regions of type `labels` on a `Text` are read. The smaller export JSON-MIN is supported, too:
`{"text": ..., "label": [{"start": ..., "end": ..., "labels": [...]}]}`.
Source: labelstud.io/guide/task_format and /guide/export.
"""

import json
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
)
from flax_ner.errors import UserError
from flax_ner.text.examples import Entity, Example
from flax_ner.text.utf8 import Line

_Span = tuple[Any, ...]  # unchecked: label, start, end, surface or None
FORM = '{"data": {"text": "..."}, "annotations": [{"result": [...]}]}'


def read_label_studio(
    path: Path, skipped: list[str] | None, warnings: ConversionWarnings
) -> tuple[list[Example], str]:
    """Read a Label Studio export. Only the first annotation of a task counts; without any it is unlabelled.

    Args:
        path: path of the file.
        skipped: see `collect_examples`.
        warnings: receives what an example cannot represent.

    Returns:
        The examples, and a description of the file for messages.

    Raises:
        UserError: a task is unreadable (see `collect_examples`). The message names file and task.
    """

    def make_example(record: Line | ParsedValue, source: str) -> Example:
        row = json_object(record, source, FORM)
        parse = _parse_task if "data" in row else _parse_json_min
        text, regions = parse(row, source, warnings)
        if regions is None:
            return Example(text, None, source)
        entities = _entities(text, regions, source, warnings)
        return Example(text, without_duplicates(entities, source, warnings), source)

    empty = f"{path}: contains no examples. Expected an array of tasks, {FORM}."
    examples = collect_examples(json_records(path, "task"), make_example, skipped, empty, "tasks")
    return examples, "Label Studio JSON"


def _parse_task(
    row: dict[str, Any], source: str, warnings: ConversionWarnings
) -> tuple[str, list[Any] | None]:
    """Return the text and the regions of a task; None for the regions if it is not annotated."""
    data = row["data"]
    texts = {k: v for k, v in data.items() if isinstance(v, str)} if isinstance(data, dict) else {}
    if "text" not in texts and len(texts) != 1:
        names = ", ".join(texts) or "none"
        raise UserError(
            f'{source}: cannot tell which field of "data" is the text (string fields: {names}). Rename it '
            'to "text".'
        )
    name = "text" if "text" in texts else next(iter(texts))
    for other in data:
        warnings.add(f"data field {other!r}, left out", source, other != name)
    warnings.add("tasks with ids, dates or other fields, which are left out", source,
                 bool(row.keys() - {"data", "annotations", "completions", "predictions"}))  # fmt: skip
    annotations = row.get("annotations")
    # Exports of old versions call them completions.
    annotations = row.get("completions") if annotations is None else annotations
    annotations = [] if annotations is None else annotations
    if not isinstance(annotations, list) or not all(isinstance(a, dict) for a in annotations):
        raise UserError(f'{source}: "annotations" is not a list of objects. Expected {FORM}.')
    kept = [annotation for annotation in annotations if not annotation.get("was_cancelled")]
    warnings.add("cancelled annotations, left out", source, len(annotations) - len(kept))
    warnings.add("annotations after a task's first, left out", source, max(len(kept) - 1, 0))
    warnings.add("tasks with predictions, which are left out", source, bool(row.get("predictions")))
    if not kept:
        return texts[name], None
    results = kept[0].get("result")
    if not isinstance(results, list):
        raise UserError(f'{source}: an annotation has no list "result". Expected {FORM}.')
    regions = []
    for result in results:
        result_type = result.get("type") if isinstance(result, dict) else None
        if result_type == "hypertextlabels":
            raise UserError(
                f"{source}: the offsets of a HyperText region refer to rendered HTML. Use the tag Text instead."
            )
        if result_type == "labels":
            regions.append(result.get("value"))
        else:
            warnings.add(f"results of type {result_type!r}, left out", source)
    return texts[name], regions


def _parse_json_min(
    row: dict[str, Any], source: str, warnings: ConversionWarnings
) -> tuple[str, list[Any] | None]:
    """Return text and regions as `_parse_task` does, for a row of JSON-MIN."""
    text, regions = row.pop("text", None), row.pop("label", None)
    if not isinstance(text, str):
        raise UserError(f'{source}: neither "data" nor "text". Expected {FORM}.')
    for name in row:
        warnings.add(f"field {name!r}, left out", source)
    if regions is not None and not isinstance(regions, list):
        raise UserError(f'{source}: "label" is not a list of regions.')
    return text, regions


def _entities(
    text: str, regions: list[Any], source: str, warnings: ConversionWarnings
) -> list[Entity]:
    spans: list[_Span] = []
    for region in regions:
        if not isinstance(region, dict) or "start" not in region or "end" not in region:
            raise UserError(f'{source}: a region without "start" and "end".')
        labels = region.get("labels") or []
        if not isinstance(labels, list):
            raise UserError(f'{source}: "labels" of a region is {labels!r}, not a list.')
        warnings.add("regions without a label, left out", source, not labels)
        spans += [(label, region["start"], region["end"], region.get("text")) for label in labels]
    if _surfaces_match(text, spans):
        return [checked_entity(label, start, end, text, source) for label, start, end, _ in spans]
    # Browsers count UTF-16 code units. Convert if all surfaces match then.
    converted = _from_utf16(text, spans)
    if _surfaces_match(text, converted):
        warnings.add("texts with UTF-16 offsets, converted to characters", source)
        spans = converted
    entities = [checked_entity(label, start, end, text, source) for label, start, end, _ in spans]
    for entity, (label, start, end, surface) in zip(entities, spans, strict=True):
        if isinstance(surface, str) and entity.text != surface:
            raise UserError(
                f"{source}: {label} {surface!r} at [{start}, {end}), but the text has {entity.text!r} there. "
                "Correct the offsets or the text."
            )
    return entities


def _from_utf16(text: str, spans: list[_Span]) -> list[_Span]:
    """Convert offsets in UTF-16 code units, where a character over U+FFFF counts as two, to characters."""
    character_offset, units = {0: 0}, 0  # by UTF-16 offset
    for i, character in enumerate(text, 1):
        units += 1 + (character > "\uffff")
        character_offset[units] = i
    return [
        (label, *(character_offset.get(x) if type(x) is int else None for x in offsets), surface)
        for label, *offsets, surface in spans
    ]


def _surfaces_match(text: str, spans: list[_Span]) -> bool:
    """Return whether the text has the surface of each span at its offsets."""
    return all(
        type(start) is int and type(end) is int and surface in (None, text[start:end])
        for _, start, end, surface in spans
    )


def write_label_studio(
    path: Path, examples: Sequence[Example], warnings: ConversionWarnings
) -> None:
    """Write tasks that Label Studio imports. An unlabelled example gets no annotation."""
    with open(path, "w", encoding="utf-8", errors="backslashreplace", newline="\n") as file:
        for number, example in enumerate(examples):
            task: dict[str, Any] = {"data": {"text": example.text}, "annotations": []}
            if example.entities is not None:
                task["annotations"] = [
                    {"result": [_region(e, example.text) for e in example.entities]}
                ]
            file.write(("[\n" if number == 0 else ",\n") + json.dumps(task, ensure_ascii=False))
        file.write("\n]\n" if examples else "[]\n")


def _region(entity: Entity, text: str) -> dict[str, Any]:
    value = {"start": entity.start, "end": entity.end, "text": text[entity.start : entity.end]}
    return {
        "type": "labels", "from_name": "label", "to_name": "text",
        "value": value | {"labels": [entity.type]},
    }  # fmt: skip
