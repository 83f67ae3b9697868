"""Counting of overlapping entities."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flax_ner.text.overlaps import count_overlaps
from tests.text.helpers import entities

EntityList = list[tuple[str, int, int]]
LENGTH = 30


@pytest.mark.parametrize(
    ("spans", "count"),
    [
        ([], 0),
        ([(0, 2), (2, 4)], 0),
        ([(2, 4), (0, 3)], 1),
        ([(0, 9), (1, 2), (3, 4), (9, 10)], 2),  # nested: they end before the first one does
        ([(0, 2), (0, 2)], 1),
    ],
)
def test_count_overlaps_counts_entities_that_start_inside_an_earlier_one(
    spans: list[tuple[int, int]], count: int
) -> None:
    assert count_overlaps([("a", *span) for span in spans]) == count


@settings(max_examples=30, deadline=None)
@given(entities(LENGTH).flatmap(st.permutations))
def test_adjacent_entities_do_not_overlap(gold: EntityList) -> None:
    assert count_overlaps(gold) == 0
