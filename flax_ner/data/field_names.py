"""How annotation tools and data sets name the fields of their JSON: texts, tokens, tags and spans."""

import re
from typing import Any, NamedTuple

from flax_ner.data.tagged import is_tag_sequence
from flax_ner.errors import UserError

TEXT_FIELDS = (
    "text", "content", "sentence", "originalText", "sentText", "raw_text", "rawText", "data", "context",
    "document",
)  # fmt: skip
TOKEN_FIELDS = ("tokens", "words", "chars", "tokenized_text", "sentence", "text", "token", "word")
TAG_FIELDS = (
    "ner_tags", "ne_tags", "tags", "labels", "ner", "label", "ner_labels", "entity_tags", "tag", "ner_tag",
    "bio", "bio_tags",
)  # fmt: skip
SPAN_FIELDS = (
    "label", "labels", "entities", "spans", "annotations", "ner", "entity", "entity_list", "mentions",
    "entity_mentions", "entityMentions", "result_list", "entity_label", "span_position",
)  # fmt: skip
ANNOTATION_FIELDS = frozenset(SPAN_FIELDS + TAG_FIELDS)

_PLACE = "(_?(idx|index|offset|offsets|pos|position|char|char_index))?"
_START = re.compile(f"(char_)?(start|begin){_PLACE}|offset_start", re.IGNORECASE)
_END = re.compile(f"(char_)?(end|stop){_PLACE}|offset_end", re.IGNORECASE)
_CAMEL_HUMP = re.compile("(?<=[a-z])(?=[A-Z])")
_BOTH = (
    "span",
    "offsets",
    "position",
    "char_span",
    "char_offsets",
)  # [start, end] or [[start, end]]
_TYPE = (
    "labels", "entity_type", "label_type", "entity_label", "entity_group", "label", "type", "types", "tag",
    "category", "class", "entity", "hypertextlabels",
)  # fmt: skip
_SURFACE = ("text", "entity", "word", "surface", "mention", "entity_text", "span_text")


_UNCERTAIN_SURFACE = ("name", "value")
_TOKEN_KEYS = {"text", "start", "end", "id", "ws", "disabled", "style", "tokenizer_id"}
_ANNOTATION_NAME = re.compile(
    r"entit|annot|label|mention|spo_|event|relation|denotation", re.IGNORECASE
)


class Span(NamedTuple):
    """A labelled span as a file has it: unchecked, and in the file's own units.

    Attributes:
        type: category.
        start: first position.
        end: last position, or the one after it.
        surface: the text of the span, or None if the file does not repeat it.
    """

    type: Any
    start: Any
    end: Any
    surface: str | None = None
    certain: bool = (
        True  # whether the surface is copied from the text, not a name such as "value" may hold
    )


def parse_span(value: Any, in_span_field: bool = False) -> list[Span] | None:
    """Return the span that a JSON value describes, once per category; None if it does not look like a span.

    A span is `[start, end, category]`, `[category, start, end]`, either with the text as a fourth element, or
    an object with a start, an end and a category under any of their usual names. In a field that has spans, the
    offsets of a list may have any type, so that the caller can report it.
    """
    if isinstance(value, dict):
        return _parse_object(value)
    if not isinstance(value, list) or len(value) not in (3, 4):
        return None
    if isinstance(value[0], str) and _is_number(value[1]) and _is_number(value[2]):
        category, start, end, *rest = value
    elif in_span_field or (_is_number(value[0]) or _is_number(value[1])):
        start, end, category, *rest = value
    else:
        return None
    if isinstance(category, list | dict):
        return None
    surface = rest[0] if rest and isinstance(rest[0], str) else None
    return [Span(category, start, end, surface)]


def is_start_field(name: str) -> bool:
    """Return whether a field or column of this name has the first offset of a span."""
    return bool(_START.fullmatch(name))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _parse_object(value: dict[str, Any]) -> list[Span] | None:
    value = {_CAMEL_HUMP.sub("_", name).lower(): inner for name, inner in value.items()}
    keys = [name for name in _TYPE if name in value]
    if not keys:
        return None
    categories = value[keys[0]]
    start_key = next((name for name in value if _START.fullmatch(name)), None)
    end_key = next((name for name in value if _END.fullmatch(name)), None)
    indices = value.get("index")  # of W2NER: the number of each token of the entity
    if start_key and end_key:
        start, end = value[start_key], value[end_key]
    elif isinstance(indices, list) and indices and all(type(i) is int for i in indices):
        start, end = indices[0], indices[-1] + 1
        if indices != list(range(start, end)):
            end = None  # the entity is discontinuous
    else:
        both = next((value[name] for name in _BOTH if isinstance(value.get(name), list)), None)
        if not both:
            return None
        if len(both) == 1 and isinstance(both[0], list):
            both = both[0]
        if len(both) != 2 or not all(map(_is_number, both)):
            return None
        start, end = both
    surface_keys = [
        name for name in (*_SURFACE, *_UNCERTAIN_SURFACE, *keys)
        if name != keys[0] and isinstance(value.get(name), str)
    ]  # fmt: skip
    surface = value[surface_keys[0]] if surface_keys else None
    certain = bool(surface_keys) and surface_keys[0] in _SURFACE
    if not isinstance(categories, list):
        categories = [categories]
    return [Span(category, start, end, surface, certain) for category in categories]


def looks_like_annotations(name: str, value: Any, text: str = "") -> bool:
    """Return whether a field that was not read may hold annotations.

    Args:
        name: name of the field.
        value: its value.
        text: the text of the row. Objects that repeat a part of it are annotations under any name.
    """
    if value is None or value in ("", [], {}):
        return False
    if name == "tokens" and is_plain_tokens(value):
        return False
    if name in ANNOTATION_FIELDS or (
        isinstance(value, list | dict) and _ANNOTATION_NAME.search(name)
    ):
        return True
    if isinstance(value, dict):
        return any(looks_like_annotations(key, inner, text) for key, inner in value.items())
    if not isinstance(value, list):
        return False
    if parse_span(value[0]) is not None or is_tag_sequence(value):
        return True
    return any(
        isinstance(item, dict)
        and any(isinstance(x, str) and 1 < len(x) < len(text) and x in text for x in item.values())
        for item in value
    )


def check_no_annotations(name: str, value: Any, text: str, source: str, form: str) -> None:
    """Raise `UserError` if a field that was not read may hold the annotations of a text.

    Args:
        name, value, text: see `looks_like_annotations`.
        source: "file:line".
        form: a form that can be read, for the message.
    """
    if looks_like_annotations(name, value, text):
        raise UserError(
            f"{source}: the field {name!r} looks like annotations, but cannot be read: {str(value)[:80]}. "
            f"Expected a form such as {form}. Delete the field if the text is not labelled."
        )


def is_plain_tokens(value: Any) -> bool:
    """Return whether a value is a list of tokens that only repeats the text, as Prodigy has it."""
    return isinstance(value, list) and all(
        isinstance(item, str) or (isinstance(item, dict) and item.keys() <= _TOKEN_KEYS)
        for item in value
    )


def is_words(value: Any) -> bool:
    """Return whether a value is a list of tokens."""
    return isinstance(value, list) and bool(value) and all(isinstance(w, str) and w for w in value)
