"""All that is to be said of a tagger on labelled texts, for people, programs and browsers."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table

from flax_ner.errors import UserError
from flax_ner.text.analysis import (
    KINDS,
    Comparison,
    Interval,
    Pair,
    Reliability,
    by_group,
    compare,
    confusion,
    counts_per_text,
    intervals,
    kinds,
    length_group,
    pair_up,
    reliability,
    seen_group,
)
from flax_ner.text.examples import Entity, Example
from flax_ner.text.metrics import Counts, Scores, score
from flax_ner.text.report import highlight, score_json, score_table

WHY = {
    "strict": "exact type and boundaries; an entity begins with its B- (seqeval's strict mode)",
    "lenient": "an I- without its B- begins an entity, too (conlleval, seqeval's default)",
    "mmocr": "MMOCR's decoder: no entity of one character, one may end behind the text, repeats count",
}
LISTED = 10  # of confusions


@dataclass(frozen=True)
class Evaluation:
    """What `evaluate` finds out, under one convention but for `conventions`."""

    title: str
    convention: str
    scores: Scores
    intervals: dict[str, Interval]
    conventions: dict[str, Scores]  # all that the model's tags allow
    kinds: dict[str, int]  # of KINDS
    confusion: dict[tuple[str, str], int]  # gold, found
    groups: dict[str, dict[str, Counts]]  # by what, then by group
    reliability: Reliability
    comparison: Comparison | None
    texts: list[tuple[str, str, list[Pair]]]  # source, text, and what became of its entities


def evaluation(
    title: str,
    examples: Sequence[Example],
    found: Mapping[str, Sequence[Sequence[Entity]]],
    convention: str,
    train: Iterable[Example] | None = None,
    other: Sequence[Sequence[Entity]] | None = None,
) -> Evaluation:
    """Compare what a tagger found with the examples' entities.

    Args:
        title: of the reports.
        examples: labelled.
        found: the tagger's entities of each text, under each convention.
        convention: which of them everything but the comparison of conventions is about.
        train: the training data, to tell surfaces it has from those it lacks.
        other: what another tagger found in the same texts, for the paired bootstrap.

    Raises:
        UserError: with file and line, for an example without a label.
    """
    gold = []
    for example in examples:
        if example.entities is None:
            raise UserError(f"{example.source}: has no label. Scoring needs labelled data.")
        gold.append(example.entities)
    mine = found[convention]
    counts = counts_per_text(gold, mine)
    pairs = [pair_up(*row) for row in zip(gold, mine, strict=True)]
    groups = {"length of the entity": by_group(gold, mine, length_group)}
    if train is not None:
        groups["surface"] = by_group(gold, mine, seen_group(train))
    return Evaluation(
        title,
        convention,
        score(gold, mine, convention),
        intervals(counts),
        {name: score(gold, rows, name) for name, rows in found.items()},
        kinds(pairs),
        confusion(pairs),
        groups,
        reliability(gold, mine),
        None if other is None else compare(counts, counts_per_text(gold, other)),
        [(e.source, e.text, row) for e, row in zip(examples, pairs, strict=True)],
    )


def evaluation_json(found: Evaluation) -> dict[str, Any]:
    """The figures, without the texts."""
    counts = {
        what: {name: score_json(Scores(*_three(c), {}))["all"] for name, c in groups.items()}
        for what, groups in found.groups.items()
    }
    row = {
        "scoring": found.convention,
        **score_json(found.scores),
        "intervals": {name: asdict(interval) for name, interval in found.intervals.items()},
        "conventions": {name: score_json(s)["all"] for name, s in found.conventions.items()},
        "kinds": found.kinds,
        "confusion": [{"gold": a, "found": b, "count": n} for (a, b), n in found.confusion.items()],
        "groups": counts,
        "reliability": {
            "error": found.reliability.error,
            "bins": [b._asdict() for b in found.reliability.bins],
        },
    }
    if found.comparison is not None:
        row["comparison"] = asdict(found.comparison)
    return row


def evaluation_tables(found: Evaluation) -> RenderableType:
    """The same as tables for a terminal."""
    parts: list[RenderableType] = [score_table(found.scores, found.title)]
    parts += [escape(line) for line in summary_lines(found)]
    conventions = _table("scoring", "precision", "recall", "F1", "why it differs")
    for name, scores in found.conventions.items():
        conventions.add_row(name, *_rates(scores), WHY[name])
    kind_table = _table("what became of them", "entities", "meaning")
    for kind, count in found.kinds.items():
        kind_table.add_row(kind, str(count), KINDS[kind])
    parts += [conventions, kind_table]
    if found.confusion:
        table = _table("gold", "found as", "times")
        for (a, b), count in list(found.confusion.items())[:LISTED]:
            table.add_row(escape(a), escape(b), str(count))
        parts.append(table)
    for what, groups in found.groups.items():
        table = _table(what, "precision", "recall", "F1", "gold", "found", "right")
        for name, counts in groups.items():
            table.add_row(name, *counts_cells(counts))
        parts.append(table)
    table = _table("probability", "entities", "mean", "right")
    for row in reliability_rows(found.reliability):
        table.add_row(*row)
    parts.append(table)
    return Group(*parts)


def error_table(found: Evaluation, show: int) -> Table:
    """The first `show` sentences with an error, as they should be beside what was found."""
    categories = list(found.scores.by_type)
    table = Table("where", "gold", "found", show_lines=True)
    for source, text, pairs in with_errors(found)[:show]:
        gold = highlight(text, [pair.gold for pair in pairs if pair.gold], categories)
        mine = highlight(text, [pair.predicted for pair in pairs if pair.predicted], categories)
        table.add_row(escape(source), gold, mine)
    return table


def with_errors(found: Evaluation) -> list[tuple[str, str, list[Pair]]]:
    """Those of `texts` in which not everything is correct."""
    return [row for row in found.texts if any(pair.kind != "correct" for pair in row[2])]


def summary_lines(found: Evaluation) -> list[str]:
    """What no table holds."""
    bounds = [
        f"{name} {i.value:.4f} [{i.low:.4f}, {i.high:.4f}]"
        for name, i in (
            (name.replace("f1", "F1"), interval) for name, interval in found.intervals.items()
        )
    ]
    lines = [
        f"{', '.join(bounds)}: 95% intervals, by resampling the {len(found.texts):,} texts.",
        f"Calibration error of the entities' probabilities: {found.reliability.error:.3f}."
        if found.reliability.bins
        else "No entity was predicted, so there is no calibration error.",
    ]
    if found.comparison is not None:
        d, p = found.comparison.difference, found.comparison.p
        lines.append(
            f"F1 less that of the other model: {d.value:+.4f} [{d.low:+.4f}, {d.high:+.4f}], p = {p:.3f} "
            "(paired bootstrap)."
        )
    return lines


def _table(first: str, *others: str) -> Table:
    table = Table(first)
    for heading in others:
        words = heading in ("meaning", "why it differs", "found as")
        table.add_column(heading, justify="left" if words else "right")
    return table


def counts_cells(counts: Counts) -> list[str]:
    """Precision, recall, F1, gold, found, right."""
    return [*_rates(counts), *map(str, _three(counts))]


def reliability_rows(found: Reliability) -> list[list[str]]:
    """Range of probabilities, entities, their mean probability, the share that is right."""
    return [
        [
            f"{b.low:.1f} to {b.high:.1f}",
            str(b.entities),
            f"{b.probability:.3f}",
            f"{b.correct:.3f}",
        ]
        for b in found.bins
    ]


def _rates(counts: Counts) -> list[str]:
    return [f"{rate:.4f}" for rate in (counts.precision, counts.recall, counts.f1)]


def _three(counts: Counts) -> tuple[int, int, int]:
    return counts.gold, counts.predicted, counts.correct
