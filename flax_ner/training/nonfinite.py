"""What to say of a step whose loss or gradients are not finite."""

import math

import jax
import jax.numpy as jnp
from jax import Array
from jax.sharding import Mesh

from flax_ner.errors import reason
from flax_ner.model.tagger import Params
from flax_ner.text.batches import Batches
from flax_ner.training.gradients import Gradients, State
from flax_ner.weights.names import flatten

SHOWN = 5  # parameters


class NotFinite(Exception):
    """Training stopped before a step with such a loss; `step` are done, and the state is theirs."""

    def __init__(self, step: int):
        self.step = step


def explain(gradients: Gradients, mesh: Mesh, state: State, batches: Batches, index: int) -> str:
    """The loss of one of batches [S, B, T] and the parameters with the largest gradients, on one line."""

    @jax.jit
    def look(state: State, batches: Batches) -> tuple[Array, Params, Params]:
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            loss, grads = gradients(state, jax.tree.map(lambda x: x[index], batches))
        bad = jax.tree.map(lambda x: (~jnp.isfinite(x)).sum(), grads)
        return loss, bad, jax.tree.map(lambda x: jnp.linalg.norm(x.ravel()), grads)

    try:
        loss, bad, norms = jax.block_until_ready(look(state, batches))
    except jax.errors.JaxRuntimeError as error:  # there may be no room for it beside the state
        return f"loss or gradients are not finite (which ones is not known: {reason(error)})"
    shapes, bad, norms = (flatten(tree) for tree in (state["params"], bad, norms))
    sizes: list[tuple[float, str]] = []
    for name, array in shapes.items():
        size = f"L2 {norms[name]:.3g}"
        if bad[name]:
            size = f"{bad[name]} of {array.size} not finite"
        sizes.append((math.inf if bad[name] else float(norms[name]), f"{name} ({size})"))
    largest = [text for _, text in sorted(sizes, key=lambda size: -size[0])[:SHOWN]]
    return f"the loss is {float(loss):g}, the largest gradients are those of {', '.join(largest)}"
