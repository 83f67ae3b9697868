"""SIGTERM and SIGINT end a run between two dispatches, with its state on disk."""

import signal
import threading
from types import FrameType
from typing import Any, Self

EXIT_STATUS = 75  # of a command that was interrupted and can go on; EX_TEMPFAIL of sysexits.h
SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Interrupted(Exception):
    """A run was asked to stop, and did so with its state saved."""

    def __init__(self, signal_name: str, step: int, total: int):
        super().__init__(
            f"stopped by {signal_name} behind step {step} of {total}, with the state saved. "
            "The same command goes on from there."
        )


class DeferredSignals:
    """While this lasts, the first SIGTERM or SIGINT is only noted in `received`.

    A second one acts as it would have without. Signals reach the main thread alone; in another this
    does nothing.
    """

    received: str | None = None  # the name of the signal

    def __enter__(self) -> Self:
        self._before: dict[signal.Signals, Any] = {}
        if threading.current_thread() is threading.main_thread():
            self._before = {s: signal.signal(s, self._note) for s in SIGNALS}
        return self

    def __exit__(self, *error: object) -> None:
        self._restore()

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.received = signal.Signals(number).name
        self._restore()

    def _restore(self) -> None:
        for number, handler in list(self._before.items()):  # a signal may come in between
            signal.signal(number, handler)
        self._before.clear()
