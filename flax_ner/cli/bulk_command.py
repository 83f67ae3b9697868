"""Command line: python -m flax_ner bulk."""

import argparse

from flax_ner.cli.model_options import add_compute_dtype
from flax_ner.serving.bulk import tag_files


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `bulk`."""
    parser.description = (
        "Tag every *.jsonl and *.parquet file of a folder. Each row keeps all its fields and gets "
        "the field `entities`, a list of {type, start, end, text, score}. Run the same command again to "
        "resume: it tags only the files that are still missing."
    )
    parser.add_argument("model", metavar="MODEL", help="as for predict")
    parser.add_argument(
        "input", metavar="INPUT", help="a *.jsonl or *.parquet file, or a folder of such files"
    )
    parser.add_argument(
        "out", metavar="OUT", help="folder for the tagged files, which keep their names"
    )
    parser.add_argument(
        "--workers", metavar="N", type=int,
        help="number of processes, each with its own copy of the model. Default: one per GPU. Without "
        "GPUs, one per machine, or as few as use 90%% of the cores if the machines differ",
    )  # fmt: skip
    parser.add_argument(
        "--address", metavar="ADDR",
        help="Ray cluster to use, host:6379 or auto. MODEL, INPUT and OUT must have the same path on all "
        "its machines. Default: this machine only",
    )  # fmt: skip
    parser.add_argument(
        "--text-field", metavar="NAME", default="text", help="field to tag. Default: text"
    )
    add_compute_dtype(parser)
    parser.set_defaults(run=_bulk)


def _bulk(options: argparse.Namespace) -> None:
    summary = tag_files(
        options.model, options.input, options.out, options.workers, options.address,
        options.text_field, options.compute_dtype,
    )  # fmt: skip
    print(summary)
