"""Heads whose tags depend on each other, compared with an enumeration of all tag sequences."""

import itertools
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest

from flax_ner import Tagger, load
from flax_ner.errors import UserError
from flax_ner.model.tagging_model import init_params
from flax_ner.text.tokenizer import CharTokenizer, WordPieceTokenizer
from flax_ner.weights.export import export
from flax_ner.weights.model_dir import ModelDir, save_model
from tests.inference.helpers import CONFIG, LABELS, VOCAB

PIECES = [*VOCAB, "##b", "##i"]
TEXTS = ["b", "obi", "iib中", "bobi b", "ibb i", "中 bi"]


def model(head: str) -> ModelDir:
    """Return a model with random weights, large enough that all tags are predicted."""
    config = replace(CONFIG, head=head, vocab_size=len(PIECES))
    params = init_params(config, jax.random.key(0))
    params["encoder"]["embeddings"]["word"] *= 50
    kernel = params["head"]["classifier"]["kernel"]
    params["head"]["classifier"]["kernel"] = jax.random.normal(jax.random.key(0), kernel.shape)
    if head == "crf":
        params["head"]["transitions"] = jax.random.normal(jax.random.key(1), (3, 3))
    return ModelDir(config, LABELS, PIECES, 64, params, True, "wordpiece")


def tagger_of(made: ModelDir, words: bool = True, max_length: int = 64) -> Tagger:
    tokenizer = (WordPieceTokenizer if words else CharTokenizer)(made.vocab)
    return Tagger(made.config, made.params, tokenizer, LABELS, max_length, 4)


def sequences(tagger: Tagger, text: str) -> dict[tuple[int, ...], float]:
    """Return the probability of every tag sequence of a text's words, as the head defines it."""
    tokens = tagger.tokenizer.tokenize([text])
    ids = np.array([tagger.tokenizer.encode(text).ids])
    logits = np.asarray(tagger.logits(ids, np.ones_like(ids)), np.float64)[0, 1:-1][tokens.first]
    allowed = LABELS.allowed_transitions()
    steps = np.zeros((3, 3))
    if tagger.config.head == "crf":
        steps = np.asarray(tagger.params["head"]["transitions"], np.float64)
    weights = {}
    for tags in itertools.product(range(3), repeat=len(logits)):
        pairs = list(itertools.pairwise((0, *tags, 0)))
        if all(allowed[a, b] for a, b in pairs):
            score = logits[np.arange(len(tags)), tags].sum() + sum(steps[a, b] for a, b in pairs)
            weights[tags] = float(np.exp(score))
    total = sum(weights.values())
    if tagger.config.head == "softmax_constrained":  # each tag is normalized by itself
        total = np.exp(logits).sum(1).prod()
    return {tags: weight / total for tags, weight in weights.items()}


@pytest.mark.parametrize("words", [True, False], ids=["words", "characters"])
@pytest.mark.parametrize("head", ["crf", "softmax_constrained"])
def test_the_most_probable_sequence_is_predicted(head: str, words: bool) -> None:
    tagger = tagger_of(model(head), words)
    predicted, count = tagger(TEXTS), 0
    for text, entities in zip(TEXTS, predicted, strict=True):
        p = sequences(tagger, text)
        best = max(p, key=lambda tags: p[tags])
        ((log_prob, words_read),) = tagger.sequence_log_probs([text])
        assert (log_prob, words_read) == (pytest.approx(np.log(p[best]), abs=1e-4), len(best))
        tokens = tagger.tokenizer.tokenize([text])
        start, end = tokens.start[tokens.first], tokens.end[tokens.first]
        (expected,) = LABELS.decode(np.array([[0, *best, 0]]), np.ones((1, len(best) + 2)))
        assert [e[1:3] for e in entities] == [(start[a], end[b - 1]) for _, a, b in expected]
        count += len(expected)
        for entity, (_, a, b) in zip(entities, expected, strict=True):
            if head == "crf":
                score = sum(q for tags, q in p.items() if tags[a:b] == best[a:b])
                assert entity.score == pytest.approx(score, rel=1e-4)
            else:
                table = tagger.predict_proba(text)[start[a:b]]
                expected_score = table[np.arange(b - a), best[a:b]].prod()
                assert entity.score == pytest.approx(float(expected_score), rel=1e-4)
        if head == "crf":
            marginals = np.zeros((len(best), 3))
            for tags, q in p.items():
                marginals[np.arange(len(tags)), tags] += q
            np.testing.assert_allclose(tagger.predict_proba(text)[start], marginals, atol=1e-5)
    assert count >= 5


@pytest.mark.parametrize("head", ["crf", "softmax_constrained"])
def test_conventions_agree_if_only_allowed_transitions_are_predicted(head: str) -> None:
    random = np.random.default_rng(0)
    texts = ["".join(random.choice(list("bio中 "), 40)) for _ in range(50)]
    made = model(head)
    tagger, free = tagger_of(made, words=False), tagger_of(model("softmax"), words=False)
    assert tagger(texts) == tagger(texts, "lenient")
    assert free(texts) != free(texts, "lenient")
    # The entities are the same alone and packed with others, in a whole text and in windows.
    assert [[e[:3] for e in row] for row in tagger(texts)] == [
        [e[:3] for e in tagger(text)] for text in texts
    ]
    short = tagger_of(made, words=False, max_length=42)
    lines = short("\n".join(texts))
    assert [e.text for e in lines] == [e.text for row in tagger(texts) for e in row]
    # In windows, each line keeps the probability that it has alone.
    ((log_prob, words_read),) = short.sequence_log_probs(["\n".join(texts)])
    alone = list(tagger.sequence_log_probs(texts))
    assert words_read == sum(count for _, count in alone)
    assert log_prob == pytest.approx(sum(p for p, _ in alone), rel=1e-4)


def test_a_model_directory_keeps_the_head_and_only_softmax_heads_are_exported(
    tmp_path: Path,
) -> None:
    for head in ("crf", "softmax_constrained"):
        made = model(head)
        save_model(tmp_path / head, made)
        assert load(tmp_path / head)(TEXTS) == tagger_of(made)(TEXTS)
    with pytest.raises(
        UserError, match=r"does not support model\.head crf, because it cannot hold the transitions"
    ):
        export(model("crf"), tmp_path / "out", "hf")
    note = export(model("softmax_constrained"), tmp_path / "out", "hf")
    assert "Constrained decoding is not exported" in note
