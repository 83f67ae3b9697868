"""Matrix products and their gradients, against NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import Array
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from flax_ner.model.matmul import matmul


def random_operands(*batch: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    a, b, g = ((5, 7), (7, 6), (5, 6))
    return tuple(random.normal(size=(*batch, *shape)).astype(np.float32) for shape in (a, b, g))


@pytest.mark.parametrize("batch", [(), (2, 3)])
@pytest.mark.parametrize("transpose_b", [False, True])
@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-5), ("bfloat16", 0.1)])
def test_product_and_gradients_match_numpy(
    batch: tuple[int, ...], transpose_b: bool, dtype: str, tolerance: float
) -> None:
    a, b, g = random_operands(*batch)
    given = np.swapaxes(b, -1, -2) if transpose_b else b
    y, vjp = jax.vjp(
        lambda a, b: matmul(a, b, jnp.dtype(dtype), None, transpose_b),
        jnp.asarray(a),
        jnp.asarray(given),
    )
    da, db = vjp(jnp.asarray(g))
    db = np.swapaxes(db, -1, -2) if transpose_b else db
    np.testing.assert_allclose(y, a @ b, atol=tolerance)
    np.testing.assert_allclose(da, g @ np.swapaxes(b, -1, -2), atol=tolerance)
    np.testing.assert_allclose(db, np.swapaxes(a, -1, -2) @ g, atol=tolerance)


def test_bfloat16_products_accumulate_in_float32() -> None:
    a, b, g = (jnp.asarray(x) for x in random_operands())

    def rounded(x: Array) -> np.ndarray:
        return np.asarray(x.astype(jnp.bfloat16), np.float32)

    y, vjp = jax.vjp(lambda a, b: matmul(a, b, jnp.dtype("bfloat16")), a, b)
    da, db = vjp(g)
    for actual, expected in (
        (y, rounded(a) @ rounded(b)),
        (da, rounded(g) @ rounded(b).T),
        (db, rounded(a).T @ rounded(g)),
    ):
        assert actual.dtype == jnp.float32
        np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-6)


def test_result_and_gradients_have_the_documented_dtypes() -> None:
    a, b, g = random_operands()
    half = jnp.asarray(a, jnp.bfloat16)
    y, vjp = jax.vjp(lambda a, b: matmul(a, b, jnp.dtype("bfloat16")), half, jnp.asarray(b))
    da, db = vjp(jnp.asarray(g, jnp.bfloat16))
    assert (y.dtype, da.dtype, db.dtype) == (jnp.bfloat16, jnp.bfloat16, jnp.float32)
    assert matmul(half, b, jnp.dtype("bfloat16"), jnp.float32).dtype == jnp.float32


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-4), ("bfloat16", 0.5)])
def test_gradients_are_correct_with_rows_sharded_over_devices(dtype: str, tolerance: float) -> None:
    random = np.random.default_rng(1)
    a, b = random.normal(size=(16, 8)), random.normal(size=(8, 8))
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    rows = jax.device_put(jnp.asarray(a, jnp.float32), NamedSharding(mesh, P("data")))

    def loss(a: Array, b: Array) -> Array:
        return (matmul(a, b, jnp.dtype(dtype)) ** 2).sum()

    da, db = jax.jit(jax.grad(loss, (0, 1)))(rows, jnp.asarray(b, jnp.float32))
    np.testing.assert_allclose(da, 2 * a @ b @ b.T, rtol=1e-4, atol=tolerance)
    np.testing.assert_allclose(db, 2 * a.T @ (a @ b), rtol=1e-4, atol=tolerance)
