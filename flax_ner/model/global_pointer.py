"""Efficient GlobalPointer: a score for every span and category, so that entities can be nested.

The score of category c for the span from token i to token j (inclusive) is

    score(c, i, j) = rotary(q_i) . rotary(k_j) / sqrt(H) + (start_c(i) + end_c(j)) / 2

where the query q and the key k are linear in the encoder's vector, and the start and end scores are linear
in q and k together. A span is predicted if its score is above 0.

Source: Su et al. 2022, arXiv 2208.03054, and for the loss Su et al. 2022, arXiv 2208.02955, as in
bert4keras; differs: kernels are initialised with standard deviation 1 / sqrt(inputs). The bias of the start
scores is initialised to -8, not 0, so that an untrained head predicts almost no spans instead of half of them.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array

from flax_ner.model.bert import BertConfig, Dense
from flax_ner.model.crf import NEG_INF, Chain
from flax_ner.model.dropout import dropout
from flax_ner.model.initial_values import constant_param

HEAD_WIDTH = 64  # H, width of query and key
INITIAL_START_BIAS = -8.0


class SpanScoreFactors(NamedTuple):
    """Factors from which `span_scores` computes the scores of all spans, float32."""

    query: Array  # [B, T, H], of a span's first token, rotated and scaled
    key: Array  # [B, T, H], of a span's last token, rotated
    start: Array  # [B, T, C]
    end: Array  # [B, T, C]


class SpanPredictions(NamedTuple):
    """Predicted spans, and the factors of their scores."""

    # uint8 [B, C, T, ceil(T / 8)], whether the span from i to j is predicted; j in bits, by `packbits`.
    bits: Array
    factors: SpanScoreFactors


class GlobalPointer(nnx.Module):
    """Dropout and two linear layers: one for query and key, one for the start and end scores."""

    def __init__(self, config: BertConfig, rngs: nnx.Rngs):
        # query . key is quadratic in the first kernel, and start and end scores are products of both. With
        # BERT's initializer_range these products are near 0, and so are the gradients of the kernels.
        self.pointer = Dense((config.hidden_size,), (2, HEAD_WIDTH), config.hidden_size**-0.5, rngs)
        self.edges = Dense((2, HEAD_WIDTH), (2, config.num_labels), (2 * HEAD_WIDTH) ** -0.5, rngs)
        initial_bias = np.array([[INITIAL_START_BIAS], [0]])  # of start and end scores
        self.edges.bias = constant_param(rngs, (2, config.num_labels), initial_bias)
        self.config = config

    def __call__(self, x: Array, positions: Array, seeds: Array | None) -> SpanScoreFactors:
        """Return the factors of all span scores.

        Args:
            x: [B, T, D], from the encoder.
            positions: int32 [B, T].
            seeds: uint32 [B, 2] for dropout; None for a deterministic pass.
        """
        x = dropout(x, self.config.classifier_dropout, seeds).astype(jnp.float32)
        pointers = self.pointer(x, jnp.float32)  # [B, T, 2, H]
        edges = self.edges(pointers, jnp.float32) / 2  # [B, T, 2, C]
        query, key = (apply_rotary(pointers[:, :, i], positions) for i in (0, 1))
        return SpanScoreFactors(query * HEAD_WIDTH**-0.5, key, edges[:, :, 0], edges[:, :, 1])


def apply_rotary(x: Array, positions: Array) -> Array:
    """Apply rotary position embeddings to `x` [B, T, H] at `positions` int32 [B, T].

    The dot product of two rotated vectors depends only on the distance of their positions.

    Source: Su et al. 2021, RoFormer, arXiv 2104.09864.
    """
    pairs = x.shape[-1] // 2
    frequency = 10000.0 ** (-jnp.arange(pairs, dtype=jnp.float32) / pairs)
    angle = positions[..., None].astype(jnp.float32) * frequency[None, None]  # [B, T, H / 2]
    even, odd = x[..., ::2], x[..., 1::2]
    rotated = (
        even * jnp.cos(angle) - odd * jnp.sin(angle),
        odd * jnp.cos(angle) + even * jnp.sin(angle),
    )
    return jnp.stack(rotated, -1).reshape(x.shape)  # [B, T, H]


def span_scores(factors: SpanScoreFactors) -> Array:
    """Return the score of every span, float32 [B, C, T, T], indexed by first and last token."""
    query, key, start, end = factors
    products = jnp.einsum("bih,bjh->bij", query, key, precision="highest")
    start, end = (jnp.swapaxes(edge, 1, 2) for edge in (start, end))  # [B, C, T]
    return products[:, None] + start[..., None] + end[:, :, None]


def allowed_spans(segment_ids: Array, chain: Chain) -> Array:
    """Return which spans may be entities, bool [B, T, T], indexed by first and last token.

    Both tokens must be words of the same sentence, and the last must not come before the first.
    """
    word = chain.valid & ~chain.start & ~chain.end
    same = segment_ids[:, :, None] == segment_ids[:, None]
    return jnp.triu(same & word[:, :, None] & word[:, None])


def loss(factors: SpanScoreFactors, labels: Array, segment_ids: Array, chain: Chain) -> Array:
    """Return the mean over sentences of the multi-label loss, float32 scalar.

    The loss of a sentence is the sum over categories of log(1 + sum exp(s)) over the spans that are not
    entities + log(1 + sum exp(-s)) over the spans that are.

    Args:
        factors: output of `GlobalPointer`.
        labels: int32 [B, T, K], the up to K entities that start at each token, numbered by `SpanLabels`.
        segment_ids: int32 [B, T].
        chain: chains of the rows.
    """
    scores = span_scores(factors)
    gold = _gold_spans(labels, scores.shape)
    allowed = allowed_spans(segment_ids, chain)[:, None]
    same_sentence = (segment_ids[:, :, None] == segment_ids[:, None])[:, None]
    total = jnp.float32(0)
    for sign, mask in ((1, allowed & ~gold), (-1, allowed & gold)):
        # Sum first over the last tokens, then over the first tokens of each sentence. The result is
        # the same at every token of a sentence, and only the one at its [CLS] is counted.
        by_first = jax.nn.logsumexp(jnp.where(mask, sign * scores, NEG_INF), -1)  # [B, C, T]
        by_sentence = jnp.where(same_sentence, by_first[:, :, None], NEG_INF)
        softplus = jax.nn.softplus(jax.nn.logsumexp(by_sentence, -1))
        total += jnp.where(chain.start[:, None], softplus, 0).sum()
    return total / jnp.maximum(chain.start.sum(), 1).astype(jnp.float32)


def predict_spans(factors: SpanScoreFactors, segment_ids: Array, chain: Chain) -> SpanPredictions:
    """Return the spans of packed rows whose score is above 0."""
    positive = (span_scores(factors) > 0) & allowed_spans(segment_ids, chain)[:, None]
    return SpanPredictions(jnp.packbits(positive, axis=-1), factors)


def _gold_spans(labels: Array, shape: tuple[int, ...]) -> Array:
    """Return which spans are gold entities, bool of `shape` [B, C, T, T]."""
    B, C, T, _ = shape
    length, category = jnp.divmod(labels - 1, C)
    row, first = jnp.arange(B)[:, None, None], jnp.arange(T)[None, :, None]
    # Where there is no entity, T is out of bounds, and mode "drop" skips it.
    last = jnp.where(labels > 0, first + length, T)
    return jnp.zeros(shape, bool).at[row, category, first, last].set(True, mode="drop")
