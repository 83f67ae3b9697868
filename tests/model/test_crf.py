"""The chain's sums against all paths one by one."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flax_ner.model.crf import (
    IMPOSSIBLE,
    Chain,
    best_path,
    chain,
    clamp,
    log_marginals,
    log_steps,
    negative_log_likelihood,
)
from flax_ner.text.labels import LabelSet

C = 4  # tags; the first is O


def make(sizes: list[int], width: int, seed: int) -> tuple[jax.Array, jax.Array, Chain]:
    """Random scores of sentences of so many tags between [CLS] and [SEP], end to end in one row, a
    random half of whose tokens have another piece of their word behind them."""
    random = np.random.default_rng(seed)
    segments, positions, words = list[int](), list[int](), list[bool]()
    for i, size in enumerate(sizes, 1):
        pieces = [
            w for _ in range(size) for w in ([True, False] if random.random() < 0.5 else [True])
        ]
        segments += [i] * (len(pieces) + 2)
        positions += range(len(pieces) + 2)
        words += [True, *pieces, True]
    row = np.zeros((3, 1, width), np.int32)
    row[:, 0, : len(segments)] = segments, positions, words
    made = chain(jnp.array(row[0]), jnp.array(row[1]), jnp.array(row[2] > 0))
    emissions = 2 * jnp.array(random.standard_normal((1, width, C)), jnp.float32)
    transitions = jnp.array(random.standard_normal((C, C)), jnp.float32)
    return clamp(emissions, made, 0), transitions, made


def sentences(made: Chain) -> list[np.ndarray]:
    """The places of the tokens with a tag, [CLS] and [SEP] included, of each sentence of the row."""
    live = np.flatnonzero(made.live[0])
    return np.split(live, np.flatnonzero(np.asarray(made.begin[0])[live])[1:])


def paths(emissions: jax.Array, transitions: jax.Array, places: np.ndarray) -> dict[tuple, float]:
    """The score of every sequence of tags of one sentence."""
    e, t = np.asarray(emissions, np.float64)[0, places], np.asarray(transitions, np.float64)
    inner = itertools.product(range(C), repeat=len(places) - 2)
    found = {}
    for tags in ((0, *path, 0) for path in inner):
        steps = sum(t[a, b] for a, b in itertools.pairwise(tags))
        found[tags] = float(e[np.arange(len(tags)), tags].sum() + steps)
    return found


CASES = [([n], n * 2 + 2, n) for n in range(1, 7)] + [([2, 1, 3], 24, 7), ([4, 0, 2], 20, 8)]


@pytest.mark.parametrize(("sizes", "width", "seed"), CASES)
def test_loss_and_gradients_are_those_of_all_paths(sizes: list[int], width: int, seed: int) -> None:
    emissions, transitions, made = make(sizes, width, seed)
    labels = np.random.default_rng(seed).integers(0, C, (1, width))
    labels[np.asarray(made.begin | made.end)] = 0

    def loss(emissions: jax.Array, transitions: jax.Array) -> jax.Array:
        return negative_log_likelihood(emissions, transitions, jnp.array(labels), made)

    expected = 0.0
    by_emission, by_step = np.zeros((width, C)), np.zeros((C, C))
    for places in sentences(made):
        scores = paths(emissions, transitions, places)
        log_z = np.logaddexp.reduce(list(scores.values()))
        gold = tuple(labels[0, places].tolist())
        expected += log_z - scores[gold]
        for path, score in [*scores.items(), (gold, None)]:
            weight = -1.0 if score is None else np.exp(score - log_z)
            by_emission[places, path] += weight
            np.add.at(by_step, (path[:-1], path[1:]), weight)
    count = int(made.live.sum())
    value, (emission_grad, step_grad) = jax.value_and_grad(loss, (0, 1))(emissions, transitions)
    assert float(value) == pytest.approx(expected / count, rel=1e-5)
    np.testing.assert_allclose(emission_grad[0], by_emission / count, atol=1e-6)
    np.testing.assert_allclose(step_grad, by_step / count, atol=1e-6)


@pytest.mark.parametrize(("sizes", "width", "seed"), CASES)
def test_the_best_path_and_probabilities_are_those_of_all_paths(
    sizes: list[int], width: int, seed: int
) -> None:
    emissions, transitions, made = make(sizes, width, seed)
    tags = best_path(emissions, transitions, made)
    marginals = np.exp(log_marginals(emissions, transitions, made))[0]
    steps = np.asarray(log_steps(emissions, transitions, tags, made))[0]
    np.testing.assert_allclose(marginals.sum(-1), 1, atol=1e-5)
    for places in sentences(made):
        scores = paths(emissions, transitions, places)
        best = max(scores, key=lambda path: scores[path])
        assert tuple(np.asarray(tags)[0, places].tolist()) == best
        log_z = np.logaddexp.reduce(list(scores.values()))
        p = {path: np.exp(score - log_z) for path, score in scores.items()}
        expected = np.zeros((len(places), C))
        for path in p:
            expected[np.arange(len(path)), path] += p[path]
        np.testing.assert_allclose(marginals[places], expected, atol=1e-5)
        # Of a span within: its tags together, whatever stands around them.
        for a, b in itertools.combinations(range(1, len(places)), 2):
            together = sum(q for path, q in p.items() if path[a:b] == best[a:b])
            found = np.log(marginals[places[a], best[a]]) + steps[places[a + 1 : b]].sum()
            assert np.exp(found) == pytest.approx(together, abs=1e-5)


@pytest.mark.parametrize("scheme", ["bio", "bioes", "mmocr"])
def test_no_illegal_step_is_ever_taken(scheme: str) -> None:
    """100,000 words in rows of random scores, whatever the emissions want."""
    labels = LabelSet(["a", "b", "c"], scheme)
    legal = labels.legal_steps()
    random = np.random.default_rng(0)
    rows, width = 900, 120
    positions = np.tile(np.tile(np.arange(30), 4), (rows, 1))
    segments = np.tile(np.repeat(np.arange(1, 5), 30), (rows, 1))
    made = chain(jnp.array(segments), jnp.array(positions), jnp.ones((rows, width), bool))
    emissions = 30 * random.standard_normal((rows, width, len(labels))).astype(np.float32)
    emissions = clamp(jnp.array(emissions), made, labels.outside)
    transitions = jnp.where(legal, random.standard_normal(legal.shape), IMPOSSIBLE)
    tags = np.asarray(jax.jit(best_path)(emissions, transitions.astype(jnp.float32), made))
    sentences = tags.reshape(-1, 30)
    assert (sentences[:, [0, -1]] == labels.outside).all()
    assert legal[sentences[:, :-1], sentences[:, 1:]].all()
    assert len(np.unique(tags)) == legal.any(0).sum()  # each that may be was
    if scheme != "mmocr":
        mask = np.ones_like(sentences)
        # Nothing is left for conventions to differ in.
        assert labels.decode(sentences, mask, "strict") == labels.decode(sentences, mask, "lenient")
