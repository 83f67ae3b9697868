"""Attention, GELU and their derivatives, against JAX's derivative of the plain formula."""

import math
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import Array

from flax_ner.model.attention import MASKED_SCORE, attention, attention_mask
from flax_ner.model.bert import ACTIVATIONS
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
@pytest.mark.parametrize("seeds", [None, SEEDS])
@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-5), ("bfloat16", 0.05)])
def test_result_and_gradient_are_those_of_the_formula(
    dtype: str, tolerance: float, seeds: Array | None, rate: float
) -> None:
    random = np.random.default_rng(0)
    qkv = jnp.asarray(random.normal(size=SHAPE), jnp.float32)
    gradient = jnp.asarray(random.normal(size=(*SHAPE[:2], *SHAPE[3:])), jnp.float32)
    mask = attention_mask(jnp.asarray(SEGMENTS))

    @partial(jax.jit, static_argnums=0)  # compiled together, XLA folds transposes into the products
    def result_and_gradient(attend: Callable[[Array], Array], qkv: Array) -> tuple[Array, Array]:
        result, vjp = jax.vjp(attend, qkv)
        return result, vjp(gradient)[0]

    expected = result_and_gradient(lambda x: plain_attention(x, mask, seeds, rate), qkv)
    actual = result_and_gradient(lambda x: attention(x, mask, seeds, rate, jnp.dtype(dtype)), qkv)
    for a, b in zip(actual, expected, strict=True):
        np.testing.assert_allclose(a, b, atol=tolerance)


# Inference numbers the segments of all rows of a batch.
@pytest.mark.parametrize("first", [1, 100_000, 2**31 - 3])
def test_mask_is_within_segments_and_never_to_padding(first: int) -> None:
    segments = np.where(SEGMENTS, SEGMENTS + first - 1, 0)
    mask = attention_mask(jnp.asarray(segments))
    for query, key in np.ndindex(*segments.shape[1:] * 2):
        own, other = segments[:, query], segments[:, key]
        expected = (other > 0) & ((own == other) | (own == 0))
        np.testing.assert_array_equal(mask[:, 0, query, key], expected)


def test_layers_do_not_repeat_the_comparisons_of_the_mask() -> None:
    """XLA fuses comparisons of segment numbers into the loops over the scores, which then take longer."""

    def layers(qkv: Array, segment_ids: Array) -> Array:
        mask = attention_mask(segment_ids)
        for _ in range(6):
            attended = attention(qkv, mask, SEEDS, 0.1, jnp.dtype("float32"))
            qkv = qkv + attended[:, :, None]
        return qkv.sum()

    # XLA computes the product of a smaller mask in a loop, too.
    segments = np.repeat(SEGMENTS, 16, axis=1)
    B, T = segments.shape
    qkv = jnp.zeros((B, T, *SHAPE[2:]))
    program = jax.jit(jax.grad(layers)).lower(qkv, jnp.asarray(segments)).compile().as_text()
    pairs = [line for line in program.splitlines() if f"pred[{B},{T},{T}]" in line]
    assert sum("direction=EQ" in line for line in pairs) <= 2


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


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-6), ("bfloat16", 2**-8)])
def test_gelu_and_its_derivative_are_exact(dtype: str, tolerance: float) -> None:
    x = np.asarray(jnp.linspace(-12, 12, 2001).astype(dtype), np.float64)  # values of the dtype
    cdf = np.array([0.5 * math.erfc(-v / math.sqrt(2)) for v in x])
    derivative = cdf + x * np.exp(-0.5 * x**2) / math.sqrt(2 * math.pi)
    value, vjp = jax.vjp(ACTIVATIONS["gelu"], jnp.asarray(x, dtype))
    gradient = vjp(jnp.ones_like(value))[0]
    for actual, expected in ((value, x * cdf), (gradient, derivative)):
        assert actual.dtype == dtype
        np.testing.assert_allclose(
            np.asarray(actual, np.float64), expected, rtol=tolerance, atol=1e-6
        )
