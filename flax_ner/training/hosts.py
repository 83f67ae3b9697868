"""Several processes as one run: every host runs the same command, and the first speaks for all.

The work directory lies on a file system that all of them share. With one process nothing here
does anything.
"""

import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from typing import NoReturn, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

from flax_ner.errors import UserError

T = TypeVar("T")
PLACE = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")


def join() -> None:
    """Find the other processes of this run; before anything else that jax does.

    On Cloud TPU, under SLURM, Open MPI and Kubernetes jax knows them. Elsewhere the variables
    JAX_COORDINATOR_ADDRESS (HOST:PORT of the first), JAX_NUM_PROCESSES and JAX_PROCESS_ID say it.

    Raises:
        UserError: they are not found.
    """
    if jax.distributed.is_initialized():
        return
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


def is_first() -> bool:
    """Whether this process writes what a run leaves, and speaks."""
    return jax.process_index() == 0


def everywhere(action: Callable[[], T]) -> T:
    """What `action` gives here, once it has ended in all processes; a fault in one is raised in all."""
    if jax.process_count() == 1:
        return action()
    fault: Exception | None = None
    try:
        result = action()
    except Exception as error:
        fault = error
    faults = _exchange("" if fault is None else str(fault) or type(fault).__name__)
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


def leave(message: str) -> NoReturn:
    """End this process now: jax would wait five minutes for others that wait for this one."""
    print(message, file=sys.stderr, flush=True)
    sys.stdout.flush()
    if is_first():
        time.sleep(2)  # the others, whom it would take along, may have the same to say
    os._exit(1)


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
