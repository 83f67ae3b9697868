"""Long texts as overlapping windows, each character read where it stands furthest from an edge."""

from itertools import pairwise
from typing import NamedTuple


class Window(NamedTuple):
    """Characters [start, stop) go through the model, tags of [keep_start, keep_stop) are kept."""

    start: int
    stop: int
    keep_start: int
    keep_stop: int


def windows(length: int, size: int) -> list[Window]:
    """Windows of at most `size` characters, neighbours overlapping by about a quarter.

    The kept parts follow one another without gap or overlap.
    """
    if length <= size:
        return [Window(0, length, 0, length)]
    count = -(-(length - size) // max(size - size // 4, 1)) + 1
    starts = [round(i * (length - size) / (count - 1)) for i in range(count)]
    # A seam lies in the middle of an overlap.
    seams = [0, *((b + a + size) // 2 for a, b in pairwise(starts)), length]
    return [Window(a, a + size, seams[i], seams[i + 1]) for i, a in enumerate(starts)]
