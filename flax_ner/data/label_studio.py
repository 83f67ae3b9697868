"""Read and write Label Studio's JSON export: an array of tasks, each with a text and its annotations.

Only regions of type `labels` on a `Text` are read. The smaller export JSON-MIN is supported, too:
`{"text": ..., "label": [{"start": ..., "end": ..., "labels": [...]}]}`.
Source: labelstud.io/guide/task_format and /guide/export.
"""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from flax_ner.data.field_names import Span
from flax_ner.data.files import ConversionWarnings, DataFile, without_duplicates
from flax_ner.data.json_rows import ParsedValue, json_object, json_records
from flax_ner.data.offsets import entities_from_spans
from flax_ner.data.row_fields import hypertext_error
from flax_ner.data.span_rows import check_no_address, example_of_row
from flax_ner.data.span_rules import SpanRules
from flax_ner.errors import UserError
from flax_ner.text.examples import Entity, Example
from flax_ner.text.utf8 import Line

FORM = '{"data": {"text": "..."}, "annotations": [{"result": [...]}]}'


def read_label_studio(file: DataFile) -> tuple[Iterable[Example], str]:
    """Read a Label Studio export. Only the first annotation of a task counts; without any it is unlabelled.

    Returns:
        The examples, and a description of the file for messages.

    Raises:
        UserError: a task is unreadable (see `DataFile.convert`). The message names file and task.
    """

    def make_example(record: Line | ParsedValue, source: str) -> Example:
        row = json_object(record, source, FORM)
        if "data" not in row:
            rules = SpanRules(file.options.end or "exclusive", field="label")
            return example_of_row(row, source, file, rules)
        text, regions = _parse_task(row, source, file.warnings)
        check_no_address(text, source, of_tool=True)
        if regions is None:
            return Example(text, None, source)
        spans = _spans(regions, source, file.warnings)
        entities = entities_from_spans(
            text,
            spans,
            source,
            file.warnings,
            file.options.end or "exclusive",
            file.options.offset_unit,
        )
        return Example(text, without_duplicates(entities, source, file.warnings), source)

    examples = file.convert(
        json_records(file, "task"), make_example, f"an array of tasks, {FORM}", "tasks"
    )
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
        if result_type == "paragraphlabels":
            raise UserError(
                f"{source}: the offsets of a Paragraphs region refer to a paragraph. Use the tag Text instead."
            )
        if result_type == "hypertextlabels":
            raise hypertext_error(source)
        if result_type == "labels" and not _is_of_other_field(result, texts, name):
            regions.append(result.get("value"))
        elif result_type == "labels":
            warnings.add(f"regions of the data field {result['to_name']!r}, left out", source)
        else:
            warnings.add(f"results of type {result_type!r}, left out", source)
    # Choices, ratings and the like say nothing about entities.
    return texts[name], regions if regions or not results else None


def _is_of_other_field(result: dict[str, Any], texts: dict[str, str], name: str) -> bool:
    """Return whether a region is in another text than the field `name`.

    `to_name` is the name of a tag in the labelling configuration, which usually is that of the field.
    """
    target, value = result.get("to_name"), result.get("value")
    if target not in texts or target == name or not isinstance(value, dict):
        return False
    start, end, surface = value.get("start"), value.get("end"), value.get("text")
    return surface is None or not (
        type(start) is type(end) is int and texts[name][start:end] == surface
    )


def _spans(regions: list[Any], source: str, warnings: ConversionWarnings) -> list[Span]:
    spans: list[Span] = []
    for region in regions:
        if not isinstance(region, dict) or "start" not in region or "end" not in region:
            raise UserError(f'{source}: a region without "start" and "end".')
        labels = region.get("labels") or []
        if not isinstance(labels, list):
            raise UserError(f'{source}: "labels" of a region is {labels!r}, not a list.')
        warnings.add("regions without a label, left out", source, not labels)
        surface = region.get("text")
        surface = surface if isinstance(surface, str) else None
        spans += [Span(label, region["start"], region["end"], surface) for label in labels]
    return spans


def write_label_studio(
    path: Path, examples: Sequence[Example], warnings: ConversionWarnings
) -> None:
    """Write tasks that Label Studio imports. An unlabelled example gets no annotation."""

    def task(example: Example) -> dict[str, Any]:
        annotations = []
        if example.entities is not None:
            annotations = [{"result": [_region(e, example.text) for e in example.entities]}]
        return {"data": {"text": example.text}, "annotations": annotations}

    _write_tasks(path, map(task, examples))


def write_predictions(path: Path, examples: Sequence[Example]) -> None:
    """Write tasks with predictions, which Label Studio shows to annotators as a start.

    The score of a task is that of its least certain entity, so that sorting by it brings doubtful texts first.
    """
    tasks = []
    for example in examples:
        entities = example.entities or ()
        prediction = {
            "model_version": "flax_ner",
            "score": min((e.score for e in entities), default=1.0),
            "result": [_region(e, example.text) | {"score": e.score} for e in entities],
        }
        tasks.append({"data": {"text": example.text}, "predictions": [prediction]})
    _write_tasks(path, tasks)


def _write_tasks(path: Path, tasks: Iterable[dict[str, Any]]) -> None:
    with open(path, "w", encoding="utf-8", errors="backslashreplace", newline="\n") as file:
        file.write("[")
        for number, task in enumerate(tasks):
            file.write(("\n" if number == 0 else ",\n") + json.dumps(task, ensure_ascii=False))
        file.write("\n]\n" if file.tell() > 1 else "]\n")


def _region(entity: Entity, text: str) -> dict[str, Any]:
    value = {"start": entity.start, "end": entity.end, "text": text[entity.start : entity.end]}
    return {
        "type": "labels", "from_name": "label", "to_name": "text",
        "value": value | {"labels": [entity.type]},
    }  # fmt: skip
