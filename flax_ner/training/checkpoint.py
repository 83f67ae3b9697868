"""Training state on disk: asynchronous, atomic, the newest few."""

from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp


class Checkpoints:
    """The states of one run under `path`, by step.

    Args:
        path: a directory, made if it is missing.
        keep: how many of the newest to keep.
    """

    def __init__(self, path: str | Path, keep: int):
        options = ocp.CheckpointManagerOptions(max_to_keep=keep, cleanup_tmp_directories=True)
        self._manager = ocp.CheckpointManager(Path(path).absolute(), options=options)

    def save(self, step: int, state: Any) -> None:
        """Start writing a state; it is copied first, so training may go on at once."""
        self._manager.save(step, args=ocp.args.StandardSave(state))

    def restore(self, shapes: Any, shardings: Any) -> Any | None:
        """The newest state, of these shapes and placed like this; None if there is none."""
        step = self._manager.latest_step()
        if step is None:
            return None
        abstract = jax.tree.map(
            lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding),
            shapes,
            shardings,
        )
        return self._manager.restore(step, args=ocp.args.StandardRestore(abstract))

    def close(self) -> None:
        """Wait until everything is on disk."""
        self._manager.wait_until_finished()
        self._manager.close()
