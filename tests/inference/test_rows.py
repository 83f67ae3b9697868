"""Pieces packed into rows."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flax_ner.inference.rows import Shapes, batches
from flax_ner.text.batches import pack

LENGTHS = st.lists(st.integers(3, 600), min_size=1, max_size=60)


@given(LENGTHS, st.sampled_from([1, 300, 1024]), st.sampled_from([1, 8]))
def test_every_token_lies_in_one_batch(sizes: list[int], most: int, devices: int) -> None:
    lengths = np.array(sizes)
    tokens = np.arange(1, lengths.sum() + 1, dtype=np.int32)
    shapes = Shapes(600, most, devices)
    allowed = set(shapes.all())
    seen = []
    for batch in batches(tokens, tokens % 3 > 0, lengths, shapes):
        assert batch.input_ids.shape in allowed and len(batch.input_ids) % devices == 0
        np.testing.assert_array_equal(batch.input_ids.ravel()[batch.target], tokens[batch.source])
        # A piece lies in one row, in order, its positions from 0; nothing else has its number.
        for segment in np.unique(batch.segment_ids[batch.segment_ids > 0]):
            row, column = np.nonzero(batch.segment_ids == segment)
            assert len(row) == lengths[segment - 1] and len(set(row)) == 1
            np.testing.assert_array_equal(batch.positions[row, column], np.arange(len(row)))
            np.testing.assert_array_equal(np.diff(batch.input_ids[row, column]), 1)
        np.testing.assert_array_equal(batch.words, (batch.input_ids % 3 > 0).astype(np.int32))
        assert (batch.segment_ids > 0).sum() == len(batch.source)
        seen.append(batch.source)
    np.testing.assert_array_equal(np.sort(np.concatenate(seen)), np.arange(len(tokens)))


def test_sentences_as_clueners_leave_little_padding() -> None:
    lengths = np.sort(np.random.default_rng(0).integers(20, 53, 1000))
    row, _, _ = pack(lengths, 128)
    assert lengths.sum() / (128 * (row.max() + 1)) > 0.95


@pytest.mark.parametrize("length", [1, 16, 41, 52])
def test_one_sentence_has_a_row_that_fits(length: int) -> None:
    (batch,) = batches(
        np.ones(length, np.int32), np.ones(length, bool), np.array([length]), Shapes(128, 1024)
    )
    assert len(batch.input_ids) == 1 and batch.input_ids.shape[1] < length + 16
