"""Command line: python -m flax_ner data convert."""

import argparse
from pathlib import Path

from flax_ner.inference.outputs import add_force, check_output
from flax_ner.text.formats import READERS, WRITERS, read_examples, write_examples
from flax_ner.text.recognise import COLUMNS
from flax_ner.text.tagged import SCHEMES


def add_data_commands(
    commands: "argparse._SubParsersAction[argparse.ArgumentParser]",
) -> "argparse._SubParsersAction[argparse.ArgumentParser]":
    """Add `data` to the commands; returns the sub-parsers of `data`, for more of them."""
    data = commands.add_parser("data", help="work on data sets").add_subparsers(required=True)

    convert = data.add_parser("convert", help="write a data set in another format")
    convert.add_argument("source", metavar="IN", help="file, or folder of brat documents")
    convert.add_argument(
        "target", metavar="OUT", help="file; for brat a folder that is not there yet"
    )
    convert.add_argument(
        "--from", dest="source_format", choices=("auto", *READERS), default="auto", metavar="FORMAT",
        help=f"{', '.join(READERS)}; default: as the content of IN says",
    )  # fmt: skip
    convert.add_argument(
        "--to", dest="target_format", choices=tuple(WRITERS), metavar="FORMAT",
        help=f"{', '.join(WRITERS)}; default: conll for a name on {', '.join(COLUMNS)}, else cluener",
    )  # fmt: skip
    convert.add_argument(
        "--scheme", choices=tuple(SCHEMES), default="BIO", help="of the tags of conll"
    )
    convert.add_argument(
        "--skip", action="store_true", help="leave out what cannot be read, and list it"
    )
    add_force(convert)
    convert.set_defaults(run=_convert)
    return data


def _convert(options: argparse.Namespace) -> None:
    check_output(options.target, "OUT", [options.source], options.force)
    notes, skipped = list[str](), list[str]()
    examples = read_examples(
        options.source, options.source_format, "IN", skipped if options.skip else None, notes
    )
    columns = Path(options.target).suffix in COLUMNS
    target_format = options.target_format or ("conll" if columns else "cluener")
    losses = write_examples(options.target, examples, target_format, options.scheme)
    for fault in skipped:
        print(f"left out: {fault}")
    for note in notes:
        print(note)
    for loss in losses:
        print(f"OUT: {loss}")
    entities = sum(len(example.entities or ()) for example in examples)
    print(
        f"{len(examples)} texts with {entities} entities read, written to {options.target} as "
        f"{target_format}; {len(losses)} kinds of losses in writing."
    )
