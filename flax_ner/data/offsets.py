"""Turn the spans of a file into entities: inclusive ends, UTF-16 units, line ends counted as one character.

An annotation that repeats its text (its surface) shows how its offsets count. Without a surface the format's
rule holds, and a warning names the risk where units differ.
"""

import re
import unicodedata
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from flax_ner.data.field_names import Span
from flax_ner.data.files import ConversionWarnings, checked_entity
from flax_ner.data.tagged import starts_with_cjk
from flax_ner.errors import UserError
from flax_ner.text.examples import Entity

# White space, and its JSON escapes written out: tools change them in the surface, not in the offsets.
_SPACE = re.compile(r"\s|\\[nrt]")
LAST_CYRILLIC = "\u052f"  # Latin, Greek and Cyrillic letters are below it


class OffsetUnit(NamedTuple):
    """What the offsets of a text count.

    Attributes:
        utf16: UTF-16 code units instead of characters.
        joins_line_end: CR LF as one.
    """

    utf16: bool
    joins_line_end: bool


CHARACTERS = OffsetUnit(utf16=False, joins_line_end=False)
UTF16 = OffsetUnit(utf16=True, joins_line_end=False)
# The units that are tried, most usual first, and the warning for each.
UNITS = {
    CHARACTERS: "",
    UTF16: "texts with UTF-16 offsets, converted to characters",
    OffsetUnit(
        utf16=False, joins_line_end=True
    ): "texts whose offsets count CR LF as one character, converted",
    OffsetUnit(
        utf16=True, joins_line_end=True
    ): "texts whose UTF-16 offsets count CR LF as one character, converted",
}


def entities_from_spans(
    text: str,
    spans: Sequence[Span],
    source: str,
    warnings: ConversionWarnings,
    end: str = "exclusive",
    offset_unit: str = "",
) -> list[Entity]:
    """Return the entities of a text.

    Offsets that fit the surfaces only in UTF-16 units, or with CR LF as one character, are converted and
    counted in `warnings`.

    Args:
        text: the text.
        spans: its spans, as the file has them.
        source: "file:line".
        warnings: receives what was converted, and what could not be checked.
        end: "exclusive" or "inclusive".
        offset_unit: unit of the offsets of a text without surfaces: "character" or "utf16".

    Raises:
        UserError: a span is not within the text, or its surface is not there.
    """
    if end == "inclusive":
        spans = [span._replace(end=_add_one(span.end)) for span in spans]
    surfaces = [span for span in spans if span.surface is not None]
    unit = CHARACTERS
    if surfaces:
        unit = _unit_of_surfaces(text, surfaces, source, warnings, end)
        warnings.add(UNITS[unit], source, unit != CHARACTERS)
    elif offset_unit == "utf16":
        unit = UTF16
    if unit != CHARACTERS:
        spans = _convert(text, spans, unit)
    entities = []
    for span in spans:
        try:
            entities.append(checked_entity(span.type, span.start, span.end, text, source))
        except UserError as error:
            raise UserError(f"{error}{_advice(text, span, end)}") from None
    if not surfaces:
        cut = sum(_splits_word(text, e.start) or _splits_word(text, e.end) for e in entities)
        if cut and not any(map(starts_with_cjk, text)):
            warnings.add("entities that begin or end within a word", source, cut)
        marks = sum(unicodedata.category(text[e.start])[0] == "M" for e in entities)
        warnings.add("entities that begin with a combining character", source, marks)
    if not surfaces and not offset_unit and entities:
        before = text[: max(entity.end for entity in entities)]
        warnings.add(
            "texts with characters such as emoji before or in an entity, whose offsets may count UTF-16 units",
            source,
            any(character > "\uffff" for character in before),
        )
        warnings.add(
            "texts with CR LF before an entity, whose offsets may count it as one character",
            source,
            "\r\n" in before,
        )
    return entities


def surface_finder(text: str) -> Callable[[Span, str], list[str]]:
    """Return a function of a span and a string: the rules for `end` by which the text has the string there."""
    tables = [
        character_offsets(text, unit)
        for unit in UNITS
        if unit != CHARACTERS and unit_differs(text, unit)
    ]

    def matching_rules(span: Span, surface: str) -> list[str]:
        if type(span.start) is not int or type(span.end) is not int or span.start < 0:
            return []

        def is_there(end: int) -> bool:
            places = [
                (span.start, end),
                *((table.get(span.start), table.get(end)) for table in tables),
            ]
            return any(None not in place and text[slice(*place)] == surface for place in places)

        ends = {"exclusive": span.end, "inclusive": span.end + 1}
        return [rule for rule, end in ends.items() if is_there(end)]

    return matching_rules


def surfaces_fit(text: str, spans: Sequence[Span], end: str) -> bool:
    """Return whether a text has every surface at its offsets, with this rule for `end` and any unit."""
    if end == "inclusive":
        spans = [span._replace(end=_add_one(span.end)) for span in spans]
    return any(
        all(_found(text, span) == span.surface for span in _convert(text, spans, unit))
        for unit in UNITS
        if unit == CHARACTERS or unit_differs(text, unit)
    )


def _splits_word(text: str, position: int) -> bool:
    """Return whether a position is between two letters of a script that has spaces between words."""
    return 0 < position < len(text) and all(
        character.isalpha() and character <= LAST_CYRILLIC
        for character in text[position - 1 : position + 1]
    )


def _add_one(end: Any) -> Any:
    return end + 1 if type(end) is int else end


def _unit_of_surfaces(
    text: str, spans: Sequence[Span], source: str, warnings: ConversionWarnings, end: str
) -> OffsetUnit:
    """Return the unit in which every surface is found at its offsets."""
    for unit in UNITS:
        if unit == CHARACTERS or unit_differs(text, unit):
            converted = _convert(text, spans, unit)
            if all(_found(text, span) == span.surface for span in converted):
                return unit
    if not all(type(span.start) is int and type(span.end) is int for span in spans):
        return CHARACTERS  # the caller reports the type
    for span in spans:
        found = _found(text, span)
        if found == span.surface or found is None:
            continue
        if _SPACE.sub("", found) != _SPACE.sub("", span.surface or ""):
            shown_end, bracket = (span.end - 1, "]") if end == "inclusive" else (span.end, ")")
            raise UserError(
                f"{source}: {span.type} {span.surface!r} at [{span.start}, {shown_end}{bracket}, but the text "
                f"has {found!r} there. Correct the offsets or the text.{_other_end(text, spans, end)}"
            )
        warnings.add("entities whose text differs from the annotation in white space, kept", source)
    return CHARACTERS


def _other_end(text: str, spans: Sequence[Span], end: str) -> str:
    """Return a sentence if all surfaces would be found with the other rule for `end`."""
    step = 1 if end == "exclusive" else -1
    moved = [span._replace(end=span.end + step) for span in spans]
    if all(_found(text, span) == span.surface for span in moved):
        other = "inclusive" if end == "exclusive" else "exclusive"
        return (
            f" `end` is read as {end}; the annotations of this text fit an {other} one. If that is the rule of "
            f"the file, read it with --end {other} (data.end)."
        )
    return ""


def _advice(text: str, span: Span, end: str) -> str:
    """Return a sentence on a span that is not within the text, if other rules would explain it."""
    if type(span.start) is not int or type(span.end) is not int:
        return ""
    if end == "inclusive" and span.end == len(text) + 1:
        return (
            f" The file has [{span.start}, {span.end - 1}], read with `end` inclusive. If it is exclusive in "
            "this file, read it with --end exclusive (data.end)."
        )
    if span.start == span.end and end == "exclusive":
        return (
            " Delete this empty span. But if `end` is inclusive in this file, read it with --end inclusive "
            "(data.end)."
        )
    units = len(text.encode("utf-16-le", "surrogatepass")) // 2
    if len(text) < span.end <= units:
        return (
            " If offsets count UTF-16 units, read it with --offset-unit utf16 (data.offset_unit)."
        )
    return ""


def _found(text: str, span: Span) -> str | None:
    """Return the text at the offsets of a span, None if there is none."""
    if type(span.start) is not int or type(span.end) is not int:
        return None
    return text[span.start : span.end] if 0 <= span.start < span.end <= len(text) else None


def unit_differs(text: str, unit: OffsetUnit) -> bool:
    """Return whether offsets in this unit differ from characters in this text."""
    astral = any(character > "\uffff" for character in text)
    return (astral or not unit.utf16) and ("\r\n" in text or not unit.joins_line_end)


def character_offsets(text: str, unit: OffsetUnit) -> dict[int, int]:
    """Return the character at each offset in a unit of `UNITS`; offsets within a unit are left out."""
    character_offset, units = {0: 0}, 0  # by offset in the file's unit
    for i, character in enumerate(text, 1):
        if not (unit.joins_line_end and character == "\n" and text[i - 2 : i - 1] == "\r"):
            units += 1 + (unit.utf16 and character > "\uffff")
        character_offset[units] = i
    return character_offset


def _convert(text: str, spans: Sequence[Span], unit: OffsetUnit) -> list[Span]:
    """Convert offsets to characters. An offset within a unit becomes None."""
    if unit == CHARACTERS:
        return list(spans)
    character_offset = character_offsets(text, unit)
    return [
        span._replace(
            start=character_offset.get(span.start) if type(span.start) is int else None,
            end=character_offset.get(span.end) if type(span.end) is int else None,
        )
        for span in spans
    ]
