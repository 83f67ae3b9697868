"""Command line: python -m flax_ner inspect."""

import argparse

from flax_ner.errors import UserError
from flax_ner.weights.describe import describe


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `inspect`."""
    parser.add_argument(
        "file", metavar="FILE",
        help="file or folder of PyTorch or Flax weights, model directory, or owner/name[@revision] on the hub",
    )  # fmt: skip
    parser.set_defaults(run=_inspect)


def _inspect(options: argparse.Namespace) -> None:
    description, problems = describe(options.file, "FILE")
    print(description)
    if problems:
        raise UserError("not usable as it is:\n  " + "\n  ".join(problems))
