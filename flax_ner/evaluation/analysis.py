"""Analyse scores: bootstrap intervals, error types, counts per group and calibration."""

import warnings
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, NamedTuple

import numpy as np

from flax_ner.errors import UserError
from flax_ner.evaluation.metrics import MatchCounts
from flax_ner.text.examples import Entity, Example

# What becomes of a gold or a predicted entity. Source: SemEval-2013 task 9, under other names.
OUTCOMES = {
    "correct": "type and both boundaries correct",
    "type": "boundaries correct, type wrong",
    "boundary": "type correct, a boundary wrong",
    "both": "type and a boundary wrong, but the entities overlap",
    "missed": "gold entity without a predicted entity",
    "spurious": "predicted entity without a gold entity",
}
NUM_RESAMPLES = 2000
NUM_BINS = 10  # probability bins of the calibration error
# Upper bounds of the length groups, in characters.
LENGTH_GROUPS = (
    (2, "1-2 characters"),
    (4, "3-4 characters"),
    (6, "5-6 characters"),
    (10, "7-10 characters"),
)


class EntityMatch(NamedTuple):
    """A gold entity and the predicted entity matched to it. One of them is None if it has no match."""

    outcome: str  # one of OUTCOMES
    gold: Entity | None
    predicted: Entity | None


@dataclass(frozen=True)
class Interval:
    """A value with its 95% bootstrap interval [low, high]."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Comparison:
    """Difference in F1 between a model and another model on the same texts."""

    difference: Interval
    p: float  # two-sided p-value of the paired bootstrap


class ReliabilityBin(NamedTuple):
    """Predicted entities whose probability is in [low, high)."""

    low: float
    high: float
    entities: int
    probability: float  # mean probability
    correct: float  # fraction of correct entities


@dataclass(frozen=True)
class Reliability:
    """Reliability diagram. A fraction p of the entities with probability p is correct in a calibrated model."""

    bins: list[ReliabilityBin]  # without empty bins
    error: float  # expected calibration error: mean of |probability - correct| over entities


def counts_per_text(
    gold: Sequence[Iterable[Entity]], predicted: Sequence[Iterable[Entity]]
) -> np.ndarray:
    """Count the gold, predicted and correct entities of each text.

    Args:
        gold: the entities of each text; repetitions count once.
        predicted: the predicted entities of the same texts.

    Returns:
        int64 [texts, 3].
    """
    rows = []
    for gold_row, predicted_row in zip(gold, predicted, strict=True):
        a, b = {entity[:3] for entity in gold_row}, {entity[:3] for entity in predicted_row}
        rows.append((len(a), len(b), len(a & b)))
    return np.array(rows, np.int64).reshape(-1, 3)


def bootstrap_intervals(counts: np.ndarray, seed: int = 0) -> dict[str, Interval]:
    """Return precision, recall and F1 with 95% bootstrap intervals.

    The intervals are percentiles over resampled texts.

    Args:
        counts: int64 [texts, 3], as `counts_per_text` returns it.
        seed: seed of the resampling.

    Returns:
        The intervals by name: `precision`, `recall` and `f1`.
    """
    rates = _rates(counts.sum(0, keepdims=True))[0]
    low, high = np.percentile(_rates(_resample_sums(counts, seed)), (2.5, 97.5), axis=0)
    names = ("precision", "recall", "f1")
    return {
        name: Interval(*map(float, x)) for name, *x in zip(names, rates, low, high, strict=True)
    }


def check_comparable(
    gold: Mapping[str, int], categories: Collection[str], other: Collection[str]
) -> None:
    """Check that the F1 of two models on the same data can be compared.

    A model cannot predict a category that it was not trained with. Where only one of the models lacks a
    gold category, the difference of F1 does not say which model is better.

    Args:
        gold: entities of each category in the data.
        categories: the categories that the first model knows.
        other: the categories that the other model knows.

    Warns:
        UserWarning: one model knows categories that neither the other model nor the data have.

    Raises:
        UserError: only one of the models knows a gold category.
    """
    one_knows = sorted(set(categories) ^ set(other))
    if not one_knows:
        return
    counted = [f"{name!r} ({gold[name]} entities)" for name in one_knows if gold.get(name)]
    if counted:
        raise UserError(
            f"--compare: only one of the two models knows {', '.join(counted)}, so a test of their F1 would "
            "mean nothing. Compare models with the same categories, or use data whose categories both know."
        )
    warnings.warn(
        f"--compare: only one of the two models knows {', '.join(map(repr, one_knows))}. Its predictions of "
        "these categories count as wrong, because DATA has none.",
        stacklevel=2,
    )


def paired_bootstrap(counts: np.ndarray, other: np.ndarray, seed: int = 0) -> Comparison:
    """Test the difference in F1 between two models with a paired bootstrap over texts.

    Args:
        counts: int64 [texts, 3], the model's `counts_per_text`.
        other: int64 [texts, 3], the other model's counts on the same texts.
        seed: seed of the resampling.

    Returns:
        F1 of the model minus F1 of the other model, with interval and p-value.

    Raises:
        UserError: the numbers of texts differ.
    """
    if len(counts) != len(other):
        raise UserError(
            f"--compare: the other model has counts for {len(other)} texts, but {len(counts)} were scored."
        )
    both = _resample_sums(np.concatenate([counts, other], 1), seed)  # [resamples, 6]
    differences = _rates(both[:, :3])[:, 2] - _rates(both[:, 3:])[:, 2]
    value = _rates(counts.sum(0)[None])[0, 2] - _rates(other.sum(0)[None])[0, 2]
    low, high = np.percentile(differences, (2.5, 97.5))
    # With R resamples the smallest p-value is 2 / (R + 1): no resample can show p = 0.
    tail = (1 + min((differences <= 0).sum(), (differences >= 0).sum())) / (1 + NUM_RESAMPLES)
    return Comparison(Interval(float(value), float(low), float(high)), min(1.0, 2 * float(tail)))


def _resample_sums(counts: np.ndarray, seed: int) -> np.ndarray:
    """Sum counts [texts, n] over texts drawn with replacement; returns int64 [NUM_RESAMPLES, n]."""
    random, texts = np.random.default_rng(seed), len(counts)
    sums = np.zeros((NUM_RESAMPLES, counts.shape[1]), np.int64)
    for i in range(NUM_RESAMPLES):
        times_drawn = np.bincount(random.integers(0, texts, texts), minlength=texts)
        sums[i] = times_drawn @ counts
    return sums


def _rates(sums: np.ndarray) -> np.ndarray:
    """Return precision, recall and F1 [n, 3] for sums of gold, predicted and correct [n, 3]; 0 for 0 / 0."""
    gold, predicted, correct = sums.T.astype(np.float64)
    denominators = (predicted, gold, (gold + predicted) / 2)
    # All denominators except 0 are at least 0.5.
    return np.stack([correct / np.maximum(x, 0.5) for x in denominators], 1)


def match_entities(gold: Iterable[Entity], predicted: Iterable[Entity]) -> list[EntityMatch]:
    """Match the predicted entities of a text to its gold entities, one to one.

    Matches are made in this order: equal entities; equal boundaries; overlapping entities of the same
    type, the largest overlap first; overlapping entities of different types, the largest overlap first.

    Args:
        gold: the gold entities of the text; repetitions count once.
        predicted: the predicted entities of the text; repetitions count once.

    Returns:
        One match per pair and per entity that is left alone, in the order of the text.
    """
    gold, predicted = list(dict.fromkeys(gold)), list(dict.fromkeys(predicted))
    used_gold, used_predicted = set[int](), set[int]()
    # (rank, -overlap, gold index, predicted index, outcome): ascending order is best first.
    pairs = list[tuple[int, int, int, int, str]]()

    def match(rank: int, overlap: int, i: int, j: int, outcome: str) -> None:
        if i not in used_gold and j not in used_predicted:
            used_gold.add(i)
            used_predicted.add(j)
            pairs.append((rank, -overlap, i, j, outcome))

    # Most entities have a partner with the same boundaries. Matching those first keeps the search for overlaps
    # small. After it no two unmatched entities have the same boundaries.
    same: list[tuple[int, str, Callable[[Entity], tuple[Any, ...]]]] = [
        (-3, "correct", lambda e: e[:3]),
        (-2, "type", lambda e: e[1:3]),
    ]
    for rank, outcome, key in same:
        by_key: dict[tuple[Any, ...], list[int]] = {}
        for j, entity in enumerate(predicted):
            if j not in used_predicted:
                by_key.setdefault(key(entity), []).append(j)
        unmatched = {k: iter(indices) for k, indices in by_key.items()}
        for i, entity in enumerate(gold):
            if i not in used_gold and entity.start < entity.end and key(entity) in unmatched:
                for j in islice(unmatched[key(entity)], 1):  # the first unmatched one, if any
                    match(rank, entity.end - entity.start, i, j, outcome)

    # Match the rest by overlap.
    rest_gold = [i for i in range(len(gold)) if i not in used_gold]
    rest_predicted = [j for j in range(len(predicted)) if j not in used_predicted]
    candidates = []
    for a, b in overlapping_pairs(
        [gold[i] for i in rest_gold], [predicted[j] for j in rest_predicted]
    ):
        i, j = rest_gold[a], rest_predicted[b]
        overlap = min(gold[i].end, predicted[j].end) - max(gold[i].start, predicted[j].start)
        same_type = gold[i].type == predicted[j].type
        candidates.append((-same_type, overlap, i, j, ("both", "boundary")[same_type]))
    for candidate in sorted(candidates, key=lambda c: (c[0], -c[1], c[2], c[3])):
        match(*candidate)

    matches = [EntityMatch(outcome, gold[i], predicted[j]) for *_, i, j, outcome in sorted(pairs)]
    matches += [EntityMatch("missed", e, None) for i, e in enumerate(gold) if i not in used_gold]
    matches += [
        EntityMatch("spurious", None, e) for j, e in enumerate(predicted) if j not in used_predicted
    ]
    return sorted(matches, key=lambda m: (m.gold or m.predicted or Entity("", 0, 0))[1:3])


def overlapping_pairs(
    entities: Sequence[Entity], others: Sequence[Entity]
) -> Iterator[tuple[int, int]]:
    """Find all pairs of entities, one from each list, that share characters.

    Time grows with the number of entities and of such pairs.

    Args:
        entities: entities of a text, in any order.
        others: other entities of the same text, in any order.

    Yields:
        The index in `entities` and the index in `others`, in any order.
    """
    sides = entities, others
    order = sorted(
        (e.start, side, i) for side in (0, 1) for i, e in enumerate(sides[side]) if e.start < e.end
    )
    # Sweep over the text. An active entity has started and may have ended.
    active: tuple[list[int], list[int]] = ([], [])
    for start, side, i in order:
        other = 1 - side
        # An entity that has ended is visited once more and then dropped, so the sweep stays linear.
        still_open = [j for j in active[other] if sides[other][j].end > start]
        active[other][:] = still_open
        for j in still_open:
            yield (i, j) if side == 0 else (j, i)
        active[side].append(i)


def count_outcomes(matches: Iterable[Sequence[EntityMatch]]) -> dict[str, int]:
    """Count the matches of all texts by outcome; every key of `OUTCOMES` is present."""
    count = Counter(match.outcome for text in matches for match in text)
    return {outcome: count[outcome] for outcome in OUTCOMES}


def count_confusions(matches: Iterable[Sequence[EntityMatch]]) -> dict[tuple[str, str], int]:
    """Count how often a gold category was predicted as another one, whatever the boundaries.

    Returns:
        Counts by (gold, predicted) category, the most frequent first.
    """
    count = Counter(
        (match.gold.type, match.predicted.type)
        for text in matches
        for match in text
        if match.gold and match.predicted and match.gold.type != match.predicted.type
    )
    return dict(count.most_common())


def counts_by_group(
    gold: Sequence[Iterable[Entity]],
    predicted: Sequence[Iterable[Entity]],
    group: Callable[[Entity], str],
) -> dict[str, MatchCounts]:
    """Count gold, predicted and correct entities by group.

    Args:
        gold: the entities of each text; repetitions count once.
        predicted: the predicted entities of the same texts.
        group: returns the group of an entity, such as `length_group`.

    Returns:
        Counts by group, sorted by name. A predicted entity counts in its own group.
    """
    sums: dict[str, list[int]] = {}
    for gold_row, predicted_row in zip(gold, predicted, strict=True):
        a, b = ({e[:3]: group(e) for e in side} for side in (gold_row, predicted_row))
        correct = {key: name for key, name in a.items() if key in b}
        for column, side in enumerate((a, b, correct)):
            for name in side.values():
                sums.setdefault(name, [0, 0, 0])[column] += 1
    return {name: MatchCounts(*sums[name]) for name in sorted(sums)}


def length_group(entity: Entity) -> str:
    """Return the length group of an entity, for `counts_by_group`."""
    size = entity.end - entity.start
    return next((name for most, name in LENGTH_GROUPS if size <= most), "over 10 characters")


def make_seen_group(train: Iterable[Example]) -> Callable[[Entity], str]:
    """Make a grouping for `counts_by_group`: was the entity's surface labelled in the training data?

    Args:
        train: the training examples.

    Returns:
        A function that returns the group of an entity: seen with this category, seen with other
        categories only, or not seen.
    """
    types: dict[str, set[str]] = {}
    for example in train:
        for entity in example.entities or ():
            types.setdefault(entity.text, set()).add(entity.type)

    def group(entity: Entity) -> str:
        known = types.get(entity.text, set())
        if entity.type in known:
            return "seen in training"
        return "seen as another category" if known else "not seen"

    return group


def compute_reliability(
    gold: Sequence[Iterable[Entity]], predicted: Sequence[Iterable[Entity]]
) -> Reliability:
    """Compute a reliability diagram and the expected calibration error.

    Args:
        gold: the entities of each text.
        predicted: the predicted entities of the same texts; `Entity.score` is the probability.

    Returns:
        Bins of equal width, empty ones left out, and the calibration error (0 without predictions).
    """
    rows = []
    for gold_row, predicted_row in zip(gold, predicted, strict=True):
        gold_spans = {entity[:3] for entity in gold_row}
        rows += [(entity.score, entity[:3] in gold_spans) for entity in predicted_row]
    if not rows:
        return Reliability([], 0.0)
    probability, correct = np.array(rows, np.float64).T
    bin_index = np.minimum((probability * NUM_BINS).astype(int), NUM_BINS - 1)
    bins = []
    for i in np.unique(bin_index).tolist():
        in_bin = bin_index == i
        means = float(probability[in_bin].mean()), float(correct[in_bin].mean())
        bins.append(ReliabilityBin(i / NUM_BINS, (i + 1) / NUM_BINS, int(in_bin.sum()), *means))
    error = sum(b.entities * abs(b.probability - b.correct) for b in bins) / len(rows)
    return Reliability(bins, error)
