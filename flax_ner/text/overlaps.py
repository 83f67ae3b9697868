"""Count the overlapping entities of a text, or drop them so that the rest can be tagged."""

from bisect import bisect_right
from collections.abc import Sequence
from typing import Any, TypeVar

AnyEntity = TypeVar("AnyEntity", bound=Sequence[Any])  # starts with (type, start, end)


def count_overlaps(entities: Sequence[Sequence[Any]]) -> int:
    """Return the number of entities that overlap an entity with an earlier start."""
    count, furthest_end = 0, 0
    for start, end in sorted((entity[1], entity[2]) for entity in entities):
        count += start < furthest_end
        furthest_end = max(furthest_end, end)
    return count


def drop_overlaps(entities: Sequence[AnyEntity]) -> tuple[list[AnyEntity], list[AnyEntity]]:
    """Drop entities until none overlap. Longer entities win; among equally long ones the first wins.

    Args:
        entities: each starts with (type, start, end). Duplicates count once.

    Returns:
        The kept and the dropped entities, each in their original order.
    """
    if len(entities) < 2:
        return list(entities), []
    by_span: dict[tuple[Any, ...], AnyEntity] = {}
    for entity in entities:
        by_span.setdefault(tuple(entity[:3]), entity)
    distinct = list(by_span.values())
    if not count_overlaps(distinct):
        return distinct, []
    # The kept spans do not overlap, so their starts and ends are both sorted.
    starts, ends, kept = list[int](), list[int](), set[int]()
    for i in sorted(range(len(distinct)), key=lambda i: distinct[i][1] - distinct[i][2]):
        _, start, end = distinct[i][:3]
        index = bisect_right(ends, start)  # of the first kept span that ends after `start`
        if index == len(starts) or starts[index] >= end:
            starts.insert(index, start)
            ends.insert(index, end)
            kept.add(i)
    return (
        [entity for i, entity in enumerate(distinct) if i in kept],
        [entity for i, entity in enumerate(distinct) if i not in kept],
    )
