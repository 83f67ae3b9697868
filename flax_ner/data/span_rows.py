"""Read JSON in which each item has a text and a list of labelled spans, whatever its fields are called.

`{"text": ..., "label": [[start, end, category], ...]}` of doccano is one example; `SPAN_FORMATS` lists those
that have a name, and `field_names` the field names that are understood. Where spans repeat their text, this
decides whether `end` is inclusive and what offsets count. Elsewhere the rule of the format holds.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from flax_ner.data.field_names import (
    SPAN_FIELDS,
    TEXT_FIELDS,
    TOKEN_FIELDS,
    Span,
    check_no_annotations,
    is_plain_tokens,
    is_words,
    parse_span,
)
from flax_ner.data.files import ConversionWarnings, DataFile, without_duplicates
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
    "spacy": SpanFormat(
        "spaCy training pairs", frozenset(), "exclusive",
        '[["彭小军在台湾", {"entities": [[0, 3, "name"]]}]]',
    ),
    "spans": SpanFormat(
        "texts with spans", frozenset(), "exclusive",
        '{"content": "彭小军在台湾", "mentions": [{"begin": 0, "end": 3, "tag": "name", "word": "彭小军"}]}',
    ),
}  # fmt: skip


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
        in_tokens: whether spans beside a text count the tokens in the field `tokens`.
    """

    end: str
    in_tokens: bool = False


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
        if row.get("answer") in ("reject", "ignore"):  # of Prodigy
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
    text, spans, rest = parse_row(row, source, file.warnings)
    end = rules.end
    tokens = text if isinstance(text, list) else None
    if rules.in_tokens and spans and is_words(row.get("tokens")):
        tokens = row["tokens"]
    if tokens:
        joined, converted = _characters_of_tokens(tokens, spans or (), end, source, file.warnings)
        text = joined if isinstance(text, list) else text
        if text != joined:
            raise UserError(
                f"{source}: the spans count the tokens in 'tokens', which joined by spaces are not the text. "
                "Write tags for the tokens instead."
            )
        if spans:
            file.warnings.add(f"texts whose spans count tokens, read with `end` {end}", source)
        spans, end = None if spans is None else converted, "exclusive"
    assert isinstance(text, str)
    check_no_address(text, source)
    for name, value in rest.items():
        if not spans:
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


def parse_row(row: dict[str, Any], source: str, warnings: ConversionWarnings) -> _Row:
    """Return the text and spans of a row with one list of spans.

    Raises:
        UserError: there is no text, or not exactly one field has spans.
    """
    rest = dict(row)
    name, spans = _parse_spans(row, source)
    rest.pop(name, None)
    if name == "result_list":
        rest.pop("prompt", None)  # the category
    text = rest.pop(_text_field(row, spans, source))
    if spans is not None and isinstance(text, str):
        spans = [_correct_surface(span, text) for span in spans]
    unlabelled = row.get(name) if name else None
    if isinstance(unlabelled, list) and unlabelled and not spans:
        warnings.add("texts with spans without a category, left out", source)
    for span in spans or ():
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


def _correct_surface(span: Span, text: str) -> Span:
    """Exchange category and surface if the category is what the text has there; drop an uncertain surface."""
    if span.surface is None or span.surface in text:
        return span
    numbers = type(span.start) is type(span.end) is int
    if numbers and text[span.start : span.end] == span.type:
        return span._replace(type=span.surface, surface=span.type)
    if not span.certain:
        return span._replace(surface=None)
    return span


def _parse_spans(row: dict[str, Any], source: str) -> tuple[str, list[Span] | None]:
    """Return the field that has the spans, and the spans; ("", None) if no field has any."""
    if "prompt" in row and isinstance(results := row.get("result_list"), list):
        row = row | {
            "result_list": [{"label": row["prompt"]} | r for r in results if isinstance(r, dict)]
        }
    found = {
        name: value
        for name, value in row.items()
        if isinstance(value, list) and value and any(parse_span(item) for item in value)
    }
    if len(found) > 1:
        raise UserError(
            f"{source}: there are spans in {' and in '.join(map(repr, found))}. Keep the right field, and "
            "delete the other."
        )
    named = [name for name in SPAN_FIELDS if name in row and row[name] is not None]
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
        spans += parsed
    return name, spans


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
    texts = {name: value for name, value in row.items() if isinstance(value, str)}
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
    tokens: list[str], spans: Sequence[Span], end: str, source: str, warnings: ConversionWarnings
) -> tuple[str, list[Span]]:
    """Return the text of a list of tokens, and spans of tokens as spans of characters, `end` exclusive."""
    text, places = join_tokens(tokens, is_character_level([tokens]))
    converted = []
    for span in spans:
        if span.end is None:
            warnings.add("discontinuous entities, left out", source)
            continue
        if error := offset_type_error(span.start, span.end):
            raise UserError(f"{source}: {span.type}: {error}")
        last = span.end if end == "inclusive" else span.end - 1
        if not 0 <= span.start <= last < len(tokens):
            raise UserError(
                f"{source}: {span.type} has the span [{span.start}, {span.end}] of {len(tokens)} tokens, `end` "
                f"{end}. Correct it, or choose the other rule with --end (data.end)."
            )
        converted.append(
            span._replace(start=places[span.start][0], end=places[last][1], surface=None)
        )
    return text, converted


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
    inclusive = exclusive = in_tokens = in_characters = 0
    for source, record in records[:SAMPLE_ROWS]:
        try:
            row = json_object(record, source, FORM, pairs=True)
            text, spans, _ = parse_row(row, source, ConversionWarnings())
        except UserError:
            continue  # the reader reports it
        if isinstance(text, list):
            inclusive += any(span.start == span.end for span in spans or ())
            exclusive += any(span.end == len(text) for span in spans or ())
            continue
        shown = [span for span in spans or () if span.surface is not None]
        if shown:
            inclusive += surfaces_fit(text, shown, "inclusive")
            exclusive += surfaces_fit(text, shown, "exclusive")
        elif spans and is_words(row.get("tokens")):
            fits_tokens, fits_characters = _possible_units(row["tokens"], text, spans)
            in_tokens += fits_tokens and not fits_characters
            in_characters += fits_characters and not fits_tokens
    end = default_end
    if inclusive != exclusive:
        end = "inclusive" if inclusive > exclusive else "exclusive"
    return SpanRules(chosen_end or end, in_tokens > in_characters)


def _possible_units(tokens: list[str], text: str, spans: list[Span]) -> tuple[bool, bool]:
    """Return whether spans may count the tokens beside a text, and whether they may count its characters."""
    places = align_tokens(tokens, text)
    if places is None or not all(type(s.start) is type(s.end) is int for s in spans):
        return False, True
    starts, ends = {start for start, _ in places}, {end for _, end in places}
    return (
        all(0 <= span.start <= span.end <= len(tokens) for span in spans),
        all(span.start in starts and {span.end, span.end + 1} & ends for span in spans),
    )


def format_of_span_row(row: dict[str, Any]) -> str | None:
    """Return the key of `SPAN_FORMATS` that a row has the form of, or None if it has no spans."""
    if "prompt" in row and "result_list" in row:
        return "uie"
    spans = {
        name: value
        for name, value in row.items()
        if isinstance(value, list) and value and any(parse_span(item) for item in value)
    }
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
