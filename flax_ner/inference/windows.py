"""Long texts in pieces that fit into a row: lines, sentences, and where those are too long, windows."""

import re
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from flax_ner.text.tokenizer import Tokens

LINE_BREAK = re.compile("[\n\r\u2028\u2029]")
# A title may have such a mark in it, and a closing quote or bracket goes with what is before it.
SENTENCE_END = re.compile("《[^《》]{0,40}》|(?P<end>[。！？]+[”’」』）》]*)")


class Window(NamedTuple):
    """Tokens [start, stop) go through the model, tags of [keep_start, keep_stop) are kept."""

    start: int
    stop: int
    keep_start: int
    keep_stop: int


def windows(length: int, size: int) -> list[Window]:
    """Windows of at most `size` tokens, neighbours overlapping by about a quarter.

    The kept parts follow one another without gap or overlap, each token where it stands furthest
    from an edge.
    """
    if length <= size:
        return [Window(0, length, 0, length)]
    count = -(-(length - size) // max(size - size // 4, 1)) + 1
    starts = [round(i * (length - size) / (count - 1)) for i in range(count)]
    # A seam lies in the middle of an overlap.
    seams = [0, *((b + a + size) // 2 for a, b in pairwise(starts)), length]
    return [Window(a, a + size, seams[i], seams[i + 1]) for i, a in enumerate(starts)]


class Pieces(NamedTuple):
    """The windows of many texts, in their order; int64 [pieces] but for the last."""

    text: np.ndarray  # whose window it is
    start: np.ndarray
    stop: np.ndarray
    keep_start: np.ndarray
    keep_stop: np.ndarray
    line_break: np.ndarray  # bool [pieces], whether the token at `stop` is one, and in no piece


def split(texts: Sequence[str], tokens: Tokens, size: int) -> Pieces:
    """The pieces of each text, of at most `size` tokens; an empty text has none.

    A text that fits is one piece. Of others each line is by itself, of lines that do not fit each
    sentence, and sentences that do not fit are in overlapping windows. A token that is a line break
    is in no piece, but behind one, which may be empty.
    """
    lengths = tokens.lengths
    short = np.flatnonzero((lengths > 0) & (lengths <= size))
    whole = np.zeros((len(short), 5), np.int64)  # one window, as most texts have
    whole[:, 0], whole[:, 2], whole[:, 4] = short, lengths[short], lengths[short]
    ends = np.cumsum(lengths)
    parts = [
        (i, *window)
        for i in np.flatnonzero(lengths > size).tolist()
        for window in _parts(texts[i], tokens.start[ends[i] - lengths[i] : ends[i]], size)
    ]
    table = np.concatenate([whole, np.array(parts, np.int64).reshape(-1, 5)])
    text, start, stop, keep_start, keep_stop = table[np.argsort(table[:, 0], kind="stable")].T
    following = lengths[text]
    following[:-1] = np.where(text[1:] == text[:-1], start[1:], following[:-1])
    return Pieces(text, start, stop, keep_start, keep_stop, stop < following)


def _parts(text: str, start: np.ndarray, size: int) -> Iterator[Window]:
    """The windows of a long text; `start`, int [tokens], is where the word of each begins."""
    breaks = [match.start() for match in LINE_BREAK.finditer(text)]
    stops = np.searchsorted(start, [*breaks, len(text)]).tolist()
    behind = np.searchsorted(start, [b + 1 for b in breaks]).tolist()
    lines = zip(
        [0, *behind], stops, [0, *(b + 1 for b in breaks)], [*breaks, len(text)], strict=True
    )
    for first, stop, begin, end in lines:
        # Where there is a token for the line break, a piece must be in front of it.
        if first < stop or (end < len(text) and stop < len(start) and start[stop] == end):
            if stop - first <= size:
                yield Window(first, stop, first, stop)
            else:
                yield from _sentences(text[begin:end], start[first:stop] - begin, first, size)


def _sentences(line: str, start: np.ndarray, first: int, size: int) -> Iterator[Window]:
    """The windows of a line that is too long; `first` is its first token."""
    ends = [match.end() for match in SENTENCE_END.finditer(line) if match["end"]]
    cuts = np.unique([0, *np.searchsorted(start, ends), len(start)])
    for a, b in pairwise(cuts.tolist()):
        for window in windows(b - a, size):
            yield Window(*(place + first + a for place in window))
