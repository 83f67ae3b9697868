"""Label Studio's exports: several or cancelled annotations, other result types, UTF-16 offsets."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from flax_ner.data.files import ConversionWarnings, DataFile
from flax_ner.data.label_studio import read_label_studio
from flax_ner.errors import UserError
from flax_ner.text.examples import Entity
from tests.data.reading import read_all


def region(start: Any, end: Any, text: str | None = None, *labels: str) -> dict[str, Any]:
    value = {"start": start, "end": end, "labels": list(labels) or ["ORG"]}
    value |= {} if text is None else {"text": text}
    return {"id": "x", "type": "labels", "from_name": "l", "to_name": "t", "value": value}


def task(*results: dict[str, Any], text: str = "欧盟拒绝", **fields: Any) -> dict[str, Any]:
    return {"data": {"text": text}, "annotations": [{"result": list(results)}], **fields}


GOOD = task(region(0, 2, "欧盟"))
EXPECTED = (Entity("ORG", 0, 2, "欧盟"),)


def read(folder: Path, tasks: Any, skipped: list[str] | None = None) -> tuple[Any, list[str]]:
    path = folder / "export.json"
    path.write_text(json.dumps(tasks), "utf-8")
    warnings = ConversionWarnings()
    examples, description = read_all(
        read_label_studio, DataFile(path, skipped=skipped, warnings=warnings)
    )
    assert description == "Label Studio JSON"
    return examples, [line.replace(f" (first: {path}: task 1)", "") for line in warnings.lines()]


CANCELLED = {"result": [region(0, 1)], "was_cancelled": True}
OTHER = {"type": "choices", "value": {"choices": ["good"]}}


@pytest.mark.parametrize(
    ("tasks", "expected", "warnings"),
    [
        (GOOD, EXPECTED, []),
        (task(), (), []),
        ({"data": {"text": "欧盟拒绝"}}, None, []),
        ({"data": {"text": "欧盟拒绝"}, "annotations": []}, None, []),
        ({"data": {"text": "欧盟拒绝"}, "completions": GOOD["annotations"]}, EXPECTED, []),
        ({"data": {"sentence": "欧盟拒绝", "n": 3}, "annotations": GOOD["annotations"]}, EXPECTED,
         ["data field 'n', left out: 1"]),
        (GOOD | {"id": 7, "project": 1}, EXPECTED,
         ["tasks with ids, dates or other fields, which are left out: 1"]),
        (GOOD | {"annotations": [CANCELLED, *GOOD["annotations"]]}, EXPECTED,
         ["cancelled annotations, left out: 1"]),
        (GOOD | {"annotations": [CANCELLED]}, None, ["cancelled annotations, left out: 1"]),
        (GOOD | {"annotations": [*GOOD["annotations"], {"result": []}]}, EXPECTED,
         ["annotations after a task's first, left out: 1"]),
        (GOOD | {"predictions": [{"result": [], "score": 0.5}]}, EXPECTED,
         ["tasks with predictions, which are left out: 1"]),
        (task(region(0, 2, "欧盟"), OTHER), EXPECTED, ["results of type 'choices', left out: 1"]),
        (task({"type": "labels", "value": {"start": 0, "end": 1}}), (),
         ["regions without a label, left out: 1"]),
        (task(region(0, 2, "欧盟", "ORG", "GPE")), (*EXPECTED, Entity("GPE", 0, 2, "欧盟")), []),
        ({"text": "欧盟拒绝", "label": [region(0, 2, "欧盟")["value"]], "annotator": 1}, EXPECTED,
         ["field 'annotator', left out: 1"]),
        ({"text": "欧盟拒绝"}, None, []),
    ],
)  # fmt: skip
def test_tasks_are_read_and_dropped_information_is_counted(
    tmp_path: Path, tasks: dict[str, Any], expected: Any, warnings: list[str]
) -> None:
    (example,), counted = read(tmp_path, [tasks])
    assert (example.text, example.entities, counted) == ("欧盟拒绝", expected, warnings)
    assert example.source == f"{tmp_path / 'export.json'}: task 1"


def test_utf16_offsets_are_converted(tmp_path: Path) -> None:
    (example,), warnings = read(tmp_path, [task(region(3, 5, "欧盟"), text="😀，欧盟")])
    assert example.entities == (Entity("ORG", 2, 4, "欧盟"),)
    assert warnings == ["texts with UTF-16 offsets, converted to characters: 1"]
    (example,), warnings = read(tmp_path, [task(region(2, 4, "欧盟"), text="😀，欧盟")])
    assert example.entities == (Entity("ORG", 2, 4, "欧盟"),) and warnings == []


BAD = {
    "a string": ("ab", "not a JSON object"),
    "no text": ({"data": {"a": 1}}, 'cannot tell which field of "data" is the text (string fields: none)'),
    "two texts": (
        {"data": {"a": "x", "b": "y"}},
        'cannot tell which field of "data" is the text (string fields: a, b)',
    ),
    "nothing": ({"id": 3}, 'no "text"'),
    "annotations a number": ({"data": {"text": "a"}, "annotations": 3}, '"annotations" is not a list'),
    "no result": ({"data": {"text": "a"}, "annotations": [{}]}, 'an annotation has no list "result"'),
    "HyperText": (task({"type": "hypertextlabels"}), "the offsets of a HyperText region"),
    "no offsets": (task({"type": "labels", "value": {}}), 'a region without "start" and "end"'),
    "labels a string": (
        task({"type": "labels", "value": {"start": 0, "end": 1, "labels": "x"}}), '"labels" of a region'),
    "after the end": (task(region(0, 9)), "ORG has the span [0, 9) in a text of 4"),
    "strings": (task(region("0", 2)), "ORG: start is '0' (of type str). Give offsets"),
    "booleans": (task(region(0, True)), "ORG: end is True (of type bool). Give offsets"),
    "another text": (task(region(0, 2, "盟拒")), "ORG '盟拒' at [0, 2), but the text has '欧盟' there"),
    "JSON-MIN": ({"text": "a", "label": {}}, '"label" does not have the form'),
}  # fmt: skip


@pytest.mark.parametrize(("bad", "message"), BAD.values(), ids=BAD)
def test_error_names_file_and_task_or_is_skipped(tmp_path: Path, bad: Any, message: str) -> None:
    source = f"{tmp_path / 'export.json'}: task 2: "
    with pytest.raises(UserError, match=f"^{re.escape(source + message)}"):
        read(tmp_path, [GOOD, bad, GOOD])
    skipped: list[str] = []
    examples, _ = read(tmp_path, [GOOD, bad, GOOD], skipped)
    assert [e.entities for e in examples] == [EXPECTED] * 2
    assert len(skipped) == 1 and skipped[0].startswith(source)


def test_export_without_tasks_raises(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"export\.json: contains no examples\. Expected an array"):
        read(tmp_path, [])
