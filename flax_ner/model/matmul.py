"""Matrix multiplication in float32, or with bfloat16 inputs and float32 accumulation."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.experimental.layout import Layout, with_layout_constraint
from jax.export import is_symbolic_dim


def activation_dtype(compute_dtype: Any) -> Any:
    """Return the dtype of activations between matrix products.

    On an accelerator it is `compute_dtype`: bfloat16 halves the memory traffic. On a CPU it is always
    float32: rounding costs instructions there, and XLA only has bfloat16 products with a float32 result.
    """
    return jnp.dtype("float32") if _on_cpu() else jnp.dtype(compute_dtype)


@partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def matmul(
    a: Array, b: Array, compute_dtype: Any, result_dtype: Any = None, transpose_b: bool = False
) -> Array:
    """Return the product of `a` [..., rows, inputs] and `b` [..., inputs, outputs].

    The gradients are computed in `compute_dtype` too. Each has the dtype of its input, so the gradient of a
    float32 parameter is not rounded to bfloat16.

    Args:
        a, b: floating point, with the same leading axes.
        compute_dtype: float32 for a full float32 product on every device (by default a GPU would use TF32
            and a TPU bfloat16), or bfloat16.
        result_dtype: dtype of the result; by default that of `a`.
        transpose_b: `b` has the shape [..., outputs, inputs].
    """
    return _forward(a, b, compute_dtype, result_dtype, transpose_b)[0]


def _forward(a: Array, b: Array, compute_dtype: Any, result_dtype: Any, transpose_b: bool) -> Any:
    # Residuals must be arrays: these scalars carry the dtypes of the inputs.
    dtypes = jnp.zeros((), a.dtype), jnp.zeros((), b.dtype)
    result_dtype = result_dtype or a.dtype
    a, b = a.astype(compute_dtype), b.astype(compute_dtype)
    return product(a, b, result_dtype, transpose_b), (a, b, dtypes)


def _backward(
    compute_dtype: Any, result_dtype: Any, transpose_b: bool, residuals: Any, g: Array
) -> Any:
    a, b, (like_a, like_b) = residuals
    g = g.astype(compute_dtype)
    da = product(g, b, like_a.dtype, not transpose_b)
    left, right = (g, a) if transpose_b else (a, g)
    return da, product(row_major(jnp.swapaxes(left, -1, -2)), right, like_b.dtype, False)


matmul.defvjp(_forward, _backward)


def product(a: Array, b: Array, result_dtype: Any, transpose_b: bool = False) -> Array:
    """Return the product of `a` [..., rows, inputs] and `b` [..., inputs, outputs], both of the compute dtype.

    With `transpose_b`, `b` has the shape [..., outputs, inputs].
    """
    batch = tuple(range(a.ndim - 2))
    contracted = (a.ndim - 1,), (b.ndim - (1 if transpose_b else 2),)
    precision = lax.Precision.HIGHEST if a.dtype == jnp.float32 else lax.Precision.DEFAULT
    return lax.dot_general(
        a, b, (contracted, (batch, batch)), precision, preferred_element_type=result_dtype
    )


def row_major(x: Array) -> Array:
    """On a CPU, write `x` with its last axis contiguous in memory, as XLA's fast kernels need it.

    Otherwise XLA folds a transpose into the product, and the operand keeps its layout.
    """
    # Only `jax.export` has symbolic dimensions. An exported program has no layouts: it may run anywhere.
    if not _on_cpu() or any(map(is_symbolic_dim, x.shape)):
        return x
    return with_layout_constraint(x, Layout(tuple(range(x.ndim))))


def _on_cpu() -> bool:
    return jax.default_backend() == "cpu"
