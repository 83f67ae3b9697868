"""GlobalPointer scores, loss and predictions against loops over all spans."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from flax_ner.model.bert import BertConfig
from flax_ner.model.crf import Chain, make_chain
from flax_ner.model.global_pointer import (
    GlobalPointer,
    SpanScoreFactors,
    allowed_spans,
    apply_rotary,
    loss,
    predict_spans,
    span_scores,
)
from flax_ner.model.tagging_model import apply, init_params
from flax_ner.text.labels import SpanLabels

LABELS = SpanLabels(["x", "y", "z"])
# Two rows of two sentences each, with [CLS], [SEP] and padding. Token 3 of row 0 is the second piece of a word.
SEGMENTS = jnp.array([[1] * 6 + [2] * 4 + [0] * 2, [1] * 3 + [2] * 9])
POSITIONS = jnp.array([[0, 1, 2, 3, 4, 5, 0, 1, 2, 3, 0, 0], [0, 1, 2, *range(9)]])
WORDS = jnp.ones((2, 12), bool).at[0, 3].set(False)
ENTITIES = [  # row, category, first token, last token; some are nested, some have one token
    (0, "x", 1, 4), (0, "y", 1, 4), (0, "y", 2, 4), (0, "z", 7, 7), (1, "x", 4, 10), (1, "x", 5, 5),
]  # fmt: skip


def random_factors(seed: int = 0) -> SpanScoreFactors:
    random = np.random.default_rng(seed)
    shapes = ((2, 12, 64), (2, 12, 64), (2, 12, 3), (2, 12, 3))
    return SpanScoreFactors(
        *(jnp.array(random.standard_normal(s), jnp.float32) / 3 for s in shapes)
    )


def make_test_chain() -> Chain:
    return make_chain(SEGMENTS, POSITIONS, WORDS)


def words_of_sentences() -> list[tuple[int, list[int]]]:
    """Return for each sentence its row and the indices of its words."""
    sentences = []
    for row, segment in itertools.product((0, 1), (1, 2)):
        tokens = [t for t in range(12) if SEGMENTS[row, t] == segment][1:-1]
        sentences.append((row, [t for t in tokens if WORDS[row, t]]))
    return sentences


def gold_labels() -> jax.Array:
    table = np.zeros((2, 12, 2), np.int32)
    for row, category, first, last in ENTITIES:
        column = int(table[row, first, 0] > 0)
        table[row, first, column] = LABELS.encode_span(category, last - first + 1)
    table[0, 3] = -1
    return jnp.array(table)


def test_a_score_is_the_sum_of_its_factors() -> None:
    query, key, start, end = factors = random_factors()
    table = span_scores(factors)
    assert table.shape == (2, 3, 12, 12)
    expected = query[1, 4] @ key[1, 7] + start[1, 4, 2] + end[1, 7, 2]
    assert float(table[1, 2, 4, 7]) == pytest.approx(float(expected), rel=1e-5)


@pytest.mark.parametrize("width", [24, 768])
def test_initial_scores_vary_but_predict_almost_no_spans(width: int) -> None:
    """With kernels of BERT's initializer_range, the standard deviation was 0.25 or less."""
    head = GlobalPointer(BertConfig(20, 3, width), nnx.Rngs(0))
    # Like the output of the last LayerNorm.
    x = jax.random.normal(jax.random.key(1), (2, 12, width))
    table = np.asarray(span_scores(head(x, POSITIONS, None)))
    assert 0.5 < table.std() < 2
    assert (table > 0).mean() < 1e-3


def test_rotary_products_depend_only_on_distance() -> None:
    a, b = (jax.random.normal(jax.random.key(i), (1, 1, 64)) for i in (0, 1))

    def product(i: int, j: int) -> float:
        rotated = apply_rotary(a, jnp.array([[i]])), apply_rotary(b, jnp.array([[j]]))
        return float((rotated[0] * rotated[1]).sum())

    assert product(3, 10) == pytest.approx(product(40, 47), abs=1e-4)
    assert abs(product(3, 10) - product(3, 11)) > 1e-2
    assert product(0, 0) == pytest.approx(float((a * b).sum()), rel=1e-5)


def test_allowed_spans_hold_words_of_one_sentence() -> None:
    expected = np.zeros((2, 12, 12), bool)
    for row, words in words_of_sentences():
        for first, last in itertools.combinations_with_replacement(words, 2):
            expected[row, first, last] = True
    np.testing.assert_array_equal(allowed_spans(SEGMENTS, make_test_chain()), expected)


def loss_by_enumeration(table: np.ndarray) -> float:
    gold = {(row, LABELS.names.index(c), i, j) for row, c, i, j in ENTITIES}
    total = 0.0
    for row, words in words_of_sentences():
        for category in range(3):
            negative, positive = 1.0, 1.0
            for first, last in itertools.combinations_with_replacement(words, 2):
                score = float(table[row, category, first, last])
                if (row, category, first, last) in gold:
                    positive += math.exp(-score)
                else:
                    negative += math.exp(score)
            total += math.log(negative) + math.log(positive)
    return total / 4


def test_loss_matches_enumeration() -> None:
    factors = random_factors()
    value = loss(factors, gold_labels(), SEGMENTS, make_test_chain())
    assert float(value) == pytest.approx(
        loss_by_enumeration(np.asarray(span_scores(factors))), rel=1e-5
    )


def test_gradients_match_finite_differences() -> None:
    factors = random_factors(1)
    grads = jax.grad(loss)(factors, gold_labels(), SEGMENTS, make_test_chain())
    indices = {"query": (0, 1, 5), "key": (1, 10, 3), "start": (0, 7, 2), "end": (1, 5, 0)}
    for name, index in indices.items():
        values = []
        for sign in (1, -1):
            x = getattr(factors, name).at[index].add(sign * 1e-2)
            values.append(
                loss_by_enumeration(
                    np.asarray(span_scores(factors._replace(**{name: x})), np.float64)
                )
            )
        assert float(getattr(grads, name)[index]) == pytest.approx(
            (values[0] - values[1]) / 2e-2, rel=2e-3, abs=2e-4
        )


def test_padding_and_special_tokens_do_not_change_the_loss() -> None:
    factors = random_factors()
    outside = ~(make_test_chain().valid & ~make_test_chain().start & ~make_test_chain().end)[
        ..., None
    ]
    changed = SpanScoreFactors(*(jnp.where(outside, 7.0, x) for x in factors))
    assert float(loss(changed, gold_labels(), SEGMENTS, make_test_chain())) == pytest.approx(
        float(loss(factors, gold_labels(), SEGMENTS, make_test_chain())), rel=1e-6
    )


def test_spans_with_positive_scores_are_predicted() -> None:
    factors = random_factors(2)
    bits = np.unpackbits(
        np.asarray(predict_spans(factors, SEGMENTS, make_test_chain()).bits), axis=-1, count=12
    )
    expected = (np.asarray(span_scores(factors)) > 0) & np.asarray(
        allowed_spans(SEGMENTS, make_test_chain())
    )[:, None]
    assert expected.sum() > 20
    np.testing.assert_array_equal(bits, expected)


def test_an_untrained_head_predicts_no_spans() -> None:
    config = BertConfig(20, 3, 16, 1, 2, 32, max_position_embeddings=16, head="global_pointer")
    params = init_params(config, jax.random.key(0))
    ids = jnp.ones((2, 12), jnp.int32)
    factors = apply(config, params, ids, SEGMENTS, POSITIONS)
    assert not predict_spans(factors, SEGMENTS, make_test_chain()).bits.any()
    assert params["head"]["edges"]["bias"].shape == (2, 3)
