"""How annotation tools and data sets name the fields of their JSON: texts, tokens, tags and spans."""

import re
from typing import Any, NamedTuple

from flax_ner.data.tagged import is_prefixed_tag, is_tag_sequence
from flax_ner.errors import UserError

TEXT_FIELDS = (
    "text", "content", "sentence", "originalText", "sentText", "raw_text", "rawText", "data", "context",
    "document",
)  # fmt: skip
TOKEN_FIELDS = (
    "tokens", "words", "chars", "tokenized_text", "sentence", "text", "token", "word", "seg",
)  # fmt: skip
TAG_FIELDS = (
    "ner_tags", "ne_tags", "tags", "labels", "ner", "label", "ner_labels", "entity_tags", "tag", "ner_tag",
    "bio", "bio_tags",
)  # fmt: skip
SPAN_FIELDS = (
    "label", "labels", "entities", "spans", "annotations", "ner", "entity", "entity_list", "mentions",
    "entity_mentions", "entityMentions", "result_list", "entity_label", "span_position", "ents",
    "named_entities", "denotations",
)  # fmt: skip
ANNOTATION_FIELDS = frozenset(SPAN_FIELDS + TAG_FIELDS)

_PLACE = "(_?(idx|index|offset|offsets|pos|position|char|char_index))?"
_START = re.compile(f"(char_)?(start|begin){_PLACE}s?|offset_start", re.IGNORECASE)
_END = re.compile(f"(char_)?(end|stop){_PLACE}s?|offset_end", re.IGNORECASE)
_CAMEL_HUMP = re.compile("(?<=[a-z])(?=[A-Z])")
_BOTH = (
    "span",
    "offsets",
    "position",
    "char_span",
    "char_offsets",
)  # [start, end] or [[start, end]]
_TYPE = (
    "labels", "entity_type", "label_type", "entity_label", "entity_group", "label", "label_name", "tag_name",
    "type", "types", "tag", "category", "class", "kind", "ner", "cat", "entity", "hypertextlabels",
)  # fmt: skip
# Names of the text of a span; and names that may have it, or something else.
_SURFACE = ("text", "word", "surface", "mention", "entity_text", "span_text", "entity")
POSSIBLE_SURFACE = ("name", "value")
CATEGORY_NAMES = frozenset(_TYPE)
_PREDICTIONS = re.compile(r"(?<![a-z])pred(icted|ictions?)?(?![a-z])|suggest", re.IGNORECASE)
_METADATA = re.compile("meta(data)?|info|extra|attributes", re.IGNORECASE)
_TAG_LIKE_NAME = re.compile(
    "(?<![a-z])(ner|bio|iob|tags?|labels?|entity|entities)(?![a-z])", re.IGNORECASE
)
OTHER_TAGS = re.compile("pos|chunk|dep|lemma|xpos|upos|srl", re.IGNORECASE)
_TOKEN_KEYS = {"text", "start", "end", "id", "ws", "disabled", "style", "tokenizer_id"}
# Likely names of an offset or a range of offsets, most of which `_parse_object` does not read.
_OFFSET_NAME = re.compile(
    r"from|to|offset|length|len|loc|location|range|(start|begin|end)\w*|\w*_(start|begin|end)"
    r"|\w*(开始|起始|起点|结束|终点|位置|偏移|长度)\w*",
    re.IGNORECASE,
)
_RANGE = re.compile(r"(\d+)\s*[-:,]\s*(\d+)")
_ANNOTATION_NAME = re.compile(
    r"(?<![a-z])(entity|entities|annotations?|labels?|mentions?|spo|events?|relations?|denotations?|spans?)"
    r"(?![a-z])",
    re.IGNORECASE,
)


class Span(NamedTuple):
    """A labelled span as a file has it: unchecked, and in the file's own units.

    Attributes:
        type: category.
        start: first position.
        end: last position, or the one after it.
        surface: the text of the span, or None if the file does not repeat it.
        other_strings: names and values of other strings, one of which may be the surface or the category.
    """

    type: Any
    start: Any
    end: Any
    surface: str | None = None
    other_strings: tuple[tuple[str, str], ...] = ()


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
    elif len(value) == 4 and isinstance(value[1], str) and all(map(_is_number, value[2:])):
        surface, category, start, end = value
        return [Span(category, start, end, surface)] if isinstance(surface, str) else None
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
    by_preference = sorted(value, key=lambda name: "char" not in name)
    start_key = next((name for name in by_preference if _START.fullmatch(name)), None)
    end_key = next((name for name in by_preference if _END.fullmatch(name)), None)
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
    strings = {
        name: text for name, text in value.items() if name != keys[0] and isinstance(text, str)
    }
    surface = next((strings.pop(name) for name in _SURFACE if name in strings), None)
    if not isinstance(categories, list):
        categories = [categories]
    return [Span(c, start, end, surface, tuple(strings.items())) for c in categories]


def looks_like_annotations(name: str, value: Any, text: str = "") -> bool:
    """Return whether a field that was not read may hold annotations.

    Args:
        name: name of the field.
        value: its value.
        text: the text of the row. Objects that repeat a part of it are annotations under any name.
    """
    if value is None or value in ("", [], {}) or are_predictions(name):
        return False
    if name == "tokens" and is_plain_tokens(value):
        return False
    return (
        _is_named_like_annotations(name, value)
        or _has_tags_of(text, name, value)
        or _repeats_parts(name, value, text)
    )


def _is_named_like_annotations(name: str, value: Any) -> bool:
    if name in ANNOTATION_FIELDS:
        return True
    if isinstance(value, list | dict) and _ANNOTATION_NAME.search(_CAMEL_HUMP.sub("_", name)):
        return True
    # Parallel lists of starts and ends.
    return is_start_field(name) and isinstance(value, list) and all(type(x) is int for x in value)


def _has_tags_of(text: str, name: str, value: Any) -> bool:
    """Return whether a value is a tag for each word or character of a text, as strings or numbers."""
    tags = value.split() if isinstance(value, str) else value
    if not isinstance(tags, list) or OTHER_TAGS.search(name):
        return False
    if is_tag_sequence(tags) and (isinstance(value, list) or len(tags) > 1 or "-" in value):
        return True
    if isinstance(value, str) or len(tags) < 2:
        return False
    tag_like = bool(_TAG_LIKE_NAME.search(name))
    if tag_like and any(isinstance(tag, str) and is_prefixed_tag(tag) for tag in tags):
        return True
    fits = len(tags) in (len(text), len(text.split()))
    return fits and (tag_like or ("O" in tags and all(isinstance(tag, str) for tag in tags)))


def _repeats_parts(name: str, value: Any, text: str) -> bool:
    """Return whether a value has spans, offsets, or objects or lists with parts of the text."""

    def is_part(inner: Any) -> bool:
        return isinstance(inner, str) and 1 < len(inner) < len(text) and inner in text

    if isinstance(value, dict):
        if any(looks_like_annotations(key, inner, text) for key, inner in value.items()):
            return True
        lists = [inner for inner in value.values() if isinstance(inner, list)]
        all_lists = len(lists) == len(value) and not _METADATA.fullmatch(name)
        return all_lists and any(is_part(part) for inner in lists for part in inner)
    if not isinstance(value, list):
        return False
    if value and all(_has_offsets(item, len(text)) for item in value):
        return True
    return any(
        parse_span(item) is not None
        or any(map(is_part, item.values() if isinstance(item, dict) else item))
        for item in value
        if isinstance(item, list | dict)
    )


def _has_offsets(value: Any, length: int) -> bool:
    """Return whether an object has two offsets, or a range of them, under a likely name, and a string."""
    if not isinstance(value, dict):
        return False
    likely = {
        name: inner
        for name, inner in value.items()
        if _OFFSET_NAME.fullmatch(_CAMEL_HUMP.sub("_", name))
    }
    offsets = [inner for inner in likely.values() if type(inner) is int]
    ranges = [_RANGE.fullmatch(inner) for inner in likely.values() if isinstance(inner, str)]
    offsets += [int(offset) for match in ranges if match for offset in match.groups()]
    has_category = any(isinstance(inner, str | list) for inner in value.values())
    return has_category and len(offsets) == 2 and all(0 <= offset <= length for offset in offsets)


def are_predictions(name: str) -> bool:
    """Return whether a field of this name has what a model predicted."""
    return bool(_PREDICTIONS.search(name))


def check_unlabelled(rest: dict[str, Any], text: str, source: str, form: str) -> None:
    """Raise `UserError` if fields that were not read may hold the annotations of a text.

    Args:
        rest: the fields.
        text: see `looks_like_annotations`.
        source: "file:line".
        form: a form that can be read, for the message.
    """
    for name, value in rest.items():
        if looks_like_annotations(name, value, text):
            raise UserError(
                f"{source}: the field {name!r} looks like annotations, but cannot be read: {str(value)[:80]}. "
                f"Expected a form such as {form}. Delete the field if it has no entities."
            )
    if parse_span(rest):
        raise UserError(
            f"{source}: the row describes one entity. Put the entities of a text into one list, as in {form}."
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
