"""What commands write: reports to files, and tagged texts a line each."""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from flax_ner.errors import UserError
from flax_ner.text.examples import Entity


def check_outputs(options: argparse.Namespace) -> None:
    """Before any work: the folders of --json and --html are there."""
    for name in ("json", "html"):
        out = getattr(options, name)
        if out and not Path(out).absolute().parent.is_dir():
            raise UserError(f"--{name}: no folder {str(Path(out).parent)!r} to write to.")


def write_report(path: str, content: str) -> None:
    """Write a text; lone surrogates, which UTF-8 lacks, become escapes."""
    Path(path).write_text(content, "utf-8", errors="backslashreplace")
    print(f"flax_ner: {path} is written", file=sys.stderr)


def json_line(text: str, entities: Sequence[Entity]) -> str:
    """A tagged text as one line of JSON, without its line break."""
    row = {"text": text, "entities": [entity._asdict() for entity in entities]}
    return json.dumps(row, ensure_ascii=False)
