"""Tokens and ner_tags: strings and numbers, lines and arrays, and what is refused."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from flax_ner.errors import UserError
from flax_ner.text.examples import Entity
from flax_ner.text.files import Losses
from flax_ner.text.token_rows import read_token_rows

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
    ("row", "losses"),
    [
        (GOOD, []),
        ({"id": "0", **GOOD}, ["id"]),
        ({"tokens": TOKENS, "tags": GOOD["ner_tags"]}, []),
        ({**NUMBERS, "labels": GOOD["ner_tags"]}, ["ner_tags"]),
        ({**GOOD, "pos_tags": [1, 2, 3, 4]}, ["pos_tags"]),
        ({**GOOD, "text": "EU rejects German call"}, []),
    ],
)
def test_rows_are_read(tmp_path: Path, row: dict[str, Any], losses: list[str], array: bool) -> None:
    found, path = Losses(), write(tmp_path, row, array=array)
    (example,), kind = read_token_rows(path, None, found)
    assert (example.text, example.entities) == ("EU rejects German call", EXPECTED)
    assert kind == "tokens and ner_tags, words, BIO"
    lost = [f"field {name!r}, left out: 1 (first: {example.source})" for name in losses]
    assert found.lines() == lost


def test_a_row_without_tags_is_unlabelled_and_its_text_is_kept(tmp_path: Path) -> None:
    path = write(tmp_path, {"tokens": ["a", "，", "b"], "text": "a， b"}, GOOD)
    examples, _ = read_token_rows(path, None, Losses())
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
@pytest.mark.parametrize("above", [False, True])
def test_names_of_numbered_tags_are_found(tmp_path: Path, feature: Any, above: bool) -> None:
    folder = tmp_path / "train"
    folder.mkdir()
    info = {"features": {"ner_tags": feature, "tokens": {"_type": "Sequence"}}}
    ((tmp_path if above else folder) / "dataset_info.json").write_text(json.dumps(info))
    path = write(folder, NUMBERS)
    (tmp_path / "link").symlink_to(folder)
    (folder / "inner").mkdir()
    for same in (path, folder / "inner" / ".." / path.name, tmp_path / "link" / path.name):
        (example,), _ = read_token_rows(same, None, Losses())
        assert example.entities == EXPECTED


def test_numbers_without_names_say_how_to_give_them(tmp_path: Path) -> None:
    path = write(tmp_path, NUMBERS)
    with pytest.raises(
        UserError, match=r'data\.json:1: the tags in "ner_tags" are numbers.*dataset_info\.json'
    ):
        read_token_rows(path, None, Losses())
    (tmp_path / "dataset_info.json").write_text('{"features": {}}')
    with pytest.raises(UserError, match=r'dataset_info\.json: has no names for "ner_tags"'):
        read_token_rows(path, None, Losses())


BAD = {
    "not an object": (3, "no JSON object"),
    "no tokens": ({"ner_tags": []}, '"tokens" is no list of words'),
    "tokens a string": ({"tokens": "EU", "ner_tags": ["O"]}, '"tokens" is no list of words'),
    "an empty token": ({"tokens": [""], "ner_tags": ["O"]}, '"tokens" is no list of words'),
    "lengths": ({"tokens": ["a"], "ner_tags": ["O", "O"]}, "1 tokens and 2 ner_tags"),
    "no tag": ({"tokens": ["a"], "ner_tags": ["ORG"]}, "'ORG' is no tag"),
    "tags a string": ({"tokens": ["a"], "ner_tags": "O"}, '"ner_tags" is no list of tags'),
    "mixed tags": ({"tokens": ["a", "b"], "ner_tags": ["O", 1]}, "'O' is no number of a tag"),
    "behind the names": ({"tokens": ["a"], "ner_tags": [5]}, "5 is no number of a tag"),
    "another scheme": (
        {"tokens": ["a"], "ner_tags": ["M-x"]},
        "M-x, but the tags of the file are BIO",
    ),
    "another text": ({**GOOD, "text": "UN"}, "the tokens are not those of the text 'UN'"),
}


@pytest.mark.parametrize(("bad", "message"), BAD.values(), ids=BAD)
def test_a_bad_row_is_named_or_skipped(tmp_path: Path, bad: Any, message: str) -> None:
    (tmp_path / "dataset_info.json").write_text(json.dumps({"features": {"ner_tags": CLASS}}))
    path = write(tmp_path, GOOD, bad, NUMBERS)
    with pytest.raises(UserError, match=f"^{re.escape(f'{path}:2: {message}')}"):
        read_token_rows(path, None, Losses())
    skipped: list[str] = []
    examples, _ = read_token_rows(path, skipped, Losses())
    assert [e.entities for e in examples] == [EXPECTED] * 2
    assert len(skipped) == 1 and skipped[0].startswith(f"{path}:2: ")
