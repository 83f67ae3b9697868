"""Outputs, gradients and training against golden files of the reference implementation."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flax_ner.config import default_config
from flax_ner.model.bert import BertConfig
from flax_ner.model.losses import cross_entropy, focal_loss
from flax_ner.model.tagging_model import apply, stack_layers, unstack_layers
from flax_ner.text.batches import Batches
from flax_ner.training.loss import make_loss, make_tagging_gradients
from flax_ner.training.mesh import make_mesh, state_shardings
from flax_ner.training.optimizer import make_optimizer, make_schedule
from flax_ner.training.step import init_state, make_run_steps, make_step
from flax_ner.weights.convert import convert
from flax_ner.weights.layouts import MMOCR
from flax_ner.weights.source import open_source
from flax_ner.weights.tensor_copy import to_torch

NO_DROPOUT = {
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
    "classifier_dropout": 0.0,
}


@pytest.fixture(scope="module")
def reference(golden: Path, cluener: Path) -> SimpleNamespace:
    """Return the converted tiny checkpoint and the reference's results for it."""
    model, _ = convert(open_source(golden / "bert_softmax_tiny.pth", cluener / "vocab.txt"))
    arrays = np.load(golden / "parity.npz")
    ids, mask, labels = (arrays[name] for name in ("input_ids", "attention_mask", "labels"))
    positions = np.broadcast_to(np.arange(ids.shape[1], dtype=np.int32), ids.shape)
    return SimpleNamespace(
        config=replace(model.config, **NO_DROPOUT),
        params=jax.tree.map(jnp.asarray, model.params),
        arrays=arrays,
        batch=Batches(ids, mask, positions, labels),
    )


def by_source_name(tree: Any) -> dict[str, np.ndarray]:
    """Return the arrays of a parameter tree with PyTorch's names and shapes."""
    return to_torch(tree, MMOCR)


def logits_of(config: BertConfig, params: Any, batch: Batches) -> jax.Array:
    return jax.jit(lambda p, b: apply(config, p, b.input_ids, b.segment_ids, b.positions))(
        params, batch
    )


def test_sequence_output_and_logits_agree(reference: SimpleNamespace) -> None:
    # With an identity matrix as head, the logits are the encoder's output.
    width = reference.config.hidden_size
    identity = {"kernel": jnp.eye(width), "bias": jnp.zeros(width)}
    params = reference.params | {"head": {"classifier": identity}}
    output = logits_of(replace(reference.config, num_labels=width), params, reference.batch)
    np.testing.assert_allclose(output, reference.arrays["sequence_output"], rtol=0, atol=1e-5)
    logits = logits_of(reference.config, reference.params, reference.batch)
    np.testing.assert_allclose(logits, reference.arrays["logits"], rtol=0, atol=1e-5)
    inside = reference.batch.segment_ids > 0
    np.testing.assert_array_equal(logits.argmax(-1)[inside], reference.arrays["preds"][inside])


@pytest.mark.parametrize(("name", "loss"), [("loss_ce", cross_entropy), ("loss_focal", focal_loss)])
def test_losses_agree(reference: SimpleNamespace, name: str, loss: Any) -> None:
    logits = logits_of(reference.config, reference.params, reference.batch)
    value = loss(logits, reference.batch.labels, reference.batch.segment_ids > 0)
    assert abs(float(value) - float(reference.arrays[name])) < 1e-5


@pytest.mark.parametrize("scan_layers", [False, True])
def test_gradients_agree(reference: SimpleNamespace, scan_layers: bool) -> None:
    config, batch, arrays = (
        replace(reference.config, scan_layers=scan_layers),
        reference.batch,
        reference.arrays,
    )

    @jax.jit
    @jax.grad
    def gradients(params: Any) -> jax.Array:
        logits = apply(config, params, batch.input_ids, batch.segment_ids, batch.positions)
        return cross_entropy(logits, batch.labels, batch.segment_ids > 0)

    params = stack_layers(reference.params) if scan_layers else reference.params
    named = by_source_name(unstack_layers(gradients(params)))
    words = named.pop("encoder.bert.embeddings.word_embeddings.weight")
    rows, values = (
        arrays["grad_rows/word_embeddings/ids"],
        arrays["grad_rows/word_embeddings/values"],
    )
    assert np.linalg.norm(words[rows] - values) <= 1e-4 * np.linalg.norm(values)
    assert np.linalg.norm(words) - np.linalg.norm(words[rows]) < 1e-6
    assert len(named) == 2 + 2 + 2 * 16 + 2
    for name, gradient in named.items():
        expected = arrays[f"grad/{name}"]
        if name.endswith("key.bias"):  # its true gradient is zero
            np.testing.assert_allclose(gradient, expected, rtol=0, atol=1e-6, err_msg=name)
        else:
            assert np.linalg.norm(gradient - expected) <= 1e-4 * np.linalg.norm(expected), name


def test_adamw_run_agrees(reference: SimpleNamespace) -> None:
    options = default_config().optimizer
    options.learning_rate = 1e-3
    options.warmup = 4 / 40
    arrays = reference.arrays
    schedule = make_schedule(options, 40, 40)
    optimizer = make_optimizer(options, schedule)
    gradients = make_tagging_gradients(reference.config, make_loss(default_config().loss), seed=0)
    step = make_step(gradients, optimizer, schedule)
    state = init_state(optimizer, jax.tree.map(jnp.copy, reference.params))
    run = make_run_steps(step, state_shardings(make_mesh(1, 1, 8), state))
    rows = (8 * np.arange(40)[:, None] + np.arange(8)) % 16
    batches = jax.tree.map(lambda array: array[rows], reference.batch)
    for i in range(40):
        state, metrics = run(state, batches, i, 1, i)
        assert abs(float(metrics["loss"]) - arrays["train/loss"][i]) < 1e-4, i
        assert np.float32(metrics["learning_rate"]) == np.float32(arrays["train/lr"][i]), i
        assert float(metrics["grad_norm"]) == pytest.approx(
            arrays["train/grad_norm"][i], rel=1e-3
        ), i
    compared = 0
    for name, array in by_source_name(state["params"]).items():
        if f"final/{name}" in arrays:
            np.testing.assert_allclose(
                array, arrays[f"final/{name}"], rtol=0, atol=1e-4, err_msg=name
            )
            compared += 1
    assert compared == 3 + 2 * 16 + 2


def test_packed_rows_give_the_same_logits(reference: SimpleNamespace) -> None:
    ids, lengths = reference.batch.input_ids, reference.batch.segment_ids.sum(1)
    packed = np.zeros((3, 8, 128), np.int32)  # ids, segments, positions
    slices, row, column = [], 0, 0
    for i, length in enumerate(lengths):
        if column + length > 128:
            row, column = row + 1, 0
        span = np.s_[row, column : column + length]
        packed[0][span], packed[1][span], packed[2][span] = (
            ids[i, :length],
            i + 1,
            np.arange(length),
        )
        slices.append(span)
        column += length
    assert row < 8
    batch = Batches(*packed, packed[1])
    logits = np.asarray(logits_of(reference.config, reference.params, batch))
    for i, (span, length) in enumerate(zip(slices, lengths, strict=True)):
        expected = reference.arrays["logits"][i, :length]
        np.testing.assert_allclose(logits[span], expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("width", [64, 96])
def test_padding_does_not_change_logits(reference: SimpleNamespace, width: int) -> None:
    short = jax.tree.map(lambda array: array[:, :width], reference.batch)
    logits = np.asarray(logits_of(reference.config, reference.params, short))
    inside = short.segment_ids > 0
    assert inside.sum() == (reference.batch.segment_ids > 0).sum()
    expected = reference.arrays["logits"][:, :width][inside]
    np.testing.assert_allclose(logits[inside], expected, rtol=0, atol=1e-5)
