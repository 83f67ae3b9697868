"""Command line: train.py, and python -m flax_ner train.

Both take the options of absl and ml_collections. `train` also accepts short forms: the name of a
configuration for its file, and the name of a setting without `config.`.
"""

import argparse
import itertools
import sys
from pathlib import Path

from absl import app, flags, logging
from ml_collections import config_flags

from flax_ner.cli.train_errors import explain_error, find_config_error, find_usage_error
from flax_ner.compilation import keep_compiled_programs
from flax_ner.errors import UserError
from flax_ner.fit import fit
from flax_ner.settings import help_text, list_settings
from flax_ner.training.interruption import EXIT_STATUS, Interrupted

CONFIG = config_flags.DEFINE_config_file(
    "config", None, "Configuration file, e.g. configs/demo.py."
)
WORKDIR = flags.DEFINE_string(
    "workdir", None, "Directory of the run: checkpoints, metrics, models."
)
flags.mark_flags_as_required(["config", "workdir"])
HELP = {"-h", "-help", "--help", "-helpshort", "--helpshort", "-helpfull", "--helpfull", "-?"}
PACKAGE = Path(__file__).resolve().parents[1]


def configs_folder() -> Path:
    """Return the folder of the configuration files: of the installed package, or of the checkout."""
    installed = PACKAGE / "configs"
    return installed if installed.is_dir() else PACKAGE.parent / "configs"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `train`, for shell completion; `run_train` parses them."""
    parser.add_argument("--config", metavar="NAME")
    parser.add_argument("--workdir", metavar="DIR")
    for setting in list_settings()[0]:
        parser.add_argument(f"--{_option(setting.name)}")


def run_train(arguments: list[str]) -> None:
    """Run `flax-ner train` with these arguments, and exit."""
    run("flax_ner train", expand(arguments))


def run(program: str, arguments: list[str]) -> None:
    """Train as the arguments of train.py say, and exit.

    Args:
        program: name of the command, for messages.
        arguments: its arguments, without the name.
    """
    sys.argv = [program, *arguments]  # where ml_collections looks for settings
    app.run(main, flags_parser=parse)


def expand(arguments: list[str]) -> list[str]:
    """Expand the short forms of `train`: `--config cluener`, `--init-from X`, `--data.train T`, `--noprofile`.

    The configuration comes first, because a setting is applied to the configurations before it.
    """
    settings = {_option(setting.name): setting for setting in list_settings()[0]}
    configs: list[str] = []
    others: list[str] = []
    words = iter(arguments)
    for word in words:
        option, equals, value = word.partition("=")
        name = option.removeprefix("--").replace("_", "-")
        setting = settings.get(name) or settings.get(name.removeprefix("config."))
        negated = settings.get(name.removeprefix("no").removeprefix("-"))
        if option == "--config":
            value = value if equals else next(words, "")
            configs.append(f"--config={_config_file(value)}")
        elif option.startswith("--") and (setting or option == "--workdir"):
            others.append(f"--config.{setting.name}{equals}{value}" if setting else word)
            if not (equals or (setting and isinstance(setting.default, bool))):
                others += itertools.islice(words, 1)  # the value, which may start with dashes
        elif option.startswith("--no") and negated:
            others.append(f"--noconfig.{negated.name}")
        else:
            others.append(word)
    return configs + others


def _option(name: str) -> str:
    return name.replace("_", "-")


def _config_file(given: str) -> str:
    """Return the file of a shipped configuration if `given` is its name; else `given`."""
    name, colon, variant = given.partition(":")
    file = configs_folder() / f"{name}.py"
    return given if Path(name).is_file() or not file.is_file() else f"{file}{colon}{variant}"


def parse(arguments: list[str]) -> list[str]:
    """Parse the command line. Exit with the help if it is asked for, or with a one-line error message.

    Args:
        arguments: the command line, with the name of the command first.
    """
    if HELP & set(arguments):
        print(help_text())
        sys.exit()
    given: dict[str, list[str]] = {"config": [], "workdir": []}
    problem, rest = find_usage_error(arguments, given, configs_folder()), arguments
    if not problem:
        try:
            rest = flags.FLAGS(arguments)
            problem = find_config_error(CONFIG.value)
        except Exception as error:  # a configuration file may raise anything
            problem = explain_error(error, given["config"][-1].partition(":")[0])
            if not problem:
                raise
    if problem:
        sys.exit(f"{arguments[0]}: {problem}")
    return rest


def main(arguments: list[str]) -> None:
    """Train as the parsed options say; `arguments` are the name of the command and what is left."""
    program = arguments[0]
    if len(arguments) > 1:
        sys.exit(
            f"{program}: {arguments[1]!r} is an unexpected argument. Settings are --config.FIELD=VALUE, or "
            "--FIELD=VALUE for flax-ner train."
        )
    logging.set_verbosity(logging.WARNING)  # at INFO, Orbax logs every file
    try:
        CONFIG.value.lock()
    except OSError as error:
        sys.exit(f"{program}: --config: {error}")
    keep_compiled_programs()
    try:
        fit(CONFIG.value, WORKDIR.value or "")
    except Interrupted as error:
        print(f"{program}: {error}", file=sys.stderr)
        sys.exit(EXIT_STATUS)
    except (UserError, OSError) as error:
        sys.exit(f"{program}: {error}")
    except KeyboardInterrupt:
        sys.exit(f"{program}: interrupted. The same command resumes from the last checkpoint.")
