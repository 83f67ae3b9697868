"""Evaluate a tagger's predictions, and report the evaluation as tables and JSON."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table

from flax_ner.evaluation.analysis import (
    OUTCOMES,
    Comparison,
    EntityMatch,
    Interval,
    Reliability,
    bootstrap_intervals,
    compute_reliability,
    count_confusions,
    count_outcomes,
    counts_by_group,
    counts_per_text,
    length_group,
    make_seen_group,
    match_entities,
    paired_bootstrap,
)
from flax_ner.evaluation.display import highlight, score_json, score_table
from flax_ner.evaluation.metrics import MatchCounts, Scores, score
from flax_ner.text.examples import Entity, Example, gold_entities

CONVENTION_NOTES = {
    "strict": "exact type and boundaries; an entity starts with a B- tag (seqeval's strict mode)",
    "lenient": "an I- tag without a B- tag also starts an entity (conlleval, seqeval's default)",
    "mmocr": "MMOCR's decoder: no one-character entities, an entity may end after the text, repeats count",
}
MAX_CONFUSIONS = 10  # rows of the confusion table in a terminal


@dataclass(frozen=True)
class Evaluation:
    """Results of `evaluate_predictions`. All fields but `conventions` are about one convention."""

    title: str
    convention: str
    scores: Scores
    intervals: dict[str, Interval]  # of precision, recall and f1
    conventions: dict[str, Scores]  # scores under every convention that has predictions
    outcomes: dict[str, int]  # entities per key of OUTCOMES
    confusions: dict[tuple[str, str], int]  # by (gold, predicted) category, most frequent first
    groups: dict[str, dict[str, MatchCounts]]  # by grouping, then by group
    reliability: Reliability
    comparison: Comparison | None
    texts: list[tuple[str, str, list[EntityMatch]]]  # source, text and its matches


def evaluate_predictions(
    title: str,
    examples: Sequence[Example],
    predicted: Mapping[str, Sequence[Sequence[Entity]]],
    convention: str,
    train: Iterable[Example] | None = None,
    other: Sequence[Sequence[Entity]] | None = None,
) -> Evaluation:
    """Evaluate a tagger's predictions on labelled examples.

    Args:
        title: title of the reports.
        examples: labelled examples.
        predicted: the predicted entities of each example's text, by convention.
        convention: the key of `predicted` to analyse. The others only get their scores.
        train: training examples. If given, surfaces that they contain are scored separately.
        other: entities that another tagger predicted, for a paired bootstrap.

    Returns:
        The evaluation, for `evaluation_tables`, `evaluation_json` and `evaluation_html`.

    Raises:
        UserError: an example has no label; names file and line.
    """
    gold = gold_entities(examples)
    rows = predicted[convention]
    counts = counts_per_text(gold, rows)
    matches = [match_entities(*row) for row in zip(gold, rows, strict=True)]
    groups = {"length of the entity": counts_by_group(gold, rows, length_group)}
    if train is not None:
        groups["surface"] = counts_by_group(gold, rows, make_seen_group(train))
    comparison = None
    if other is not None:
        comparison = paired_bootstrap(counts, counts_per_text(gold, other))
    return Evaluation(
        title,
        convention,
        score(gold, rows, convention),
        bootstrap_intervals(counts),
        {name: score(gold, entities, name) for name, entities in predicted.items()},
        count_outcomes(matches),
        count_confusions(matches),
        groups,
        compute_reliability(gold, rows),
        comparison,
        [(e.source, e.text, row) for e, row in zip(examples, matches, strict=True)],
    )


def evaluation_json(evaluation: Evaluation) -> dict[str, Any]:
    """Return an evaluation as a JSON object, without the texts."""
    groups = {
        grouping: {
            name: score_json(Scores(*_count_values(c), {}))["all"] for name, c in counts.items()
        }
        for grouping, counts in evaluation.groups.items()
    }
    row = {
        "scoring": evaluation.convention,
        **score_json(evaluation.scores),
        "intervals": {name: asdict(interval) for name, interval in evaluation.intervals.items()},
        "conventions": {name: score_json(s)["all"] for name, s in evaluation.conventions.items()},
        "kinds": evaluation.outcomes,
        "confusion": [
            {"gold": gold, "found": predicted, "count": count}
            for (gold, predicted), count in evaluation.confusions.items()
        ],
        "groups": groups,
        "reliability": {
            "error": evaluation.reliability.error,
            "bins": [b._asdict() for b in evaluation.reliability.bins],
        },
    }
    if evaluation.comparison is not None:
        row["comparison"] = asdict(evaluation.comparison)
    return row


def evaluation_tables(evaluation: Evaluation) -> RenderableType:
    """Return an evaluation as rich tables for a terminal, without the texts."""
    tables: list[RenderableType] = [score_table(evaluation.scores, evaluation.title)]
    tables += [escape(line) for line in summary_lines(evaluation)]
    conventions = _table("scoring", "precision", "recall", "F1", "what counts")
    for name, scores in evaluation.conventions.items():
        conventions.add_row(name, *_rate_cells(scores), CONVENTION_NOTES[name])
    outcomes = _table("outcome", "entities", "meaning")
    for outcome, count in evaluation.outcomes.items():
        outcomes.add_row(outcome, str(count), OUTCOMES[outcome])
    tables += [conventions, outcomes]
    if evaluation.confusions:
        table = _table("gold", "predicted as", "count")
        for (gold, predicted), count in list(evaluation.confusions.items())[:MAX_CONFUSIONS]:
            table.add_row(escape(gold), escape(predicted), str(count))
        tables.append(table)
    for grouping, groups in evaluation.groups.items():
        table = _table(grouping, "precision", "recall", "F1", "gold", "predicted", "correct")
        for name, counts in groups.items():
            table.add_row(name, *count_cells(counts))
        tables.append(table)
    table = _table("probability", "entities", "mean", "correct")
    for row in reliability_rows(evaluation.reliability):
        table.add_row(*row)
    tables.append(table)
    return Group(*tables)


def error_table(evaluation: Evaluation, show: int) -> Table:
    """Return a rich table of texts with errors, gold and predicted entities side by side.

    Args:
        evaluation: the evaluation.
        show: maximum number of texts.
    """
    categories = list(evaluation.scores.by_type)
    table = Table("source", "gold", "predicted", show_lines=True)
    for source, text, matches in texts_with_errors(evaluation)[:show]:
        gold = highlight(text, [m.gold for m in matches if m.gold], categories)
        predicted = highlight(text, [m.predicted for m in matches if m.predicted], categories)
        table.add_row(escape(source), gold, predicted)
    return table


def texts_with_errors(evaluation: Evaluation) -> list[tuple[str, str, list[EntityMatch]]]:
    """Return the elements of `Evaluation.texts` with at least one error."""
    return [row for row in evaluation.texts if any(match.outcome != "correct" for match in row[2])]


def summary_lines(evaluation: Evaluation) -> list[str]:
    """Return the results that no table shows, one sentence per line."""
    intervals = [
        f"{name} {i.value:.4f} [{i.low:.4f}, {i.high:.4f}]"
        for name, i in (
            (name.replace("f1", "F1"), interval) for name, interval in evaluation.intervals.items()
        )
    ]
    lines = [
        f"{', '.join(intervals)}: 95% bootstrap intervals over {len(evaluation.texts):,} texts.",
        f"Expected calibration error of the entity probabilities: {evaluation.reliability.error:.3f}."
        if evaluation.reliability.bins
        else "No entity was predicted, so there is no calibration error.",
    ]
    if evaluation.comparison is not None:
        d, p = evaluation.comparison.difference, evaluation.comparison.p
        other = evaluation.intervals["f1"].value - d.value
        lines.append(
            f"F1 of the other model: {other:.4f}. Difference: {d.value:+.4f} [{d.low:+.4f}, {d.high:+.4f}], "
            f"p = {p:.3f} (paired bootstrap)."
        )
    return lines


def _table(first: str, *others: str) -> Table:
    table = Table(first)
    for heading in others:
        is_text = heading in ("meaning", "what counts", "predicted as")
        table.add_column(heading, justify="left" if is_text else "right")
    return table


def count_cells(counts: MatchCounts) -> list[str]:
    """Format the cells precision, recall, F1, gold, predicted and correct."""
    return [*_rate_cells(counts), *map(str, _count_values(counts))]


def reliability_rows(reliability: Reliability) -> list[list[str]]:
    """Format one row per bin: probability range, entities, mean probability, fraction correct."""
    return [
        [
            f"{b.low:.1f} to {b.high:.1f}",
            str(b.entities),
            f"{b.probability:.3f}",
            f"{b.correct:.3f}",
        ]
        for b in reliability.bins
    ]


def _rate_cells(counts: MatchCounts) -> list[str]:
    return [f"{rate:.4f}" for rate in (counts.precision, counts.recall, counts.f1)]


def _count_values(counts: MatchCounts) -> tuple[int, int, int]:
    return counts.gold, counts.predicted, counts.correct
