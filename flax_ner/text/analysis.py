"""What lies behind a score: how sure it is, the kinds of errors, where they are, whether probabilities hold."""

import warnings
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, NamedTuple

import numpy as np

from flax_ner.errors import UserError
from flax_ner.text.examples import Entity, Example
from flax_ner.text.metrics import Counts

# How a gold or a predicted entity fares. Source: SemEval-2013 task 9, whose kinds these are by other names.
KINDS = {
    "correct": "type and both boundaries right",
    "type": "boundaries right, type wrong",
    "boundary": "type right, a boundary wrong",
    "both": "overlaps an entity of another type, a boundary wrong",
    "missed": "in the gold data, nothing found there",
    "spurious": "found where the gold data have nothing",
}
RESAMPLES = 2000
BINS = 10  # of probabilities


class Pair(NamedTuple):
    """A gold and a predicted entity that belong together, or one of them alone, and what it is."""

    kind: str  # of KINDS
    gold: Entity | None
    predicted: Entity | None


@dataclass(frozen=True)
class Interval:
    """A figure with the bounds of its 95% bootstrap interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Comparison:
    """F1 of one model less that of another on the same texts."""

    difference: Interval
    p: float  # two-sided: how often resampling turns the sign, times two


class Bin(NamedTuple):
    """Entities whose probability lies in one tenth."""

    low: float
    high: float
    entities: int
    probability: float  # the mean
    correct: float  # the share


@dataclass(frozen=True)
class Reliability:
    """Whether entities of probability p are right p of the time."""

    bins: list[Bin]  # those that hold entities
    error: float  # expected calibration error: mean of |probability - correct| over entities


def counts_per_text(
    gold: Sequence[Iterable[Entity]], predicted: Sequence[Iterable[Entity]]
) -> np.ndarray:
    """Gold, predicted and correct entities of each text, int64 [texts, 3], each entity once."""
    rows = []
    for truth, found in zip(gold, predicted, strict=True):
        a, b = {entity[:3] for entity in truth}, {entity[:3] for entity in found}
        rows.append((len(a), len(b), len(a & b)))
    return np.array(rows, np.int64).reshape(-1, 3)


def intervals(counts: np.ndarray, seed: int = 0) -> dict[str, Interval]:
    """Precision, recall and F1 of `counts_per_text` with 95% intervals: percentiles over resampled texts."""
    rates = _rates(counts.sum(0, keepdims=True))[0]
    low, high = np.percentile(_rates(_resampled(counts, seed)), (2.5, 97.5), axis=0)
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


def compare(counts: np.ndarray, other: np.ndarray, seed: int = 0) -> Comparison:
    """The paired bootstrap of two models' `counts_per_text` on the same texts.

    Raises:
        UserError: they are of different numbers of texts.
    """
    if len(counts) != len(other):
        raise UserError(f"--compare: {len(other)} texts, but {len(counts)} were scored.")
    both = _resampled(np.concatenate([counts, other], 1), seed)  # [resamples, 6]
    differences = _rates(both[:, :3])[:, 2] - _rates(both[:, 3:])[:, 2]
    value = _rates(counts.sum(0)[None])[0, 2] - _rates(other.sum(0)[None])[0, 2]
    low, high = np.percentile(differences, (2.5, 97.5))
    # Of so many draws none says less than one in as many.
    share = (1 + min((differences <= 0).sum(), (differences >= 0).sum())) / (1 + RESAMPLES)
    return Comparison(Interval(float(value), float(low), float(high)), min(1.0, 2 * float(share)))


def _resampled(counts: np.ndarray, seed: int) -> np.ndarray:
    """Sums of counts [texts, n] over texts drawn with replacement, [RESAMPLES, n]."""
    random, texts = np.random.default_rng(seed), len(counts)
    sums = np.zeros((RESAMPLES, counts.shape[1]), np.int64)
    for i in range(RESAMPLES):
        drawn = np.bincount(random.integers(0, texts, texts), minlength=texts)
        sums[i] = drawn @ counts
    return sums


def _rates(sums: np.ndarray) -> np.ndarray:
    """Precision, recall, F1 [n, 3] of sums of gold, predicted, correct [n, 3]; nothing scores zero."""
    gold, predicted, correct = sums.T.astype(np.float64)
    parts = (predicted, gold, (gold + predicted) / 2)
    return np.stack([correct / np.maximum(part, 0.5) for part in parts], 1)


def pair_up(gold: Iterable[Entity], predicted: Iterable[Entity]) -> list[Pair]:
    """Each entity of a text with the one it belongs to, in the order of the text.

    Those that are the same go together first, then those of the same boundaries, then of the same
    type with the largest overlap, then any with the largest overlap. Each has one partner at most.
    """
    truth, found = list(dict.fromkeys(gold)), list(dict.fromkeys(predicted))
    used_gold, used_found = set[int](), set[int]()
    pairs = list[
        tuple[int, int, int, int, str]
    ]()  # rank, -overlap, gold, predicted, kind; ascending: best first

    def pair(rank: int, overlap: int, i: int, j: int, kind: str) -> None:
        if i not in used_gold and j not in used_found:
            used_gold.add(i)
            used_found.add(j)
            pairs.append((rank, -overlap, i, j, kind))

    # Most entities have a partner with the same boundaries. Finding those first keeps the search for overlaps
    # small. After it no two entities without a partner have the same boundaries.
    same: list[tuple[int, str, Callable[[Entity], tuple[Any, ...]]]] = [
        (-3, "correct", lambda e: e[:3]),
        (-2, "type", lambda e: e[1:3]),
    ]
    for rank, kind, key in same:
        by_key: dict[tuple[Any, ...], list[int]] = {}
        for j, entity in enumerate(found):
            if j not in used_found:
                by_key.setdefault(key(entity), []).append(j)
        waiting = {k: iter(numbers) for k, numbers in by_key.items()}
        for i, entity in enumerate(truth):
            if i not in used_gold and entity.start < entity.end and key(entity) in waiting:
                for j in islice(
                    waiting[key(entity)], 1
                ):  # the first that has no partner yet, if any
                    pair(rank, entity.end - entity.start, i, j, kind)

    rest_gold = [i for i in range(len(truth)) if i not in used_gold]
    rest_found = [j for j in range(len(found)) if j not in used_found]
    candidates = []
    for a, b in overlapping([truth[i] for i in rest_gold], [found[j] for j in rest_found]):
        i, j = rest_gold[a], rest_found[b]
        overlap = min(truth[i].end, found[j].end) - max(truth[i].start, found[j].start)
        same_type = truth[i].type == found[j].type
        candidates.append((-same_type, overlap, i, j, ("both", "boundary")[same_type]))
    for candidate in sorted(candidates, key=lambda c: (c[0], -c[1], c[2], c[3])):
        pair(*candidate)

    all_pairs = [Pair(kind, truth[i], found[j]) for *_, i, j, kind in sorted(pairs)]
    all_pairs += [Pair("missed", e, None) for i, e in enumerate(truth) if i not in used_gold]
    all_pairs += [Pair("spurious", None, e) for j, e in enumerate(found) if j not in used_found]
    return sorted(all_pairs, key=lambda p: (p.gold or p.predicted or Entity("", 0, 0))[1:3])


def overlapping(entities: Sequence[Entity], others: Sequence[Entity]) -> Iterator[tuple[int, int]]:
    """Find all pairs of entities that share characters, one of each list, in any order.

    Time grows with the number of entities and of such pairs.

    Yields:
        The index in `entities` and the index in `others`.
    """
    sides = entities, others
    order = sorted(
        (e.start, side, i) for side in (0, 1) for i, e in enumerate(sides[side]) if e.start < e.end
    )
    open_: tuple[list[int], list[int]] = ([], [])  # begun, and perhaps ended
    for start, side, i in order:
        other = 1 - side
        # An entity that has ended is looked at once more and then dropped.
        still_open = [j for j in open_[other] if sides[other][j].end > start]
        open_[other][:] = still_open
        for j in still_open:
            yield (i, j) if side == 0 else (j, i)
        open_[side].append(i)


def kinds(pairs: Iterable[Sequence[Pair]]) -> dict[str, int]:
    """How many pairs of all texts are of each kind."""
    count = Counter(pair.kind for text in pairs for pair in text)
    return {kind: count[kind] for kind in KINDS}


def confusion(pairs: Iterable[Sequence[Pair]]) -> dict[tuple[str, str], int]:
    """How often a gold category was found as another one, most frequent first, whatever the boundaries."""
    count = Counter(
        (pair.gold.type, pair.predicted.type)
        for text in pairs
        for pair in text
        if pair.gold and pair.predicted and pair.gold.type != pair.predicted.type
    )
    return dict(count.most_common())


def by_group(
    gold: Sequence[Iterable[Entity]],
    predicted: Sequence[Iterable[Entity]],
    group: Callable[[Entity], str],
) -> dict[str, Counts]:
    """Counts of the entities of each group, predicted ones by their own group."""
    sums: dict[str, list[int]] = {}
    for truth, found in zip(gold, predicted, strict=True):
        a, b = ({e[:3]: group(e) for e in side} for side in (truth, found))
        for place, side in enumerate((a, b, {key: name for key, name in a.items() if key in b})):
            for name in side.values():
                sums.setdefault(name, [0, 0, 0])[place] += 1
    return {name: Counts(*sums[name]) for name in sorted(sums)}


def length_group(entity: Entity) -> str:
    """Groups of `by_group` by characters."""
    size = entity.end - entity.start
    return next((name for most, name in LENGTHS if size <= most), "over 10 characters")


LENGTHS = (
    (2, "1-2 characters"),
    (4, "3-4 characters"),
    (6, "5-6 characters"),
    (10, "7-10 characters"),
)


def seen_group(train: Iterable[Example]) -> Callable[[Entity], str]:
    """Groups of `by_group` by whether the training data have the surface, and as what."""
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


def reliability(
    gold: Sequence[Iterable[Entity]], predicted: Sequence[Iterable[Entity]]
) -> Reliability:
    """Predicted entities by their probability (`score`)."""
    rows = []
    for truth, found in zip(gold, predicted, strict=True):
        right = {entity[:3] for entity in truth}
        rows += [(entity.score, entity[:3] in right) for entity in found]
    if not rows:
        return Reliability([], 0.0)
    probability, correct = np.array(rows, np.float64).T
    place = np.minimum((probability * BINS).astype(int), BINS - 1)
    bins = []
    for number in np.unique(place).tolist():
        here = place == number
        means = float(probability[here].mean()), float(correct[here].mean())
        bins.append(Bin(number / BINS, (number + 1) / BINS, int(here.sum()), *means))
    error = sum(b.entities * abs(b.probability - b.correct) for b in bins) / len(rows)
    return Reliability(bins, error)
