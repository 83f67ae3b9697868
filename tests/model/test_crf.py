"""CRF likelihood, Viterbi decoding and marginals against enumeration of all tag sequences."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flax_ner.model.crf import (
    NEG_INF,
    Chain,
    conditional_log_probs,
    log_marginals,
    make_chain,
    mask_special_tokens,
    negative_log_likelihood,
    viterbi_decode,
)
from flax_ner.text.labels import LabelSet

C = 4  # tags; the first is O


def random_row(sizes: list[int], width: int, seed: int) -> tuple[jax.Array, jax.Array, Chain]:
    """Return random emissions and transitions of one row, and its chain.

    The row holds one sentence of `size` words for each size, each between [CLS] and [SEP]. About half of the
    words have a second piece, which has no tag.
    """
    random = np.random.default_rng(seed)
    segments, positions, word_starts = list[int](), list[int](), list[bool]()
    for i, size in enumerate(sizes, 1):
        pieces = [
            w for _ in range(size) for w in ([True, False] if random.random() < 0.5 else [True])
        ]
        segments += [i] * (len(pieces) + 2)
        positions += range(len(pieces) + 2)
        word_starts += [True, *pieces, True]
    row = np.zeros((3, 1, width), np.int32)
    row[:, 0, : len(segments)] = segments, positions, word_starts
    chain = make_chain(jnp.array(row[0]), jnp.array(row[1]), jnp.array(row[2] > 0))
    emissions = 2 * jnp.array(random.standard_normal((1, width, C)), jnp.float32)
    transitions = jnp.array(random.standard_normal((C, C)), jnp.float32)
    return mask_special_tokens(emissions, chain, 0), transitions, chain


def split_sentences(chain: Chain) -> list[np.ndarray]:
    """Return for each sentence the indices of its tokens with a tag, [CLS] and [SEP] included."""
    valid = np.flatnonzero(chain.valid[0])
    return np.split(valid, np.flatnonzero(np.asarray(chain.start[0])[valid])[1:])


def score_all_paths(
    emissions: jax.Array, transitions: jax.Array, tokens: np.ndarray
) -> dict[tuple, float]:
    """Return the score of every tag sequence of one sentence."""
    e, t = np.asarray(emissions, np.float64)[0, tokens], np.asarray(transitions, np.float64)
    inner = itertools.product(range(C), repeat=len(tokens) - 2)
    scores = {}
    for tags in ((0, *path, 0) for path in inner):
        transition = sum(t[a, b] for a, b in itertools.pairwise(tags))
        scores[tags] = float(e[np.arange(len(tags)), tags].sum() + transition)
    return scores


# One width for most, so that each operation is compiled once. The last row has no padding.
CASES = [([n], 20, n) for n in range(1, 7)] + [([2, 1, 3], 20, 7), ([4, 0, 2], 20, 8), ([2], 6, 2)]


@pytest.mark.parametrize(("sizes", "width", "seed"), CASES)
def test_likelihood_and_gradients_match_enumeration(
    sizes: list[int], width: int, seed: int
) -> None:
    emissions, transitions, chain = random_row(sizes, width, seed)
    labels = np.random.default_rng(seed).integers(0, C, (1, width))
    labels[np.asarray(chain.start | chain.end)] = 0

    def loss(emissions: jax.Array, transitions: jax.Array) -> jax.Array:
        return negative_log_likelihood(emissions, transitions, jnp.array(labels), chain)

    # The gradient is the expected number of times a tag or transition occurs minus its gold count.
    expected = 0.0
    by_emission, by_transition = np.zeros((width, C)), np.zeros((C, C))
    for tokens in split_sentences(chain):
        scores = score_all_paths(emissions, transitions, tokens)
        log_partition = np.logaddexp.reduce(list(scores.values()))
        gold = tuple(labels[0, tokens].tolist())
        expected += log_partition - scores[gold]
        for path, score in [*scores.items(), (gold, None)]:
            weight = -1.0 if score is None else np.exp(score - log_partition)
            by_emission[tokens, path] += weight
            np.add.at(by_transition, (path[:-1], path[1:]), weight)
    count = int(chain.valid.sum())
    value, gradients = jax.value_and_grad(loss, (0, 1))(emissions, transitions)
    assert float(value) == pytest.approx(expected / count, rel=1e-5)
    np.testing.assert_allclose(gradients[0][0], by_emission / count, atol=1e-6)
    np.testing.assert_allclose(gradients[1], by_transition / count, atol=1e-6)


@pytest.mark.parametrize(("sizes", "width", "seed"), CASES)
def test_viterbi_and_marginals_match_enumeration(sizes: list[int], width: int, seed: int) -> None:
    emissions, transitions, chain = random_row(sizes, width, seed)
    tags = viterbi_decode(emissions, transitions, chain)
    marginals = np.exp(log_marginals(emissions, transitions, chain))[0]
    conditional = np.asarray(conditional_log_probs(emissions, transitions, tags, chain))[0]
    np.testing.assert_allclose(marginals.sum(-1), 1, atol=1e-5)
    for tokens in split_sentences(chain):
        scores = score_all_paths(emissions, transitions, tokens)
        best = max(scores, key=lambda path: scores[path])
        assert tuple(np.asarray(tags)[0, tokens].tolist()) == best
        log_partition = np.logaddexp.reduce(list(scores.values()))
        p = {path: np.exp(score - log_partition) for path, score in scores.items()}
        expected = np.zeros((len(tokens), C))
        for path in p:
            expected[np.arange(len(path)), path] += p[path]
        np.testing.assert_allclose(marginals[tokens], expected, atol=1e-5)
        # The joint probability of the tags of each span.
        for a, b in itertools.combinations(range(1, len(tokens)), 2):
            joint = sum(q for path, q in p.items() if path[a:b] == best[a:b])
            actual = np.log(marginals[tokens[a], best[a]]) + conditional[tokens[a + 1 : b]].sum()
            assert np.exp(actual) == pytest.approx(joint, abs=1e-5)


@pytest.mark.parametrize("scheme", ["bio", "bioes", "mmocr"])
def test_viterbi_never_takes_a_forbidden_transition(scheme: str) -> None:
    """100,000 words with large random emissions."""
    labels = LabelSet(["a", "b", "c"], scheme)
    allowed = labels.allowed_transitions()
    random = np.random.default_rng(0)
    rows, width = 900, 120
    positions = np.tile(np.tile(np.arange(30), 4), (rows, 1))
    segments = np.tile(np.repeat(np.arange(1, 5), 30), (rows, 1))
    chain = make_chain(jnp.array(segments), jnp.array(positions), jnp.ones((rows, width), bool))
    emissions = 30 * random.standard_normal((rows, width, len(labels))).astype(np.float32)
    emissions = mask_special_tokens(jnp.array(emissions), chain, labels.outside)
    transitions = jnp.where(allowed, random.standard_normal(allowed.shape), NEG_INF)
    tags = np.asarray(jax.jit(viterbi_decode)(emissions, transitions.astype(jnp.float32), chain))
    sentences = tags.reshape(-1, 30)
    assert (sentences[:, [0, -1]] == labels.outside).all()
    assert allowed[sentences[:, :-1], sentences[:, 1:]].all()
    assert len(np.unique(tags)) == allowed.any(0).sum()  # every reachable tag occurs
    if scheme != "mmocr":
        # Scoring conventions differ only in how they read invalid sequences, so here they must agree.
        mask = np.ones_like(sentences)
        assert labels.decode(sentences, mask, "strict") == labels.decode(sentences, mask, "lenient")
