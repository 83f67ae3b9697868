"""`{"tokens": [...], "ner_tags": [...]}` objects, as Hugging Face `datasets` exports them by `to_json`.

Tags are strings, or numbers whose names the file lacks: those are in a `dataset_info.json`, which
`save_to_disk` leaves beside the data. Tokens are joined as `tagged` says; a `text` beside them is
the text itself.
"""

import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from flax_ner.errors import UserError
from flax_ner.text.examples import Example
from flax_ner.text.files import Losses, collect, json_object, json_rows, write_json_lines
from flax_ner.text.tagged import (
    TAG,
    example_of,
    has_cjk,
    joined,
    one_character_each,
    scheme_of,
    tags_of,
    tokenised,
)

FORM = '{"tokens": ["...", ...], "ner_tags": ["O", "B-...", ...]}'
TAGS = ("ner_tags", "tags", "labels")  # what the tags are called, the likeliest first
INFO = "dataset_info.json"


def read_token_rows(
    path: Path, skipped: list[str] | None, losses: Losses
) -> tuple[list[Example], str]:
    """Read tokens and tags, one object a line or one array of objects; without tags it is unlabelled.

    Returns:
        The examples, and what the file was found to be.

    Raises:
        UserError: with file and line, for what cannot be read (see `collect`).
    """
    names: dict[str, list[str]] = {}
    units: list[tuple[str, dict[str, Any] | UserError]] = []
    for source, unit in json_rows(path, "row"):
        try:
            units.append((source, _checked(json_object(unit, source, FORM), path, names, source)))
        except UserError as error:
            units.append((source, error))
    rows = [row for _, row in units if isinstance(row, dict)]
    scheme = scheme_of(row["tags"] for row in rows if row["tags"] is not None)
    characters = one_character_each(row["tokens"] for row in rows)

    def example(row: dict[str, Any], source: str) -> Example:
        for name in row["others"]:
            losses.add(f"field {name!r}, left out", source)
        tags, sources = row["tags"], [source] * len(row["tokens"])
        outside = ["O"] * len(row["tokens"])
        made = example_of(
            row["tokens"],
            row["text"],
            tags or outside,
            sources or [source],
            scheme,
            characters,
            losses,
        )
        return Example(made.text, None, source) if tags is None else made

    empty = f"{path}: holds no examples. Expected is, a line, {FORM}."
    examples = collect(units, example, skipped, empty)
    kind = "characters" if characters else "words"
    return examples, f"tokens and ner_tags, {kind}, {scheme}"


def _checked(
    row: dict[str, Any], path: Path, names: dict[str, list[str]], source: str
) -> dict[str, Any]:
    """Tokens, tags (strings, or None), text and the names of other fields of a row."""
    tokens = row.get("tokens")
    if not isinstance(tokens, list) or not all(isinstance(t, str) and t for t in tokens):
        raise UserError(f'{source}: "tokens" is no list of words. Expected is {FORM}.')
    given = {name: row[name] for name in TAGS if row.get(name) is not None}
    written = [
        k for k, v in given.items() if isinstance(v, list) and all(isinstance(t, str) for t in v)
    ]
    name = next(iter(written or given), None)
    tags = None if name is None else _tags(given[name], name, path, names, source)
    if tags is not None and len(tags) != len(tokens):
        raise UserError(f"{source}: {len(tokens)} tokens and {len(tags)} {name}. Give one a token.")
    text = row.get("text")
    if not isinstance(text, str):
        text = None
    others = [
        k for k in row if k not in ("tokens", name) and not (k == "text" and text is not None)
    ]
    return {"tokens": tokens, "tags": tags, "text": text, "others": others}


def _tags(given: Any, name: str, path: Path, names: dict[str, list[str]], source: str) -> list[str]:
    if not isinstance(given, list):
        raise UserError(f'{source}: "{name}" is no list of tags. Expected is {FORM}.')
    tags = given
    if any(type(tag) is int for tag in given):
        if name not in names:
            names[name] = _class_names(path, name, source)
        known = names[name]
        for tag in given:
            if type(tag) is not int or not 0 <= tag < len(known):
                raise UserError(
                    f"{source}: {tag!r} is no number of a tag. {INFO} names {len(known)}, from 0."
                )
        tags = [known[tag] for tag in given]
    for tag in tags:
        if not isinstance(tag, str) or not TAG.fullmatch(tag):
            raise UserError(
                f"{source}: {tag!r} is no tag. Expected is O, or B-, I- and so on with a category."
            )
    return tags


def _class_names(path: Path, name: str, source: str) -> list[str]:
    """The names of numbered tags, of the `dataset_info.json` beside the file or one folder up."""
    for folder in (path.parent, Path(os.path.realpath(path.parent)).parent):
        info = folder / INFO
        if info.is_file():
            try:
                found = next(_names_in(json.loads(info.read_text("utf-8"))["features"][name]), None)
            except (ValueError, KeyError, TypeError, RecursionError):
                found = None
            if found:
                return found
            raise UserError(
                f'{info}: has no names for "{name}". Write your tags in the order of their numbers: '
                f"{_info_example(name)}"
            )
    raise UserError(
        f'{source}: the tags in "{name}" are numbers without names. Put the data set\'s {INFO} beside the '
        f"file, or write one with your tags in the order of their numbers: {_info_example(name)}"
    )


def _info_example(name: str) -> str:
    return json.dumps({"features": {name: {"names": ["O", "B-name", "I-name"]}}})


def _names_in(feature: Any) -> Iterator[list[str]]:
    """Lists of class names in a feature, whichever way the list around the class is written."""
    if isinstance(feature, list):
        for part in feature:
            yield from _names_in(part)
    elif isinstance(feature, dict):
        names = feature.get("names")
        if isinstance(names, list) and names and all(isinstance(n, str) for n in names):
            yield names
        yield from _names_in([v for k, v in feature.items() if k != "names"])


def write_token_rows(path: Path, examples: Sequence[Example], losses: Losses) -> None:
    """Write tokens and ner_tags (BIO, as strings), characters if any text has CJK, else words.

    A row gets its `text` where that does not follow from the tokens; an unlabelled example gets no
    `ner_tags`. `losses` takes what tags cannot hold.
    """
    split_characters = has_cjk(examples)
    spans = [tokenised(e.text, e.entities or (), split_characters) for e in examples]
    tokens = [
        [example.text[a:b] for a, b in places]
        for example, places in zip(examples, spans, strict=True)
    ]
    characters = one_character_each(tokens)

    def rows() -> Iterator[dict[str, Any]]:
        for example, places, words in zip(examples, spans, tokens, strict=True):
            row: dict[str, Any] = {"tokens": words}
            if example.entities is not None:
                row["ner_tags"] = tags_of(example, places, "BIO", losses)
            if joined(words, characters)[0] != example.text:
                row["text"] = example.text
            yield row

    write_json_lines(path, rows())
