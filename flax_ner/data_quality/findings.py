"""Findings of a data audit: kinds of problems, each with its cases and their locations."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from flax_ner.text.examples import Entity, Example

MAX_LOCATIONS = 5  # kept per case; `Case.count` counts all of them

# Title of each kind of finding, in the order of reports.
FINDING_TITLES = {
    "shared_text": "texts in more than one file; if a model trained on one, its score on another is too high",
    "duplicate_text": "texts more than once in a file",
    "category_in_one_file": "categories that are missing from another labelled file",
    "similar_categories": "categories that differ only in case or white space",
    "two_categories": "surfaces labelled with different categories, most minority labels first",
    "labelled_and_not": "surfaces labelled in some texts and unlabelled in others, most inconsistent first",
    "overlap": "entities that start before another ends; only the head global_pointer can learn both",
    "unbalanced": "entities with an unmatched bracket or quote",
    "edge_space": "entities that start or end with a space or an invisible character",
    "edge_punctuation": "entities that start or end with punctuation",
    "one_character": "entities of one character",
    "empty_text": "texts without a visible character",
    "long_text": "very long texts, which a model reads in windows",
    "unlabelled_text": "texts without a label in a file that has labels",
    "unlikely_entity": "labelled entities that the model finds unlikely, least likely first",
    "missing_entity": "unlabelled entities that the model predicts, most likely first",
}


class Location(NamedTuple):
    """Characters [start, end) of a text, or the whole text if both are 0."""

    source: str  # "file:line"
    text: str
    start: int = 0
    end: int = 0
    type: str = ""

    @classmethod
    def of_entity(cls, example: Example, entity: Entity) -> "Location":
        """Return the location of an entity of an example."""
        return cls(example.source, example.text, entity.start, entity.end, entity.type)


@dataclass(frozen=True)
class Case:
    """One instance of a finding, such as one surface with two categories."""

    description: str
    locations: tuple[Location, ...]  # the first `MAX_LOCATIONS`
    count: int = 1  # number of all locations
    probability: float | None = None  # of the entity, if a model judged it


@dataclass(frozen=True)
class Finding:
    """All cases of one kind."""

    kind: str  # a key of FINDING_TITLES
    cases: list[Case]

    @property
    def title(self) -> str:
        return FINDING_TITLES[self.kind]


def collect_findings(**cases: Iterable[Case]) -> list[Finding]:
    """Collect cases into findings, in the order of `FINDING_TITLES`.

    Args:
        cases: cases by kind.

    Returns:
        One finding per kind that has cases.
    """
    findings = [Finding(kind, list(cases[kind])) for kind in FINDING_TITLES if kind in cases]
    return [finding for finding in findings if finding.cases]
