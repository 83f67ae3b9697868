"""Show scores and tagged sentences to people (rich tables, text) and to programs (JSON)."""

import re
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from rich.table import Table
from rich.text import Text

from flax_ner.evaluation.metrics import MatchCounts, Scores
from flax_ner.text.examples import Entity

# Control characters except the tab, and line separators: printed raw they could move a terminal's cursor.
_CONTROLS = re.compile("[\x00-\x08\x0a-\x1f\x7f-\x9f\u2028\u2029]")
COLOURS = ("green", "cyan", "magenta", "yellow", "blue", "red")


def score_table(scores: Scores, title: str = "") -> Table:
    """Return scores as a rich table with one row per category and one for all of them."""
    table = Table("category", title=Text(title, "table.title"), title_justify="left")
    for heading in ("precision", "recall", "F1", "gold", "predicted", "correct"):
        table.add_column(heading, justify="right")
    for name, counts in scores.by_type.items():
        table.add_row(Text(name), *_score_cells(counts))
    table.add_section()
    table.add_row("all", *_score_cells(scores), style="bold")
    return table


def score_json(scores: Scores) -> dict[str, Any]:
    """Return scores as a JSON object with the fields `all` and `by_type`."""
    by_type = {name: _score_fields(counts) for name, counts in scores.by_type.items()}
    return {"all": _score_fields(scores), "by_type": by_type}


def flat_segments(text: str, entities: Iterable[Entity]) -> Iterator[tuple[str, str | None]]:
    """Split a text at its entities; of nested entities only the outer one is kept.

    Args:
        text: the text.
        entities: its entities, in any order.

    Yields:
        Non-empty pieces of the text in order, each with the type of its entity or None.
    """
    for segment in nested_segments(text, entities):
        if isinstance(segment, str):
            yield segment, None
        else:
            yield "".join(_strings(segment.children)), segment.entity.type


class EntitySegment(NamedTuple):
    """The visible part of an entity, as plain text and nested entities."""

    entity: Entity
    children: "list[str | EntitySegment]"


def nested_segments(text: str, entities: Iterable[Entity]) -> list[str | EntitySegment]:
    """Split a text at its entities, nested ones included.

    Of two entities that cross, the later one shows only the part after the earlier one's end.

    Args:
        text: the text.
        entities: its entities, in any order.

    Returns:
        The entities and the non-empty strings between them, in order.
    """

    def split(position: int, end: int, own: Sequence[Entity]) -> list[str | EntitySegment]:
        segments, rest = list[str | EntitySegment](), deque(own)
        while rest:
            entity = rest.popleft()
            start = max(entity.start, position)
            if start >= entity.end:
                continue
            nested, crossing = list[Entity](), list[Entity]()
            while rest and rest[0].start < entity.end:
                other = rest.popleft()
                (nested if other.end <= entity.end else crossing).append(other)
            rest.extendleft(reversed(crossing))
            segments += [text[position:start]] if position < start else []
            segments.append(EntitySegment(entity, split(start, entity.end, nested)))
            position = entity.end
        return segments + ([text[position:end]] if position < end else [])

    return split(0, len(text), sorted(entities, key=lambda e: (e.start, -e.end)))


def bracket_entities(text: str, entities: Iterable[Entity]) -> str:
    r"""Return the text on one line with each entity in brackets: "在[上海 address]".

    A line feed, and a carriage return at the end, become the escapes \n and \r. All else stays as it is.
    """

    def join(segments: Iterable[str | EntitySegment]) -> str:
        return "".join(
            segment
            if isinstance(segment, str)
            else f"[{join(segment.children)} {segment.entity.type}]"
            for segment in segments
        )

    line = join(nested_segments(text, entities)).replace("\n", "\\n")
    return f"{line[:-1]}\\r" if line.endswith("\r") else line


def highlight(text: str, entities: Iterable[Entity], categories: Sequence[str]) -> Text:
    """Return the text with each entity coloured and in brackets, for a terminal.

    Entities look like "在[上海 address]", nested ones like "在[[上海 address]大学 organization]". Control
    characters are shown as escapes.

    Args:
        text: the text.
        entities: its entities, in any order.
        categories: all categories; the position of a category determines its colour.
    """
    names = list(categories)

    def join(segments: Iterable[str | EntitySegment]) -> Text:
        joined = Text()
        for segment in segments:
            if isinstance(segment, str):
                joined.append(_CONTROLS.sub(_escape, segment))
                continue
            category = segment.entity.type
            part = Text("[").append(join(segment.children)).append(f" {category}]")
            part.stylize_before(COLOURS[names.index(category) % len(COLOURS)])
            joined.append(part)
        return joined

    return join(nested_segments(text, entities))


def _escape(match: re.Match[str]) -> str:
    return match[0].encode("unicode_escape").decode()


def _strings(segments: Iterable[str | EntitySegment]) -> Iterator[str]:
    for segment in segments:
        if isinstance(segment, str):
            yield segment
        else:
            yield from _strings(segment.children)


def _score_fields(counts: MatchCounts) -> dict[str, float]:
    return {
        "precision": counts.precision,
        "recall": counts.recall,
        "f1": counts.f1,
        "gold": counts.gold,
        "predicted": counts.predicted,
        "correct": counts.correct,
    }


def _score_cells(counts: MatchCounts) -> list[str]:
    rates = (counts.precision, counts.recall, counts.f1)
    return [f"{rate:.4f}" for rate in rates] + [
        str(n) for n in (counts.gold, counts.predicted, counts.correct)
    ]
