"""Several processes as one run: every host runs the same command, and the first speaks for all.

The work directory lies on a file system that all of them share. With one process nothing here
does anything.

An error in one process ends all of them: the others may wait for it in a collective, where no exception
reaches them. So it is written to the key-value store of jax's coordination service, which a thread of
each process polls.
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
FAILURE = "flax_ner/failure"  # folder of the key that the first process to fail sets
POLL = 0.5  # seconds between two looks at it
GRACE = 3.0  # seconds a process has to print its own error before it is ended
PLACE = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")


def join() -> None:
    """Find the other processes of this run; before anything else that jax does.

    On Cloud TPU, under SLURM, Open MPI and Kubernetes jax knows them. Elsewhere the variables
    JAX_COORDINATOR_ADDRESS (HOST:PORT of the first), JAX_NUM_PROCESSES and JAX_PROCESS_ID say it.

    Raises:
        UserError: they are not found.
    """
    if not jax.distributed.is_initialized():
        _initialize()
    if _watcher.ident is None and _state().num_processes > 1:
        _watcher.start()


def _initialize() -> None:
    told = [os.environ.get(name) for name in PLACE]
    try:
        if all(told):
            address, count, index = told
            jax.distributed.initialize(address, int(count or 0), int(index or 0))
        else:
            jax.distributed.initialize()
    except (ValueError, RuntimeError) as error:
        raise UserError(
            f"mesh.distributed: the other processes are not found ({str(error).splitlines()[0]}). Outside of "
            f"Cloud TPU, SLURM, Open MPI and Kubernetes set {', '.join(PLACE)} for each process."
        ) from None


@contextmanager
def fail_together() -> Iterator[None]:
    """End all processes of a run when an exception leaves this block in one of them.

    It is raised here as ever, and the process cannot outlive it by more than a few seconds. The others
    print it and exit with status 1. `Interrupted` is no failure: all processes raise it at the same step.

    Raises:
        UserError: instead of an exception that follows from the failure of another process.
    """
    try:
        yield
    except Interrupted:
        raise
    except BaseException as error:
        if _watcher.ident is not None:
            _report(error)
            own = _state().process_id
            index, text = _failure() or (own, "")
            if index != own and text not in str(error):
                raise UserError(f"process {index}: {text}") from error
        raise


def is_first() -> bool:
    """Whether this process writes what a run leaves, and speaks."""
    return jax.process_index() == 0


def everywhere(action: Callable[[], T]) -> T:
    """What `action` gives here, once it has ended in all processes; a fault in one is raised in all.

    A process whose action does not end soon, as it waits for the one that failed, is ended.
    """
    if jax.process_count() == 1:
        return action()
    fault: Exception | None = None
    try:
        result = action()
    except Exception as error:
        fault = error
        _report(error)
    faults = _exchange("" if fault is None else _text(fault))
    if not any(faults):
        return result
    if fault is not None and not isinstance(fault, UserError | OSError):
        raise fault
    index = next(i for i, text in enumerate(faults) if text)
    alike = len(set(faults)) == 1
    raise UserError(faults[0] if alike else f"process {index}: {faults[index]}") from fault


def from_first(action: Callable[[], T]) -> T:
    """What `action` gives in the first process, which alone runs it; a fault is raised in all.

    It must be something that JSON holds.
    """
    if jax.process_count() == 1:
        return action()
    text = everywhere(lambda: json.dumps(action()) if is_first() else "")
    result: T = json.loads(_exchange(text)[0])
    return result


def check_alike(digests: Mapping[str, str]) -> None:
    """Raise `UserError` where one, by name, is not the same in all processes: they would drift apart."""
    found = [json.loads(text) for text in _exchange(json.dumps(digests))]
    for index, other in enumerate(found):
        unlike = [name for name in found[0] if other.get(name) != found[0][name]]
        if unlike:
            raise UserError(
                f"{', '.join(unlike)}: not the same in process {index} as in process 0. "
                "All need the same files."
            )


def _exchange(text: str) -> list[str]:
    """The text of each process."""
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


_told = ""  # what this process reported of its own failure
_ending = threading.Event()  # its main thread has printed why, and ends


def _report(error: BaseException) -> None:
    """Tell all processes that this one failed, unless another one failed before."""
    global _told
    if _watcher.ident is None:
        return
    if not _told:
        expected = isinstance(error, UserError | OSError)
        _told = f"error: {error}" if expected else "".join(traceback.format_exception(error))
        atexit.register(_exit)
    failure = json.dumps([_state().process_id, _text(error)])
    with suppress(jax.errors.JaxRuntimeError):  # another was the first, or process 0 has ended
        _state().client.key_value_set(f"{FAILURE}/first", failure)


def _failure() -> tuple[int, str] | None:
    """Return the process that failed first and its error, None if there is none."""
    found = []
    with suppress(
        jax.errors.JaxRuntimeError, AttributeError
    ):  # process 0 has ended, or this one ends
        found = _state().client.key_value_dir_get(FAILURE)
    return tuple(json.loads(found[0][1])) if found else None


def _state() -> Any:
    """Return jax's own record of the run; only there Orbax, too, finds the coordination service."""
    from jax._src import distributed

    return distributed.global_state


def _watch() -> None:
    """End this process some seconds after a failure of any, in case its main thread waits for another."""
    while (failure := _failure()) is None:
        time.sleep(POLL)
    time.sleep(GRACE)
    index, text = failure
    if _ending.is_set():
        return
    print(_told or f"error: process {index}: {text}", file=sys.stderr, flush=True)
    _exit()


def _exit() -> None:
    """End this process now: Otherwise jax waits five minutes for peers that are blocked on this process."""
    _ending.set()
    sys.stdout.flush()
    sys.stderr.flush()
    if _state().process_id == 0:
        time.sleep(
            GRACE + 2 * POLL
        )  # jax ends the others when the coordination service, here, ends
    os._exit(1)


def _text(error: BaseException) -> str:
    """Return what the other processes print of an exception."""
    if isinstance(error, UserError | OSError):
        return str(error)
    return ": ".join(filter(None, (type(error).__name__, str(error))))


_watcher = threading.Thread(target=_watch, daemon=True)
