"""Find the text and the labelled spans of a JSON row, whatever its fields are called."""

import re
from collections.abc import Container
from typing import Any, NamedTuple

from flax_ner.data.field_names import (
    CATEGORY_NAMES,
    POSSIBLE_SURFACE,
    SPAN_FIELDS,
    TEXT_FIELDS,
    TOKEN_FIELDS,
    Span,
    are_predictions,
    is_plain_tokens,
    is_words,
    parse_span,
)
from flax_ner.data.files import ConversionWarnings
from flax_ner.data.offsets import surface_finder
from flax_ner.errors import UserError

FORM = '{"text": "...", "label": [[start, end, category], ...]}'
REJECTED = ("reject", "ignore")  # answers of Prodigy
_TAG_AS_CATEGORY = re.compile(r"[BIESMLU][-_][A-Z0-9_-]+")
# Fields that never have the text, and fields that have it only if no other field does.
_IDENTIFIER = re.compile(
    r"_?(id|uid|uuid|guid)|\w*_?(id|path|url|uri)|file_?name|lang(uage)?|date|time|split|annotator|user|status",
    re.IGNORECASE,
)
_TITLE = re.compile(r"title|name|doc(ument)?|source|author|key|doc_?key", re.IGNORECASE)
RESPONSES = "responses"  # Argilla: one list of spans for each annotator
_MORE_ANNOTATIONS = ("annotation", "gold")
# Fields of Prodigy that say nothing about the text.
_BOOKKEEPING = {"answer", "_input_hash", "_task_hash", "_view_id", "_timestamp", "_session_id"}


class RowContent(NamedTuple):
    """What a row has.

    Attributes:
        text: the text, or its tokens.
        spans: its spans; None for an unlabelled text.
        rest: the fields that were not read.
    """

    text: str | list[str]
    spans: list[Span] | None
    rest: dict[str, Any]


def parse_row(
    row: dict[str, Any],
    source: str,
    warnings: ConversionWarnings,
    field: str = "",
    surface_names: Container[str] = (),
) -> RowContent:
    """Return the text and spans of a row with one list of spans.

    Args:
        row: the row.
        source: "file:line".
        warnings: receives what was left out.
        field: the field with the spans of other rows, "" if it is not known.
        surface_names: names of a span's strings that are its surface, besides the usual ones.

    Raises:
        UserError: the row has no text, or several fields have spans.
    """
    rest = dict(row)
    name, spans = _parse_spans(row, source, warnings, field)
    rest.pop(name, None)
    if name == "result_list":
        rest.pop("prompt", None)  # the category
    text = rest.pop(_text_field(row, spans, source))
    if spans:
        spans = _check_categories(spans, name, source, warnings)
        spans = _resolve_surfaces(spans, text if isinstance(text, str) else "", surface_names)
    for field in _BOOKKEEPING & rest.keys():
        del rest[field]
    if is_plain_tokens(rest.get("tokens")):
        del rest["tokens"]
    return RowContent(text, spans, rest)


def _check_categories(
    spans: list[Span], field: str, source: str, warnings: ConversionWarnings
) -> list[Span]:
    """Return the spans without those of the category O.

    Raises:
        UserError: a category is a number.
    """
    for span in spans:
        if isinstance(span.type, str) and _TAG_AS_CATEGORY.fullmatch(span.type):
            warnings.add(f"spans with a category like a tag, such as {span.type!r}, kept", source)
        if type(span.type) is int:
            raise UserError(
                f"{source}: the categories in {field!r} are numbers, such as {span.type}. Replace them by "
                "names, or export the data again with names."
            )
    kept = [span for span in spans if span.type != "O"]
    warnings.add("spans of the category 'O', left out", source, len(spans) - len(kept))
    return kept


def _resolve_surfaces(spans: list[Span], text: str, surface_names: Container[str]) -> list[Span]:
    """Return spans with their categories and surfaces in their places.

    If the category is what the text has at the offsets, it is the surface, and another string is the category.
    """
    is_there = surface_finder(text)

    def resolve(span: Span) -> Span:
        strings = dict(span.other_strings)
        if isinstance(span.type, str) and is_there(span, span.type):
            categories = [span.surface, *(strings[n] for n in strings if n in CATEGORY_NAMES)]
            for category in categories:
                if category is not None and not is_there(span, category):
                    return span._replace(type=category, surface=span.type)
        if span.surface is None:
            surfaces = [
                string for name, string in span.other_strings
                if name in surface_names or (name in POSSIBLE_SURFACE and string in text)
            ]  # fmt: skip
            return span._replace(surface=next(iter(surfaces), None))
        return span

    return [resolve(span) for span in spans]


def _parse_spans(
    row: dict[str, Any], source: str, warnings: ConversionWarnings, field: str
) -> tuple[str, list[Span] | None]:
    """Return the field that has the spans, and the spans; ("", None) if no field has any.

    `field` is the one that other rows have them in, which may be empty here.
    """
    if "prompt" in row and isinstance(results := row.get("result_list"), list):
        row = row | {
            "result_list": [{"label": row["prompt"]} | r for r in results if isinstance(r, dict)]
        }
    found = fields_with_spans(row)
    if len(found) > 1:
        raise UserError(
            f"{source}: there are spans in {' and in '.join(map(repr, found))}. Keep the right field, and "
            "delete the other."
        )
    named = [name for name in (field, *SPAN_FIELDS) if row.get(name) is not None]
    empty = next((name for name in named if row[name] == []), "")
    if empty and found and not found.keys() & {field, *SPAN_FIELDS}:
        raise UserError(
            f"{source}: there are spans in {min(found)!r}, but none in {empty!r}. Delete the field that does "
            "not have the entities."
        )
    name = next(iter(found), next(iter(named), ""))
    if not name:
        # Tools leave the field out of a text that was annotated and has no entities.
        return (field, []) if field and _is_annotated(row) else ("", None)
    value = first_response(name, row[name])
    if isinstance(value, list) and not value:
        return name, []
    spans, without_category = list[Span](), 0
    for item in value if isinstance(value, list) else [None]:
        if isinstance(item, dict) and "hypertextlabels" in item:
            raise hypertext_error(source)
        parsed = parse_span(item, in_span_field=True)
        if parsed is None:
            raise UserError(
                f'{source}: "{name}" does not have the form [[start, end, category], ...] or '
                f'[{{"start": ..., "end": ..., "label": ...}}, ...]: {str(value)[:80]}.'
            )
        if isinstance(item, dict) and item.get("answer") in REJECTED:
            warnings.add(f"spans with the answer {item['answer']!r}, left out", source)
            continue
        spans += parsed
        without_category += not parsed
    if without_category:
        warnings.add("spans without a category, left out", source, without_category)
    return name, spans


def _is_annotated(row: dict[str, Any]) -> bool:
    """Return whether a row of Prodigy or of Label Studio's JSON-MIN was annotated."""
    return row.get("answer") == "accept" or row.get("annotation_id") is not None


def fields_with_spans(row: dict[str, Any]) -> dict[str, list[Any]]:
    """Return the fields that have lists of spans.

    Predictions do not count beside a field for annotations, nor does an analysis of the tokens.
    """
    annotated = any(name in row for name in (*SPAN_FIELDS, *_MORE_ANNOTATIONS)) or any(
        name.endswith(RESPONSES) for name in row
    )
    found = {}
    for name, field in row.items():
        value = first_response(name, field)
        if not isinstance(value, list) or not any(parse_span(item) for item in value):
            continue
        is_analysis = name in ("tokens", "sentences", "sents") and (
            any(isinstance(row.get(other), list) for other in SPAN_FIELDS)
            or any("pos" in item for item in value if isinstance(item, dict))
        )
        if not is_analysis and not (annotated and are_predictions(name)):
            found[name] = value
    return found


def first_response(name: str, value: Any) -> Any:
    """Return the spans of the first annotator in a field of Argilla, any other value unchanged."""
    has_lists = isinstance(value, list) and bool(value) and all(isinstance(x, list) for x in value)
    return value[0] if has_lists and name.endswith(RESPONSES) else value


def may_be_text(name: str) -> bool:
    """Return whether a field of this name may have a text, not an identifier or a title."""
    return not (_IDENTIFIER.fullmatch(name) or _TITLE.fullmatch(name))


def hypertext_error(source: str) -> UserError:
    """Return the error for a region of Label Studio's HyperText."""
    return UserError(
        f"{source}: the offsets of a HyperText region refer to rendered HTML. Use the tag Text instead."
    )


def _text_field(row: dict[str, Any], spans: list[Span] | None, source: str) -> str:
    """Return the field that has the text: one with a usual name, else the one that fits the spans."""
    for name in TEXT_FIELDS:
        if isinstance(row.get(name), str):
            return name
    tokens = next((n for n in (*TOKEN_FIELDS, *TEXT_FIELDS) if is_words(row.get(n))), None)
    if tokens:
        return tokens
    strings = [name for name, value in row.items() if isinstance(value, str)]
    candidates = [name for name in strings if not _IDENTIFIER.fullmatch(name)]
    if len(candidates) > 1:
        candidates = [name for name in candidates if may_be_text(name)] or candidates
    surfaces = [span.surface for span in spans or () if span.surface]
    if surfaces:
        fitting = [name for name in candidates if all(surface in row[name] for surface in surfaces)]
        candidates = fitting if len(fitting) == 1 else candidates
    if len(candidates) != 1:
        if null := next((name for name in TEXT_FIELDS if name in row and row[name] is None), ""):
            raise UserError(f"{source}: {null!r} is null. Write the text there, or delete the row.")
        raise UserError(
            f'{source}: no "text". Expected {FORM}. Fields with text: {", ".join(strings) or "none"}. Rename '
            'the right one to "text".'
        )
    return candidates[0]
