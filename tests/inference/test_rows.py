"""Windows packed into rows."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flax_ner.inference.rows import BatchShapes, pack_batches
from flax_ner.text.batches import pack_sequences

LENGTHS = st.lists(st.integers(3, 600), min_size=1, max_size=60)


@given(LENGTHS, st.sampled_from([1, 300, 1024]), st.sampled_from([1, 8]))
def test_every_token_is_in_exactly_one_batch(
    sizes: list[int], max_tokens: int, devices: int
) -> None:
    lengths = np.array(sizes)
    tokens = np.arange(1, lengths.sum() + 1, dtype=np.int32)
    shapes = BatchShapes(600, max_tokens, devices)
    allowed = set(shapes.all())
    seen = []
    for batch in pack_batches(tokens, tokens % 3 > 0, lengths, shapes):
        assert batch.input_ids.shape in allowed and len(batch.input_ids) % devices == 0
        np.testing.assert_array_equal(batch.input_ids.ravel()[batch.target], tokens[batch.source])
        # A window is contiguous in one row, its positions start at 0, and its segment id is unique.
        for segment in np.unique(batch.segment_ids[batch.segment_ids > 0]):
            row, column = np.nonzero(batch.segment_ids == segment)
            assert len(row) == lengths[segment - 1] and len(set(row)) == 1
            np.testing.assert_array_equal(batch.positions[row, column], np.arange(len(row)))
            np.testing.assert_array_equal(np.diff(batch.input_ids[row, column]), 1)
        np.testing.assert_array_equal(batch.word_starts, (batch.input_ids % 3 > 0).astype(np.int32))
        assert (batch.segment_ids > 0).sum() == len(batch.source)
        seen.append(batch.source)
    np.testing.assert_array_equal(np.sort(np.concatenate(seen)), np.arange(len(tokens)))


def test_sentences_of_the_length_of_cluener_leave_little_padding() -> None:
    lengths = np.sort(np.random.default_rng(0).integers(20, 53, 1000))
    row, _, _ = pack_sequences(lengths, 128)
    assert lengths.sum() / (128 * (row.max() + 1)) > 0.95


@pytest.mark.parametrize("length", [1, 16, 41, 52])
def test_a_single_sentence_gets_a_narrow_row(length: int) -> None:
    (batch,) = pack_batches(
        np.ones(length, np.int32), np.ones(length, bool), np.array([length]), BatchShapes(128, 1024)
    )
    assert len(batch.input_ids) == 1 and batch.input_ids.shape[1] < length + 16
