"""Long texts as overlapping windows, each character read where it stands furthest from an edge."""

from itertools import pairwise
from typing import NamedTuple

import numpy as np


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


class Pieces(NamedTuple):
    """The windows of many texts, in their order; int [pieces]."""

    text: np.ndarray  # whose window it is
    start: np.ndarray
    stop: np.ndarray
    keep_start: np.ndarray
    keep_stop: np.ndarray


def split(lengths: np.ndarray, size: int) -> Pieces:
    """The windows of each text of so many characters; an empty text has none."""
    short = np.flatnonzero((lengths > 0) & (lengths <= size))
    whole = np.zeros((len(short), 5), np.int64)  # one window, as most texts have
    whole[:, 0], whole[:, 2], whole[:, 4] = short, lengths[short], lengths[short]
    parts = [
        (i, *w)
        for i in np.flatnonzero(lengths > size).tolist()
        for w in windows(int(lengths[i]), size)
    ]
    table = np.concatenate([whole, np.array(parts, np.int64).reshape(-1, 5)])
    return Pieces(*table[np.argsort(table[:, 0], kind="stable")].T)
