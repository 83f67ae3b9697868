"""Entity precision, recall and F1 over whole data sets, vectorised."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from flax_ner.errors import UserError
from flax_ner.text.labels import CONVENTIONS


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
    """
    if convention not in CONVENTIONS:
        raise UserError(
            f"scoring: {convention!r} is unknown. Choose one of {', '.join(CONVENTIONS)}."
        )
    if len(gold) != len(predicted):
        raise UserError(
            f"predicted: {len(predicted)} rows for {len(gold)} gold rows. Give one row for each text."
        )
    types: dict[str, int] = {}
    gold_keys, predicted_keys = _keys(gold, types), _keys(predicted, types)
    if convention != "mmocr":
        gold_keys, predicted_keys = np.unique(gold_keys, axis=0), np.unique(predicted_keys, axis=0)
    return _count(gold_keys, predicted_keys, sorted(types), types)


def _keys(rows: Rows, types: dict[str, int]) -> np.ndarray:
    """One line `(row, type, start, end)` an entity, int64 [E, 4]; new types are added to `types`."""
    flat = [
        (row, types.setdefault(entity[0], len(types)), entity[1], entity[2])
        for row, entities in enumerate(rows)
        for entity in entities
    ]
    return np.array(flat, np.int64).reshape(-1, 4)


def _count(
    gold: np.ndarray, predicted: np.ndarray, names: list[str], types: dict[str, int]
) -> Scores:
    lines = np.ascontiguousarray(np.concatenate([gold, predicted]))
    _, ids = np.unique(lines, axis=0, return_inverse=True)
    ids = ids.reshape(-1)
    correct = np.isin(ids[len(gold) :], ids[: len(gold)])
    size = len(types)
    totals = (
        np.bincount(gold[:, 1], minlength=size),
        np.bincount(predicted[:, 1], minlength=size),
        np.bincount(predicted[correct, 1], minlength=size),
    )
    by_type = {name: Counts(*(int(total[types[name]]) for total in totals)) for name in names}
    return Scores(len(gold), len(predicted), int(correct.sum()), by_type)
