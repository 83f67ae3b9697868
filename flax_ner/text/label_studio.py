"""Label Studio's JSON export: an array of tasks, each with its text and what annotators marked in it.

Read are regions of type `labels` on a `Text`. The smaller export JSON-MIN is read too:
`{"text": ..., "label": [{"start": ..., "end": ..., "labels": [...]}]}`.
Source: labelstud.io/guide/task_format and /guide/export.
"""

import json
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
)
from flax_ner.text.utf8 import Line

_Span = tuple[Any, ...]  # label, start, end, surface or None, none of them checked
FORM = '{"data": {"text": "..."}, "annotations": [{"result": [...]}]}'


def read_label_studio(
    path: Path, skipped: list[str] | None, losses: Losses
) -> tuple[list[Example], str]:
    """Read a Label Studio export; of several annotators the first counts, without any a task is unlabelled.

    Returns:
        The examples, and what the file was found to be.

    Raises:
        UserError: with file and task, for what cannot be read (see `collect`).
    """

    def example(unit: Line | Value, source: str) -> Example:
        row = json_object(unit, source, FORM)
        text, regions = (_task if "data" in row else _small)(row, source, losses)
        if regions is None:
            return Example(text, None, source)
        return Example(
            text, distinct(_entities(text, regions, source, losses), source, losses), source
        )

    empty = f"{path}: holds no examples. Expected is an array of tasks, {FORM}."
    examples = collect(json_rows(path, "task"), example, skipped, empty, "tasks")
    return examples, "Label Studio JSON"


def _task(row: dict[str, Any], source: str, losses: Losses) -> tuple[str, list[Any] | None]:
    """Text and regions of a task; None for the regions where nobody has annotated it."""
    data = row["data"]
    texts = {k: v for k, v in data.items() if isinstance(v, str)} if isinstance(data, dict) else {}
    if "text" not in texts and len(texts) != 1:
        names = ", ".join(texts) or "none"
        raise UserError(
            f'{source}: which field of "data" is the text? Fields of text: {names}. Call it "text".'
        )
    name = "text" if "text" in texts else next(iter(texts))
    for other in data:
        losses.add(f"field {other!r} of the data, left out", source, other != name)
    losses.add("ids, dates and whatever else is beside data and annotations, left out", source,
               bool(row.keys() - {"data", "annotations", "completions", "predictions"}))  # fmt: skip
    given = row.get("annotations")
    given = row.get("completions") if given is None else given
    given = [] if given is None else given
    if not isinstance(given, list) or not all(isinstance(a, dict) for a in given):
        raise UserError(f'{source}: "annotations" is no list of objects. Expected is {FORM}.')
    kept = [annotation for annotation in given if not annotation.get("was_cancelled")]
    losses.add("annotations that were cancelled, left out", source, len(given) - len(kept))
    losses.add("annotations by further annotators, left out", source, max(len(kept) - 1, 0))
    losses.add("tasks with predictions, which are left out", source, bool(row.get("predictions")))
    if not kept:
        return texts[name], None
    results = kept[0].get("result")
    if not isinstance(results, list):
        raise UserError(f'{source}: an annotation has no list "result". Expected is {FORM}.')
    regions = []
    for result in results:
        kind = result.get("type") if isinstance(result, dict) else None
        if kind == "hypertextlabels":
            raise UserError(
                f"{source}: a region of HyperText, whose offsets count in rendered HTML. Use the tag Text."
            )
        if kind == "labels":
            regions.append(result.get("value"))
        else:
            losses.add(f"results of type {kind!r}, left out", source)
    return texts[name], regions


def _small(row: dict[str, Any], source: str, losses: Losses) -> tuple[str, list[Any] | None]:
    """As `_task`, of JSON-MIN."""
    text, regions = row.pop("text", None), row.pop("label", None)
    if not isinstance(text, str):
        raise UserError(f'{source}: no "data" and no "text". Expected is {FORM}.')
    for name in row:
        losses.add(f"field {name!r}, left out", source)
    if regions is not None and not isinstance(regions, list):
        raise UserError(f'{source}: "label" is no list of regions.')
    return text, regions


def _entities(text: str, regions: list[Any], source: str, losses: Losses) -> list[Entity]:
    spans: list[_Span] = []
    for region in regions:
        if not isinstance(region, dict) or "start" not in region or "end" not in region:
            raise UserError(f'{source}: a region without "start" and "end".')
        labels = region.get("labels") or []
        if not isinstance(labels, list):
            raise UserError(f'{source}: "labels" of a region is {labels!r}, no list.')
        losses.add("regions without a label, left out", source, not labels)
        spans += [(label, region["start"], region["end"], region.get("text")) for label in labels]
    if _all_there(text, spans):
        return [checked_entity(label, start, end, text, source) for label, start, end, _ in spans]
    moved = _from_utf16(text, spans)
    if _all_there(text, moved):
        losses.add("texts whose offsets count UTF-16, put right", source)
        spans = moved
    entities = [checked_entity(label, start, end, text, source) for label, start, end, _ in spans]
    for found, (label, start, end, word) in zip(entities, spans, strict=True):
        if isinstance(word, str) and found.text != word:
            raise UserError(
                f"{source}: {label} {word!r} at [{start}, {end}), where the text has {found.text!r}. "
                "Correct the offsets or the text."
            )
    return entities


def _from_utf16(text: str, spans: list[_Span]) -> list[_Span]:
    """The spans by characters where they count UTF-16, in which one over U+FFFF is two."""
    place, units = {0: 0}, 0
    for i, character in enumerate(text, 1):
        units += 1 + (character > "\uffff")
        place[units] = i
    return [
        (label, *(place.get(edge) if type(edge) is int else None for edge in edges), word)
        for label, *edges, word in spans
    ]


def _all_there(text: str, spans: list[_Span]) -> bool:
    """Whether the text has each region's surface where the region is."""
    return all(
        type(start) is int and type(end) is int and word in (None, text[start:end])
        for _, start, end, word in spans
    )


def write_label_studio(path: Path, examples: Sequence[Example], losses: Losses) -> None:
    """Write tasks that Label Studio imports; an unlabelled example gets no annotation."""
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
