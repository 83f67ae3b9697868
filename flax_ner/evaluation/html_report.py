"""Report an evaluation as one HTML file: tables, and the gold and predicted entities of each text."""

from collections.abc import Iterable, Sequence
from html import escape

from flax_ner.evaluation.analysis import OUTCOMES, EntityMatch
from flax_ner.evaluation.display import EntitySegment, nested_segments
from flax_ner.evaluation.html_page import render_page, render_table
from flax_ner.evaluation.summary import (
    CONVENTION_NOTES,
    Evaluation,
    count_cells,
    reliability_rows,
    summary_lines,
)
from flax_ner.text.examples import Entity

NO_ENTITY = "none"  # filter for texts without a gold or predicted entity


def evaluation_html(evaluation: Evaluation) -> str:
    """Return the report as a self-contained HTML page, which loads nothing from the network."""
    return render_page(
        "flax_ner.evaluation",
        "evaluation.html",
        title=escape(evaluation.title),
        summary="<br>".join(map(escape, summary_lines(evaluation))),
        tables="\n".join(_tables(evaluation)),
        filters="\n".join(_filters(evaluation)),
        articles="\n".join(_article(*text) for text in evaluation.texts),
    )


def _tables(evaluation: Evaluation) -> Iterable[str]:
    columns = ("precision", "recall", "F1", "gold", "predicted", "correct")
    scores = evaluation.scores
    rows = [[name, *count_cells(counts)] for name, counts in scores.by_type.items()]
    yield _table(f"By category, {evaluation.convention}", ("category", *columns), [
        *rows, ["all", *count_cells(scores)],
    ])  # fmt: skip
    yield _table("Scoring conventions", ("scoring", *columns, "what counts"), [
        [name, *count_cells(s), CONVENTION_NOTES[name]] for name, s in evaluation.conventions.items()
    ])  # fmt: skip
    yield _table("Outcomes", ("outcome", "entities", "meaning"), [
        [outcome, str(count), OUTCOMES[outcome]] for outcome, count in evaluation.outcomes.items()
    ])  # fmt: skip
    if evaluation.confusions:
        yield _table("Confused categories", ("gold", "predicted as", "count"), [
            [gold, predicted, str(count)]
            for (gold, predicted), count in evaluation.confusions.items()
        ])  # fmt: skip
    for grouping, groups in evaluation.groups.items():
        yield _table(f"By {grouping}", (grouping, *columns), [
            [name, *count_cells(counts)] for name, counts in groups.items()
        ])  # fmt: skip
    heading = ("probability", "entities", "mean", "correct")
    yield _table("Probabilities", heading, reliability_rows(evaluation.reliability))


def _table(title: str, heading: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    text_columns = ("meaning", "what counts", "predicted as")
    return f"<h2>{escape(title)}</h2>\n{render_table([heading, *rows], text_columns)}"


def _filters(evaluation: Evaluation) -> Iterable[str]:
    empty = sum(not matches for *_, matches in evaluation.texts)
    has_errors = any(count for name, count in evaluation.outcomes.items() if name != "correct")
    for outcome, count in [*evaluation.outcomes.items(), (NO_ENTITY, empty)]:
        # Readers look for errors first, so texts without one are hidden at the start.
        checked = " checked" if not has_errors or outcome not in ("correct", NO_ENTITY) else ""
        yield (
            f'<label><input type="checkbox" value="{outcome}"{checked}> {outcome} ({count})</label>'
        )


def _article(source: str, text: str, matches: Sequence[EntityMatch]) -> str:
    outcomes = " ".join(dict.fromkeys(match.outcome for match in matches)) or NO_ENTITY
    gold = [(match.gold, match.outcome) for match in matches if match.gold]
    predicted = [(match.predicted, match.outcome) for match in matches if match.predicted]
    lines = [f'<article data-outcomes="{outcomes}"><small>{escape(source)}</small>']
    if {match.outcome for match in matches} <= {"correct"}:
        lines.append(f"<p>{_mark_entities(text, gold)}</p>")
    else:
        lines.append(f"<p><small>gold</small> {_mark_entities(text, gold)}</p>")
        lines.append(f"<p><small>predicted</small> {_mark_entities(text, predicted)}</p>")
    return "\n".join([*lines, "</article>"])


def _mark_entities(text: str, entities: Sequence[tuple[Entity, str]]) -> str:
    outcomes = dict(entities)

    def render(segments: Iterable[str | EntitySegment]) -> str:
        return "".join(escape(s) if isinstance(s, str) else mark(s) for s in segments)

    def mark(segment: EntitySegment) -> str:
        entity, outcome = segment.entity, outcomes[segment.entity]
        score = f" {entity.score:.2f}" if entity.score < 1 else ""
        label = f"<sub>{escape(entity.type)}{score}</sub>"
        return f'<mark class="{outcome}" title="{outcome}">{render(segment.children)}{label}</mark>'

    return render(nested_segments(text, (entity for entity, _ in entities)))
