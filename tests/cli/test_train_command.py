"""flax-ner train: short forms of options."""

import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from flax_ner.cli.train_command import configs_folder, expand
from flax_ner.weights.model_dir import load_model

CONFIG = f"--config={configs_folder() / 'cluener.py'}"


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("--config cluener", [CONFIG]),
        ("--config=cluener", [CONFIG]),
        ("--config cluener:x", [f"{CONFIG}:x"]),
        ("--config own.py", ["--config=own.py"]),
        ("--config nowhere", ["--config=nowhere"]),
        ("--config cluener --init-from X", [CONFIG, "--config.init_from", "X"]),
        ("--config cluener --init_from=X", [CONFIG, "--config.init_from=X"]),
        ("--config cluener --data.train=T", [CONFIG, "--config.data.train=T"]),
        ("--config cluener --data.batch-size 8", [CONFIG, "--config.data.batch_size", "8"]),
        ("--config cluener --config.seed=1", [CONFIG, "--config.seed=1"]),
        ("--config cluener --config.seed 1", [CONFIG, "--config.seed", "1"]),
        ("--config cluener --noprofile", [CONFIG, "--noconfig.profile"]),
        ("--config cluener --no-model.scan-layers", [CONFIG, "--noconfig.model.scan_layers"]),
        ("--config cluener --profile --seed=1", [CONFIG, "--config.profile", "--config.seed=1"]),
        # A value is not an option, whatever it looks like.
        ("--config cluener --data.train --seed", [CONFIG, "--config.data.train", "--seed"]),
        ("--workdir --config --config cluener", [CONFIG, "--workdir", "--config"]),
        # --config comes first, because absl applies a setting to the configurations before it.
        ("--seed 1 --config cluener", [CONFIG, "--config.seed", "1"]),
        ("--workdir W --seed=1 --config=cluener", [CONFIG, "--workdir", "W", "--config.seed=1"]),
        ("--seed 1 --config", ["--config=", "--config.seed", "1"]),
        ("--seed=1", ["--config.seed=1"]),
        ("--lr 1", ["--lr", "1"]),
        ("", []),
    ],
)  # fmt: skip
def test_short_forms_are_expanded(given: str, expected: list[str]) -> None:
    assert expand(given.split()) == expected


def test_a_file_of_the_user_comes_before_a_shipped_configuration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("cluener").write_text("def get_config(): ...\n")
    Path("demo").mkdir()  # not a configuration, although it has the name of one
    assert expand(["--config", "cluener"]) == ["--config=cluener"]
    assert expand(["--config", "demo"]) == [f"--config={configs_folder() / 'demo.py'}"]


@pytest.mark.slow
def test_the_short_form_trains_what_the_long_form_trains(tmp_path: Path) -> None:
    def run(*arguments: str) -> list[bytes]:
        subprocess.run(
            [sys.executable, *arguments, "--config.train.steps=2"],
            cwd=Path(__file__).resolve().parents[2], check=True, capture_output=True, timeout=300,
        )  # fmt: skip
        params = load_model(tmp_path / "run" / "last").params
        return [np.asarray(x).tobytes() for x in jax.tree.leaves(params)]

    workdir = tmp_path / "run"
    long = run("train.py", "--config=configs/demo.py", f"--workdir={workdir}", "--config.seed=3")
    workdir.rename(tmp_path / "long")
    short = run(
        "-m", "flax_ner", "train", "--config", "demo", "--workdir", str(workdir), "--seed", "3"
    )
    assert long == short
