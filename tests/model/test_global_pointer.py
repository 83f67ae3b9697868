"""Scores of spans against sums over all of them one by one."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flax_ner.model.bert import BertConfig
from flax_ner.model.crf import Chain, chain
from flax_ner.model.global_pointer import Factors, allowed, found, loss, rotated, scores
from flax_ner.model.tagger import apply, init_params
from flax_ner.text.labels import SpanLabels

LABELS = SpanLabels(["x", "y", "z"])
# Two rows of two sentences each, [CLS] and [SEP] included, and padding; one token is a word's second.
SEGMENTS = jnp.array([[1] * 6 + [2] * 4 + [0] * 2, [1] * 3 + [2] * 9])
POSITIONS = jnp.array([[0, 1, 2, 3, 4, 5, 0, 1, 2, 3, 0, 0], [0, 1, 2, *range(9)]])
WORDS = jnp.ones((2, 12), bool).at[0, 3].set(False)
ENTITIES = [  # row, category, first token, last token; some lie in others, some are of one token
    (0, "x", 1, 4), (0, "y", 1, 4), (0, "y", 2, 4), (0, "z", 7, 7), (1, "x", 4, 10), (1, "x", 5, 5),
]  # fmt: skip


def random_factors(seed: int = 0) -> Factors:
    random = np.random.default_rng(seed)
    shapes = ((2, 12, 64), (2, 12, 64), (2, 12, 3), (2, 12, 3))
    return Factors(*(jnp.array(random.standard_normal(s), jnp.float32) / 3 for s in shapes))


def chains() -> Chain:
    return chain(SEGMENTS, POSITIONS, WORDS)


def sentences() -> list[tuple[int, list[int]]]:
    """Row and places of the words of each sentence."""
    made = []
    for row, segment in itertools.product((0, 1), (1, 2)):
        places = [t for t in range(12) if SEGMENTS[row, t] == segment][1:-1]
        made.append((row, [t for t in places if WORDS[row, t]]))
    return made


def labels() -> jax.Array:
    table = np.zeros((2, 12, 2), np.int32)
    for row, category, first, last in ENTITIES:
        column = int(table[row, first, 0] > 0)
        table[row, first, column] = LABELS.number(category, last - first + 1)
    table[0, 3] = -1
    return jnp.array(table)


def test_scores_are_of_first_and_last_token() -> None:
    query, key, begin, end = factors = random_factors()
    table = scores(factors)
    assert table.shape == (2, 3, 12, 12)
    expected = query[1, 4] @ key[1, 7] + begin[1, 4, 2] + end[1, 7, 2]
    assert float(table[1, 2, 4, 7]) == pytest.approx(float(expected), rel=1e-5)


def test_products_of_turned_vectors_depend_on_their_distance() -> None:
    a, b = (jax.random.normal(jax.random.key(i), (1, 1, 64)) for i in (0, 1))

    def product(i: int, j: int) -> float:
        turned = rotated(a, jnp.array([[i]])), rotated(b, jnp.array([[j]]))
        return float((turned[0] * turned[1]).sum())

    assert product(3, 10) == pytest.approx(product(40, 47), abs=1e-4)
    assert abs(product(3, 10) - product(3, 11)) > 1e-2
    assert product(0, 0) == pytest.approx(float((a * b).sum()), rel=1e-5)


def test_spans_are_of_words_of_one_sentence() -> None:
    expected = np.zeros((2, 12, 12), bool)
    for row, words in sentences():
        for first, last in itertools.combinations_with_replacement(words, 2):
            expected[row, first, last] = True
    np.testing.assert_array_equal(allowed(SEGMENTS, chains()), expected)


def direct_loss(table: np.ndarray) -> float:
    true = {(row, LABELS.names.index(c), i, j) for row, c, i, j in ENTITIES}
    total = 0.0
    for row, words in sentences():
        for kind in range(3):
            no, yes = 1.0, 1.0
            for first, last in itertools.combinations_with_replacement(words, 2):
                score = float(table[row, kind, first, last])
                if (row, kind, first, last) in true:
                    yes += math.exp(-score)
                else:
                    no += math.exp(score)
            total += math.log(no) + math.log(yes)
    return total / 4


def test_loss_equals_the_double_sum() -> None:
    factors = random_factors()
    value = loss(factors, labels(), SEGMENTS, chains())
    assert float(value) == pytest.approx(direct_loss(np.asarray(scores(factors))), rel=1e-5)


def test_gradients_equal_differences_of_the_double_sum() -> None:
    factors = random_factors(1)
    grads = jax.grad(loss)(factors, labels(), SEGMENTS, chains())
    places = {"query": (0, 1, 5), "key": (1, 10, 3), "begin": (0, 7, 2), "end": (1, 5, 0)}
    for name, place in places.items():
        sides = []
        for sign in (1, -1):
            x = getattr(factors, name).at[place].add(sign * 1e-2)
            sides.append(direct_loss(np.asarray(scores(factors._replace(**{name: x})), np.float64)))
        assert float(getattr(grads, name)[place]) == pytest.approx(
            (sides[0] - sides[1]) / 2e-2, rel=2e-3, abs=2e-4
        )


def test_padding_and_special_tokens_have_no_part_in_the_loss() -> None:
    factors = random_factors()
    outside = ~(chains().live & ~chains().begin & ~chains().end)[..., None]
    changed = Factors(*(jnp.where(outside, 7.0, x) for x in factors))
    assert float(loss(changed, labels(), SEGMENTS, chains())) == pytest.approx(
        float(loss(factors, labels(), SEGMENTS, chains())), rel=1e-6
    )


def test_what_scores_above_zero_is_found() -> None:
    factors = random_factors(2)
    bits = np.unpackbits(np.asarray(found(factors, SEGMENTS, chains()).bits), axis=-1, count=12)
    expected = (np.asarray(scores(factors)) > 0) & np.asarray(allowed(SEGMENTS, chains()))[:, None]
    assert expected.sum() > 20
    np.testing.assert_array_equal(bits, expected)


def test_a_fresh_head_finds_nothing() -> None:
    config = BertConfig(20, 3, 16, 1, 2, 32, max_position_embeddings=16, head="global_pointer")
    params = init_params(config, jax.random.key(0))
    ids = jnp.ones((2, 12), jnp.int32)
    factors = apply(config, params, ids, SEGMENTS, POSITIONS)
    assert not found(factors, SEGMENTS, chains()).bits.any()
    assert params["head"]["edges"]["bias"].shape == (2, 3)
