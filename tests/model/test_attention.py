"""Attention and its derivative, against JAX's derivative of the plain formula."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import Array

from flax_ner.model.attention import MASKED_SCORE, attention, attention_mask
from flax_ner.model.dropout import dropout

# A row with three sentences, a row with padding, a row of padding only.
SEGMENTS = np.array([[1, 1, 2, 2, 2, 3], [1, 1, 1, 1, 0, 0], [0, 0, 0, 0, 0, 0]])
SHAPE = (*SEGMENTS.shape, 3, 2, 4)  # [B, T, 3, N, H]
SEEDS = jnp.array([[1, 2], [3, 4], [5, 6]], jnp.uint32)


def plain_attention(qkv: Array, mask: Array, seeds: Array | None, rate: float) -> Array:
    query, key, value = (qkv[:, :, i] for i in range(3))
    scores = jnp.einsum("bqnh,bknh->bnqk", query, key, precision="highest") / 2  # sqrt(H)
    probs = jax.nn.softmax(jnp.where(mask, scores, MASKED_SCORE))
    kept = dropout(probs, rate, seeds)
    return jnp.einsum("bnqk,bknh->bqnh", kept, value, precision="highest")


@pytest.mark.parametrize("rate", [0.0, 0.3])
@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-5), ("bfloat16", 0.05)])
def test_result_and_gradient_are_those_of_the_formula(
    dtype: str, tolerance: float, rate: float
) -> None:
    random = np.random.default_rng(0)
    qkv = jnp.asarray(random.normal(size=SHAPE), jnp.float32)
    gradient = jnp.asarray(random.normal(size=(*SHAPE[:2], *SHAPE[3:])), jnp.float32)
    mask = attention_mask(jnp.asarray(SEGMENTS))
    seeds = SEEDS if rate else None
    expected, vjp = jax.vjp(lambda x: plain_attention(x, mask, seeds, rate), qkv)
    result, own_vjp = jax.vjp(lambda x: attention(x, mask, seeds, rate, jnp.dtype(dtype)), qkv)
    np.testing.assert_allclose(result, expected, atol=tolerance)
    np.testing.assert_allclose(own_vjp(gradient)[0], vjp(gradient)[0], atol=tolerance)


def test_dtypes_are_those_of_the_input() -> None:
    qkv = jnp.zeros(SHAPE, jnp.bfloat16)
    mask = attention_mask(jnp.asarray(SEGMENTS))
    result, vjp = jax.vjp(lambda x: attention(x, mask, SEEDS, 0.1, jnp.dtype("bfloat16")), qkv)
    assert (result.dtype, vjp(result)[0].dtype) == (jnp.bfloat16, jnp.bfloat16)


def test_a_large_score_gives_no_overflow() -> None:
    qkv = jnp.full(SHAPE, 1e4, jnp.float32)
    mask = attention_mask(jnp.asarray(SEGMENTS))
    result, vjp = jax.vjp(lambda x: attention(x, mask, None, 0.0, jnp.dtype("float32")), qkv)
    assert np.isfinite(result).all() and np.isfinite(vjp(result)[0]).all()
