"""SIGTERM, SIGINT and `train.max_seconds` end a run between two dispatches, with its state on disk."""

import math
import signal
import threading
import time
from types import FrameType
from typing import Any, Self

import jax
from jax.experimental import multihost_utils

EXIT_STATUS = 75  # of a command that was interrupted and can go on; EX_TEMPFAIL of sysexits.h
SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Interrupted(Exception):
    """A run was asked to stop, and did so with its state saved."""

    def __init__(self, asked: str, step: int, total: int):
        super().__init__(
            f"stopped by {asked} behind step {step} of {total}, with the state saved. "
            "The same command goes on from there."
        )


class DeferredSignals:
    """While this lasts, the first SIGTERM or SIGINT is only noted, for `received`.

    A second one acts as it would have without. Signals reach the main thread alone; in another this
    does nothing.

    Several processes must stop after the same dispatch. There a SIGTERM to any of them goes through
    jax's preemption service, which sees to that; a second one acts once they stop, and a SIGINT at once.

    Args:
        seconds: after which one process alone acts as if it had received `train.max_seconds`; 0: never.
    """

    def __init__(self, seconds: int = 0):
        self._end = time.monotonic() + (seconds or math.inf)

    def __enter__(self) -> Self:
        self._noted: str | None = None
        self._asked = 0
        self._before: dict[signal.Signals, Any] = {}
        alone = jax.process_count() == 1
        if alone and threading.current_thread() is threading.main_thread():
            self._before = {s: signal.signal(s, self._note) for s in SIGNALS}
        return self

    def received(self) -> str | None:
        """The name of the signal, None so far. Of several processes all must ask, and equally often."""
        if jax.process_count() == 1:
            late = time.monotonic() > self._end
            return self._noted or ("train.max_seconds" if late else None)
        self._asked += 1
        if not multihost_utils.reached_preemption_sync_point(self._asked):
            return None
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, signal.SIG_DFL)  # jax would swallow a second one
        return signal.SIGTERM.name

    def __exit__(self, *error: object) -> None:
        self._restore()

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._noted = signal.Signals(number).name
        self._restore()

    def _restore(self) -> None:
        for number, handler in list(self._before.items()):  # a signal may come in between
            signal.signal(number, handler)
        self._before.clear()
