"""Run commands as a user types them, in this process, and end those that run in another one."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from runpy import run_path

from absl import flags
from ml_collections import ConfigDict, config_flags

from flax_ner.cli.train_command import expand
from flax_ner.cli.train_errors import find_usage_error
from flax_ner.fit import fit

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
TINY = (
    "--config.model.hidden_size=64",
    "--config.model.num_hidden_layers=1",
    "--config.model.num_attention_heads=1",
    "--config.model.intermediate_size=16",
    "--config.train.steps=2",
)


def run_train(arguments: list[str], *more: str) -> tuple[ConfigDict, str]:
    """Run train.py or `flax-ner train` with `arguments` followed by `more`.

    Returns:
        The configuration and the work directory.
    """
    command, values = ["train.py", *expand([*arguments, *more])], flags.FlagValues()
    error = find_usage_error(command, {"config": [], "workdir": []}, CONFIGS)
    assert error is None, error
    flags.DEFINE_string("workdir", None, "", flag_values=values)
    file, settings = _take_file(command)
    config = get_config(file)
    config_flags.DEFINE_config_dict("config", config, flag_values=values, sys_argv=settings)
    assert values(settings) == ["train.py"]
    fit(config, Path(values.workdir))
    return config, values.workdir


def get_config(file: str) -> ConfigDict:
    """Return the configuration that `--config FILE` or `--config FILE:VARIANT` loads."""
    path, colon, variant = file.partition(":")
    config: ConfigDict = run_path(path)["get_config"](*[variant] * bool(colon))
    return config


def _take_file(command: list[str]) -> tuple[str, list[str]]:
    """Return the value of --config, and the command without it.

    config_flags loads the file in a way that Python deprecates, and tests turn warnings into errors.
    """
    for i, word in enumerate(command):
        name, equals, value = word.partition("=")
        if name == "--config":
            end = i + 1 if equals else i + 2
            return value or command[i + 1], command[:i] + command[end:]
    raise AssertionError(f"no --config in {command}")


@contextmanager
def killed_at_end(process: subprocess.Popen[str]) -> Iterator[None]:
    """Kill a process at the end of the block if it still runs."""
    try:
        yield
    finally:
        process.kill()
        process.wait()
        assert process.stderr
        process.stderr.close()
