"""What commands write: tagged texts as JSON, and files.

A file is whole or not there. An input is never replaced, another file only with --force.
"""

import argparse
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO
from uuid import uuid4

from flax_ner import durable
from flax_ner.errors import UserError
from flax_ner.text.examples import Entity

ENTITIES = "entities"  # the field that a row gets
STDIN = Path("/dev/stdin")


def add_force(parser: argparse.ArgumentParser) -> None:
    """Add the option --force."""
    parser.add_argument(
        "--force", action="store_true", help="replace files that exist; never the input"
    )


def check_output(out: str, name: str, inputs: Iterable[str | None], force: bool) -> None:
    """Raise `UserError` before any work where a file cannot be written.

    Args:
        out: the file.
        name: what the user calls it, for messages.
        inputs: files and folders that are read; None and names that are no path are passed over.
        force: whether another file of that name is replaced.
    """
    path = Path(out)
    for source in inputs:
        if source is not None and _is_in(path, STDIN if source == "-" else Path(source)):
            raise UserError(f"{name}: {out!r} belongs to the input {source!r}. Name another file.")
    if path.is_dir():
        raise UserError(f"{name}: {out!r} is a folder. Name another path.")
    if not path.resolve().parent.is_dir():
        raise UserError(f"{name}: no folder {str(path.parent)!r} to write to.")
    if path.is_file() and not force:
        raise UserError(f"{name}: {out!r} exists. Name another file, or replace it with --force.")


def _is_in(path: Path, source: Path) -> bool:
    """Whether a file that exists is an input, or lies in the input's folder."""
    if not path.is_file() or not source.exists():
        return False
    if source.is_dir():
        return source.resolve() in path.resolve().parents
    # brat reads both files of a document, whichever is named.
    pair = [source.with_suffix(suffix) for suffix in (".txt", ".ann")]
    files = [source, *pair] if source.suffix in (".txt", ".ann") else [source]
    return any(file.exists() and path.samefile(file) for file in files)


def check_outputs(options: argparse.Namespace, inputs: Iterable[str | None]) -> None:
    """Check the files of --json and --html, as `check_output` does."""
    inputs = list(inputs)
    for name in ("json", "html"):
        if getattr(options, name):
            check_output(getattr(options, name), f"--{name}", inputs, options.force)
    if (
        options.json
        and options.html
        and Path(options.json).resolve() == Path(options.html).resolve()
    ):
        raise UserError(f"--html: {options.html!r} is the file of --json. Name another file.")


@contextmanager
def writing(out: str) -> Iterator[TextIO]:
    """A text file to write, which appears under its name once all is written.

    Lone surrogates, which UTF-8 lacks, become escapes. A link stays, and what it leads to is written.
    """
    target = Path(out).resolve()
    if (
        target.exists() and not target.is_file()
    ):  # a device or a pipe has no other file to replace it
        with open(target, "w", encoding="utf-8", errors="backslashreplace", newline="\n") as file:
            yield file
        return
    part = target.with_name(f".{uuid4().hex}.part")
    try:
        with open(part, "w", encoding="utf-8", errors="backslashreplace", newline="\n") as file:
            yield file
        durable.replace_file(part, target)
    finally:
        part.unlink(missing_ok=True)
    print(f"flax_ner: {out} is written", file=sys.stderr)


def write_report(out: str, content: str) -> None:
    """Write a text, as `writing` does."""
    with writing(out) as file:
        file.write(content)


def json_line(text: str, entities: Sequence[Entity]) -> str:
    """Return a text and its entities as one line of JSON, without a line break."""
    return json.dumps({"text": text, ENTITIES: _rows(entities)}, ensure_ascii=False)


def tagged_row(line: str, entities: Sequence[Entity], text: str | None = None) -> str:
    """Return a row with its entities, on one line.

    Args:
        line: the row, a JSON object with a field or more, as it is written. Nothing of it changes,
            not even how a number is written.
        entities: of its text.
        text: the text, for a row that does not have it as a field.
    """
    fields = {} if text is None else {"text": text}
    added = json.dumps({**fields, ENTITIES: _rows(entities)}, ensure_ascii=False)
    return f"{line[:-1].rstrip()}, {added[1:]}"


def _rows(entities: Sequence[Entity]) -> list[dict[str, Any]]:
    return [entity._asdict() for entity in entities]
