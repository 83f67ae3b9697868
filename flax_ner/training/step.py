"""The training step (loss, gradients, update), and the loop that runs many steps per dispatch."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import Array

from flax_ner.model.tagging_model import Params
from flax_ner.text.batches import Batches
from flax_ner.training.loss import Gradients, State
from flax_ner.training.optimizer import Schedule

StepMetrics = dict[str, Array]
Step = Callable[[State, Any], tuple[State, StepMetrics]]  # the batch: `Batches` of arrays [B, T]
RunSteps = Callable[[State, Batches, int, int, int], tuple[State, StepMetrics]]


def init_state(optimizer: optax.GradientTransformation, params: Params, ema: bool = False) -> State:
    """Return the state before the first step; with `ema`, it includes an average of the parameters."""
    state: State = {"params": params, "opt_state": optimizer.init(params), "step": jnp.int32(0)}
    if ema:
        state["ema"] = jax.tree.map(jnp.copy, params)
    return state


def used_params(state: State) -> Params:
    """Return the parameters to evaluate and save: the EMA if there is one."""
    params: Params = state["ema"] if "ema" in state else state["params"]
    return params


def make_step(
    gradients: Gradients,
    optimizer: optax.GradientTransformation,
    schedule: Schedule,
    skip_nonfinite: bool = False,
    ema: float = 0.0,
) -> Step:
    """Return one training step, a pure function `(state, batch [B, T]) -> (state, metrics)`.

    If loss or gradients are not finite, the step leaves the state unchanged.

    Args:
        gradients: `(state, batch) -> (loss, gradients)`.
        optimizer: the optimizer.
        schedule: learning rate of each step, for the metrics.
        skip_nonfinite: whether the step number still increases if loss or gradients are not finite. Otherwise
            it stays, which tells the caller to stop.
        ema: decay of the average of the parameters; 0: no average.

    Returns:
        The step. Its metrics are float32 scalars: `loss`, `grad_norm` before clipping, `learning_rate` of the
        schedule (the optimizer's own is late by the number of skipped steps), and `updates`, which is 1, or
        0 if the update was skipped.
    """

    def step(state: State, batch: Any) -> tuple[State, StepMetrics]:
        loss, grads = gradients(state, batch)
        grad_norm = optax.tree.norm(grads)
        finite = jnp.isfinite(loss) & jnp.isfinite(grad_norm)

        unchanged = {name: x for name, x in state.items() if name != "step"}

        def update() -> State:
            # Optax multiplies floats by its integer step count, which strict dtype promotion rejects.
            with jax.numpy_dtype_promotion("standard"):
                updates, opt_state = optimizer.update(grads, state["opt_state"], state["params"])
            updated = {
                "params": optax.apply_updates(state["params"], updates),
                "opt_state": opt_state,
            }
            if ema:
                # The decay is lower at first, so that the initial parameters do not dominate the average.
                decay = jnp.minimum(ema, (1 + state["step"]) / (10 + state["step"]))
                updated["ema"] = optax.tree.add_scale(
                    optax.tree.scale(decay, state["ema"]), 1 - decay, updated["params"]
                )
            return updated

        # A branch, because `jnp.where` would compute and write both states.
        new_state = jax.lax.cond(finite, update, lambda: unchanged)
        metrics = {
            "loss": loss,
            "grad_norm": grad_norm,
            "learning_rate": schedule(state["step"]),
            "updates": finite.astype(jnp.float32),
        }
        step = state["step"] + (1 if skip_nonfinite else finite.astype(jnp.int32))
        return new_state | {"step": step}, metrics

    return step


def make_run_steps(step: Step, shardings: Any) -> RunSteps:
    """Return a compiled loop of steps, `(state, batches [S, B, T], first, count, begin) -> (state, metrics)`.

    It runs `count` steps on the batches from index `first` on. They have the step numbers `begin`, `begin` + 1,
    ... The loop stops early if a step does not increase the state's step number. It does nothing if the step
    number is not `begin`, so calls that were queued before an early stop leave the state unchanged.

    `first`, `count` and `begin` are traced: all dispatches of an epoch share one compilation. The state is
    donated.

    Returns:
        The compiled loop. Its metrics are those of the last step with an update, except: `loss` is the mean
        over the steps with an update, `updates` their number (if 0, the other metrics are meaningless), and
        `step` the state's step number.
    """

    mesh = jax.tree.leaves(shardings)[0].mesh.abstract_mesh

    def run(
        state: State, batches: Batches, first: Array, count: Array, begin: Array
    ) -> tuple[State, StepMetrics]:
        def should_continue(carry: tuple[Array, State, StepMetrics]) -> Array:
            i, state, _ = carry
            return (i < count) & (state["step"] == begin + i)

        def body(carry: tuple[Array, State, StepMetrics]) -> tuple[Array, State, StepMetrics]:
            i, state, previous = carry
            batch = jax.tree.map(
                lambda x: jax.lax.dynamic_index_in_dim(x, first + i, keepdims=False), batches
            )
            with jax.sharding.use_abstract_mesh(mesh):  # the model shards activations over it
                state, metrics = step(state, batch)
            sums = {name: previous[name] + metrics[name] for name in ("loss", "updates")}
            kept = jax.tree.map(
                partial(jnp.where, metrics["updates"] > 0), metrics | sums, previous
            )
            return i + 1, state, kept

        zero = dict.fromkeys(("loss", "grad_norm", "learning_rate", "updates"), jnp.float32(0))
        _, state, metrics = jax.lax.while_loop(should_continue, body, (jnp.int32(0), state, zero))
        mean = metrics["loss"] / jnp.maximum(metrics["updates"], 1)
        return state, metrics | {"loss": mean, "step": state["step"]}

    return jax.jit(run, donate_argnums=0, out_shardings=(shardings, None))
