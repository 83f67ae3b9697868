"""Command line: python -m flax_ner data check | stats."""

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console

from flax_ner.errors import UserError
from flax_ner.inference.outputs import add_force, check_outputs, write_report
from flax_ner.inference.suspects import suspects
from flax_ner.inference.tagger import load
from flax_ner.text.audit import LONG, audit, statistics
from flax_ner.text.audit_html import audit_html, statistics_html
from flax_ner.text.audit_report import audit_json, audit_view, statistics_json, statistics_view
from flax_ner.text.examples import Example
from flax_ner.text.formats import read_examples


def add_audit_commands(
    data_commands: "argparse._SubParsersAction[argparse.ArgumentParser]",
) -> None:
    """Add `check` and `stats` to the sub-commands of `data`."""
    check = data_commands.add_parser(
        "check", help="look for faults in data",
        description="Look for faults in data, in each file and across them. The exit status is 1 where a "
        "line cannot be read, else 0: all other findings are warnings and do not change it.",
    )  # fmt: skip
    check.add_argument(
        "--model", metavar="MODEL",
        help="also list labels that this model doubts; it must not have been trained on the data",
    )  # fmt: skip
    check.add_argument(
        "--compute-dtype", choices=("float32", "bfloat16"),
        help="of the model's products; bfloat16 is faster where the device has it. Default: as trained",
    )  # fmt: skip
    check.add_argument(
        "--long", type=int, default=LONG, metavar="N",
        help="characters from which on a text counts as very long (default %(default)s)",
    )  # fmt: skip
    check.add_argument(
        "--show", type=int, default=10, metavar="N",
        help="cases of a finding in text and HTML (default %(default)s); JSON has all",
    )  # fmt: skip
    check.set_defaults(run=_check)

    stats = data_commands.add_parser("stats", help="count texts, entities and categories")
    stats.set_defaults(run=_stats)

    for command in (check, stats):
        command.add_argument(
            "data", metavar="DATA", nargs="+", help="data in any format; files that belong together"
        )
        command.add_argument("--json", metavar="OUT", help="also write the report to this file")
        command.add_argument("--html", metavar="OUT", help="also write it as one page to this file")
        add_force(command)


def _check(options: argparse.Namespace) -> None:
    _check_arguments(options)
    for name, least in (("show", 0), ("long", 1)):
        if (value := getattr(options, name)) < least:
            raise UserError(f"--{name}: {value}, but it must be at least {least}.")
    errors = list[str]()
    files = {name: _readable(name, errors) for name in options.data}
    report = audit(files, errors, options.long)
    if options.model:
        tagger = load(options.model, options.compute_dtype)
        doubts = suspects(tagger, (example for rows in files.values() for example in rows))
        report = replace(report, findings=report.findings + doubts)
    _print(audit_view(report, options.show))
    if options.json:
        _write_json(options.json, audit_json(report))
    if options.html:
        write_report(options.html, audit_html(report, options.show))
    if errors:
        sys.exit(1)


def _stats(options: argparse.Namespace) -> None:
    _check_arguments(options)
    files = [statistics(name, read_examples(name, "auto", "DATA")) for name in options.data]
    _print(statistics_view(files))
    if options.json:
        _write_json(options.json, {"files": statistics_json(files)})
    if options.html:
        write_report(options.html, statistics_html(files))


def _check_arguments(options: argparse.Namespace) -> None:
    """Before any work: what is asked for can be read and written."""
    check_outputs(options, [*options.data, getattr(options, "model", None)])
    seen = dict[Path, str]()
    for name in options.data:
        first = seen.setdefault(Path(name).resolve(), name)
        if first is not name:
            raise UserError(f"DATA: {name!r} is the same file as {first!r}. Give each once.")


def _readable(name: str, errors: list[str]) -> list[Example]:
    """The examples of a file; what cannot be read goes into `errors`."""
    before = len(errors)
    try:
        return read_examples(name, "auto", "DATA", errors)
    except UserError as error:
        if not Path(name).exists():
            raise
        if len(errors) == before:  # otherwise each line's fault is there already
            errors.append(str(error))
        return []


def _print(parts: Any) -> None:
    console = Console(soft_wrap=not sys.stdout.isatty())
    for part in parts:
        console.print(part)


def _write_json(path: str, report: dict[str, Any]) -> None:
    write_report(path, json.dumps(report, ensure_ascii=False, indent=1) + "\n")
