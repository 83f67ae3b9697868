"""Scan over layers keeps compile time flat."""

import time

import jax
import jax.numpy as jnp
import pytest

from flax_ner.model.bert import BertConfig
from flax_ner.model.losses import cross_entropy
from flax_ner.model.tagger import abstract_params, apply


def compile_seconds(layers: int, scan_layers: bool) -> float:
    """Processor time to compile a forward and backward pass, whatever else the machine does."""
    config = BertConfig(
        vocab_size=100,
        num_labels=5,
        hidden_size=64,
        num_hidden_layers=layers,
        num_attention_heads=4,
        intermediate_size=128,
        scan_layers=scan_layers,
    )
    row = jax.ShapeDtypeStruct((4, 32), jnp.int32)

    def loss(params: object, ids: jax.Array, labels: jax.Array) -> jax.Array:
        logits = apply(config, params, ids, labels, ids, jax.random.key(0))  # type: ignore[arg-type]
        return cross_entropy(logits, labels, labels > 0)

    begin = time.process_time()
    jax.jit(jax.grad(loss)).lower(abstract_params(config), row, row).compile()
    return time.process_time() - begin


@pytest.mark.slow
def test_twelve_scanned_layers_compile_like_two() -> None:
    compile_seconds(1, True)  # what only the first compilation pays
    # In turn, as even processor time depends on what shares the core.
    turns = [(compile_seconds(2, True), compile_seconds(12, True)) for _ in range(4)]
    few, many = map(min, zip(*turns, strict=True))
    assert many <= 1.5 * few
    assert compile_seconds(12, False) > many  # or there would be no point
