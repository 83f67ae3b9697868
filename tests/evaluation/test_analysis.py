"""Bootstrap intervals, entity matching, groups and calibration."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flax_ner.errors import UserError
from flax_ner.evaluation import analysis
from flax_ner.evaluation.analysis import (
    OUTCOMES,
    EntityMatch,
    bootstrap_intervals,
    compute_reliability,
    count_confusions,
    count_outcomes,
    counts_by_group,
    counts_per_text,
    length_group,
    make_seen_group,
    match_entities,
    overlapping_pairs,
    paired_bootstrap,
)
from flax_ner.evaluation.metrics import score
from flax_ner.text.examples import Entity, Example
from tests.text.helpers import entities

ROWS = st.lists(st.tuples(entities(12, longest=4), entities(12, longest=4)), min_size=1, max_size=6)


def as_entities(rows: list[Any]) -> tuple[list[list[Entity]], list[list[Entity]]]:
    return tuple([[Entity(*e) for e in row[side]] for row in rows] for side in (0, 1))  # type: ignore[return-value]


@pytest.mark.slow
@pytest.mark.every_python
@settings(max_examples=100, deadline=None)
@given(ROWS)
def test_counts_and_outcomes_agree_with_the_scores(rows: list[Any]) -> None:
    gold, predicted = as_entities(rows)
    scores = score(gold, predicted)
    counts = counts_per_text(gold, predicted)
    assert counts.sum(0).tolist() == [scores.gold, scores.predicted, scores.correct]
    intervals = bootstrap_intervals(counts)
    assert intervals["f1"].value == pytest.approx(scores.f1, abs=1e-12)
    assert intervals["precision"].value == pytest.approx(scores.precision, abs=1e-12)
    assert intervals["recall"].low <= intervals["recall"].value <= intervals["recall"].high
    matches = [match_entities(a, b) for a, b in zip(gold, predicted, strict=True)]
    count = count_outcomes(matches)
    assert count["correct"] == scores.correct
    # Every entity is in exactly one match.
    paired = scores.gold - count["missed"]
    assert paired == scores.predicted - count["spurious"]
    assert paired == sum(count[k] for k in ("correct", "type", "boundary", "both"))
    for groups in (
        counts_by_group(gold, predicted, length_group),
        counts_by_group(gold, predicted, lambda e: e.type),
    ):
        for name in ("gold", "predicted", "correct"):
            assert sum(getattr(g, name) for g in groups.values()) == getattr(scores, name)


def test_match_entities_finds_each_outcome() -> None:
    gold = [("a", 0, 2), ("a", 3, 5), ("a", 6, 9), ("a", 10, 12), ("b", 20, 22)]
    predicted = [("a", 0, 2), ("b", 3, 5), ("a", 7, 9), ("b", 11, 14), ("a", 30, 31)]
    (gold_row,), (predicted_row,) = as_entities([(gold, predicted)])
    matches = match_entities(gold_row, predicted_row)
    assert [match.outcome for match in matches] == [*list(OUTCOMES)[:5], "spurious"]
    assert count_outcomes([matches]) == dict.fromkeys(OUTCOMES, 1)
    assert count_confusions([matches]) == {("a", "b"): 2}


def test_equal_boundaries_outrank_an_equal_type() -> None:
    gold = [Entity("a", 0, 6), Entity("b", 4, 8)]
    predicted = [Entity("b", 0, 6), Entity("a", 3, 7)]
    matches = [(m.outcome, m.gold, m.predicted) for m in match_entities(gold, predicted)]
    assert matches == [("type", gold[0], predicted[0]), ("both", gold[1], predicted[1])]


def match_by_comparing_all(gold: list[Entity], predicted: list[Entity]) -> list[EntityMatch]:
    """Return what `match_entities` must return, by its definition: sort all overlapping pairs, best first."""
    gold, predicted = list(dict.fromkeys(gold)), list(dict.fromkeys(predicted))
    candidates = []
    for i, a in enumerate(gold):
        for j, b in enumerate(predicted):
            overlap = min(a.end, b.end) - max(a.start, b.start)
            if overlap > 0:
                same_type, same_span = a.type == b.type, a[1:3] == b[1:3]
                outcome = ("both", "boundary", "type", "correct")[2 * same_span + same_type]
                candidates.append((-2 * same_span - same_type, -overlap, i, j, outcome))
    matches, used_gold, used_predicted = [], set[int](), set[int]()
    for _, _, i, j, outcome in sorted(candidates):
        if i not in used_gold and j not in used_predicted:
            matches.append(EntityMatch(outcome, gold[i], predicted[j]))
            used_gold.add(i)
            used_predicted.add(j)
    matches += [EntityMatch("missed", e, None) for i, e in enumerate(gold) if i not in used_gold]
    matches += [
        EntityMatch("spurious", None, e) for j, e in enumerate(predicted) if j not in used_predicted
    ]
    return sorted(matches, key=lambda m: (m.gold or m.predicted or Entity("", 0, 0))[1:3])


# Few categories, spans and scores, so that many entities are equal, nested or crossing; some are empty.
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
def test_match_entities_equals_comparing_all(gold: list[Entity], predicted: list[Entity]) -> None:
    assert match_entities(gold, predicted) == match_by_comparing_all(gold, predicted)


@settings(max_examples=200, deadline=None)
@given(DENSE, DENSE)
def test_overlapping_pairs_yields_each_pair_once(
    entities: list[Entity], others: list[Entity]
) -> None:
    expected = [
        (i, j)
        for i, a in enumerate(entities)
        for j, b in enumerate(others)
        if min(a.end, b.end) > max(a.start, b.start)
    ]
    assert sorted(overlapping_pairs(entities, others)) == expected


def test_groups_separate_surfaces_seen_in_training() -> None:
    train = [Example("甲乙", (Entity("a", 0, 1, "甲"), Entity("b", 1, 2, "乙")))]
    gold = [[Entity("a", 0, 1, "甲"), Entity("a", 2, 3, "乙"), Entity("a", 4, 5, "丙")]]
    predicted = [[gold[0][0], gold[0][2]]]
    groups = counts_by_group(gold, predicted, make_seen_group(train))
    assert {name: (g.gold, g.predicted, g.correct) for name, g in groups.items()} == {
        "seen in training": (1, 1, 1),
        "seen as another category": (1, 0, 0),
        "not seen": (1, 1, 1),
    }


@pytest.mark.slow
def test_the_95_percent_interval_covers_the_true_f1_in_95_percent_of_draws(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Draw 500 texts 1,000 times from a population whose F1 is known."""
    monkeypatch.setattr(analysis, "NUM_RESAMPLES", 500)
    random = np.random.default_rng(0)
    gold = random.poisson(2, 20_000)
    skill = random.beta(4, 2, 20_000)  # texts differ in difficulty
    correct = random.binomial(gold, skill)
    population = np.stack([gold, correct + random.poisson(0.5, 20_000), correct], 1)
    total = population.sum(0)
    true_f1 = 2 * total[2] / (total[0] + total[1])
    covered = 0
    for draw in range(1000):
        sample = population[random.integers(0, len(population), 500)]
        interval = bootstrap_intervals(sample, seed=draw)["f1"]
        covered += interval.low <= true_f1 <= interval.high
    print(f"covered in {covered / 10:.1f}% of 1,000 draws")
    assert 930 <= covered <= 970


def test_paired_bootstrap_compares_models_text_by_text() -> None:
    random = np.random.default_rng(1)
    gold = random.poisson(3, 500)
    base = random.binomial(gold, 0.6)
    better = np.minimum(gold, base + random.binomial(1, 0.15, 500))
    a, b = (np.stack([gold, gold, correct], 1) for correct in (better, base))
    result = paired_bootstrap(a, b)
    assert result.difference.low > 0 and result.p < 0.01
    assert result.difference.value == pytest.approx((better.sum() - base.sum()) / gold.sum())
    mirrored = paired_bootstrap(b, a)
    assert mirrored.difference.high == pytest.approx(-result.difference.low)
    same = paired_bootstrap(a, a)
    assert (same.difference.value, same.p) == (0, 1)
    with pytest.raises(
        UserError, match="the other model has counts for 2 texts, but 500 were scored"
    ):
        paired_bootstrap(a, b[:2])


def test_reliability_matches_a_hand_computed_example() -> None:
    gold = [[Entity("a", 0, 1), Entity("a", 2, 3)]]
    predicted = [
        [Entity("a", 0, 1, "", 0.95), Entity("a", 2, 3, "", 0.91), Entity("a", 5, 6, "", 0.45)]
    ]
    result = compute_reliability(gold, predicted)
    assert [(b.low, b.entities, b.correct) for b in result.bins] == [(0.4, 1, 0.0), (0.9, 2, 1.0)]
    assert result.error == pytest.approx((0.45 + 2 * 0.07) / 3)
    assert compute_reliability(gold, [[Entity("a", 0, 1)]]).bins[0].probability == 1
    assert compute_reliability(gold, [[]]).bins == []
