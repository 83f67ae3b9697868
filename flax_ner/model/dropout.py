"""Dropout masks from a hash of each element's index, far cheaper than threefry on a CPU."""

import math

import jax
import jax.numpy as jnp
from jax import Array, lax

from flax_ner.errors import UserError


def row_keys(key: Array, rows: int) -> Array:
    """Return one key per row of a batch, key array [rows].

    The key depends only on the row's index, so the masks are the same however the batch is split into
    micro-batches or over devices.
    """
    return jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(rows, dtype=jnp.uint32))


def dropout_seeds(keys: Array, sites: int) -> Array:
    """Return the seeds of all calls of `dropout` in a forward pass, uint32 [sites, B, 2].

    Args:
        keys: key array [B], one per row of the batch.
        sites: number of calls of `dropout`.
    """
    bits = jax.vmap(lambda key: jax.random.bits(key, (sites, 2), jnp.uint32))(keys)
    return jnp.swapaxes(bits, 0, 1)


def dropout(x: Array, rate: float, seeds: Array | None) -> Array:
    """Zero elements with probability `rate` and scale the others by 1 / (1 - rate).

    The mask of a row depends only on its seed and shape, not on its index in the batch or on the devices.

    Args:
        x: floating point [B, ...].
        rate: dropout rate in [0, 1), rounded to a multiple of 2**-32.
        seeds: uint32 [B, 2]; None returns `x` unchanged.

    Raises:
        UserError: a row has more than 2**32 elements, so its mask would repeat.
    """
    if seeds is None or rate == 0:
        return x
    kept = keep_mask(x.shape, rate, seeds)
    return jnp.where(kept, x * jnp.asarray(1 / (1 - rate), x.dtype), jnp.zeros((), x.dtype))


def keep_mask(shape: tuple[int, ...], rate: float, seeds: Array) -> Array:
    """Return which elements `dropout` keeps, bool [B, ...]. Arguments and errors are those of `dropout`."""
    size = math.prod(shape[1:])
    if size > 2**32:
        raise UserError(
            f"dropout: a row of shape {list(shape[1:])} has more than 2**32 elements, so its mask would "
            "repeat. Set data.max_length lower, or the dropout rates of config.model to 0."
        )
    first, second = (seeds[:, i].reshape(-1, *[1] * (len(shape) - 1)) for i in range(2))
    bits = lax.iota(jnp.uint32, size).reshape(1, *shape[1:]) ^ first
    # Three rounds of shift and multiply. Source: C. Wellons, "hash-prospector", triple32; differs:
    # the second half of the seed is added after the first round, and two more rounds mix it in, so that
    # the masks of any two seeds are independent.
    bits = (bits ^ (bits >> 17)) * jnp.uint32(0xED5AD4BB) + second
    bits = (bits ^ (bits >> 11)) * jnp.uint32(0xAC4C1B51)
    bits = (bits ^ (bits >> 15)) * jnp.uint32(0x31848BAB)
    bits = bits ^ (bits >> 14)
    return bits >= jnp.uint32(round(rate * 2**32))
