"""Explain a step whose loss or gradients are not finite."""

import math

import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict
from jax import Array
from jax.sharding import Mesh

from flax_ner.errors import error_summary
from flax_ner.model.tagging_model import Params
from flax_ner.text.batches import Batches
from flax_ner.training.loss import Gradients, State

SHOWN = 5  # number of parameters in the message


class NonFiniteError(Exception):
    """Loss or gradients of a step are not finite, and training stopped before it.

    Args:
        step: number of steps that are done; the state is the one after them.
    """

    def __init__(self, step: int):
        self.step = step


def explain_nonfinite(
    gradients: Gradients, mesh: Mesh, state: State, batches: Batches, index: int
) -> str:
    """Return one line with the loss and the parameters with the largest gradients.

    Args:
        gradients: `(state, batch) -> (loss, gradients)`.
        mesh: the mesh of the run.
        state: training state before the step.
        batches: arrays [S, B, T].
        index: which of the batches the step is about.
    """

    @jax.jit
    def diagnose(state: State, batches: Batches) -> tuple[Array, Params, Params]:
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            loss, grads = gradients(state, jax.tree.map(lambda x: x[index], batches))
        nonfinite = jax.tree.map(lambda x: (~jnp.isfinite(x)).sum(), grads)
        return loss, nonfinite, jax.tree.map(lambda x: jnp.linalg.norm(x.ravel()), grads)

    try:
        loss, nonfinite, norms = jax.block_until_ready(diagnose(state, batches))
    except jax.errors.JaxRuntimeError as error:  # e.g. the device is out of memory
        return f"loss or gradients are not finite (no details: {error_summary(error)})"
    params, nonfinite, norms = (
        flatten_dict(tree, sep="/") for tree in (state["params"], nonfinite, norms)
    )
    sizes: list[tuple[float, str]] = []
    for name, array in params.items():
        size = f"L2 {norms[name]:.3g}"
        if nonfinite[name]:
            size = f"{nonfinite[name]} of {array.size} not finite"
        sizes.append((math.inf if nonfinite[name] else float(norms[name]), f"{name} ({size})"))
    largest = [text for _, text in sorted(sizes, key=lambda size: -size[0])[:SHOWN]]
    return f"the loss is {float(loss):g}, the largest gradients are those of {', '.join(largest)}"
