"""Command line: flax-ner COMMAND. Each command has its own module, `cli/*_command.py`."""

import argparse
import shlex
import sys
import warnings
from importlib import import_module
from io import TextIOWrapper
from pathlib import Path

from absl import logging

from flax_ner import __version__
from flax_ner.errors import UserError
from flax_ner.memory import explain_jax_errors

# The help of each command. Only the module of the given command is imported, because most import jax.
COMMANDS = {
    "train": "train a tagger or resume a run",
    "evaluate": "score a model on labelled data",
    "predict": "tag texts",
    "bulk": "tag many files with several workers, on one machine or on a Ray cluster",
    "web": "serve a web page for trying a model",
    "serve": "serve a model over HTTP",
    "ensemble": "combine several models into one that averages their scores",
    "export": "export a model for ONNX runtimes, StableHLO, transformers or MMOCR",
    "inspect": "describe weights and how they would be converted, without loading them",
    "data": "work on data sets",
    "doctor": "print versions, devices and settings, for a bug report",
    "completion": "print a script for completion in the shell",
}


def make_parser(command: str | None = None) -> argparse.ArgumentParser:
    """Return the parser of the command line.

    The parsed options have an attribute `run`, a function that takes them and runs the command.

    Args:
        command: the command whose arguments are parsed; None for all commands.
    """
    parser = argparse.ArgumentParser("flax_ner", description="Train, score and use taggers.")
    parser.add_argument("--version", action="version", version=f"flax_ner {__version__}")
    commands = parser.add_subparsers(dest="command", required=True)
    for name, help_line in COMMANDS.items():
        arguments = commands.add_parser(name, help=help_line)
        if command in (None, name):
            import_module(f"flax_ner.cli.{name}_command").add_arguments(arguments)
    return parser


def main(arguments: list[str] | None = None) -> None:
    """Run a command. A `UserError`, an `OSError` or Ctrl-C exits with a message and no traceback."""
    arguments = sys.argv[1:] if arguments is None else arguments
    command = next((word for word in arguments if not word.startswith("-")), "")
    if isinstance(sys.stdout, TextIOWrapper):  # UTF-8 cannot encode lone surrogates: escape them
        sys.stdout.reconfigure(errors="backslashreplace")
    logging.set_verbosity(logging.WARNING)  # Orbax logs every file at INFO
    try:
        if arguments[:1] == ["train"]:
            from flax_ner.cli.train_command import run_train  # imports jax

            run_train(arguments[1:])
        options = make_parser(command).parse_args(arguments)
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
    except KeyboardInterrupt:
        # Python then ends the process by SIGINT, so that a loop of a shell script ends, too.
        resumes = " The same command tags the files that are missing." if command == "bulk" else ""
        sys.excepthook = lambda *_: print(f"flax_ner: interrupted.{resumes}", file=sys.stderr)
        raise


def _check_argument_order(options: argparse.Namespace) -> None:
    """Raise `UserError` if another argument than the first is the model."""
    others = {"evaluate": ("data",), "predict": ("file",), "bulk": ("input", "out")}
    names = [getattr(options, name) for name in others.get(options.command, ())]
    if not names or not Path(options.model).exists():
        return
    from flax_ner.weights.open_model import is_model  # imports jax

    if is_model(Path(options.model)):
        return
    model = next((name for name in names if is_model(Path(name))), None)
    if model is not None:
        order = [model, options.model, *(name for name in names if name != model)]
        raise UserError(
            f"MODEL comes first, and {options.model} is not a model. Run: python -m flax_ner {options.command} "
            f"{shlex.join(order)}"
        )
