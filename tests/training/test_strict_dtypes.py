"""Training and tagging under JAX's strict dtype promotion and under its 64-bit mode."""

from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import demo
from flax_ner import load
from flax_ner.config import default_config
from flax_ner.fit import fit
from flax_ner.inference.forward import logits, make_decoder, predict, predict_proba
from flax_ner.model.bert import HEADS, BertConfig
from flax_ner.model.mlm_head import init_masked_lm
from flax_ner.model.tagging_model import init_params
from flax_ner.pretraining import masked_lm
from flax_ner.pretraining.chunks import Rows
from flax_ner.pretraining.masking import Masking
from flax_ner.text.batches import Batches
from flax_ner.text.labels import LabelSet, SpanLabels
from flax_ner.text.tokenizer import CharTokenizer
from flax_ner.text.vocab import SPECIAL_TOKENS
from flax_ner.training.loss import (
    StepOptions,
    accumulate_gradients,
    add_distillation,
    make_loss,
    make_tagging_gradients,
)
from flax_ner.training.mesh import make_mesh, state_shardings
from flax_ner.training.optimizer import make_optimizer, make_schedule
from flax_ner.training.step import init_state, make_run_steps, make_step

SHAPE = (2, 4, 12)  # steps, rows, tokens
MODES = {
    "strict": partial(jax.numpy_dtype_promotion, "strict"),
    "x64": partial(jax.enable_x64, True),
}
each_mode = pytest.mark.parametrize("mode", MODES.values(), ids=MODES.keys())
RECIPES: list[tuple[str, dict[str, Any]]] = [
    *((head, {}) for head in HEADS),
    ("softmax", {"loss.name": "focal", "train.ema": 0.9, "optimizer.name": "adadelta"}),
    ("softmax", {"loss.label_smoothing": 0.1, "train.r_drop": 1.0, "train.fgm": 1.0}),
    ("crf", {"train.gradient_accumulation_steps": 2, "optimizer.layer_decay": 0.9}),
    ("crf", {"distill.teacher": "teacher"}),
]


def model_parts(head: str) -> tuple[BertConfig, Any, Any]:
    """Return a small model, its decoder and abstract parameters."""
    labels = SpanLabels(["a", "b"]) if head == "global_pointer" else LabelSet(["a", "b"], "bioes")
    config = BertConfig(30, len(labels), 16, 2, 2, 32, head=head, word_dropout_prob=0.1)
    params = jax.eval_shape(lambda: init_params(config, jax.random.key(0)))
    return config, make_decoder(config, labels), params


@each_mode
@pytest.mark.parametrize(("head", "changes"), RECIPES, ids=str)
def test_a_training_step_keeps_every_dtype(
    mode: partial[AbstractContextManager[None]], head: str, changes: dict[str, Any]
) -> None:
    options = default_config()
    options.update_from_flattened_dict({"optimizer.learning_rate": 1e-3} | changes)
    model, decoder, params = model_parts(head)
    labels = np.zeros((*SHAPE, 1) if head == "global_pointer" else SHAPE, np.int32)
    positions = np.broadcast_to(np.arange(SHAPE[2], dtype=np.int32), SHAPE)
    batches = Batches(np.zeros(SHAPE, np.int32), np.ones(SHAPE, np.int32), positions, labels)
    if options.distill.teacher:
        batches = batches._replace(teacher=np.ones((*SHAPE, model.num_labels), np.float16))
    with mode():
        schedule = make_schedule(options.optimizer, 10, 5)
        optimizer = make_optimizer(options.optimizer, schedule)
        make_state = partial(init_state, optimizer, ema=options.train.ema > 0)
        state = jax.eval_shape(make_state, params)
        loss_of = add_distillation(make_loss(options.loss, decoder), options.distill, decoder)
        step_options = StepOptions(*(options.train[name] for name in StepOptions._fields))
        step = make_step(
            make_tagging_gradients(model, loss_of, 0, step_options),
            optimizer,
            schedule,
            ema=options.train.ema,
        )
        run = make_run_steps(step, state_shardings(make_mesh(1, 1, 4), state))
        after, _ = jax.eval_shape(run, state, batches, 0, 2, 0)
    assert jax.tree.map(lambda x: x.dtype, after) == jax.tree.map(lambda x: x.dtype, state)


@each_mode
@pytest.mark.parametrize("head", HEADS)
def test_tagging_keeps_every_dtype(mode: partial[AbstractContextManager[None]], head: str) -> None:
    config, decoder, params = model_parts(head)
    rows = [jnp.zeros(SHAPE[1:], jnp.int32)] * 4
    with mode():
        outputs = [
            jax.eval_shape(partial(predict, config, decoder, None), params, *rows),
            jax.eval_shape(partial(logits, config), params, *rows[:2]),
        ]
        if head != "global_pointer":
            outputs.append(
                jax.eval_shape(partial(predict_proba, config, decoder, None), params, *rows)
            )
    floats = [x.dtype for x in jax.tree.leaves(outputs) if jnp.issubdtype(x.dtype, jnp.floating)]
    assert floats and set(floats) == {jnp.dtype("float32")}


@pytest.mark.slow
@pytest.mark.every_python
@each_mode
def test_masked_language_modelling_keeps_every_dtype(
    mode: partial[AbstractContextManager[None]],
) -> None:
    masking = Masking(CharTokenizer([*SPECIAL_TOKENS, *"abcdefgh"]), np.arange(5, 13))
    config = BertConfig(13, 1, 16, 2, 2, 32)
    rows = Rows(*[np.ones(SHAPE, np.int32)] * 3)
    zero = np.float32(0)
    with mode():
        params = jax.eval_shape(lambda: init_masked_lm(config, jax.random.key(0)))
        gradients = accumulate_gradients(
            partial(masked_lm._loss, config, masking, 0.3),
            lambda rows: masking.counts(rows.input_ids, rows.segment_ids, 0.3).sum(),
            0,
            StepOptions(gradient_accumulation_steps=2),
        )
        state = {"params": params, "step": jnp.int32(0)}
        loss, _ = jax.eval_shape(gradients, state, Rows(*(x[0] for x in rows)))
        add_metrics = partial(
            masked_lm._add_dev_metrics, config, masking, make_mesh(1, 1, 4).abstract_mesh
        )
        sums = jax.eval_shape(add_metrics, params, rows, 0, 2, (zero, zero, zero))
    assert {x.dtype for x in (loss, *sums)} == {jnp.dtype("float32")}


@pytest.mark.slow
@each_mode
def test_a_crf_trains_and_tags(mode: partial[AbstractContextManager[None]], tmp_path: Path) -> None:
    config = demo.get_config()
    config.update_from_flattened_dict({
        "model.hidden_size": 16, "model.num_hidden_layers": 1, "model.num_attention_heads": 2,
        "model.intermediate_size": 16, "model.head": "crf", "data.train": "train 60",
        "data.dev": "dev 10", "train.steps": 2,
    })  # fmt: skip
    with mode():
        fit(config, tmp_path)
        load(tmp_path / "best")("王建国在东海市工作。")
