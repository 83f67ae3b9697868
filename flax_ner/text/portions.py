"""Tokenised documents to batches of full rows, some hundred steps at a time.

As in `batches`: a plan of slots made once from the lengths alone, to which an epoch deals the pieces of
documents anew. So an epoch's batches are a pure function of (documents, seed, epoch), and the place in
training is the step number. What must be in memory is about 50 bytes a piece, not the ids.
"""

from typing import NamedTuple

import numpy as np

from flax_ner.text.batches import Epoch, pack
from flax_ner.text.corpus import Corpus


class Rows(NamedTuple):
    """Rows of pieces of documents. Zeros where nothing is; a piece has its own segment id, from 1."""

    input_ids: np.ndarray  # int32 [S, B, T]
    segment_ids: np.ndarray  # int32 [S, B, T]
    positions: np.ndarray  # int32 [S, B, T], counted from 0 in each piece


class Portions:
    """The batches of all epochs, one behind the other, in portions of equally many steps.

    A document of more than `max_length - 2` tokens is cut into pieces of so many and what is left; a
    piece has [CLS] in front and [SEP] behind. Pieces share rows as `batches.pack` lays them.

    Args:
        corpus: the documents.
        cls_id, sep_id: of [CLS] and [SEP].
        max_length: tokens of a row, T.
        batch_size: rows a batch, B.
        steps: of a portion, S.
        seed: of the shuffling; None: every epoch is alike, for evaluation.
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
        # Pieces by length, and slots that take them from there.
        order = np.argsort(length, kind="stable")
        self._start, self._length = start[order], (length[order] + 2).astype(np.int32)
        row, column, _ = pack(self._length, max_length)
        self._slots = np.argsort(row, kind="stable").astype(np.int32)  # by row
        self._column = column[self._slots].astype(np.int32)
        rows = int(row.max()) + 1
        self.steps_per_epoch = -(-rows // batch_size)
        # Where the slots of a row begin; the last batch may have rows without any.
        self._first = np.searchsorted(
            row[self._slots], np.arange(self.steps_per_epoch * batch_size + 1)
        )
        self.tokens = int(self._length.sum())  # of an epoch, [CLS] and [SEP] included
        self._dealt: tuple[int, np.ndarray, np.ndarray] | None = None

    def batches(self, portion: int, rows: np.ndarray | None = None) -> Epoch:
        """The steps from `portion * steps` on; with `rows`, int [n], only these rows of each batch."""
        if rows is None:
            rows = np.arange(self._batch_size)
        done, parts = portion * self._steps, list[Rows]()
        end = done + self._steps
        while done < end:
            epoch, place = divmod(done, self.steps_per_epoch)
            count = min(end - done, self.steps_per_epoch - place)
            parts.append(self._fill(epoch, np.arange(place, place + count), rows))
            done += count
        arrays = Rows(*(np.concatenate(part) for part in zip(*parts, strict=True)))
        return Epoch([arrays], np.zeros(self._steps, np.int32))

    def _deal(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """The piece of each slot, and the rows of the plan in the order in which they are taken."""
        if self._dealt is None or self._dealt[0] != epoch:
            pieces, order = np.arange(len(self._length)), np.arange(len(self._first) - 1)
            if self._seed is not None:
                random = np.random.default_rng((self._seed, epoch))
                shuffled = random.permutation(pieces)
                # Ordered by length again: each length deals its pieces at random.
                pieces = shuffled[np.argsort(self._length[shuffled], kind="stable")]
                order = random.permutation(order)
            self._dealt = epoch, pieces, order
        return self._dealt[1:]

    def _fill(self, epoch: int, steps: np.ndarray, rows: np.ndarray) -> Rows:
        pieces, order = self._deal(epoch)
        taken = order[(steps[:, None] * self._batch_size + rows).ravel()]
        counts = self._first[taken + 1] - self._first[taken]
        slot = np.repeat(self._first[taken] - _before(counts), counts) + np.arange(counts.sum())
        row = np.repeat(np.arange(len(taken)), counts)
        segment = np.arange(len(slot)) - np.repeat(_before(counts), counts) + 1

        piece = pieces[self._slots[slot]]
        length = self._length[piece]
        within = np.arange(length.sum()) - np.repeat(_before(length), length)
        target = np.repeat(row * self._width + self._column[slot], length) + within
        ids = self._ids.take(np.repeat(self._start[piece], length) + within - 1, mode="clip")
        ends = np.cumsum(length)
        ids = ids.astype(np.int32)
        ids[ends - length], ids[ends - 1] = self._specials

        arrays = []
        for values in (ids, np.repeat(segment, length), within):
            array = np.zeros(len(taken) * self._width, np.int32)
            array[target] = values
            arrays.append(array.reshape(len(steps), len(rows), self._width))
        return Rows(*arrays)


def _pieces(lengths: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Where pieces of `size` tokens begin in the text, and their lengths; int64 [pieces].

    The last of a document is what is left: pieces of like length would leave rows half empty.
    """
    lengths = lengths.astype(np.int64)
    counts = -(-lengths // size)
    within = np.arange(counts.sum()) - np.repeat(_before(counts), counts)
    begin = within * size
    length = np.minimum(size, np.repeat(lengths, counts) - begin)
    return np.repeat(_before(lengths), counts) + begin, length


def _before(counts: np.ndarray) -> np.ndarray:
    """The sum of what stands before each."""
    return np.cumsum(counts) - counts
