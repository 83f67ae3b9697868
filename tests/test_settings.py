"""The command line of train.py: help, suggestions and error messages."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from flax.traverse_util import flatten_dict

from flax_ner.config import default_config
from flax_ner.settings import ALIASES, explain_unknown, help_text, list_settings
from tests.test_docs import check_settings

ROOT = Path(__file__).resolve().parents[1]
FIELDS = flatten_dict(json.loads(default_config().to_json()), sep=".")

# Parse each command line in a forked process, so that jax is imported only once.
PARSE_EACH = """
import contextlib, io, json, os, sys
from flax_ner.cli import train_command as train
for arguments in json.loads(sys.argv[1]):
    sys.stdout.flush()
    if child := os.fork():
        os.waitpid(child, 0)
        continue
    sys.argv, out = arguments, io.StringIO()
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
            rest = train.parse(arguments)
        row = [rest[1:], train.CONFIG.value.to_json(), train.WORKDIR.value]
    except SystemExit as error:
        row = [error.code or 0, out.getvalue(), None]
    except Exception as error:
        row = ["traceback", str(error), None]
    print(json.dumps(row), flush=True)
    os._exit(0)
"""


def parse_each(commands: list[list[str]]) -> list[tuple[Any, str, str | None]]:
    """Parse each command line as train.py does.

    Returns:
        Per command line: the remaining arguments, the configuration and the work directory. If train.py
        exits: the exit status or message, the output, and None.
    """
    arguments = json.dumps([["train.py", *command] for command in commands])
    result = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", PARSE_EACH, arguments],
        cwd=ROOT, capture_output=True, text=True, check=True, timeout=120,
    )  # fmt: skip
    return [tuple(json.loads(line)) for line in result.stdout.splitlines()]


def test_the_help_lists_every_setting_with_its_default_and_meaning() -> None:
    settings, _ = list_settings()
    assert {setting.name: setting.default for setting in settings} == FIELDS
    lines = [line.strip() for line in help_text().splitlines()]
    for setting in settings:
        (index,) = (
            i for i, line in enumerate(lines) if line.split("=")[0].split(" ")[0]
            == f"--config.{setting.name}"
        )  # fmt: skip
        assert setting.meaning, setting.name
        assert setting.meaning.startswith(lines[index + 1]), setting.name


def test_the_help_shows_the_fallback_of_unset_settings() -> None:
    lines = [line.strip() for line in help_text().splitlines()]
    for line in ("model.hidden_size (not set: 768)", "data.max_length (not set: 128)"):
        assert f"--config.{line}" in lines


def test_every_alias_suggests_an_existing_setting() -> None:
    for alias, target in ALIASES.items():
        name, equals, value = target.partition("=")
        assert name in FIELDS and alias not in FIELDS, alias
        if equals:
            check_settings([f"--config.{name}={value}"], default_config())
        for given in (alias, f"train.{alias}"):
            assert explain_unknown(given) == f"Did you mean --config.{target}?"


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("optimizer.lr", "Did you mean --config.optimizer.learning_rate?"),
        ("train.bf16", "Did you mean --config.model.compute_dtype=bfloat16?"),
        ("optimizer.learning_rat", "Did you mean --config.optimizer.learning_rate?"),
        ("optimiser.lerning_rate", "Did you mean --config.optimizer.learning_rate?"),
        ("batchsize", "Did you mean --config.data.batch_size?"),
        ("data.max-length", "Did you mean --config.data.max_length?"),
        ("name", "Did you mean --config.optimizer.name or --config.loss.name?"),
        ("output_dir", "Did you mean --workdir?"),
        ("loss", "It is a section, with the settings name, label_smoothing, gamma."),
        # No suggestion is better than a wrong one.
        ("data.test", "python -m flax_ner train --help lists all settings."),
        ("optimizer.momentum", "python -m flax_ner train --help lists all settings."),
        ("warmup_steps", "python -m flax_ner train --help lists all settings."),
        ("x", "python -m flax_ner train --help lists all settings."),
    ],
)
def test_an_unknown_name_suggests_the_intended_setting(given: str, expected: str) -> None:
    assert explain_unknown(given) == expected


def test_suggestions_for_a_file_have_the_syntax_of_a_file() -> None:
    for given, expected in {
        "train.bf16": "config.model.compute_dtype = 'bfloat16'",
        "gradient_checkpointing": "config.model.remat = True",
        "lr": "config.optimizer.learning_rate",
    }.items():
        assert explain_unknown(given, in_file=True) == f"Did you mean {expected}?"


@pytest.mark.slow
@pytest.mark.every_python
def test_each_command_line_works_or_gives_a_one_line_error(tmp_path: Path) -> None:
    start = "from flax_ner.config import default_config\n"
    get_config, end = "def get_config():\n    c = default_config()\n", "    return c\n"
    files = {
        "variant.py": f"{get_config.replace('()', '(name)', 1)}    c.data.train = name\n{end}",
        "field.py": f"{get_config}    c.optimizer.lr = 1\n{end}",
        "type.py": f"{get_config}    c.seed = 'x'\n{end}",
        "import.py": "import nowhere\n",
        "syntax.py": "def get_config(\n",
        "file.py": "def get_config():\n    open('nowhere.txt')\n",
        "none.py": "def get_config():\n    default_config()\n",
        "empty.py": "",
        "own.py": "from ml_collections import ConfigDict\ndef get_config():\n    return ConfigDict()\n",
    }
    for name, text in files.items():
        (tmp_path / name).write_text(start + text, "utf-8")
    demo, run = "--config=configs/demo.py", "--workdir=run"
    valid: list[list[str]] = [
        [demo, run, "--config.train.epochs=7"],
        [demo, run, "--config.train.epochs", "7"],
        ["-config", "configs/demo.py", "-workdir", "run", "-config.train.epochs=7"],
        [demo, run, "--config.train.epochs=5", "--config.train.epochs=7"],
        [demo, run, "--config.train.epochs=7", "--noconfig.profile"],
        [demo, "--workdir=other", run, "--config.train.epochs=7"],
        [f"--config={tmp_path}/variant.py:7", run, "--config.train.epochs=7"],
        [demo, run, "--config.train.epochs", "7", "--config.init_from", "-h.pth"],
    ]
    invalid: list[tuple[list[str], str]] = [
        ([run], "--config is missing. Give a configuration file"),
        ([demo], "--workdir is missing. Name a directory"),
        (["--config=", run], "--config is missing. Give a configuration file"),
        ([demo, run, "--workdir="], "--workdir is missing. Name a directory"),
        ([demo, "--config=configs/nowhere.py", run], "--config: no file 'configs/nowhere.py' in"),
        ([demo, run, "--config.epochs=3"], "no such field: epochs. Did you mean --config.train.epochs?"),
        ([demo, demo, run], "--config is given more than once: configs/demo.py, configs/demo.py."),
        (["--config.seed=1", demo, run], "--config.seed comes before --config. Give --config first."),
        (["--config=no.py:x", run], "--config: no file 'no.py' in"),
        ([demo, run, "--noconfig"], "no such option: --noconfig. python -m flax_ner train --help lists"),
        ([demo, run, "--lr=1"], "no such option: --lr. Did you mean --config.optimizer.learning_rate?"),
        ([demo, run, "--config.optimizer.lr=1"], "no such field: optimizer.lr. Did you mean --config.opti"),
        ([demo, run, "--config.train.epochs=x"], "train.epochs: 'x' is not valid. Give a value like 1."),
        ([demo, run, "--config.train.steps=x"], "train.steps: 'x' is not valid. Give a value like 0."),
        ([demo, run, "--config.model.layer_norm_eps=x"], "eps: 'x' is not valid. Give a value like 1e-12."),
        ([demo, run, "--config.profile=x"], "profile: 'x' is not valid. Give True or False."),
        ([f"{demo}:x", run], "get_config() of configs/demo.py takes no argument. Remove the colon"),
        ([f"--config={tmp_path}/variant.py", run], f"Give it as --config {tmp_path}/variant.py:ARGUMENT."),
        ([f"--config={tmp_path}/field.py", run],
         "field.py:4: no such field: optimizer.lr. Did you mean config.optimizer.learning_rate?"),
        ([f"--config={tmp_path}/type.py", run], "type.py:4: TypeError: "),
        ([f"--config={tmp_path}/import.py", run], "import.py:2: ModuleNotFoundError: No module named 'now"),
        ([f"--config={tmp_path}/syntax.py", run], "syntax.py:2: SyntaxError: "),
        ([f"--config={tmp_path}/file.py", run], "file.py:3: FileNotFoundError: "),
        ([f"--config={tmp_path}/none.py", run], "none.py returns None. Return the configuration."),
        ([f"--config={tmp_path}/empty.py", run], "empty.py has no function get_config()."),
        ([f"--config={tmp_path}/own.py", run], "the configuration lacks task. Start from flax_ner.config."),
    ]  # fmt: skip
    helps = [["--help"], ["-h"], [demo, run, "--helpfull"]]
    commands = [*valid, *(command for command, _ in invalid), *helps]
    rows = parse_each(commands)
    assert len(rows) == len(commands)
    for command, row in zip(valid, rows, strict=False):
        assert row[0] == [] and row[2] == "run", (command, row)
        assert json.loads(row[1])["train"]["epochs"] == 7, command
    for (command, message), row in zip(invalid, rows[len(valid) :], strict=False):
        assert str(row[0]).startswith("train.py: ") and message in row[0], (command, row)
        assert "\n" not in row[0] and not row[1], command
    for row in rows[-len(helps) :]:
        assert row[0] == 0 and "--config.optimizer.warmup=0.1" in row[1], row
