"""The training step on several devices, in several dispatches, with and without scan over layers."""

from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flax_ner.config import default_config
from flax_ner.inference.forward import make_decoder
from flax_ner.model.bert import BertConfig
from flax_ner.model.losses import cross_entropy
from flax_ner.model.tagging_model import init_params, unstack_layers
from flax_ner.text.batches import Batches
from flax_ner.text.labels import LabelSet
from flax_ner.training.loss import make_loss, make_tagging_gradients
from flax_ner.training.mesh import make_mesh, put_epoch, state_shardings
from flax_ner.training.optimizer import make_optimizer, make_schedule
from flax_ner.training.step import init_state, make_run_steps, make_step

STEPS, ROWS, WIDTH = 6, 8, 16
NONFINITE = 2  # index of the batch with full rows


def setup(
    mesh_shape: tuple[int, int] = (1, 1),
    loss_of: Any = None,
    skip_nonfinite: bool = False,
    **fields: Any,
) -> tuple[Any, Any, Batches]:
    """Return state, compiled steps and random batches, with dropout. Only the third batch has full rows."""
    sizes = {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 256,  # large enough to be sharded
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
    batches.segment_ids[NONFINITE] = 1
    if config.head == "crf":  # valid tag sequences: [CLS] and [SEP] are O
        batches.labels[(positions == 0) | (np.diff(batches.segment_ids, append=0) != 0)] = 0
        allowed = LabelSet(["a", "b"]).allowed_transitions()
        for t in range(1, WIDTH):
            previous, current = batches.labels[..., t - 1], batches.labels[..., t]
            current[~allowed[previous, current]] = 0
    options = default_config().optimizer
    options.learning_rate = 1e-2
    schedule = make_schedule(options, STEPS, STEPS)
    optimizer = make_optimizer(options, schedule)
    mesh = make_mesh(*mesh_shape, ROWS)
    state = init_state(optimizer, init_params(config, jax.random.key(1)))
    shardings = state_shardings(mesh, state)
    loss_of = loss_of or make_loss(
        default_config().loss, make_decoder(config, LabelSet(["a", "b"]))
    )
    step = make_step(
        make_tagging_gradients(config, loss_of, 3), optimizer, schedule, skip_nonfinite
    )
    return (
        jax.device_put(state, shardings),
        make_run_steps(step, shardings),
        put_epoch(mesh, ROWS, batches),
    )


def train(
    dispatches: list[tuple[int, int]], mesh_shape: tuple[int, int] = (1, 1), **fields: Any
) -> Any:
    """Return parameters and losses after dispatches (first, count)."""
    state, run, batches = setup(mesh_shape, **fields)
    losses = []
    for first, count in dispatches:
        state, metrics = run(state, batches, first, count, first)
        losses.append(float(metrics["loss"]))
    assert int(state["step"]) == STEPS
    return jax.tree.map(np.asarray, unstack_layers(state["params"])), losses


@cache
def losses_of_single_steps(dtype: str, mesh_shape: tuple[int, int] = (1, 1)) -> list[float]:
    _, losses = train([(i, 1) for i in range(STEPS)], mesh_shape, compute_dtype=dtype)
    return losses


def nonfinite_loss_of_full_rows(logits: Any, batch: Any, head: Any) -> Any:
    mask = batch.segment_ids > 0
    return jnp.where(mask.all(), jnp.nan, 1.0) * cross_entropy(logits, batch.labels, mask)


def largest_difference(a: Any, b: Any) -> float:
    return max(jax.tree.leaves(jax.tree.map(lambda x, y: float(np.abs(x - y).max()), a, b)))


@pytest.mark.slow
@pytest.mark.every_python
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_dispatches_of_any_length_are_bit_identical(dtype: str) -> None:
    whole, (mean,) = train([(0, 6)], compute_dtype=dtype)
    parts, losses = train([(0, 1), (1, 4), (5, 1)], compute_dtype=dtype)
    assert largest_difference(whole, parts) == 0
    assert mean == pytest.approx((losses[0] + 4 * losses[1] + losses[2]) / 6, rel=1e-6)


# A sum in another order can round to the next bfloat16, 2**-8 away.
@pytest.mark.parametrize(
    ("mesh_shape", "dtype", "tolerance"),
    [
        ((8, 1), "float32", 1e-5),
        ((2, 4), "float32", 1e-5),
        pytest.param((1, 8), "float32", 1e-5, marks=[pytest.mark.slow, pytest.mark.every_python]),
        pytest.param((2, 4), "bfloat16", 2**-8, marks=[pytest.mark.slow, pytest.mark.every_python]),
        pytest.param((8, 1), "bfloat16", 2**-8, marks=pytest.mark.slow),
        pytest.param((1, 8), "bfloat16", 2**-8, marks=pytest.mark.slow),
    ],
)
def test_sharding_changes_only_rounding(
    mesh_shape: tuple[int, int], dtype: str, tolerance: float
) -> None:
    losses, sharded = (losses_of_single_steps(dtype, shape) for shape in ((1, 1), mesh_shape))
    np.testing.assert_allclose(sharded, losses, rtol=0, atol=tolerance)


@pytest.mark.slow
def test_sharding_changes_only_rounding_of_a_crf() -> None:
    single = [(i, 1) for i in range(STEPS)]
    params, losses = train(single, head="crf")
    _, sharded = train(single, (2, 4), head="crf")
    np.testing.assert_allclose(sharded, losses, rtol=0, atol=1e-5)
    assert losses[-1] < losses[0]
    moved = np.asarray(params["head"]["transitions"]) != 0
    assert (
        moved == LabelSet(["a", "b"]).allowed_transitions()
    ).all()  # forbidden transitions are not trained


@pytest.mark.slow
@pytest.mark.every_python
def test_scan_over_layers_changes_only_rounding() -> None:
    layers, losses = train([(0, 6)])
    scanned, scanned_losses = train([(0, 6)], scan_layers=True)
    assert jax.tree.structure(layers) == jax.tree.structure(scanned)
    np.testing.assert_allclose(scanned_losses, losses, rtol=0, atol=1e-5)
    assert (
        largest_difference(layers, scanned) < 1e-3
    )  # Adam amplifies the rounding of tiny gradients


def test_bfloat16_keeps_float32_parameters_and_similar_losses() -> None:
    params, losses = train([(0, 6)], compute_dtype="bfloat16")
    assert {x.dtype for x in jax.tree.leaves(params)} == {jnp.dtype("float32")}
    _, exact = train([(0, 6)])
    np.testing.assert_allclose(losses, exact, rtol=0.02)


def test_a_nonfinite_step_ends_the_dispatch_and_keeps_the_state() -> None:
    state, run, batches = setup(loss_of=nonfinite_loss_of_full_rows)
    state, metrics = run(state, batches, 0, STEPS, 0)
    assert int(state["step"]) == int(metrics["step"]) == int(metrics["updates"]) == NONFINITE
    assert all(np.isfinite(float(value)) for value in metrics.values())
    kept = jax.tree.map(np.array, state)
    # A dispatch that was queued after it does nothing either.
    state, metrics = run(state, batches, 4, 2, 4)
    assert int(metrics["step"]) == NONFINITE
    assert largest_difference(jax.tree.map(np.asarray, state), kept) == 0
    before, _, batches = setup(loss_of=nonfinite_loss_of_full_rows)
    before, _ = run(before, batches, 0, NONFINITE, 0)
    assert largest_difference(jax.tree.map(np.asarray, before), kept) == 0


@pytest.mark.slow
@pytest.mark.every_python
def test_skip_nonfinite_skips_a_nonfinite_step() -> None:
    state, run, batches = setup(loss_of=nonfinite_loss_of_full_rows, skip_nonfinite=True)
    state, before = run(state, batches, 0, NONFINITE, 0)
    kept = jax.tree.map(np.array, state)
    state, metrics = run(state, batches, NONFINITE, 1, NONFINITE)
    assert int(state["step"]) == NONFINITE + 1
    assert int(metrics["updates"]) == 0
    for name in ("params", "opt_state"):
        assert largest_difference(jax.tree.map(np.asarray, state[name]), kept[name]) == 0
    again, run, batches = setup(loss_of=nonfinite_loss_of_full_rows, skip_nonfinite=True)
    again, metrics = run(again, batches, 0, NONFINITE + 1, 0)
    assert int(metrics["updates"]) == NONFINITE
    for name in ("loss", "grad_norm", "learning_rate"):
        assert float(metrics[name]) == pytest.approx(float(before[name]), rel=1e-6)
