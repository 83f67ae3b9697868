"""python -m flax_ner ensemble: several taggers as one."""

import argparse
import warnings
from pathlib import Path
from typing import Any

from flax_ner.errors import UserError
from flax_ner.weights.convert import open_model
from flax_ner.weights.ensemble import combine
from flax_ner.weights.model_dir import save_model


def add_ensemble_command(commands: Any) -> None:
    """Add `ensemble` to the subparsers."""
    parser = commands.add_parser(
        "ensemble",
        help="make one model of several, whose scores it averages",
        description="Make a model directory of several taggers with the same labels and vocabulary. It is "
        "used as any other, finds a little more than each, and takes the time of all of them.",
    )
    parser.add_argument("out", metavar="OUT", help="model directory to write")
    parser.add_argument("models", metavar="MODEL", nargs="+", help="two or more, as for predict")
    parser.add_argument(
        "--average-parameters",
        action="store_true",
        help="average parameters, not scores: a model no larger than each, of models that were fine-tuned "
        "from the same weights",
    )
    parser.set_defaults(run=_ensemble)


def _ensemble(options: argparse.Namespace) -> None:
    if Path(options.out).exists():
        raise UserError(
            f"{options.out}: exists. OUT comes first; name another path; nothing was overwritten."
        )
    models = []
    for name in options.models:
        model, report = open_model(name, "MODEL")
        for note in report.notes if report else ():
            warnings.warn(f"{name}: {note}", stacklevel=2)
        models.append(model)
    save_model(options.out, combine(models, options.models, options.average_parameters))
    kind = "the mean of" if options.average_parameters else "an ensemble of"
    print(f"{options.out}: {kind} {len(models)} models.")
