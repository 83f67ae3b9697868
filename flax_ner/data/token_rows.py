"""Read and write rows `{"tokens": [...], "ner_tags": [...]}`, as `to_json` of `datasets` exports them.

`datasets` is the library of Hugging Face. Tags are strings or class numbers. The names of numbered
tags are not in the file but in `dataset_info.json`, which `save_to_disk` writes beside the data.
Tokens are joined as described in `tagged`. A field `text` gives the original text.
"""

import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from flax_ner.data.files import (
    ConversionWarnings,
    collect_examples,
    json_object,
    json_records,
    write_json_lines,
)
from flax_ner.data.tagged import (
    TAG,
    detect_scheme,
    example_from_tags,
    has_cjk,
    is_character_level,
    join_tokens,
    tags_from_entities,
    token_spans,
)
from flax_ner.errors import UserError
from flax_ner.text.examples import Example

FORM = '{"tokens": ["...", ...], "ner_tags": ["O", "B-...", ...]}'
TAG_FIELDS = ("ner_tags", "tags", "labels")  # in order of preference
INFO_FILE = "dataset_info.json"


def read_token_rows(
    path: Path, skipped: list[str] | None, warnings: ConversionWarnings
) -> tuple[list[Example], str]:
    """Read tokens and tags from JSON lines or one JSON array. A row without tags is unlabelled.

    Args:
        path: path of the file.
        skipped: see `collect_examples`.
        warnings: receives what an example cannot represent.

    Returns:
        The examples, and a description of the file for messages.

    Raises:
        UserError: a row is unreadable (see `collect_examples`). The message names file and line.
    """
    class_names: dict[str, list[str]] = {}
    records: list[tuple[str, dict[str, Any] | UserError]] = []
    for source, record in json_records(path, "row"):
        try:
            row = json_object(record, source, FORM)
            records.append((source, _parse_row(row, path, class_names, source)))
        except UserError as error:
            records.append((source, error))
    rows = [row for _, row in records if isinstance(row, dict)]
    scheme = detect_scheme(row["tags"] for row in rows if row["tags"] is not None)
    character_level = is_character_level(row["tokens"] for row in rows)

    def make_example(row: dict[str, Any], source: str) -> Example:
        for name in row["others"]:
            warnings.add(f"field {name!r}, left out", source)
        tags, sources = row["tags"], [source] * len(row["tokens"])
        outside = ["O"] * len(row["tokens"])
        example = example_from_tags(
            row["tokens"],
            row["text"],
            tags or outside,
            sources or [source],
            scheme,
            character_level,
            warnings,
        )
        return Example(example.text, None, source) if tags is None else example

    empty = f"{path}: contains no examples. Expected on each line {FORM}."
    examples = collect_examples(records, make_example, skipped, empty)
    token_kind = "characters" if character_level else "words"
    return examples, f"tokens and ner_tags, {token_kind}, {scheme}"


def _parse_row(
    row: dict[str, Any], path: Path, class_names: dict[str, list[str]], source: str
) -> dict[str, Any]:
    """Return tokens, tags (strings, or None), text (or None) and the names of the other fields."""
    tokens = row.get("tokens")
    if not isinstance(tokens, list) or not all(isinstance(t, str) and t for t in tokens):
        raise UserError(f'{source}: "tokens" is not a list of words. Expected {FORM}.')
    tag_fields = {name: row[name] for name in TAG_FIELDS if row.get(name) is not None}
    # Prefer tags that are strings to numbers.
    with_names = [
        name
        for name, tags in tag_fields.items()
        if isinstance(tags, list) and all(isinstance(t, str) for t in tags)
    ]
    name = next(iter(with_names or tag_fields), None)
    tags = None if name is None else _parse_tags(tag_fields[name], name, path, class_names, source)
    if tags is not None and len(tags) != len(tokens):
        raise UserError(
            f"{source}: {len(tokens)} tokens but {len(tags)} {name}. Give one tag per token."
        )
    text = row.get("text")
    if not isinstance(text, str):
        text = None
    others = [
        k for k in row if k not in ("tokens", name) and not (k == "text" and text is not None)
    ]
    return {"tokens": tokens, "tags": tags, "text": text, "others": others}


def _parse_tags(
    value: Any, name: str, path: Path, class_names: dict[str, list[str]], source: str
) -> list[str]:
    if not isinstance(value, list):
        raise UserError(f'{source}: "{name}" is not a list of tags. Expected {FORM}.')
    tags = value
    if any(type(tag) is int for tag in value):
        if name not in class_names:
            class_names[name] = _read_class_names(path, name, source)
        names = class_names[name]
        for tag in value:
            if type(tag) is not int or not 0 <= tag < len(names):
                raise UserError(
                    f"{source}: {tag!r} is not a tag number. {INFO_FILE} names {len(names)} tags, numbered "
                    "from 0."
                )
        tags = [names[tag] for tag in value]
    for tag in tags:
        if not isinstance(tag, str) or not TAG.fullmatch(tag):
            raise UserError(
                f"{source}: {tag!r} is not a tag. Expected O, or a prefix such as B- or I- and a category."
            )
    return tags


def _read_class_names(path: Path, name: str, source: str) -> list[str]:
    """Read the tag names from the `dataset_info.json` in the folder of the file or its parent."""
    for folder in (path.parent, Path(os.path.realpath(path.parent)).parent):
        info_file = folder / INFO_FILE
        if info_file.is_file():
            try:
                info = json.loads(info_file.read_text("utf-8"))
                names = next(_find_class_names(info["features"][name]), None)
            except (ValueError, KeyError, TypeError, RecursionError):
                names = None
            if names:
                return names
            raise UserError(
                f'{info_file}: has no names for "{name}". Write your tags in the order of their numbers: '
                f"{_info_example(name)}"
            )
    raise UserError(
        f'{source}: the tags in "{name}" are numbers without names. Put the {INFO_FILE} of the data set beside '
        f"the file, or write one with your tags in the order of their numbers: {_info_example(name)}"
    )


def _info_example(name: str) -> str:
    return json.dumps({"features": {name: {"names": ["O", "B-name", "I-name"]}}})


def _find_class_names(feature: Any) -> Iterator[list[str]]:
    """Yield lists of class names at any depth: versions of `datasets` nest the class feature differently."""
    if isinstance(feature, list):
        for inner in feature:
            yield from _find_class_names(inner)
    elif isinstance(feature, dict):
        names = feature.get("names")
        if isinstance(names, list) and names and all(isinstance(n, str) for n in names):
            yield names
        yield from _find_class_names([v for k, v in feature.items() if k != "names"])


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
