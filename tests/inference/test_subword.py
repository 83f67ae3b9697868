"""The tagger with a tokenizer.json: every word is tagged once, also across windows."""

from functools import lru_cache
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from flax_ner import Entity, Tagger, load
from flax_ner.errors import UserError
from flax_ner.model.bert import BertConfig
from flax_ner.model.tagging_model import init_params
from flax_ner.text.labels import LabelSet
from flax_ner.weights.ensemble import combine
from flax_ner.weights.model_dir import ModelDir, save_model
from tests.subwords import bpe_tokenizer, unigram_tokenizer

LABELS = LabelSet(["x", "y"])
MAKERS = {"bpe": bpe_tokenizer, "unigram": unigram_tokenizer}
TEXTS = [
    "",
    " \n ",
    "国内银行, London",
    "\n\n王建国在东海市工作。\n \n\nHello world, the fox" * 9,
    "国内银行 \n" * 40,
    "no line break at all " * 30,
]


def model(name: str, head: str = "softmax", **fields: Any) -> ModelDir:
    made = MAKERS[name]()
    config = BertConfig(
        vocab_size=len(made.tokens), num_labels=len(LABELS), hidden_size=16, num_hidden_layers=1,
        num_attention_heads=2, intermediate_size=8, max_position_embeddings=24, head=head, **fields,
    )  # fmt: skip
    params = jax.tree.map(lambda x: x * 20, init_params(config, jax.random.key(0)))
    return ModelDir(config, LABELS, made.tokens, 24, params, False, "subword", made.definition)


@lru_cache
def tagger(name: str, head: str) -> Tagger:
    one = model(name, head)
    return Tagger(one.config, one.params, one.build_tokenizer(), LABELS, 24, 4)


def without_scores(predicted: list[list[Entity]]) -> list[list[tuple[Any, ...]]]:
    """Drop the scores, whose last bits depend on the other texts of the batch."""
    return [[entity[:4] for entity in row] for row in predicted]


@pytest.mark.slow
@pytest.mark.every_python
@pytest.mark.parametrize("head", ["softmax", "crf"])
@pytest.mark.parametrize("name", MAKERS)
def test_each_word_of_long_texts_is_tagged_once(name: str, head: str) -> None:
    made = tagger(name, head)
    tokens = made.tokenizer.tokenize(TEXTS)
    text = np.repeat(np.arange(len(TEXTS)), tokens.lengths)
    for i, words in enumerate(made.predict_word_proba(TEXTS)):
        own = tokens.first & (text == i)
        assert words.start.tolist() == tokens.start[own].tolist()
        assert words.end.tolist() == tokens.end[own].tolist()
        assert words.table.shape == (own.sum(), len(LABELS))
    predicted = made(TEXTS)
    assert without_scores(predicted) == without_scores([made(text) for text in TEXTS])
    assert predicted[3] and predicted[4] and predicted[5]
    for text, entities in zip(TEXTS, predicted, strict=True):
        for entity in entities:
            assert entity.text == text[entity.start : entity.end] == entity.text.strip() != ""


def test_a_model_directory_keeps_its_tokenizer(tmp_path: Path) -> None:
    save_model(tmp_path / "model", model("bpe"))
    loaded = load(tmp_path / "model")
    assert loaded.tokenizer.definition == bpe_tokenizer().definition
    assert without_scores(loaded(TEXTS)) == without_scores(tagger("bpe", "softmax")(TEXTS))
    for name, text, message in (
        (
            "tokenizer.json",
            bpe_tokenizer().definition + " ",
            "tokenizer.json does not match its checksum",
        ),
        ("vocab.txt", "[PAD]", "not a model directory|vocab.txt was added later"),
    ):
        kept = tmp_path / "model" / name
        before = kept.read_text("utf-8") if kept.exists() else None
        kept.write_text(text, "utf-8")
        with pytest.raises(UserError, match=message):
            load(tmp_path / "model")
        kept.unlink() if before is None else kept.write_text(before, "utf-8")


def test_an_ensemble_of_models_with_different_tokenizers_is_an_error() -> None:
    one, other = model("bpe"), model("bpe")
    assert combine([one, other], ["a", "b"]).definition == one.definition
    other.definition = other.definition.replace('"dropout":null', '"dropout":0.1')
    with pytest.raises(UserError, match="b: the vocabulary or tokenizer differs from a"):
        combine([one, other], ["a", "b"])
