"""Read JSON in which each item has a text and a list of labelled spans, whatever its fields are called.

`{"text": ..., "label": [[start, end, category], ...]}` of doccano is one example; `SPAN_FORMATS` lists those
that have a name, and `field_names` the field names that are understood. Where spans repeat their text, this
decides whether `end` is inclusive and what offsets count. Elsewhere the rule of the format holds.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from flax_ner.data.field_names import SPAN_FIELDS, Span, check_unlabelled, parse_span
from flax_ner.data.files import ConversionWarnings, DataFile, without_duplicates
from flax_ner.data.json_rows import ParsedValue, json_object, json_records, write_json_lines
from flax_ner.data.offsets import entities_from_spans
from flax_ner.data.row_fields import FORM, REJECTED, fields_with_spans, parse_row
from flax_ner.data.span_rules import SpanRules, detect_rules, tokens_of_row
from flax_ner.data.tagged import Spans, align_tokens, is_character_level, join_tokens
from flax_ner.errors import UserError
from flax_ner.text.examples import Entity, Example, offset_type_error

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


EXCLUSIVE = SpanRules("exclusive")


def read_spans(file: DataFile, name: str = "spans") -> tuple[Iterable[Example], str]:
    """Read texts and spans from JSON. A row without spans is unlabelled.

    Args:
        file: the file.
        name: a key of `SPAN_FORMATS`.

    Returns:
        The examples, and a description of the file for messages.

    Raises:
        UserError: a row is unreadable (see `DataFile.convert`), or has annotations that are not read.
            The message names file and line.
    """
    records = json_records(file, "row")
    first = next(records, None)
    if first and isinstance(first[1], ParsedValue):  # the file is parsed as a whole; once is enough
        parsed = [first, *records]
        return examples_from_span_rows(file, lambda: parsed, name)
    return examples_from_span_rows(file, lambda: json_records(file, "row"), name)


def examples_from_span_rows(
    file: DataFile, records: Callable[[], Iterable[tuple[str, Any]]], name: str
) -> tuple[Iterable[Example], str]:
    """Return the examples of rows with texts and spans, and a description of the file.

    Args:
        file: the file that they came from.
        records: returns the pairs of source and record that `json_records` yields. Called twice, because the
            first rows decide how spans count.
        name: a key of `SPAN_FORMATS`.

    Raises:
        UserError: a row is unreadable (see `DataFile.convert`), or has annotations that are not read.
    """
    rules = detect_rules(records(), file.options.end, SPAN_FORMATS[name].end)

    def make_example(record: Any, source: str) -> Example | None:
        row = json_object(record, source, FORM, pairs=True)
        if row.get("answer") in REJECTED:
            file.warnings.add(f"texts with the answer {row['answer']!r}, left out", source)
            return None
        return example_of_row(row, source, file, rules)

    examples: Iterable[Example] = file.convert(
        records(), make_example, f"on each line {FORM}", "rows"
    )
    if name == "uie":
        examples = _merge_categories(examples)
    return examples, f"{SPAN_FORMATS[name].title}, `end` {rules.end}"


def _merge_categories(examples: Iterable[Example]) -> list[Example]:
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
    content = parse_row(row, source, file.warnings, rules.field, rules.surface_names)
    text, spans, end = content.text, content.spans, rules.end
    in_tokens = rules.unit == "tokens"
    if isinstance(text, list):
        in_tokens = rules.unit != "characters"
        text, places = join_tokens(text, is_character_level([text]))
    elif in_tokens and spans:
        places = _places_of_tokens(row, text, source)
    if in_tokens and spans:
        spans = _characters_of_tokens(places, spans, end, source, file.warnings)
        file.warnings.add(f"texts whose spans count tokens, read with `end` {end}", source)
        end = "exclusive"
    check_no_address(text, source)
    rest = {
        name: value for name, value in content.rest.items() if value is not None and value != []
    }
    if spans is None:
        check_unlabelled(rest, text, source, FORM)
    elif not spans and rules.field not in row:
        # Several fields may be the one that has spans, and no other row tells which.
        for_spans = {
            k: v for k, v in rest.items() if k in SPAN_FIELDS and isinstance(v, list | dict)
        }
        check_unlabelled(for_spans, text, source, FORM)
    for name in rest:
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


def _places_of_tokens(row: dict[str, Any], text: str, source: str) -> Spans:
    """Return the place of each token in the text of a row.

    Raises:
        UserError: no field has the tokens of the text.
    """
    tokens = tokens_of_row(row, text)
    places = align_tokens(tokens, text) if tokens else None
    if places is None:
        raise UserError(
            f"{source}: the spans of this file count tokens, but no field has the tokens of this text. Add "
            "them as a list, or write tags in place of spans."
        )
    return places


def _characters_of_tokens(
    places: Spans,
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


def format_of_span_row(row: dict[str, Any]) -> str | None:
    """Return the key of `SPAN_FORMATS` that a row has the form of, or None if it has no spans."""
    if "prompt" in row and "result_list" in row:
        return "uie"
    spans = fields_with_spans(row)
    if not spans:
        for format_name, known in SPAN_FORMATS.items():
            if known.keys & row.keys():
                return format_name
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
