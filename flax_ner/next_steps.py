"""Suggest the next commands after a command has finished, ready to paste into the same shell."""

import json
import os
import shlex
import shutil
import site
import subprocess
import sys
from collections.abc import Sequence
from importlib.machinery import PathFinder
from importlib.metadata import distributions
from importlib.util import find_spec
from pathlib import Path

from ml_collections import ConfigDict
from rich.console import Console
from rich.text import Text

CHECKOUT = Path(__file__).resolve().parents[1]  # where the package lies
SAMPLE = "王建国在东海市工作。"


def quote_command(*words: str | Path) -> str:
    """Join words into a shell command, with quotes where needed."""
    if os.name == "nt":
        return subprocess.list2cmdline(map(str, words))
    return shlex.join(map(str, words))


def python() -> str:
    """Return the command that runs this interpreter after the lines of `shell_setup`."""
    if _activate_script() is not None:
        return "python"
    names = [name for name in ("python", "python3") if _is_this_interpreter(shutil.which(name))]
    return names[0] if names else sys.executable


def shell_setup() -> list[str]:
    """Return the shell commands that make `python -m flax_ner` work in the user's shell.

    They are needed if the environment is not activated, as `make` calls the interpreter by its path, or
    if the package is not installed and the current directory is not the checkout.
    """
    lines = []
    script = _activate_script()
    if script is not None and not _is_this_interpreter(shutil.which("python")):
        activate = quote_command(_shorten(script))
        lines.append(activate if os.name == "nt" else f"source {activate}")
    python_path = [*filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    packages = [*site.getsitepackages(), site.getusersitepackages()]
    if not PathFinder.find_spec("flax_ner", [str(Path.cwd()), *python_path]) and not any(
        distributions(name="flax_ner", path=packages)
    ):
        assignment = f"PYTHONPATH={os.pathsep.join([str(CHECKOUT), *python_path])}"
        lines.append(
            f"set {assignment}" if os.name == "nt" else f"export {quote_command(assignment)}"
        )
    return lines


def after_tagger(model: Path, evaluate: Sequence[str] | None, text: str = SAMPLE) -> list[str]:
    """Return three commands that use a trained tagger.

    Args:
        model: the model directory.
        evaluate: labelled data and options for `evaluate`, or None if there is no labelled file.
        text: a sentence to tag.
    """
    # JSON strings are valid Python with double quotes, so the shell can use single quotes around them.
    path, sentence = (json.dumps(value, ensure_ascii=False) for value in (str(model), text))
    flax_ner = (python(), "-m", "flax_ner")
    commands = [
        f"{quote_command('echo', text)} | {quote_command(*flax_ner, 'predict', model)}",
        quote_command(
            python(), "-c", f"from flax_ner import load; print(load({path})({sentence}))"
        ),
        quote_command(*flax_ner, "web" if find_spec("gradio") else "inspect", model),
    ]
    if evaluate is not None:
        commands.insert(0, quote_command(*flax_ner, "evaluate", model, *evaluate))
        del commands[2 if find_spec("gradio") else 3]
    return commands


def read_flags(config: ConfigDict) -> list[str]:
    """Return the options with which a command reads data as a run with this `config.data` does."""
    token_column, tag_column = config.columns or ("", "")
    flags = {
        "--from": "" if config.format == "auto" else config.format,
        "--encoding": config.encoding,
        "--token-column": token_column,
        "--tag-column": tag_column,
        "--tag-scheme": config.tag_scheme,
        "--end": config.end,
        "--offset-unit": config.offset_unit,
    }
    return [word for flag, value in flags.items() if value for word in (flag, value)]


def after_encoder(model: Path, workdir: str) -> list[str]:
    """Return commands that fine-tune a tagger on CLUENER from pre-trained weights.

    Args:
        model: the model directory of the encoder.
        workdir: work directory of the suggested run.
    """
    flax_ner = (python(), "-m", "flax_ner")
    commands = [quote_command(*flax_ner, "inspect", model)]
    if not Path("data/cluener/train.json").exists():
        commands.append(quote_command(*flax_ner, "data", "download", "cluener"))
    options = ("--config", "cluener", "--workdir", workdir, "--init-from", model)
    commands.append(quote_command(*flax_ner, "train", *options))
    return commands


def print_next(console: Console, commands: Sequence[str]) -> None:
    """Print commands, one per line and without wrapping. Print nothing in a notebook."""
    if console.is_jupyter:
        return
    console.print("\nNext:", highlight=False)
    for line in (*shell_setup(), *commands):
        # With `Text`, brackets and colons in paths are not read as markup.
        console.print(Text(f"  {line}"), soft_wrap=True)


def is_printable_line(text: str) -> bool:
    """Return whether `echo` prints this text unchanged in every shell."""
    return text.isprintable() and not text.startswith("-") and "\\" not in text and text != ""


def _activate_script() -> Path | None:
    """Return the activation script of the virtual environment, or None outside of one."""
    script = Path(sys.executable).with_name("activate")
    return script if sys.prefix != sys.base_prefix and script.exists() else None


def _is_this_interpreter(path: str | None) -> bool:
    """Return whether a path is this interpreter in the same environment."""
    if path is None:
        return False
    own, other = Path(sys.executable), Path(path).absolute()
    return own.parent == other.parent and own.resolve() == other.resolve()


def _shorten(path: Path) -> str:
    """Return a path relative to the current directory if it is inside."""
    current = Path.cwd()
    return str(path.relative_to(current) if path.is_relative_to(current) else path)
