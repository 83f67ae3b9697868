"""Efficient GlobalPointer: a score for every span and category, so that entities may lie in one another.

A span is from its first token i to its last j, and

    score(c, i, j) = rotated(q_i) . rotated(k_j) / sqrt(H) + (begin_c(i) + end_c(j)) / 2

with q and k a small product of the encoder's vector, and begin and end one of these two. What scores
above 0 is an entity.

Source: Su et al. 2022, arXiv 2208.03054, and for the loss Su et al. 2022, arXiv 2208.02955, as in
bert4keras; differs: the scores of begins start at -4 and not at 0, so that a fresh head finds nothing and
not half of all spans.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from flax_ner.model.bert import BertConfig, Dense
from flax_ner.model.crf import IMPOSSIBLE, Chain
from flax_ner.model.dropout import dropout

WIDTH = 64  # of query and key, H
FIRST_BIAS = -4.0


class Factors(NamedTuple):
    """What the scores of all spans are made of, float32."""

    query: Array  # [B, T, H], of a span's first token, rotated and scaled
    key: Array  # [B, T, H], of its last token, rotated
    begin: Array  # [B, T, C]
    end: Array  # [B, T, C]


class Found(NamedTuple):
    """The spans that score above 0, and what their scores are made of."""

    bits: (
        Array  # uint8 [B, C, T, ceil(T / 8)], whether each span from i to j is one; j by `packbits`
    )
    factors: Factors


class GlobalPointer(nnx.Module):
    """Dropout, and two small linear layers that all spans share."""

    def __init__(self, config: BertConfig, rngs: nnx.Rngs):
        std = config.initializer_range
        self.pointer = Dense((config.hidden_size,), (2, WIDTH), std, rngs)
        self.edges = Dense((2, WIDTH), (2, config.num_labels), std, rngs)
        bias = self.edges.bias
        bias[...] = bias[...].at[0].set(FIRST_BIAS)
        self.config = config

    def __call__(self, x: Array, positions: Array, seeds: Array | None) -> Factors:
        """Of `x` [B, T, D] at `positions` int32 [B, T]; `seeds` uint32 [B, 2] for dropout; None for none."""
        x = dropout(x, self.config.classifier_dropout, seeds).astype(jnp.float32)
        pointers = self.pointer(x, jnp.float32)  # [B, T, 2, H]
        edges = self.edges(pointers, jnp.float32) / 2  # [B, T, 2, C]
        query, key = (rotated(pointers[:, :, i], positions) for i in (0, 1))
        return Factors(query * WIDTH**-0.5, key, edges[:, :, 0], edges[:, :, 1])


def rotated(x: Array, positions: Array) -> Array:
    """`x` [B, T, H], neighbouring components turned by the position times a frequency for each pair.

    Products of two such vectors depend on how far apart they stand. Source: Su et al. 2021, RoFormer,
    arXiv 2104.09864.
    """
    pairs = x.shape[-1] // 2
    frequency = 10000.0 ** (-jnp.arange(pairs, dtype=jnp.float32) / pairs)
    angle = positions[..., None].astype(jnp.float32) * frequency[None, None]  # [B, T, H / 2]
    even, odd = x[..., ::2], x[..., 1::2]
    turned = (
        even * jnp.cos(angle) - odd * jnp.sin(angle),
        odd * jnp.cos(angle) + even * jnp.sin(angle),
    )
    return jnp.stack(turned, -1).reshape(x.shape)  # [B, T, H]


def scores(factors: Factors) -> Array:
    """Of every span, float32 [B, C, T, T], by its first and its last token."""
    query, key, begin, end = factors
    pairs = jnp.einsum("bih,bjh->bij", query, key, precision="highest")
    begin, end = (jnp.swapaxes(edge, 1, 2) for edge in (begin, end))  # [B, C, T]
    return pairs[:, None] + begin[..., None] + end[:, :, None]


def allowed(segment_ids: Array, chain: Chain) -> Array:
    """Which spans there can be, bool [B, T, T]: of words of one sentence, the last not before the first."""
    word = chain.live & ~chain.begin & ~chain.end
    same = segment_ids[:, :, None] == segment_ids[:, None]
    return jnp.triu(same & word[:, :, None] & word[:, None])


def loss(factors: Factors, labels: Array, segment_ids: Array, chain: Chain) -> Array:
    """Mean over sentences of the sum over categories of log(1 + sum exp(s)) over the spans that are no
    entities + log(1 + sum exp(-s)) over those that are; float32 scalar.

    Args:
        factors: of the rows.
        labels: int32 [B, T, K], the entities that begin with each token as `SpanLabels` numbers them.
        segment_ids: int32 [B, T].
        chain: of the rows.
    """
    every = scores(factors)
    true = _targets(labels, every.shape)
    spans = allowed(segment_ids, chain)[:, None]
    same = (segment_ids[:, :, None] == segment_ids[:, None])[:, None]
    total = jnp.float32(0)
    for sign, members in ((1, spans & ~true), (-1, spans & true)):
        of_first = jax.nn.logsumexp(jnp.where(members, sign * every, IMPOSSIBLE), -1)  # [B, C, T]
        # A sentence's are gathered where it begins.
        of_sentence = jnp.where(same, of_first[:, :, None], IMPOSSIBLE)
        softplus = jax.nn.softplus(jax.nn.logsumexp(of_sentence, -1))
        total += jnp.where(chain.begin[:, None], softplus, 0).sum()
    return total / jnp.maximum(chain.begin.sum(), 1).astype(jnp.float32)


def found(factors: Factors, segment_ids: Array, chain: Chain) -> Found:
    """The entities of packed rows."""
    positive = (scores(factors) > 0) & allowed(segment_ids, chain)[:, None]
    return Found(jnp.packbits(positive, axis=-1), factors)


def _targets(labels: Array, shape: tuple[int, ...]) -> Array:
    """Which spans are entities, bool of `shape`, [B, C, T, T]."""
    B, C, T, _ = shape
    length, kind = jnp.divmod(labels - 1, C)
    row, first = jnp.arange(B)[:, None, None], jnp.arange(T)[None, :, None]
    last = jnp.where(labels > 0, first + length, T)  # T: nowhere
    return jnp.zeros(shape, bool).at[row, kind, first, last].set(True, mode="drop")
