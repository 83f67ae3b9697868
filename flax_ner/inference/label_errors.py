"""Find likely label errors: entities that a model and the data disagree on.

Use a model that was not trained on the data. A model has learned the errors of its training data.
"""

from collections.abc import Iterable, Sequence
from functools import cache

import numpy as np

from flax_ner.data_quality.findings import Case, Finding, Location, collect_findings
from flax_ner.errors import UserError
from flax_ner.evaluation.analysis import overlapping_pairs
from flax_ner.inference.pending import Words
from flax_ner.inference.tagger import Tagger
from flax_ner.text.encoding import align_spans_to_words
from flax_ner.text.examples import Entity, Example
from flax_ner.text.labels import LabelSet

REPORT_THRESHOLD = 0.5  # the model finds an entity more likely than not above it


def find_label_errors(tagger: Tagger, examples: Iterable[Example]) -> list[Finding]:
    """Find labelled entities that the model finds unlikely, and unlabelled ones that it predicts.

    The probability of an entity is the minimum over its tag probabilities and the probability that it
    ends there. A product would make every long entity unlikely. Reported are labelled entities with a
    probability below one half, and unlabelled predicted entities (`strict`) above it.

    Args:
        tagger: the model.
        examples: examples to check; those without a label are skipped.

    Returns:
        The findings `unlikely_entity`, least likely cases first, and `missing_entity`, most likely
        cases first. A finding without cases is left out.

    Raises:
        UserError: an example has a category that the model does not know; names file and line.
    """
    scorer = LabelScorer(tagger.labels)
    labelled = [example for example in examples if example.entities is not None]
    # Check all examples first: the model may run for hours.
    for example in labelled:
        scorer.check_categories(example)
    unlikely, missing = list[Case](), list[Case]()
    words_per_text = tagger.predict_word_proba(example.text for example in labelled)
    for example, words in zip(labelled, words_per_text, strict=True):
        gold = [Entity(*entity[:3]) for entity in example.entities or ()]
        gold_words = {scorer.word_span(words, entity) for entity in gold}
        predicted = scorer.predicted_entities(words)
        predicted_by_gold, gold_by_predicted = _overlapping_entities(gold, predicted)
        for entity, overlapping in zip(gold, predicted_by_gold, strict=True):
            probability = scorer.probability(words, entity)
            if probability < REPORT_THRESHOLD:
                description = f"the model predicts {_list_entities(example.text, overlapping)}"
                location = Location.of_entity(example, entity)
                unlikely.append(Case(description, (location,), 1, probability))
        for entity, overlapping in zip(predicted, gold_by_predicted, strict=True):
            if scorer.word_span(words, entity) in gold_words:
                continue
            probability = scorer.probability(words, entity)
            if probability > REPORT_THRESHOLD:
                description = f"the data has {_list_entities(example.text, overlapping)}"
                location = Location.of_entity(example, entity)
                missing.append(Case(description, (location,), 1, probability))
    unlikely.sort(key=lambda case: case.probability or 0.0)
    missing.sort(key=lambda case: -(case.probability or 0.0))
    return collect_findings(unlikely_entity=unlikely, missing_entity=missing)


class LabelScorer:
    """Compute entities and their probabilities from the tag probabilities of a text's words."""

    def __init__(self, labels: LabelSet):
        self.labels = labels
        self._tags = cache(lambda category, size: labels.encode([(category, 0, size)], size)[1:-1])

    def check_categories(self, example: Example) -> None:
        """Raise `UserError` if the example has a category that the label set lacks."""
        for entity in example.entities or ():
            if entity.type not in self.labels.categories:
                raise UserError(
                    f"{example.source}: the model does not know the category {entity.type!r}, only "
                    f"{', '.join(self.labels.categories)}. Give a model that was trained on such data."
                )

    def predicted_entities(self, words: Words) -> list[Entity]:
        """Return the entities of a text as `Tagger` predicts them under `strict`."""
        index = np.arange(len(words.tag))
        spans = self.labels.spans(words.tag, np.zeros_like(index), index, "strict")
        start, end = words.start[spans.start], words.end[spans.end - 1]
        columns = (spans.category_id.tolist(), start.tolist(), end.tolist())
        return [Entity(self.labels.categories[k], a, b) for k, a, b in zip(*columns, strict=True)]

    def word_span(self, words: Words, entity: Entity) -> tuple[str, int, int]:
        """Return the entity's type and the words [start, end) that it overlaps."""
        first, stop = align_spans_to_words(np.array([entity[1:3]]), words.start, words.end)
        return entity.type, first.item(), stop.item()

    def probability(self, words: Words, entity: Entity) -> float:
        """Return the minimum of the entity's tag probabilities and the probability that it ends there.

        An entity that starts or ends within a word gets the probability of its whole words. An entity
        that overlaps no word gets 0.
        """
        table, (category, start, end) = words.table, self.word_span(words, entity)
        if start == end:
            return 0.0
        lowest = float(table[np.arange(start, end), self._tags(category, end - start)].min())
        # Without a tag for the last word (E-), only the next word's tag tells where the entity ends.
        _, inside, last = self._tags(category, 3)
        if end < len(table) and last == inside:
            lowest = min(lowest, 1.0 - float(table[end, inside]))
        return lowest


def _overlapping_entities(
    gold: Sequence[Entity], predicted: Sequence[Entity]
) -> tuple[list[list[Entity]], list[list[Entity]]]:
    """Return the predicted entities that overlap each gold entity, and the other way round."""
    by_gold: list[list[Entity]] = [[] for _ in gold]
    by_predicted: list[list[Entity]] = [[] for _ in predicted]
    for i, j in sorted(overlapping_pairs(gold, predicted)):
        by_gold[i].append(predicted[j])
        by_predicted[j].append(gold[i])
    return by_gold, by_predicted


def _list_entities(text: str, entities: Sequence[Entity]) -> str:
    return ", ".join(f"{e.type} {text[e.start : e.end]!r}" for e in entities) or "no entity here"
