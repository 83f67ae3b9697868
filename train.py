"""Train a tagger: python train.py --config configs/cluener.py --workdir runs/cluener [--config.FIELD=VALUE ...]

Repeating the command goes on where the run stopped.
"""

import re
import sys
from linecache import getline
from pathlib import Path
from traceback import extract_tb
from typing import Any

from absl import app, flags, logging
from ml_collections import config_flags

from flax_ner.compilation import keep_compiled_programs
from flax_ner.config import FALLBACKS, WITHOUT_LABELS
from flax_ner.errors import UserError
from flax_ner.settings import explain_unknown, help_text, list_settings
from flax_ner.training.interruption import EXIT_STATUS, Interrupted
from flax_ner.training.loop import fit
from flax_ner.weights.names import flatten

CONFIG = config_flags.DEFINE_config_file("config", None, "Configuration file, one of configs/.")
WORKDIR = flags.DEFINE_string(
    "workdir", None, "Directory of the run: checkpoints, metrics, models."
)
flags.mark_flags_as_required(["config", "workdir"])
HELP = {"-h", "-help", "--help", "-helpshort", "--helpshort", "-helpfull", "--helpfull", "-?"}


def parse(arguments: list[str]) -> list[str]:
    """Parse the command line; leave with the help, or with one line that says what is wrong."""
    if HELP & set(arguments):
        print(help_text())
        sys.exit()
    given: dict[str, list[str]] = {"config": [], "workdir": []}
    fault, rest = find_fault(arguments, given), arguments
    if not fault:
        try:
            rest = flags.FLAGS(arguments)
            fault = find_config_fault(CONFIG.value)
        except Exception as error:  # whatever a configuration file may raise
            fault = explain_error(error, given["config"][-1].partition(":")[0])
            if not fault:
                raise
    if fault:
        sys.exit(f"train.py: {fault}")
    return rest


def find_fault(arguments: list[str], given: dict[str, list[str]]) -> str | None:
    """Say which option is missing or unknown, None if none is. Values are not parsed.

    Args:
        arguments: of the command, its name first.
        given: takes the values of `config` and `workdir`.
    """
    settings = {setting.name: setting.default for setting in list_settings()[0]}
    words = iter(arguments[1:])
    for word in words:
        name, equals, value = word.partition("=")
        if word == "--":
            break
        if not name.startswith("-"):
            continue
        name = name[1:].removeprefix("-")
        field = name.removeprefix("no").removeprefix("config.")
        if name in given:
            given[name].append(value if equals else next(words, ""))
        elif name.startswith(("config.", "noconfig.")):
            if field not in settings:
                return f"no such field: {field}. {explain_unknown(field)}"
            if not given["config"]:
                return f"--config.{field} comes before --config. Give --config first."
            if not (equals or isinstance(settings[field], bool)):
                next(words, "")  # its value, which may begin with a dash
    configs = Path(__file__).parent / "configs"
    if not "".join(given["config"][-1:]):
        return f"--config is missing. Give a file, one of {configs} or your own."
    path = given["config"][-1].partition(":")[0]  # get_config takes what follows
    if not Path(path).is_file():
        return (
            f"--config: no file {path!r} in {Path.cwd()}. Those of the checkout are in {configs}."
        )
    if len(given["config"]) > 1:
        return f"--config is given more than once: {', '.join(given['config'])}. Give it once."
    if not "".join(given["workdir"][-1:]):
        return "--workdir is missing. Name the directory of the run, as --workdir runs/mine."
    return None


def find_config_fault(config: Any) -> str | None:
    """Say what is wrong with what `get_config` returns, None if nothing is."""
    if not hasattr(config, "lock"):
        return f"--config: get_config() returns {config!r}. Return the configuration."
    given = flatten(config.to_dict(), separator=".")
    missing = [setting.name for setting in list_settings()[0] if setting.name not in given]
    if missing:
        return (
            f"--config: the configuration lacks {missing[0]}. Start from default_config() of "
            "flax_ner.config, as configs/demo.py does."
        )
    return None


def explain_error(error: BaseException, path: str) -> str | None:
    """Say what is wrong with the value of an option, or with the configuration file at `path`, and where.

    Returns:
        One line; None for an error that has another cause.
    """
    chain = [error]
    while (before := chain[-1].__cause__ or chain[-1].__context__) is not None:
        chain.append(before)
    for cause in chain:
        places = [(frame.filename, frame.lineno) for frame in extract_tb(cause.__traceback__)]
        if isinstance(cause, SyntaxError):
            places.append((cause.filename or "", cause.lineno))
        lines = [line for file, line in places if Path(file).resolve() == Path(path).resolve()]
        if lines:
            return f"--config: {path}:{lines[-1]}: {explain_cause(cause, getline(path, lines[-1] or 0))}"
    text = " ".join(str(chain[-1]).split())
    if "get_config() takes 0 positional" in text:
        return f"--config: get_config() of {path} takes no argument. Leave out the colon and what follows."
    if "get_config() missing 1 required" in text:
        return f"--config: get_config() of {path} needs an argument. Give it as --config {path}:ARGUMENT."
    if "--config must have a value other than None" in text:
        return f"--config: get_config() of {path} returns None. Return the configuration."
    if "has no attribute 'get_config'" in text:
        return f"--config: {path} has no function get_config(). Define it, as configs/demo.py does."
    if isinstance(error, flags.UnrecognizedFlagError):
        return f"no such option: --{error.flagname}. {explain_unknown(error.flagname)}"
    if bad := re.match(r"flag --config\.([\w.]+)=(.*?): ", str(error)):
        default = {setting.name: setting.default for setting in list_settings()[0]}[bad[1]]
        default = (FALLBACKS | WITHOUT_LABELS).get(bad[1], default)
        either = default is None or isinstance(default, bool)
        like = "True or False" if either else f"a value like {default!r}"
        return f"{bad[1]}: {bad[2]!r} is not valid. Give {like}."
    return " ".join(str(error).split()) if isinstance(error, flags.Error) else None


def explain_cause(cause: BaseException, line: str) -> str:
    """Say what an error in a line of a configuration file means."""
    text = str(cause).strip() or "no message"
    unknown = re.match(r"""["']?Key "(\w+)" does not exist""", text)
    if not unknown:
        return f"{type(cause).__name__}: {text.splitlines()[0]}"
    # ml_collections names the last part alone; the line of the file has the section too.
    written = re.search(rf"\w+\.((?:\w+\.)*{unknown[1]})\b", line)
    field = written[1] if written else unknown[1]
    return f"no such field: {field}. {explain_unknown(field, in_file=True)}"


def main(arguments: list[str]) -> None:
    if len(arguments) > 1:
        sys.exit(
            f"train.py: {arguments[1]!r} is an unexpected argument. Settings are --config.FIELD=VALUE."
        )
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
        sys.exit(f"train.py: {error}")
    except KeyboardInterrupt:
        sys.exit("train.py: interrupted. The same command goes on from the last checkpoint.")


if __name__ == "__main__":
    app.run(main, flags_parser=parse)
