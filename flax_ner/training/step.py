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
from flax_ner.model.crf import chain
from flax_ner.model.decoding import Decoder
from flax_ner.model.losses import cross_entropy, focal_loss
from flax_ner.model.tagger import Params, apply
from flax_ner.text.batches import Batches
from flax_ner.text.encoding import NO_LABEL
from flax_ner.training.optimizer import Schedule

State = dict[str, Any]  # {"params", "opt_state", "step"}
Metrics = dict[str, Array]
Step = Callable[[State, Any], tuple[State, Metrics]]  # the batch: `Batches` of arrays [B, T]
Loss = Callable[[Array, Any, Params], Array]  # of logits [B, T, C], batch, the head's parameters
Gradients = Callable[[State, Any], tuple[Array, Params]]
RunSteps = Callable[[State, Batches, int, int, int], tuple[State, Metrics]]


def init_state(optimizer: optax.GradientTransformation, params: Params) -> State:
    """The state before the first step."""
    return {"params": params, "opt_state": optimizer.init(params), "step": jnp.int32(0)}


def make_loss(config: ConfigDict, decoder: Decoder | None = None) -> Loss:
    """The loss that `config.loss` names; of a decoder of the head `crf`, its own."""
    token_loss = (
        cross_entropy if config.name == "cross_entropy" else partial(focal_loss, gamma=config.gamma)
    )

    def loss_of(logits: Array, batch: Any, head: Params) -> Array:
        labelled = batch.labels != NO_LABEL
        if decoder is not None and decoder.head == "crf":
            chains = chain(batch.segment_ids, batch.positions, labelled)
            return decoder.negative_log_likelihood(head, logits, batch.labels, chains)
        return token_loss(logits, batch.labels, (batch.segment_ids > 0) & labelled)

    return loss_of


def make_gradients(model: BertConfig, loss_of: Loss, seed: int) -> Gradients:
    """`(state, batch [B, T]) -> (loss, gradients)`; dropout depends on seed and step alone."""

    def gradients(state: State, batch: Any) -> tuple[Array, Params]:
        key = jax.random.fold_in(jax.random.key(seed), state["step"])

        def loss_fn(params: Params) -> Array:
            logits = apply(model, params, batch.input_ids, batch.segment_ids, batch.positions, key)
            return loss_of(logits, batch, params["head"])

        return jax.value_and_grad(loss_fn)(state["params"])

    return gradients


def make_step(
    model: BertConfig,
    loss_of: Loss,
    optimizer: optax.GradientTransformation,
    schedule: Schedule,
    seed: int,
    skip_nonfinite: bool = False,
) -> Step:
    """One step as a pure function of (state, batch [B, T]).

    Where loss or gradients are not finite, the state stays as it is, its step number too; with
    `skip_nonfinite` that goes on, and so does the run.

    Metrics are float32 scalars: `loss`, `grad_norm` before clipping, the `learning_rate` of the
    schedule at this step (the optimizer's own lags behind by the steps that were skipped); and
    `updates`, 1, or 0 where the update was left out.
    """

    gradients = make_gradients(model, loss_of, seed)

    def step(state: State, batch: Any) -> tuple[State, Metrics]:
        loss, grads = gradients(state, batch)
        grad_norm = optax.tree.norm(grads)
        finite = jnp.isfinite(loss) & jnp.isfinite(grad_norm)

        def update() -> tuple[Params, Any]:
            updates, opt_state = optimizer.update(grads, state["opt_state"], state["params"])
            return optax.apply_updates(state["params"], updates), opt_state

        # A branch and not a choice between two states, which would be written one after the other.
        params, opt_state = jax.lax.cond(
            finite, update, lambda: (state["params"], state["opt_state"])
        )
        metrics = {
            "loss": loss,
            "grad_norm": grad_norm,
            "learning_rate": schedule(state["step"]),
            "updates": finite.astype(jnp.float32),
        }
        step = state["step"] + (1 if skip_nonfinite else finite)
        return {"params": params, "opt_state": opt_state, "step": step}, metrics

    return step


def run_steps(step: Step, shardings: Any) -> RunSteps:
    """Compile `(state, batches [S, B, T], first, count, begin) -> (state, metrics)` around a step.

    Takes the batches from `first` on, `count` of them, as steps `begin`, `begin` + 1, ... It ends
    where the state's step number does not keep up, and does nothing where that is not `begin`: a
    call that was queued behind one that ended early leaves the state as it was.

    `first`, `count` and `begin` are traced, so that one compilation serves every stretch of an
    epoch. The state is donated. Metrics are those of the last step with an update; `loss` is the mean
    over such steps, `updates` how many there were (if none, the others say nothing), and `step` the
    state's.
    """

    mesh = jax.tree.leaves(shardings)[0].mesh.abstract_mesh

    def run(
        state: State, batches: Batches, first: Array, count: Array, begin: Array
    ) -> tuple[State, Metrics]:
        def keeps_up(carry: tuple[Array, State, Metrics]) -> Array:
            i, state, _ = carry
            return (i < count) & (state["step"] == begin + i)

        def body(carry: tuple[Array, State, Metrics]) -> tuple[Array, State, Metrics]:
            i, state, before = carry
            batch = jax.tree.map(
                lambda x: jax.lax.dynamic_index_in_dim(x, first + i, keepdims=False), batches
            )
            with jax.sharding.use_abstract_mesh(mesh):  # the model keeps rows over all of it
                state, metrics = step(state, batch)
            sums = {name: before[name] + metrics[name] for name in ("loss", "updates")}
            kept = jax.tree.map(partial(jnp.where, metrics["updates"] > 0), metrics | sums, before)
            return i + 1, state, kept

        zero = dict.fromkeys(("loss", "grad_norm", "learning_rate", "updates"), jnp.float32(0))
        _, state, metrics = jax.lax.while_loop(keeps_up, body, (jnp.int32(0), state, zero))
        mean = metrics["loss"] / jnp.maximum(metrics["updates"], 1)
        return state, metrics | {"loss": mean, "step": state["step"]}

    return jax.jit(run, donate_argnums=0, out_shardings=(shardings, None))
