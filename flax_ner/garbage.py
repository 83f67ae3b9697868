"""Fewer garbage collections, which traverse all objects and seldom find any garbage here."""

import atexit
import gc
from collections.abc import Iterator
from contextlib import contextmanager

# Net allocations of container objects before a garbage collection. `predict` makes 260,000 until it has tagged
# its first text, and few of them are garbage. With Python's default, collections take a tenth of that time.
THRESHOLD = 400_000


def collect_seldom() -> None:
    """Let this process collect garbage seldom, and not at its end. Commands call this when they start."""
    gc.set_threshold(THRESHOLD)
    atexit.register(gc.freeze)  # otherwise Python looks through all objects again before it exits


@contextmanager
def no_collections() -> Iterator[None]:
    """Collect no garbage inside this context, which makes many objects without cycles."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
