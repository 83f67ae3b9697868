"""Stop training after the current dispatch on SIGTERM, SIGINT or `train.max_seconds`, with the state saved."""

import math
import signal
import threading
import time
from types import FrameType
from typing import Any, Self

import jax
from jax.experimental import multihost_utils

EXIT_STATUS = 75  # of an interrupted run that can be resumed; EX_TEMPFAIL of sysexits.h
SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Interrupted(Exception):
    """Training was asked to stop. The state is saved.

    Args:
        cause: the name of the signal, or `train.max_seconds`.
        step: number of steps that are done.
        total: number of steps of the run.
    """

    def __init__(self, cause: str, step: int, total: int):
        super().__init__(
            f"stopped by {cause} after step {step} of {total}; the state is saved. "
            "The same command resumes from there."
        )


class DeferredSignals:
    """Context manager that records the first SIGTERM or SIGINT instead of acting on it; see `received`.

    A second signal has its usual effect. Python delivers signals to the main thread only; in other threads
    this context manager does nothing.

    Several processes must stop after the same dispatch. With more than one process, jax's preemption service
    therefore handles a SIGTERM to any of them. A second SIGTERM takes effect once they stop, a SIGINT at once.

    Args:
        seconds: time limit, with a single process only. 0: no limit.
    """

    def __init__(self, seconds: int = 0):
        self._deadline = time.monotonic() + (seconds or math.inf)

    def __enter__(self) -> Self:
        self._received: str | None = None
        self._calls = 0
        self._previous: dict[signal.Signals, Any] = {}
        single_process = jax.process_count() == 1
        if single_process and threading.current_thread() is threading.main_thread():
            self._previous = {s: signal.signal(s, self._record) for s in SIGNALS}
        return self

    def received(self) -> str | None:
        """Return the cause to stop: a signal's name or `train.max_seconds`; None if there is none.

        With several processes, all must call this equally often.
        """
        if jax.process_count() == 1:
            expired = time.monotonic() > self._deadline
            return self._received or ("train.max_seconds" if expired else None)
        self._calls += 1
        if not multihost_utils.reached_preemption_sync_point(self._calls):
            return None
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, signal.SIG_DFL)  # jax would ignore a second one
        return signal.SIGTERM.name

    def __exit__(self, *error: object) -> None:
        self._restore()

    def _record(self, number: int, frame: FrameType | None) -> None:
        self._received = signal.Signals(number).name
        self._restore()

    def _restore(self) -> None:
        for number, handler in list(self._previous.items()):  # a signal may arrive meanwhile
            signal.signal(number, handler)
        self._previous.clear()
