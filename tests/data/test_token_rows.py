"""Rows of tokens and ner_tags: tags as strings and numbers, JSON lines and arrays, errors."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from flax_ner.data.files import ConversionWarnings, DataFile
from flax_ner.data.token_rows import read_token_rows
from flax_ner.errors import UserError
from flax_ner.text.examples import Entity
from tests.data.reading import read_all

TOKENS = ["EU", "rejects", "German", "call"]
GOOD = {"tokens": TOKENS, "ner_tags": ["B-ORG", "O", "B-MISC", "I-MISC"]}
EXPECTED = (Entity("ORG", 0, 2, "EU"), Entity("MISC", 11, 22, "German call"))
NAMES = ["O", "B-ORG", "I-ORG", "B-MISC", "I-MISC"]
NUMBERS = GOOD | {"ner_tags": [1, 0, 3, 4]}
CLASS = {"names": NAMES, "_type": "ClassLabel"}


def write(folder: Path, *rows: Any, array: bool = False) -> Path:
    path = folder / "data.json"
    text = json.dumps(rows, indent=1) if array else "\n".join(map(json.dumps, rows))
    path.write_text(text, "utf-8")
    return path


@pytest.mark.parametrize("array", [False, True])
@pytest.mark.parametrize(
    ("row", "warnings"),
    [
        (GOOD, []),
        ({"id": "0", **GOOD}, ["id"]),
        ({"tokens": TOKENS, "tags": GOOD["ner_tags"]}, []),
        ({**NUMBERS, "labels": GOOD["ner_tags"]}, ["ner_tags"]),
        ({**GOOD, "pos_tags": [1, 2, 3, 4]}, ["pos_tags"]),
        ({**GOOD, "text": "EU rejects German call"}, []),
    ],
)
def test_reads_rows(tmp_path: Path, row: dict[str, Any], warnings: list[str], array: bool) -> None:
    counted, path = ConversionWarnings(), write(tmp_path, row, array=array)
    (example,), description = read_all(read_token_rows, DataFile(path, warnings=counted))
    assert (example.text, example.entities) == ("EU rejects German call", EXPECTED)
    assert description == "tokens and ner_tags, words, BIO"
    expected_lines = [f"field {name!r}, left out: 1 (first: {example.source})" for name in warnings]
    assert counted.lines() == expected_lines


def test_row_without_tags_is_unlabelled(tmp_path: Path) -> None:
    path = write(tmp_path, {"tokens": ["a", "，", "b"], "text": "a， b"}, GOOD)
    examples, _ = read_all(read_token_rows, DataFile(path))
    assert (examples[0].text, examples[0].entities) == ("a， b", None)


@pytest.mark.parametrize(
    "feature",
    [
        {"feature": CLASS, "_type": "Sequence"},
        {"feature": CLASS, "length": -1, "_type": "List"},
        [CLASS],
        CLASS,
    ],
)
@pytest.mark.parametrize("in_parent", [False, True])
def test_finds_names_of_numbered_tags(tmp_path: Path, feature: Any, in_parent: bool) -> None:
    folder = tmp_path / "train"
    folder.mkdir()
    info = {"features": {"ner_tags": feature, "tokens": {"_type": "Sequence"}}}
    ((tmp_path if in_parent else folder) / "dataset_info.json").write_text(json.dumps(info))
    path = write(folder, NUMBERS)
    (tmp_path / "link").symlink_to(folder)
    (folder / "inner").mkdir()
    for same in (path, folder / "inner" / ".." / path.name, tmp_path / "link" / path.name):
        (example,), _ = read_all(read_token_rows, DataFile(same))
        assert example.entities == EXPECTED


def test_numbered_tags_without_names_raise(tmp_path: Path) -> None:
    path = write(tmp_path, NUMBERS)
    with pytest.raises(
        UserError, match=r'data\.json:1: the tags in "ner_tags" are numbers.*dataset_info\.json'
    ):
        read_all(read_token_rows, DataFile(path))
    (tmp_path / "dataset_info.json").write_text('{"features": {}}')
    with pytest.raises(UserError, match=r'dataset_info\.json: has no names for "ner_tags"'):
        read_all(read_token_rows, DataFile(path))


BAD = {
    "not an object": (3, "not a JSON object"),
    "no tokens": ({"ner_tags": []}, '"tokens" is not a list of words'),
    "tokens a string": ({"tokens": "EU is", "ner_tags": 0}, '"tokens" is not a list of words'),
    "another field": ({"words": [{"name": "EU"}]}, '"words" is not a list of words'),
    "tags of no unit": (
        {"text": "EU is", "ner_tags": ["O", "B-x", "O"]},
        '"ner_tags" has 3 tags, but "text" has 5 characters and 2 words',
    ),
    "an empty token": ({"tokens": [""], "ner_tags": ["O"]}, '"tokens" has an empty token'),
    "lengths": ({"tokens": ["a"], "ner_tags": ["O", "O"]}, "1 tokens but 2 ner_tags"),
    "no tag": ({"tokens": ["a"], "ner_tags": ["ORG"]}, "'ORG' is not a tag"),
    "tags a string": ({"tokens": ["a"], "ner_tags": "O"}, '"ner_tags" is not a list of tags'),
    "mixed tags": ({"tokens": ["a", "b"], "ner_tags": ["O", 1]}, "'O' is not a tag number"),
    "unknown number": ({"tokens": ["a"], "ner_tags": [5]}, "5 is not a tag number"),
    "other annotations": (
        {"tokens": ["a"], "spans": [[0, 1, "x"]]},
        "the field 'spans' looks like",
    ),
    "another text": ({**GOOD, "text": "UN"}, "the tokens do not match the text 'UN'"),
}


@pytest.mark.parametrize(("bad", "message"), BAD.values(), ids=BAD)
def test_error_names_file_and_row_or_is_skipped(tmp_path: Path, bad: Any, message: str) -> None:
    (tmp_path / "dataset_info.json").write_text(json.dumps({"features": {"ner_tags": CLASS}}))
    path = write(tmp_path, GOOD, bad, NUMBERS)
    with pytest.raises(UserError, match=f"^{re.escape(f'{path}:2: {message}')}"):
        read_all(read_token_rows, DataFile(path))
    skipped: list[str] = []
    examples, _ = read_all(read_token_rows, DataFile(path, skipped=skipped))
    assert [e.entities for e in examples] == [EXPECTED] * 2
    assert len(skipped) == 1 and skipped[0].startswith(f"{path}:2: ")
