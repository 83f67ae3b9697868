"""The training step: loss, gradients, update; many steps for each call from the host."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import Array
from ml_collections import ConfigDict

from flax_ner.model.bert import BertConfig
from flax_ner.model.losses import cross_entropy, focal_loss
from flax_ner.model.tagger import Params, apply
from flax_ner.text.batches import Batches
from flax_ner.training.optimizer import Schedule

State = dict[str, Any]  # {"params", "opt_state", "step"}
Metrics = dict[str, Array]
Step = Callable[[State, Any], tuple[State, Metrics]]  # the batch: `Batches` of arrays [B, T]
RunSteps = Callable[[State, Batches, int, int], tuple[State, Metrics]]


def init_state(optimizer: optax.GradientTransformation, params: Params) -> State:
    """The state before the first step."""
    return {"params": params, "opt_state": optimizer.init(params), "step": jnp.int32(0)}


def make_loss(config: ConfigDict) -> Callable[[Array, Array, Array], Array]:
    """The loss that `config.loss` names, of logits, labels and mask."""
    return (
        cross_entropy if config.name == "cross_entropy" else partial(focal_loss, gamma=config.gamma)
    )


def make_step(
    model: BertConfig,
    loss_of: Callable[[Array, Array, Array], Array],
    optimizer: optax.GradientTransformation,
    schedule: Schedule,
    seed: int,
) -> Step:
    """One step as a pure function of (state, batch [B, T]); dropout depends on seed and step alone.

    Metrics are float32 scalars: `loss`, `grad_norm` before clipping, the `learning_rate` used.
    """

    def step(state: State, batch: Any) -> tuple[State, Metrics]:
        key = jax.random.fold_in(jax.random.key(seed), state["step"])

        def loss_fn(params: Any) -> Array:
            logits = apply(model, params, batch.input_ids, batch.segment_ids, batch.positions, key)
            return loss_of(logits, batch.labels, batch.segment_ids > 0)

        loss, grads = jax.value_and_grad(loss_fn)(state["params"])
        updates, opt_state = optimizer.update(grads, state["opt_state"], state["params"])
        metrics = {
            "loss": loss,
            "grad_norm": optax.tree.norm(grads),
            "learning_rate": schedule(state["step"]),
        }
        params = optax.apply_updates(state["params"], updates)
        return {"params": params, "opt_state": opt_state, "step": state["step"] + 1}, metrics

    return step


def run_steps(step: Step, shardings: Any) -> RunSteps:
    """Compile `(state, batches [S, B, T], first, count) -> (state, metrics)` around a step.

    `first` and `count` are traced, so that one compilation serves every stretch of an epoch. The
    state is donated. Metrics are those of the last step, `loss` the mean over all of them.
    """

    def run(state: State, batches: Batches, first: Array, count: Array) -> tuple[State, Metrics]:
        def body(i: Array, carry: tuple[State, Metrics]) -> tuple[State, Metrics]:
            state, before = carry
            batch = jax.tree.map(
                lambda x: jax.lax.dynamic_index_in_dim(x, i, keepdims=False), batches
            )
            state, metrics = step(state, batch)
            return state, metrics | {"loss": before["loss"] + metrics["loss"]}

        zero = {name: jnp.float32(0) for name in ("loss", "grad_norm", "learning_rate")}
        state, metrics = jax.lax.fori_loop(first, first + count, body, (state, zero))
        return state, metrics | {"loss": metrics["loss"] / count}

    return jax.jit(run, donate_argnums=0, out_shardings=(shardings, None))
