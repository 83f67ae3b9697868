"""doccano's exports: all their forms, and errors with file and line."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from flax_ner.data.files import ConversionWarnings, DataFile
from flax_ner.data.span_rows import read_spans
from flax_ner.errors import UserError
from flax_ner.text.examples import Entity
from tests.data.reading import read_all

GOOD = '{"text": "欧盟拒绝", "label": [[0, 2, "ORG"]]}'
EXPECTED = (Entity("ORG", 0, 2, "欧盟"),)
SPAN = {"id": 4, "label": "ORG", "start_offset": 0, "end_offset": 2}


def write(folder: Path, data: str) -> Path:
    path = folder / "data.jsonl"
    path.write_text(data, "utf-8")
    return path


@pytest.mark.parametrize(
    ("row", "expected", "warnings"),
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
def test_reads_every_export_form(
    tmp_path: Path, row: dict[str, Any], expected: tuple[Entity, ...] | None, warnings: list[str]
) -> None:
    for data in (json.dumps(row), json.dumps([row], indent=1)):
        counted = ConversionWarnings()
        path = write(tmp_path, data)
        (example,), description = read_all(read_spans, DataFile(path, warnings=counted), "doccano")
        assert (example.text, example.entities, description) == (
            "欧盟拒绝",
            expected,
            "doccano JSONL, `end` exclusive",
        )
        source = f"{path}: row 1" if data.startswith("[") else f"{path}:1"
        assert example.source == source
        expected_lines = [f"field {name!r}, left out: 1 (first: {source})" for name in warnings]
        assert counted.lines() == expected_lines


BAD = {
    "not JSON": ("欧盟", "not JSON"),
    "a list": ('"ab"', "not a JSON object"),
    "no text": ('{"label": []}', 'no "text"'),
    "a span of two": (
        '{"text": "ab", "label": [[0, 1]]}',
        '"label" does not have the form [[start',
    ),
    "a name alone": ('{"text": "ab", "label": ["x"]}', '"label" does not have the form'),
    "a number": ('{"text": "ab", "label": 3}', '"label" does not have the form'),
    "no offsets": (
        '{"text": "ab", "entities": [{"label": "x"}]}',
        '"entities" does not have the form [[start',
    ),
    "after the end": (
        '{"text": "ab", "label": [[0, 3, "x"]]}',
        "x has the span [0, 3) in a text of 2",
    ),
    "empty": ('{"text": "ab", "label": [[1, 1, "x"]]}', "x has the span [1, 1)"),
    "fractions": ('{"text": "ab", "label": [[0.0, 1.0, "x"]]}', "x: start is 0.0 (of type float)"),
    "strings": ('{"text": "ab", "label": [["0", "1", "x"]]}', "x: start is '0' (of type str)"),
    "null": ('{"text": "ab", "label": [[0, null, "x"]]}', "x: end is None (null)"),
    "category a number": (
        '{"text": "ab", "label": [[0, 1, 7]]}',
        "the categories in 'label' are numbers, such as 7",
    ),
    "no category": ('{"text": "ab", "label": [[0, 1, ""]]}', "the category of [0, 1) is ''"),
}


@pytest.mark.parametrize(("line", "message"), BAD.values(), ids=BAD)
def test_error_names_file_and_line_or_is_skipped(tmp_path: Path, line: str, message: str) -> None:
    path = write(tmp_path, f"{GOOD}\n\n{line}\n{GOOD}\n")
    with pytest.raises(UserError, match=f"^{re.escape(f'{path}:3: {message}')}"):
        read_all(read_spans, DataFile(path))
    skipped: list[str] = []
    examples, _ = read_all(read_spans, DataFile(path, skipped=skipped))
    assert [e.entities for e in examples] == [EXPECTED] * 2
    assert len(skipped) == 1 and skipped[0].startswith(f"{path}:3: ")


def test_duplicate_entity_is_kept_once(tmp_path: Path) -> None:
    path, warnings = (
        write(tmp_path, '{"text": "a b", "label": [[0, 1, "x"], [0, 1, "x"]]}'),
        ConversionWarnings(),
    )
    (example,), _ = read_all(read_spans, DataFile(path, warnings=warnings))
    assert example.entities == (Entity("x", 0, 1, "a"),)
    assert warnings.lines() == [f"duplicate entities, kept once: 1 (first: {path}:1)"]


def test_invalid_array_error_names_line(tmp_path: Path) -> None:
    path = write(tmp_path, f"[\n{GOOD},\n{GOOD[:-1]}\n]")
    with pytest.raises(UserError, match=re.escape(f"{path}:4: not JSON (Expecting ',' delimiter")):
        read_all(read_spans, DataFile(path))
