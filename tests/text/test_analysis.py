"""Intervals that cover what they promise, and errors told apart."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flax_ner.errors import UserError
from flax_ner.text import analysis
from flax_ner.text.analysis import (
    KINDS,
    Pair,
    by_group,
    compare,
    confusion,
    counts_per_text,
    intervals,
    kinds,
    length_group,
    overlapping,
    pair_up,
    reliability,
    seen_group,
)
from flax_ner.text.examples import Entity, Example
from flax_ner.text.metrics import score
from tests.text.helpers import entities

ROWS = st.lists(st.tuples(entities(12, longest=4), entities(12, longest=4)), min_size=1, max_size=6)


def as_entities(rows: list[Any]) -> tuple[list[list[Entity]], list[list[Entity]]]:
    return tuple([[Entity(*e) for e in row[side]] for row in rows] for side in (0, 1))  # type: ignore[return-value]


@settings(max_examples=100, deadline=None)
@given(ROWS)
def test_counts_and_kinds_agree_with_the_scores(rows: list[Any]) -> None:
    gold, predicted = as_entities(rows)
    scores = score(gold, predicted)
    counts = counts_per_text(gold, predicted)
    assert counts.sum(0).tolist() == [scores.gold, scores.predicted, scores.correct]
    found = intervals(counts)
    assert found["f1"].value == pytest.approx(scores.f1, abs=1e-12)
    assert found["precision"].value == pytest.approx(scores.precision, abs=1e-12)
    assert found["recall"].low <= found["recall"].value <= found["recall"].high
    pairs = [pair_up(a, b) for a, b in zip(gold, predicted, strict=True)]
    count = kinds(pairs)
    assert count["correct"] == scores.correct
    # Every entity is in one pair.
    paired = scores.gold - count["missed"]
    assert paired == scores.predicted - count["spurious"]
    assert paired == sum(count[k] for k in ("correct", "type", "boundary", "both"))
    for groups in (
        by_group(gold, predicted, length_group),
        by_group(gold, predicted, lambda e: e.type),
    ):
        for name in ("gold", "predicted", "correct"):
            assert sum(getattr(g, name) for g in groups.values()) == getattr(scores, name)


def test_kinds_by_hand() -> None:
    gold = [("a", 0, 2), ("a", 3, 5), ("a", 6, 9), ("a", 10, 12), ("b", 20, 22)]
    found = [("a", 0, 2), ("b", 3, 5), ("a", 7, 9), ("b", 11, 14), ("a", 30, 31)]
    (gold_row,), (found_row,) = as_entities([(gold, found)])
    pairs = pair_up(gold_row, found_row)
    assert [pair.kind for pair in pairs] == [*list(KINDS)[:5], "spurious"]
    assert kinds([pairs]) == dict.fromkeys(KINDS, 1)
    assert confusion([pairs]) == {("a", "b"): 2}


def test_the_nearest_belong_together() -> None:
    gold = [Entity("a", 0, 6), Entity("b", 4, 8)]
    found = [Entity("b", 0, 6), Entity("a", 3, 7)]
    kinds_found = [(p.kind, p.gold, p.predicted) for p in pair_up(gold, found)]
    # The same boundaries outweigh the same type.
    assert kinds_found == [("type", gold[0], found[0]), ("both", gold[1], found[1])]


def pair_up_by_comparing_all(gold: list[Entity], predicted: list[Entity]) -> list[Pair]:
    """What `pair_up` returns, by its definition: sort all pairs that overlap and take the best first."""
    truth, found = list(dict.fromkeys(gold)), list(dict.fromkeys(predicted))
    candidates = []
    for i, a in enumerate(truth):
        for j, b in enumerate(found):
            overlap = min(a.end, b.end) - max(a.start, b.start)
            if overlap > 0:
                same_type, same_span = a.type == b.type, a[1:3] == b[1:3]
                kind = ("both", "boundary", "type", "correct")[2 * same_span + same_type]
                candidates.append((-2 * same_span - same_type, -overlap, i, j, kind))
    pairs, used_gold, used_found = [], set[int](), set[int]()
    for _, _, i, j, kind in sorted(candidates):
        if i not in used_gold and j not in used_found:
            pairs.append(Pair(kind, truth[i], found[j]))
            used_gold.add(i)
            used_found.add(j)
    pairs += [Pair("missed", e, None) for i, e in enumerate(truth) if i not in used_gold]
    pairs += [Pair("spurious", None, e) for j, e in enumerate(found) if j not in used_found]
    return sorted(pairs, key=lambda pair: (pair.gold or pair.predicted or Entity("", 0, 0))[1:3])


# Few categories, spans and scores, so that many are the same, nested or crossing; some are empty.
DENSE = st.lists(
    st.builds(
        Entity,
        st.sampled_from("ab"),
        st.integers(0, 8),
        st.integers(0, 10),
        st.just(""),
        st.sampled_from((0.5, 1.0)),
    ),
    max_size=12,
)


@settings(max_examples=500, deadline=None)
@given(DENSE, DENSE)
def test_pairs_are_those_of_comparing_all(gold: list[Entity], predicted: list[Entity]) -> None:
    assert pair_up(gold, predicted) == pair_up_by_comparing_all(gold, predicted)


@settings(max_examples=200, deadline=None)
@given(DENSE, DENSE)
def test_overlapping_entities_are_all_found_once(
    entities: list[Entity], others: list[Entity]
) -> None:
    expected = [
        (i, j)
        for i, a in enumerate(entities)
        for j, b in enumerate(others)
        if min(a.end, b.end) > max(a.start, b.start)
    ]
    assert sorted(overlapping(entities, others)) == expected


def test_surfaces_seen_in_training_are_told_apart() -> None:
    train = [Example("甲乙", (Entity("a", 0, 1, "甲"), Entity("b", 1, 2, "乙")))]
    gold = [[Entity("a", 0, 1, "甲"), Entity("a", 2, 3, "乙"), Entity("a", 4, 5, "丙")]]
    predicted = [[gold[0][0], gold[0][2]]]
    groups = by_group(gold, predicted, seen_group(train))
    assert {name: (g.gold, g.predicted, g.correct) for name, g in groups.items()} == {
        "seen in training": (1, 1, 1),
        "seen as another category": (1, 0, 0),
        "not seen": (1, 1, 1),
    }


@pytest.mark.slow
def test_the_interval_covers_the_truth_as_often_as_it_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """1,000 draws of 500 texts from a population whose F1 is known."""
    monkeypatch.setattr(analysis, "RESAMPLES", 500)
    random = np.random.default_rng(0)
    gold = random.poisson(2, 20_000)
    skill = random.beta(4, 2, 20_000)  # texts differ in how hard they are
    correct = random.binomial(gold, skill)
    population = np.stack([gold, correct + random.poisson(0.5, 20_000), correct], 1)
    total = population.sum(0)
    truth = 2 * total[2] / (total[0] + total[1])
    covered = 0
    for draw in range(1000):
        sample = population[random.integers(0, len(population), 500)]
        interval = intervals(sample, seed=draw)["f1"]
        covered += interval.low <= truth <= interval.high
    print(f"covered in {covered / 10:.1f}% of 1,000 draws")
    assert 930 <= covered <= 970


def test_a_pair_of_models_is_compared_text_by_text() -> None:
    random = np.random.default_rng(1)
    gold = random.poisson(3, 500)
    base = random.binomial(gold, 0.6)
    better = np.minimum(gold, base + random.binomial(1, 0.15, 500))
    a, b = (np.stack([gold, gold, right], 1) for right in (better, base))
    result = compare(a, b)
    assert result.difference.low > 0 and result.p < 0.01
    assert result.difference.value == pytest.approx((better.sum() - base.sum()) / gold.sum())
    mirrored = compare(b, a)
    assert mirrored.difference.high == pytest.approx(-result.difference.low)
    same = compare(a, a)
    assert (same.difference.value, same.p) == (0, 1)
    with pytest.raises(UserError, match="2 texts, but 500 were scored"):
        compare(a, b[:2])


def test_reliability_by_hand() -> None:
    gold = [[Entity("a", 0, 1), Entity("a", 2, 3)]]
    found = [
        [Entity("a", 0, 1, "", 0.95), Entity("a", 2, 3, "", 0.91), Entity("a", 5, 6, "", 0.45)]
    ]
    result = reliability(gold, found)
    assert [(b.low, b.entities, b.correct) for b in result.bins] == [(0.4, 1, 0.0), (0.9, 2, 1.0)]
    assert result.error == pytest.approx((0.45 + 2 * 0.07) / 3)
    assert reliability(gold, [[Entity("a", 0, 1)]]).bins[0].probability == 1
    assert reliability(gold, [[]]).bins == []
