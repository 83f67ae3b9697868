"""What to say of a step whose loss or gradients are not finite."""

import math

import jax
import numpy as np

from flax_ner.text.batches import Batches
from flax_ner.training.step import Gradients, State
from flax_ner.weights.names import flatten

SHOWN = 5  # parameters


class NotFinite(Exception):
    """Training stopped before a step with such a loss; `step` are done, and the state is theirs."""

    def __init__(self, step: int):
        self.step = step


def explain(gradients: Gradients, state: State, batch: Batches) -> str:
    """The loss of a batch [B, T] and the parameters with the largest gradients, on one line."""
    loss, grads = jax.jit(gradients)(state, batch)
    sizes: list[tuple[float, str]] = []
    for name, grad in flatten(jax.device_get(grads)).items():
        bad = int((~np.isfinite(grad)).sum())
        norm = math.inf if bad else float(np.linalg.norm(grad))
        sizes.append(
            (norm, f"{name} ({f'{bad} of {grad.size} not finite' if bad else f'L2 {norm:.3g}'})")
        )
    largest = [text for _, text in sorted(sizes, key=lambda size: -size[0])[:SHOWN]]
    return f"the loss is {float(loss):g}, the largest gradients are those of {', '.join(largest)}"
