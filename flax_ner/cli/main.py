"""Command line: python -m flax_ner COMMAND. Each command has its own module, `cli/*_command.py`."""

import argparse
import shlex
import sys
import warnings
from io import TextIOWrapper
from pathlib import Path

from absl import logging

from flax_ner.cli.audit_command import add_audit_commands
from flax_ner.cli.bulk_command import add_bulk_command
from flax_ner.cli.data_command import add_data_commands
from flax_ner.cli.download_command import add_download_command
from flax_ner.cli.ensemble_command import add_ensemble_command
from flax_ner.cli.evaluate_command import add_evaluate_command
from flax_ner.cli.export_command import add_export_command
from flax_ner.cli.inspect_command import add_inspect_command
from flax_ner.cli.predict_command import add_predict_command
from flax_ner.cli.select_command import add_select_command
from flax_ner.cli.web_command import add_web_command
from flax_ner.compilation import keep_compiled_programs
from flax_ner.errors import UserError
from flax_ner.memory import explain_jax_errors
from flax_ner.weights.open_model import is_model


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of all commands.

    The parsed options have an attribute `run`, a function that takes them and runs the command.
    """
    parser = argparse.ArgumentParser("flax_ner", description="Score and use trained taggers.")
    commands = parser.add_subparsers(dest="command", required=True)
    evaluate = add_evaluate_command(commands)
    predict = add_predict_command(commands)
    bulk = add_bulk_command(commands)
    web = add_web_command(commands)
    add_ensemble_command(commands)
    add_inspect_command(commands)
    add_export_command(commands)
    data_commands = add_data_commands(commands)
    add_audit_commands(data_commands)
    add_select_command(data_commands)
    add_download_command(data_commands)

    # Options that several commands share.
    for command in (evaluate, predict, web):
        command.add_argument(
            "--batch-size", type=int, default=32, metavar="N",
            help="maximum number of 128-token rows per batch; lower it to use less memory. Default: 32",
        )  # fmt: skip
    for command in (evaluate, predict, bulk, web):
        command.add_argument(
            "--compute-dtype", choices=("float32", "bfloat16"),
            help="dtype of matrix products; bfloat16 is faster on devices that support it. Default: the "
            "dtype of training",
        )  # fmt: skip
    return parser


def main(arguments: list[str] | None = None) -> None:
    """Run a command. A `UserError` or `OSError` exits with its message and no traceback."""
    options = make_parser().parse_args(arguments)
    if isinstance(sys.stdout, TextIOWrapper):  # UTF-8 cannot encode lone surrogates: escape them
        sys.stdout.reconfigure(errors="backslashreplace")
    logging.set_verbosity(logging.WARNING)  # Orbax logs every file at INFO
    keep_compiled_programs()
    try:
        with warnings.catch_warnings(), explain_jax_errors():
            warnings.showwarning = lambda message, *_: print(
                f"flax_ner: {message}", file=sys.stderr
            )
            _check_argument_order(options)
            options.run(options)
    except BrokenPipeError:  # the reader of the output, such as `head`, has closed it
        sys.stderr.close()
    except (UserError, OSError) as error:
        sys.exit(f"flax_ner: {error}")


def _check_argument_order(options: argparse.Namespace) -> None:
    """Raise `UserError` if another argument than the first is the model."""
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
