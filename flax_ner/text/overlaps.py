"""Entities of one text that overlap: count them, or keep those that can be labelled together."""

from bisect import bisect_right
from collections.abc import Sequence
from typing import Any, TypeVar

AnyEntity = TypeVar("AnyEntity", bound=Sequence[Any])  # begins with (type, start, end)


def overlaps(entities: Sequence[Sequence[Any]]) -> int:
    """How many entities begin before an earlier one (by start) has ended."""
    count, reach = 0, 0
    for start, end in sorted((entity[1], entity[2]) for entity in entities):
        count += start < reach
        reach = max(reach, end)
    return count


def drop_overlaps(entities: Sequence[AnyEntity]) -> tuple[list[AnyEntity], list[AnyEntity]]:
    """Keep whole entities that do not overlap: the longest first, of equally long ones the first.

    Args:
        entities: each begins with (type, start, end). One that is given twice counts once.

    Returns:
        The entities kept and those dropped, both in their order.
    """
    by_span: dict[tuple[Any, ...], AnyEntity] = {}
    for entity in entities:
        by_span.setdefault(tuple(entity[:3]), entity)
    distinct = list(by_span.values())
    if not overlaps(distinct):
        return distinct, []
    starts, ends, kept = list[int](), list[int](), set[int]()
    for i in sorted(range(len(distinct)), key=lambda i: distinct[i][1] - distinct[i][2]):
        _, start, end = distinct[i][:3]
        place = bisect_right(ends, start)  # of the first kept one that ends after `start`
        if place == len(starts) or starts[place] >= end:
            starts.insert(place, start)
            ends.insert(place, end)
            kept.add(i)
    return (
        [entity for i, entity in enumerate(distinct) if i in kept],
        [entity for i, entity in enumerate(distinct) if i not in kept],
    )
