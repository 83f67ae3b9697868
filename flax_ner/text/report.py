"""Scores and tagged sentences for people (rich tables and text) and for programs (JSON)."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from rich.markup import escape
from rich.table import Table
from rich.text import Text

from flax_ner.text.examples import Entity
from flax_ner.text.metrics import Counts, Scores

COLOURS = ("green", "cyan", "magenta", "yellow", "blue", "red")


def score_table(scores: Scores, title: str = "") -> Table:
    """A line a category and one for all together."""
    table = Table("category", title=escape(title), title_justify="left")
    for heading in ("precision", "recall", "F1", "gold", "found", "right"):
        table.add_column(heading, justify="right")
    for name, counts in scores.by_type.items():
        table.add_row(escape(name), *_cells(counts))
    table.add_section()
    table.add_row("all", *_cells(scores), style="bold")
    return table


def score_json(scores: Scores) -> dict[str, Any]:
    """The same figures for programs."""
    by_type = {name: _figures(counts) for name, counts in scores.by_type.items()}
    return {"all": _figures(scores), "by_type": by_type}


def segments(text: str, entities: Iterable[Entity]) -> Iterator[tuple[str, str | None]]:
    """The text in pieces, each with the type of its entity, or None; none of them is empty."""
    place = 0
    for entity in sorted(entities, key=lambda e: e.start):
        start = max(entity.start, place)  # an overlapping entity shows what is left of it
        if start >= entity.end:
            continue
        if place < start:
            yield text[place:start], None
        yield text[start : entity.end], entity.type
        place = entity.end
    if place < len(text):
        yield text[place:], None


def highlight(text: str, entities: Iterable[Entity], categories: Sequence[str]) -> Text:
    """The text with each entity in brackets, coloured, and named: "在[上海 address]"."""
    line = Text()
    for piece, category in segments(text, entities):
        if category is None:
            line.append(piece)
        else:
            colour = COLOURS[list(categories).index(category) % len(COLOURS)]
            line.append(f"[{piece} {category}]", style=colour)
    return line


def _figures(counts: Counts) -> dict[str, float]:
    return {
        "precision": counts.precision,
        "recall": counts.recall,
        "f1": counts.f1,
        "gold": counts.gold,
        "predicted": counts.predicted,
        "correct": counts.correct,
    }


def _cells(counts: Counts) -> list[str]:
    rates = (counts.precision, counts.recall, counts.f1)
    return [f"{rate:.4f}" for rate in rates] + [
        str(n) for n in (counts.gold, counts.predicted, counts.correct)
    ]
