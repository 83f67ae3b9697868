"""Command line: python -m flax_ner evaluate."""

import argparse
import json
import sys
from collections import Counter

from rich.console import Console

from flax_ner.cli.model_options import add_batch_size, add_compute_dtype, load_tagger
from flax_ner.cli.read_options import add_read_options, read_options
from flax_ner.data.formats import read_examples
from flax_ner.evaluation.analysis import check_comparable
from flax_ner.evaluation.html_report import evaluation_html
from flax_ner.evaluation.summary import evaluate_predictions, evaluation_json, evaluation_tables
from flax_ner.inference.outputs import add_force, check_outputs, write_report
from flax_ner.text.examples import gold_entities
from flax_ner.text.labels import CONVENTIONS


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `evaluate`."""
    parser.add_argument(
        "model", metavar="MODEL",
        help="model directory such as WORKDIR/best, ONNX export, PyTorch weights, or owner/name on the hub",
    )  # fmt: skip
    parser.add_argument("data", metavar="DATA", help="labelled data, in any format")
    parser.add_argument(
        "--scoring", choices=CONVENTIONS, default="strict",
        help="how tags are read and entities are matched. Default: %(default)s",
    )  # fmt: skip
    parser.add_argument("--json", metavar="OUT", help="also write the metrics to this file")
    parser.add_argument(
        "--html", metavar="OUT",
        help="also write a page with every sentence, its gold and its predicted entities",
    )  # fmt: skip
    parser.add_argument(
        "--compare", metavar="OTHER", help="another model, for a paired bootstrap test of the difference"
    )  # fmt: skip
    parser.add_argument(
        "--train", metavar="FILE",
        help="training data, to score entities that occur in it and new ones separately",
    )  # fmt: skip
    add_force(parser)
    add_read_options(parser, "DATA and --train")
    add_batch_size(parser)
    add_compute_dtype(parser)
    parser.set_defaults(run=_evaluate)


def _evaluate(options: argparse.Namespace) -> None:
    check_outputs(options, [options.model, options.data, options.train, options.compare])
    notes: list[str] = []
    how = read_options(options)
    examples = read_examples(options.data, options.source_format, "DATA", notes=notes, options=how)
    for note in notes:
        print(f"flax_ner: {note}", file=sys.stderr)
    gold_entities(examples)  # before the model is loaded
    train = None
    if options.train:
        train = read_examples(options.train, options.source_format, "--train", options=how)
    texts = [example.text for example in examples]

    tagger = load_tagger(options.model, options.compute_dtype, options.batch_size)
    tagger.labels.check(options.scoring, "--scoring")
    gold = Counter(entity.type for example in examples for entity in example.entities or ())
    for category in sorted(gold.keys() - set(tagger.labels.categories)):
        print(
            f"flax_ner: the model has no category {category!r}, so it misses {gold[category]} entities of "
            "DATA",
            file=sys.stderr,
        )
    other = None
    if options.compare:
        other = load_tagger(options.compare, options.compute_dtype, options.batch_size)
        check_comparable(gold, tagger.labels.categories, other.labels.categories)
        other.labels.check(options.scoring, f"--compare {options.compare}: --scoring")
        # The dtypes may differ, and the user may not have named them.
        print(
            f"flax_ner: comparing {options.model} ({tagger.describe_runtime()}) with {options.compare} "
            f"({other.describe_runtime()})",
            file=sys.stderr,
        )

    predicted = tagger.by_convention(texts, tagger.labels.conventions())
    other_predicted = other(texts, options.scoring) if other else None
    title = f"{options.model} on {options.data}, {options.scoring}"
    report = evaluate_predictions(
        title, examples, predicted, options.scoring, train, other_predicted
    )
    if options.json:
        row = {"model": options.model, "data": options.data} | evaluation_json(report)
        write_report(options.json, json.dumps(row, indent=1, ensure_ascii=False) + "\n")
    if options.html:
        write_report(options.html, evaluation_html(report))
    Console().print(evaluation_tables(report))
