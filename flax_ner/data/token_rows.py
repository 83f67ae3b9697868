"""Read and write rows `{"tokens": [...], "ner_tags": [...]}`, as `to_json` of `datasets` exports them.

`datasets` is the library of Hugging Face. Tags are strings or class numbers. The names of numbered
tags are not in the file but in `dataset_info.json`, which `save_to_disk` writes beside the data.
Tokens are joined as described in `tagged`. A field `text` gives the original text.
"""

import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from flax_ner.data.field_names import (
    OTHER_TAGS,
    TAG_FIELDS,
    TOKEN_FIELDS,
    check_unlabelled,
    parse_span,
)
from flax_ner.data.files import ConversionWarnings, DataFile
from flax_ner.data.json_rows import json_object, json_records, write_json_lines
from flax_ner.data.tagged import (
    TAG_FORM,
    count_pieces,
    detect_scheme,
    detect_spelling,
    example_from_tags,
    has_cjk,
    is_character_level,
    is_tag_sequence,
    join_tokens,
    tags_from_entities,
    token_spans,
)
from flax_ner.errors import UserError
from flax_ner.text.examples import Example

FORM = '{"tokens": ["...", ...], "ner_tags": ["O", "B-...", ...]}'
INFO_FILE = "dataset_info.json"


class _Row(NamedTuple):
    """Tokens and tags of a row. `tags` is None if the row has none, `text` if the tokens are joined."""

    tokens: list[str]
    tags: list[str] | None
    text: str | None
    rest: dict[str, Any]  # fields that were not read


def read_token_rows(file: DataFile) -> tuple[Iterable[Example], str]:
    """Read tokens and tags from JSON lines or one JSON array. A row without tags is unlabelled.

    Returns:
        The examples, and a description of the file for messages.

    Raises:
        UserError: a row is unreadable (see `DataFile.convert`). The message names file and line.
    """
    names = ClassNames(file.path)
    records: list[tuple[str, Any]] = []
    for source, record in json_records(file, "row"):
        try:
            records.append((source, json_object(record, source, FORM)))
        except UserError as error:
            records.append((source, error))
    return examples_from_token_rows(file, records, names)


def examples_from_token_rows(
    file: DataFile, records: Iterable[tuple[str, Any]], names: "ClassNames"
) -> tuple[Iterable[Example], str]:
    """Return the examples of rows with tokens and tags, and a description of the file.

    Args:
        file: the file that they came from.
        records: pairs of source and row. A row may be a `UserError` that an earlier step found in it.
        names: names of numbered tags.

    Raises:
        UserError: a row is unreadable (see `DataFile.convert`).
    """
    parsed: list[tuple[str, _Row | UserError]] = []
    for source, row in records:
        try:
            parsed.append(
                (source, row if isinstance(row, UserError) else _parse_row(row, names, source))
            )
        except UserError as error:
            parsed.append((source, error))
    rows = [row for _, row in parsed if isinstance(row, _Row)]
    spelling = detect_spelling(Counter(tag for row in rows for tag in row.tags or ()))
    scheme = file.options.tag_scheme or detect_scheme(
        [spelling.normalize(tag) or "O" for tag in row.tags] for row in rows if row.tags is not None
    )
    character_level = is_character_level(row.tokens for row in rows)

    def make_example(row: _Row, source: str) -> Example:
        if row.tags is None:
            check_unlabelled(row.rest, row.text or " ".join(row.tokens), source, FORM)
        for name in row.rest:
            file.warnings.add(f"field {name!r}, left out", source)
        file.warnings.add(
            "tokens like pieces of words, kept as words", source, count_pieces(row.tokens)
        )
        tags = ["O"] * len(row.tokens)
        for i, tag in enumerate(row.tags or ()):
            normal = spelling.normalize(tag)
            if normal is None:
                raise UserError(f"{source}: {tag!r} is not a tag. Expected {TAG_FORM}")
            tags[i] = normal
        sources = [source] * max(len(tags), 1)
        example = example_from_tags(
            row.tokens, row.text, tags, sources, scheme, character_level, file.warnings
        )
        return Example(example.text, None, source) if row.tags is None else example

    examples = file.convert(parsed, make_example, f"on each line {FORM}", "rows")
    token_kind = "characters" if character_level else "words"
    spelled = "" if spelling.usual else f", tags spelled like {spelling.name}"
    return examples, f"tokens and ner_tags, {token_kind}, {scheme}{spelled}"


def find_token_fields(row: dict[str, Any]) -> tuple[str, str] | None:
    """Return the fields that have the tokens and the tags of a row, "" for the tags if it has none.

    None: the row has no tokens. A text with one tag per character or word counts as tokens.
    """
    lists = {name: value for name, value in row.items() if isinstance(value, list)}
    has_spans = any(any(map(parse_span, value)) for value in lists.values())
    for token_field in TOKEN_FIELDS:
        value = row.get(token_field)
        if isinstance(value, str):
            named = [n for n in (*TAG_FIELDS, *lists) if is_tag_sequence(lists.get(n, []))]
            tag_field = next(iter(named), "")
            if tag_field and len(lists[tag_field]) in (len(value), len(value.split())):
                return token_field, tag_field
        elif isinstance(value, list) and all(isinstance(token, str) for token in value):
            fitting = [
                name for name in (*TAG_FIELDS, *lists)
                if name != token_field and not OTHER_TAGS.search(name)
                and len(lists.get(name, ())) == len(value) and is_tag_sequence(lists.get(name, ()))
            ]  # fmt: skip
            usual = [
                n for n in TAG_FIELDS if row.get(n) is not None and n != token_field
                and not any(isinstance(tag, list | dict) for tag in lists.get(n, ()))
                and not (has_spans and len(lists.get(n, ())) != len(value))
                and not (value and n == "ner" and lists.get(n) == [])  # no spans
            ]  # fmt: skip
            # Prefer tags that are strings to numbers.
            named = [n for n in usual if all(isinstance(t, str) for t in lists.get(n, [0]))]
            unknown = [name for name in fitting if name not in TAG_FIELDS]
            # Of several unknown lists of tags none is chosen. The row is then an error.
            if len(unknown) > 1:
                fitting = [name for name in fitting if name in TAG_FIELDS]
            return token_field, next(iter([*fitting, *named, *usual]), "")
    return None


def split_tag_strings(row: dict[str, Any]) -> dict[str, Any]:
    """Split the strings of a row that are the tags of its tokens, such as "O B-name I-name"."""

    def split(value: Any) -> Any:
        tags = value.split() if isinstance(value, str) and " " in value else ()
        return list(tags) if tags and is_tag_sequence(tags) else value

    return {
        name: split(value) if name in TAG_FIELDS or "-" in str(value) else value
        for name, value in row.items()
    }


def _parse_row(row: dict[str, Any], names: "ClassNames", source: str) -> _Row:
    row = split_tag_strings(row)
    fields = find_token_fields(row)
    if fields is None:
        raise UserError(f"{source}: {_why_no_tokens(row)} Expected {FORM}.")
    token_field, tag_field = fields
    value = row[token_field]
    text = row["text"] if isinstance(row.get("text"), str) else None
    tags = None if not tag_field else _parse_tags(row[tag_field], tag_field, names, source)
    if isinstance(value, str):
        tokens = list(value) if tags and len(tags) == len(value) else value.split()
        text = value
    else:
        tokens = value
    if not all(tokens):
        raise UserError(f'{source}: "{token_field}" has an empty token. Expected {FORM}.')
    if tags is not None and len(tags) != len(tokens):
        raise UserError(
            f"{source}: {len(tokens)} tokens but {len(tags)} {tag_field}. Give one tag per token."
        )
    read = {token_field, tag_field} | ({"text"} if text is not None else set())
    return _Row(tokens, tags, text, {k: v for k, v in row.items() if k not in read})


def _why_no_tokens(row: dict[str, Any]) -> str:
    lists = {name: row[name] for name in TAG_FIELDS if isinstance(row.get(name), list)}
    tags = [name for name, value in lists.items() if is_tag_sequence(value)]
    texts = [name for name in TOKEN_FIELDS if isinstance(row.get(name), str)]
    if tags and texts:
        text = row[texts[0]]
        return (
            f'"{tags[0]}" has {len(lists[tags[0]])} tags, but "{texts[0]}" has {len(text)} characters and '
            f"{len(text.split())} words."
        )
    named = next((name for name in TOKEN_FIELDS if name in row), "tokens")
    return f'"{named}" is not a list of words.'


def _parse_tags(value: Any, name: str, names: "ClassNames", source: str) -> list[str]:
    if not isinstance(value, list):
        raise UserError(f'{source}: "{name}" is not a list of tags. Expected {FORM}.')
    if any(type(tag) is int for tag in value):
        return names.resolve(name, value, source)
    for tag in value:
        if not isinstance(tag, str):
            raise UserError(f"{source}: {tag!r} is not a tag. Expected {TAG_FORM}")
    return [tag.strip() for tag in value]


class ClassNames:
    """The names of numbered tags: from a schema, or from a file beside the data.

    `save_to_disk` of `datasets` writes `dataset_info.json`; a repository of the hub has them in the head of its
    `README.md`.

    Args:
        path: path of the data file.
        schema: names by field, from the file itself; None to look for them beside it.
    """

    def __init__(self, path: Path, schema: dict[str, list[str]] | None = None):
        self._path = path
        self._names = dict(schema or {})

    def resolve(self, field: str, numbers: list[Any], source: str) -> list[str]:
        """Return the names of tag numbers.

        Raises:
            UserError: there are no names, or a number has none.
        """
        if field not in self._names:
            self._names[field] = self._find(field, numbers, source)
        names = self._names[field]
        for number in numbers:
            if type(number) is not int or not 0 <= number < len(names):
                raise UserError(
                    f"{source}: {number!r} is not a tag number. There are names of {len(names)} tags, numbered "
                    "from 0."
                )
        return [names[number] for number in numbers]

    def _find(self, field: str, numbers: list[Any], source: str) -> list[str]:
        """Read the names from a file in the folder of the data or its parent."""
        example = _info_example(field, numbers)
        for folder in (self._path.parent, Path(os.path.realpath(self._path.parent)).parent):
            info_file = folder / INFO_FILE
            if info_file.is_file():
                try:
                    info = json.loads(info_file.read_text("utf-8"))
                    names = next(find_class_names(info["features"][field]), None)
                except (ValueError, KeyError, TypeError, RecursionError):
                    names = None
                if names:
                    return names
                raise UserError(
                    f'{info_file}: has no names for "{field}". Write your tags in the order of their numbers: '
                    f"{example}"
                )
            if names := _names_in_card(folder / "README.md", field):
                return names
        raise UserError(
            f'{source}: the tags in "{field}" are numbers without names. Put the {INFO_FILE} of the data set '
            f"beside the file, or write one with your tags in the order of their numbers: {example}"
        )


def _info_example(field: str, numbers: list[Any]) -> str:
    """Return the content of an `INFO_FILE` with as many names as the largest number needs."""
    count = max([2, *(number for number in numbers if type(number) is int)]) + 1
    categories = range((count + 1) // 2)
    names = ["O", *(f"{prefix}-NAME{i or ''}" for i in categories for prefix in "BI")][:count]
    return json.dumps({"features": {field: {"names": names}}})


def _names_in_card(card: Path, field: str) -> list[str] | None:
    """Return the names in the YAML head of a data card of the hub, None if it has none."""
    if not card.is_file():
        return None
    import yaml  # seldom needed

    try:
        head = card.read_text("utf-8").split("---\n")[1]
        info = yaml.safe_load(head)["dataset_info"]
        configs = info if isinstance(info, list) else [info]
        features = [f for config in configs for f in config["features"] if f["name"] == field]
        return next(find_class_names(features), None)
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, yaml.YAMLError):
        return None


def find_class_names(feature: Any) -> Iterator[list[str]]:
    """Yield lists of class names at any depth: versions of `datasets` nest the class feature differently."""
    if isinstance(feature, list):
        for inner in feature:
            yield from find_class_names(inner)
    elif isinstance(feature, dict):
        names = feature.get("names")
        if isinstance(names, dict):  # in a data card: {'0': 'O', ...}
            names = [names[key] for key in sorted(names, key=int)]
        if isinstance(names, list) and names and all(isinstance(n, str) for n in names):
            yield names
        yield from find_class_names([v for k, v in feature.items() if k != "names"])


def write_token_rows(path: Path, examples: Sequence[Example], warnings: ConversionWarnings) -> None:
    """Write tokens and ner_tags (BIO strings). Tokens are characters if any text has CJK, else words.

    A row gets a `text` if joining its tokens does not give it. An unlabelled example gets no
    `ner_tags`. `warnings` receives what tags cannot represent.
    """
    split_characters = has_cjk(examples)
    spans = [token_spans(e.text, e.entities or (), split_characters) for e in examples]
    tokens = [
        [example.text[a:b] for a, b in example_spans]
        for example, example_spans in zip(examples, spans, strict=True)
    ]
    character_level = is_character_level(tokens)

    def rows() -> Iterator[dict[str, Any]]:
        for example, example_spans, words in zip(examples, spans, tokens, strict=True):
            row: dict[str, Any] = {"tokens": words}
            if example.entities is not None:
                row["ner_tags"] = tags_from_entities(example, example_spans, "BIO", warnings)
            if join_tokens(words, character_level)[0] != example.text:
                row["text"] = example.text
            yield row

    write_json_lines(path, rows())
