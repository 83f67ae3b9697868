"""Logits do not depend on padding, packing, other rows, batch size, devices or remat."""

from dataclasses import replace
from functools import partial

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from flax_ner.model.bert import BertConfig
from flax_ner.model.dropout import row_keys
from flax_ner.model.tagging_model import apply, init_params
from flax_ner.training.mesh import BATCH_AXES, make_mesh

ROWS, WIDTH = 8, 24
CONFIG = BertConfig(50, 5, 16, 2, 2, 32, max_position_embeddings=WIDTH, initializer_range=0.3)
PARAMS = init_params(CONFIG, jax.random.key(0))
LOGITS = jax.jit(partial(apply, CONFIG))


def rows(arrangement: list[list[np.ndarray]], height: int, width: int) -> list[np.ndarray]:
    """Return input_ids, segment_ids and positions [height, width] of the sequences of each row."""
    ids, segments, positions = arrays = [np.zeros((height, width), np.int32) for _ in range(3)]
    for row, sequences in enumerate(arrangement):
        column = 0
        for number, sequence in enumerate(sequences, 1):
            span = slice(column, column + len(sequence))
            ids[row, span], segments[row, span] = sequence, number
            positions[row, span] = np.arange(len(sequence))
            column += len(sequence)
    return arrays


def logits_alone(sequence: np.ndarray) -> np.ndarray:
    """Return the logits of a sequence in a row of its own, padded to `WIDTH` so that it compiles once."""
    return np.asarray(LOGITS(PARAMS, *rows([[sequence]], 1, WIDTH)))[0, : len(sequence)]


@settings(max_examples=60, deadline=None)
@given(
    lengths=st.lists(st.integers(1, WIDTH), min_size=1, max_size=20),
    seed=st.integers(0, 2**32 - 1),
)
def test_packing_and_sharding_do_not_change_logits(lengths: list[int], seed: int) -> None:
    random = np.random.default_rng(seed)
    arrangement: list[list[np.ndarray]] = [[] for _ in range(ROWS)]
    for length in lengths:
        fits = [r for r in arrangement if sum(map(len, r)) + length <= WIDTH]
        if fits:
            fits[random.integers(len(fits))].append(random.integers(1, 50, length))
    arrays = rows(arrangement, ROWS, WIDTH)
    together = np.asarray(LOGITS(PARAMS, *arrays))
    mesh = make_mesh(2, 4, ROWS)
    sharded_arrays = jax.device_put(arrays, NamedSharding(mesh, P(BATCH_AXES)))
    sharded = np.asarray(LOGITS(PARAMS, *sharded_arrays))
    for row, sequences in enumerate(arrangement):
        column = 0
        for sequence in sequences:
            expected, span = logits_alone(sequence), slice(column, column + len(sequence))
            np.testing.assert_allclose(together[row, span], expected, rtol=0, atol=1e-5)
            np.testing.assert_allclose(sharded[row, span], expected, rtol=0, atol=1e-5)
            column += len(sequence)


@pytest.mark.parametrize(("height", "width"), [(1, 10), (1, 11), (3, 16), (13, 24)])
def test_batch_size_and_padding_do_not_change_logits(height: int, width: int) -> None:
    sequence = np.random.default_rng(0).integers(1, 50, 10)
    logits = LOGITS(PARAMS, *rows([[sequence]] * height, height, width))
    for row in np.asarray(logits)[:, :10]:
        np.testing.assert_allclose(row, logits_alone(sequence), rtol=0, atol=1e-5)


def loss(config: BertConfig, params: object, key: object) -> jax.Array:
    sequence = np.random.default_rng(1).integers(1, 50, WIDTH)
    arrays = rows([[sequence]] * ROWS, ROWS, WIDTH)
    return jax.numpy.square(apply(config, params, *arrays, key)).mean()  # type: ignore[arg-type]


@pytest.mark.slow
@pytest.mark.parametrize(("scan_layers", "layers"), [(False, 2), (True, 8)])
def test_remat_saves_memory_and_keeps_gradients(scan_layers: bool, layers: int) -> None:
    deep = replace(CONFIG, num_hidden_layers=layers, scan_layers=scan_layers)
    params, key = init_params(deep, jax.random.key(2)), row_keys(jax.random.key(3), ROWS)
    grads, sizes = [], []
    for remat in (False, True):
        gradient = jax.jit(jax.grad(partial(loss, replace(deep, remat=remat))))
        compiled = gradient.lower(params, key).compile()
        sizes.append(compiled.memory_analysis().temp_size_in_bytes)
        grads.append(compiled(params, key))
    # On a CPU, XLA merges the recomputation with the original again, unless a scan separates them.
    assert not scan_layers or sizes[1] < 0.6 * sizes[0]
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), grads[0], grads[1]
    )
