"""The tokenizer of converted weights, detected from the files beside them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers.normalizers import BertNormalizer

import flax_ner
from convert.torch_to_flax import main
from flax_ner.errors import UserError
from flax_ner.text.subword import SubwordTokenizer
from flax_ner.text.tokenizer import CharTokenizer, WordPieceTokenizer
from flax_ner.weights.convert import convert
from flax_ner.weights.source import open_source
from tests.subwords import bpe_tokenizer
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
def test_mmocr_files_always_use_the_char_tokenizer(
    tmp_path: Path, state: dict[str, np.ndarray]
) -> None:
    stated = tiny_config() | {"model_type": "bert"}
    path = write_source(tmp_path, state, "m.pth", stated)
    model, report = convert(open_source(path), LABELS)
    assert model.tokenizer == ("char" if report.layout.startswith("MMOCR") else "wordpiece")


@pytest.mark.parametrize("words", [True, False])
def test_a_tokenizer_json_in_another_folder_is_applied(tmp_path: Path, words: bool) -> None:
    path = write_source(tmp_path / "weights", tagger_state_dict(), config=tiny_config())
    kind = WordPieceTokenizer if words else CharTokenizer
    kind(VOCAB, lower_case=False).save(tmp_path / "tokenizer.json")
    source = open_source(path, tmp_path / "tokenizer.json")
    assert (source.vocab, source.lower_case, source.kind) == (VOCAB, False, kind.kind)


@pytest.mark.parametrize(
    ("stated", "difference"),
    [
        ({"word_tokenizer_type": "mecab"}, "has word_tokenizer_type 'mecab'"),
        ({"tokenize_chinese_chars": False}, "does not split between Chinese characters"),
        ({"strip_accents": False}, "keeps accents"),
        ({"strip_accents": None, "do_basic_tokenize": True}, ""),
    ],
)
def test_unsupported_tokenizer_options_are_reported(
    tmp_path: Path, stated: dict[str, Any], difference: str
) -> None:
    path = write_source(tmp_path, tagger_state_dict(), config=tiny_config())
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(stated))
    assert open_source(path).tokenizer_differences == difference


@pytest.mark.parametrize(
    ("stated", "difference"),
    [
        ({"do_lower_case": True}, "has do_lower_case True"),
        ({"add_prefix_space": True}, "has add_prefix_space True"),
        ({"do_lower_case": False, "add_prefix_space": False}, ""),
        ({}, ""),
    ],
)
def test_tokenizer_json_takes_precedence_and_differences_are_reported(
    tmp_path: Path, stated: dict[str, Any], difference: str
) -> None:
    path = write_source(tmp_path, tagger_state_dict(), config=tiny_config())
    (tmp_path / "vocab.txt").unlink()
    (tmp_path / "tokenizer.json").write_text(bpe_tokenizer().definition, "utf-8")
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(stated))
    source = open_source(path)
    assert (source.kind, source.lower_case, source.tokenizer_differences) == (
        "subword",
        False,
        difference,
    )


def write_bpe_files(folder: Path, special: dict[str, Any] | None = None) -> SubwordTokenizer:
    """Write vocab.json and merges.txt like RoBERTa; return the expected tokenizer."""
    expected = bpe_tokenizer()
    expected._backend.model.save(str(folder))
    (folder / "vocab.txt").unlink(missing_ok=True)
    ids = {token: i for i, token in enumerate(expected.tokens)}
    (folder / "vocab.json").write_text(json.dumps(ids), "utf-8")
    if special is not None:
        (folder / "special_tokens_map.json").write_text(json.dumps(special))
    return expected


TEXTS = ["Hello world, the 2008年", " 国内  银行\n", "a<mask> <mask>b", ""]


@pytest.mark.parametrize("special", [None, {"mask_token": {"content": "<mask>", "lstrip": True}}])
def test_vocab_json_and_merges_are_read(tmp_path: Path, special: Any) -> None:
    path = write_source(tmp_path, tagger_state_dict(), config=tiny_config())
    expected = write_bpe_files(tmp_path, special)
    (tmp_path / "added_tokens.json").write_text(json.dumps({"東京": len(expected.tokens)}))
    source = open_source(path)
    assert (source.kind, source.vocab_path) == ("subword", tmp_path / "vocab.json")
    assert source.vocab == [*expected.tokens, "東京"]
    actual = SubwordTokenizer(source.definition)
    assert actual.special == expected.special
    for text in TEXTS:
        assert actual.encode(text).ids == expected.encode(text).ids
        assert actual.encode(text).offsets == expected.encode(text).offsets
    assert actual.encode("a東京").ids[2] == len(expected.tokens)
    (tmp_path / "tokenizer_config.json").write_text('{"add_prefix_space": true}')
    spaced = SubwordTokenizer(open_source(path).definition)
    assert spaced.encode("a").ids == expected.encode(" a").ids != expected.encode("a").ids


def test_an_invalid_vocab_json_is_reported(tmp_path: Path) -> None:
    path = write_source(tmp_path, tagger_state_dict(), config=tiny_config())
    write_bpe_files(tmp_path, {"cls_token": "[CLS]"})
    with pytest.raises(UserError, match=r"vocab\.json: lacks the special tokens \[CLS\]\. Put a"):
        open_source(path)
    (tmp_path / "merges.txt").write_text("x y z\n")
    with pytest.raises(UserError, match=r"vocab\.json: cannot be read together with merges\.txt"):
        open_source(path)


def test_a_missing_vocabulary_is_explained(tmp_path: Path) -> None:
    path = write_source(tmp_path, tagger_state_dict(), config=tiny_config())
    (tmp_path / "vocab.txt").rename(tmp_path / "sentencepiece.bpe.model")
    with pytest.raises(
        UserError, match=r"no vocab\.txt or tokenizer\.json .* from a sentencepiece"
    ):
        convert(open_source(path))


def test_a_given_vocab_txt_is_read_as_wordpiece(tmp_path: Path) -> None:
    stated = tiny_config() | {"model_type": "bert"}
    path = write_source(tmp_path / "hf", tagger_state_dict(), config=stated)
    other = path.with_name("vocab.txt").rename(tmp_path / "other.txt")
    (tmp_path / "hf" / "tokenizer.json").write_text(bpe_tokenizer().definition, "utf-8")
    source = open_source(path, other)
    assert (source.kind, source.definition, source.vocab) == ("wordpiece", "", VOCAB)


def test_a_wordpiece_tagger_keeps_its_tokenizer(tmp_path: Path) -> None:
    path = write_source(tmp_path, tagger_state_dict(), config=tiny_config())
    (tmp_path / "tokenizer_config.json").write_text('{"do_lower_case": false}')
    tokenizer = flax_ner.load(path).tokenizer
    assert (tokenizer.kind, tokenizer.lower_case) == ("wordpiece", False)
    main([str(path), str(tmp_path / "char"), "--tokenizer", "char"])
    assert flax_ner.load(tmp_path / "char").tokenizer.kind == "char"
    assert tokenizer.encode("a A").ids[1:-1] == [VOCAB.index("a"), 1]
    backend = tokenizer._backend
    original = backend.normalizer
    backend.normalizer = BertNormalizer(strip_accents=True, lowercase=False)
    backend.save(str(tmp_path / "tokenizer.json"))
    tokenizer = flax_ner.load(path).tokenizer
    assert (tokenizer.kind, tokenizer.encode("á").ids[1:-1]) == ("subword", [VOCAB.index("a")])
    backend.normalizer = original
    backend.save(str(tmp_path / "tokenizer.json"))
    stated = '{"do_lower_case": false, "strip_accents": true}'
    (tmp_path / "tokenizer_config.json").write_text(stated)
    with pytest.warns(
        UserWarning, match="Tokenizer: the original strips accents, which is not supported"
    ):
        flax_ner.load(path)
