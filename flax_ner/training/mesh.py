"""Devices in a mesh of two axes, and where arrays lie on it.

`data` divides the batch. `fsdp` divides the batch too, and the parameters and optimizer state with
it; XLA gathers a layer's parameters when they are needed.
"""

import math
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from flax_ner.errors import UserError

BATCH = ("data", "fsdp")
LEAST = 2**13  # elements of an array that is worth dividing


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
        fewer = max((n for n in range(1, data) if batch_size % (n * fsdp) == 0), default=0)
        use_fewer = f", or use fewer devices with --config.mesh.data={fewer}" if fewer else ""
        raise UserError(
            f"data.batch_size: {batch_size} rows do not divide by {data * fsdp} devices. "
            f"Choose a multiple of {data * fsdp}{use_fewer}. A run that is resumed keeps its batch size."
        )
    if data * fsdp < count and jax.process_count() > 1:
        raise UserError(
            f"mesh.data x mesh.fsdp: {data} x {fsdp}, but with several processes all {count} devices take "
            "part. mesh.data=0 takes all that are left."
        )
    devices = jax.devices()[: data * fsdp]
    return jax.make_mesh((data, fsdp), BATCH, devices=devices, axis_types=(AxisType.Auto,) * 2)


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Of an epoch's arrays [S, B, T, ...]: rows over all devices."""
    return NamedSharding(mesh, P(None, BATCH))


def state_shardings(mesh: Mesh, state: Any) -> Any:
    """Of every array of a state: its longest axis that divides over `fsdp`, or a copy on each device.

    Small arrays are copies, too: the compiler would send rows of text around to divide their gradients.
    """
    size = mesh.shape["fsdp"]

    def sharding(array: Any) -> NamedSharding:
        axes = [axis for axis, length in enumerate(array.shape) if length % size == 0]
        if size == 1 or not axes or math.prod(array.shape) < LEAST:
            return NamedSharding(mesh, P())
        spec: list[str | None] = [None] * len(array.shape)
        spec[int(max(axes, key=lambda axis: array.shape[axis]))] = "fsdp"
        return NamedSharding(mesh, P(*spec))

    return jax.tree.map(sharding, state)


def bytes_a_device(state: Any, shardings: Any) -> int:
    """What a state takes on each device."""
    sizes = jax.tree.map(
        lambda x, sharding: math.prod(sharding.shard_shape(x.shape)) * x.dtype.itemsize,
        state,
        shardings,
    )
    return sum(jax.tree.leaves(sizes))


def own_rows(mesh: Mesh, batch_size: int) -> np.ndarray:
    """The rows of a batch that lie on devices of this process, int [rows], ascending."""
    places = batch_sharding(mesh).addressable_devices_indices_map((1, batch_size, 1))
    every = np.arange(batch_size)
    return np.unique(np.concatenate([every[index[1]] for index in places.values() if index]))


def put_epoch(mesh: Mesh, batch_size: int, arrays: Any) -> Any:
    """Place an epoch's arrays [S, B, T, ...] on the mesh; of each this process has `own_rows`."""

    def put(x: np.ndarray) -> jax.Array:
        shape = (len(x), batch_size, *x.shape[2:])
        return jax.make_array_from_process_local_data(batch_sharding(mesh), x, shape)

    return jax.tree.map(put, arrays)


def put_whole(arrays: Any, shardings: Any) -> Any:
    """Place arrays on a mesh that every process has whole."""
    if jax.process_count() == 1:
        return jax.device_put(arrays, shardings)

    def put(x: Any, sharding: NamedSharding) -> jax.Array:
        whole = np.asarray(x)
        return jax.make_array_from_callback(whole.shape, sharding, whole.__getitem__)

    return jax.tree.map(put, arrays, shardings)


def take_whole(mesh: Mesh, arrays: Any) -> Any:
    """Arrays that lie on a mesh, as this process alone can use them."""
    if jax.process_count() == 1:
        return arrays
    copies = jax.jit(lambda x: x, out_shardings=NamedSharding(mesh, P()))(arrays)
    return jax.tree.map(lambda x: x.addressable_data(0), copies)
