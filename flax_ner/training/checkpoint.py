"""Checkpoints of the training state: written asynchronously and atomically, with checksums."""

import shutil
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Self

import jax
import orbax.checkpoint as ocp

from flax_ner import durable
from flax_ner.errors import UserError, error_summary
from flax_ner.training.hosts import is_primary, run_on_all_hosts, run_on_primary
from flax_ner.weights.model_dir import storage_path
from flax_ner.weights.params_writer import pytree_handler

TIMEOUT_SECONDS = 300  # for every process to write its shards
PARTIAL_SUFFIX = ".writing"  # of the folder name until the checkpoint is complete


class Checkpoints:
    """The checkpoints of one run, in folders `path/STEP`.

    On opening, damaged checkpoints that are newer than the newest intact one are renamed to `STEP.damaged`.
    `notes` lists them. With several processes, all must make the same calls, on a shared file system.

    Args:
        path: a directory; it is created if it is missing.
        keep: number of most recent checkpoints to keep.

    Raises:
        UserError: there are checkpoints, but all are damaged; or `storage_path` does not accept the path.
    """

    def __init__(self, path: str | Path, keep: int):
        self._path, self._keep = storage_path(path), keep
        self._steps, self.notes = run_on_primary(partial(_clean_up, self._path))
        # Asynchronous creation numbers the saves of each process to synchronise them. The numbers would
        # differ, because only the primary process saves models.
        options = ocp.AsyncOptions(
            create_directories_asynchronously=False, timeout_secs=TIMEOUT_SECONDS
        )
        self._checkpointer = ocp.AsyncCheckpointer(pytree_handler(), async_options=options)
        self._thread = ThreadPoolExecutor(1)
        self._step, self._commit_done = 0, Future[None]()
        self._commit_done.set_result(None)

    def save(self, step: int, state: Any) -> None:
        """Start writing a state in the background. It is copied first, so training can continue at once.

        Raises:
            UserError: this state or the previous one cannot be written. Earlier checkpoints are intact.
        """
        self.wait()
        if step in self._steps:
            return
        self._step = step
        with self._as_user_errors():
            run_on_primary(
                partial(self._check_free_space, sum(x.nbytes for x in jax.tree.leaves(state)))
            )
            self._checkpointer.save(
                self._path / f"{step}{PARTIAL_SUFFIX}", ocp.args.PyTreeSave(state)
            )
        self._steps.append(step)
        self._commit_done = self._thread.submit(self._commit)

    def wait(self) -> None:
        """Wait until the last checkpoint is on disk. Raises the same errors as `save`."""
        run_on_all_hosts(self._wait_local)

    def restore(self, shapes: Any, shardings: Any) -> Any | None:
        """Return the newest state, with these shapes and shardings; None if there is no checkpoint."""
        if not self._steps:
            return None
        abstract = jax.tree.map(
            lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding),
            shapes,
            shardings,
        )
        restore_args = ocp.checkpoint_utils.construct_restore_args(abstract)
        return self._checkpointer.restore(
            self._path / str(self._steps[-1]),
            ocp.args.PyTreeRestore(abstract, restore_args=restore_args),
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        try:
            self._wait_local()
        except UserError:
            if error is None:  # otherwise the exception that left the block is the cause
                raise
        finally:
            self._thread.shutdown()
            self._checkpointer.close()

    def _wait_local(self) -> None:
        with self._as_user_errors():
            self._commit_done.result()

    def _check_free_space(self, needed: int) -> None:
        """Raise `OSError` if the disk is too full. Orbax would print a traceback for each array."""
        durable.makedirs_synced(self._path)
        free = shutil.disk_usage(self._path).free
        if free < needed:
            raise OSError(
                f"it needs {needed / 1e6:.1f} MB, but the disk has only {free / 1e6:.1f} MB left"
            )

    def _commit(self) -> None:
        """Finish a checkpoint: write checksums, then rename the folder to its final name."""
        self._checkpointer.wait_until_finished()  # in all processes
        if not is_primary():
            return
        folder = self._path / f"{self._step}{PARTIAL_SUFFIX}"
        durable.write_checksums(folder)
        durable.replace_folder(folder, self._path / str(self._step))
        for step in _steps(self._path)[: -self._keep]:
            shutil.rmtree(self._path / str(step))

    @contextmanager
    def _as_user_errors(self) -> Iterator[None]:
        try:
            yield
        except (ValueError, OSError, jax.errors.JaxRuntimeError) as error:
            raise UserError(
                f"{self._path}: the state of step {self._step} cannot be written ({error_summary(error)}). "
                "Earlier checkpoints are intact. Fix the cause and repeat the command to resume."
            ) from error


def _steps(path: Path) -> list[int]:
    return sorted(int(folder.name) for folder in path.glob("*") if folder.name.isdecimal())


def _clean_up(path: Path) -> tuple[list[int], list[str]]:
    """Remove partial checkpoints and rename damaged ones. Return the remaining steps, and notes."""
    for leftover in path.glob(f"*{PARTIAL_SUFFIX}*"):
        shutil.rmtree(leftover)
    notes = _rename_damaged(path)
    return _steps(path), notes


def _rename_damaged(path: Path) -> list[str]:
    """Rename damaged checkpoints that are newer than the newest intact one. Return a note about each."""
    damaged: list[tuple[int, str]] = []
    for step in reversed(_steps(path)):
        damage = durable.find_checksum_error(path / str(step))
        if damage is None:
            break
        damaged.append((step, damage))
    else:
        if damaged:
            details = "; ".join(f"{step}: {damage}" for step, damage in damaged)
            raise UserError(
                f"{path}: all checkpoints are damaged ({details}). Restore one from a backup, or name another "
                "work directory to start over."
            )
    notes = []
    for step, damage in damaged:
        target = path / f"{step}.damaged"
        shutil.rmtree(target, ignore_errors=True)  # from an earlier resume
        (path / str(step)).rename(target)
        notes.append(f"Checkpoint {step} is damaged ({damage}) and was renamed to {target}.")
    return notes
