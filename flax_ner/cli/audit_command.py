"""Implement the commands `python -m flax_ner data check` and `data stats`."""

import argparse
import json
import sys
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console, RenderableType

from flax_ner.cli.model_options import add_compute_dtype, load_tagger
from flax_ner.cli.read_options import add_read_options, read_options
from flax_ner.data.files import collect
from flax_ner.data.formats import stream_examples
from flax_ner.data_quality.audit import LONG_TEXT_CHARACTERS, audit, compute_statistics
from flax_ner.data_quality.audit_html import audit_html, statistics_html
from flax_ner.data_quality.audit_report import (
    audit_json,
    audit_renderables,
    statistics_json,
    statistics_tables,
)
from flax_ner.errors import UserError
from flax_ner.inference.outputs import add_force, check_outputs, write_report
from flax_ner.text.examples import Example


def add_audit_commands(
    data_commands: "argparse._SubParsersAction[argparse.ArgumentParser]",
) -> None:
    """Add `check` and `stats` to the sub-commands of `data`."""
    check = data_commands.add_parser(
        "check", help="find likely mistakes in data",
        description="Find likely mistakes within and across data files. The exit status is 1 if a line "
        "cannot be read, else 0. All other findings are warnings and do not change it.",
    )  # fmt: skip
    check.add_argument(
        "--model", metavar="MODEL",
        help="also list labels that this model disagrees with; do not use a model trained on DATA",
    )  # fmt: skip
    add_compute_dtype(check)
    check.add_argument(
        "--long", type=int, default=LONG_TEXT_CHARACTERS, metavar="N",
        help="number of characters from which a text counts as very long (default %(default)s)",
    )  # fmt: skip
    check.add_argument(
        "--show", type=int, default=10, metavar="N",
        help="maximum cases per finding in text and HTML (default %(default)s); JSON has all",
    )  # fmt: skip
    check.set_defaults(run=_check)

    stats = data_commands.add_parser("stats", help="count texts, entities and categories")
    stats.set_defaults(run=_stats)

    for command in (check, stats):
        command.add_argument(
            "data", metavar="DATA", nargs="+",
            help="data files in any format that belong together, such as train and dev",
        )  # fmt: skip
        command.add_argument("--json", metavar="OUT", help="also write the report as JSON")
        command.add_argument("--html", metavar="OUT", help="also write the report as an HTML page")
        add_force(command)
        add_read_options(command, "DATA")


def _check(options: argparse.Namespace) -> None:
    _check_files(options)
    for name, least in (("show", 0), ("long", 1)):
        if (value := getattr(options, name)) < least:
            raise UserError(f"--{name}: {value}, but it must be at least {least}.")
    errors = list[str]()
    files = {name: _read_valid_examples(name, options, errors) for name in options.data}
    report = audit(files, errors, options.long)
    if options.model:
        from flax_ner.inference.label_errors import find_label_errors  # imports jax

        tagger = load_tagger(options.model, options.compute_dtype)
        examples = (example for rows in files.values() for example in rows)
        label_errors = find_label_errors(tagger, examples)
        report = replace(report, findings=report.findings + label_errors)
    _print(audit_renderables(report, options.show))
    if options.json:
        _write_json(options.json, audit_json(report))
    if options.html:
        write_report(options.html, audit_html(report, options.show))
    if errors:
        sys.exit(1)


def _stats(options: argparse.Namespace) -> None:
    _check_files(options)
    files = [compute_statistics(name, _stream(name, options)) for name in options.data]
    _print(statistics_tables(files))
    if options.json:
        _write_json(options.json, {"files": statistics_json(files)})
    if options.html:
        write_report(options.html, statistics_html(files))


def _check_files(options: argparse.Namespace) -> None:
    """Raise `UserError` before any work if an output is not writable or an input is given twice."""
    check_outputs(options, [*options.data, getattr(options, "model", None)])
    seen = dict[Path, str]()
    for name in options.data:
        first = seen.setdefault(Path(name).resolve(), name)
        if first is not name:
            raise UserError(f"DATA: {name!r} is the same file as {first!r}. Give each file once.")


def _stream(
    name: str, options: argparse.Namespace, errors: list[str] | None = None
) -> Iterator[Example]:
    """Yield the examples of a file, and print at the end what was assumed and left out."""
    notes = list[str]()
    yield from stream_examples(
        name, options.source_format, "DATA", errors, notes, read_options(options)
    )
    for note in notes:
        print(f"flax_ner: {note}", file=sys.stderr)


def _read_valid_examples(
    name: str, options: argparse.Namespace, errors: list[str]
) -> list[Example]:
    """Read the examples of a file; append a message to `errors` for each line that cannot be read."""
    before = len(errors)
    try:
        return collect(_stream(name, options, errors))
    except UserError as error:
        if not Path(name).exists():
            raise
        if len(errors) == before:  # otherwise the messages of its lines are there already
            errors.append(str(error))
        return []


def _print(renderables: Iterable[RenderableType]) -> None:
    console = Console(soft_wrap=not sys.stdout.isatty())
    for renderable in renderables:
        console.print(renderable)


def _write_json(path: str, report: dict[str, Any]) -> None:
    write_report(path, json.dumps(report, ensure_ascii=False, indent=1) + "\n")
