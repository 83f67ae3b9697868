"""What everything else is about: a text and the entities in it."""

from dataclasses import dataclass
from typing import NamedTuple


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
