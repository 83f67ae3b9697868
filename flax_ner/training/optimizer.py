"""The learning-rate schedule and the optimizer."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from ml_collections import ConfigDict

from flax_ner.model.bert import STACKED

Schedule = Callable[[Array | int], Array]


def make_schedule(config: ConfigDict, total_steps: int, steps_per_epoch: int) -> Schedule:
    """Return the learning-rate schedule: linear warm-up from 0, then `config.schedule`.

    All rates are computed in float64 and looked up in a table, so that each is rounded to float32 only once.

    Args:
        config: `config.optimizer`.
        total_steps: total number of steps; linear and cosine reach 0 there.
        steps_per_epoch: steps per epoch, the unit of `milestones`.

    Returns:
        A function from the step number to the learning rate, float32.
    """
    step, warmup = np.arange(total_steps), round(config.warmup * total_steps)
    milestones = np.array(config.milestones) * steps_per_epoch
    remaining = (total_steps - step) / max(total_steps - warmup, 1)  # from 1 to 0
    decay = {
        "linear": remaining,
        "cosine": (1 - np.cos(np.pi * remaining)) / 2,
        "step": config.decay_factor ** np.searchsorted(milestones, step, side="right"),
        "constant": np.ones(total_steps),
    }[config.schedule]
    rates = config.learning_rate * np.where(step < warmup, step / max(warmup, 1), decay)
    table = rates.astype(np.float32)
    return lambda step: jnp.asarray(table)[step]


def make_optimizer(config: ConfigDict, schedule: Schedule) -> optax.GradientTransformation:
    """Return the optimizer of `config.optimizer`: clipping by global norm, then AdamW or Adadelta."""
    if config.name == "adamw":
        update = optax.adamw(
            schedule,
            config.b1,
            config.b2,
            config.eps,
            weight_decay=config.weight_decay,
            mask=decay_mask,
        )
    else:
        # MMOCR: Adadelta with PyTorch's rho and eps, no weight decay.
        update = optax.adadelta(schedule, rho=0.9, eps=1e-6)
    clip = clip_by_global_norm(config.clip_norm) if config.clip_norm else optax.identity()
    if config.layer_decay == config.head_lr_multiplier == 1:
        return optax.chain(clip, update)
    return optax.chain(clip, update, scale_by_layer(config.layer_decay, config.head_lr_multiplier))


def scale_by_layer(layer_decay: float, head_lr_multiplier: float) -> optax.GradientTransformation:
    """Scale updates by layer (layer-wise learning-rate decay), and those of the head.

    The update of layer i of L is multiplied by `layer_decay ** (L - 1 - i)`, that of the embeddings by
    `layer_decay ** L`, and that of the head by `head_lr_multiplier`.
    """

    def update(updates: Any, state: optax.EmptyState, params: Any = None) -> Any:
        layers = updates["encoder"]["layers"]
        stacked = STACKED in layers
        count = len(jax.tree.leaves(layers)[0]) if stacked else len(layers)

        def scale(path: Any, x: Array) -> Array:
            module, *rest = (p.key for p in path)
            if module == "head":
                return x * head_lr_multiplier
            if rest[0] == "embeddings":
                return x * layer_decay**count
            if not stacked:
                return x * layer_decay ** (count - 1 - int(rest[1]))
            factors = jnp.float32(layer_decay) ** jnp.arange(count - 1, -1, -1, dtype=jnp.float32)
            return x * factors.reshape(-1, *[1] * (x.ndim - 1))

        return jax.tree.map_with_path(scale, updates), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def vmap_optimizer(optimizer: optax.GradientTransformation) -> optax.GradientTransformation:
    """Return an optimizer for several models, whose parameters are stacked along a leading axis."""
    return optax.GradientTransformation(jax.vmap(optimizer.init), jax.vmap(optimizer.update))


def clip_by_global_norm(limit: float) -> optax.GradientTransformation:
    """Scale the gradients down to a global L2 norm of `limit` if their norm is larger.

    `optax.clip_by_global_norm` divides each element, which XLA compiles to a separate pass over all gradients.
    A multiplication is fused into the following passes.
    """

    def update(grads: Any, state: optax.EmptyState, params: Any = None) -> Any:
        factor = jnp.minimum(1.0, limit / optax.tree.norm(grads))
        return jax.tree.map(lambda g: g * factor, grads), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def decay_mask(params: Any) -> Any:
    """Return where weight decay applies: everywhere but biases, LayerNorm and the transitions of a CRF."""
    return jax.tree.map_with_path(
        lambda path, _: not any("norm" in p.key or p.key in ("bias", "transitions") for p in path),
        params,
    )
