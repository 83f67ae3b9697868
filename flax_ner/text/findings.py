"""What an audit of data reports: findings, each with its cases and where they stand."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from flax_ner.text.examples import Entity, Example

PLACES = 5  # of a case at most; its count has all

# What is looked for, in the order of reports.
KINDS = {
    "shared_text": "texts in more than one file: a score on one tells nothing when the other trained",
    "duplicate_text": "texts more than once in a file",
    "category_in_one_file": "categories that one file has and another with labels has not",
    "two_categories": "surfaces with more than one category, those with the most dissenting labels first",
    "labelled_and_not": "surfaces that are entities in some places and left unlabelled in others, "
    "those with the most dissenting places first",
    "overlap": "entities that begin before another has ended: a tagger learns only one of them, but "
    "for the head global_pointer",
    "unbalanced": "entities that hold one half of a pair of brackets or quotes",
    "edge_space": "entities that begin or end with a space or an invisible character",
    "edge_punctuation": "entities that begin or end with punctuation",
    "one_character": "entities of one character",
    "empty_text": "texts without a visible character",
    "long_text": "very long texts, which a model reads in windows",
    "unlabelled_text": "texts without a label in a file that has labels",
    "unlikely_entity": "entities the model holds for unlikely, the least likely first",
    "missing_entity": "entities the model predicts and the data lack, the most likely first",
}


class Place(NamedTuple):
    """Characters [start, end) of a text; the whole text where both are 0."""

    source: str  # "file:line"
    text: str
    start: int = 0
    end: int = 0
    type: str = ""

    @classmethod
    def of(cls, example: Example, entity: Entity) -> "Place":
        return cls(example.source, example.text, entity.start, entity.end, entity.type)


@dataclass(frozen=True)
class Case:
    """One instance of a finding."""

    what: str
    places: tuple[Place, ...]  # the first `PLACES`
    count: int = 1  # of all places
    probability: float | None = None  # by a model


@dataclass(frozen=True)
class Finding:
    """All cases of a kind."""

    kind: str  # one of KINDS
    cases: list[Case]

    @property
    def title(self) -> str:
        return KINDS[self.kind]


def findings(**cases: Iterable[Case]) -> list[Finding]:
    """Cases by kind, without the kinds that have none, in the order of `KINDS`."""
    found = [Finding(kind, list(cases[kind])) for kind in KINDS if kind in cases]
    return [finding for finding in found if finding.cases]
