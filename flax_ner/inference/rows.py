"""Pack windows of tokens into rows of a few static shapes, several per row, to avoid padding."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from flax_ner.text.batches import pack_sequences, token_indices

# Widths of packed rows. A window goes into the narrowest row that holds it.
ROW_WIDTHS = (128, 256, 512)
# Widths of a batch with a single row, such as one sentence. Its time is proportional to its width.
SINGLE_ROW_WIDTHS = (16, 32, 40, 48, 56, 64, 96, 128, 192, 256, 384, 512)


@dataclass(frozen=True)
class BatchShapes:
    """The shapes [B, T] of batches. There are few of them, as each is compiled once.

    Args:
        longest: maximum number of tokens per window.
        tokens: maximum number of tokens per batch over all devices, unless one row is longer.
        devices: number of devices; the number of rows is a multiple of it.
    """

    longest: int
    tokens: int
    devices: int = 1

    def widths(self) -> list[int]:
        """Return the widths of packed rows, in ascending order."""
        widths = [*ROW_WIDTHS, *([self.longest] if self.longest > ROW_WIDTHS[-1] else [])]
        return [w for i, w in enumerate(widths) if i == 0 or widths[i - 1] < self.longest]

    def max_rows(self, width: int) -> int:
        return self._round_up(max(self.tokens // width, 1))

    def fit(self, rows: int, width: int, used: int) -> tuple[int, int]:
        """Return the smallest shape for `rows` rows of which only the first `used` columns are needed."""
        if rows == 1:
            width = min((w for w in SINGLE_ROW_WIDTHS if used <= w), default=width)
        power_of_two = 1 << (rows - 1).bit_length()
        return min(self._round_up(power_of_two), self.max_rows(width)), width

    def all(self) -> list[tuple[int, int]]:
        """Return every shape that `fit` may return, ordered by width."""
        shapes = set()
        for width in self.widths():
            shapes |= {self.fit(1, width, used) for used in range(1, width + 1)}
            shapes |= {self.fit(rows, width, width) for rows in range(1, self.max_rows(width) + 1)}
        return sorted(shapes, key=lambda shape: shape[::-1])

    def _round_up(self, rows: int) -> int:
        """Round up to a multiple of the number of devices."""
        return -(-rows // self.devices) * self.devices


class Batch(NamedTuple):
    """One batch of packed rows."""

    input_ids: np.ndarray  # int32 [B, T]
    segment_ids: np.ndarray  # int32 [B, T], a different positive number per window, 0 for padding
    positions: np.ndarray  # int32 [B, T], restarting at 0 in each window
    word_starts: np.ndarray  # int32 [B, T], 1 for the first token of a word, else 0
    source: np.ndarray  # int [M], index among all tokens of each token in this batch
    target: np.ndarray  # int [M], index of the same tokens in the flattened batch [B * T]


def pack_batches(
    tokens: np.ndarray, word_starts: np.ndarray, lengths: np.ndarray, shapes: BatchShapes
) -> Iterator[Batch]:
    """Pack windows into batches.

    Args:
        tokens: int32 [all tokens], token ids of all windows, concatenated.
        word_starts: bool [all tokens], whether the token is the first of a word.
        lengths: int [windows], number of tokens of each window.
        shapes: the allowed shapes of batches.

    Yields:
        Batches that together hold every token once.
    """
    starts = np.cumsum(lengths) - lengths
    widths = np.array(shapes.widths())
    width_of = widths[np.searchsorted(widths, lengths)]
    for width in np.unique(width_of).tolist():
        windows = np.flatnonzero(width_of == width)
        windows = windows[np.argsort(lengths[windows], kind="stable")]
        row, column, _ = pack_sequences(lengths[windows], width)
        max_rows = shapes.max_rows(width)
        for first in range(0, int(row.max()) + 1, max_rows):
            in_batch = (row >= first) & (row < first + max_rows)
            own, own_row, own_column = windows[in_batch], row[in_batch] - first, column[in_batch]
            n = lengths[own]
            used = int((own_column + n).max())
            height, T = shapes.fit(int(own_row.max()) + 1, width, used)
            source, target, positions = token_indices(starts[own], n, own_row * T + own_column)
            inputs = np.zeros((4, height * T), np.int32)
            inputs[:, target] = (
                tokens[source], np.repeat(own + 1, n), positions, word_starts[source],
            )  # fmt: skip
            ids, segment_ids, position_ids, firsts = inputs.reshape(4, height, T)
            yield Batch(ids, segment_ids, position_ids, firsts, source, target)
