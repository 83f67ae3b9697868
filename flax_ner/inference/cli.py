"""Command line: python -m flax_ner evaluate | predict | bulk | web | ensemble | inspect | data."""

import argparse
import json
import shlex
import sys
import warnings
from collections import Counter
from contextlib import nullcontext
from io import TextIOWrapper
from itertools import tee
from pathlib import Path

from absl import logging
from rich.console import Console

from flax_ner.compilation import keep_compiled_programs
from flax_ner.errors import UserError
from flax_ner.inference.audit_cli import add_audit_commands
from flax_ner.inference.bulk import run as run_bulk
from flax_ner.inference.data_cli import add_data_commands
from flax_ner.inference.download_cli import add_download_command
from flax_ner.inference.ensemble_cli import add_ensemble_command
from flax_ner.inference.inputs import INPUT_FORMATS, read_inputs
from flax_ner.inference.outputs import (
    add_force,
    check_output,
    check_outputs,
    json_line,
    tagged_row,
    write_report,
    writing,
)
from flax_ner.inference.tagger import load
from flax_ner.inference.web_cli import add_web_command
from flax_ner.memory import explain_jax_errors
from flax_ner.text.analysis import check_comparable
from flax_ner.text.cluener import cluener_label
from flax_ner.text.evaluation import evaluation, evaluation_json, evaluation_tables
from flax_ner.text.examples import Entity
from flax_ner.text.formats import read_examples
from flax_ner.text.html_report import evaluation_html
from flax_ner.text.labels import CONVENTIONS
from flax_ner.text.report import bracketed, highlight
from flax_ner.weights.convert import is_model
from flax_ner.weights.describe import describe


def make_parser() -> argparse.ArgumentParser:
    """The parser of all commands; what it returns has `run`, a function of the parsed options."""
    parser = argparse.ArgumentParser("flax_ner", description="Score and use trained taggers.")
    commands = parser.add_subparsers(dest="command", required=True)

    evaluate = commands.add_parser("evaluate", help="score a model on labelled data")
    evaluate.add_argument(
        "model",
        metavar="MODEL",
        help="model directory, as WORKDIR/best; or PyTorch weights, or a hub's owner/name",
    )
    evaluate.add_argument("data", metavar="DATA", help="labelled data, in any format")
    evaluate.add_argument("--scoring", choices=CONVENTIONS, default="strict")
    evaluate.add_argument("--json", metavar="OUT", help="also write the figures to this file")
    evaluate.add_argument(
        "--html", metavar="OUT", help="also write a page with every sentence, gold and found"
    )
    evaluate.add_argument(
        "--compare", metavar="OTHER", help="another model, for a paired bootstrap of the difference"
    )
    evaluate.add_argument(
        "--train", metavar="FILE", help="training data, to tell known surfaces from new ones"
    )
    evaluate.set_defaults(run=_evaluate)

    predict = commands.add_parser("predict", help="tag texts")
    predict.add_argument(
        "model",
        metavar="MODEL",
        help="model directory, as WORKDIR/best; or PyTorch weights, or a hub's owner/name",
    )
    predict.add_argument(
        "file", metavar="FILE", nargs="?", default="-",
        help="plain text, one text per line; data if its name ends in .json, .jsonl, .conll or the like; "
        "- is standard input, plain text",
    )  # fmt: skip
    predict.add_argument(
        "--input-format", choices=INPUT_FORMATS, default="auto", metavar="FORMAT",
        help=f"what FILE is, whatever its name: {', '.join(INPUT_FORMATS)}. jsonl: a JSON object per line "
        "with the text as a field. Default: auto, by the name",
    )  # fmt: skip
    predict.add_argument(
        "--text-field", metavar="NAME", help="the field of JSON rows to tag. Default: text"
    )
    predict.add_argument(
        "--format", choices=("text", "jsonl", "clue"), default="text",
        help="text marks entities in the sentence. jsonl has offsets and scores: a JSON row of FILE is kept "
        "as it is, labels included, and gets the field `entities`, which it must not have yet. clue is what "
        "the CLUE benchmark takes for CLUENER's test.json, numbered as the lines are",
    )  # fmt: skip
    predict.add_argument(
        "--output",
        metavar="OUT",
        help="file to write, whole or not at all. Default: standard output",
    )
    predict.add_argument(
        "--threshold", type=float, default=0.0, metavar="P",
        help="leave out entities that are less probable",
    )  # fmt: skip
    predict.set_defaults(run=_predict)

    bulk = commands.add_parser(
        "bulk", help="tag many files with several workers, on one machine or on a Ray cluster",
        description="Tag every *.jsonl and *.parquet file of a folder. A row is kept as it is and gets the "
        "field `entities`, a list of {type, start, end, text, score}. The same command again goes on "
        "with the files that are missing.",
    )  # fmt: skip
    bulk.add_argument("model", metavar="MODEL", help="as for predict")
    bulk.add_argument("input", metavar="INPUT", help="a *.jsonl or *.parquet file, or their folder")
    bulk.add_argument("out", metavar="OUT", help="folder for the tagged files, of the same names")
    bulk.add_argument(
        "--workers", metavar="N", type=int,
        help="processes with a model each. Default: one a GPU, without GPUs one a machine",
    )  # fmt: skip
    bulk.add_argument(
        "--address", metavar="ADDR",
        
        help="of a Ray cluster, as host:6379 or auto, whose machines all see MODEL, INPUT and OUT under these "
        "paths. Default: this machine alone",
    )  # fmt: skip
    bulk.add_argument(
        "--text-field", metavar="NAME", default="text", help="the field to tag. Default: text"
    )
    bulk.set_defaults(run=_bulk)

    web = add_web_command(commands)
    add_ensemble_command(commands)

    inspect = commands.add_parser(
        "inspect", help="say what weights are and what would become of them, without loading them"
    )
    inspect.add_argument(
        "file", metavar="FILE",
        help="file or folder of PyTorch or Flax weights, model directory, or owner/name[@revision] on the hub",
    )  # fmt: skip
    inspect.set_defaults(run=_inspect)

    data_commands = add_data_commands(commands)
    add_audit_commands(data_commands)
    add_download_command(data_commands)

    for command in (evaluate, predict):
        add_force(command)
    for command in (evaluate, predict, web):
        command.add_argument(
            "--batch-size", type=int, default=32, metavar="N",
            help="rows of 128 tokens a batch at most; fewer take less memory. Default: 32",
        )  # fmt: skip
    for command in (evaluate, predict, bulk, web):
        command.add_argument(
            "--compute-dtype", choices=("float32", "bfloat16"),
            help="of products; bfloat16 is faster where the device has it. Default: as trained",
        )  # fmt: skip
    return parser


def main(arguments: list[str] | None = None) -> None:
    """Run a command; a `UserError` ends it with its message alone."""
    options = make_parser().parse_args(arguments)
    if isinstance(sys.stdout, TextIOWrapper):  # a lone surrogate, which UTF-8 lacks, is escaped
        sys.stdout.reconfigure(errors="backslashreplace")
    logging.set_verbosity(logging.WARNING)  # Orbax tells of every file at INFO
    keep_compiled_programs()
    try:
        with warnings.catch_warnings(), explain_jax_errors():
            warnings.showwarning = lambda message, *_: print(
                f"flax_ner: {message}", file=sys.stderr
            )
            _check_order(options)
            options.run(options)
    except BrokenPipeError:  # the reader, `head` for one, has seen enough
        sys.stderr.close()
    except (UserError, OSError) as error:
        sys.exit(f"flax_ner: {error}")


def _check_order(options: argparse.Namespace) -> None:
    """Raise `UserError` where the model does not come first."""
    others = {"evaluate": ("data",), "predict": ("file",), "bulk": ("input", "out")}
    names = [getattr(options, name) for name in others.get(options.command, ())]
    if not names or not Path(options.model).exists() or is_model(Path(options.model)):
        return
    model = next((name for name in names if is_model(Path(name))), None)
    if model is not None:
        order = [model, options.model, *(name for name in names if name != model)]
        raise UserError(
            f"MODEL comes first, and {options.model} is not a model. Run: python -m flax_ner {options.command} "
            f"{shlex.join(order)}"
        )


def _evaluate(options: argparse.Namespace) -> None:
    check_outputs(options, [options.model, options.data, options.train, options.compare])
    notes: list[str] = []
    examples = read_examples(options.data, "auto", "DATA", notes=notes)
    for note in notes:
        print(f"flax_ner: {note}", file=sys.stderr)
    for example in examples:
        if example.entities is None:
            raise UserError(f"{example.source}: has no label. Scoring needs labelled data.")
    train = read_examples(options.train, "auto", "--train") if options.train else None
    texts = [example.text for example in examples]
    tagger = load(options.model, options.compute_dtype, options.batch_size)
    tagger.labels.check(options.scoring, "--scoring")
    gold = Counter(entity.type for example in examples for entity in example.entities or ())
    for category in sorted(gold.keys() - set(tagger.labels.categories)):
        print(
            f"flax_ner: the model does not know {category!r}: {gold[category]} entities of DATA cannot "
            "be found",
            file=sys.stderr,
        )
    rival = None
    if options.compare:
        rival = load(options.compare, options.compute_dtype, options.batch_size)
        check_comparable(gold, tagger.labels.categories, rival.labels.categories)
        rival.labels.check(options.scoring, f"--compare {options.compare}: --scoring")
    found = tagger.by_convention(texts, tagger.labels.conventions())
    other = rival(texts, options.scoring) if rival else None
    title = f"{options.model} on {options.data}, {options.scoring}"
    report = evaluation(title, examples, found, options.scoring, train, other)
    if options.json:
        row = {"model": options.model, "data": options.data} | evaluation_json(report)
        write_report(options.json, json.dumps(row, indent=1, ensure_ascii=False) + "\n")
    if options.html:
        write_report(options.html, evaluation_html(report))
    Console().print(evaluation_tables(report))


def _bulk(options: argparse.Namespace) -> None:
    print(
        run_bulk(
            options.model, options.input, options.out, options.workers, options.address,
            options.text_field, options.compute_dtype,
        )
    )  # fmt: skip


def _inspect(options: argparse.Namespace) -> None:
    description, faults = describe(options.file, "FILE")
    print(description)
    if faults:
        raise UserError("not usable as it is:\n  " + "\n  ".join(faults))


def _predict(options: argparse.Namespace) -> None:
    if options.output:
        check_output(options.output, "--output", [options.file, options.model], options.force)
    as_json = options.format == "jsonl"
    tagger = load(options.model, options.compute_dtype, options.batch_size)
    inputs, again = tee(
        read_inputs(options.file, options.input_format, options.text_field, as_json, _tell)
    )
    texts = (item.text for item in inputs)
    # Who types gets an answer to every line.
    typed = options.file == "-" and sys.stdin.isatty()
    threshold = options.threshold
    found = (
        (tagger(text, threshold=threshold) for text in texts)
        if typed
        else tagger.stream(texts, threshold=threshold)
    )
    with nullcontext(sys.stdout) if not options.output else writing(options.output) as file:
        console = Console(soft_wrap=True, file=file)
        for number, (item, entities) in enumerate(zip(again, found, strict=True)):
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
                print(bracketed(item.text, entities), file=file)


def _tell(note: str) -> None:
    print(f"flax_ner: {note}", file=sys.stderr)


def _clue_line(number: int, text: str, entities: list[Entity]) -> str:
    return json.dumps({"id": number, "label": cluener_label(text, entities)}, ensure_ascii=False)
