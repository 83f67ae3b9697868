"""Commands as a user types them, run in this process."""

from pathlib import Path
from runpy import run_path

from absl import flags
from ml_collections import ConfigDict, config_flags

from flax_ner.training.loop import fit
from train import find_fault

TINY = (
    "--config.model.hidden_size=64",
    "--config.model.num_hidden_layers=1",
    "--config.model.num_attention_heads=1",
    "--config.model.intermediate_size=16",
    "--config.train.steps=2",
)


def run_train(arguments: list[str], *more: str) -> tuple[ConfigDict, str]:
    """Run train.py with these arguments and `more` behind them.

    Returns:
        Configuration and work directory.
    """
    command, values = ["train.py", *arguments, *more], flags.FlagValues()
    error = find_fault(command, {"config": [], "workdir": []})
    assert error is None, error
    flags.DEFINE_string("workdir", None, "", flag_values=values)
    file, settings = _take_file(command)
    config = get_config(file)
    config_flags.DEFINE_config_dict("config", config, flag_values=values, sys_argv=settings)
    assert values(settings) == ["train.py"]
    fit(config, Path(values.workdir))
    return config, values.workdir


def get_config(file: str) -> ConfigDict:
    """Return what the value of --config, `FILE` or `FILE:VARIANT`, stands for."""
    path, colon, variant = file.partition(":")
    config: ConfigDict = run_path(path)["get_config"](*[variant] * bool(colon))
    return config


def _take_file(command: list[str]) -> tuple[str, list[str]]:
    """The value of --config, and the command without it.

    config_flags would load the file in a way that Python deprecates, and warnings are errors here.
    """
    for i, word in enumerate(command):
        name, equals, value = word.partition("=")
        if name == "--config":
            end = i + 1 if equals else i + 2
            return value or command[i + 1], command[:i] + command[end:]
    raise AssertionError(f"no --config in {command}")
