"""Training state on disk: asynchronous, atomic, the newest few, each with checksums."""

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
from flax_ner.errors import UserError, reason
from flax_ner.training.hosts import everywhere, from_first, is_first
from flax_ner.weights.model_dir import storage_path, tree_handler

PATIENCE = 300  # seconds until a process is given up that does not get its part written
WRITING = ".writing"  # behind the name of one that is not whole yet


class Checkpoints:
    """The states of one run under `path`, by step.

    Damaged ones that are newer than the newest sound one are renamed to `STEP.damaged`, and `notes`
    says so. Several processes do all of this together, on one file system.

    Args:
        path: a directory, made if it is missing.
        keep: how many of the newest to keep.

    Raises:
        UserError: there are checkpoints, and all are damaged. Or `storage_path` refuses the path.
    """

    def __init__(self, path: str | Path, keep: int):
        self._path, self._keep = storage_path(path), keep
        self._steps, self.notes = from_first(partial(_tidy, self._path))
        # Made asynchronously, a directory is announced under a number that counts all saves of a
        # process, and the first alone saves models.
        options = ocp.AsyncOptions(create_directories_asynchronously=False, timeout_secs=PATIENCE)
        self._checkpointer = ocp.AsyncCheckpointer(tree_handler(), async_options=options)
        self._thread = ThreadPoolExecutor(1)
        self._saving, self._saved = 0, Future[None]()
        self._saved.set_result(None)

    def save(self, step: int, state: Any) -> None:
        """Start writing a state; it is copied first, so training may go on at once.

        Raises:
            UserError: this state, or the one before, cannot be written. Earlier ones are whole.
        """
        self.wait()
        if step in self._steps:
            return
        self._saving = step
        with self._faults_told():
            from_first(partial(self._check_room, sum(x.nbytes for x in jax.tree.leaves(state))))
            self._checkpointer.save(self._path / f"{step}{WRITING}", ocp.args.PyTreeSave(state))
        self._steps.append(step)
        self._saved = self._thread.submit(self._commit)

    def wait(self) -> None:
        """Wait until everything is on disk; raises as `save`."""
        everywhere(self._wait_here)

    def restore(self, shapes: Any, shardings: Any) -> Any | None:
        """The newest state, of these shapes and placed like this; None if there is none."""
        if not self._steps:
            return None
        abstract = jax.tree.map(
            lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding),
            shapes,
            shardings,
        )
        placed = ocp.checkpoint_utils.construct_restore_args(abstract)
        return self._checkpointer.restore(
            self._path / str(self._steps[-1]), ocp.args.PyTreeRestore(abstract, restore_args=placed)
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        try:
            self._wait_here()
        except UserError:
            if error is None:  # otherwise what is on its way out comes first
                raise
        finally:
            self._thread.shutdown()
            self._checkpointer.close()

    def _wait_here(self) -> None:
        with self._faults_told():
            self._saved.result()

    def _check_room(self, needed: int) -> None:
        """Orbax notices a full disk too, but with a trace for each array on standard error."""
        durable.make_folder(self._path)
        free = shutil.disk_usage(self._path).free
        if free < needed:
            raise OSError(
                f"it takes {needed / 1e6:.1f} MB, and the disk has {free / 1e6:.1f} MB left"
            )

    def _commit(self) -> None:
        """Behind the writing: checksums, and only then the name that counts."""
        self._checkpointer.wait_until_finished()  # in all processes
        if not is_first():
            return
        folder = self._path / f"{self._saving}{WRITING}"
        durable.write_checksums(folder)
        durable.replace_folder(folder, self._path / str(self._saving))
        for step in _steps(self._path)[: -self._keep]:
            shutil.rmtree(self._path / str(step))

    @contextmanager
    def _faults_told(self) -> Iterator[None]:
        try:
            yield
        except (ValueError, OSError, jax.errors.JaxRuntimeError) as error:
            raise UserError(
                f"{self._path}: the state of step {self._saving} cannot be written ({reason(error)}). "
                "Earlier checkpoints are whole. Fix that and repeat the command to resume from the newest."
            ) from error


def _steps(path: Path) -> list[int]:
    return sorted(int(folder.name) for folder in path.glob("*") if folder.name.isdecimal())


def _tidy(path: Path) -> tuple[list[int], list[str]]:
    """Remove what is half written, set aside what is damaged: the steps that are left, and notes."""
    for leftover in path.glob(f"*{WRITING}*"):
        shutil.rmtree(leftover)
    notes = _set_damaged_aside(path)
    return _steps(path), notes


def _set_damaged_aside(path: Path) -> list[str]:
    """Rename what is damaged and newer than the newest sound checkpoint; a line about each."""
    damaged: list[tuple[int, str]] = []
    for step in reversed(_steps(path)):
        fault = durable.find_damage(path / str(step))
        if fault is None:
            break
        damaged.append((step, fault))
    else:
        if damaged:
            faults = "; ".join(f"{step}: {fault}" for step, fault in damaged)
            raise UserError(
                f"{path}: no checkpoint is sound ({faults}). Restore one from a copy, or name another "
                "work directory to start over."
            )
    notes = []
    for step, fault in damaged:
        aside = path / f"{step}.damaged"
        shutil.rmtree(aside, ignore_errors=True)  # of an earlier time
        (path / str(step)).rename(aside)
        notes.append(f"Checkpoint {step} is damaged ({fault}); it is now {aside}.")
    return notes
