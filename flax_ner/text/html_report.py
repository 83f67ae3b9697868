"""An evaluation as one HTML file: tables, and each sentence as it should be and as it was found."""

from collections.abc import Iterable, Sequence
from html import escape

from flax_ner.text.analysis import KINDS, Pair
from flax_ner.text.evaluation import (
    WHY,
    Evaluation,
    counts_cells,
    reliability_rows,
    summary_lines,
)
from flax_ner.text.examples import Entity
from flax_ner.text.pages import page, table
from flax_ner.text.report import Marked, marked

NOTHING = "none"  # the kind of a sentence without any entity


def evaluation_html(found: Evaluation) -> str:
    """The whole file; it fetches nothing."""
    return page(
        "evaluation.html",
        title=escape(found.title),
        summary="<br>".join(map(escape, summary_lines(found))),
        tables="\n".join(_tables(found)),
        filters="\n".join(_filters(found)),
        articles="\n".join(_article(*text) for text in found.texts),
    )


def _tables(found: Evaluation) -> Iterable[str]:
    figures = ("precision", "recall", "F1", "gold", "found", "right")
    scores = found.scores
    rows = [[name, *counts_cells(counts)] for name, counts in scores.by_type.items()]
    yield _table(f"By category, {found.convention}", ("category", *figures), [
        *rows, ["all", *counts_cells(scores)],
    ])  # fmt: skip
    yield _table("Scoring conventions", ("scoring", *figures, "why it differs"), [
        [name, *counts_cells(s), WHY[name]] for name, s in found.conventions.items()
    ])  # fmt: skip
    yield _table("What became of the entities", ("kind", "entities", "meaning"), [
        [kind, str(count), KINDS[kind]] for kind, count in found.kinds.items()
    ])  # fmt: skip
    if found.confusion:
        yield _table("Confused categories", ("gold", "found as", "times"), [
            [a, b, str(count)] for (a, b), count in found.confusion.items()
        ])  # fmt: skip
    for what, groups in found.groups.items():
        yield _table(f"By {what}", (what, *figures), [
            [name, *counts_cells(counts)] for name, counts in groups.items()
        ])  # fmt: skip
    head = ("probability", "entities", "mean", "right")
    yield _table("Probabilities", head, reliability_rows(found.reliability))


def _table(title: str, head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    prose = ("meaning", "why it differs", "found as")
    return f"<h2>{escape(title)}</h2>\n{table([head, *rows], prose)}"


def _filters(found: Evaluation) -> Iterable[str]:
    empty = sum(not pairs for *_, pairs in found.texts)
    wrong = any(count for kind, count in found.kinds.items() if kind != "correct")
    for kind, count in [*found.kinds.items(), (NOTHING, empty)]:
        # Errors are what one looks for first.
        checked = " checked" if not wrong or kind not in ("correct", NOTHING) else ""
        yield f'<label><input type="checkbox" value="{kind}"{checked}> {kind} ({count})</label>'


def _article(source: str, text: str, pairs: Sequence[Pair]) -> str:
    kinds = " ".join(dict.fromkeys(pair.kind for pair in pairs)) or NOTHING
    gold = [(pair.gold, pair.kind) for pair in pairs if pair.gold]
    found = [(pair.predicted, pair.kind) for pair in pairs if pair.predicted]
    lines = [f'<article data-kinds="{kinds}"><small>{escape(source)}</small>']
    if {pair.kind for pair in pairs} <= {"correct"}:
        lines.append(f"<p>{_marked(text, gold)}</p>")
    else:
        lines.append(f"<p><small>gold</small> {_marked(text, gold)}</p>")
        lines.append(f"<p><small>found</small> {_marked(text, found)}</p>")
    return "\n".join([*lines, "</article>"])


def _marked(text: str, entities: Sequence[tuple[Entity, str]]) -> str:
    kinds = dict(entities)

    def shown(pieces: Iterable[str | Marked]) -> str:
        return "".join(escape(p) if isinstance(p, str) else mark(p) for p in pieces)

    def mark(piece: Marked) -> str:
        entity, kind = piece.entity, kinds[piece.entity]
        score = f" {entity.score:.2f}" if entity.score < 1 else ""
        name = f"<sub>{escape(entity.type)}{score}</sub>"
        return f'<mark class="{kind}" title="{kind}">{shown(piece.inside)}{name}</mark>'

    return shown(marked(text, (entity for entity, _ in entities)))
