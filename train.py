"""Train a tagger: python train.py --config configs/cluener.py --workdir runs/cluener [--config.FIELD=VALUE ...]

Repeat the same command to resume an interrupted run.
"""

import sys
from pathlib import Path

from flax_ner.huge_pages import use_huge_pages

if __name__ == "__main__":
    use_huge_pages()  # before jax is imported

from absl import app, flags, logging
from ml_collections import config_flags

from flax_ner.cli.train_errors import explain_error, find_config_error, find_usage_error
from flax_ner.compilation import keep_compiled_programs
from flax_ner.errors import UserError
from flax_ner.fit import fit
from flax_ner.settings import help_text
from flax_ner.training.interruption import EXIT_STATUS, Interrupted

CONFIG = config_flags.DEFINE_config_file(
    "config", None, "Configuration file, e.g. configs/demo.py."
)
WORKDIR = flags.DEFINE_string(
    "workdir", None, "Directory of the run: checkpoints, metrics, models."
)
CONFIGS = Path(__file__).parent / "configs"
flags.mark_flags_as_required(["config", "workdir"])
HELP = {"-h", "-help", "--help", "-helpshort", "--helpshort", "-helpfull", "--helpfull", "-?"}


def parse(arguments: list[str]) -> list[str]:
    """Parse the command line. Exit with the help if it is asked for, or with a one-line error message."""
    if HELP & set(arguments):
        print(help_text())
        sys.exit()
    given: dict[str, list[str]] = {"config": [], "workdir": []}
    problem, rest = find_usage_error(arguments, given, CONFIGS), arguments
    if not problem:
        try:
            rest = flags.FLAGS(arguments)
            problem = find_config_error(CONFIG.value)
        except Exception as error:  # a configuration file may raise anything
            problem = explain_error(error, given["config"][-1].partition(":")[0])
            if not problem:
                raise
    if problem:
        sys.exit(f"train.py: {problem}")
    return rest


def main(arguments: list[str]) -> None:
    if len(arguments) > 1:
        sys.exit(
            f"train.py: {arguments[1]!r} is an unexpected argument. Settings are --config.FIELD=VALUE."
        )
    logging.set_verbosity(logging.WARNING)  # at INFO, Orbax logs every file
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
        sys.exit(f"train.py: {error}")
    except KeyboardInterrupt:
        sys.exit("train.py: interrupted. The same command resumes from the last checkpoint.")


if __name__ == "__main__":
    app.run(main, flags_parser=parse)
