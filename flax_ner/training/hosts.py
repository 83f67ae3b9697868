"""Run on several hosts: every host runs the same command, and the primary process writes and prints.

The work directory must be on a file system that all hosts share. With a single process, `run_on_all_hosts` and
`run_on_primary` only call their argument.

An error in one process ends all of them. The others may be blocked in a collective operation, where no
exception reaches them. The error is therefore written to the key-value store of jax's coordination service,
and a thread of each process polls it.
"""

import atexit
import json
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

from flax_ner.errors import UserError
from flax_ner.training.interruption import Interrupted

T = TypeVar("T")
# Folder in the key-value store. The first process to fail writes to it.
FAILURE_FOLDER = "flax_ner/failure"
POLL_SECONDS = 0.5  # between two reads of that folder
GRACE_SECONDS = 3.0  # for a process to print its own error before it is killed
PROCESS_VARIABLES = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")


def initialize_hosts() -> None:
    """Connect to the other processes of this run. Must be called before any other use of jax.

    On Cloud TPU, SLURM, Open MPI and Kubernetes, jax detects the processes. Elsewhere, set the environment
    variables JAX_COORDINATOR_ADDRESS (HOST:PORT of process 0), JAX_NUM_PROCESSES and JAX_PROCESS_ID.

    Raises:
        UserError: the other processes were not found.
    """
    if not jax.distributed.is_initialized():
        _initialize()
    if _watcher.ident is None and _state().num_processes > 1:
        _watcher.start()


def _initialize() -> None:
    values = [os.environ.get(name) for name in PROCESS_VARIABLES]
    try:
        if all(values):
            address, count, index = values
            jax.distributed.initialize(address, int(count or 0), int(index or 0))
        else:
            jax.distributed.initialize()
    except (ValueError, RuntimeError) as error:
        raise UserError(
            f"mesh.distributed: the other processes were not found ({str(error).splitlines()[0]}). Outside of "
            f"Cloud TPU, SLURM, Open MPI and Kubernetes, set {', '.join(PROCESS_VARIABLES)} in each process."
        ) from None


@contextmanager
def fail_together() -> Iterator[None]:
    """End all processes of a run if an exception leaves this block in one of them.

    The exception propagates as usual in this process, which is killed if it does not end within a few
    seconds. The other processes print the error and exit with status 1. `Interrupted` is not a failure: all
    processes raise it at the same step.

    Raises:
        UserError: replaces an exception that was caused by the failure of another process.
    """
    try:
        yield
    except Interrupted:
        raise
    except BaseException as error:
        if _watcher.ident is not None:
            _report_failure(error)
            own = _state().process_id
            index, text = _first_failure() or (own, "")
            if index != own and text not in str(error):
                raise UserError(f"process {index}: {text}") from error
        raise


def is_primary() -> bool:
    """Return whether this process writes the files of the run and prints."""
    return jax.process_index() == 0


def run_on_all_hosts(action: Callable[[], T]) -> T:
    """Run an action in every process, and return its result in this one.

    Returns once the action has finished in all processes. A process that is still blocked some seconds after
    another one failed is killed.

    Raises:
        UserError: the action failed in another process, or with a `UserError` or `OSError` in this one.
        Exception: any other exception of the action in this process.
    """
    if jax.process_count() == 1:
        return action()
    own_error: Exception | None = None
    try:
        result = action()
    except Exception as error:
        own_error = error
        _report_failure(error)
    errors = _exchange("" if own_error is None else _describe(own_error))
    if not any(errors):
        return result
    if own_error is not None and not isinstance(own_error, UserError | OSError):
        raise own_error
    index = next(i for i, text in enumerate(errors) if text)
    same = len(set(errors)) == 1
    raise UserError(errors[0] if same else f"process {index}: {errors[index]}") from own_error


def run_on_primary(action: Callable[[], T]) -> T:
    """Run an action in the primary process, and return its result in all processes.

    Args:
        action: returns a value that JSON can represent.

    Raises:
        UserError: the action failed; see `run_on_all_hosts` for the primary process.
    """
    if jax.process_count() == 1:
        return action()
    text = run_on_all_hosts(lambda: json.dumps(action()) if is_primary() else "")
    result: T = json.loads(_exchange(text)[0])
    return result


def check_same_on_all_hosts(digests: Mapping[str, str]) -> None:
    """Raise `UserError` if the digest of an input differs between the processes of a run."""
    primary, *others = (json.loads(text) for text in _exchange(json.dumps(digests)))
    for index, other in enumerate(others, 1):
        different = [name for name in primary if other.get(name) != primary[name]]
        if different:
            raise UserError(
                f"{', '.join(different)}: not the same in process {index} as in process 0. "
                "All hosts need the same files and settings."
            )


def _exchange(text: str) -> list[str]:
    """Return the text of each process, in the order of their indices."""
    data = np.frombuffer(text.encode("utf-8", "surrogatepass"), np.uint8)
    sizes = np.ravel(multihost_utils.process_allgather(np.int32(len(data))))
    if not sizes.any():
        return [""] * len(sizes)
    padded = np.pad(data, (0, int(sizes.max()) - len(data)))
    rows = multihost_utils.process_allgather(padded)
    return [
        row[:size].tobytes().decode("utf-8", "surrogatepass")
        for row, size in zip(rows, sizes, strict=True)
    ]


_own_error = ""  # the error that this process reported
_aborting = threading.Event()  # set once this process has printed the error and is exiting


def _report_failure(error: BaseException) -> None:
    """Report the failure of this process to the others, unless one of them failed earlier."""
    global _own_error
    if _watcher.ident is None:
        return
    if not _own_error:
        expected = isinstance(error, UserError | OSError)
        _own_error = f"error: {error}" if expected else "".join(traceback.format_exception(error))
        atexit.register(_abort)
    failure = json.dumps([_state().process_id, _describe(error)])
    with suppress(jax.errors.JaxRuntimeError):  # another one failed first, or process 0 has exited
        _state().client.key_value_set(f"{FAILURE_FOLDER}/first", failure)


def _first_failure() -> tuple[int, str] | None:
    """Return the index and the error of the process that failed first; None if none failed."""
    entries = []
    # Errors: process 0 has exited, or this process is exiting.
    with suppress(jax.errors.JaxRuntimeError, AttributeError):
        entries = _state().client.key_value_dir_get(FAILURE_FOLDER)
    return tuple(json.loads(entries[0][1])) if entries else None


def _state() -> Any:
    """Return jax's record of the distributed run. Orbax reads the coordination service from there, too."""
    from jax._src import distributed

    return distributed.global_state


def _watch() -> None:
    """End this process some seconds after any process failed: its main thread may be blocked on that one."""
    while (failure := _first_failure()) is None:
        time.sleep(POLL_SECONDS)
    time.sleep(GRACE_SECONDS)
    index, text = failure
    if _aborting.is_set():
        return
    print(_own_error or f"error: process {index}: {text}", file=sys.stderr, flush=True)
    _abort()


def _abort() -> None:
    """Exit without jax's shutdown, which waits five minutes for peers that are blocked on this process.

    Process 0 first gives the others a few seconds to print the error.
    """
    _aborting.set()
    sys.stdout.flush()
    sys.stderr.flush()
    if _state().process_id == 0:
        # This process runs the coordination service; jax kills the others when it exits.
        time.sleep(GRACE_SECONDS + 2 * POLL_SECONDS)
    os._exit(1)


def _describe(error: BaseException) -> str:
    """Return the text that the other processes print for an exception."""
    if isinstance(error, UserError | OSError):
        return str(error)
    return ": ".join(filter(None, (type(error).__name__, str(error))))


_watcher = threading.Thread(target=_watch, daemon=True)
