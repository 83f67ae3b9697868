"""Split long texts into windows that fit into a row: lines, then sentences, then overlapping windows."""

import re
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from flax_ner.text.tokenizer import Tokens

LINE_BREAK = re.compile("[\n\r\u2028\u2029]")
# A title 《...》 may contain such punctuation, and closing quotes and brackets belong to the sentence.
SENTENCE_END = re.compile("《[^《》]{0,40}》|(?P<end>[。！？]+[”’」』）》]*)")


class Window(NamedTuple):
    """A range of tokens: the model reads [start, stop), tags of [keep_start, keep_stop) are kept."""

    start: int
    stop: int
    keep_start: int
    keep_stop: int


def windows(length: int, size: int) -> list[Window]:
    """Return windows of at most `size` tokens; neighbours overlap by at least `size // 4` tokens.

    The kept ranges cover all tokens without gap or overlap. Each token is kept in the window in which
    it is furthest from an edge.
    """
    if length <= size:
        return [Window(0, length, 0, length)]
    count = -(-(length - size) // max(size - size // 4, 1)) + 1
    starts = [round(i * (length - size) / (count - 1)) for i in range(count)]
    # Kept ranges meet in the middle of an overlap.
    bounds = [0, *((b + a + size) // 2 for a, b in pairwise(starts)), length]
    return [Window(a, a + size, bounds[i], bounds[i + 1]) for i, a in enumerate(starts)]


class Windows(NamedTuple):
    """The windows of several texts, in the order of the texts. Ranges count tokens of the text."""

    text: np.ndarray  # int64 [windows], index of the window's text
    start: np.ndarray  # int64 [windows], see `Window`
    stop: np.ndarray  # int64 [windows]
    keep_start: np.ndarray  # int64 [windows]
    keep_stop: np.ndarray  # int64 [windows]
    line_break: np.ndarray  # bool [windows], whether the token at `stop` is an omitted line break


def split_into_windows(texts: Sequence[str], tokens: Tokens, size: int) -> Windows:
    """Split texts into windows of at most `size` tokens.

    A text that fits is one window, and an empty text has none. A longer text is split into lines, a line
    that does not fit into sentences, and a sentence that does not fit into overlapping windows. A token
    that is a line break is in no window. It follows a window, which may be empty.

    Training splits texts with `text.encoding._split_for_training`, whose pieces do not overlap.

    Args:
        texts: the texts.
        tokens: output of the tokenizer for these texts.
        size: maximum number of tokens per window, without [CLS] and [SEP].
    """
    lengths = tokens.lengths
    short = np.flatnonzero((lengths > 0) & (lengths <= size))
    whole = np.zeros((len(short), 5), np.int64)  # vectorized, as most texts fit
    whole[:, 0], whole[:, 2], whole[:, 4] = short, lengths[short], lengths[short]
    ends = np.cumsum(lengths)
    split = [
        (i, *window)
        for i in np.flatnonzero(lengths > size).tolist()
        for window in _split_lines(texts[i], tokens.start[ends[i] - lengths[i] : ends[i]], size)
    ]
    table = np.concatenate([whole, np.array(split, np.int64).reshape(-1, 5)])
    text, start, stop, keep_start, keep_stop = table[np.argsort(table[:, 0], kind="stable")].T
    next_start = lengths[text]
    next_start[:-1] = np.where(text[1:] == text[:-1], start[1:], next_start[:-1])
    return Windows(text, start, stop, keep_start, keep_stop, stop < next_start)


def _split_lines(text: str, start: np.ndarray, size: int) -> Iterator[Window]:
    """Yield the windows of a long text.

    Args:
        text: the text.
        start: int [tokens], the character at which each token's word starts.
        size: maximum number of tokens per window.
    """
    breaks = [match.start() for match in LINE_BREAK.finditer(text)]
    stops = np.searchsorted(start, [*breaks, len(text)]).tolist()
    after_breaks = np.searchsorted(start, [b + 1 for b in breaks]).tolist()
    lines = zip(
        [0, *after_breaks], stops, [0, *(b + 1 for b in breaks)], [*breaks, len(text)], strict=True
    )
    for first, stop, line_start, line_end in lines:
        # A line break that is a token must follow a window, even an empty one.
        if first < stop or (line_end < len(text) and stop < len(start) and start[stop] == line_end):
            if stop - first <= size:
                yield Window(first, stop, first, stop)
            else:
                line = text[line_start:line_end]
                yield from _split_sentences(line, start[first:stop] - line_start, first, size)


def _split_sentences(line: str, start: np.ndarray, first: int, size: int) -> Iterator[Window]:
    """Yield the windows of a line that is too long; `first` is the index of its first token."""
    ends = [match.end() for match in SENTENCE_END.finditer(line) if match["end"]]
    cuts = np.unique([0, *np.searchsorted(start, ends), len(start)])
    for a, b in pairwise(cuts.tolist()):
        for window in windows(b - a, size):
            yield Window(*(index + first + a for index in window))
