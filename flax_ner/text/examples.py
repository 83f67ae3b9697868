"""A text and its entities: the data types that every other module uses."""

from collections.abc import Iterable
from dataclasses import dataclass
from numbers import Integral
from typing import Any, NamedTuple

from flax_ner.errors import UserError


class Entity(NamedTuple):
    """A labelled span of a text.

    Offsets count characters of the caller's text, and `end` is exclusive, so `text[start:end]` is the entity:

        >>> text = "浙商银行企业信贷部"
        >>> Entity("company", 0, 4, text[0:4])
        Entity(type='company', start=0, end=4, text='浙商银行', score=1.0)

    Attributes:
        type: category, e.g. "company".
        start: first character.
        end: one past the last character.
        text: the characters of the entity; may be empty.
        score: probability, for predicted entities.
    """

    type: str
    start: int
    end: int
    text: str = ""
    score: float = 1.0

    def as_dict(self) -> dict[str, Any]:
        """Return the fields as plain Python values, ready for JSON.

            >>> Entity("name", 0, 3, "王建国", 0.5).as_dict()
            {'type': 'name', 'start': 0, 'end': 3, 'text': '王建国', 'score': 0.5}

        Returns:
            A dict with the keys `type`, `start`, `end`, `text` and `score`, in this order.
        """
        return {
            "type": str(self.type),
            "start": int(self.start),
            "end": int(self.end),
            "text": str(self.text),
            "score": float(self.score),
        }


@dataclass(frozen=True)
class Example:
    """A text with its gold entities.

        >>> Example("浙商银行企业信贷部", (Entity("company", 0, 4),), "train.json:1")

    Attributes:
        text: the text.
        entities: gold entities. `None` means that the text is not labelled; `()` means that it is
            labelled and has no entities.
        source: "file:line", for error messages.
    """

    text: str
    entities: tuple[Entity, ...] | None = None
    source: str = ""


def offset_type_error(start: Any, end: Any) -> str | None:
    """Return a message that names the offset that is not an integer, or None if both are."""
    if type(start) is type(end) is int:  # isinstance with the abstract class below is slow
        return None
    for name, offset in (("start", start), ("end", end)):
        if not isinstance(offset, Integral) or isinstance(offset, bool):
            kind = "null" if offset is None else f"of type {type(offset).__name__}"
            return f"{name} is {offset!r} ({kind}). Give offsets as whole numbers."
    return None


def gold_entities(examples: Iterable[Example], field: str = "") -> list[tuple[Entity, ...]]:
    """Return the gold entities of each example.

    Args:
        examples: labelled examples.
        field: config field or argument that they came from, for the message.

    Raises:
        UserError: an example has no label.
    """
    entities = []
    for example in examples:
        if example.entities is None:
            raise UserError(
                f"{f'{field}: ' if field else ''}{example.source}: has no label. Scoring needs labelled data; "
                "python -m flax_ner predict tags unlabelled texts."
            )
        entities.append(example.entities)
    return entities
