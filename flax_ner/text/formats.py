"""Readers and writers of data files. A fault in the data is a `UserError` that names file and line."""

import codecs
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from flax_ner.errors import UserError
from flax_ner.text.brat import read_brat, write_brat
from flax_ner.text.columns import read_columns, write_columns
from flax_ner.text.doccano import read_doccano, write_doccano
from flax_ner.text.examples import Entity, Example
from flax_ner.text.files import (
    Line,
    Losses,
    check_plain,
    checked_entity,
    collect,
    content,
    decoded,
    distinct,
    lines,
    parse,
    write_json_lines,
)
from flax_ner.text.label_studio import read_label_studio, write_label_studio
from flax_ner.text.recognise import recognise
from flax_ner.text.synthetic import synthetic
from flax_ner.text.token_rows import read_token_rows, write_token_rows

Reader = Callable[[Path, list[str] | None, Losses], tuple[list[Example], str]]
Writer = Callable[[Path, Sequence[Example], Losses], None]


def read_examples(
    source: str,
    data_format: str,
    field: str = "data",
    skipped: list[str] | None = None,
    notes: list[str] | None = None,
) -> list[Example]:
    """Read a data set.

    Args:
        source: a file (for `brat` also a folder), or for the format `synthetic` the split and the
            number of sentences to make, as in "train 4000".
        data_format: one of `FORMATS`; `auto` goes by the content.
        field: the config field or argument `source` came from, for messages.
        skipped: takes the fault of each line (sentence, task, document) that cannot be read. Without
            it the first one raises.
        notes: takes what `auto` found, and what the file has and an example has no place for.

    Raises:
        UserError: no such file, an unknown format, a line that cannot be read, or none that can.
    """
    if data_format not in FORMATS:
        raise UserError(
            f"data.format: {data_format!r} is unknown. Choose one of {', '.join(FORMATS)}."
        )
    if data_format == "synthetic":
        match source.split():
            case [split, count] if count.isdigit():
                return synthetic(split, int(count))
        raise UserError(
            f"{field}: {source!r} is no synthetic set. Give the split and the number of sentences, "
            'as in "train 4000" or "dev 500".'
        )
    path = Path(source)
    if not path.is_file() and not (data_format in ("auto", "brat") and path.is_dir()):
        raise UserError(
            f"{field}: no file {source!r}. CLUENER2020 is published by the CLUE benchmark as "
            "cluener_public.zip (train.json, dev.json, test.json): unpack it and set "
            f"{field} to the file, or give your own data in that form, one JSON object a line: "
            '{"text": ..., "label": {category: {surface: [[start, end], ...]}}}, or in one of the '
            f"formats {', '.join(READERS)}."
        )
    found = data_format
    if data_format == "auto":
        found = recognise(path) or _likeliest(path)
    losses = Losses()
    examples, kind = READERS[found](path, skipped, losses)
    if notes is not None:
        notes += [f"{field}: {source} is read as {kind}."] if data_format == "auto" else []
        notes += [f"{field}: {line}" for line in losses.lines()]
    return examples


def _likeliest(path: Path) -> str:
    """The format whose reader says best what is wrong with a file that is of none."""
    if path.is_dir():
        return "brat"
    return "label_studio" if content(path).lstrip().startswith(b"[") else "cluener"


def write_examples(
    path: str | Path, examples: Sequence[Example], data_format: str, scheme: str = "BIO"
) -> list[str]:
    """Write a data set, whole or not at all.

    Args:
        path: the file; for `brat` a folder that is not there yet.
        examples: with entities, or unlabelled.
        data_format: one of `WRITERS`.
        scheme: of the tags of `conll`, one of `tagged.SCHEMES`.

    Returns:
        What the format cannot hold, a line a kind, with how often and where first.

    Raises:
        UserError: an unknown format, a folder in the way, or an entity that is not in its text.
    """
    if data_format not in WRITERS:
        raise UserError(f"{data_format!r} cannot be written. Choose one of {', '.join(WRITERS)}.")
    path, losses = Path(path), Losses()
    if path.is_dir() or (data_format == "brat" and path.exists()):
        raise UserError(f"{path}: is there already. Choose another name, or remove it.")
    if not path.absolute().parent.is_dir():
        raise UserError(f"{path}: no folder {str(path.parent)!r} to write to.")
    checked = []
    for example in examples:
        entities = example.entities and tuple(
            checked_entity(e.type, e.start, e.end, example.text, example.source)
            for e in example.entities
        )
        scored = sum(e.score != 1.0 for e in example.entities or ())
        losses.add("scores of entities, left out", example.source, scored)
        if entities:
            entities = distinct(entities, example.source, losses)
        checked.append(Example(example.text, entities, example.source))
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        if data_format == "conll":
            write_columns(part, checked, losses, scheme)
        else:
            WRITERS[data_format](part, checked, losses)
        part.replace(path)
    finally:
        if part.is_dir():
            shutil.rmtree(part)
        part.unlink(missing_ok=True)
    return losses.lines()


def read_cluener(
    path: str | Path, skipped: list[str] | None = None, losses: Losses | None = None
) -> list[Example]:
    """Read CLUENER JSON lines: `{"text": ..., "label": {category: {surface: [[start, end], ...]}}}`.

    Offsets count characters and `end` is inclusive in the file, exclusive in the result. A line
    without `label` gives an unlabelled example. Entities keep the order of the file. `skipped` is
    as in `read_examples`; `losses` takes what else the lines have.

    Raises:
        UserError: with file and line, for anything that is not of that form.
    """
    path = Path(path)
    units = ((f"{path}:{number}", line) for number, line in enumerate(lines(path), 1))
    empty = f"{path}: holds no examples. One JSON object a line is expected."
    losses = losses or Losses()
    return collect(
        units, lambda line, source: _cluener_example(line, source, losses), skipped, empty
    )


def read_rows(path: str | Path) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Read JSON objects one line at a time: `file:line`, the line and its object. Blank lines are left out.

    Raises:
        UserError: with file and line, once a line is reached that is no JSON object.
    """
    with open(path, "rb") as file:
        for number, raw in enumerate(file, 1):
            source = f"{path}:{number}"
            if number == 1:
                check_plain(raw, path)
                raw = raw.removeprefix(codecs.BOM_UTF8)
            line = decoded(raw, source).strip()
            if not line:
                continue
            row = parse(line, source)
            if not isinstance(row, dict):
                raise UserError(f"{source}: no JSON object. One a line is expected.")
            yield source, line, row


def write_cluener(path: str | Path, examples: Iterable[Example]) -> None:
    """Write examples as CLUENER JSON lines; an unlabelled example gets no `label`."""

    def row(example: Example) -> dict[str, Any]:
        if example.entities is None:
            return {"text": example.text}
        label: dict[str, dict[str, list[list[int]]]] = {}
        for entity in example.entities:
            surface = example.text[entity.start : entity.end]
            spans = label.setdefault(entity.type, {}).setdefault(surface, [])
            spans.append([entity.start, entity.end - 1])
        return {"text": example.text, "label": label}

    write_json_lines(Path(path), map(row, examples))


def _cluener_example(line: Line, source: str, losses: Losses) -> Example | None:
    written = decoded(line, source)
    if not written.strip():
        return None
    row = parse(written, source)
    if not isinstance(row, dict) or not isinstance(row.get("text"), str):
        raise UserError(f'{source}: no "text". A line is {{"text": "...", "label": {{...}}}}.')
    text, label = row["text"], row.get("label")
    for name in row.keys() - {"text", "label"}:
        losses.add(f"field {name!r}, left out", source)
    if label is None:
        return Example(text, None, source)
    entities = []
    try:
        for category, surfaces in label.items():
            for surface, spans in surfaces.items():
                for start, end in spans:
                    entities.append((category, surface, start, end))
    except (AttributeError, TypeError, ValueError):
        raise UserError(
            f'{source}: "label" is not of the form {{category: {{surface: [[start, end], ...]}}}}.'
        ) from None
    for category, surface, start, end in entities:
        if type(start) is not int or type(end) is not int or not 0 <= start <= end < len(text):
            raise UserError(
                f"{source}: {category} {surface!r} has the span [{start}, {end}] in a text of "
                f"{len(text)} characters. Expected 0 <= start <= end < {len(text)}, end inclusive."
            )
        if text[start : end + 1] != surface:
            raise UserError(
                f"{source}: {category} {surface!r} at [{start}, {end}], where the text has "
                f"{text[start : end + 1]!r}. Correct the span or the surface."
            )
    if len(set(entities)) < len(entities):
        category, surface, start, end = next(e for e in entities if entities.count(e) > 1)
        raise UserError(
            f"{source}: {category} {surface!r} at [{start}, {end}] is there twice. Delete one."
        )
    return Example(text, tuple(Entity(c, s, e + 1, t) for c, t, s, e in entities), source)


def _read_cluener(
    path: Path, skipped: list[str] | None, losses: Losses
) -> tuple[list[Example], str]:
    return read_cluener(path, skipped, losses), "CLUENER JSON lines"


def _write_cluener(path: Path, examples: Sequence[Example], losses: Losses) -> None:
    write_cluener(path, examples)


READERS: dict[str, Reader] = {
    "cluener": _read_cluener,
    "conll": read_columns,
    "doccano": read_doccano,
    "label_studio": read_label_studio,
    "tokens": read_token_rows,
    "brat": read_brat,
}
WRITERS: dict[str, Writer] = {
    "cluener": _write_cluener,
    "conll": write_columns,
    "doccano": write_doccano,
    "label_studio": write_label_studio,
    "tokens": write_token_rows,
    "brat": write_brat,
}
FORMATS = ("auto", *READERS, "synthetic")
