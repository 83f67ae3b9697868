"""Train a tagger: python train.py --config configs/cluener.py --workdir runs/cluener [--config.FIELD=VALUE ...]

Repeating the command goes on where the run stopped.
"""

import json
import sys
from difflib import get_close_matches
from pathlib import Path

import jax
from absl import app, flags, logging
from ml_collections import config_flags

from flax_ner.compilation import keep_compiled_programs
from flax_ner.config import default_config
from flax_ner.errors import UserError
from flax_ner.training.hosts import leave
from flax_ner.training.interruption import EXIT_STATUS, Interrupted
from flax_ner.training.loop import fit
from flax_ner.weights.names import flatten

CONFIG = config_flags.DEFINE_config_file("config", None, "Configuration file, one of configs/.")
WORKDIR = flags.DEFINE_string(
    "workdir", None, "Directory of the run: checkpoints, metrics, models."
)
flags.mark_flags_as_required(["config", "workdir"])
FIELDS = list(flatten(json.loads(default_config().to_json()), separator="."))


def parse(arguments: list[str]) -> list[str]:
    asks_for_help = any(argument.startswith("--help") for argument in arguments)
    fault = None if asks_for_help else find_fault(arguments)
    if fault:
        sys.exit(f"train.py: {fault}")
    try:
        return app.parse_flags_with_usage(arguments)
    except (KeyError, AttributeError) as error:  # no such field; the message names the nearest
        message = str(error).replace("\\n", " ").replace("\n", " ").replace("\\", "").strip("'\"")
        sys.exit(f"train.py: no such field: {message}")


def find_fault(arguments: list[str]) -> str | None:
    """What absl would tell by a traceback, or by its own names only."""
    given = dict.fromkeys(("--config", "--workdir"), "")
    for i, argument in enumerate(arguments):
        name, equals, value = argument.partition("=")
        if name in given:
            given[name] = value if equals else "".join(arguments[i + 1 : i + 2])
        elif (
            name.startswith("--config.") and (field := name.removeprefix("--config.")) not in FIELDS
        ):
            leaves = [known for known in FIELDS if known.split(".")[-1] == field.split(".")[-1]]
            near = leaves or get_close_matches(field, FIELDS)
            return f"no such field: {field}. " + (
                f"Did you mean --config.{near[0]}?" if near else "flax_ner/config.py has them all."
            )
    configs = Path(__file__).parent / "configs"
    if not given["--config"]:
        return f"--config is missing. Give a file, one of {configs} or your own."
    if not Path(given["--config"]).is_file():
        where = f"{given['--config']!r} in {Path.cwd()}"
        return f"--config: no file {where}. Those of the checkout are in {configs}."
    if not given["--workdir"]:
        return "--workdir is missing. Name the directory of the run, as --workdir runs/mine."
    return None


def main(arguments: list[str]) -> None:
    if len(arguments) > 1:
        sys.exit(f"train.py: {arguments[1]!r} is no option. Settings are --config.FIELD=VALUE.")
    logging.set_verbosity(logging.WARNING)  # Orbax tells of every file at INFO
    try:
        CONFIG.value.lock()
    except OSError as error:
        sys.exit(f"train.py: --config: {error}")
    keep_compiled_programs()
    try:
        fit(CONFIG.value, WORKDIR.value)
    except Interrupted as error:
        print(f"train.py: {error}", file=sys.stderr)
        sys.exit(EXIT_STATUS)
    except (UserError, OSError) as error:
        if jax.distributed.is_initialized():
            leave(f"train.py: {error}")
        sys.exit(f"train.py: {error}")
    except KeyboardInterrupt:
        sys.exit("train.py: interrupted. The same command goes on from the last checkpoint.")


if __name__ == "__main__":
    app.run(main, flags_parser=parse)
