"""The training step: loss, gradients, update; many steps for each call from the host."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import Array

from flax_ner.model.tagger import Params
from flax_ner.text.batches import Batches
from flax_ner.training.gradients import Gradients, State
from flax_ner.training.optimizer import Schedule

Metrics = dict[str, Array]
Step = Callable[[State, Any], tuple[State, Metrics]]  # the batch: `Batches` of arrays [B, T]
RunSteps = Callable[[State, Batches, int, int, int], tuple[State, Metrics]]


def init_state(optimizer: optax.GradientTransformation, params: Params, ema: bool = False) -> State:
    """The state before the first step; with `ema` also an average of the parameters."""
    state: State = {"params": params, "opt_state": optimizer.init(params), "step": jnp.int32(0)}
    if ema:
        state["ema"] = jax.tree.map(jnp.copy, params)
    return state


def used_params(state: State) -> Params:
    """The parameters to tag with: their average, where one is kept."""
    params: Params = state["ema"] if "ema" in state else state["params"]
    return params


def make_step(
    gradients: Gradients,
    optimizer: optax.GradientTransformation,
    schedule: Schedule,
    skip_nonfinite: bool = False,
    ema: float = 0.0,
) -> Step:
    """One step as a pure function of (state, batch [B, T]).

    Where loss or gradients are not finite, the state stays as it is, its step number too; with
    `skip_nonfinite` that goes on, and so does the run.

    With `ema` the average of parameters moves by 1 - `ema` of the way to them after each update.

    Metrics are float32 scalars: `loss`, `grad_norm` before clipping, the `learning_rate` of the
    schedule at this step (the optimizer's own lags behind by the steps that were skipped); and
    `updates`, 1, or 0 where the update was left out.
    """

    def step(state: State, batch: Any) -> tuple[State, Metrics]:
        loss, grads = gradients(state, batch)
        grad_norm = optax.tree.norm(grads)
        finite = jnp.isfinite(loss) & jnp.isfinite(grad_norm)

        before = {name: x for name, x in state.items() if name != "step"}

        def update() -> State:
            # Optax multiplies floats by its integer step count, which strict promotion refuses.
            with jax.numpy_dtype_promotion("standard"):
                updates, opt_state = optimizer.update(grads, state["opt_state"], state["params"])
            after = {
                "params": optax.apply_updates(state["params"], updates),
                "opt_state": opt_state,
            }
            if ema:
                # Early on the average forgets faster, or it would keep where it began.
                decay = jnp.minimum(ema, (1 + state["step"]) / (10 + state["step"]))
                after["ema"] = optax.tree.add_scale(
                    optax.tree.scale(decay, state["ema"]), 1 - decay, after["params"]
                )
            return after

        # A branch and not a choice between two states, which would be written one after the other.
        after = jax.lax.cond(finite, update, lambda: before)
        metrics = {
            "loss": loss,
            "grad_norm": grad_norm,
            "learning_rate": schedule(state["step"]),
            "updates": finite.astype(jnp.float32),
        }
        step = state["step"] + (1 if skip_nonfinite else finite.astype(jnp.int32))
        return after | {"step": step}, metrics

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
