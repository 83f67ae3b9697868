"""doccano's exports: every shape of them, and what is refused by file and line."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from flax_ner.errors import UserError
from flax_ner.text.doccano import read_doccano
from flax_ner.text.examples import Entity
from flax_ner.text.files import Losses

GOOD = '{"text": "欧盟拒绝", "label": [[0, 2, "ORG"]]}'
EXPECTED = (Entity("ORG", 0, 2, "欧盟"),)
SPAN = {"id": 4, "label": "ORG", "start_offset": 0, "end_offset": 2}


def write(folder: Path, data: str) -> Path:
    path = folder / "data.jsonl"
    path.write_text(data, "utf-8")
    return path


@pytest.mark.parametrize(
    ("row", "expected", "losses"),
    [
        ({"id": 1, "text": "欧盟拒绝", "label": [[0, 2, "ORG"]], "Comments": []}, EXPECTED, ["id"]),
        ({"text": "欧盟拒绝", "labels": [[0, 2, "ORG"]]}, EXPECTED, []),
        ({"data": "欧盟拒绝", "label": [[0, 2, "ORG"]], "meta": {"a": 1}}, EXPECTED, ["meta"]),
        ({"text": "欧盟拒绝", "entities": [SPAN], "relations": []}, EXPECTED, []),
        ({"text": "欧盟拒绝", "entities": [SPAN], "relations": [{}]}, EXPECTED, ["relations"]),
        ({"text": "欧盟拒绝", "label": []}, (), []),
        ({"text": "欧盟拒绝"}, None, []),
    ],
)
def test_every_shape_of_its_exports_is_read(
    tmp_path: Path, row: dict[str, Any], expected: tuple[Entity, ...] | None, losses: list[str]
) -> None:
    for data in (json.dumps(row), json.dumps([row], indent=1)):
        found = Losses()
        path = write(tmp_path, data)
        (example,), kind = read_doccano(path, None, found)
        assert (example.text, example.entities, kind) == ("欧盟拒绝", expected, "doccano JSONL")
        source = f"{path}: row 1" if data.startswith("[") else f"{path}:1"
        assert example.source == source
        lost = [f"field {name!r}, left out: 1 (first: {source})" for name in losses]
        assert found.lines() == lost


BAD = {
    "not JSON": ("欧盟", "not JSON"),
    "a list": ('"ab"', "no JSON object"),
    "no text": ('{"label": []}', 'no "text"'),
    "a span of two": ('{"text": "ab", "label": [[0, 1]]}', '"label" is not of the form [[start'),
    "a name alone": ('{"text": "ab", "label": ["x"]}', '"label" is not of the form'),
    "a number": ('{"text": "ab", "label": 3}', '"label" is not of the form'),
    "no offsets": (
        '{"text": "ab", "entities": [{"label": "x"}]}',
        '"entities" is not of the form [{',
    ),
    "behind the end": (
        '{"text": "ab", "label": [[0, 3, "x"]]}',
        "x has the span [0, 3) in a text of 2",
    ),
    "empty": ('{"text": "ab", "label": [[1, 1, "x"]]}', "x has the span [1, 1)"),
    "fractions": ('{"text": "ab", "label": [[0.0, 1.0, "x"]]}', "x: start is 0.0 (of type float)"),
    "strings": ('{"text": "ab", "label": [["0", "1", "x"]]}', "x: start is '0' (of type str)"),
    "null": ('{"text": "ab", "label": [[0, null, "x"]]}', "x: end is None (null)"),
    "category a number": ('{"text": "ab", "label": [[0, 1, 7]]}', "the category of [0, 1) is 7"),
    "no category": ('{"text": "ab", "label": [[0, 1, ""]]}', "the category of [0, 1) is ''"),
}


@pytest.mark.parametrize(("line", "message"), BAD.values(), ids=BAD)
def test_a_bad_line_is_named_or_skipped(tmp_path: Path, line: str, message: str) -> None:
    path = write(tmp_path, f"{GOOD}\n\n{line}\n{GOOD}\n")
    with pytest.raises(UserError, match=f"^{re.escape(f'{path}:3: {message}')}"):
        read_doccano(path, None, Losses())
    skipped: list[str] = []
    examples, _ = read_doccano(path, skipped, Losses())
    assert [e.entities for e in examples] == [EXPECTED] * 2
    assert len(skipped) == 1 and skipped[0].startswith(f"{path}:3: ")


def test_an_entity_that_is_there_twice_is_taken_once(tmp_path: Path) -> None:
    path, losses = write(tmp_path, '{"text": "ab", "label": [[0, 1, "x"], [0, 1, "x"]]}'), Losses()
    (example,), _ = read_doccano(path, None, losses)
    assert example.entities == (Entity("x", 0, 1, "a"),)
    assert losses.lines() == [f"entities that are there twice, taken once: 1 (first: {path}:1)"]


def test_a_broken_array_is_named_by_line(tmp_path: Path) -> None:
    path = write(tmp_path, f"[\n{GOOD},\n{GOOD[:-1]}\n]")
    with pytest.raises(UserError, match=re.escape(f"{path}:4: not JSON (Expecting ',' delimiter")):
        read_doccano(path, None, Losses())
