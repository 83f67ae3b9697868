"""Devices in a mesh of two axes, and where arrays lie on it.

`data` divides the batch. `fsdp` divides the batch too, and the parameters and optimizer state with
it; XLA gathers a layer's parameters when they are needed.
"""

from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from flax_ner.errors import UserError

BATCH = ("data", "fsdp")


def make_mesh(data: int, fsdp: int, batch_size: int) -> Mesh:
    """A mesh of `data` x `fsdp` devices; `data=0` takes all that are left.

    Raises:
        UserError: not that many devices, or the batch does not divide by them.
    """
    count = jax.device_count()
    if not data and count % fsdp:
        raise UserError(
            f"mesh.fsdp: {fsdp} does not divide the {count} devices. Choose a divisor, or set mesh.data."
        )
    data = data or count // fsdp
    if data < 1 or data * fsdp > count:
        raise UserError(
            f"mesh.data x mesh.fsdp: {data} x {fsdp}, but there are {count} devices. "
            "Lower one of them; mesh.data=0 takes all that are left."
        )
    if batch_size % (data * fsdp):
        raise UserError(
            f"data.batch_size: {batch_size} rows do not divide by {data * fsdp} devices. "
            f"Choose a multiple of {data * fsdp}."
        )
    devices = jax.devices()[: data * fsdp]
    return jax.make_mesh((data, fsdp), BATCH, devices=devices, axis_types=(AxisType.Auto,) * 2)


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Of an epoch's arrays [S, B, T]: rows over all devices."""
    return NamedSharding(mesh, P(None, BATCH))


def state_shardings(mesh: Mesh, state: Any) -> Any:
    """Of every array of a state: its longest axis that divides over `fsdp`, or a copy on each device."""
    size = mesh.shape["fsdp"]

    def sharding(array: Any) -> NamedSharding:
        axes = [axis for axis, length in enumerate(array.shape) if length % size == 0]
        if size == 1 or not axes:
            return NamedSharding(mesh, P())
        spec: list[str | None] = [None] * len(array.shape)
        spec[int(max(axes, key=lambda axis: array.shape[axis]))] = "fsdp"
        return NamedSharding(mesh, P(*spec))

    return jax.tree.map(sharding, state)


def put_epoch(mesh: Mesh, arrays: Any) -> Any:
    """Place an epoch's arrays [S, B, T] on the mesh."""
    return jax.tree.map(lambda x: jax.device_put(np.asarray(x), batch_sharding(mesh)), arrays)
