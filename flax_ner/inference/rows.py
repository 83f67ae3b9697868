"""Pieces of text in rows of a few static shapes, several pieces a row, so that little is padding."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from flax_ner.text.batches import pack

# Rows that are full of pieces; a piece goes into the narrowest that holds it.
WIDTHS = (128, 256, 512)
# A row that is alone, as one sentence is, is no wider than it must: its time is its width.
ALONE = (16, 32, 40, 48, 56, 64, 96, 128, 192, 256, 384, 512)


@dataclass(frozen=True)
class Shapes:
    """The shapes [B, T] that batches may have: few, for each is compiled once.

    Args:
        longest: tokens of a piece at most.
        tokens: of a batch at most, over all devices, where one row has fewer.
        devices: over which the rows are dealt evenly.
    """

    longest: int
    tokens: int
    devices: int = 1

    def widths(self) -> list[int]:
        """Of the rows that pieces are packed into."""
        every = [*WIDTHS, *([self.longest] if self.longest > WIDTHS[-1] else [])]
        return [w for i, w in enumerate(every) if i == 0 or every[i - 1] < self.longest]

    def most_rows(self, width: int) -> int:
        return self._even(max(self.tokens // width, 1))

    def fit(self, rows: int, width: int, used: int) -> tuple[int, int]:
        """The shape for so many rows, of which the first `used` columns are needed."""
        if rows == 1:
            width = min((w for w in ALONE if used <= w), default=width)
        power_of_two = 1 << (rows - 1).bit_length()
        return min(self._even(power_of_two), self.most_rows(width)), width

    def all(self) -> list[tuple[int, int]]:
        """Every shape that `fit` may give, those of long rows last."""
        found = set()
        for width in self.widths():
            found |= {self.fit(1, width, used) for used in range(1, width + 1)}
            found |= {self.fit(rows, width, width) for rows in range(1, self.most_rows(width) + 1)}
        return sorted(found, key=lambda shape: shape[::-1])

    def _even(self, rows: int) -> int:
        return -(-rows // self.devices) * self.devices


class Batch(NamedTuple):
    """One batch of packed rows."""

    input_ids: np.ndarray  # int32 [B, T]
    segment_ids: np.ndarray  # int32 [B, T], another number for each piece, 0 for padding
    positions: np.ndarray  # int32 [B, T], from 0 in each piece
    words: np.ndarray  # int32 [B, T], 0 for pieces behind a word's first, and for padding
    source: np.ndarray  # int [M], which of all tokens lie in this batch
    target: np.ndarray  # int [M], and where: places in the flat [B * T]


def batches(
    tokens: np.ndarray, words: np.ndarray, lengths: np.ndarray, shapes: Shapes
) -> Iterator[Batch]:
    """Pack pieces.

    Args:
        tokens: int32 [all tokens], pieces end to end.
        words: bool [all tokens], whether a word begins with the token.
        lengths: int [pieces], tokens of each.
        shapes: what a batch may look like.
    """
    starts = np.cumsum(lengths) - lengths
    widths = np.array(shapes.widths())
    wide = widths[np.searchsorted(widths, lengths)]
    for width in np.unique(wide).tolist():
        pieces = np.flatnonzero(wide == width)
        pieces = pieces[np.argsort(lengths[pieces], kind="stable")]
        row, column, _ = pack(lengths[pieces], width)
        most = shapes.most_rows(width)
        for first in range(0, int(row.max()) + 1, most):
            here = (row >= first) & (row < first + most)
            own, own_row, own_column = pieces[here], row[here] - first, column[here]
            n = lengths[own]
            used = int((own_column + n).max())
            height, T = shapes.fit(int(own_row.max()) + 1, width, used)
            within = np.arange(n.sum()) - np.repeat(np.cumsum(n) - n, n)
            source = np.repeat(starts[own], n) + within
            target = np.repeat(own_row * T + own_column, n) + within
            inputs = np.zeros((4, height * T), np.int32)
            inputs[:, target] = tokens[source], np.repeat(own + 1, n), within, words[source]
            ids, segments, positions, firsts = inputs.reshape(4, height, T)
            yield Batch(ids, segments, positions, firsts, source, target)
