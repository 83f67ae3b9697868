"""Batches hold every sequence exactly once, have fixed shapes and are reproducible."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flax_ner.data.cluener import read_cluener
from flax_ner.errors import UserError
from flax_ner.text.batches import (
    BATCHINGS,
    BUCKET_STEP,
    Batcher,
    Epoch,
)
from flax_ner.text.encoding import TokenSet

MAX_LENGTH = 40  # not a multiple of BUCKET_STEP
LENGTHS = st.lists(st.integers(2, MAX_LENGTH), min_size=1, max_size=60)
MIXED = np.random.default_rng(0).integers(2, MAX_LENGTH + 1, 200).tolist()


def token_set(lengths: list[int]) -> TokenSet:
    """Return sequences in which every token has a distinct id and the label 7 * id."""
    ids = np.arange(1, sum(lengths) + 1, dtype=np.int32)
    return TokenSet(ids, 7 * ids, np.array(lengths, np.int64))


def sequences(epoch: Epoch) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Yield ids, positions and labels of every sequence, and check the layout of each row."""
    for batches in epoch.shapes:
        assert batches.teacher is None
        arrays = batches[:4]
        assert {array.dtype for array in arrays} == {np.dtype(np.int32)}
        assert len({array.shape for array in arrays}) == 1
        rows = (array.reshape(-1, array.shape[-1]) for array in arrays)
        for ids, segments, positions, labels in zip(*rows, strict=True):
            used = int((segments > 0).sum())
            for array in (ids, segments, positions, labels):
                assert not array[used:].any(), "padding after the last sequence is not zero"
            steps = np.diff(segments[:used], prepend=0)
            assert set(steps) <= {0, 1}, "segments are not contiguous or not numbered from 1"
            for segment in range(1, segments.max(initial=0) + 1):
                own = segments == segment
                yield ids[own], positions[own], labels[own]


@pytest.mark.parametrize("batching", BATCHINGS)
@settings(max_examples=30, deadline=None)
@given(lengths=LENGTHS, batch_size=st.integers(1, 6), rows=st.sets(st.integers(0, 5), min_size=1))
def test_selected_rows_equal_those_of_the_full_batches(
    batching: str, lengths: list[int], batch_size: int, rows: set[int]
) -> None:
    selected = np.array(sorted(row for row in rows if row < batch_size), int)
    batcher = Batcher(token_set(lengths), batching, batch_size, MAX_LENGTH, 5)
    full, part = batcher.epoch(1), batcher.epoch(1, selected)
    np.testing.assert_array_equal(part.order, full.order)
    for batches, expected in zip(part.shapes, full.shapes, strict=True):
        for array, full_array in zip(batches[:4], expected[:4], strict=True):
            np.testing.assert_array_equal(array, full_array[:, selected])


@pytest.mark.parametrize("batching", BATCHINGS)
@settings(max_examples=60, deadline=None)
@given(lengths=LENGTHS, batch_size=st.integers(1, 5), number=st.integers(0, 3))
def test_an_epoch_contains_every_sequence_once(
    batching: str, lengths: list[int], batch_size: int, number: int
) -> None:
    tokens = token_set(lengths)
    epoch = Batcher(tokens, batching, batch_size, MAX_LENGTH, seed=0).epoch(number)
    actual = []
    for ids, positions, labels in sequences(epoch):
        actual.append(ids.tolist())
        np.testing.assert_array_equal(positions, np.arange(len(ids)))
        np.testing.assert_array_equal(labels, 7 * ids)
    expected = np.split(tokens.ids, np.cumsum(tokens.lengths)[:-1])
    assert sorted(actual) == [sequence.tolist() for sequence in expected]


@pytest.mark.parametrize("batching", BATCHINGS)
@settings(max_examples=40, deadline=None)
@given(lengths=LENGTHS, batch_size=st.integers(1, 5))
def test_every_epoch_has_the_same_steps_and_shapes(
    batching: str, lengths: list[int], batch_size: int
) -> None:
    batcher = Batcher(token_set(lengths), batching, batch_size, MAX_LENGTH, seed=3)
    shapes = [[batches.input_ids.shape for batches in batcher.epoch(i).shapes] for i in range(4)]
    assert shapes == [shapes[0]] * 4
    assert all(rows == batch_size for _, rows, _ in shapes[0])
    for number in range(4):
        order = batcher.epoch(number).order
        assert len(order) == batcher.steps_per_epoch
        assert np.bincount(order).tolist() == [steps for steps, _, _ in shapes[0]]


@pytest.mark.parametrize("batching", BATCHINGS)
@settings(max_examples=40, deadline=None)
@given(lengths=LENGTHS, batch_size=st.integers(1, 5))
def test_no_batch_is_empty(batching: str, lengths: list[int], batch_size: int) -> None:
    epoch = Batcher(token_set(lengths), batching, batch_size, MAX_LENGTH, seed=1).epoch(0)
    for batches in epoch.shapes:
        assert batches.segment_ids.any((1, 2)).all()


@pytest.mark.parametrize("batching", BATCHINGS)
def test_seed_and_epoch_determine_the_batches(batching: str) -> None:
    def make(seed: int, number: int) -> list[np.ndarray]:
        epoch = Batcher(token_set(MIXED), batching, 4, MAX_LENGTH, seed).epoch(number)
        return [epoch.order, *(array for batches in epoch.shapes for array in batches[:4])]

    first = make(5, 2)
    for array, again in zip(first, make(5, 2), strict=True):
        np.testing.assert_array_equal(array, again)
    for other in (make(5, 3), make(6, 2)):
        same = [np.array_equal(a, b) for a, b in zip(first[1::4], other[1::4], strict=True)]
        assert not any(same), "another epoch or seed must change the ids of every shape"


def test_an_epoch_does_not_depend_on_earlier_ones() -> None:
    batcher = Batcher(token_set(MIXED), "pack", 4, MAX_LENGTH, seed=0)
    late = batcher.epoch(7).shapes[0].input_ids
    batcher.epoch(0)
    np.testing.assert_array_equal(batcher.epoch(7).shapes[0].input_ids, late)


@pytest.mark.parametrize("batching", BATCHINGS)
def test_copying_in_several_parts_changes_nothing(
    batching: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    batcher = Batcher(token_set(MIXED), batching, 4, MAX_LENGTH, seed=0)
    whole = batcher.epoch(0)
    monkeypatch.setattr("flax_ner.text.batches.COPY_SEQUENCES", 7)
    for batches, expected in zip(batcher.epoch(0).shapes, whole.shapes, strict=True):
        for array, expected_array in zip(batches, expected, strict=True):
            np.testing.assert_array_equal(array, expected_array)


def test_packing_combines_different_sequences_in_each_epoch() -> None:
    batcher = Batcher(token_set([8] * 50), "pack", 2, MAX_LENGTH, seed=0)
    rows = [batcher.epoch(i).shapes[0].input_ids.reshape(-1, MAX_LENGTH) for i in range(2)]
    together = [{frozenset(row[::8].tolist()) for row in array} for array in rows]
    assert len(together[0]) == 10
    assert len(together[0] & together[1]) <= 2


def test_pad_and_bucket_put_one_sequence_in_each_row() -> None:
    for batching in ("pad", "bucket"):
        epoch = Batcher(token_set(MIXED), batching, 4, MAX_LENGTH, seed=0).epoch(0)
        assert max(batches.segment_ids.max() for batches in epoch.shapes) == 1


def test_the_batching_determines_the_row_length() -> None:
    def widths(batching: str) -> list[int]:
        epoch = Batcher(token_set(MIXED), batching, 4, MAX_LENGTH, seed=0).epoch(0)
        return [batches.input_ids.shape[-1] for batches in epoch.shapes]

    assert widths("pack") == widths("pad") == [MAX_LENGTH]
    assert widths("bucket") == [BUCKET_STEP, 2 * BUCKET_STEP, MAX_LENGTH]


def test_each_sequence_is_in_the_smallest_bucket_that_fits() -> None:
    for batches in Batcher(token_set(MIXED), "bucket", 4, MAX_LENGTH, seed=0).epoch(0).shapes:
        lengths, width = batches.segment_ids.sum(-1), batches.input_ids.shape[-1]
        assert (lengths[lengths > 0] > BUCKET_STEP * ((width - 1) // BUCKET_STEP)).all()


def test_packing_leaves_little_padding_on_cluener(cluener: Path) -> None:
    lengths = [len(example.text) + 2 for example in read_cluener(cluener / "train.json")]
    batcher = Batcher(token_set(lengths), "pack", 16, 128, seed=0)
    (batches,) = batcher.epoch(0).shapes
    assert (batches.segment_ids > 0).mean() >= 0.97


def test_an_unknown_batching_raises_with_the_choices() -> None:
    with pytest.raises(UserError, match=r"data\.batching: 'packed' .*pack, bucket, pad"):
        Batcher(token_set([3]), "packed", 1, 10, seed=0)


def test_a_sequence_longer_than_a_row_raises() -> None:
    with pytest.raises(
        UserError, match=r"data\.max_length: 10, but a sequence has 11 tokens\. Raise it to"
    ):
        Batcher(token_set([3, 11]), "pack", 1, 10, seed=0)


@pytest.mark.parametrize("batching", BATCHINGS)
def test_teacher_probabilities_stay_with_their_token(batching: str) -> None:
    tokens = token_set(MIXED)
    teacher = (tokens.ids[:, None] % np.array([7, 11, 2048])).astype(np.float16)
    plain = Batcher(tokens, batching, 4, MAX_LENGTH, 3).epoch(2)
    distilled = Batcher(tokens._replace(teacher=teacher), batching, 4, MAX_LENGTH, 3).epoch(2)
    np.testing.assert_array_equal(distilled.order, plain.order)
    for batches, expected in zip(distilled.shapes, plain.shapes, strict=True):
        assert all(map(np.array_equal, batches[:4], expected[:4]))
        assert batches.teacher is not None and batches.teacher.dtype == np.float16
        np.testing.assert_array_equal(
            batches.teacher, batches.input_ids[..., None] % np.array([7, 11, 2048])
        )
