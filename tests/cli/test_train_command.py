"""flax-ner train: short forms of options."""

import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from flax_ner.cli.train_command import configs_folder, expand
from flax_ner.weights.model_dir import load_model

CLUENER = str(configs_folder() / "cluener.py")


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("--config cluener", ["--config", CLUENER]),
        ("--config=cluener", [f"--config={CLUENER}"]),
        ("--config cluener:x", ["--config", f"{CLUENER}:x"]),
        ("--config own.py", ["--config", "own.py"]),
        ("--config nowhere", ["--config", "nowhere"]),
        ("--config cluener --init-from X", ["--config", CLUENER, "--config.init_from", "X"]),
        ("--config cluener --init_from=X", ["--config", CLUENER, "--config.init_from=X"]),
        ("--config cluener --data.train=T", ["--config", CLUENER, "--config.data.train=T"]),
        ("--config cluener --data.batch-size 8", ["--config", CLUENER, "--config.data.batch_size", "8"]),
        ("--config cluener --config.seed=1", ["--config", CLUENER, "--config.seed=1"]),
        ("--config cluener --data.train -x", ["--config", CLUENER, "--config.data.train", "-x"]),
        # --config comes first, because absl reads the settings that it changes after it.
        ("--seed 1 --config cluener", ["--config", CLUENER, "--config.seed", "1"]),
        ("--workdir W --seed=1 --config=cluener", [f"--config={CLUENER}", "--workdir", "W", "--config.seed=1"]),
        ("--seed=1", ["--config.seed=1"]),
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
    assert expand(["--config", "cluener"]) == ["--config", "cluener"]


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
