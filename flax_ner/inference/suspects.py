"""Labels that a model doubts: entities of the data it holds for unlikely, and others it is sure of.

A model that has seen the data in training has learned their faults too: the better judge is one
that was trained on other data.
"""

from collections.abc import Iterable, Sequence
from functools import cache

import numpy as np

from flax_ner.errors import UserError
from flax_ner.inference.tagger import Tagger
from flax_ner.inference.work import Words
from flax_ner.text.analysis import overlapping
from flax_ner.text.encoding import spans_in_words
from flax_ner.text.examples import Entity, Example
from flax_ner.text.findings import Case, Finding, Place, findings
from flax_ner.text.labels import LabelSet

EVEN = 0.5  # below it the model holds an entity for wrong rather than right


def suspects(tagger: Tagger, examples: Iterable[Example]) -> list[Finding]:
    """Entities that a model and the data disagree on; examples without a label are left out.

    An entity is as likely as its least likely tag, or as that it ends there. (A product of all
    would hold every long entity for unlikely.) Reported are entities of the data below one half,
    and entities the model predicts (`strict`) above it that the data lack.

    Raises:
        UserError: with file and line, for a category the model does not know.
    """
    judge = Judge(tagger.labels)
    labelled = [example for example in examples if example.entities is not None]
    for example in labelled:  # all of them before the model's work of minutes or hours
        judge.check(example)
    unlikely, missing = list[Case](), list[Case]()
    words_of = tagger.explain_words(example.text for example in labelled)
    for example, words in zip(labelled, words_of, strict=True):
        gold = [Entity(*entity[:3]) for entity in example.entities or ()]
        known = {judge.in_words(words, entity) for entity in gold}
        found = judge.found(words)
        across_gold, across_found = _across(gold, found)
        for entity, across in zip(gold, across_gold, strict=True):
            probability = judge.probability(words, entity)
            if probability < EVEN:
                told = f"the model predicts {_listed(example.text, across)}"
                unlikely.append(Case(told, (Place.of(example, entity),), 1, probability))
        for entity, across in zip(found, across_found, strict=True):
            if judge.in_words(words, entity) in known:
                continue
            probability = judge.probability(words, entity)
            if probability > EVEN:
                told = f"the data have {_listed(example.text, across)}"
                missing.append(Case(told, (Place.of(example, entity),), 1, probability))
    unlikely.sort(key=lambda case: case.probability or 0.0)
    missing.sort(key=lambda case: -(case.probability or 0.0))
    return findings(unlikely_entity=unlikely, missing_entity=missing)


class Judge:
    """Reads entities and their probabilities off those of the tags of a text's words."""

    def __init__(self, labels: LabelSet):
        self.labels = labels
        self._tags = cache(lambda kind, size: labels.encode([(kind, 0, size)], size)[1:-1])

    def check(self, example: Example) -> None:
        """Raise `UserError` for a category that the labels lack."""
        for entity in example.entities or ():
            if entity.type not in self.labels.categories:
                raise UserError(
                    f"{example.source}: the model does not know the category {entity.type!r}, only "
                    f"{', '.join(self.labels.categories)}. Give a model that was trained on such data."
                )

    def found(self, words: Words) -> list[Entity]:
        """Return the entities of a text, as `Tagger` finds them under `strict`."""
        place = np.arange(len(words.tag))
        spans = self.labels.spans(words.tag, np.zeros_like(place), place, "strict")
        start, end = words.start[spans.start], words.end[spans.end - 1]
        columns = (spans.type.tolist(), start.tolist(), end.tolist())
        return [Entity(self.labels.categories[k], a, b) for k, a, b in zip(*columns, strict=True)]

    def in_words(self, words: Words, entity: Entity) -> tuple[str, int, int]:
        """An entity as [start, end) of the words that it is in."""
        first, stop = spans_in_words(np.array([entity[1:3]]), words.start, words.end)
        return entity.type, first.item(), stop.item()

    def probability(self, words: Words, entity: Entity) -> float:
        """Of the least likely of the entity's tags, and of its not going on behind them.

        Of an entity that is no whole words it is that of the words it is in; without any, 0.
        """
        table, (kind, start, end) = words.table, self.in_words(words, entity)
        if start == end:
            return 0.0
        least = float(table[np.arange(start, end), self._tags(kind, end - start)].min())
        # Where a tag of its own marks the last word, nothing else tells of the end.
        _, inside, last = self._tags(kind, 3)
        if end < len(table) and last == inside:
            least = min(least, 1.0 - float(table[end, inside]))
        return least


def _across(
    gold: Sequence[Entity], found: Sequence[Entity]
) -> tuple[list[list[Entity]], list[list[Entity]]]:
    """Return the found entities that share characters with each gold one, and the gold ones with each found."""
    of_gold: list[list[Entity]] = [[] for _ in gold]
    of_found: list[list[Entity]] = [[] for _ in found]
    for i, j in sorted(overlapping(gold, found)):
        of_gold[i].append(found[j])
        of_found[j].append(gold[i])
    return of_gold, of_found


def _listed(text: str, entities: Sequence[Entity]) -> str:
    return ", ".join(f"{e.type} {text[e.start : e.end]!r}" for e in entities) or "nothing there"
