"""What everything else is about: a text and the entities in it."""

from dataclasses import dataclass
from numbers import Integral
from typing import Any, NamedTuple


class Entity(NamedTuple):
    """A span of a text. `start` and `end` count characters of the caller's text, `end` exclusive."""

    type: str
    start: int
    end: int
    text: str = ""
    score: float = 1.0


@dataclass(frozen=True)
class Example:
    """A text with its entities, or `entities=None` where the source gives no labels."""

    text: str
    entities: tuple[Entity, ...] | None = None
    source: str = ""  # "file:line", for messages


def type_fault(start: Any, end: Any) -> str | None:
    """Say which offset is not a whole number and how to fix it; None if both are."""
    for name, offset in (("start", start), ("end", end)):
        if not isinstance(offset, Integral) or isinstance(offset, bool):
            kind = "null" if offset is None else f"of type {type(offset).__name__}"
            return f"{name} is {offset!r} ({kind}). Give offsets as whole numbers."
    return None
