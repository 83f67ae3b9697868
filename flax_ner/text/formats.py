"""Readers and writers of data files. A fault in the data is a `UserError` that names file and line."""

import codecs
import gc
import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from flax_ner.errors import UserError
from flax_ner.text.examples import Entity, Example
from flax_ner.text.synthetic import synthetic

FORMATS = ("cluener", "synthetic")
FOREIGN = {  # how files begin that are taken for text and are not UTF-8
    b"\x1f\x8b": "compressed by gzip",
    b"PK\x03\x04": "a zip archive",
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}


def read_examples(
    source: str, data_format: str, field: str = "data", skipped: list[str] | None = None
) -> list[Example]:
    """Read a data set.

    Args:
        source: a file, or for the format `synthetic` the split and the number of sentences to
            make, as in "train 4000".
        data_format: one of `FORMATS`.
        field: the config field or argument `source` came from, for messages.
        skipped: takes the fault of each line that cannot be read. Without it the first one raises.

    Raises:
        UserError: no such file, an unknown format, a line that cannot be read, or none that can.
    """
    if data_format == "cluener":
        path = Path(source)
        if not path.is_file():
            raise UserError(
                f"{field}: no file {source!r}. CLUENER2020 is published by the CLUE benchmark as "
                "cluener_public.zip (train.json, dev.json, test.json): unpack it and set "
                f"{field} to the file, or give your own data in that form, one JSON object a line: "
                '{"text": ..., "label": {category: {surface: [[start, end], ...]}}}'
            )
        return read_cluener(path, skipped)
    if data_format == "synthetic":
        match source.split():
            case [split, count] if count.isdigit():
                return synthetic(split, int(count))
        raise UserError(
            f"{field}: {source!r} is no synthetic set. Give the split and the number of sentences, "
            'as in "train 4000" or "dev 500".'
        )
    raise UserError(f"data.format: {data_format!r} is unknown. Choose one of {', '.join(FORMATS)}.")


def read_cluener(path: str | Path, skipped: list[str] | None = None) -> list[Example]:
    """Read CLUENER JSON lines: `{"text": ..., "label": {category: {surface: [[start, end], ...]}}}`.

    Offsets count characters and `end` is inclusive in the file, exclusive in the result. A line
    without `label` gives an unlabelled example. Entities keep the order of the file. `skipped` is
    as in `read_examples`.

    Raises:
        UserError: with file and line, for anything that is not of that form.
    """
    path = Path(path)
    examples, faults = [], list[str]()
    with _collector_paused():
        for number, line in enumerate(_lines(path), 1):
            source = f"{path}:{number}"
            try:
                text = _decoded(line, source)
                if text.strip():
                    examples.append(_cluener_example(text, source))
            except UserError as error:
                if skipped is None:
                    raise
                faults.append(str(error))
    if skipped is not None:
        skipped += faults
    if not examples:
        tried = f" {len(faults)} lines cannot be read, the first: {faults[0]}" if faults else ""
        raise UserError(f"{path}: holds no examples. One JSON object a line is expected.{tried}")
    return examples


def read_rows(path: str | Path) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Read JSON objects one line at a time: `file:line`, the line and its object. Blank lines are left out.

    Raises:
        UserError: with file and line, once a line is reached that is no JSON object.
    """
    with open(path, "rb") as file:
        for number, content in enumerate(file, 1):
            source = f"{path}:{number}"
            if number == 1:
                _check_plain(content, path)
                content = content.removeprefix(codecs.BOM_UTF8)
            line = _decoded(content, source).strip()
            if not line:
                continue
            row = _json(line, source)
            if not isinstance(row, dict):
                raise UserError(f"{source}: no JSON object. One a line is expected.")
            yield source, line, row


def write_cluener(path: str | Path, examples: Iterable[Example]) -> None:
    """Write examples as CLUENER JSON lines; an unlabelled example gets no `label`."""
    # A lone surrogate, which UTF-8 lacks, is written as JSON's escape.
    with open(path, "w", encoding="utf-8", errors="backslashreplace") as file:
        for example in examples:
            row: dict[str, Any] = {"text": example.text}
            if example.entities is not None:
                label: dict[str, dict[str, list[list[int]]]] = {}
                for entity in example.entities:
                    surface = example.text[entity.start : entity.end]
                    spans = label.setdefault(entity.type, {}).setdefault(surface, [])
                    spans.append([entity.start, entity.end - 1])
                row["label"] = label
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


def _lines(path: Path) -> Sequence[str | bytes]:
    """The lines of a file; as bytes where it is not all UTF-8."""
    content = path.read_bytes()
    _check_plain(content, path)
    try:
        return content.decode("utf-8-sig").split("\n")
    except UnicodeDecodeError:
        return content.removeprefix(codecs.BOM_UTF8).split(b"\n")


def _check_plain(start: bytes, path: str | Path) -> None:
    for mark, kind in FOREIGN.items():
        if start.startswith(mark):
            raise UserError(f"{path}: is {kind}. Save the file as plain UTF-8.")


def _decoded(line: str | bytes, source: str) -> str:
    try:
        return line if isinstance(line, str) else line.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{source}: not UTF-8 ({error.reason} at byte {error.start} of the line). "
            "Save the file as UTF-8."
        ) from None


@contextmanager
def _collector_paused() -> Iterator[None]:
    """Examples hold no cycles, and of many the collector would look at all again and again."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _no_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object; of a name given twice, Python would silently keep the second value only."""
    row = dict(pairs)
    if len(row) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{twice!r} is there twice in one object")
    return row


_DECODER = json.JSONDecoder(object_pairs_hook=_no_repeats)


def _parse(line: str) -> Any:
    """As `json.loads` with the hook, which makes a decoder for every call: half of its time."""
    if line.startswith("\ufeff"):
        json.loads(line)  # raises, with words of its own
    return _DECODER.decode(line)


def _json(line: str, source: str) -> Any:
    try:
        return _parse(line)
    except (ValueError, RecursionError) as error:
        raise UserError(
            f"{source}: not JSON ({error}). One JSON object a line is expected."
        ) from None


def _cluener_example(line: str, source: str) -> Example:
    row = _json(line, source)
    if not isinstance(row, dict) or not isinstance(row.get("text"), str):
        raise UserError(f'{source}: no "text". A line is {{"text": "...", "label": {{...}}}}.')
    text, label = row["text"], row.get("label")
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
