"""The step on several devices, in several dispatches, with and without scan over layers."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flax_ner.config import default_config
from flax_ner.model.bert import BertConfig
from flax_ner.model.losses import cross_entropy
from flax_ner.model.tagger import init_params, unstack_layers
from flax_ner.text.batches import Batches
from flax_ner.training.mesh import make_mesh, put_epoch, state_shardings
from flax_ner.training.optimizer import make_optimizer, make_schedule
from flax_ner.training.step import init_state, make_step, run_steps

STEPS, ROWS, WIDTH = 6, 8, 16


def train(
    stretches: list[tuple[int, int]], mesh_shape: tuple[int, int] = (1, 1), **fields: Any
) -> Any:
    """Parameters and losses after `stretches` of steps on random rows, dropout on."""
    sizes = {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 64,
    }
    config = BertConfig(vocab_size=50, num_labels=5, **sizes, **fields)
    random = np.random.default_rng(0)
    shape = (STEPS, ROWS, WIDTH)
    positions = np.broadcast_to(np.arange(WIDTH, dtype=np.int32), shape)
    batches = Batches(
        random.integers(0, 50, shape, np.int32),
        (positions < random.integers(3, WIDTH, (STEPS, ROWS, 1))).astype(np.int32),
        positions,
        random.integers(0, 5, shape, np.int32),
    )
    options = default_config().optimizer
    options.learning_rate = 1e-2
    schedule = make_schedule(options, STEPS, STEPS)
    optimizer = make_optimizer(options, schedule)
    mesh = make_mesh(*mesh_shape, ROWS)
    state = init_state(optimizer, init_params(config, jax.random.key(1)))
    shardings = state_shardings(mesh, state)
    state = jax.device_put(state, shardings)
    run = run_steps(make_step(config, cross_entropy, optimizer, schedule, seed=3), shardings)
    losses = []
    for first, count in stretches:
        state, figures = run(state, put_epoch(mesh, batches), first, count)
        losses.append(float(figures["loss"]))
    assert int(state["step"]) == STEPS
    return jax.tree.map(np.asarray, unstack_layers(state["params"])), losses


def largest_difference(a: Any, b: Any) -> float:
    return max(jax.tree.leaves(jax.tree.map(lambda x, y: float(np.abs(x - y).max()), a, b)))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_stretches_of_any_length_end_in_the_same_bits(dtype: str) -> None:
    whole, (mean,) = train([(0, 6)], compute_dtype=dtype)
    parts, losses = train([(0, 1), (1, 4), (5, 1)], compute_dtype=dtype)
    assert largest_difference(whole, parts) == 0
    assert mean == pytest.approx((losses[0] + 4 * losses[1] + losses[2]) / 6, rel=1e-6)


# A sum in another order can end in the next bfloat16, 2**-8 away.
@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-5), ("bfloat16", 2**-8)])
@pytest.mark.parametrize("mesh_shape", [(8, 1), (2, 4), (1, 8)])
def test_devices_change_nothing_but_rounding(
    mesh_shape: tuple[int, int], dtype: str, tolerance: float
) -> None:
    single = [(i, 1) for i in range(STEPS)]
    _, losses = train(single, compute_dtype=dtype)
    _, sharded = train(single, mesh_shape, compute_dtype=dtype)
    np.testing.assert_allclose(sharded, losses, rtol=0, atol=tolerance)


def test_scan_over_layers_changes_nothing_but_rounding() -> None:
    layers, losses = train([(0, 6)])
    scanned, scanned_losses = train([(0, 6)], scan_layers=True)
    assert jax.tree.structure(layers) == jax.tree.structure(scanned)
    np.testing.assert_allclose(scanned_losses, losses, rtol=0, atol=1e-5)
    assert largest_difference(layers, scanned) < 1e-3  # Adam magnifies rounding of tiny gradients


def test_bfloat16_keeps_float32_parameters_and_learns_alike() -> None:
    params, losses = train([(0, 6)], compute_dtype="bfloat16")
    assert {x.dtype for x in jax.tree.leaves(params)} == {jnp.dtype("float32")}
    _, exact = train([(0, 6)])
    np.testing.assert_allclose(losses, exact, rtol=0.02)
