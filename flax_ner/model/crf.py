"""Linear chains over the tags of packed rows, and what is most likely of them.

A sentence's tags y_1 ... y_n have the score sum_t emissions[t, y_t] + transitions[y_t-1, y_t], and a
probability in proportion to its exponential. Several sentences lie in a row; tokens that have no tag
(padding, and pieces behind a word's first) are passed over. [CLS] and [SEP] are outside, so that what
may begin and end a sentence follows from what may stand beside O.

Source: Lafferty, McCallum and Pereira 2001; in log space.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

IMPOSSIBLE = -1e30  # a score, finite: differences of infinities are no numbers


class Chain(NamedTuple):
    """The tokens that a row's chains are of."""

    live: Array  # bool [B, T], whether the token has a tag
    begin: Array  # bool [B, T], whether a sentence begins with it: its [CLS]
    end: Array  # bool [B, T], whether one ends with it: its [SEP]


def chain(segment_ids: Array, positions: Array, words: Array) -> Chain:
    """The chains of packed rows; `words` bool [B, T] is False for pieces behind a word's first."""
    inside = segment_ids > 0
    following = jnp.pad(segment_ids[:, 1:], ((0, 0), (0, 1)))
    begin, end = inside & (positions == 0), inside & (segment_ids != following)
    return Chain(inside & (words | begin | end), begin, end)


def clamp(emissions: Array, chain: Chain, outside: int) -> Array:
    """Emissions [B, T, C] where [CLS] and [SEP] can be nothing but the tag `outside`."""
    special = (chain.begin | chain.end)[..., None]
    other = jnp.arange(emissions.shape[-1]) != outside
    return jnp.where(special & other[None, None], IMPOSSIBLE, emissions)


def negative_log_likelihood(
    emissions: Array, transitions: Array, labels: Array, chain: Chain
) -> Array:
    """Return the mean over all tokens with a tag of -log p(labels), float32 scalar, never below 0.

    The labels must be a path that the transitions allow: of one that they forbid the loss is about 1e30.

    Args:
        emissions: float32 [B, T, C], clamped.
        transitions: float32 [C, C], from one tag to the next.
        labels: int32 [B, T]; what stands where `chain.live` is False does not matter.
        chain: of the tokens.
    """
    forward = _forward(emissions, transitions, chain)
    log_z = jnp.where(chain.end, jax.nn.logsumexp(forward, -1), 0).sum()
    own = jnp.take_along_axis(emissions, labels[..., None], -1)[..., 0]  # [B, T]
    before = jnp.take_along_axis(labels, _before(chain), 1)
    step = transitions[before, labels]
    score = jnp.where(chain.live, own, 0) + jnp.where(chain.live & ~chain.begin, step, 0)
    count = jnp.maximum(chain.live.sum(), 1).astype(jnp.float32)
    return (log_z - score.sum()) / count


def best_path(emissions: Array, transitions: Array, chain: Chain) -> Array:
    """The most likely tags, int32 [B, T]; a token without a tag has that of the one before it."""

    def ahead(best: Array, token: tuple[Array, Array, Array]) -> tuple[Array, Array]:
        emission, live, begin = token
        sums = best[:, :, None] + transitions[None]  # [B, from, to]
        moved = jnp.where(live, sums.max(1) + emission, best)
        came_from = jnp.where(live, sums.argmax(1), jnp.arange(best.shape[1])[None])
        # Whatever follows a sentence, its own end was the best of all.
        came_from = jnp.where(begin, best.argmax(1, keepdims=True), came_from)
        return jnp.where(begin, emission, moved), came_from

    tokens = _by_token(emissions, chain)
    last, came_from = lax.scan(ahead, jnp.zeros_like(emissions[:, 0]), tokens)

    def back(tag: Array, came_from: Array) -> tuple[Array, Array]:
        return jnp.take_along_axis(came_from, tag[:, None], 1)[:, 0], tag

    _, tags = lax.scan(back, last.argmax(1), came_from, reverse=True)
    return tags.T.astype(jnp.int32)


def log_marginals(emissions: Array, transitions: Array, chain: Chain) -> Array:
    """Log-probability of every tag of every token, float32 [B, T, C]."""
    forward = _forward(emissions, transitions, chain)
    return jax.nn.log_softmax(forward + _backward(emissions, transitions, chain))


def log_steps(emissions: Array, transitions: Array, tags: Array, chain: Chain) -> Array:
    """Log-probability of each tag given the one before it, float32 [B, T].

    The probability of neighbouring tags together is the marginal of the first times the steps behind
    it, whatever stands around them.
    """
    after = emissions + _backward(emissions, transitions, chain)
    before = jnp.take_along_axis(tags, _before(chain), 1)
    steps = jax.nn.log_softmax(transitions[before] + after)  # [B, T, C]
    return jnp.take_along_axis(steps, tags[..., None], -1)[..., 0]


def _forward(emissions: Array, transitions: Array, chain: Chain) -> Array:
    """Log of the summed exponential scores of all beginnings up to each tag, float32 [B, T, C]."""

    def ahead(total: Array, token: tuple[Array, Array, Array]) -> tuple[Array, Array]:
        emission, live, begin = token
        moved = jax.nn.logsumexp(total[:, :, None] + transitions[None], 1) + emission
        total = jnp.where(begin, emission, jnp.where(live, moved, total))
        return total, total

    tokens = _by_token(emissions, chain)
    _, totals = lax.scan(ahead, jnp.zeros_like(emissions[:, 0]), tokens)
    return totals.swapaxes(0, 1)


def _backward(emissions: Array, transitions: Array, chain: Chain) -> Array:
    """Likewise of all that may follow each tag in its sentence, float32 [B, T, C]."""

    def back(total: Array, token: tuple[Array, Array, Array]) -> tuple[Array, Array]:
        emission, live, begin = token
        moved = jax.nn.logsumexp((emission + total)[:, None, :] + transitions[None], 2)
        return jnp.where(begin, 0.0, jnp.where(live, moved, total)), total

    tokens = _by_token(emissions, chain)
    _, totals = lax.scan(back, jnp.zeros_like(emissions[:, 0]), tokens, reverse=True)
    return totals.swapaxes(0, 1)


def _by_token(emissions: Array, chain: Chain) -> tuple[Array, Array, Array]:
    """What a scan over tokens takes: [T, B, ...]."""
    return (
        emissions.swapaxes(0, 1),
        chain.live.T[..., None],
        chain.begin.T[..., None],
    )


def _before(chain: Chain) -> Array:
    """Where the last token with a tag before each is, int32 [B, T]; 0 where none is."""
    every = jnp.arange(chain.live.shape[1], dtype=jnp.int32)
    places = jnp.where(chain.live, every[None], 0)
    last = lax.cummax(places, axis=1)
    return jnp.pad(last[:, :-1], ((0, 0), (1, 0)))
