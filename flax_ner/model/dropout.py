"""Dropout from a hash of each element's place, far cheaper than threefry on a CPU."""

import math

import jax.numpy as jnp
from jax import Array, lax


def dropout(x: Array, rate: float, seed: Array | None) -> Array:
    """Zero elements with probability `rate`, scale the others by 1 / (1 - rate).

    The mask depends on shape and seed alone, not on how `x` is laid over devices.

    Args:
        x: floating point, any shape.
        rate: in [0, 1), a multiple of 2**-32 in effect.
        seed: uint32 [2]; None leaves `x` as it is.
    """
    if seed is None or rate == 0:
        return x
    bits = lax.iota(jnp.uint32, math.prod(x.shape)).reshape(x.shape) ^ seed[0]
    # Three rounds of shift and multiply. Source: C. Wellons, "hash-prospector", triple32; differs:
    # the second half of the seed enters behind the first round, with two more to spread it, so that
    # the masks of any two seeds are independent.
    bits = (bits ^ (bits >> 17)) * jnp.uint32(0xED5AD4BB) + seed[1]
    bits = (bits ^ (bits >> 11)) * jnp.uint32(0xAC4C1B51)
    bits = (bits ^ (bits >> 15)) * jnp.uint32(0x31848BAB)
    bits = bits ^ (bits >> 14)
    keep = bits >= jnp.uint32(round(rate * 2**32))
    return jnp.where(keep, x * jnp.asarray(1 / (1 - rate), x.dtype), jnp.zeros((), x.dtype))
