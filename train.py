"""Train a tagger: python train.py --config configs/cluener.py --workdir runs/cluener [--config.FIELD=VALUE ...]

Repeating the command goes on where the run stopped.
"""

import sys

import jax
from absl import app, flags, logging
from ml_collections import config_flags

from flax_ner.compilation import keep_compiled_programs
from flax_ner.errors import UserError
from flax_ner.training.hosts import leave
from flax_ner.training.interruption import EXIT_STATUS, Interrupted
from flax_ner.training.loop import fit

CONFIG = config_flags.DEFINE_config_file("config", None, "Configuration file, one of configs/.")
WORKDIR = flags.DEFINE_string(
    "workdir", None, "Directory of the run: checkpoints, metrics, models."
)
flags.mark_flags_as_required(["config", "workdir"])


def parse(arguments: list[str]) -> list[str]:
    try:
        return app.parse_flags_with_usage(arguments)
    except (KeyError, AttributeError) as error:  # no such field; the message names the nearest
        message = str(error).replace("\\n", " ").replace("\n", " ").replace("\\", "").strip("'\"")
        sys.exit(f"train.py: no such field: {message}")


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
