"""Unusual texts, from file to entity: every character keeps its offset."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from flax_ner.data.cluener import read_cluener, write_cluener
from flax_ner.text.encoding import encode_examples
from flax_ner.text.examples import Entity, Example
from flax_ner.text.tokenizer import CharTokenizer
from flax_ner.weights.model_dir import ModelDir, save_model
from tests.inference.helpers import CONFIG, LABELS, VOCAB, hand_made_params, hand_made_tagger

TEXTS = {
    "empty": "",
    "spaces": " \t\u3000\u00a0\u2003 ",
    "line breaks": "\r\n\x0b\x0c\x1c\x85\u2028\u2029",
    "emoji with joiners": "👨‍👩‍👧‍👦🏳️‍🌈👍🏽",
    "flags": "🇨🇳🇩🇪",
    "combining marks": "e\u0301o\u0308\u0323n\u0303",
    "outside the basic plane": "𠮷野家𝄞𐍈",
    "lone surrogates": "\ud83d中\ude00",
    "right to left": "שלום مرحبا \u202eabc\u202c",
    "NUL and controls": "\x00\x01\x1b[31m\x7f",
    "dotted capital i": "İSTANBUL İzmir",
    "sharp s and ligatures": "ẞßﬁǅ",
    "full width": "ＡＢＣ１２３，。！",
    "zero width": "\u200b\u200c\u200d\ufeff\u2060",
    "noncharacters": "\ufffe\uffff\U0010ffff",
    "special tokens": "[CLS][SEP][PAD]##中",
    "markup": '<b>&amp;</b>"\\n"{}[/]',
}
MILLION = "a million characters"
TEXTS[MILLION] = "中国" * 500_000
CASES = pytest.mark.parametrize(
    "text",
    [
        pytest.param(text, id=name, marks=[pytest.mark.slow] * (name == MILLION))
        for name, text in TEXTS.items()
    ],
)


def with_entities(text: str) -> tuple[str, list[tuple[int, int]]]:
    """Return a text with two entities inserted, and the spans that the hand-made tagger predicts in it."""
    full_text = f"{text}bii{text}b{text}"
    return full_text, [match.span() for match in re.finditer("[bB][iI]*", full_text)]


@CASES
def test_predicted_offsets_refer_to_the_callers_text(text: str) -> None:
    full_text, spans = with_entities(text)
    predicted = hand_made_tagger()(full_text)
    assert [(entity.start, entity.end) for entity in predicted] == spans
    assert all(entity.text == full_text[entity.start : entity.end] for entity in predicted)


@CASES
def test_files_preserve_every_character(tmp_path: Path, text: str) -> None:
    full_text, spans = with_entities(text)
    entities = tuple(Entity("name", start, end, full_text[start:end]) for start, end in spans)
    path = tmp_path / "data.json"
    write_cluener(path, [Example(full_text, entities)])
    (example,) = read_cluener(path)
    assert example.text == full_text
    assert sorted(entity[:4] for entity in example.entities or ()) == sorted(
        entity[:4] for entity in entities
    )


@CASES
def test_training_labels_stay_with_their_characters(text: str) -> None:
    full_text, spans = with_entities(text)
    tokenizer = CharTokenizer(VOCAB)
    entities = tuple(Entity("name", start, end, full_text[start:end]) for start, end in spans)
    tokens = encode_examples([Example(full_text, entities, "file:1")], tokenizer, LABELS, 64)
    # Concatenate the pieces of a long text.
    inside = (tokens.ids != tokenizer.cls_id) & (tokens.ids != tokenizer.sep_id)
    expected = np.zeros(len(full_text), int)
    for start, end in spans:
        expected[start:end] = [1] + [2] * (end - start - 1)
    np.testing.assert_array_equal(tokens.labels[inside], expected)
    np.testing.assert_array_equal(tokens.ids[inside], tokenizer.character_ids(full_text))


@CASES
def test_every_character_is_one_token_with_its_own_offsets(text: str) -> None:
    encoding = CharTokenizer(VOCAB).encode(text)
    assert encoding.offsets[1:-1] == [(i, i + 1) for i in range(len(text))]
    assert len(encoding.ids) == len(text) + 2


@pytest.mark.slow
def test_the_command_line_accepts_every_text(tmp_path: Path) -> None:
    model = ModelDir(CONFIG, LABELS, VOCAB, 64, hand_made_params())
    save_model(tmp_path / "model", model)
    write_cluener(
        tmp_path / "in.jsonl", [Example(with_entities(text)[0]) for text in TEXTS.values()]
    )
    command = [
        sys.executable,
        "-m",
        "flax_ner",
        "predict",
        "model",
        "in.jsonl",
        "--format",
        "jsonl",
    ]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, check=False, timeout=300)
    assert result.returncode == 0, result.stderr.decode()
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    for text, row in zip(TEXTS.values(), rows, strict=True):
        full_text, spans = with_entities(text)
        assert row["text"] == full_text
        assert [(entity["start"], entity["end"]) for entity in row["entities"]] == spans
