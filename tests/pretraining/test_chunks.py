"""Batches of documents: each token once per epoch, a pure function of seed and epoch."""

import numpy as np
import pytest

from flax_ner.data.corpus import Corpus
from flax_ner.pretraining.chunks import Chunks, Rows

CLS, SEP, WIDTH = 1, 2, 16
LENGTHS = np.random.default_rng(0).integers(1, 40, 120).astype(np.int32)
CORPUS = Corpus(np.arange(10, 10 + LENGTHS.sum()).astype(np.uint16), LENGTHS)


def chunks(batch_size: int = 4, steps: int = 7, seed: int | None = 3) -> Chunks:
    return Chunks(CORPUS, CLS, SEP, WIDTH, batch_size, steps, seed)


def steps(made: Chunks, count: int) -> Rows:
    """Return the first `count` steps."""
    parts, chunk = [], 0
    while sum(len(part.input_ids) for part in parts) < count:
        parts.append(made.batches(chunk).shapes[0])
        chunk += 1
    return Rows(*(np.concatenate(part)[:count] for part in zip(*parts, strict=True)))


def test_each_epoch_has_every_token_once_in_pieces_of_one_document() -> None:
    made = chunks()
    rows = steps(made, 2 * made.steps_per_epoch)
    document = np.repeat(np.arange(len(LENGTHS)), LENGTHS)
    for epoch in np.split(rows.input_ids, 2):
        assert sorted(epoch[epoch > SEP]) == CORPUS.ids.tolist()
    pieces = 0
    for ids, segments, positions in zip(*(x.reshape(-1, WIDTH) for x in rows), strict=True):
        assert ((ids == 0) == (segments == 0)).all()
        for segment in range(1, segments.max() + 1):
            piece, position = ids[segments == segment], positions[segments == segment]
            assert piece[0] == CLS and piece[-1] == SEP and len(piece) > 2
            assert position.tolist() == list(range(len(piece)))
            assert (np.diff(piece[1:-1]) == 1).all()  # consecutive tokens
            assert len(set(document[piece[1:-1] - 10])) == 1
            pieces += 1
    assert pieces == 2 * (-(-LENGTHS // (WIDTH - 2))).sum()
    assert made.tokens == (rows.segment_ids > 0).sum() // 2


def test_rows_are_full() -> None:
    made = chunks()
    rows = steps(made, made.steps_per_epoch)
    assert made.steps_per_epoch == -(-made.tokens // (4 * WIDTH))  # the minimum
    full = (rows.segment_ids > 0).all(-1).mean()
    assert full > 0.85


def test_batches_depend_on_seed_and_step_only() -> None:
    made = chunks()
    later = made.batches(6).shapes[0]
    for x, y in zip(chunks().batches(6).shapes[0], later, strict=True):
        assert (x == y).all()
    count = 3 * made.steps_per_epoch
    for size in (1, 5, count):  # for any chunk size
        for x, y in zip(steps(chunks(steps=size), count), steps(made, count), strict=True):
            assert (x == y).all()
    ids = steps(made, count).input_ids
    first, second, _ = np.split(ids, 3)
    assert (first != second).any()
    assert (first != steps(chunks(seed=4), made.steps_per_epoch).input_ids).any()


def test_without_a_seed_all_epochs_are_equal() -> None:
    made = chunks(seed=None)
    first, second = np.split(steps(made, 2 * made.steps_per_epoch).input_ids, 2)
    assert (first == second).all()


@pytest.mark.parametrize("rows", [[0], [1, 3], [0, 1, 2, 3]])
def test_rows_selects_rows_of_each_batch(rows: list[int]) -> None:
    whole, part = chunks().batches(2).shapes[0], chunks().batches(2, np.array(rows)).shapes[0]
    for x, y in zip(whole, part, strict=True):
        assert (x[:, rows] == y).all()
