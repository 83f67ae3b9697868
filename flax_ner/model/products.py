"""Matrix products, with float32 operands or with bfloat16 ones summed in float32."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.experimental.layout import Layout, with_layout_constraint


def between_products(operands: Any) -> Any:
    """The dtype of what lies between products with such operands.

    That of the operands, which halves what an accelerator moves; on a CPU always float32: rounding
    costs instructions there, and XLA has bfloat16 products only where the result is float32.
    """
    return jnp.dtype("float32") if _on_cpu() else jnp.dtype(operands)


@partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def matmul(
    a: Array, b: Array, operands: Any, result: Any = None, transposed: bool = False
) -> Array:
    """`a` [..., M, K] times `b` [..., K, N] (`transposed`: [..., N, K]) is [..., M, N].

    The derivatives are such products too, with operands of the same dtype; each comes in the dtype
    of what it is the derivative of, so that a float32 parameter's is not rounded.

    Args:
        a, b: floating point, with the same leading axes.
        operands: float32, then the product is float32 on every device, where a GPU would take TF32
            and a TPU bfloat16; or bfloat16.
        result: dtype of the result; that of `a` by default.
        transposed: how `b` lies.
    """
    return _forward(a, b, operands, result, transposed)[0]


def _forward(a: Array, b: Array, operands: Any, result: Any, transposed: bool) -> Any:
    like = jnp.zeros((), a.dtype), jnp.zeros((), b.dtype)
    a, b, result = a.astype(operands), b.astype(operands), result or a.dtype
    return _dot(a, b, result, transposed), (a, b, like)


def _backward(operands: Any, result: Any, transposed: bool, saved: Any, g: Array) -> Any:
    a, b, (like_a, like_b) = saved
    g = g.astype(operands)
    da = _dot(g, b, like_a.dtype, not transposed)
    left, right = (g, a) if transposed else (a, g)
    return da, _dot(_transpose(left), right, like_b.dtype, False)


matmul.defvjp(_forward, _backward)


def _dot(a: Array, b: Array, result: Any, transposed: bool) -> Array:
    batch = tuple(range(a.ndim - 2))
    contracted = (a.ndim - 1,), (b.ndim - (1 if transposed else 2),)
    precision = lax.Precision.HIGHEST if a.dtype == jnp.float32 else lax.Precision.DEFAULT
    return lax.dot_general(
        a, b, (contracted, (batch, batch)), precision, preferred_element_type=result
    )


def _transpose(x: Array) -> Array:
    x = jnp.swapaxes(x, -1, -2)
    if _on_cpu():
        # XLA would fold the transposition into the product and lose its fast kernels, which want the
        # summed axis of the first operand to be the last in memory.
        return with_layout_constraint(x, Layout(tuple(range(x.ndim))))
    return x


def _on_cpu() -> bool:
    return jax.default_backend() == "cpu"
