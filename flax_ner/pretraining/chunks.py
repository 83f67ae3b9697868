"""Pack tokenized documents into batches, one chunk of steps at a time.

As in `text.batches`, a plan assigns slots to rows from the lengths alone, and each epoch assigns the pieces of
documents to the slots at random. The batches of an epoch are a pure function of (documents, seed, epoch), so a
run resumes from the step number alone. Only about 50 bytes per piece are in memory, not the token ids.
"""

from typing import NamedTuple

import numpy as np

from flax_ner.data.corpus import Corpus
from flax_ner.text.batches import Epoch, pack_sequences, token_indices


class Rows(NamedTuple):
    """Rows of document pieces. Each piece of a row has its own segment id, from 1; padding is 0."""

    input_ids: np.ndarray  # int32 [S, B, T]
    segment_ids: np.ndarray  # int32 [S, B, T]
    positions: np.ndarray  # int32 [S, B, T], counted from 0 in each piece


class Chunks:
    """The batches of all epochs, in sequence, in chunks of `steps` steps.

    A document of more than `max_length - 2` tokens is split into pieces of this length and a shorter last one.
    [CLS] and [SEP] are added to each piece. `text.batches.pack` assigns the pieces to rows.

    Args:
        corpus: the documents.
        cls_id: id of [CLS].
        sep_id: id of [SEP].
        max_length: tokens per row, T.
        batch_size: rows per batch, B.
        steps: steps per chunk, S.
        seed: random seed of the shuffling; None: the same order in every epoch, for evaluation.
    """

    def __init__(
        self,
        corpus: Corpus,
        cls_id: int,
        sep_id: int,
        max_length: int,
        batch_size: int,
        steps: int,
        seed: int | None,
    ):
        self._ids, self._specials, self._width = corpus.ids, (cls_id, sep_id), max_length
        self._batch_size, self._steps, self._seed = batch_size, steps, seed
        start, length = _pieces(corpus.lengths, max_length - 2)
        # Pieces sorted by length. Each slot takes a piece of its length.
        order = np.argsort(length, kind="stable")
        self._start, self._length = start[order], (length[order] + 2).astype(np.int32)
        row, column, _ = pack_sequences(self._length, max_length)
        self._slots = np.argsort(row, kind="stable").astype(np.int32)  # sorted by row
        self._column = column[self._slots].astype(np.int32)
        rows = int(row.max()) + 1
        self.steps_per_epoch = -(-rows // batch_size)
        # Index of the first slot of each row; the last batch may have empty rows.
        self._first_slot = np.searchsorted(
            row[self._slots], np.arange(self.steps_per_epoch * batch_size + 1)
        )
        self.tokens = int(self._length.sum())  # per epoch, including [CLS] and [SEP]
        self._assignment: tuple[int, np.ndarray, np.ndarray] | None = None

    def batches(self, chunk: int, rows: np.ndarray | None = None) -> Epoch:
        """Return the batches of a chunk; with `rows`, int [n], only these rows of each batch."""
        if rows is None:
            rows = np.arange(self._batch_size)
        done, pieces = chunk * self._steps, list[Rows]()
        end = done + self._steps
        while done < end:
            epoch, step = divmod(done, self.steps_per_epoch)
            count = min(end - done, self.steps_per_epoch - step)
            pieces.append(self._fill(epoch, np.arange(step, step + count), rows))
            done += count
        arrays = Rows(*map(np.concatenate, zip(*pieces, strict=True)))
        return Epoch([arrays], np.zeros(self._steps, np.int32))

    def _assign(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the piece of each slot, and the order in which an epoch uses the rows of the plan."""
        if self._assignment is None or self._assignment[0] != epoch:
            pieces, order = np.arange(len(self._length)), np.arange(len(self._first_slot) - 1)
            if self._seed is not None:
                random = np.random.default_rng((self._seed, epoch))
                shuffled = random.permutation(pieces)
                # Sorted by length again: pieces of equal length are in random order.
                pieces = shuffled[np.argsort(self._length[shuffled], kind="stable")]
                order = random.permutation(order)
            self._assignment = epoch, pieces, order
        return self._assignment[1:]

    def _fill(self, epoch: int, steps: np.ndarray, rows: np.ndarray) -> Rows:
        """Return some steps of an epoch, with only these rows of each batch."""
        pieces, order = self._assign(epoch)
        plan_rows = order[(steps[:, None] * self._batch_size + rows).ravel()]
        counts = self._first_slot[plan_rows + 1] - self._first_slot[plan_rows]
        slot = np.repeat(
            self._first_slot[plan_rows] - _exclusive_cumsum(counts), counts
        ) + np.arange(counts.sum())
        row = np.repeat(np.arange(len(plan_rows)), counts)
        segment = np.arange(len(slot)) - np.repeat(_exclusive_cumsum(counts), counts) + 1

        piece = pieces[self._slots[slot]]
        length = self._length[piece]
        # A piece has [CLS] before its first token of the corpus.
        source, target, position = token_indices(
            self._start[piece] - 1, length, row * self._width + self._column[slot]
        )
        ids = self._ids.take(source, mode="clip")
        ends = np.cumsum(length)
        ids = ids.astype(np.int32)
        ids[ends - length], ids[ends - 1] = self._specials

        arrays = []
        for values in (ids, np.repeat(segment, length), position):
            array = np.zeros(len(plan_rows) * self._width, np.int32)
            array[target] = values
            arrays.append(array.reshape(len(steps), len(rows), self._width))
        return Rows(*arrays)


def _pieces(lengths: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Split documents into pieces of at most `size` tokens.

    All pieces but the last of a document are full. Pieces of equal length would leave rows half empty.

    Args:
        lengths: tokens of each document.
        size: maximum tokens of a piece.

    Returns:
        Start of each piece in the corpus, and its length, int64 [pieces].
    """
    lengths = lengths.astype(np.int64)
    counts = -(-lengths // size)
    number = np.arange(counts.sum()) - np.repeat(_exclusive_cumsum(counts), counts)
    begin = number * size
    length = np.minimum(size, np.repeat(lengths, counts) - begin)
    return np.repeat(_exclusive_cumsum(lengths), counts) + begin, length


def _exclusive_cumsum(counts: np.ndarray) -> np.ndarray:
    return np.cumsum(counts) - counts
