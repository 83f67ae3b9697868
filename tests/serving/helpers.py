"""A tagger that a test can hold back, and waiting for a condition."""

import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from tests.inference.helpers import hand_made_tagger

TAGGER = hand_made_tagger()


class GatedTagger:
    """The hand-made tagger. It records its batches, waits for `gate`, and fails on texts with "boom"."""

    def __init__(self) -> None:
        self.labels = TAGGER.labels
        self.batches: list[list[str]] = []
        self.gate = threading.Event()
        self.gate.set()

    def by_convention(self, texts: list[str], conventions: Sequence[str]) -> Any:
        self.batches.append(texts)
        assert self.gate.wait(30)
        if any("boom" in text for text in texts):
            raise RuntimeError(f"cannot tag {texts}")
        return TAGGER.by_convention(texts, conventions)


def until(condition: Callable[[], bool]) -> None:
    """Wait for a condition, at most 30 seconds."""
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)
