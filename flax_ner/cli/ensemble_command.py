"""Implement the command `python -m flax_ner ensemble`."""

import argparse
import warnings
from pathlib import Path

from flax_ner.errors import UserError
from flax_ner.weights.ensemble import combine
from flax_ner.weights.model_dir import save_model
from flax_ner.weights.open_model import open_model


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `ensemble`."""
    parser.description = (
        "Combine several taggers with the same labels and vocabulary into one model directory, "
        "which is used like any other. It is usually a little more accurate than each of its models, and "
        "takes as long as all of them together."
    )
    parser.add_argument("out", metavar="OUT", help="model directory to write")
    parser.add_argument(
        "models", metavar="MODEL", nargs="+", help="two or more models, as for predict"
    )
    parser.add_argument(
        "--average-parameters",
        action="store_true",
        help="average the parameters instead of the scores. The result is as large as one model. The models "
        "must have been fine-tuned from the same weights",
    )
    parser.set_defaults(run=_ensemble)


def _ensemble(options: argparse.Namespace) -> None:
    if Path(options.out).exists():
        raise UserError(
            f"{options.out}: exists, and nothing was overwritten. Give a new path for OUT, which comes first."
        )
    models = []
    for name in options.models:
        model, report = open_model(name, "MODEL")
        for note in report.notes if report else ():
            warnings.warn(f"{name}: {note}", stacklevel=2)
        models.append(model)
    save_model(options.out, combine(models, options.models, options.average_parameters))
    kind = "the parameter average" if options.average_parameters else "an ensemble"
    print(f"{options.out}: {kind} of {len(models)} models.")
