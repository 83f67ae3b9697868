"""Encoded texts to fixed-shape arrays. The batches of an epoch are a pure function of (examples, seed, epoch).

Each batching has a plan of slots made once from the lengths alone: which lengths share a row, which
rows share a batch. An epoch deals the sentences anew to the slots of their length and shuffles, so
every epoch has the same number of steps and the place in training is just the step number.
"""

from typing import Any, NamedTuple

import numpy as np

from flax_ner.errors import UserError
from flax_ner.text.encoding import TokenSet

BATCHINGS = ("pack", "bucket", "pad")
BUCKET_STEP = 16  # bucket lengths are multiples of this: few shapes, little padding
PART = 16384  # sentences that are dealt to their places at once


class Batches(NamedTuple):
    """Steps of one shape. Zeros where nothing is; a sentence of a row has its own segment id, from 1."""

    input_ids: np.ndarray  # int32 [S, B, T]
    segment_ids: np.ndarray  # int32 [S, B, T]
    positions: np.ndarray  # int32 [S, B, T], counted from 0 in each sentence
    labels: np.ndarray  # int32 [S, B, T], or [S, B, T, K] (`TokenSet`)
    teacher: np.ndarray | None = None  # float16 [S, B, T, C], as in `TokenSet`


class Epoch(NamedTuple):
    """Batches by shape, and for each step of the epoch which shape's next batch it takes."""

    shapes: list[Any]  # `Batches`, or another tuple of arrays [S, B, T]
    order: np.ndarray  # int32 [steps]


class _Shape(NamedTuple):
    """Where sentences go in batches of one shape."""

    steps: int
    width: int  # T
    row: np.ndarray  # int64 [slots], row among steps * batch_size
    column: np.ndarray  # int64 [slots], where the sentence begins
    segment: np.ndarray  # int64 [slots], from 1
    length: np.ndarray  # int64 [slots]


class Batcher:
    """The batches of every epoch over one `TokenSet`.

    Args:
        tokens: what to batch.
        batching: `pack` puts several sentences into each row of `max_length`, `bucket` one sentence
            a row in batches of like lengths, `pad` one sentence a row of `max_length`.
        batch_size: rows a batch, B.
        max_length: the row length T, for `bucket` the longest.
        seed: of the shuffling.
    """

    def __init__(
        self, tokens: TokenSet, batching: str, batch_size: int, max_length: int, seed: int
    ):
        if batching not in BATCHINGS:
            raise UserError(
                f"data.batching: {batching!r} is unknown. Choose one of {', '.join(BATCHINGS)}."
            )
        longest = int(tokens.lengths.max())
        if longest > max_length:
            raise UserError(f"data.max_length: {max_length}, but a sentence has {longest} tokens.")
        self.tokens, self.batch_size, self.seed = tokens, batch_size, seed
        self._starts = np.cumsum(tokens.lengths) - tokens.lengths
        # Sentences ordered by length; slots take them from here, so the two orders must agree.
        self._by_length = np.argsort(tokens.lengths, kind="stable")
        lengths = tokens.lengths[self._by_length]
        if batching == "pack":
            self._shapes = [_packed(lengths, batch_size, max_length)]
        elif batching == "pad":
            self._shapes = [_one_per_row(lengths, batch_size, max_length)]
        else:
            width = np.minimum(-(-lengths // BUCKET_STEP) * BUCKET_STEP, max_length)
            self._shapes = [
                _one_per_row(lengths[width == w], batch_size, int(w)) for w in np.unique(width)
            ]
        self.steps_per_epoch = sum(shape.steps for shape in self._shapes)

    def epoch(self, epoch: int, rows: np.ndarray | None = None) -> Epoch:
        """All batches of one epoch; with `rows`, int [n], only these rows of each."""
        if rows is None:
            rows = np.arange(self.batch_size)
        random = np.random.default_rng((self.seed, epoch))
        # Shuffled, then ordered by length: each length deals its sentences at random.
        shuffled = random.permutation(len(self._by_length))
        dealt = shuffled[np.argsort(self.tokens.lengths[shuffled], kind="stable")]
        local = np.full(self.batch_size, -1)
        local[rows] = np.arange(len(rows))
        shapes, taken = [], 0
        for shape in self._shapes:
            sentences = dealt[taken : taken + len(shape.row)]
            taken += len(shape.row)
            step, row = divmod(random.permutation(shape.steps * self.batch_size), self.batch_size)
            place = np.where(local[row] < 0, -1, step * len(rows) + local[row])
            shapes.append(self._fill(shape, sentences, place, len(rows)))
        order = np.repeat(
            np.arange(len(shapes), dtype=np.int32), [shape.steps for shape in self._shapes]
        )
        return Epoch(shapes, random.permutation(order))

    def _fill(self, shape: _Shape, sentences: np.ndarray, place: np.ndarray, rows: int) -> Batches:
        """Batches of `rows` rows; `place` is where a row of the plan lies among all of them, -1: nowhere."""
        size, teacher = shape.steps * rows * shape.width, self.tokens.teacher
        extra = self.tokens.labels.shape[1:]
        arrays = [np.zeros(size, np.int32) for _ in range(3)] + [np.zeros((size, *extra), np.int32)]
        if teacher is not None:
            arrays.append(np.zeros((size, teacher.shape[1]), teacher.dtype))
        here = np.flatnonzero(place[shape.row] >= 0)
        # In parts, so that what is needed on the way stays small.
        for first in range(0, len(here), PART):
            part = here[first : first + PART]
            lengths = shape.length[part]
            within = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
            source = np.repeat(self._starts[sentences[part]], lengths) + within
            begins = place[shape.row[part]] * shape.width + shape.column[part]
            target = np.repeat(begins, lengths) + within
            segments = np.repeat(shape.segment[part], lengths)
            values = [self.tokens.ids[source], segments, within, self.tokens.labels[source]]
            if teacher is not None:
                values.append(teacher[source])
            for array, value in zip(arrays, values, strict=True):
                array[target] = value
        leading = (shape.steps, rows, shape.width)
        return Batches(*(array.reshape(*leading, *array.shape[1:]) for array in arrays))


def _one_per_row(lengths: np.ndarray, batch_size: int, width: int) -> _Shape:
    rows = len(lengths)
    zeros = np.zeros(rows, np.int64)
    return _Shape(-(-rows // batch_size), width, np.arange(rows), zeros, zeros + 1, lengths)


def _packed(lengths: np.ndarray, batch_size: int, width: int) -> _Shape:
    row, column, segment = pack(lengths, width)
    steps = -(-(int(row.max()) + 1) // batch_size)
    return _Shape(steps, width, row, column, segment, lengths)


def pack(lengths: np.ndarray, width: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Fill rows of `width` tokens, each with the longest sentences that still fit.

    A row's pattern of lengths is repeated for as long as the histogram of lengths allows, so the work
    grows with the number of different patterns, not of sentences.

    Args:
        lengths: int [sentences], ascending, none above `width`.

    Returns:
        Row, first column, and number in the row (from 1) of each sentence, int64 [sentences].
    """
    left = np.bincount(lengths, minlength=width + 1)
    patterns: list[tuple[list[int], int]] = []
    while left.any():
        pattern: list[int] = []
        free, used = width, np.zeros_like(left)
        while True:
            fits = np.flatnonzero((left > used)[: free + 1])
            if not len(fits):
                break
            pattern.append(int(fits[-1]))
            used[fits[-1]] += 1
            free -= int(fits[-1])
        times = int((left[used > 0] // used[used > 0]).min())
        left -= times * used
        patterns.append((pattern, times))
    rows = np.cumsum([0] + [times for _, times in patterns])
    slots = [
        (
            np.arange(first, first + times),
            np.full(times, column),
            np.full(times, segment),
            np.full(times, length),
        )
        for first, (pattern, times) in zip(rows, patterns, strict=False)
        for segment, (column, length) in enumerate(
            zip(np.cumsum([0, *pattern[:-1]]), pattern, strict=True), 1
        )
    ]
    row, column, segment, length = (np.concatenate(parts) for parts in zip(*slots, strict=True))
    order = np.argsort(length, kind="stable")  # as the sentences come
    return row[order], column[order], segment[order]
