"""Scores and tagged sentences for people (rich tables and text) and for programs (JSON)."""

import re
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from rich.table import Table
from rich.text import Text

from flax_ner.text.examples import Entity
from flax_ner.text.metrics import Counts, Scores

# Control characters but the tab, and separators of lines: what could move a terminal's cursor.
_CONTROLS = re.compile("[\x00-\x08\x0a-\x1f\x7f-\x9f\u2028\u2029]")
COLOURS = ("green", "cyan", "magenta", "yellow", "blue", "red")


def score_table(scores: Scores, title: str = "") -> Table:
    """A line a category and one for all together."""
    table = Table("category", title=Text(title, "table.title"), title_justify="left")
    for heading in ("precision", "recall", "F1", "gold", "found", "right"):
        table.add_column(heading, justify="right")
    for name, counts in scores.by_type.items():
        table.add_row(Text(name), *_cells(counts))
    table.add_section()
    table.add_row("all", *_cells(scores), style="bold")
    return table


def score_json(scores: Scores) -> dict[str, Any]:
    """The same figures for programs."""
    by_type = {name: _figures(counts) for name, counts in scores.by_type.items()}
    return {"all": _figures(scores), "by_type": by_type}


def segments(text: str, entities: Iterable[Entity]) -> Iterator[tuple[str, str | None]]:
    """The text in pieces, each with the type of its entity, or None; none of them is empty.

    Of entities that lie in one another the outer one is shown.
    """
    for piece in marked(text, entities):
        if isinstance(piece, str):
            yield piece, None
        else:
            yield "".join(_strings(piece.inside)), piece.entity.type


class Marked(NamedTuple):
    """What is seen of an entity in its text, and of those that lie in it."""

    entity: Entity
    inside: "list[str | Marked]"


def marked(text: str, entities: Iterable[Entity]) -> list[str | Marked]:
    """The text in pieces, entities and what is between them; no string is empty.

    Of one that begins in an earlier one and ends behind it only what is left is seen.
    """

    def between(place: int, end: int, own: Sequence[Entity]) -> list[str | Marked]:
        pieces, rest = list[str | Marked](), deque(own)
        while rest:
            entity = rest.popleft()
            start = max(entity.start, place)
            if start >= entity.end:
                continue
            within, crossing = list[Entity](), list[Entity]()
            while rest and rest[0].start < entity.end:
                other = rest.popleft()
                (within if other.end <= entity.end else crossing).append(other)
            rest.extendleft(reversed(crossing))
            pieces += [text[place:start]] if place < start else []
            pieces.append(Marked(entity, between(start, entity.end, within)))
            place = entity.end
        return pieces + ([text[place:end]] if place < end else [])

    return between(0, len(text), sorted(entities, key=lambda e: (e.start, -e.end)))


def bracketed(text: str, entities: Iterable[Entity]) -> str:
    r"""Return the text on one line, each entity in brackets with its type: "在[上海 address]".

    What would end the line becomes an escape, \n or, at the end, \r. All else stays as it is.
    """

    def line(pieces: Iterable[str | Marked]) -> str:
        return "".join(
            piece if isinstance(piece, str) else f"[{line(piece.inside)} {piece.entity.type}]"
            for piece in pieces
        )

    whole = line(marked(text, entities)).replace("\n", "\\n")
    return f"{whole[:-1]}\\r" if whole.endswith("\r") else whole


def highlight(text: str, entities: Iterable[Entity], categories: Sequence[str]) -> Text:
    """The text with each entity in brackets, coloured, and named: "在[上海 address]"; also one in another:
    "在[[上海 address]大学 organization]". For terminals: control characters are shown as escapes."""
    names = list(categories)

    def line(pieces: Iterable[str | Marked]) -> Text:
        made = Text()
        for piece in pieces:
            if isinstance(piece, str):
                made.append(_CONTROLS.sub(_escape, piece))
                continue
            category = piece.entity.type
            shown = Text("[").append(line(piece.inside)).append(f" {category}]")
            shown.stylize_before(COLOURS[names.index(category) % len(COLOURS)])
            made.append(shown)
        return made

    return line(marked(text, entities))


def _escape(match: re.Match[str]) -> str:
    return match[0].encode("unicode_escape").decode()


def _strings(pieces: Iterable[str | Marked]) -> Iterator[str]:
    for piece in pieces:
        if isinstance(piece, str):
            yield piece
        else:
            yield from _strings(piece.inside)


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
