"""Learning rate and optimizer."""

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
    """The learning rate of a step, float32: rises linearly from 0, then falls as the config says.

    All rates are made in float64 and looked up, so that each is the nearest float32.

    Args:
        config: `config.optimizer`.
        total_steps: where linear and cosine would reach 0.
        steps_per_epoch: the unit of `milestones`.
    """
    step, warmup = np.arange(total_steps), round(config.warmup * total_steps)
    drops = np.array(config.milestones) * steps_per_epoch
    left = (total_steps - step) / max(total_steps - warmup, 1)  # share of the fall to come
    fall = {
        "linear": left,
        "cosine": (1 - np.cos(np.pi * left)) / 2,
        "step": config.decay_factor ** np.searchsorted(drops, step, side="right"),
        "constant": np.ones(total_steps),
    }[config.schedule]
    rates = config.learning_rate * np.where(step < warmup, step / max(warmup, 1), fall)
    table = rates.astype(np.float32)
    return lambda step: jnp.asarray(table)[step]


def make_optimizer(config: ConfigDict, schedule: Schedule) -> optax.GradientTransformation:
    """Clipping by global norm, then AdamW or Adadelta; `config` is `config.optimizer`."""
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
    if config.layer_decay == config.head_factor == 1:
        return optax.chain(clip, update)
    return optax.chain(clip, update, scale_by_place(config.layer_decay, config.head_factor))


def scale_by_place(layer_decay: float, head_factor: float) -> optax.GradientTransformation:
    """Smaller updates the deeper a layer lies, and others for the head.

    The last layer's are as they are, each layer's below are multiplied by `layer_decay` once more, the
    embeddings' last; the head's by `head_factor`.
    """

    def update(updates: Any, state: optax.EmptyState, params: Any = None) -> Any:
        layers = updates["encoder"]["layers"]
        stacked = STACKED in layers
        count = len(jax.tree.leaves(layers)[0]) if stacked else len(layers)

        def scaled(path: Any, x: Array) -> Array:
            part, *rest = (p.key for p in path)
            if part == "head":
                return x * head_factor
            if rest[0] == "embeddings":
                return x * layer_decay**count
            if not stacked:
                return x * layer_decay ** (count - 1 - int(rest[1]))
            factors = jnp.float32(layer_decay) ** jnp.arange(count - 1, -1, -1, dtype=jnp.float32)
            return x * factors.reshape(-1, *[1] * (x.ndim - 1))

        return jax.tree.map_with_path(scaled, updates), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def of_each_model(optimizer: optax.GradientTransformation) -> optax.GradientTransformation:
    """The optimizer of several models at once, whose parameters lie along a leading axis."""
    return optax.GradientTransformation(jax.vmap(optimizer.init), jax.vmap(optimizer.update))


def clip_by_global_norm(limit: float) -> optax.GradientTransformation:
    """Scale all gradients down to an L2 norm of `limit` where theirs is larger.

    As `optax.clip_by_global_norm`, which divides every element: XLA makes that a pass of its own
    through all gradients, and a factor is taken along in the passes behind it.
    """

    def update(grads: Any, state: optax.EmptyState, params: Any = None) -> Any:
        factor = jnp.minimum(1.0, limit / optax.tree.norm(grads))
        return jax.tree.map(lambda g: g * factor, grads), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def decay_mask(params: Any) -> Any:
    """True for what weight decay applies to: all but biases, LayerNorm and a CRF's transitions."""
    return jax.tree.map_with_path(
        lambda path, _: not any("norm" in p.key or p.key in ("bias", "transitions") for p in path),
        params,
    )
