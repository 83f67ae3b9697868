"""Precision, recall and F1, compared with MMOCR and seqeval."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from seqeval.metrics import classification_report
from seqeval.scheme import IOB2, IOBES

from flax_ner.data.cluener import read_cluener
from flax_ner.errors import UserError
from flax_ner.evaluation.metrics import MatchCounts, Scores, score, score_spans
from flax_ner.text.examples import Entity
from flax_ner.text.labels import LabelSet, Spans
from tests.text.helpers import CATEGORIES, entities, random_tags, tag_names

ROWS = st.lists(st.tuples(entities(6, longest=2), entities(6, longest=2)), max_size=6)


def assert_equal_mmocr(scores: Scores, expected: dict[str, dict[str, float]]) -> None:
    """Compare with MMOCR's table, which drops categories that the gold data lack."""
    for name, row in expected.items():
        counts = scores if name == "all" else scores.by_type[name]
        rates = (counts.precision, counts.recall, counts.f1)
        assert rates == pytest.approx(
            (row["precision"], row["recall"], row["f1-score"]), rel=0, abs=1e-12
        ), name
    in_gold = {name for name, counts in scores.by_type.items() if counts.gold}
    assert set(expected) == in_gold | {"all"}


def test_mmocr_scores_equal_the_reference(golden: Path, cluener: Path) -> None:
    arrays = np.load(golden / "decode.npz")
    reference = json.loads((golden / "decode.json").read_text("utf-8"))
    examples = read_cluener(cluener / f"{reference['split']}.json")
    gold = [examples[row].entities or () for row in arrays["rows"]]
    labels = LabelSet.mmocr(CATEGORIES)
    predicted = labels.decode(arrays["tags"], arrays["attention_mask"], "mmocr")
    assert_equal_mmocr(score(gold, predicted, "mmocr"), reference["metrics"])


def test_gold_labels_score_as_in_the_reference(golden: Path, cluener: Path) -> None:
    examples = read_cluener(cluener / "dev.json")
    labels = LabelSet.mmocr(CATEGORIES)
    tags = np.zeros((len(examples), 128), np.int32)
    for row, example in zip(tags, examples, strict=True):
        row[: len(example.text) + 2] = labels.encode(example.entities or (), len(example.text))
    predicted = labels.decode(tags, tags > 0, "mmocr")  # X, tag 0, is padding
    scores = score([example.entities or () for example in examples], predicted, "mmocr")
    assert_equal_mmocr(scores, json.loads((golden / "ceiling_dev.json").read_text("utf-8")))
    assert (scores.gold, scores.predicted, scores.correct) == (3072, 3072, 3072)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("convention", ["strict", "lenient"])
@pytest.mark.parametrize(("scheme", "oracle"), [("bio", IOB2), ("bioes", IOBES)])
def test_scores_equal_seqeval(scheme: str, oracle: type, convention: str, seed: int) -> None:
    labels = LabelSet(["a", "b", "c"], scheme)
    gold, mask = random_tags(labels, 60, seed)
    noise, _ = random_tags(labels, 60, seed + 100)
    predicted = np.where(np.random.default_rng(seed).random(gold.shape) < 0.2, noise, gold)
    options = {"mode": "strict", "scheme": oracle} if convention == "strict" else {}
    expected: dict[str, Any] = classification_report(
        tag_names(labels, gold, mask), tag_names(labels, predicted, mask),
        output_dict=True, zero_division=0, **options,
    )  # fmt: skip
    decoded = [labels.decode(tags, mask, convention) for tags in (gold, predicted)]
    scores = score(*decoded, convention)
    rows = {"micro avg": scores} | scores.by_type
    assert set(rows) == set(expected) - {"macro avg", "weighted avg"}
    for name, counts in rows.items():
        row = expected[name]
        assert counts.gold == row["support"], name
        rates = (counts.precision, counts.recall, counts.f1)
        assert rates == pytest.approx((row["precision"], row["recall"], row["f1-score"])), name
    assert 0 < scores.correct < scores.predicted


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("convention", ["strict", "lenient", "mmocr"])
def test_score_spans_equals_score(convention: str, seed: int) -> None:
    labels = LabelSet(["c", "a", "never", "b"])
    gold, mask = random_tags(labels, 60, seed)
    noise, _ = random_tags(labels, 60, seed + 100)
    predicted = np.where(np.random.default_rng(seed).random(gold.shape) < 0.2, noise, gold)
    for tags in (gold, predicted):
        tags[np.isin(tags, [labels.names.index(f"{prefix}-never") for prefix in "BI"])] = 0
    sides = [labels.decode_spans(tags, mask, convention) for tags in (gold, predicted)]
    scores = score_spans(*sides, labels.categories, convention)
    decoded = [labels.decode(tags, mask, convention) for tags in (gold, predicted)]
    assert scores == score(*decoded, convention)
    assert list(scores.by_type) == ["a", "b", "c"]
    assert 0 < scores.correct < scores.predicted


@pytest.mark.parametrize(
    ("convention", "expected"),
    [("strict", (2, 3, 1)), ("lenient", (2, 3, 1)), ("mmocr", (3, 5, 2))],
)
def test_spans_may_repeat_and_be_in_any_order(
    convention: str, expected: tuple[int, int, int]
) -> None:
    def spans(*rows: tuple[int, int, int, int]) -> Spans:
        return Spans(*np.array(rows, np.int32).T)

    gold = spans((1, 0, 0, 2), (0, 0, 0, 2), (1, 0, 0, 2))
    predicted = spans((2, 0, 0, 2), (1, 0, 0, 2), (1, 0, 1, 2), (1, 0, 0, 2), (2, 0, 0, 2))
    assert score_spans(gold, predicted, ["a"], convention).by_type == {"a": MatchCounts(*expected)}


@pytest.mark.parametrize("type_id", [-1, 2])
def test_score_spans_refuses_a_type_without_a_name(type_id: int) -> None:
    spans = Spans(*np.array([[0, type_id, 0, 1]], np.int32).T)
    with pytest.raises(
        UserError, match=rf"categories: 2 names, but types from {type_id} to {type_id}"
    ):
        score_spans(spans, spans, ["a", "b"])
    with pytest.raises(UserError, match=r"convention: 'exact' .*strict, lenient, mmocr"):
        score_spans(spans, spans, ["a", "b"], "exact")


@pytest.mark.parametrize("convention", ["strict", "lenient", "mmocr"])
@settings(max_examples=50, deadline=None)
@given(rows=ROWS, cut=st.integers(0, 6))
def test_counts_sum_over_categories_and_over_rows(
    convention: str, rows: list[Any], cut: int
) -> None:
    gold, predicted = [row[0] for row in rows], [row[1] for row in rows]
    whole = score(gold, predicted, convention)
    parts = [score(gold[s], predicted[s], convention) for s in (slice(cut), slice(cut, None))]
    for field in ("gold", "predicted", "correct"):
        total = getattr(whole, field)
        assert total == sum(getattr(counts, field) for counts in whole.by_type.values())
        assert total == sum(getattr(part, field) for part in parts)
    assert whole.correct == sum(len(set(g) & set(p)) for g, p in rows)  # `rows` has no repetitions
    assert (whole.gold, whole.predicted) == (sum(map(len, gold)), sum(map(len, predicted)))


@pytest.mark.parametrize("convention", ["strict", "lenient", "mmocr"])
@settings(max_examples=30, deadline=None)
@given(gold=st.lists(entities(9), min_size=1, max_size=5).filter(any))
def test_gold_scored_against_itself_is_perfect(convention: str, gold: list[Any]) -> None:
    scores = score(gold, gold, convention)
    for counts in (scores, *scores.by_type.values()):
        assert (counts.precision, counts.recall, counts.f1) == (1, 1, 1)


@pytest.mark.parametrize(
    ("convention", "expected"),
    [("strict", (1, 2, 1)), ("lenient", (1, 2, 1)), ("mmocr", (2, 4, 3))],
)
def test_only_mmocr_counts_every_repetition(
    convention: str, expected: tuple[int, int, int]
) -> None:
    gold, predicted = [[("a", 0, 2)] * 2], [[("a", 0, 2)] * 3 + [("a", 3, 4)]]
    assert score(gold, predicted, convention).by_type == {"a": MatchCounts(*expected)}


def test_equal_entities_in_different_rows_are_distinct() -> None:
    rows = [[("a", 0, 2)], [("a", 0, 2)]]
    assert score(rows, [rows[0], []]).by_type == {"a": MatchCounts(2, 1, 1)}


@pytest.mark.parametrize("convention", ["strict", "lenient", "mmocr"])
def test_by_type_has_categories_that_only_one_side_has(convention: str) -> None:
    scores = score([[("b", 0, 1)]], [[("a", 0, 1), ("c", 2, 3)]], convention)
    expected = {"a": MatchCounts(0, 1, 0), "b": MatchCounts(1, 0, 0), "c": MatchCounts(0, 1, 0)}
    assert scores.by_type == expected
    assert list(scores.by_type) == ["a", "b", "c"]
    for counts in expected.values():
        assert (counts.precision, counts.recall, counts.f1) == (0, 0, 0)


@pytest.mark.parametrize(
    "other", [("b", 1, 3), ("a", 0, 3), ("a", 2, 3), ("a", 1, 4), ("a", 1, 2), ("b", 0, 2)]
)
def test_type_and_both_boundaries_must_match(other: tuple[str, int, int]) -> None:
    assert score([[("a", 1, 3)]], [[other]]).correct == 0


@pytest.mark.parametrize("rows", [[], [[]], [[], []]])
@pytest.mark.parametrize("convention", ["strict", "lenient", "mmocr"])
def test_empty_rows_score_zero(rows: list[Any], convention: str) -> None:
    scores = score(rows, rows, convention)
    assert (scores.precision, scores.recall, scores.f1) == (0, 0, 0)
    assert (scores.gold, scores.predicted, scores.correct, scores.by_type) == (0, 0, 0, {})


def test_rates_match_a_hand_computed_example() -> None:
    counts = MatchCounts(gold=3072, predicted=3116, correct=2457)  # as published for MMOCR
    rates = (counts.precision, counts.recall, counts.f1)
    assert [round(rate, 4) for rate in rates] == [0.7885, 0.7998, 0.7941]


def test_anything_that_starts_with_type_start_end_is_an_entity() -> None:
    gold = [[Entity("a", 0, 2, "上海", 1.0)], [Entity("b", 1, 2)]]
    predicted = [[("a", 0, 2)], [["b", np.int32(1), np.int64(2), "海", 0.3]]]
    assert score(gold, predicted).correct == 2


# Offsets that overflow int64 on their own, in a product or in a difference.
EDGES = [-(10**30), -(2**63), -(2**62), -(2**32), -1, 0, 2**32, 2**62, 2**63 - 1, 2**64, 10**30]
WIDE = st.lists(st.tuples(st.sampled_from("ab"), *[st.sampled_from(EDGES)] * 2), max_size=8)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(WIDE, WIDE), max_size=4))
def test_offsets_may_exceed_int64(rows: list[Any]) -> None:
    scores = score([row[0] for row in rows], [row[1] for row in rows])
    assert scores.gold == sum(len(set(gold)) for gold, _ in rows)
    assert scores.predicted == sum(len(set(predicted)) for _, predicted in rows)
    assert scores.correct == sum(len(set(gold) & set(predicted)) for gold, predicted in rows)


def test_score_accepts_any_iterables() -> None:
    rows = [[("a", 0, 2)], [("b", 1, 2), ("a", 3, 4)]]
    assert score([iter(row) for row in rows], [tuple(row) for row in rows]).correct == 3


def test_score_refuses_different_numbers_of_rows() -> None:
    with pytest.raises(
        UserError, match=r"predicted: 1 rows for 2 gold rows\. Give one row per text\."
    ):
        score([[], []], [[]])


def test_an_unknown_convention_error_lists_the_choices() -> None:
    with pytest.raises(UserError, match=r"convention: 'exact' .*strict, lenient, mmocr"):
        score([], [], "exact")
