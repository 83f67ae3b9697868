"""How converted weights read text: what lies beside them says it, or is told."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers.normalizers import BertNormalizer

import flax_ner
from convert.torch_to_flax import main
from flax_ner.text.tokenizer import CharTokenizer, WordPieceTokenizer
from flax_ner.weights.convert import convert
from flax_ner.weights.source import open_source
from tests.weights.helpers import (
    LABELS,
    TRAINED,
    VOCAB,
    tagger_state_dict,
    tiny_config,
    tiny_state_dict,
    write_source,
)


@pytest.mark.parametrize(
    "state", [tiny_state_dict(TRAINED), tagger_state_dict()], ids=["mmocr", "hf"]
)
def test_mmocrs_files_are_of_characters_whatever_lies_beside_them(
    tmp_path: Path, state: dict[str, np.ndarray]
) -> None:
    stated = tiny_config() | {"model_type": "bert"}
    path = write_source(tmp_path, state, "m.pth", stated)
    model, report = convert(open_source(path), LABELS)
    assert model.tokenizer == ("char" if report.layout.startswith("MMOCR") else "wordpiece")


@pytest.mark.parametrize("words", [True, False])
def test_a_tokenizer_elsewhere_says_all_it_says(tmp_path: Path, words: bool) -> None:
    path = write_source(tmp_path / "weights", tagger_state_dict(), config=tiny_config())
    kind = WordPieceTokenizer if words else CharTokenizer
    kind(VOCAB, lower_case=False).save(tmp_path / "tokenizer.json")
    source = open_source(path, tmp_path / "tokenizer.json")
    assert (source.vocab, source.lower_case, source.words) == (VOCAB, False, words)


@pytest.mark.parametrize(
    ("stated", "told"),
    [
        ({"word_tokenizer_type": "mecab"}, "has word_tokenizer_type 'mecab'"),
        ({"tokenize_chinese_chars": False}, "does not cut between Chinese characters"),
        ({"strip_accents": False}, "keeps accents"),
        ({"strip_accents": None, "do_basic_tokenize": True}, ""),
    ],
)
def test_what_a_tokenizer_config_says_otherwise_is_told(
    tmp_path: Path, stated: dict[str, Any], told: str
) -> None:
    path = write_source(tmp_path, tagger_state_dict(), config=tiny_config())
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(stated))
    assert open_source(path).odd == told


def test_a_tagger_of_words_is_read_as_its_own_tokenizer_does(tmp_path: Path) -> None:
    path = write_source(tmp_path, tagger_state_dict(), config=tiny_config())
    (tmp_path / "tokenizer_config.json").write_text('{"do_lower_case": false}')
    tokenizer = flax_ner.load(path).tokenizer
    assert (tokenizer.kind, tokenizer.lower_case) == ("wordpiece", False)
    main([str(path), str(tmp_path / "char"), "--tokenizer", "char"])
    assert flax_ner.load(tmp_path / "char").tokenizer.kind == "char"
    assert tokenizer.encode("a A").ids[1:-1] == [VOCAB.index("a"), 1]
    made = tokenizer._backend
    made.normalizer = BertNormalizer(strip_accents=True, lowercase=False)
    made.save(str(tmp_path / "tokenizer.json"))
    with pytest.warns(UserWarning, match="Tokenizer: its own takes accents off, which this one"):
        flax_ner.load(path)
