"""Arrange encoded texts in batches of fixed shape.

The lengths alone determine a plan: which lengths share a row, and how many rows each shape has. Each epoch
assigns the sequences at random to the slots of their length, and shuffles the rows. Every epoch therefore has
the same number of steps. It depends only on the tokens, the settings, the seed and the number of the epoch, so
that a run can resume from the step number alone.
"""

from typing import Any, NamedTuple

import numpy as np

from flax_ner.errors import UserError
from flax_ner.text.encoding import TokenSet

BATCHINGS = ("pack", "bucket", "pad")
BUCKET_STEP = 16  # bucket widths are multiples of this: few shapes, little padding
COPY_SEQUENCES = 16384  # sequences copied into batches at a time


class Batches(NamedTuple):
    """S batches of one shape. Padding is 0 in every array."""

    input_ids: np.ndarray  # int32 [S, B, T]
    segment_ids: np.ndarray  # int32 [S, B, T], number of the sequence within its row, from 1
    positions: np.ndarray  # int32 [S, B, T], from 0 in each sequence
    labels: np.ndarray  # int32 [S, B, T], or [S, B, T, K] (see `TokenSet`)
    teacher: np.ndarray | None = None  # float16 [S, B, T, C] (see `TokenSet`)


class Epoch(NamedTuple):
    """The batches of an epoch, grouped by shape, and the order in which they are used.

    Step i takes the next unused batch of `shapes[order[i]]`.
    """

    shapes: list[Any]  # `Batches`, or another tuple of arrays [S, B, T]
    order: np.ndarray  # int32 [steps]


class _ShapePlan(NamedTuple):
    """The slots for sequences in the batches of one shape, sorted by length."""

    steps: int
    width: int  # T
    row: np.ndarray  # int64 [slots], row index in [0, steps * batch_size)
    column: np.ndarray  # int64 [slots], first column of the sequence
    segment: np.ndarray  # int64 [slots], from 1
    length: np.ndarray  # int64 [slots]


class Batcher:
    """Make the batches of every epoch over a `TokenSet`.

    Example:
        >>> batcher = Batcher(tokens, "pack", batch_size=16, max_length=128, seed=0)
        >>> epoch = batcher.epoch(0)
        >>> len(epoch.order) == batcher.steps_per_epoch
        True
        >>> epoch.shapes[0].input_ids.shape[1:]  # batch size, row length
        (16, 128)

    Args:
        tokens: sequences to batch.
        batching: `pack` puts several sequences into each row of `max_length` tokens. `bucket` puts one sequence
            into each row and groups sequences of similar length. `pad` puts one sequence into each row of
            `max_length` tokens.
        batch_size: rows per batch, B.
        max_length: row length T; for `bucket` the largest row length.
        seed: seed of the shuffling.

    Raises:
        UserError: the batching is unknown, or a sequence is longer than `max_length`.

    Attributes:
        steps_per_epoch: number of batches in every epoch.
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
            raise UserError(
                f"data.max_length: {max_length}, but a sequence has {longest} tokens. Raise it to {longest}."
            )
        self.tokens, self.batch_size, self.seed = tokens, batch_size, seed
        self._starts = np.cumsum(tokens.lengths) - tokens.lengths
        # `Batcher.epoch` also sorts sequences by length, so that slot i and sequence i have the same length.
        lengths = np.sort(tokens.lengths, kind="stable")
        if batching == "pack":
            self._plans = [_plan_packed(lengths, batch_size, max_length)]
        elif batching == "pad":
            self._plans = [_plan_one_per_row(lengths, batch_size, max_length)]
        else:
            width = np.minimum(-(-lengths // BUCKET_STEP) * BUCKET_STEP, max_length)
            self._plans = [
                _plan_one_per_row(lengths[width == w], batch_size, int(w)) for w in np.unique(width)
            ]
        self.steps_per_epoch = sum(plan.steps for plan in self._plans)

    def epoch(self, epoch: int, rows: np.ndarray | None = None) -> Epoch:
        """Return the batches of one epoch.

        Args:
            epoch: number of the epoch, from 0.
            rows: int [n]; return only these rows of each batch. None returns all rows.
        """
        if rows is None:
            rows = np.arange(self.batch_size)
        random = np.random.default_rng((self.seed, epoch))
        # A stable sort by length after a shuffle: sequences of the same length stay in random order.
        shuffled = random.permutation(len(self.tokens.lengths))
        sequences = shuffled[np.argsort(self.tokens.lengths[shuffled], kind="stable")]
        local_row = np.full(self.batch_size, -1)  # index in `rows` of each row of a batch
        local_row[rows] = np.arange(len(rows))
        shapes, used = [], 0
        for plan in self._plans:
            assigned = sequences[used : used + len(plan.row)]
            used += len(plan.row)
            step, row = divmod(random.permutation(plan.steps * self.batch_size), self.batch_size)
            target_row = np.where(local_row[row] < 0, -1, step * len(rows) + local_row[row])
            shapes.append(self._fill(plan, assigned, target_row, len(rows)))
        order = np.repeat(
            np.arange(len(shapes), dtype=np.int32), [plan.steps for plan in self._plans]
        )
        return Epoch(shapes, random.permutation(order))

    def _fill(
        self, plan: _ShapePlan, sequences: np.ndarray, target_row: np.ndarray, rows: int
    ) -> Batches:
        """Copy sequences into batches of `rows` rows.

        Args:
            plan: slots of the sequences.
            sequences: int [slots], sequence in each slot.
            target_row: int [rows of the plan], row index in [0, steps * rows); -1 if the row is not wanted.
            rows: rows per batch.
        """
        size, teacher = plan.steps * rows * plan.width, self.tokens.teacher
        label_shape = self.tokens.labels.shape[1:]
        arrays = [np.zeros(size, np.int32) for _ in range(3)]
        arrays.append(np.zeros((size, *label_shape), np.int32))
        if teacher is not None:
            arrays.append(np.zeros((size, teacher.shape[1]), teacher.dtype))
        wanted = np.flatnonzero(target_row[plan.row] >= 0)
        # Copy a limited number of sequences at a time, so that the index arrays stay small.
        for first in range(0, len(wanted), COPY_SEQUENCES):
            slots = wanted[first : first + COPY_SEQUENCES]
            lengths = plan.length[slots]
            offsets = target_row[plan.row[slots]] * plan.width + plan.column[slots]
            source, target, position = token_indices(
                self._starts[sequences[slots]], lengths, offsets
            )
            segments = np.repeat(plan.segment[slots], lengths)
            values = [self.tokens.ids[source], segments, position, self.tokens.labels[source]]
            if teacher is not None:
                values.append(teacher[source])
            for array, value in zip(arrays, values, strict=True):
                array[target] = value
        leading = (plan.steps, rows, plan.width)
        return Batches(*(array.reshape(*leading, *array.shape[1:]) for array in arrays))


def _plan_one_per_row(lengths: np.ndarray, batch_size: int, width: int) -> _ShapePlan:
    rows = len(lengths)
    zeros = np.zeros(rows, np.int64)
    return _ShapePlan(-(-rows // batch_size), width, np.arange(rows), zeros, zeros + 1, lengths)


def _plan_packed(lengths: np.ndarray, batch_size: int, width: int) -> _ShapePlan:
    row, column, segment = pack_sequences(lengths, width)
    steps = -(-(int(row.max()) + 1) // batch_size)
    return _ShapePlan(steps, width, row, column, segment, lengths)


def token_indices(
    starts: np.ndarray, lengths: np.ndarray, offsets: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return where the tokens of sequences come from and where they go.

    Args:
        starts: int [N], index of each sequence's first token in the source.
        lengths: int [N], tokens of each sequence.
        offsets: int [N], index of each sequence's first token in the flattened rows.

    Returns:
        Index in the source, index in the flattened rows, and position in the sequence of each token,
        int64 [lengths.sum()].
    """
    positions = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    return (
        np.repeat(starts, lengths) + positions,
        np.repeat(offsets, lengths) + positions,
        positions,
    )


def pack_sequences(lengths: np.ndarray, width: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Assign sequences to rows of `width` tokens.

    Fill a row greedily, longest first. Its lengths are a pattern. Reuse the pattern while enough sequences of
    each length remain, then search the next. The time thus grows with the number of distinct patterns, not
    with the number of sequences.

    Args:
        lengths: int [sequences], ascending, at most `width`.
        width: row length in tokens.

    Returns:
        Row, first column and number within the row (from 1) of each sequence, int64 [sequences].
    """
    left = np.bincount(lengths, minlength=width + 1)  # unassigned sequences of each length
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
        repeats = int((left[used > 0] // used[used > 0]).min())
        left -= repeats * used
        patterns.append((pattern, repeats))
    # Expand the patterns to one slot per sequence.
    first_rows = np.cumsum([0] + [repeats for _, repeats in patterns])
    slots = [
        (
            np.arange(first_row, first_row + repeats),
            np.full(repeats, column),
            np.full(repeats, segment),
            np.full(repeats, length),
        )
        for first_row, (pattern, repeats) in zip(first_rows, patterns, strict=False)
        for segment, (column, length) in enumerate(
            zip(np.cumsum([0, *pattern[:-1]]), pattern, strict=True), 1
        )
    ]
    row, column, segment, length = (np.concatenate(columns) for columns in zip(*slots, strict=True))
    order = np.argsort(length, kind="stable")  # the order of `lengths`
    return row[order], column[order], segment[order]
