"""Error messages for the command line and the configuration file of train.py."""

import re
from linecache import getline
from pathlib import Path
from traceback import extract_tb
from typing import Any

from absl import flags
from flax.traverse_util import flatten_dict

from flax_ner.config import FALLBACKS, UNLABELLED_FALLBACKS
from flax_ner.settings import explain_unknown, list_settings


def find_usage_error(
    arguments: list[str], given: dict[str, list[str]], configs: Path
) -> str | None:
    """Describe the first missing, repeated or unknown option; None if there is none. Values are not parsed.

    Args:
        arguments: the command line, with the name of the command first.
        given: filled with the values of `config` and `workdir`.
        configs: folder of the configuration files, for messages.
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
                next(words, "")  # skip the value, which may start with a dash
    if not "".join(given["config"][-1:]):
        return f"--config is missing. Give a configuration file: one of {configs} or your own."
    path = given["config"][-1].partition(":")[0]  # the rest is the argument of get_config
    if not Path(path).is_file():
        return (
            f"--config: no file {path!r} in {Path.cwd()}. The configuration files are in {configs}."
        )
    if len(given["config"]) > 1:
        return f"--config is given more than once: {', '.join(given['config'])}. Give it once."
    if not "".join(given["workdir"][-1:]):
        return "--workdir is missing. Name a directory for the run, e.g. --workdir runs/mine."
    return None


def find_config_error(config: Any) -> str | None:
    """Describe what is wrong with the return value of `get_config`; None if it is a valid configuration."""
    if not hasattr(config, "lock"):
        return f"--config: get_config() returns {config!r}. Return the configuration."
    given = flatten_dict(config.to_dict(), sep=".")
    missing = [setting.name for setting in list_settings()[0] if setting.name not in given]
    if missing:
        return (
            f"--config: the configuration lacks {missing[0]}. Start from flax_ner.config."
            "default_config(), as in configs/demo.py."
        )
    return None


def explain_error(error: BaseException, path: str) -> str | None:
    """Explain an error in the value of an option or in the configuration file at `path`.

    Returns:
        One line, with file and line number if known; None if the error has another cause.
    """
    chain = [error]
    while (cause := chain[-1].__cause__ or chain[-1].__context__) is not None:
        chain.append(cause)
    for cause in chain:
        locations = [(frame.filename, frame.lineno) for frame in extract_tb(cause.__traceback__)]
        if isinstance(cause, SyntaxError):
            locations.append((cause.filename or "", cause.lineno))
        lines = [line for file, line in locations if Path(file).resolve() == Path(path).resolve()]
        if lines:
            return f"--config: {path}:{lines[-1]}: {_explain_cause(cause, getline(path, lines[-1] or 0))}"
    text = " ".join(str(chain[-1]).split())
    if "get_config() takes 0 positional" in text:
        return f"--config: get_config() of {path} takes no argument. Remove the colon and the text after it."
    if "get_config() missing 1 required" in text:
        return f"--config: get_config() of {path} needs an argument. Give it as --config {path}:ARGUMENT."
    if "--config must have a value other than None" in text:
        return f"--config: get_config() of {path} returns None. Return the configuration."
    if "has no attribute 'get_config'" in text:
        return f"--config: {path} has no function get_config(). Define it as in configs/demo.py."
    if isinstance(error, flags.UnrecognizedFlagError):
        return f"no such option: --{error.flagname}. {explain_unknown(error.flagname)}"
    if invalid := re.match(r"flag --config\.([\w.]+)=(.*?): ", str(error)):
        default = {setting.name: setting.default for setting in list_settings()[0]}[invalid[1]]
        default = (FALLBACKS | UNLABELLED_FALLBACKS).get(invalid[1], default)
        is_flag = default is None or isinstance(default, bool)
        expected = "True or False" if is_flag else f"a value like {default!r}"
        return f"{invalid[1]}: {invalid[2]!r} is not valid. Give {expected}."
    return " ".join(str(error).split()) if isinstance(error, flags.Error) else None


def _explain_cause(cause: BaseException, line: str) -> str:
    """Describe an error that a line of a configuration file caused."""
    text = str(cause).strip() or "no message"
    unknown = re.match(r"""["']?Key "(\w+)" does not exist""", text)
    if not unknown:
        return f"{type(cause).__name__}: {text.splitlines()[0]}"
    # ml_collections reports the field without its section; the line of the file has both.
    match = re.search(rf"\w+\.((?:\w+\.)*{unknown[1]})\b", line)
    field = match[1] if match else unknown[1]
    return f"no such field: {field}. {explain_unknown(field, in_file=True)}"
