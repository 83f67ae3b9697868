"""Read JSON in which each item has a text and a list of labelled spans, whatever its fields are called.

`{"text": ..., "label": [[start, end, category], ...]}` of doccano is one example; `SPAN_FORMATS` lists those
that have a name, and `field_names` the field names that are understood. Where spans repeat their text, this
decides whether `end` is inclusive and what offsets count. Elsewhere the rule of the format holds.
"""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from flax_ner.data.field_names import (
    SPAN_FIELDS,
    TEXT_FIELDS,
    TOKEN_FIELDS,
    Span,
    are_predictions,
    check_no_annotations,
    is_plain_tokens,
    is_words,
    parse_span,
)
from flax_ner.data.files import END_RULES, ConversionWarnings, DataFile, without_duplicates
from flax_ner.data.json_rows import json_object, json_records, write_json_lines
from flax_ner.data.offsets import entities_from_spans, surfaces_fit
from flax_ner.data.tagged import align_tokens, is_character_level, join_tokens
from flax_ner.errors import UserError
from flax_ner.text.examples import Entity, Example, offset_type_error

FORM = '{"text": "...", "label": [[start, end, category], ...]}'
SAMPLE_ROWS = 1000  # rows that decide whether `end` is inclusive
# A text in a storage, as annotation tools refer to it. A message may well be a link to a page.
ADDRESS = re.compile(
    r"(s3|gs|azure-blob|file)://\S+|(https?:/)?/\S+\.(txt|json|html?|pdf|docx?)(\?\S*)?|\S*/data/(upload|local-files)/\S+",
    re.IGNORECASE,
)
LINK = re.compile(r"https?://[!-~]+")


class SpanFormat(NamedTuple):
    """A tool or data set whose rows `read_spans` reads.

    Attributes:
        title: its name in messages.
        keys: fields of a row or of a span, some of which only this format has.
        end: whether `end` is "inclusive" or "exclusive" where spans do not repeat their text.
        example: a row, for the documentation and the tests.
    """

    title: str
    keys: frozenset[str]
    end: str
    example: str


SPAN_FORMATS = {
    "doccano": SpanFormat(
        "doccano JSONL", frozenset({"start_offset", "Comments"}), "exclusive",
        '{"text": "彭小军在台湾", "label": [[0, 3, "name"]]}',
    ),
    "prodigy": SpanFormat(
        "Prodigy JSONL", frozenset({"answer", "_input_hash", "token_start"}), "exclusive",
        '{"text": "彭小军在台湾", "spans": [{"start": 0, "end": 3, "label": "name"}], "answer": "accept"}',
    ),
    "adaseq": SpanFormat(
        "AdaSeq JSONL", frozenset(), "exclusive",
        '{"text": "彭小军在台湾", "label": [{"start": 0, "end": 3, "type": "name"}]}',
    ),
    "cmeee": SpanFormat(
        "CMeEE JSON", frozenset({"start_idx", "end_idx"}), "inclusive",
        '[{"text": "彭小军在台湾", '
        '"entities": [{"start_idx": 0, "end_idx": 2, "type": "name", "entity": "彭小军"}]}]',
    ),
    "ccks": SpanFormat(
        "CCKS JSONL", frozenset({"originalText", "label_type", "start_pos"}), "exclusive",
        '{"originalText": "彭小军在台湾", "entities": [{"label_type": "name", "start_pos": 0, "end_pos": 3}]}',
    ),
    "uie": SpanFormat(
        "PaddleNLP UIE JSONL", frozenset({"result_list"}), "exclusive",
        '{"content": "彭小军在台湾", "prompt": "name", '
        '"result_list": [{"text": "彭小军", "start": 0, "end": 3}]}',
    ),
    "gliner": SpanFormat(
        "GLiNER JSON", frozenset({"tokenized_text"}), "inclusive",
        '{"tokenized_text": ["彭", "小", "军", "在", "台", "湾"], "ner": [[0, 2, "name"]]}',
    ),
    "luis": SpanFormat(
        "LUIS JSON", frozenset({"startPos", "endPos"}), "inclusive",
        '[{"text": "彭小军在台湾", "entities": [{"entity": "name", "startPos": 0, "endPos": 2}]}]',
    ),
    "spacy": SpanFormat(
        "spaCy training pairs", frozenset(), "exclusive",
        '[["彭小军在台湾", {"entities": [[0, 3, "name"]]}]]',
    ),
    "spans": SpanFormat(
        "texts with spans", frozenset(), "exclusive",
        '{"content": "彭小军在台湾", "mentions": [{"begin": 0, "end": 3, "tag": "name", "word": "彭小军"}]}',
    ),
}  # fmt: skip


_ID = re.compile(
    r"_?(id|uid|uuid|guid|key|name|title|(file|doc|document|text|image)_?(name|id|path|key)?|path|url|uri|source|"
    r"lang|language|date|time|split|author|annotator|user|status)",
    re.IGNORECASE,
)  # fields that do not have the text
REJECTED = ("reject", "ignore")  # answers of Prodigy
_TAG_AS_CATEGORY = re.compile(r"[BIESMLU][-_].+", re.DOTALL)
# Fields of Prodigy that say nothing about the text.
_BOOKKEEPING = {
    "answer",
    "_input_hash",
    "_task_hash",
    "_view_id",
    "_timestamp",
    "_session_id",
}


class SpanRules(NamedTuple):
    """How the spans of a file count.

    Attributes:
        end: whether `end` is "inclusive" or "exclusive" where spans do not repeat their text.
        in_tokens: whether spans count tokens, not characters.
        field: the field that has the spans, "" if it is not known.
    """

    end: str
    in_tokens: bool = False
    field: str = ""


EXCLUSIVE = SpanRules("exclusive")


class _Row(NamedTuple):
    """The text (or its tokens) and the spans of a row; `spans` is None for an unlabelled text."""

    text: str | list[str]
    spans: list[Span] | None
    rest: dict[str, Any]  # fields that were not read


def read_spans(file: DataFile, name: str = "spans") -> tuple[list[Example], str]:
    """Read texts and spans from JSON. A row without spans is unlabelled.

    Args:
        file: the file.
        name: a key of `SPAN_FORMATS`.

    Returns:
        The examples, and a description of the file for messages.

    Raises:
        UserError: a row is unreadable (see `DataFile.collect`), or has annotations that are not read.
            The message names file and line.
    """
    return examples_from_span_rows(file, list(json_records(file, "row")), name)


def examples_from_span_rows(
    file: DataFile, records: Sequence[tuple[str, Any]], name: str
) -> tuple[list[Example], str]:
    """Return the examples of rows with texts and spans, and a description of the file.

    Args:
        file: the file that they came from.
        records: pairs of source and record, as `json_records` yields them.
        name: a key of `SPAN_FORMATS`.

    Raises:
        UserError: a row is unreadable (see `DataFile.collect`), or has annotations that are not read.
    """
    rules = _detect_rules(records, file.options.end, SPAN_FORMATS[name].end)

    def make_example(record: Any, source: str) -> Example | None:
        row = json_object(record, source, FORM, pairs=True)
        if row.get("answer") in REJECTED:
            file.warnings.add(f"texts with the answer {row['answer']!r}, left out", source)
            return None
        return example_of_row(row, source, file, rules)

    examples = file.collect(records, make_example, f"on each line {FORM}", "rows")
    if name == "uie":
        examples = _merge_categories(examples)
    return examples, f"{SPAN_FORMATS[name].title}, `end` {rules.end}"


def _merge_categories(examples: list[Example]) -> list[Example]:
    """Merge the rows of a text, one for each category, into one example."""
    merged: dict[str, Example] = {}
    for example in examples:
        first = merged.setdefault(example.text, example)
        if first is not example:
            entities = tuple(dict.fromkeys((*(first.entities or ()), *(example.entities or ()))))
            merged[example.text] = Example(example.text, entities, first.source)
    return list(merged.values())


def example_of_row(
    row: dict[str, Any], source: str, file: DataFile, rules: SpanRules = EXCLUSIVE
) -> Example:
    """Return the example of a row with a text and spans.

    Raises:
        UserError: the row has no text, a span is invalid, or a field with annotations was not read.
    """
    text, spans, rest = parse_row(row, source, file.warnings, rules.field)
    end = rules.end
    tokens = text if isinstance(text, list) else None
    if rules.in_tokens and spans and isinstance(text, str):
        tokens = _tokens_beside_text(row, text)
    if isinstance(text, list) and not rules.in_tokens:
        text, tokens = join_tokens(text, is_character_level([text]))[0], None
    if tokens:
        joined, places = join_tokens(tokens, is_character_level([tokens]))
        if isinstance(text, str):
            joined, places = text, align_tokens(tokens, text) or []
        text = joined
        converted = _characters_of_tokens(places, spans or (), end, source, file.warnings)
        if spans:
            file.warnings.add(f"texts whose spans count tokens, read with `end` {end}", source)
        spans, end = None if spans is None else converted, "exclusive"
    assert isinstance(text, str)
    check_no_address(text, source)
    for name, value in rest.items():
        if spans is None or (not spans and name in SPAN_FIELDS and isinstance(value, list | dict)):
            check_no_annotations(name, value, text, source, FORM)
        if value is not None and value != []:
            file.warnings.add(f"field {name!r}, left out", source)
    if spans is None:
        return Example(text, None, source)
    entities = entities_from_spans(
        text, spans, source, file.warnings, end, file.options.offset_unit
    )
    return Example(text, without_duplicates(entities, source, file.warnings), source)


def check_no_address(text: str, source: str, of_tool: bool = False) -> None:
    """Raise `UserError` if the text is the address of a file that has the text.

    Args:
        text: the text.
        source: "file:line".
        of_tool: whether it comes from a tool that stores addresses in place of texts; then any link is one.
    """
    if ADDRESS.fullmatch(text.strip()) or (of_tool and LINK.fullmatch(text.strip())):
        raise UserError(
            f"{source}: the text is the address {text.strip()[:60]!r} (URL), not a text. Put the text itself "
            "into the file."
        )


def parse_row(
    row: dict[str, Any], source: str, warnings: ConversionWarnings, field: str = ""
) -> _Row:
    """Return the text and spans of a row with one list of spans.

    Args:
        row: the row.
        source: "file:line".
        warnings: receives what was left out.
        field: the field with the spans of other rows, "" if it is not known.

    Raises:
        UserError: there is no text, or not exactly one field has spans.
    """
    rest = dict(row)
    name, spans = _parse_spans(row, source, warnings, field)
    rest.pop(name, None)
    if name == "result_list":
        rest.pop("prompt", None)  # the category
    text = rest.pop(_text_field(row, spans, source))
    if spans is not None and isinstance(text, str):
        spans = [_resolve_surface(span, text) for span in spans]
    if spans:
        warnings.add(
            "spans of the category 'O', left out", source, sum(s.type == "O" for s in spans)
        )
        spans = [span for span in spans if span.type != "O"]
    unlabelled = row.get(name) if name else None
    if isinstance(unlabelled, list) and unlabelled and not spans:
        warnings.add("texts with spans without a category, left out", source)
    for span in spans or ():
        if isinstance(span.type, str) and _TAG_AS_CATEGORY.fullmatch(span.type):
            warnings.add(f"spans with a category like a tag, such as {span.type!r}, kept", source)
        if type(span.type) is int:
            raise UserError(
                f"{source}: the categories in {name!r} are numbers, such as {span.type}. Replace them by "
                "names, or export the data again with names."
            )
    for field in _BOOKKEEPING & rest.keys():
        del rest[field]
    if is_plain_tokens(rest.get("tokens")):
        del rest["tokens"]
    return _Row(text, spans, rest)


def _resolve_surface(span: Span, text: str) -> Span:
    """Return a span with its category and surface in their places, as the text shows.

    If the category is what the text has at the offsets, it is the surface, and another string is the category.
    A string that is not named as the surface counts as such only if the text has it at the offsets.
    """
    if type(span.start) is not int or type(span.end) is not int:
        return span

    def fits(surface: str) -> bool:
        shown = [Span("", span.start, span.end, surface)]
        return any(surfaces_fit(text, shown, end) for end in END_RULES)

    others = (*([span.surface] if span.surface is not None else []), *span.others)
    if others and isinstance(span.type, str) and fits(span.type) and not fits(others[0]):
        return span._replace(type=others[0], surface=span.type)
    if span.surface is None:
        return span._replace(surface=next(filter(fits, span.others), None))
    return span


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
    row, found = _flat_spans(row), fields_with_spans(row)
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
        return "", None
    value = row[name]
    if isinstance(value, list) and not value:
        return name, []
    spans = []
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
    return name, spans


def fields_with_spans(row: dict[str, Any]) -> dict[str, list[Any]]:
    """Return the fields that have lists of spans, without predictions and analyses of the tokens."""
    has_span_field = any(isinstance(row.get(name), list) for name in SPAN_FIELDS)
    found = {}
    for name, value in _flat_spans(row).items():
        if not isinstance(value, list) or not any(parse_span(item) for item in value):
            continue
        is_analysis = name in ("tokens", "sentences", "sents") and (
            has_span_field or any("pos" in item for item in value if isinstance(item, dict))
        )
        if not is_analysis and not are_predictions(name):
            found[name] = value
    return found


def _flat_spans(row: dict[str, Any]) -> dict[str, Any]:
    """Replace each field that has a list of spans for each annotator by the list of the first."""

    def is_nested(value: Any) -> bool:
        return (
            isinstance(value, list) and bool(value) and isinstance(value[0], list)
            and all(isinstance(item, dict) and parse_span(item) for item in value[0]) and bool(value[0])
        )  # fmt: skip

    return {name: value[0] if is_nested(value) else value for name, value in row.items()}


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
    texts = {
        n: value for n, value in row.items() if isinstance(value, str) and not _ID.fullmatch(n)
    }
    shown = [span for span in spans or () if span.surface]
    fitting = [
        name for name, text in texts.items()
        if shown and all(span.surface in text for span in shown if span.surface)
    ]  # fmt: skip
    if len(fitting) != 1:
        fitting = list(texts)
    if len(fitting) != 1:
        names = ", ".join(texts) or "none"
        raise UserError(
            f'{source}: no "text". Expected {FORM}. Fields with text: {names}. Rename the right one to "text".'
        )
    return fitting[0]


def _characters_of_tokens(
    places: Sequence[tuple[int, int]],
    spans: Sequence[Span],
    end: str,
    source: str,
    warnings: ConversionWarnings,
) -> list[Span]:
    """Return spans of tokens as spans of characters, `end` exclusive. `places` has those of each token."""
    converted = []
    for span in spans:
        if span.end is None:
            warnings.add("discontinuous entities, left out", source)
            continue
        if error := offset_type_error(span.start, span.end):
            raise UserError(f"{source}: {span.type}: {error}")
        last = span.end if end == "inclusive" else span.end - 1
        if not 0 <= span.start <= last < len(places):
            raise UserError(
                f"{source}: {span.type} has the span [{span.start}, {span.end}] of {len(places)} tokens, `end` "
                f"{end}. Correct it, or choose the other rule with --end (data.end)."
            )
        converted.append(span._replace(start=places[span.start][0], end=places[last][1]))
    return converted


def _detect_rules(
    records: Sequence[tuple[str, Any]], chosen_end: str, default_end: str
) -> SpanRules:
    """Return how the spans of a file count, as most of its first rows say.

    Surfaces show whether `end` is inclusive. Spans of tokens have no surfaces; one that starts where it ends
    shows that `end` is inclusive. Without these, `end` follows the rule of the format.

    Args:
        records: pairs of source and record.
        chosen_end: the rule for `end` that the user chose, or "".
        default_end: the rule of the format.
    """
    votes, fields = Counter[str](), Counter[str]()
    for source, record in records[:SAMPLE_ROWS]:
        try:
            row = json_object(record, source, FORM, pairs=True)
            text, spans, _ = parse_row(row, source, ConversionWarnings())
            fields.update(list(fields_with_spans(row)))
        except UserError:
            continue  # the reader reports it
        if spans:
            votes.update(_possible_rules(row, text, spans))
    end = default_end
    if votes["inclusive"] != votes["exclusive"]:
        end = "inclusive" if votes["inclusive"] > votes["exclusive"] else "exclusive"
    in_tokens = votes["tokens"] > votes["characters"]
    return SpanRules(chosen_end or end, in_tokens, max(fields, key=lambda f: fields[f], default=""))


def _possible_rules(row: dict[str, Any], text: str | list[str], spans: list[Span]) -> Iterator[str]:
    """Yield the rules that the spans of a row may follow: "inclusive", "exclusive", "tokens", "characters"."""
    tokens = text if isinstance(text, list) else _tokens_beside_text(row, text)
    joined = join_tokens(text, is_character_level([text]))[0] if isinstance(text, list) else text
    shown = [span for span in spans if span.surface is not None]
    by_end = {end: bool(shown) and surfaces_fit(joined, shown, end) for end in END_RULES}
    if any(by_end.values()) or not tokens:
        yield "characters"
        yield from (end for end, fits in by_end.items() if fits)
        return
    if not all(type(s.start) is type(s.end) is int for s in spans):
        yield from ["tokens"] * isinstance(text, list)
        return
    places = align_tokens(tokens, joined)
    if places is None:
        return
    starts, ends = {start for start, _ in places}, {end for _, end in places}
    on_edges = any(
        all(s.start in starts and s.end + step in ends for s in spans) for step in (0, 1)
    )
    if isinstance(text, list) or (not on_edges and all(s.end <= len(tokens) for s in spans)):
        yield "tokens"
    elif any(s.end > len(tokens) for s in spans):
        yield "characters"
        return
    for end, last in (("exclusive", -1), ("inclusive", 0)):
        if shown and all(_words_from(joined, places, s, last) == s.surface for s in shown):
            yield end
    if not shown and any(s.start == s.end for s in spans):
        yield "inclusive"
    elif not shown and any(s.end == len(tokens) for s in spans):
        yield "exclusive"


def _words_from(text: str, places: list[tuple[int, int]], span: Span, last: int) -> str | None:
    """Return the text from the first token of a span to the one at `end + last`."""
    stop = span.end + last
    return text[places[span.start][0] : places[stop][1]] if 0 <= stop < len(places) else None


def _tokens_beside_text(row: dict[str, Any], text: str) -> list[str] | None:
    """Return the field that divides the text into words, whatever its name."""
    lists = (value for value in row.values() if is_words(value))
    return next((words for words in lists if align_tokens(words, text)), None)


def format_of_span_row(row: dict[str, Any]) -> str | None:
    """Return the key of `SPAN_FORMATS` that a row has the form of, or None if it has no spans."""
    if "prompt" in row and "result_list" in row:
        return "uie"
    spans = fields_with_spans(row)
    if not spans:
        if "_input_hash" in row:
            return "prodigy"
        return "doccano" if any(isinstance(row.get(name), list) for name in SPAN_FIELDS) else None
    name, value = next(iter(spans.items()))
    first = next(item for item in value if parse_span(item))
    keys = set(row) | (set(first) if isinstance(first, dict) else set())
    for format_name, known in SPAN_FORMATS.items():
        if known.keys & keys:
            return format_name
    if isinstance(first, list):
        return "doccano" if name in ("label", "labels", "entities") else "spans"
    if isinstance(first.get("labels"), list):
        return "label_studio"
    return "adaseq" if name == "label" and {"start", "end", "type"} <= first.keys() else "spans"


def write_doccano(path: Path, examples: Sequence[Example], warnings: ConversionWarnings) -> None:
    """Write doccano's JSONL. An unlabelled example gets no `label`."""

    def row(example: Example) -> dict[str, Any]:
        if example.entities is None:
            return {"text": example.text}
        return {"text": example.text, "label": [[e.start, e.end, e.type] for e in example.entities]}

    write_json_lines(path, map(row, examples))


def write_prodigy(path: Path, examples: Sequence[Example], warnings: ConversionWarnings) -> None:
    """Write Prodigy's JSONL. A labelled example gets the answer "accept", an unlabelled one no spans."""

    def span(entity: Entity) -> dict[str, Any]:
        return {"start": entity.start, "end": entity.end, "label": entity.type}

    def row(example: Example) -> dict[str, Any]:
        if example.entities is None:
            return {"text": example.text}
        return {
            "text": example.text, "spans": [span(e) for e in example.entities], "answer": "accept",
        }  # fmt: skip

    write_json_lines(path, map(row, examples))
