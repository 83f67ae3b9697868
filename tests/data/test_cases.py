"""Inputs that people have, made after public bug reports: each is read correctly, or refused by name."""

import json
from typing import Any

import pytest

from flax_ner.data.formats import read_examples
from flax_ner.errors import UserError
from flax_ner.inference.inputs import read_inputs
from tests.conftest import SHARED

CASES = SHARED / "cases" / "cases.jsonl"
ROWS = (
    [json.loads(line) for line in CASES.read_text("utf-8").splitlines()] if CASES.exists() else []
)

# Plain texts for `predict`, and their number.
TEXTS = {"43_text_lines/t.txt": 5, "14_gbk/texts.txt": 1}


@pytest.mark.skipif(not ROWS, reason=f"no {CASES}")
@pytest.mark.parametrize("row", ROWS, ids=[row["input"] for row in ROWS])
def test_case_is_read_or_refused(row: dict[str, Any]) -> None:
    notes: list[str] = []
    path = str(CASES.parent / row["input"])
    try:
        if row["input"] in TEXTS:
            assert len(list(read_inputs(path))) == TEXTS[row["input"]]
            return
        examples = read_examples(path, "auto", notes=notes)
    except UserError as error:
        message = str(error).replace(path, "")  # the path has some of the words
        assert any(word in message for word in row.get("or_refused_naming", ())), error
        return
    if "texts" in row:
        assert [example.text for example in examples] == row["texts"], notes
        spans = [sorted([e.type, e.start, e.end] for e in x.entities or ()) for x in examples]
        assert spans == [sorted(text) for text in row["entities"]], notes
    else:
        words = row.get("or_refused_naming", ())
        assert not words or any(word in note for word in words for note in notes), notes
