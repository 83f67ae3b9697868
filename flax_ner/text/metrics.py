"""Entity precision, recall and F1 over whole data sets, vectorised."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from flax_ner.arguments import are_plain_entities, check_entities, check_list
from flax_ner.errors import UserError
from flax_ner.text.labels import Spans, check_convention


@dataclass(frozen=True)
class Counts:
    """How many entities are in the gold data, how many were predicted, how many of these are right."""

    gold: int
    predicted: int
    correct: int

    @property
    def precision(self) -> float:
        return self.correct / self.predicted if self.predicted else 0.0

    @property
    def recall(self) -> float:
        return self.correct / self.gold if self.gold else 0.0

    @property
    def f1(self) -> float:
        precision, recall = self.precision, self.recall
        return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


@dataclass(frozen=True)
class Scores(Counts):
    """Counts over all categories (micro average), and those of each in `by_type`."""

    by_type: dict[str, Counts]


Rows = Sequence[Iterable[Sequence[Any]]]


def score(gold: Rows, predicted: Rows, convention: str = "strict") -> Scores:
    """Compare entities, exact in type and boundaries; a category of either side has its row.

    Args:
        gold: for each text its entities, each a sequence that starts with `(type, start, end)`.
        predicted: the same, text by text. The conventions differ in how tags become entities
            (`LabelSet.decode`), hence before this function.
        convention: `strict` and `lenient` count an entity given twice in one text once. `mmocr`
            counts every mention: a repeated prediction is right or wrong each time.
            Source: MMOCR 0.6.3, ner_metric.py; differs: it drops from the table a category that
            the gold data lack.

    Raises:
        UserError: an unknown convention, other numbers of texts, or anything but lists of entities.
    """
    check_convention(convention)
    gold = check_list(gold, "gold", "one list of entities per text")
    predicted = check_list(predicted, "predicted", "one list of entities per text")
    if len(gold) != len(predicted):
        raise UserError(
            f"predicted: {len(predicted)} rows for {len(gold)} gold rows. Give one row for each text."
        )
    sides = {
        name: [
            row if type(row) in (list, tuple) else check_list(row, f"{name}[{i}]", "entities")
            for i, row in enumerate(rows)
        ]
        for name, rows in (("gold", gold), ("predicted", predicted))
    }
    counts = [len(entities) for rows in sides.values() for entities in rows]
    row = np.repeat(np.tile(np.arange(len(gold)), 2), counts)
    flat = [entity for rows in sides.values() for entities in rows for entity in entities]
    if not are_plain_entities(flat):
        for name, rows in sides.items():
            for i, entities in enumerate(rows):
                check_entities(entities, f"{name}[{i}]")
    names = [entity[0] for entity in flat]
    types = {name: i for i, name in enumerate(sorted(set(names)))}
    kind = np.array([types[name] for name in names], np.int64)
    start, end = (_integers([entity[i] for entity in flat]) for i in (1, 2))
    golds = sum(counts[: len(gold)])
    return _score((row, kind, start, end), golds, list(types), convention)


def score_spans(
    gold: Spans, predicted: Spans, categories: Sequence[str], convention: str = "strict"
) -> Scores:
    """As `score`, from arrays: what `LabelSet.decode_spans` makes of gold and of predicted tags.

    Args:
        gold, predicted: entities of the same rows, in any order.
        categories: distinct names, which `Spans.type` counts (`LabelSet.categories`).
        convention: as in `score`, and the one that the tags were decoded by.

    Raises:
        UserError: an unknown convention, or a type that has no name.
    """
    check_convention(convention)
    columns = [np.concatenate(pair) for pair in zip(gold, predicted, strict=True)]
    kind = columns[1]
    if len(kind) and not 0 <= kind.min() <= kind.max() < len(categories):
        raise UserError(
            f"categories: {len(categories)} names, but types from {kind.min()} to {kind.max()}. Give the "
            "categories of the label set that decoded the tags."
        )
    return _score(columns, len(gold.row), categories, convention)


def _integers(values: list[Any]) -> np.ndarray:
    """As int64; where one is too large for that, all by their rank, which compares alike."""
    try:
        return np.array(values, np.int64)
    except OverflowError:
        return np.unique(np.array(values, object), return_inverse=True)[1]


def _score(
    columns: Sequence[np.ndarray], golds: int, categories: Sequence[str], convention: str
) -> Scores:
    """Scores of entities in columns like those of `Spans`; the first `golds` of them are gold."""
    row, kind, start, end = columns
    size = len(categories)
    keys = _number((row, start, end), 2**63 // max(size, 1))
    keys *= size
    keys += kind
    gold, predicted = keys[:golds], keys[golds:]
    gold_set, predicted_set = _distinct(gold), _distinct(predicted)
    # Two sorted runs: a stable sort merges them.
    both = np.sort(np.concatenate([gold_set, predicted_set]), kind="stable")
    correct = both[1:][both[1:] == both[:-1]]
    if convention == "mmocr":
        predicted = np.sort(predicted)
        left, right = (np.searchsorted(predicted, correct, side) for side in ("left", "right"))
        correct = np.repeat(correct, right - left)
    else:
        gold, predicted = gold_set, predicted_set
    totals = [
        np.bincount(side % size, minlength=size).tolist() for side in (gold, predicted, correct)
    ]
    counts = {name: Counts(*figures) for name, *figures in zip(categories, *totals, strict=True)}
    by_type = {
        name: counts[name] for name in sorted(counts) if counts[name].gold or counts[name].predicted
    }
    return Scores(len(gold), len(predicted), len(correct), by_type)


def _number(columns: Sequence[np.ndarray], limit: int) -> np.ndarray:
    """A number below `limit` for each line of integer columns [E], the same for lines that are the same.

    Numbers ascend as lines do, so what comes in order needs no sorting.
    """
    lows = [int(column.min(initial=0)) for column in columns]
    highs = [int(column.max(initial=0)) for column in columns]
    sizes = [high - low + 1 for low, high in zip(lows, highs, strict=True)]
    if math.prod(sizes) >= limit:  # slower, and right for any values
        return np.unique(np.stack(columns, 1), axis=0, return_inverse=True)[1].reshape(-1)
    number = np.zeros(len(columns[0]), np.int64)
    for column, low, size in zip(columns, lows, sizes, strict=True):
        number *= size
        number += column
        number -= low
    return number


def _distinct(keys: np.ndarray) -> np.ndarray:
    """Sorted and each once. `np.unique` does not profit from keys that are in order already."""
    keys = np.sort(keys, kind="stable")
    return keys[np.append(True, keys[1:] != keys[:-1])[: len(keys)]]
