"""Placement over devices."""

import jax
import jax.numpy as jnp
import pytest

from flax_ner.errors import UserError
from flax_ner.training.mesh import make_mesh, state_shardings


@pytest.mark.parametrize(
    ("data", "fsdp", "batch_size", "message"),
    [
        (16, 1, 16, "mesh.data x mesh.fsdp: 16 x 1, but there are 8 devices"),
        (0, 16, 16, "mesh.fsdp: 16 does not divide the 8 devices"),
        (0, 1, 12, "12 rows do not divide by 8 devices"),
    ],
)
def test_a_mesh_that_does_not_fit_is_refused(
    data: int, fsdp: int, batch_size: int, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        make_mesh(data, fsdp, batch_size)


def test_fsdp_divides_the_longest_axis_that_divides() -> None:
    mesh = make_mesh(2, 4, 8)
    state = {"table": jnp.zeros((6, 8)), "odd": jnp.zeros((3, 5)), "step": jnp.int32(0)}
    placed = jax.device_put(state, state_shardings(mesh, state))
    shapes = {name: array.addressable_shards[0].data.shape for name, array in placed.items()}
    assert shapes == {"table": (6, 2), "odd": (3, 5), "step": ()}
