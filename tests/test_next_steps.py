"""The commands that a finished command suggests work when pasted into a shell."""

import importlib.util
import os
import shlex
import subprocess
import sys
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from configs import demo, pretrain
from convert.flax_to_torch import main as export
from convert.torch_to_flax import main as convert
from flax_ner import next_steps
from flax_ner.cli.main import main
from flax_ner.data.cluener import write_cluener
from flax_ner.data.synthetic import synthetic
from flax_ner.fit import fit
from flax_ner.text.examples import Example
from tests.commands import run_train

SYSTEM_PATH = "/usr/bin:/bin"
SMALL = {
    "model.hidden_size": 16,
    "model.num_hidden_layers": 1,
    "model.num_attention_heads": 2,
    "model.intermediate_size": 16,
    "train.steps": 2,
    "mesh.data": 1,
}


def suggested(output: str) -> list[str]:
    """Return the lines after "Next:", without indentation."""
    _, _, after = output.partition("\nNext:\n")
    return [line.strip() for line in after.splitlines() if line.strip()]


def print_to(console: Console, *lines: str) -> str:
    next_steps.print_next(console, lines)
    return console.file.getvalue()  # type: ignore[attr-defined]


def hide_gradio(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide Gradio, as the suggested command `web` would run forever."""
    real = importlib.util.find_spec
    hidden: Any = lambda name: None if name == "gradio" else real(name)  # noqa: E731
    monkeypatch.setattr(next_steps, "find_spec", hidden)


@pytest.mark.parametrize("folder", ["runs", "a b [red] :smile: 'quoted' $HOME", "文件夹"])
def test_paths_are_quoted_for_the_shell(folder: str) -> None:
    model = Path(folder, "best" * 20)
    (evaluate, predict, *_) = next_steps.after_tagger(model, ["dev file.json"])
    console = Console(file=StringIO(), width=40, force_terminal=False)
    lines = suggested("\n" + print_to(console, evaluate, predict))[-2:]
    assert shlex.split(lines[0])[-2:] == [str(model), "dev file.json"]
    assert shlex.split(lines[1]) == [
        *("echo", next_steps.SAMPLE, "|", next_steps.python()),
        *("-m", "flax_ner", "predict", str(model)),
    ]


def test_nothing_is_printed_in_a_notebook() -> None:
    assert print_to(Console(file=StringIO(), force_jupyter=True), "python -m flax_ner") == ""


@pytest.mark.skipif(sys.prefix == sys.base_prefix, reason="needs a virtual environment")
def test_activation_is_suggested_only_if_needed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", SYSTEM_PATH)
    environment = Path(sys.prefix)
    assert next_steps.shell_setup()[0] == f"source {shlex.quote(f'{environment}/bin/activate')}"
    monkeypatch.chdir(environment.parent)
    assert next_steps.shell_setup()[0] == f"source {environment.name}/bin/activate"
    monkeypatch.setenv("PATH", f"{environment}/bin:{SYSTEM_PATH}")
    assert not [line for line in next_steps.shell_setup() if line.startswith("source")]
    assert next_steps.python() == "python"


def test_an_interpreter_outside_of_path_is_given_by_its_full_path(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "prefix", sys.base_prefix)
    monkeypatch.setenv("PATH", "/nowhere")
    assert next_steps.python() == sys.executable
    assert not [line for line in next_steps.shell_setup() if line.startswith("source")]


def test_pythonpath_is_suggested_only_if_the_package_is_not_found(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(next_steps, "distributions", lambda **_: iter(()))
    monkeypatch.delenv("PYTHONPATH", raising=False)
    monkeypatch.chdir(next_steps.CHECKOUT)
    assert not [line for line in next_steps.shell_setup() if line.startswith("export")]
    monkeypatch.chdir(tmp_path)
    assert (
        next_steps.shell_setup()[-1] == f"export PYTHONPATH={shlex.quote(str(next_steps.CHECKOUT))}"
    )
    monkeypatch.setenv("PYTHONPATH", str(next_steps.CHECKOUT))
    assert not [line for line in next_steps.shell_setup() if line.startswith("export")]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["file", "synthetic", "skipped"])
def test_the_commands_after_training_run(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The shell has not activated the environment, as after `make demo`."""
    hide_gradio(monkeypatch)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", SYSTEM_PATH)
    # This directory is not a checkout, so the package comes from the checkout of the tests.
    monkeypatch.setenv("PYTHONPATH", str(next_steps.CHECKOUT))
    config = demo.get_config()
    config.update_from_flattened_dict(SMALL | {"data.train": "train 20", "data.dev": "dev 5"})
    if kind != "synthetic":
        config.data.format, config.data.train, config.data.dev = "auto", "train.json", "dev $1.json"
        for name, split in (("train", "train"), ("dev", "dev $1")):
            hard_to_quote = [Example("-n \\n 'a' \"b\" $HOME", ())]
            write_cluener(Path(f"{split}.json"), [*hard_to_quote, *synthetic(name, 20)])
    if kind == "skipped":
        config.data.on_error = "skip"
        with Path("dev $1.json").open("a") as file:
            file.write("{\n")
    fit(config, "my run's")
    lines = suggested(capsys.readouterr().out)
    setup, commands = lines[:1], [line for line in lines[1:] if not line.startswith("#")]
    assert setup == next_steps.shell_setup() and len(commands) == 3
    assert ("evaluate" in commands[0]) == (kind == "file")
    script = "\n".join(["set -eo pipefail", *lines])
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Vocabulary: " in done.stdout or kind == "file"  # printed by inspect


@pytest.mark.slow
def test_the_commands_after_pretraining_and_conversion_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The shape and positions differ from the defaults, before and after an export and conversion."""
    monkeypatch.chdir(tmp_path)
    examples = synthetic("train", 30)
    Path("text.txt").write_text("\n".join(example.text for example in examples), "utf-8")
    config = pretrain.get_config()
    config.update_from_flattened_dict(
        SMALL | {"data.train": "text.txt", "data.dev": "text.txt", "data.batch_size": 8,
                 "data.max_length": 64, "model.max_position_embeddings": 64}
    )  # fmt: skip
    fit(config, "pre trained")
    after_pretraining = suggested(capsys.readouterr().out)

    export(["pre trained/best", "exported", "--layout", "hf"])
    capsys.readouterr()
    convert(["exported", "converted"])
    after_conversion = suggested(capsys.readouterr().out)
    tiny = ["--config.train.steps=1", "--config.mesh.data=1"]
    for lines in (after_pretraining, after_conversion):
        inspect, download, train = ([*shlex.split(line)] for line in lines[-3:])
        main(inspect[3:])
        assert download[1:] == ["-m", "flax_ner", "data", "download", "cluener"]
        os.makedirs("data/cluener", exist_ok=True)
        for name in ("train", "dev"):
            write_cluener(Path(f"data/cluener/{name}.json"), synthetic(name, 10))
        assert train[1:4] == ["-m", "flax_ner", "train"]
        _, workdir = run_train(train[4:], *tiny)
        assert Path(workdir, "best").is_dir()
