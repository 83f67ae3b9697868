"""Command line: python -m flax_ner predict."""

import argparse
import json
import sys
from contextlib import nullcontext
from itertools import tee
from pathlib import Path
from tempfile import TemporaryDirectory

from rich.console import Console

from flax_ner.cli.model_options import add_batch_size, add_compute_dtype, load_tagger
from flax_ner.data.cluener import cluener_label
from flax_ner.data.formats import WRITERS, write_examples
from flax_ner.errors import UserError
from flax_ner.evaluation.display import bracket_entities, highlight
from flax_ner.inference.inputs import INPUT_FORMATS, read_inputs
from flax_ner.inference.outputs import add_force, check_output, json_line, open_output, tagged_row
from flax_ner.text.examples import Entity, Example


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `predict`."""
    parser.add_argument(
        "model", metavar="MODEL",
        help="model directory such as WORKDIR/best, PyTorch weights, or owner/name on the hub",
    )  # fmt: skip
    parser.add_argument(
        "file", metavar="FILE", nargs="?", default="-",
        help="plain text with one text per line, or data if the name ends in .json, .jsonl, .conll or "
        "similar. Default: -, plain text from standard input",
    )  # fmt: skip
    parser.add_argument(
        "--input-format", choices=INPUT_FORMATS, default="auto", metavar="FORMAT",
        help=f"format of FILE: {', '.join(INPUT_FORMATS)}. jsonl is one JSON object per line with the "
        "text as a field. Default: auto, by the file name",
    )  # fmt: skip
    parser.add_argument(
        "--encoding", default="", help="encoding of FILE, e.g. gb18030. Default: UTF-8"
    )
    parser.add_argument(
        "--text-field", metavar="NAME", help="field of JSON rows to tag. Default: text"
    )
    parser.add_argument(
        "--format", choices=("text", "jsonl", "clue", *WRITERS), default="text",
        help="output format. text marks entities in the sentence. jsonl writes entities with offsets and "
        "scores; a JSON row of FILE keeps all its fields and gets the field `entities`, which it must not "
        "have yet. clue is the submission format of the CLUE benchmark for CLUENER's test.json, with line "
        "numbers as ids. The others are data formats, for annotators to correct: label_studio has predictions "
        "with scores; brat needs --output. Default: text",
    )  # fmt: skip
    parser.add_argument(
        "--output", metavar="OUT",
        help="file to write; it appears only when it is complete. Default: standard output",
    )  # fmt: skip
    parser.add_argument(
        "--threshold", type=float, default=0.0, metavar="P",
        help="omit entities with a lower score. Default: %(default)s",
    )  # fmt: skip
    add_force(parser)
    add_batch_size(parser)
    add_compute_dtype(parser)
    parser.set_defaults(run=_predict)


def _predict(options: argparse.Namespace) -> None:
    if options.output:
        check_output(options.output, "--output", [options.file, options.model], options.force)
    if options.format == "brat" and not options.output:
        raise UserError("--format brat writes a folder. Name it with --output.")
    as_json = options.format == "jsonl"
    tagger = load_tagger(options.model, options.compute_dtype, options.batch_size)
    inputs, again = tee(
        read_inputs(
            options.file,
            options.input_format,
            options.text_field,
            as_json,
            _print_note,
            options.encoding,
        )
    )
    texts = (item.text for item in inputs)
    threshold = options.threshold
    # Someone who types into a terminal gets an answer after every line.
    interactive = options.file == "-" and sys.stdin.isatty()
    predicted = (
        (tagger(text, threshold=threshold) for text in texts)
        if interactive
        else tagger.stream(texts, threshold=threshold)
    )
    if options.format in WRITERS:
        examples = [
            Example(item.text, tuple(entities))
            for item, entities in zip(again, predicted, strict=True)
        ]
        _write_data(examples, options)
        return
    with nullcontext(sys.stdout) if not options.output else open_output(options.output) as file:
        console = Console(soft_wrap=True, file=file)
        for number, (item, entities) in enumerate(zip(again, predicted, strict=True)):
            if options.format == "clue":
                print(_clue_line(number, item.text, entities), file=file)
            elif as_json and item.row is not None:
                text = None if item.has_text else item.text
                print(tagged_row(item.row, entities, text), file=file)
            elif as_json:
                print(json_line(item.text, entities), file=file)
            elif console.is_terminal:
                console.print(highlight(item.text, entities, tagger.labels.categories))
            else:
                print(bracket_entities(item.text, entities), file=file)


def _write_data(examples: list[Example], options: argparse.Namespace) -> None:
    """Write predictions in a data format, to a file or to standard output."""
    if options.output:
        warnings = write_examples(options.output, examples, options.format, predicted=True)
    else:
        with TemporaryDirectory() as folder:
            path = Path(folder, "predictions")
            warnings = write_examples(path, examples, options.format, predicted=True)
            sys.stdout.write(path.read_text("utf-8"))
    for warning in warnings:
        _print_note(warning)


def _print_note(note: str) -> None:
    print(f"flax_ner: {note}", file=sys.stderr)


def _clue_line(number: int, text: str, entities: list[Entity]) -> str:
    return json.dumps({"id": number, "label": cluener_label(text, entities)}, ensure_ascii=False)
