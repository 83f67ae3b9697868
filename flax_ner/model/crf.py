"""Linear-chain CRF over packed rows: negative log-likelihood, Viterbi decoding and marginals.

The tags y_1 ... y_n of a sentence have the score sum_t emissions[t, y_t] + transitions[y_(t-1), y_t].
Their probability is exp(score) / Z, where the partition function Z sums exp(score) over all tag sequences.

A row may hold several sentences, each with a chain of its own. Tokens without a tag (padding, and the
pieces after a word's first) are skipped. [CLS] and [SEP] have the tag O, so the transitions from and to O
also decide which tags may start and end a sentence.

Source: Lafferty, McCallum and Pereira 2001; all sums in log space.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

# Score of what is not allowed. Finite, because the difference of two infinities is NaN.
NEG_INF = -1e30


class Chain(NamedTuple):
    """Masks that say where the chains of packed rows are."""

    valid: Array  # bool [B, T], whether the token has a tag
    start: Array  # bool [B, T], whether the token is the first of a sentence, its [CLS]
    end: Array  # bool [B, T], whether the token is the last of a sentence, its [SEP]


def make_chain(segment_ids: Array, positions: Array, word_starts: Array) -> Chain:
    """Return the chains of packed rows.

    Args:
        segment_ids: int32 [B, T], 0 for padding.
        positions: int32 [B, T], counted from 0 in each segment.
        word_starts: bool [B, T], False for the pieces after a word's first.
    """
    inside = segment_ids > 0
    next_segment = jnp.pad(segment_ids[:, 1:], ((0, 0), (0, 1)))
    start, end = inside & (positions == 0), inside & (segment_ids != next_segment)
    return Chain(inside & (word_starts | start | end), start, end)


def mask_special_tokens(emissions: Array, chain: Chain, outside: int) -> Array:
    """Return emissions [B, T, C] that allow only the tag `outside` (O) for [CLS] and [SEP]."""
    special = (chain.start | chain.end)[..., None]
    other = jnp.arange(emissions.shape[-1]) != outside
    return jnp.where(special & other[None, None], NEG_INF, emissions)


def negative_log_likelihood(
    emissions: Array, transitions: Array, labels: Array, chain: Chain
) -> Array:
    """Return the mean over tokens with a tag of -log p(labels), float32 scalar, at least 0.

    If the transitions do not allow the labels, the loss is about 1e30.

    Args:
        emissions: float32 [B, T, C], from `mask_special_tokens`.
        transitions: float32 [C, C], score of tag j (column) after tag i (row).
        labels: int32 [B, T], ignored where `chain.valid` is False.
        chain: chains of the rows.
    """
    alpha = _forward(emissions, transitions, chain)
    log_partition = jnp.where(chain.end, jax.nn.logsumexp(alpha, -1), 0).sum()
    emission = jnp.take_along_axis(emissions, labels[..., None], -1)[..., 0]  # [B, T]
    previous = jnp.take_along_axis(labels, _previous_valid(chain), 1)
    transition = transitions[previous, labels]
    score = jnp.where(chain.valid, emission, 0)
    score += jnp.where(chain.valid & ~chain.start, transition, 0)
    count = jnp.maximum(chain.valid.sum(), 1).astype(jnp.float32)
    return (log_partition - score.sum()) / count


def viterbi_decode(emissions: Array, transitions: Array, chain: Chain) -> Array:
    """Return the most probable tag sequence of each sentence, int32 [B, T].

    A token without a tag gets the tag of the last token before it that has one.

    Args:
        emissions: float32 [B, T, C], from `mask_special_tokens`.
        transitions: float32 [C, C], score of tag j (column) after tag i (row).
        chain: chains of the rows.
    """

    def forward(best: Array, token: tuple[Array, Array, Array]) -> tuple[Array, Array]:
        emission, valid, start = token
        candidates = best[:, :, None] + transitions[None]  # [B, C (from), C (to)]
        extended = jnp.where(valid, candidates.max(1) + emission, best)
        backpointers = jnp.where(valid, candidates.argmax(1), jnp.arange(best.shape[1])[None])
        # No transition leads from one sentence to the next: every tag of a sentence's first token points
        # back to the best final tag of the sentence before it.
        backpointers = jnp.where(start, best.argmax(1, keepdims=True), backpointers)
        return jnp.where(start, emission, extended), backpointers

    tokens = _time_major(emissions, chain)
    last, backpointers = lax.scan(forward, jnp.zeros_like(emissions[:, 0]), tokens)

    def follow(tag: Array, backpointers: Array) -> tuple[Array, Array]:
        return jnp.take_along_axis(backpointers, tag[:, None], 1)[:, 0], tag

    _, tags = lax.scan(follow, last.argmax(1), backpointers, reverse=True)
    return tags.T.astype(jnp.int32)


def log_marginals(emissions: Array, transitions: Array, chain: Chain) -> Array:
    """Return the log-probability of every tag at every token, float32 [B, T, C].

    The arguments are those of `viterbi_decode`.
    """
    alpha = _forward(emissions, transitions, chain)
    return jax.nn.log_softmax(alpha + _backward(emissions, transitions, chain))


def conditional_log_probs(emissions: Array, transitions: Array, tags: Array, chain: Chain) -> Array:
    """Return log p(y_t = tags[t] | y_(t-1) = tags[t-1]), float32 [B, T].

    By the chain rule the probability of a run of tags is the marginal of its first tag times the
    conditional probabilities of the others.

    Args:
        emissions: float32 [B, T, C], from `mask_special_tokens`.
        transitions: float32 [C, C], score of tag j (column) after tag i (row).
        tags: int32 [B, T].
        chain: chains of the rows.
    """
    rest = emissions + _backward(emissions, transitions, chain)
    previous = jnp.take_along_axis(tags, _previous_valid(chain), 1)
    log_probs = jax.nn.log_softmax(transitions[previous] + rest)  # [B, T, C]
    return jnp.take_along_axis(log_probs, tags[..., None], -1)[..., 0]


def _forward(emissions: Array, transitions: Array, chain: Chain) -> Array:
    """Return the forward variables alpha, float32 [B, T, C].

    alpha[t, j] is the log of the summed exp(score) of all tag sequences up to token t that end in tag j,
    with the emission of t.
    """

    def step(alpha: Array, token: tuple[Array, Array, Array]) -> tuple[Array, Array]:
        emission, valid, start = token
        extended = jax.nn.logsumexp(alpha[:, :, None] + transitions[None], 1) + emission
        alpha = jnp.where(start, emission, jnp.where(valid, extended, alpha))
        return alpha, alpha

    tokens = _time_major(emissions, chain)
    _, alphas = lax.scan(step, jnp.zeros_like(emissions[:, 0]), tokens)
    return alphas.swapaxes(0, 1)


def _backward(emissions: Array, transitions: Array, chain: Chain) -> Array:
    """Return the backward variables beta, float32 [B, T, C].

    beta[t, i] is the log of the summed exp(score) of all tag sequences that follow tag i of token t in its
    sentence, without the emission of t.
    """

    def step(beta: Array, token: tuple[Array, Array, Array]) -> tuple[Array, Array]:
        emission, valid, start = token
        extended = jax.nn.logsumexp((emission + beta)[:, None, :] + transitions[None], 2)
        return jnp.where(start, 0.0, jnp.where(valid, extended, beta)), beta

    tokens = _time_major(emissions, chain)
    _, betas = lax.scan(step, jnp.zeros_like(emissions[:, 0]), tokens, reverse=True)
    return betas.swapaxes(0, 1)


def _time_major(emissions: Array, chain: Chain) -> tuple[Array, Array, Array]:
    """Return emissions [T, B, C] and the masks `valid` and `start` [T, B, 1], for a scan over tokens."""
    return (
        emissions.swapaxes(0, 1),
        chain.valid.T[..., None],
        chain.start.T[..., None],
    )


def _previous_valid(chain: Chain) -> Array:
    """Return the index of the last token with a tag before each token, int32 [B, T]; 0 if there is none."""
    indices = jnp.arange(chain.valid.shape[1], dtype=jnp.int32)
    last_valid = lax.cummax(jnp.where(chain.valid, indices[None], 0), axis=1)
    return jnp.pad(last_valid[:, :-1], ((0, 0), (1, 0)))
