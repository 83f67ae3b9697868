"""Reports that commands write to files."""

import argparse
from pathlib import Path

from flax_ner.errors import UserError


def check_outputs(options: argparse.Namespace) -> None:
    """Before any work: the folders of --json and --html are there."""
    for name in ("json", "html"):
        out = getattr(options, name)
        if out and not Path(out).absolute().parent.is_dir():
            raise UserError(f"--{name}: no folder {str(Path(out).parent)!r} to write to.")


def write_report(path: str, content: str) -> None:
    """Write a text; lone surrogates, which UTF-8 lacks, become escapes."""
    Path(path).write_text(content, "utf-8", errors="backslashreplace")
