"""The tagger with a WordPiece tokenizer: entities consist of whole words, also across windows."""

from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flax_ner import Entity, Tagger, load
from flax_ner.model.tagging_model import Params
from flax_ner.text.tokenizer import WordPieceTokenizer
from flax_ner.weights.model_dir import ModelDir, load_model, save_model
from tests.inference.helpers import CONFIG, LABELS, VOCAB, hand_made_params

# A word's tag is that of its first piece. The other pieces would give a different tag.
PIECES = [*VOCAB, "##b", "##i", "##o", "."]


def params() -> Params:
    made = hand_made_params()
    embeddings = dict(made["encoder"]["embeddings"])
    rows = jnp.zeros((len(PIECES), 8)).at[: len(VOCAB)].set(embeddings["word"])
    for piece, axis in (("##b", 1), ("##i", 2), ("##o", 0), (".", 0)):
        rows = rows.at[PIECES.index(piece), axis].set(1.0)
    embeddings["word"] = rows
    return made | {"encoder": made["encoder"] | {"embeddings": embeddings}}


@lru_cache
def tagger(max_length: int = 64) -> Tagger:
    return Tagger(CONFIG, params(), WordPieceTokenizer(PIECES), LABELS, max_length, 4)


def test_entities_are_whole_words() -> None:
    text = " Boi  ib.中 bbb\u0301 obi"
    entities = tagger()(text)
    assert [e[:4] for e in entities] == [("name", 1, 8, "Boi  ib"), ("name", 11, 15, "bbb\u0301")]
    table = tagger().predict_proba(text)
    inside = np.zeros(len(text), int)
    inside[1:4], inside[6:8], inside[11:15] = 1, 2, 1
    assert table.argmax(1).tolist() == inside.tolist()
    assert (table[[0, 4, 5, 10]] == [1, 0, 0]).all()  # spaces are outside of words
    assert entities[0].score == pytest.approx(float(table[1, 1] * table[6, 2]), rel=1e-5)


WORDS = ["b", "bo", "bib", "i", "io", "ib", "o", "ob", "oo", "中", "."]


@settings(max_examples=30, deadline=None)
@given(st.lists(st.sampled_from(WORDS), max_size=60), st.sampled_from([8, 16, 33]))
def test_entities_do_not_depend_on_windows(words: list[str], max_length: int) -> None:
    text, expected, stop = " ".join(words), list[Entity](), -1
    for word, start in zip(words, np.cumsum([0, *(len(w) + 1 for w in words)]), strict=False):
        offset = int(start)
        if word[0] == "b":
            expected.append(Entity("name", offset, offset + len(word)))
            stop = offset + len(word) + 1
        elif word[0] == "i" and stop == offset:
            expected[-1] = Entity("name", expected[-1].start, offset + len(word))
            stop = offset + len(word) + 1
    assert [e[:3] for e in tagger(max_length)(text)] == [e[:3] for e in expected]


@pytest.mark.parametrize("convention", ["strict", "lenient", "mmocr"])
def test_many_texts_are_tagged_like_each_alone(convention: str) -> None:
    made = tagger(16)
    texts = ["", "bo ib", " ", "i b", "bo io " * 20, "\x00", "b i"]
    predicted = made(texts, convention)
    assert predicted == [made(text, convention) for text in texts]
    assert predicted[1] and predicted[4] and not predicted[0] and not predicted[2]
    for text, table in zip(texts, made.predict_proba_each(texts), strict=True):
        np.testing.assert_allclose(table, made.predict_proba(text), atol=1e-6)
        assert table.shape == (len(text), 3)


def test_a_model_directory_keeps_its_wordpiece_tokenizer(tmp_path: Path) -> None:
    config = replace(CONFIG, vocab_size=len(PIECES))
    model = ModelDir(config, LABELS, PIECES, 64, params(), False, "wordpiece")
    save_model(tmp_path / "model", model)
    assert load_model(tmp_path / "model").tokenizer == "wordpiece"
    loaded = load(tmp_path / "model")
    assert isinstance(loaded.tokenizer, WordPieceTokenizer) and not loaded.tokenizer.lower_case
    assert [e.text for e in loaded("bo io Bo")] == ["bo io"]
