"""Compute entity-level precision, recall and F1 with vectorised NumPy."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from flax_ner.arguments import are_plain_entities, check_entities, check_list
from flax_ner.errors import UserError
from flax_ner.text.labels import Spans, check_convention


@dataclass(frozen=True)
class MatchCounts:
    """Numbers of gold, predicted and correctly predicted entities, and the rates they give.

    A rate whose denominator is 0 is 0.
    """

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
class Scores(MatchCounts):
    """Counts over all categories (micro average) and, in `by_type`, the counts per category."""

    by_type: dict[str, MatchCounts]


EntityLists = Sequence[Iterable[Sequence[Any]]]


def score(gold: EntityLists, predicted: EntityLists, convention: str = "strict") -> Scores:
    """Score predicted entities against gold entities.

    A prediction is correct if its type and both boundaries are equal to those of a gold entity. `by_type`
    has every category that occurs in the gold or in the predicted entities.

    Args:
        gold: the entities of each text. An entity is a sequence that starts with `(type, start, end)`.
        predicted: the predicted entities of the same texts, in the same order. The conventions also
            differ in how tags are decoded to entities; `LabelSet.decode` does that beforehand.
        convention: `strict` and `lenient` count an entity that is repeated within a text once. `mmocr`
            counts every mention: each repetition of a prediction is correct or wrong on its own.
            Source: MMOCR 0.6.3, ner_metric.py; differs: it drops from the table a category that
            the gold data lack.

    Returns:
        The micro-averaged scores and the counts per category, sorted by name.

    Raises:
        UserError: the convention is unknown, the numbers of texts differ, or an element is not a list
            of entities.
    """
    check_convention(convention)
    gold = check_list(gold, "gold", "one list of entities per text")
    predicted = check_list(predicted, "predicted", "one list of entities per text")
    if len(gold) != len(predicted):
        raise UserError(
            f"predicted: {len(predicted)} rows for {len(gold)} gold rows. Give one row per text."
        )
    sides = {
        name: [
            row if type(row) in (list, tuple) else check_list(row, f"{name}[{i}]", "entities")
            for i, row in enumerate(rows)
        ]
        for name, rows in (("gold", gold), ("predicted", predicted))
    }
    entities_per_row = [len(entities) for rows in sides.values() for entities in rows]
    row = np.repeat(np.tile(np.arange(len(gold)), 2), entities_per_row)
    flat = [entity for rows in sides.values() for entities in rows for entity in entities]
    # The check per entity is slow. It runs only to name the entity that is wrong.
    if not are_plain_entities(flat):
        for name, rows in sides.items():
            for i, entities in enumerate(rows):
                check_entities(entities, f"{name}[{i}]")
    names = [entity[0] for entity in flat]
    type_ids = {name: i for i, name in enumerate(sorted(set(names)))}
    type_id = np.array([type_ids[name] for name in names], np.int64)
    start, end = (_to_int64([entity[i] for entity in flat]) for i in (1, 2))
    num_gold = sum(entities_per_row[: len(gold)])
    return _score_columns((row, type_id, start, end), num_gold, list(type_ids), convention)


def score_spans(
    gold: Spans, predicted: Spans, categories: Sequence[str], convention: str = "strict"
) -> Scores:
    """Score predicted spans against gold spans, both given as arrays.

    Use this instead of `score` for the output of `LabelSet.decode_spans`; it is faster.

    Args:
        gold: the gold entities, in any order.
        predicted: the predicted entities of the same rows, in any order.
        categories: distinct category names, which `Spans.category_id` indexes (`LabelSet.categories`).
        convention: see `score`. It must be the convention that decoded the tags.

    Returns:
        The micro-averaged scores and the counts per category, sorted by name.

    Raises:
        UserError: the convention is unknown, or a type is not an index into `categories`.
    """
    check_convention(convention)
    columns = [np.concatenate(pair) for pair in zip(gold, predicted, strict=True)]
    type_id = columns[1]
    if len(type_id) and not 0 <= type_id.min() <= type_id.max() < len(categories):
        raise UserError(
            f"categories: {len(categories)} names, but types from {type_id.min()} to {type_id.max()}. Give "
            "the categories of the label set that decoded the tags."
        )
    return _score_columns(columns, len(gold.row), categories, convention)


def _to_int64(values: list[Any]) -> np.ndarray:
    """Return integers as int64 [E], or their ranks if one of them does not fit into int64."""
    try:
        return np.array(values, np.int64)
    except OverflowError:
        # Scores only compare offsets for equality, which ranks preserve.
        return np.unique(np.array(values, object), return_inverse=True)[1]


def _score_columns(
    columns: Sequence[np.ndarray], num_gold: int, categories: Sequence[str], convention: str
) -> Scores:
    """Score entities given as the columns of `Spans`, int [E]; the first `num_gold` are gold."""
    row, type_id, start, end = columns
    size = len(categories)
    # One integer key per entity, whose remainder modulo `size` is the category.
    keys = _encode_rows((row, start, end), 2**63 // max(size, 1))
    keys *= size
    keys += type_id
    gold, predicted = keys[:num_gold], keys[num_gold:]
    gold_set, predicted_set = _sorted_unique(gold), _sorted_unique(predicted)
    # Both halves are sorted, so a stable sort merges them in linear time.
    both = np.sort(np.concatenate([gold_set, predicted_set]), kind="stable")
    correct = both[1:][both[1:] == both[:-1]]
    if convention == "mmocr":
        # MMOCR: every repetition of a correct prediction counts.
        predicted = np.sort(predicted)
        left, right = (np.searchsorted(predicted, correct, side) for side in ("left", "right"))
        correct = np.repeat(correct, right - left)
    else:
        gold, predicted = gold_set, predicted_set
    totals = [
        np.bincount(side % size, minlength=size).tolist() for side in (gold, predicted, correct)
    ]
    counts = {name: MatchCounts(*total) for name, *total in zip(categories, *totals, strict=True)}
    by_type = {
        name: counts[name] for name in sorted(counts) if counts[name].gold or counts[name].predicted
    }
    return Scores(len(gold), len(predicted), len(correct), by_type)


def _encode_rows(columns: Sequence[np.ndarray], limit: int) -> np.ndarray:
    """Return an integer below `limit` for each row of integer columns [E]; equal rows get equal integers.

    The integers are ordered as the rows are, so the keys of sorted rows need no sorting.
    """
    lows = [int(column.min(initial=0)) for column in columns]
    highs = [int(column.max(initial=0)) for column in columns]
    sizes = [high - low + 1 for low, high in zip(lows, highs, strict=True)]
    if math.prod(sizes) >= limit:  # slower, but correct for any values
        return np.unique(np.stack(columns, 1), axis=0, return_inverse=True)[1].reshape(-1)
    encoded = np.zeros(len(columns[0]), np.int64)
    for column, low, size in zip(columns, lows, sizes, strict=True):
        encoded *= size
        encoded += column
        encoded -= low
    return encoded


def _sorted_unique(keys: np.ndarray) -> np.ndarray:
    """Return the sorted distinct keys. Faster than `np.unique` for keys that are almost sorted."""
    keys = np.sort(keys, kind="stable")
    return keys[np.append(True, keys[1:] != keys[:-1])[: len(keys)]]
