"""Write the output files of commands, and tagged texts as JSON.

A file appears only when it is complete. An input is never replaced, any other file only with --force.
"""

import argparse
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO
from uuid import uuid4

from flax_ner import durable
from flax_ner.errors import UserError
from flax_ner.text.examples import Entity

ENTITIES_FIELD = "entities"  # the field that is added to a tagged row
STDIN_DEVICE = Path("/dev/stdin")


def add_force(parser: argparse.ArgumentParser) -> None:
    """Add the option --force."""
    parser.add_argument(
        "--force", action="store_true", help="replace files that exist; never the input"
    )


def check_output(out: str, name: str, inputs: Iterable[str | None], force: bool) -> None:
    """Raise `UserError` if an output file cannot be written. Call it before any work.

    Args:
        out: path of the output file.
        name: the option or argument that names it, for messages.
        inputs: files and folders that the command reads. None and names that are not paths are ignored.
        force: whether an existing file may be replaced.
    """
    path = Path(out)
    for source in inputs:
        if source is not None and _is_in(path, STDIN_DEVICE if source == "-" else Path(source)):
            raise UserError(f"{name}: {out!r} belongs to the input {source!r}. Name another file.")
    if path.is_dir():
        raise UserError(f"{name}: {out!r} is a folder. Name another path.")
    if not path.resolve().parent.is_dir():
        raise UserError(f"{name}: no folder {str(path.parent)!r} to write to.")
    if path.is_file() and not force:
        raise UserError(f"{name}: {out!r} exists. Name another file, or replace it with --force.")


def _is_in(path: Path, source: Path) -> bool:
    """Return whether an existing file is an input, or is inside an input folder."""
    if not path.is_file() or not source.exists():
        return False
    if source.is_dir():
        return source.resolve() in path.resolve().parents
    # The brat reader reads both files of a document, whichever is given.
    pair = [source.with_suffix(suffix) for suffix in (".txt", ".ann")]
    files = [source, *pair] if source.suffix in (".txt", ".ann") else [source]
    return any(file.exists() and path.samefile(file) for file in files)


def check_outputs(options: argparse.Namespace, inputs: Iterable[str | None]) -> None:
    """Raise `UserError` if the file of --json or --html cannot be written, see `check_output`."""
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
def open_output(out: str) -> Iterator[TextIO]:
    """Open a UTF-8 text file that appears under its name only after the block succeeds.

    Lone surrogates, which UTF-8 cannot encode, are written as escapes. If `out` is a symbolic link, the
    link stays and its target is written.
    """
    target = Path(out).resolve()
    if target.exists() and not target.is_file():  # a device or pipe cannot be replaced atomically
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
    print(f"flax_ner: wrote {out}", file=sys.stderr)


def write_report(out: str, content: str) -> None:
    """Write a whole file with `open_output`."""
    with open_output(out) as file:
        file.write(content)


def json_line(text: str, entities: Sequence[Entity]) -> str:
    """Return a text and its entities as one line of JSON, without a line break."""
    return json.dumps(
        {"text": text, ENTITIES_FIELD: [e.as_dict() for e in entities]}, ensure_ascii=False
    )


def tagged_row(line: str, entities: Sequence[Entity], text: str | None = None) -> str:
    """Return a row with its entities added, on one line.

    Args:
        line: the row as it is in the file, a JSON object with at least one field. Its characters are
            kept, so that numbers, for example, do not change their notation.
        entities: the entities of its text.
        text: the text, if it must be added as the field `text`.
    """
    fields = {} if text is None else {"text": text}
    added = json.dumps(
        {**fields, ENTITIES_FIELD: [e.as_dict() for e in entities]}, ensure_ascii=False
    )
    return f"{line[:-1].rstrip()}, {added[1:]}"
