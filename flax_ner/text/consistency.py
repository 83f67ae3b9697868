"""Surfaces that are labelled one way here and another way there."""

from collections.abc import Collection, Iterable, Sequence

from flax_ner.text.examples import Example
from flax_ner.text.findings import PLACES, Case, Place

# Below are alphabets, which write words with spaces between; from here on CJK, which does not.
FIRST_WITHOUT_SPACES = "\u2e80"


class Tally:
    """How often, and where at first."""

    __slots__ = ("count", "places")

    def __init__(self) -> None:
        self.count, self.places = 0, list[Place]()

    def add(self, example: Example, start: int, end: int, kind: str = "") -> None:
        self.count += 1
        if len(self.places) < PLACES:
            self.places.append(Place(example.source, example.text, start, end, kind))


def category_conflicts(examples: Iterable[Example]) -> list[Case]:
    """Surfaces with more than one category.

    They come by the number of labels that differ from the most frequent one, the most first; the
    places take turns over the categories.
    """
    cases = list[tuple[int, Case]]()
    for surface, tallies in _labelled(examples).items():
        if len(tallies) < 2:
            continue
        by_count = sorted(tallies.items(), key=lambda pair: -pair[1].count)
        counts = [tally.count for _, tally in by_count]
        told = ", ".join(f"{kind} {tally.count}" for kind, tally in by_count)
        places = _turns([tally.places for _, tally in by_count])
        cases.append((sum(counts) - counts[0], Case(f"{surface!r}: {told}", places, sum(counts))))
    return _ranked(cases)


def left_unlabelled(examples: Sequence[Example]) -> list[Case]:
    """Surfaces that are an entity somewhere and elsewhere stand outside of all entities.

    Of surfaces that begin alike the longest counts, one of a single character never does, and a
    word in letters counts as a whole word only. The order is as in `category_conflicts`.
    """
    labelled = {s: t for s, t in _labelled(examples).items() if len(s) > 1}
    cases = list[tuple[int, Case]]()
    for surface, bare in _unlabelled(examples, labelled.keys()).items():
        tallies = labelled[surface]
        told = ", ".join(f"{kind} {tally.count}" for kind, tally in sorted(tallies.items()))
        count = sum(tally.count for tally in tallies.values())
        places = _turns([bare.places, *(tally.places for tally in tallies.values())])
        case = Case(f"{surface!r}: {told}, unlabelled {bare.count}", places, count + bare.count)
        cases.append((min(count, bare.count), case))
    return _ranked(cases)


def _labelled(examples: Iterable[Example]) -> dict[str, dict[str, Tally]]:
    """Entities by surface and category."""
    found: dict[str, dict[str, Tally]] = {}
    for example in examples:
        for entity in example.entities or ():
            kind, start, end = entity[:3]
            tallies = found.setdefault(example.text[start:end], {})
            if kind not in tallies:
                tallies[kind] = Tally()
            tallies[kind].add(example, start, end, kind)
    return found


def _unlabelled(examples: Iterable[Example], surfaces: Collection[str]) -> dict[str, Tally]:
    """Where the surfaces, of two characters or more, stand outside of entities in labelled texts."""
    # Two characters tell at most places that no surface begins there.
    sizes: dict[str, set[int]] = {}
    for surface in surfaces:
        sizes.setdefault(surface[:2], set()).add(len(surface))
    longest_first = {begin: sorted(of, reverse=True) for begin, of in sizes.items()}
    known, found = set(surfaces), dict[str, Tally]()
    for example in examples:
        if example.entities is None:
            continue
        text, inside = example.text, bytearray(len(example.text))
        for entity in example.entities:
            inside[entity.start : entity.end] = b"\1" * (entity.end - entity.start)
        place = 0
        while place < len(text) - 1:
            for size in longest_first.get(text[place : place + 2], ()):
                end = place + size
                surface = text[place:end]
                if surface in known and not any(inside[place:end]) and _whole(text, place, end):
                    found.setdefault(surface, Tally()).add(example, place, end)
                    place = end
                    break
            else:
                place += 1
    return found


def _whole(text: str, start: int, end: int) -> bool:
    """Whether no word in letters goes on before or behind [start, end)."""
    return not (start and _joined(text[start - 1], text[start])) and not (
        end < len(text) and _joined(text[end - 1], text[end])
    )


def _joined(left: str, right: str) -> bool:
    return all(c.isalnum() and c < FIRST_WITHOUT_SPACES for c in (left, right))


def _turns(lists: Sequence[Sequence[Place]]) -> tuple[Place, ...]:
    """The first of each, then the second of each, and so on, up to `PLACES`."""
    longest = max(map(len, lists))
    return tuple(places[i] for i in range(longest) for places in lists if i < len(places))[:PLACES]


def _ranked(cases: list[tuple[int, Case]]) -> list[Case]:
    return [case for _, case in sorted(cases, key=lambda pair: (-pair[0], -pair[1].count))]
