"""Long texts in pieces."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flax_ner.inference.windows import split, windows


@given(st.integers(0, 5000), st.integers(1, 200))
def test_windows_cover_a_text_without_gap_or_overlap(length: int, size: int) -> None:
    place = 0
    for window in windows(length, size):
        assert window.keep_start == place
        assert 0 <= window.start <= window.keep_start <= window.keep_stop <= window.stop <= length
        assert window.stop - window.start <= size
        place = window.keep_stop
    assert place == length


@pytest.mark.parametrize(("length", "size"), [(1000, 126), (127, 126), (10_000, 50)])
def test_kept_characters_stand_away_from_a_window_edge(length: int, size: int) -> None:
    parts = windows(length, size)
    assert len(parts) <= length / (size * 0.7) + 1
    for window in parts:
        assert window.keep_start == 0 or window.keep_start - window.start >= size // 8 - 1
        assert window.keep_stop == length or window.stop - window.keep_stop >= size // 8 - 1


@given(st.lists(st.integers(0, 300), max_size=20), st.integers(1, 200))
def test_many_texts_are_split_as_each_alone(lengths: list[int], size: int) -> None:
    found = list(
        zip(*(column.tolist() for column in split(np.array(lengths, int), size)), strict=True)
    )
    assert found == [(i, *w) for i, n in enumerate(lengths) if n for w in windows(n, size)]
