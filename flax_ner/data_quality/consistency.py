"""Find surfaces that are labelled inconsistently."""

from collections.abc import Collection, Iterable, Sequence
from unicodedata import category

from flax_ner.data_quality.findings import MAX_LOCATIONS, Case, Location
from flax_ner.text.examples import Example
from flax_ner.text.words import is_unspaced


class Occurrences:
    """Number of occurrences and the first `MAX_LOCATIONS` locations."""

    __slots__ = ("count", "locations")

    def __init__(self) -> None:
        self.count, self.locations = 0, list[Location]()

    def add(self, example: Example, start: int, end: int, category: str = "") -> None:
        self.count += 1
        if len(self.locations) < MAX_LOCATIONS:
            self.locations.append(Location(example.source, example.text, start, end, category))


def find_category_conflicts(examples: Iterable[Example]) -> list[Case]:
    """Find surfaces that are labelled with more than one category.

    Args:
        examples: examples; those without a label are skipped.

    Returns:
        One case per surface. Sorted by the number of labels outside the majority category, largest first.
        The locations of a case alternate between the categories.
    """
    ranked = list[tuple[int, Case]]()
    for surface, by_type in _labelled_occurrences(examples).items():
        if len(by_type) < 2:
            continue
        by_count = sorted(by_type.items(), key=lambda pair: -pair[1].count)
        counts = [occurrences.count for _, occurrences in by_count]
        listed = ", ".join(f"{category} {occurrences.count}" for category, occurrences in by_count)
        locations = _interleave([occurrences.locations for _, occurrences in by_count])
        case = Case(f"{surface!r}: {listed}", locations, sum(counts))
        ranked.append((sum(counts) - counts[0], case))
    return _sort_cases(ranked)


def find_similar_categories(examples: Iterable[Example]) -> list[Case]:
    """Find categories that differ only in case or white space, so that one is probably meant.

    Args:
        examples: examples; those without a label are skipped.

    Returns:
        One case per group of such categories. Its locations alternate between the categories.
    """
    groups: dict[str, dict[str, Occurrences]] = {}  # by what is the same, and by category
    for example in examples:
        for entity in example.entities or ():
            key = "".join(entity.type.split()).casefold()
            by_type = groups.setdefault(key, {})
            if entity.type not in by_type:
                by_type[entity.type] = Occurrences()
            by_type[entity.type].add(example, entity.start, entity.end, entity.type)
    cases = []
    for by_type in groups.values():
        if len(by_type) > 1:
            by_count = sorted(by_type.items(), key=lambda pair: -pair[1].count)
            listed = ", ".join(f"{name!r} {occurrences.count}" for name, occurrences in by_count)
            locations = _interleave([occurrences.locations for _, occurrences in by_count])
            cases.append(Case(listed, locations, sum(o.count for _, o in by_count)))
    return cases


def find_unlabelled_surfaces(examples: Sequence[Example]) -> list[Case]:
    """Find surfaces that are labelled in some texts and occur outside of entities in others.

    Where several surfaces match at the same position, the longest one counts. Surfaces of one character
    are skipped. In scripts with spaces a surface only matches whole words.

    Args:
        examples: examples; those without a label are skipped.

    Returns:
        One case per surface. Sorted by min(labelled, unlabelled) occurrences, largest first. The locations
        of a case alternate between unlabelled ones and each category.
    """
    labelled = {s: t for s, t in _labelled_occurrences(examples).items() if len(s) > 1}
    ranked = list[tuple[int, Case]]()
    for surface, unlabelled in _unlabelled_occurrences(examples, labelled.keys()).items():
        by_type = labelled[surface]
        listed = ", ".join(f"{category} {x.count}" for category, x in sorted(by_type.items()))
        count = sum(occurrences.count for occurrences in by_type.values())
        locations = _interleave(
            [unlabelled.locations, *(occurrences.locations for occurrences in by_type.values())]
        )
        description = f"{surface!r}: {listed}, unlabelled {unlabelled.count}"
        case = Case(description, locations, count + unlabelled.count)
        ranked.append((min(count, unlabelled.count), case))
    return _sort_cases(ranked)


def _labelled_occurrences(examples: Iterable[Example]) -> dict[str, dict[str, Occurrences]]:
    """Collect the entities by surface and category."""
    by_surface: dict[str, dict[str, Occurrences]] = {}
    for example in examples:
        for entity in example.entities or ():
            category, start, end = entity[:3]
            by_type = by_surface.setdefault(example.text[start:end], {})
            if category not in by_type:
                by_type[category] = Occurrences()
            by_type[category].add(example, start, end, category)
    return by_surface


def _unlabelled_occurrences(
    examples: Iterable[Example], surfaces: Collection[str]
) -> dict[str, Occurrences]:
    """Find surfaces of two or more characters outside of the entities of labelled texts."""
    # An index by the first two characters rules out most positions at once.
    lengths: dict[str, set[int]] = {}
    for surface in surfaces:
        lengths.setdefault(surface[:2], set()).add(len(surface))
    longest_first = {prefix: sorted(x, reverse=True) for prefix, x in lengths.items()}
    known, by_surface = set(surfaces), dict[str, Occurrences]()
    for example in examples:
        if example.entities is None:
            continue
        text, inside = example.text, bytearray(len(example.text))
        for entity in example.entities:
            inside[entity.start : entity.end] = b"\1" * (entity.end - entity.start)
        start = 0
        while start < len(text) - 1:
            for length in longest_first.get(text[start : start + 2], ()):
                end = start + length
                surface = text[start:end]
                if (
                    surface in known
                    and not any(inside[start:end])
                    and _at_word_boundaries(text, start, end)
                ):
                    by_surface.setdefault(surface, Occurrences()).add(example, start, end)
                    start = end
                    break
            else:
                start += 1
    return by_surface


def _at_word_boundaries(text: str, start: int, end: int) -> bool:
    """Return whether [start, end) does not cut a word of a script with spaces."""
    return not (start and _in_one_word(text[start - 1], text[start])) and not (
        end < len(text) and _in_one_word(text[end - 1], text[end])
    )


def _in_one_word(left: str, right: str) -> bool:
    return all(_is_letter(c) and not is_unspaced(c) for c in (left, right))


def _is_letter(character: str) -> bool:
    # Marks are letters too: the vowel signs of Devanagari are inside words.
    return character.isalnum() or category(character)[0] == "M"


def _interleave(lists: Sequence[Sequence[Location]]) -> tuple[Location, ...]:
    """Take the first location of each list, then the second of each, up to `MAX_LOCATIONS`."""
    longest = max(map(len, lists))
    interleaved = (
        locations[i] for i in range(longest) for locations in lists if i < len(locations)
    )
    return tuple(interleaved)[:MAX_LOCATIONS]


def _sort_cases(ranked: list[tuple[int, Case]]) -> list[Case]:
    return [case for _, case in sorted(ranked, key=lambda pair: (-pair[0], -pair[1].count))]
