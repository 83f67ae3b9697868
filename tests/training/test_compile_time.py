"""Scan over layers keeps the compile time of a training step flat."""

import itertools
import time
from functools import partial

import jax
import jax.numpy as jnp
import pytest

from flax_ner.config import default_config
from flax_ner.model.bert import BertConfig
from flax_ner.model.tagging_model import abstract_params
from flax_ner.text.batches import Batches
from flax_ner.training.loss import make_loss, make_tagging_gradients
from flax_ner.training.mesh import make_mesh, state_shardings
from flax_ner.training.optimizer import make_optimizer, make_schedule
from flax_ner.training.step import init_state, make_run_steps, make_step

# A new vocabulary size for each compilation, so that no program comes from a cache.
SIZES = itertools.count(100 + int(time.time()) % 10_000)


def compile_seconds(layers: int, scan_layers: bool = True) -> float:
    """Return the processor time to compile a training step. It does not depend on other processes."""
    config = BertConfig(
        vocab_size=next(SIZES), num_labels=5, hidden_size=64, num_hidden_layers=layers,
        num_attention_heads=4, intermediate_size=128, scan_layers=scan_layers,
    )  # fmt: skip
    options = default_config().optimizer
    options.learning_rate = 1e-3
    schedule = make_schedule(options, 10, 10)
    optimizer = make_optimizer(options, schedule)
    state = jax.eval_shape(partial(init_state, optimizer), abstract_params(config))
    shardings = state_shardings(make_mesh(1, 1, 4), state)
    gradients = make_tagging_gradients(config, make_loss(default_config().loss), seed=0)
    run = make_run_steps(make_step(gradients, optimizer, schedule), shardings)
    batches = Batches(*[jax.ShapeDtypeStruct((2, 4, 32), jnp.int32)] * 4)  # type: ignore[list-item]
    begin = time.process_time()
    run.lower(state, batches, 0, 1, 0).compile()  # type: ignore[attr-defined]
    return time.process_time() - begin


@pytest.mark.slow
def test_many_scanned_layers_compile_like_a_few() -> None:
    compile_seconds(1)  # warm-up
    # Runs are interleaved, because processor time also depends on what shares the core.
    turns = [(compile_seconds(12), compile_seconds(48)) for _ in range(4)]
    few, many = map(min, zip(*turns, strict=True))
    assert many <= 1.3 * few
    assert compile_seconds(12, scan_layers=False) > 1.3 * few  # without scan it does grow
