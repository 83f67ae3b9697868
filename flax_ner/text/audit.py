"""What is in data sets, and what looks wrong in them. All in time linear in the data."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np

from flax_ner.text.consistency import category_conflicts, left_unlabelled
from flax_ner.text.edges import edge_punctuation, edge_space, unbalanced
from flax_ner.text.examples import Example
from flax_ner.text.findings import PLACES, Case, Finding, Place, findings
from flax_ner.text.labels import misspelling_of
from flax_ner.text.overlaps import overlaps

# Characters above which a text is called very long: BERT's 512 positions less [CLS] and [SEP].
LONG = 510


@dataclass(frozen=True)
class Lengths:
    """Of texts or entities, in characters; all 0 where there are none."""

    shortest: int
    median: float
    mean: float
    percentile_95: float
    longest: int


@dataclass(frozen=True)
class EntityCounts:
    """Distinct (category, surface) pairs of each text, summed over texts; and mentions."""

    distinct: int
    mentions: int


@dataclass(frozen=True)
class Statistics(EntityCounts):
    """Figures of one data set."""

    name: str
    texts: int
    labelled: int  # texts with a label, one without entities too
    without_entities: int  # of the labelled
    characters: int
    one_character: int  # entities
    overlapping: int  # entities that begin before an earlier one has ended
    text_lengths: Lengths
    entity_lengths: Lengths
    by_type: dict[str, EntityCounts]


@dataclass(frozen=True)
class Audit:
    """Figures of each file, lines that cannot be read, and everything else that looks wrong."""

    files: list[Statistics]
    errors: list[str]  # "file:line: why"
    findings: list[Finding]


def statistics(name: str, examples: Sequence[Example]) -> Statistics:
    """Count a data set."""
    mentions, distinct = Counter[str](), Counter[str]()
    for example in examples:
        if example.entities:
            mentions.update(entity.type for entity in example.entities)
            surfaces = {(e.type, example.text[e.start : e.end]) for e in example.entities}
            distinct.update(kind for kind, _ in surfaces)
    labels = [example.entities for example in examples if example.entities is not None]
    sizes = [entity.end - entity.start for entities in labels for entity in entities]
    text_sizes = [len(example.text) for example in examples]
    return Statistics(
        distinct=distinct.total(),
        mentions=mentions.total(),
        name=name,
        texts=len(examples),
        labelled=len(labels),
        without_entities=sum(not entities for entities in labels),
        characters=sum(text_sizes),
        one_character=sizes.count(1),
        overlapping=sum(map(overlaps, labels)),
        text_lengths=_lengths(text_sizes),
        entity_lengths=_lengths(sizes),
        by_type={kind: EntityCounts(distinct[kind], mentions[kind]) for kind in sorted(mentions)},
    )


def audit(
    files: Mapping[str, Sequence[Example]], errors: Sequence[str] = (), long: int = LONG
) -> Audit:
    """Look for faults in data sets that belong together, as train and dev do.

    Args:
        files: examples by the name of their file. Surfaces are compared over all of them.
        errors: lines that could not be read, as `read_examples` lists them.
        long: characters from which on a text counts as very long.
    """
    examples = list(chain.from_iterable(files.values()))
    shared, duplicates = _repeated_texts(files)
    found = findings(
        shared_text=shared,
        duplicate_text=duplicates,
        category_in_one_file=_lone_categories(files),
        two_categories=category_conflicts(examples),
        labelled_and_not=left_unlabelled(examples),
        overlap=_overlaps(examples),
        unbalanced=_entities(examples, unbalanced),
        edge_space=_entities(examples, edge_space),
        edge_punctuation=_entities(examples, edge_punctuation),
        one_character=_entities(examples, _one_character),
        empty_text=_texts(e for e in examples if not e.text.strip()),
        long_text=_texts(e for e in examples if len(e.text) >= long),
        unlabelled_text=_texts(chain.from_iterable(map(_unlabelled, files.values()))),
    )
    figures = [statistics(name, rows) for name, rows in files.items()]
    return Audit(figures, list(errors), found)


def _lengths(values: Sequence[int]) -> Lengths:
    if not values:
        return Lengths(0, 0.0, 0.0, 0.0, 0)
    array = np.array(values)
    median, high = np.percentile(array, (50, 95)).tolist()
    return Lengths(int(array.min()), median, float(array.mean()), high, int(array.max()))


def _repeated_texts(files: Mapping[str, Sequence[Example]]) -> tuple[list[Case], list[Case]]:
    """Texts that are in several files, and texts that are in one file several times."""
    seen = set[str]()
    repeated: dict[str, list[tuple[str, Example]]] = {}
    # Most texts are there once: a list for each would take most of the time and memory.
    for example in chain.from_iterable(files.values()):
        if example.text not in seen:
            seen.add(example.text)
        elif example.text.strip():  # empty texts are a finding of their own
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
            # One of each file, so that every file is told of.
            heads = [same[0] for same in by_file.values()]
            rest = [example for same in by_file.values() for example in same[1:]]
            shared.append(_repetition(heads + rest, f"in {len(by_file)} files"))
        duplicates += [
            _repetition(same, f"{len(same)} times") for same in by_file.values() if len(same) > 1
        ]
    for cases in (shared, duplicates):
        cases.sort(key=lambda case: ("differently" not in case.what, -case.count))
    return shared, duplicates


def _lone_categories(files: Mapping[str, Sequence[Example]]) -> Iterator[Case]:
    """The rarest first: those are most likely misspelt."""
    places: dict[str, dict[str, list[Place]]] = {}  # by file and category
    for name, examples in files.items():
        found = places.setdefault(name, {})
        for example in examples:
            for entity in example.entities or ():
                found.setdefault(entity.type, []).append(Place.of(example, entity))
    labelled = {name: found for name, found in places.items() if found}
    every = {kind for found in labelled.values() for kind in found}
    count = {kind: sum(len(found.get(kind, ())) for found in labelled.values()) for kind in every}
    lone = [kind for kind in every if not all(kind in found for found in labelled.values())]
    rows = [(kind, [p for f in labelled.values() for p in f.get(kind, ())]) for kind in lone]
    for kind, where in sorted(rows, key=lambda row: (len(row[1]), row[0])):
        without = ", ".join(name for name, found in labelled.items() if kind not in found)
        near = misspelling_of(kind, (k for k in every if count[k] > count[kind]))
        hint = f"; it may be a misspelling of {near!r}" if near else ""
        yield Case(f"{kind!r}, not in {without}{hint}", tuple(where[:PLACES]), len(where))


def _repetition(rows: list[Example], what: str) -> Case:
    labels = {
        frozenset(entity[:3] for entity in row.entities) for row in rows if row.entities is not None
    }
    what += ", labelled differently" if len(labels) > 1 else ""
    return Case(what, tuple(Place(row.source, row.text) for row in rows[:PLACES]), len(rows))


def _overlaps(examples: Iterable[Example]) -> Iterator[Case]:
    """As many as `overlaps` counts."""
    for example in examples:
        entities = example.entities or ()
        if not overlaps(entities):
            continue
        ordered = sorted(entities, key=lambda entity: (entity.start, entity.end))
        reach, told = ordered[0], dict[str, str]()
        for entity in ordered[1:]:
            if entity.start < reach.end:
                if entity.type not in told:  # made once: `reach` may be as long as the text
                    surface = example.text[reach.start : reach.end]
                    told[entity.type] = f"{entity.type} in {reach.type} {surface!r}"
                places = Place.of(example, reach), Place.of(example, entity)
                yield Case(told[entity.type], places)
            if entity.end > reach.end:
                reach, told = entity, {}


def _entities(examples: Iterable[Example], fault: Callable[[str], str]) -> Iterator[Case]:
    for example in examples:
        for entity in example.entities or ():
            what = fault(example.text[entity.start : entity.end])
            if what:
                yield Case(what, (Place.of(example, entity),))


def _one_character(surface: str) -> str:
    return repr(surface) if len(surface) == 1 else ""


def _texts(examples: Iterable[Example]) -> Iterator[Case]:
    for example in examples:
        yield Case(f"{len(example.text)} characters", (Place(example.source, example.text),))


def _unlabelled(examples: Sequence[Example]) -> list[Example]:
    """Those without a label where others have one; a file without any is meant to have none."""
    bare = [example for example in examples if example.entities is None]
    return bare if len(bare) < len(examples) else []
