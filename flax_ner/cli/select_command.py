"""Command line: python -m flax_ner data select."""

import argparse

from flax_ner.cli.model_options import load_tagger
from flax_ner.cli.read_options import add_read_options, read_options
from flax_ner.data.cluener import write_cluener
from flax_ner.data.files import ReadOptions
from flax_ner.data.formats import read_examples, read_texts
from flax_ner.errors import UserError
from flax_ner.inference.outputs import add_force, check_output
from flax_ner.text.examples import Example


def add_select_command(
    data_commands: "argparse._SubParsersAction[argparse.ArgumentParser]",
) -> None:
    """Add `select` to the sub-commands of `data`."""
    select = data_commands.add_parser(
        "select", help="pick the texts that are worth annotating next",
        description="Pick the texts that a model is least sure of, and that differ from each other. They are "
        "written without entities; predict --format turns them into pre-annotations for a tool.",
    )  # fmt: skip
    select.add_argument("model", metavar="MODEL", help="model directory such as WORKDIR/best")
    select.add_argument(
        "file", metavar="FILE",
        help="plain text with one text per line, or data if the name ends in .json, .jsonl or similar",
    )  # fmt: skip
    select.add_argument("output", metavar="OUT", help="file to write, one JSON row per text")
    select.add_argument("-n", "--number", type=int, default=200, help="texts to pick. Default: 200")
    add_force(select)
    add_read_options(select, "FILE")
    select.set_defaults(run=_select)


def _select(options: argparse.Namespace) -> None:
    check_output(options.output, "OUT", [options.file, options.model], options.force)
    if options.number < 1:
        raise UserError(f"--number: {options.number}, but it must be at least 1.")
    notes = list[str]()
    how = read_options(options)
    # Options for labelled data say that it is data, whatever its name.
    if options.source_format != "auto" or how != ReadOptions(how.encoding):
        examples = read_examples(
            options.file, options.source_format, "FILE", notes=notes, options=how
        )
    else:
        examples = read_texts(options.file, "FILE", notes=notes, options=how)
    for note in notes:
        print(note)
    labelled = {example.text for example in examples if example.entities is not None}
    unlabelled = [example.text for example in examples if example.text not in labelled]
    texts = list(dict.fromkeys(unlabelled))
    if not texts:
        raise UserError(f"FILE: all texts in {options.file} are labelled. Give unlabelled texts.")
    if len(unlabelled) < len(examples):
        print(f"FILE: {len(examples) - len(unlabelled)} texts have labels and are left out.")
    if len(texts) < len(unlabelled):
        print(f"FILE: {len(unlabelled) - len(texts)} texts occur again and are left out.")
    from flax_ner.inference.selection import select_texts  # imports jax

    picked = select_texts(load_tagger(options.model), texts, options.number)
    write_cluener(options.output, [Example(texts[i]) for i in picked])
    print(
        f"Wrote {len(picked)} of {len(texts)} texts to {options.output}, the least certain first."
    )
