"""The commands that a finished command suggests, in a form that can be pasted into the same shell."""

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

from rich.console import Console
from rich.text import Text

CHECKOUT = Path(__file__).resolve().parents[1]  # holds train.py and configs/, if this is a checkout
SAMPLE = "王建国在东海市工作。"


def command(*words: str | Path) -> str:
    """Return one line of the shell from words, quoted where the shell needs it."""
    if os.name == "nt":
        return subprocess.list2cmdline(map(str, words))
    return shlex.join(map(str, words))


def python() -> str:
    """Return the name that `shell_setup` makes the shell know this interpreter by."""
    own = Path(sys.executable)
    if _activation() is not None:
        return "python"
    names = [name for name in ("python", "python3") if _is_own(shutil.which(name))]
    return names[0] if names else str(own)


def shell_setup() -> list[str]:
    """Return the lines without which `python -m flax_ner` does not work in the caller's shell.

    The caller may have named the interpreter by its path, as `make` does, and may be outside of the
    checkout without having installed the package.
    """
    lines = []
    script = _activation()
    if script is not None and not _is_own(shutil.which("python")):
        activate = command(_shown(script))
        lines.append(activate if os.name == "nt" else f"source {activate}")
    set_already = [*filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    packages = [*site.getsitepackages(), site.getusersitepackages()]
    if not PathFinder.find_spec("flax_ner", [str(Path.cwd()), *set_already]) and not any(
        distributions(name="flax_ner", path=packages)
    ):
        assignment = f"PYTHONPATH={os.pathsep.join([str(CHECKOUT), *set_already])}"
        lines.append(f"set {assignment}" if os.name == "nt" else f"export {command(assignment)}")
    return lines


def after_tagger(model: Path, evaluate: Sequence[str] | None, text: str = SAMPLE) -> list[str]:
    """Return three commands that use a tagger.

    Args:
        model: its model directory.
        evaluate: labelled data and options of `evaluate`; None where there is no file of such data.
        text: a sentence to tag.
    """
    # JSON's strings are Python's, in double quotes: the shell puts single ones around them.
    path, sentence = (json.dumps(value, ensure_ascii=False) for value in (str(model), text))
    flax_ner = (python(), "-m", "flax_ner")
    commands = [
        f"{command('echo', text)} | {command(*flax_ner, 'predict', model)}",
        command(python(), "-c", f"from flax_ner import load; print(load({path})({sentence}))"),
        command(*flax_ner, "web" if find_spec("gradio") else "inspect", model),
    ]
    if evaluate is not None:
        commands.insert(0, command(*flax_ner, "evaluate", model, *evaluate))
        del commands[2 if find_spec("gradio") else 3]
    return commands


def after_encoder(model: Path, workdir: str) -> list[str]:
    """Return commands that train a tagger from weights on CLUENER.

    Args:
        model: the model directory.
        workdir: of the suggested run.
    """
    flax_ner = (python(), "-m", "flax_ner")
    commands = [command(*flax_ner, "inspect", model)]
    if not Path("data/cluener/train.json").exists():
        commands.append(command(*flax_ner, "data", "download", "cluener"))
    file = CHECKOUT / "configs" / "cluener.py"
    if file.exists():
        arguments = ("--config", _shown(file), "--workdir", workdir)
        train = (python(), _shown(CHECKOUT / "train.py"), *arguments)
        commands.append(command(*train, f"--config.init_from={model}"))
    return commands


def print_next(console: Console, commands: Sequence[str]) -> None:
    """Print commands, one per line and never broken; a notebook, which has no shell, shows nothing."""
    if console.is_jupyter:
        return
    console.print("\nNext:", highlight=False)
    for line in (*shell_setup(), *commands):
        # Text: brackets and colons in paths are no markup.
        console.print(Text(f"  {line}"), soft_wrap=True)


def is_printable_line(text: str) -> bool:
    """Return whether `echo` of every shell prints this text as it is."""
    return text.isprintable() and not text.startswith("-") and "\\" not in text and text != ""


def _activation() -> Path | None:
    """Return the script that activates this interpreter's virtual environment, None outside of one."""
    script = Path(sys.executable).with_name("activate")
    return script if sys.prefix != sys.base_prefix and script.exists() else None


def _is_own(path: str | None) -> bool:
    """Return whether a path leads to this interpreter, in the same environment."""
    if path is None:
        return False
    own, other = Path(sys.executable), Path(path).absolute()
    return own.parent == other.parent and own.resolve() == other.resolve()


def _shown(path: Path) -> str:
    """Return a path relative to the current directory if it lies inside."""
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)
