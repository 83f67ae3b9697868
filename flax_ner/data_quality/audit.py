"""Count data sets and find likely mistakes in them, in time linear in the data."""

from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np

from flax_ner.data_quality.consistency import (
    find_category_conflicts,
    find_similar_categories,
    find_unlabelled_surfaces,
)
from flax_ner.data_quality.edges import (
    describe_edge_punctuation,
    describe_edge_space,
    describe_unbalanced,
)
from flax_ner.data_quality.findings import (
    MAX_LOCATIONS,
    Case,
    Finding,
    Location,
    collect_findings,
)
from flax_ner.text.category_names import find_intended_category
from flax_ner.text.examples import Example
from flax_ner.text.overlaps import count_overlaps

# Characters from which a text is very long: BERT's 512 positions minus [CLS] and [SEP].
LONG_TEXT_CHARACTERS = 510


@dataclass(frozen=True)
class LengthSummary:
    """Distribution of the lengths of texts or entities, in characters; all 0 if there are none."""

    shortest: int
    median: float
    mean: float
    percentile_95: float
    longest: int


@dataclass(frozen=True)
class EntityCounts:
    """Number of entities, counted in two ways."""

    distinct: int  # distinct (category, surface) pairs of each text, summed over texts
    mentions: int


@dataclass(frozen=True)
class Statistics(EntityCounts):
    """Statistics of one data set."""

    name: str
    texts: int
    labelled: int  # texts with a label, which may have no entities
    without_entities: int  # labelled texts without entities
    characters: int
    one_character: int  # entities of one character
    overlapping: int  # entities that start before an earlier one ends
    text_lengths: LengthSummary
    entity_lengths: LengthSummary
    by_type: dict[str, EntityCounts]


@dataclass(frozen=True)
class Audit:
    """Result of `audit`: statistics per file, unreadable lines and findings."""

    files: list[Statistics]
    errors: list[str]  # "file:line: message"
    findings: list[Finding]


def compute_statistics(name: str, examples: Iterable[Example]) -> Statistics:
    """Count the texts, characters and entities of a data set.

    Args:
        name: name of the data set in reports, usually its file.
        examples: its examples; they are not kept.
    """
    mentions, distinct = Counter[str](), Counter[str]()
    labelled = without_entities = overlapping = 0
    text_sizes, entity_sizes = array("I"), array("I")  # 4 bytes per length
    for example in examples:
        text_sizes.append(len(example.text))
        labelled += example.entities is not None
        without_entities += example.entities is not None and not example.entities
        if example.entities:
            mentions.update(entity.type for entity in example.entities)
            surfaces = {(e.type, example.text[e.start : e.end]) for e in example.entities}
            distinct.update(category for category, _ in surfaces)
            entity_sizes.extend(entity.end - entity.start for entity in example.entities)
            overlapping += count_overlaps(example.entities)
    return Statistics(
        distinct=distinct.total(),
        mentions=mentions.total(),
        name=name,
        texts=len(text_sizes),
        labelled=labelled,
        without_entities=without_entities,
        characters=sum(text_sizes),
        one_character=entity_sizes.count(1),
        overlapping=overlapping,
        text_lengths=_summarize_lengths(text_sizes),
        entity_lengths=_summarize_lengths(entity_sizes),
        by_type={
            category: EntityCounts(distinct[category], mentions[category])
            for category in sorted(mentions)
        },
    )


def audit(
    files: Mapping[str, Sequence[Example]],
    errors: Sequence[str] = (),
    long_text: int = LONG_TEXT_CHARACTERS,
) -> Audit:
    """Find likely mistakes in data sets that belong together, such as train and dev.

    Args:
        files: examples by file name. Labels are compared within and across files.
        errors: lines that could not be read, as `read_examples` lists them.
        long_text: number of characters from which a text counts as very long.

    Returns:
        Statistics of each file, the errors, and the findings in the order of `FINDING_TITLES`.
    """
    examples = list(chain.from_iterable(files.values()))
    shared, duplicates = _find_repeated_texts(files)
    findings = collect_findings(
        shared_text=shared,
        duplicate_text=duplicates,
        category_in_one_file=_find_partial_categories(files),
        similar_categories=find_similar_categories(examples),
        two_categories=find_category_conflicts(examples),
        labelled_and_not=find_unlabelled_surfaces(examples),
        overlap=_find_overlaps(examples),
        unbalanced=_surface_cases(examples, describe_unbalanced),
        edge_space=_surface_cases(examples, describe_edge_space),
        edge_punctuation=_surface_cases(examples, describe_edge_punctuation),
        one_character=_surface_cases(examples, _describe_one_character),
        empty_text=_text_cases(e for e in examples if not e.text.strip()),
        long_text=_text_cases(e for e in examples if len(e.text) >= long_text),
        unlabelled_text=_text_cases(chain.from_iterable(map(_find_unlabelled, files.values()))),
    )
    statistics = [compute_statistics(name, rows) for name, rows in files.items()]
    return Audit(statistics, list(errors), findings)


def _summarize_lengths(lengths: "array[int]") -> LengthSummary:
    if not lengths:
        return LengthSummary(0, 0.0, 0.0, 0.0, 0)
    median, high = np.percentile(lengths, (50, 95)).tolist()
    return LengthSummary(min(lengths), median, float(np.mean(lengths)), high, max(lengths))


def _find_repeated_texts(files: Mapping[str, Sequence[Example]]) -> tuple[list[Case], list[Case]]:
    """Return the texts that several files share, and the texts that one file repeats."""
    seen = set[str]()
    repeated: dict[str, list[tuple[str, Example]]] = {}
    # Most texts occur once. A list for each of them would take most of the time and memory.
    for example in chain.from_iterable(files.values()):
        if example.text not in seen:
            seen.add(example.text)
        elif example.text.strip():  # empty texts have their own finding
            repeated[example.text] = []
    for name, examples in files.items():
        for example in examples:
            if example.text in repeated:
                repeated[example.text].append((name, example))
    shared, duplicates = list[Case](), list[Case]()
    for rows in repeated.values():
        by_file: dict[str, list[Example]] = {}
        for name, example in rows:
            by_file.setdefault(name, []).append(example)
        if len(by_file) > 1:
            # One example per file comes first, so that the kept locations cover the files.
            first = [same[0] for same in by_file.values()]
            rest = [example for same in by_file.values() for example in same[1:]]
            shared.append(_repeated_text_case(first + rest, f"in {len(by_file)} files"))
        duplicates += [
            _repeated_text_case(same, f"{len(same)} times")
            for same in by_file.values()
            if len(same) > 1
        ]
    for cases in (shared, duplicates):
        cases.sort(key=lambda case: ("differently" not in case.description, -case.count))
    return shared, duplicates


def _find_partial_categories(files: Mapping[str, Sequence[Example]]) -> Iterator[Case]:
    """Find categories that a labelled file lacks, the rarest first: it is most likely misspelt."""
    locations: dict[str, dict[str, list[Location]]] = {}  # by file and category
    for name, examples in files.items():
        by_type = locations.setdefault(name, {})
        for example in examples:
            for entity in example.entities or ():
                location = Location.of_entity(example, entity)
                by_type.setdefault(entity.type, []).append(location)
    labelled = {name: by_type for name, by_type in locations.items() if by_type}
    every = {category for by_type in labelled.values() for category in by_type}
    count = {
        category: sum(len(by_type.get(category, ())) for by_type in labelled.values())
        for category in every
    }
    partial = [
        category
        for category in every
        if not all(category in by_type for by_type in labelled.values())
    ]
    rows = [
        (category, [x for by_type in labelled.values() for x in by_type.get(category, ())])
        for category in partial
    ]
    for category, occurrences in sorted(rows, key=lambda row: (len(row[1]), row[0])):
        without = ", ".join(name for name, by_type in labelled.items() if category not in by_type)
        near = find_intended_category(category, (x for x in every if count[x] > count[category]))
        hint = f"; it may be a misspelling of {near!r}" if near else ""
        yield Case(
            f"{category!r}, not in {without}{hint}",
            tuple(occurrences[:MAX_LOCATIONS]),
            len(occurrences),
        )


def _repeated_text_case(rows: list[Example], description: str) -> Case:
    labels = {
        frozenset(entity[:3] for entity in row.entities) for row in rows if row.entities is not None
    }
    description += ", labelled differently" if len(labels) > 1 else ""
    locations = tuple(Location(row.source, row.text) for row in rows[:MAX_LOCATIONS])
    return Case(description, locations, len(rows))


def _find_overlaps(examples: Iterable[Example]) -> Iterator[Case]:
    """Find overlapping entities; there are as many cases as `overlaps` counts."""
    for example in examples:
        entities = example.entities or ()
        if not count_overlaps(entities):
            continue
        ordered = sorted(entities, key=lambda entity: (entity.start, entity.end))
        # The entity that reaches furthest so far, and the descriptions of overlaps with it by category.
        furthest, descriptions = ordered[0], dict[str, str]()
        for entity in ordered[1:]:
            if entity.start < furthest.end:
                # Cases share a description, because the surface may be as long as the text.
                if entity.type not in descriptions:
                    surface = example.text[furthest.start : furthest.end]
                    descriptions[entity.type] = f"{entity.type} in {furthest.type} {surface!r}"
                locations = (
                    Location.of_entity(example, furthest),
                    Location.of_entity(example, entity),
                )
                yield Case(descriptions[entity.type], locations)
            if entity.end > furthest.end:
                furthest, descriptions = entity, {}


def _surface_cases(examples: Iterable[Example], describe: Callable[[str], str]) -> Iterator[Case]:
    """Yield a case for each entity whose surface has a description; "" means no problem."""
    for example in examples:
        for entity in example.entities or ():
            description = describe(example.text[entity.start : entity.end])
            if description:
                yield Case(description, (Location.of_entity(example, entity),))


def _describe_one_character(surface: str) -> str:
    return repr(surface) if len(surface) == 1 else ""


def _text_cases(examples: Iterable[Example]) -> Iterator[Case]:
    for example in examples:
        yield Case(f"{len(example.text)} characters", (Location(example.source, example.text),))


def _find_unlabelled(examples: Sequence[Example]) -> list[Example]:
    """Return the examples without a label, unless the whole file is unlabelled on purpose."""
    unlabelled = [example for example in examples if example.entities is None]
    return unlabelled if len(unlabelled) < len(examples) else []
