"""Random keys of a run. Each purpose has its own stream, so that keys are never reused."""

import jax
from jax import Array

from flax_ner.model.dropout import row_keys

INIT, STEP, DEV_MASKS = range(3)  # streams of a seed


def init_key(seed: int | Array) -> Array:
    """Return the key of the initial parameters."""
    return _stream(seed, INIT)


def step_key(seed: int | Array, step: int | Array) -> Array:
    """Return the key of a training step."""
    return jax.random.fold_in(_stream(seed, STEP), step)


def dev_mask_key(row: int | Array) -> Array:
    """Return the key that masks a row of the dev data; it does not depend on the seed of the run."""
    return jax.random.fold_in(_stream(0, DEV_MASKS), row)


def paired_row_keys(key: Array, rows: int) -> Array:
    """Return two keys for each row of a batch, key array [rows, 2]."""
    return jax.vmap(jax.random.split)(row_keys(key, rows))


def _stream(seed: int | Array, stream: int) -> Array:
    return jax.random.fold_in(jax.random.key(seed), stream)
