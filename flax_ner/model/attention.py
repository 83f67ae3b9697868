"""Self-attention over packed rows, with a custom gradient.

JAX's own gradient reads and writes the scores [B, N, T, T] more often. On a CPU, two of its six bfloat16
products are computed in float32, because an operand has the wrong layout in memory.
"""

from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax import Array

from flax_ner.model.dropout import keep_mask
from flax_ner.model.matmul import product, row_major

MASKED_SCORE = -1e9  # score of a masked key; its softmax weight is 0
BITS = 31  # of the number of a segment, a positive int32


def attention_mask(segment_ids: Array) -> Array:
    """Return which token attends to which, bool [B, 1, T, T]: those of the same segment, never padding."""
    inside = (segment_ids > 0)[..., None]
    bits = (segment_ids[..., None] >> jnp.arange(BITS)[None, None]) & 1
    signs = jnp.where(inside, 2 * bits - 1, 0)  # [B, T, BITS], 1 or -1; 0 for padding
    # Padding attends to all tokens of its row, as in the reference, so that its output agrees too.
    queries, keys = (
        jnp.concatenate([signs, last.astype(signs.dtype)], axis=-1).astype(jnp.float32)
        for last in (jnp.where(inside, 0, BITS), inside)
    )
    # BITS if all bits are equal, else less. A comparison of the numbers would do, but on a CPU XLA would repeat
    # it for every score of every layer and head. It does not repeat a matrix product.
    return product(queries, keys, jnp.float32, transpose_b=True)[:, None] >= BITS


def fused_attention(qkv: Array, mask: Array, implementation: Literal["cudnn", "xla"]) -> Array:
    """Return attention [B, T, N, H] of `qkv` [B, T, 3, N, H], in one kernel that never stores the scores."""
    query, key, value = (qkv[:, :, i] for i in range(3))
    return jax.nn.dot_product_attention(query, key, value, mask=mask, implementation=implementation)


@partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def attention(
    qkv: Array, mask: Array, seeds: Array | None, dropout_rate: float, compute_dtype: Any
) -> Array:
    """Return softmax(query key^T / sqrt(H)) value, with dropout of the probabilities.

    Args:
        qkv: query, key and value, floating point [B, T, 3, N, H].
        mask: bool [B, 1, T, T], from `attention_mask`.
        seeds: uint32 [B, 2] for dropout; None for a deterministic pass.
        dropout_rate: rate of dropout in [0, 1).
        compute_dtype: dtype of the products, float32 or bfloat16. The softmax is float32.

    Returns:
        [B, T, N, H] in the dtype of `qkv`.
    """
    return _forward(qkv, mask, seeds, dropout_rate, compute_dtype)[0]


def _forward(
    qkv: Array, mask: Array, seeds: Array | None, dropout_rate: float, compute_dtype: Any
) -> Any:
    query, key, value = jnp.transpose(qkv, (2, 0, 3, 1, 4))  # 3 x [B, N, T, H]
    query = query * qkv.shape[-1] ** -0.5
    query, key, value = (row_major(x.astype(compute_dtype)) for x in (query, key, value))
    scores = product(query, key, jnp.float32, transpose_b=True)  # [B, N, T, T]
    probs = jax.nn.softmax(jnp.where(mask, scores, MASKED_SCORE))
    if seeds is not None and dropout_rate:
        probs = jnp.where(keep_mask(probs.shape, dropout_rate, seeds), probs, -probs)
    # The sign says whether dropout keeps a probability, so that the gradient need not hash the mask again.
    signed = probs.astype(compute_dtype)
    kept = _kept(signed, dropout_rate, seeds).astype(compute_dtype)
    attended = product(kept, value, qkv.dtype)  # [B, N, T, H]
    return jnp.swapaxes(attended, 1, 2), (query, key, value, signed, attended, mask, seeds)


def _kept(signed: Array, rate: float, seeds: Array | None) -> Array:
    """Return the probabilities after dropout, float32, from probabilities with the sign of `_forward`."""
    kept = jnp.maximum(signed.astype(jnp.float32), 0)
    return kept if seeds is None else kept / (1 - rate)


def _backward(dropout_rate: float, compute_dtype: Any, residuals: Any, gradient: Array) -> Any:
    query, key, value, signed, attended, mask, seeds = residuals
    dtype = gradient.dtype
    gradient = jnp.swapaxes(gradient, 1, 2)  # [B, N, T, H]
    # The sum over keys of probability x its gradient, [B, N, T, 1]. Source: Dao et al. 2022, arXiv 2205.14135.
    delta = (gradient.astype(jnp.float32) * attended).sum(-1, keepdims=True)
    gradient = row_major(gradient.astype(compute_dtype))
    kept = _kept(signed, dropout_rate, seeds)
    d_kept = product(gradient, value, jnp.float32, transpose_b=True)  # [B, N, T, T]
    d_scores = kept * d_kept - jnp.abs(signed).astype(jnp.float32) * delta
    d_scores = jnp.where(mask, d_scores, 0).astype(compute_dtype)
    kept = kept.astype(compute_dtype)
    d_query = product(d_scores, key, dtype) * query.shape[-1] ** -0.5
    d_key = product(row_major(jnp.swapaxes(d_scores, -1, -2)), query, dtype)
    d_value = product(row_major(jnp.swapaxes(kept, -1, -2)), gradient, dtype)
    # Rounded before the transpose, to move fewer bytes. The products of the qkv layer round them anyway; only
    # the gradient of its bias would not.
    d_qkv = jnp.stack([x.astype(compute_dtype) for x in (d_query, d_key, d_value)])
    return jnp.transpose(d_qkv, (1, 3, 0, 2, 4)).astype(dtype), None, None


attention.defvjp(_forward, _backward)
