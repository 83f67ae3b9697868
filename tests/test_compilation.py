"""The compilation cache is kept between commands and does not change results."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ARGUMENTS = [
    "--config.model.hidden_size=64",
    "--config.model.intermediate_size=128",
    "--config.model.num_hidden_layers=1",
    "--config.data.train=train 300",
    "--config.data.dev=dev 20",
    "--config.train.steps=4",
]


def train(workdir: Path, **variables: str) -> bytes:
    """Train in a subprocess with these environment variables and return the bytes of the final params."""
    names = ("JAX_COMPILATION_CACHE_DIR", "JAX_ENABLE_COMPILATION_CACHE")
    environment = {k: v for k, v in os.environ.items() if k not in names} | variables
    command = ["train.py", "--config=configs/demo.py", f"--workdir={workdir}", *ARGUMENTS]
    result = subprocess.run(
        [sys.executable, *command], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    assert "cache" not in result.stderr
    code = (
        "import sys; from flax_ner.weights.model_dir import load_model; import jax, numpy as np; "
        "[sys.stdout.buffer.write(np.asarray(x).tobytes())"
        " for x in jax.tree.leaves(load_model(sys.argv[1]).params)]"
    )
    return subprocess.run(
        [sys.executable, "-c", code, str(workdir / "last")], cwd=ROOT, stdout=subprocess.PIPE
    ).stdout


@pytest.mark.slow
def test_a_warm_cache_gives_bitwise_equal_params(tmp_path: Path) -> None:
    variables = {
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
        # Cache everything: near the default threshold it would depend on the load of the machine.
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    cold = train(tmp_path / "cold", **variables)
    kept = {p.name: p.stat().st_mtime for p in tmp_path.glob("cache/flax_ner/compiled/*-cache")}
    assert any(name.startswith("jit_run") for name in kept)
    warm = train(tmp_path / "warm", **variables)
    after = {p.name: p.stat().st_mtime for p in tmp_path.glob("cache/flax_ner/compiled/*-cache")}
    assert after == kept
    assert len(cold) > 100_000
    assert warm == cold


@pytest.mark.slow
def test_training_works_without_a_writable_cache_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    train(tmp_path / "run", XDG_CACHE_HOME=str(tmp_path / "file"))


@pytest.mark.slow
def test_the_cache_folder_of_the_user_takes_precedence(tmp_path: Path) -> None:
    variables = {"JAX_COMPILATION_CACHE_DIR": str(tmp_path / "mine")}
    train(tmp_path / "run", XDG_CACHE_HOME=str(tmp_path / "cache"), **variables)
    assert (tmp_path / "mine").is_dir()
    assert not (tmp_path / "cache").exists()
