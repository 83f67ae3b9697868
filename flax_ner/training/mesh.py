"""The device mesh, and how arrays are sharded over it.

The mesh has two axes. `data` shards the batch. `fsdp` shards the batch, the parameters and the optimizer state;
XLA gathers the parameters of a layer when they are needed.
"""

import math
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from flax_ner.errors import UserError

BATCH_AXES = ("data", "fsdp")
MIN_SHARDED_SIZE = 2**13  # elements; smaller arrays are replicated


def make_mesh(data: int, fsdp: int, batch_size: int) -> Mesh:
    """Return a mesh of `data` x `fsdp` devices.

    Args:
        data: size of the data axis; 0: all devices that `fsdp` leaves.
        fsdp: size of the fsdp axis.
        batch_size: rows per step, which must divide by the number of devices.

    Raises:
        UserError: there are not enough devices, or the batch does not divide by them.
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
            "Lower one of them; mesh.data=0 uses all remaining devices."
        )
    if batch_size % (data * fsdp):
        fewer = max((n for n in range(1, data) if batch_size % (n * fsdp) == 0), default=0)
        use_fewer = f", or use fewer devices with --config.mesh.data={fewer}" if fewer else ""
        raise UserError(
            f"data.batch_size: {batch_size} rows do not divide by {data * fsdp} devices. "
            f"Choose a multiple of {data * fsdp}{use_fewer}. A resumed run must keep its batch size."
        )
    if data * fsdp < count and jax.process_count() > 1:
        raise UserError(
            f"mesh.data x mesh.fsdp: {data} x {fsdp}, but a run with several processes must use all {count} "
            "devices. Set mesh.data=0."
        )
    devices = jax.devices()[: data * fsdp]
    return jax.make_mesh((data, fsdp), BATCH_AXES, devices=devices, axis_types=(AxisType.Auto,) * 2)


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Return the sharding of an epoch's arrays [S, B, T, ...]: rows over all devices."""
    return NamedSharding(mesh, P(None, BATCH_AXES))


def state_shardings(mesh: Mesh, state: Any) -> Any:
    """Return the sharding of each array of a training state.

    The longest axis that divides by `fsdp` is sharded over it. Arrays without such an axis are replicated.
    So are small arrays: to shard their gradients, XLA would move rows of text between devices.
    """
    size = mesh.shape["fsdp"]

    def sharding(array: Any) -> NamedSharding:
        axes = [axis for axis, length in enumerate(array.shape) if length % size == 0]
        if size == 1 or not axes or math.prod(array.shape) < MIN_SHARDED_SIZE:
            return NamedSharding(mesh, P())
        spec: list[str | None] = [None] * len(array.shape)
        spec[int(max(axes, key=lambda axis: array.shape[axis]))] = "fsdp"
        return NamedSharding(mesh, P(*spec))

    return jax.tree.map(sharding, state)


def bytes_per_device(state: Any, shardings: Any) -> int:
    """Return the size of a state on each device, in bytes."""
    sizes = jax.tree.map(
        lambda x, sharding: math.prod(sharding.shard_shape(x.shape)) * x.dtype.itemsize,
        state,
        shardings,
    )
    return sum(jax.tree.leaves(sizes))


def process_local_rows(mesh: Mesh, batch_size: int) -> np.ndarray:
    """Return the rows of a batch that are on devices of this process, int [rows], ascending."""
    indices = batch_sharding(mesh).addressable_devices_indices_map((1, batch_size, 1))
    rows = np.arange(batch_size)
    return np.unique(np.concatenate([rows[index[1]] for index in indices.values() if index]))


def put_epoch(mesh: Mesh, batch_size: int, arrays: Any) -> Any:
    """Shard an epoch's arrays [S, B, T, ...] over the mesh. `arrays` hold only the `process_local_rows`."""

    def put(x: np.ndarray) -> jax.Array:
        shape = (len(x), batch_size, *x.shape[2:])
        return jax.make_array_from_process_local_data(batch_sharding(mesh), x, shape)

    return jax.tree.map(put, arrays)


def shard_from_host(arrays: Any, shardings: Any) -> Any:
    """Shard arrays over a mesh. Every process must have the complete arrays."""
    if jax.process_count() == 1:
        return jax.device_put(arrays, shardings)

    def put(x: Any, sharding: NamedSharding) -> jax.Array:
        array = np.asarray(x)
        return jax.make_array_from_callback(array.shape, sharding, array.__getitem__)

    return jax.tree.map(put, arrays, shardings)


def gather_to_hosts(mesh: Mesh, arrays: Any) -> Any:
    """Return complete copies of sharded arrays, for use by this process alone."""
    if jax.process_count() == 1:
        return arrays
    copies = jax.jit(lambda x: x, out_shardings=NamedSharding(mesh, P()))(arrays)
    return jax.tree.map(lambda x: x.addressable_data(0), copies)
