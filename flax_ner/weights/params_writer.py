"""Write parameters and training states with Orbax."""

from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from flax_ner.model.tagging_model import Params


def write_params(folder: Path, params: Params) -> None:
    """Write parameters to a new folder. This process does not wait for other processes of the same run."""
    index = jax.process_index()
    options = ocp.options.MultiprocessingOptions(
        primary_host=index,
        active_processes={index},
        barrier_sync_key_prefix=f"process_{index}",
    )
    # No compression: float32 hardly shrinks, and compressing takes time and twice the memory.
    handler = pytree_handler(use_compression=False, multiprocessing_options=options)
    with ocp.Checkpointer(handler, multiprocessing_options=options) as checkpointer:
        # Orbax copies NumPy arrays; jax on a CPU uses them without a copy. With several processes Orbax does
        # not accept arrays on one process's devices.
        single = jax.process_count() == 1
        params = (jax.device_put if single else jax.device_get)(params)
        checkpointer.save(folder, args=ocp.args.PyTreeSave(params))


def pytree_handler(**options: Any) -> ocp.PyTreeCheckpointHandler:
    """Return an Orbax handler that writes each shard from only one of the devices that hold it.

    By default all replicas of a shard write a part of it, and Orbax compiles a program per shape and device.
    """
    registry = ocp.type_handlers.create_type_handler_registry(
        (np.ndarray, ocp.type_handlers.NumpyHandler()),
        (jax.Array, ocp.type_handlers.ArrayHandler(use_replica_parallel=False)),
    )
    return ocp.PyTreeCheckpointHandler(type_handler_registry=registry, **options)
