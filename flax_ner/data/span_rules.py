"""Detect how the spans of a file count: tokens or characters, and whether `end` is inclusive."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from flax_ner.data.field_names import Span, is_words
from flax_ner.data.files import END_RULES, ConversionWarnings
from flax_ner.data.json_rows import json_object
from flax_ner.data.offsets import surface_finder, surfaces_fit
from flax_ner.data.row_fields import FORM, RowContent, fields_with_spans, parse_row
from flax_ner.data.tagged import Spans, align_tokens, is_character_level, join_tokens
from flax_ner.errors import UserError

SAMPLE_ROWS = 1000  # rows with spans that decide
SURFACE_SHARE = (
    0.9  # of the strings under a name that must be at the offsets if the name is one of surfaces
)


class SpanRules(NamedTuple):
    """How the spans of a file count.

    Attributes:
        end: whether `end` is "inclusive" or "exclusive" where spans do not repeat their text.
        unit: "tokens" or "characters", "" if the rows do not tell.
        field: the field that has the spans, "" if no row has any.
        surface_names: names of a span's strings that are its surface, besides the usual ones.
    """

    end: str
    unit: str = ""
    field: str = ""
    surface_names: frozenset[str] = frozenset()


def detect_rules(
    records: Iterable[tuple[str, Any]], chosen_end: str, default_end: str
) -> SpanRules:
    """Return how the spans of a file count, as most of its first `SAMPLE_ROWS` rows with spans say.

    Surfaces show whether `end` is inclusive. Without them, a span of tokens that starts where it ends shows
    that it is. Otherwise `end` follows the rule of the format.

    Args:
        records: pairs of source and record.
        chosen_end: the rule for `end` that the user chose, or "".
        default_end: the rule of the format.
    """
    votes, fields, sampled = Counter[str](), Counter[str](), 0
    strings: dict[str, Counter[str]] = defaultdict(
        Counter
    )  # by name: how often they follow which rule
    for source, record in records:
        if sampled == SAMPLE_ROWS:
            break
        try:
            row = json_object(record, source, FORM, pairs=True)
            content = parse_row(row, source, ConversionWarnings())
        except UserError:
            continue  # the reader reports it
        fields.update(list(fields_with_spans(row)))
        if content.spans:
            sampled += 1
            votes.update(_possible_rules(row, content, content.spans, chosen_end or default_end))
            if isinstance(content.text, str):
                _count_strings(content.text, content.spans, strings)
    surface_names = {
        name for name, counts in strings.items() if counts["there"] >= SURFACE_SHARE * counts["all"]
    }
    for name in surface_names:
        votes.update({rule: strings[name][rule] for rule in END_RULES})
    end = chosen_end or default_end
    if not chosen_end and votes["inclusive"] != votes["exclusive"]:
        end = "inclusive" if votes["inclusive"] > votes["exclusive"] else "exclusive"
    unit = ""
    if votes["tokens"] or votes["characters"]:
        # Spans of tokens may fit characters by chance.
        unit = "tokens" if votes["tokens"] >= votes["characters"] else "characters"
    field = max(fields, key=lambda name: fields[name], default="")
    return SpanRules(end, unit, field, frozenset(surface_names))


def _count_strings(text: str, spans: list[Span], strings: dict[str, Counter[str]]) -> None:
    """Count the strings of spans without a surface that the text has at the offsets, by name and rule."""
    matching_rules = surface_finder(text)
    for span in spans:
        if span.surface is None:
            for name, string in span.other_strings:
                fitting = matching_rules(span, string)
                strings[name].update(["all", *fitting, *["there"] * bool(fitting)])


def _possible_rules(
    row: dict[str, Any], content: RowContent, spans: list[Span], end: str
) -> Iterator[str]:
    """Yield the rules that the spans of a row follow: "inclusive", "exclusive", "tokens", "characters"."""
    text, tokens = content.text, tokens_of_row(row, content.text)
    if isinstance(text, list):
        text = join_tokens(text, is_character_level([text]))[0]
    shown = [span for span in spans if span.surface is not None]
    fitting = [rule for rule in END_RULES if shown and surfaces_fit(text, shown, rule)]
    places = align_tokens(tokens, text) if tokens else None
    if fitting or places is None:
        yield "characters"
        yield from fitting
        return
    if not all(type(span.start) is type(span.end) is int for span in spans):
        if isinstance(content.text, list):
            yield "tokens"
        return
    if isinstance(content.text, str) and not _must_be_tokens(places, spans, end):
        yield "characters"
        return
    yield "tokens"
    if shown:
        for rule, last in (("exclusive", -1), ("inclusive", 0)):
            if all(_words(text, places, span, last) == span.surface for span in shown):
                yield rule
    elif any(span.start == span.end for span in spans):
        yield "inclusive"
    elif any(span.end == len(places) for span in spans):
        yield "exclusive"


def _must_be_tokens(places: Spans, spans: list[Span], end: str) -> bool:
    """Return whether spans fit the number of tokens, but as characters not the edges of the tokens."""
    starts, ends = {start for start, _ in places}, {stop for _, stop in places}
    step = 1 if end == "inclusive" else 0
    on_edges = all(span.start in starts and span.end + step in ends for span in spans)
    return not on_edges and all(span.end <= len(places) for span in spans)


def _words(text: str, places: Spans, span: Span, last: int) -> str | None:
    """Return the text from the first token of a span to the one at `end + last`."""
    stop = span.end + last
    if not 0 <= span.start <= stop < len(places):
        return None
    return text[places[span.start][0] : places[stop][1]]


def tokens_of_row(row: dict[str, Any], text: str | list[str]) -> list[str] | None:
    """Return the tokens of a text, from whatever field divides it into them; None if no field does."""
    if isinstance(text, list):
        return text
    lists = (value for value in row.values() if is_words(value))
    return next((words for words in lists if align_tokens(words, text)), None)
