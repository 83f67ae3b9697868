"""Command line: python -m flax_ner data convert."""

import argparse
from pathlib import Path

from flax_ner.cli.read_options import add_read_options, read_options
from flax_ner.data.detection import COLUMN_SUFFIXES
from flax_ner.data.formats import WRITERS, read_examples, write_examples
from flax_ner.data.tagged import SCHEMES
from flax_ner.inference.outputs import add_force, check_output


def add_data_commands(
    commands: "argparse._SubParsersAction[argparse.ArgumentParser]",
) -> "argparse._SubParsersAction[argparse.ArgumentParser]":
    """Add the command `data` and return its sub-parsers, so that callers can add more of them."""
    data = commands.add_parser("data", help="work on data sets").add_subparsers(required=True)

    convert = data.add_parser("convert", help="convert a data set to another format")
    convert.add_argument("source", metavar="IN", help="file, or folder of brat documents")
    convert.add_argument(
        "target", metavar="OUT", help="file; for brat a folder that does not exist yet"
    )
    convert.add_argument(
        "--to", dest="target_format", choices=tuple(WRITERS), metavar="FORMAT",
        help=f"{', '.join(WRITERS)}; default: conll if OUT ends in {', '.join(COLUMN_SUFFIXES)}, else cluener",
    )  # fmt: skip
    convert.add_argument(
        "--scheme", choices=tuple(SCHEMES), default="BIO", help="tag scheme for conll; default: BIO"
    )
    convert.add_argument(
        "--skip", action="store_true", help="leave out unreadable records, and list them"
    )
    add_force(convert)
    add_read_options(convert, "IN")
    convert.set_defaults(run=_convert)
    return data


def _convert(options: argparse.Namespace) -> None:
    check_output(options.target, "OUT", [options.source], options.force)
    notes, skipped = list[str](), list[str]()
    examples = read_examples(
        options.source,
        options.source_format,
        "IN",
        skipped if options.skip else None,
        notes,
        read_options(options),
    )
    columns = Path(options.target).suffix in COLUMN_SUFFIXES
    target_format = options.target_format or ("conll" if columns else "cluener")
    warnings = write_examples(options.target, examples, target_format, options.scheme)
    for error in skipped:
        print(f"left out: {error}")
    for note in notes:
        print(note)
    for warning in warnings:
        print(f"OUT: {warning}")
    entities = sum(len(example.entities or ()) for example in examples)
    print(
        f"Wrote {len(examples)} texts with {entities} entities to {options.target} as {target_format}. "
        f"Warnings: {len(warnings)}."
    )
