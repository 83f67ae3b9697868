"""Learning rate and optimizer."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import Array
from ml_collections import ConfigDict

Schedule = Callable[[Array | int], Array]


def make_schedule(config: ConfigDict, total_steps: int, steps_per_epoch: int) -> Schedule:
    """The learning rate of a step, float32: rises linearly from 0, then falls as the config says.

    Args:
        config: `config.optimizer`.
        total_steps: where linear and cosine reach 0.
        steps_per_epoch: the unit of `milestones`.
    """
    peak, warmup = config.learning_rate, round(config.warmup * total_steps)
    after = max(total_steps - warmup, 1)
    if config.schedule == "linear":
        fall = optax.linear_schedule(peak, 0.0, after)
    elif config.schedule == "cosine":
        fall = optax.cosine_decay_schedule(peak, after)
    elif config.schedule == "step":
        drops = {
            epoch * steps_per_epoch - warmup: config.decay_factor for epoch in config.milestones
        }
        fall = optax.piecewise_constant_schedule(peak, drops)
    else:
        fall = optax.constant_schedule(peak)
    rise = optax.linear_schedule(0.0, peak, max(warmup, 1))
    joined = optax.join_schedules([rise, fall], [warmup])
    return lambda step: jnp.asarray(joined(step), jnp.float32)


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
    clip = optax.clip_by_global_norm(config.clip_norm) if config.clip_norm else optax.identity()
    return optax.chain(clip, update)


def decay_mask(params: Any) -> Any:
    """True for what weight decay applies to: all but biases and LayerNorm."""
    return jax.tree.map_with_path(
        lambda path, _: not any("norm" in p.key or p.key == "bias" for p in path), params
    )
