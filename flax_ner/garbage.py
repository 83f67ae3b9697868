"""Fewer garbage collections, which traverse all objects and seldom find any garbage here."""

import atexit
import gc
from collections.abc import Iterator
from contextlib import contextmanager

# Net allocations of container objects before a garbage collection. `predict` makes 260,000 until it has tagged
# its first text, and few of them are garbage. With Python's default, collections take a tenth of that time.
# Commands that train or tag long make few objects after their start.
THRESHOLD = 400_000


def collect_seldom() -> None:
    """Make garbage collections rare in this process, and skip the one at its end. Commands call this first."""
    gc.set_threshold(THRESHOLD)
    atexit.register(gc.freeze)  # otherwise Python looks through all objects again before it exits


@contextmanager
def no_collections() -> Iterator[None]:
    """Pause garbage collection, in all threads, for code that makes many objects without reference cycles."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
