"""Suggest a known category for one that is not known."""

from collections.abc import Iterable
from difflib import SequenceMatcher

MIN_SIMILARITY = 0.8  # ratio of `SequenceMatcher`; one different letter in a short name is below it


def find_intended_category(category: str, known: Iterable[str]) -> str | None:
    """Return the known category that `category` probably misspells, or None if none is similar enough.

    Similar names differ in case, in the order of their letters, or in a few characters relative to their
    length. One different letter in a short name is not enough: "name" and "game" are different categories.
    """
    scores = {}
    for other in sorted(known):
        one, two = category.casefold(), other.casefold()
        same_letters = sorted(one) == sorted(two)
        scores[other] = 1.0 if same_letters else SequenceMatcher(None, one, two).ratio()
    best = max(scores, key=scores.__getitem__, default=None)
    return best if best is not None and scores[best] >= MIN_SIMILARITY else None
