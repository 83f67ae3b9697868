"""Two processes of four devices each, compared with one process of eight."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from flax_ner.weights.model_dir import load_model

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[2]
# Run `fit` with a small demo configuration, and print the shapes of the batches in this process.
WORKER = """
import json, os, sys, time
from pathlib import Path
from configs.demo import get_config
from flax_ner.errors import UserError
from flax_ner.text.batches import Batcher
from flax_ner.training.interruption import Interrupted
from flax_ner.training.log import RunLog
from flax_ner.fit import fit

workdir, changes = Path(sys.argv[1]), json.loads(sys.argv[2])
built, epoch = [], Batcher.epoch
def recorded(*arguments):
    made = epoch(*arguments)
    built.append([list(x.input_ids.shape) for x in made.shapes])
    return made
Batcher.epoch = recorded
train = RunLog.train
def slowed(*arguments):
    time.sleep(float(os.environ.get("SECONDS_PER_DISPATCH", 0)))
    train(*arguments)
RunLog.train = slowed
config = get_config()
config.update_from_flattened_dict({
    "model.hidden_size": 32, "model.num_hidden_layers": 1, "model.num_attention_heads": 2,
    "model.intermediate_size": 256, "data.train": "train 200", "data.dev": "dev 53",
    "data.batch_size": 8, "train.steps": 30, "train.steps_per_dispatch": 2,
    "optimizer.learning_rate": 1e-2,
})
config.update_from_flattened_dict(changes)
try:
    scores = fit(config, workdir)
except Interrupted as error:
    print(error, file=sys.stderr)
    sys.exit(75)
except UserError as error:
    sys.exit(f"error: {error}")
row = {"built": built, "f1": scores.f1, "gold": scores.gold, "predicted": scores.predicted}
print("RESULT " + json.dumps(row))
"""


STARTED: list[Any] = []


@pytest.fixture(autouse=True, scope="module")
def kill_processes() -> Iterator[None]:
    yield
    for process in STARTED:
        process.kill()
        process.communicate()


def start(workdir: Path, processes: int, devices: int, *changes: dict[str, Any]) -> list[Any]:
    """Start workers; `changes` of the configuration are one per worker, or one for all."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    started = []
    for index in range(processes):
        environment = os.environ | {
            "XLA_FLAGS": os.environ["XLA_FLAGS"].replace("count=8", f"count={devices}"),
            "PYTHONPATH": str(ROOT),
        }
        change = dict(changes[index % len(changes)] if changes else {})
        if processes > 1:
            change["mesh.distributed"] = True
            environment |= {
                "JAX_COORDINATOR_ADDRESS": address,
                "JAX_NUM_PROCESSES": str(processes),
                "JAX_PROCESS_ID": str(index),
            }
        command = [sys.executable, "-c", WORKER, str(workdir), json.dumps(change)]
        started.append(
            subprocess.Popen(
                command,
                cwd=ROOT,
                env=environment,
                text=True,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            )
        )
    STARTED.extend(started)
    return started


def results(started: list[Any]) -> list[dict[str, Any]]:
    """Return the results of the workers; their other output is under "out" and "errors"."""
    rows = []
    for (out, errors), process in zip(
        [p.communicate(timeout=300) for p in started], started, strict=True
    ):
        assert process.returncode == 0, errors
        out, _, row = out.partition("RESULT ")
        rows.append(json.loads(row) | {"out": out, "errors": errors})
    return rows


def metrics(workdir: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def params(model: Path) -> dict[str, np.ndarray]:
    return {
        name: np.asarray(array)
        for name, array in flatten_dict(load_model(model).params, sep="/").items()
    }


MESH = {"mesh.data": 2, "mesh.fsdp": 4}


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    """Return the work directory and the results of two processes."""
    workdir = tmp_path_factory.mktemp("two") / "run"
    return workdir, results(start(workdir, 2, 4, MESH))


def test_two_processes_train_the_same_as_one(
    two: tuple[Path, list[dict[str, Any]]], tmp_path: Path
) -> None:
    workdir, (first, second) = two
    (alone,) = results(start(tmp_path / "one", 1, 8, MESH))
    rows, expected = metrics(workdir), metrics(tmp_path / "one")
    assert [(row["split"], row["step"]) for row in rows] == [
        (row["split"], row["step"]) for row in expected
    ]
    for row, other in zip(rows, expected, strict=True):
        name = "loss" if row["split"] == "train" else "f1"
        assert row[name] == pytest.approx(other[name], abs=1e-5)
    # Each sentence of dev is scored once, although 53 does not divide by 8.
    for scores in (first, second):
        assert [scores[name] for name in ("f1", "gold", "predicted")] == [
            alone[name] for name in ("f1", "gold", "predicted")
        ]
    # Each process builds four of the eight rows of each batch.
    for one, half, other in zip(alone["built"], first["built"], second["built"], strict=True):
        for (steps, rows_, width), *halves in zip(one, half, other, strict=True):
            assert halves == [[steps, rows_ // 2, width]] * 2


def test_only_the_primary_process_prints(two: tuple[Path, list[dict[str, Any]]]) -> None:
    workdir, (first, second) = two
    assert "Predictions for the first sentences" in first["out"]
    printed = second["out"].splitlines()  # Gloo may print, too
    assert not [
        line for line in printed if line.strip() and "Gloo" not in line and "peer" not in line
    ]
    steps = [row["step"] for row in metrics(workdir) if row["split"] == "train"]
    assert steps == sorted(set(steps)) and steps[-1] == 30
    assert {path.name for path in workdir.iterdir() if not path.name.startswith(".")} == {
        "config.json", "inputs.json", "metrics.jsonl", "checkpoints", "best", "last",
    }  # fmt: skip


def test_a_signal_to_one_process_stops_all_and_the_resumed_run_is_bit_identical(
    two: tuple[Path, list[dict[str, Any]]], tmp_path: Path
) -> None:
    workdir = tmp_path / "stopped"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SECONDS_PER_DISPATCH", "0.5")  # the signal takes up to a second to reach all
        started = start(workdir, 2, 4, MESH | {"train.steps_per_dispatch": 1})
    deadline = time.monotonic() + 240
    while not (workdir / "metrics.jsonl").exists() or not metrics(workdir):
        assert started[0].poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    started[1].send_signal(signal.SIGTERM)
    for process in started:
        _, errors = process.communicate(timeout=240)
        assert process.returncode == 75, errors
        assert "stopped by SIGTERM after step" in errors
    step = metrics(workdir)[-1]["step"]
    assert step < 30
    assert max(int(path.name) for path in (workdir / "checkpoints").iterdir()) == step
    first, _ = results(start(workdir, 2, 4, MESH))
    assert f"Resuming at step {step} of 30." in first["out"]
    resumed, expected = params(workdir / "last"), params(two[0] / "last")
    for name in expected:
        np.testing.assert_array_equal(resumed[name], expected[name], err_msg=name)


def test_init_from_and_a_teacher_work_with_two_processes(
    two: tuple[Path, list[dict[str, Any]]], tmp_path: Path
) -> None:
    taught = MESH | {"init_from": str(two[0] / "last"), "distill.teacher": str(two[0] / "best")}
    first, second = results(start(tmp_path / "two", 2, 4, taught | {"train.steps": 4}))
    results(start(tmp_path / "one", 1, 8, taught | {"train.steps": 4}))
    # The line starts with a path, so it may be wrapped anywhere.
    assert "tags 200 texts" in " ".join(first["out"].split()) and "texts" not in second["out"]
    losses = [
        [row["loss"] for row in metrics(tmp_path / name) if row["split"] == "train"]
        for name in ("two", "one")
    ]
    np.testing.assert_allclose(losses[0], losses[1], rtol=0, atol=1e-5)


def test_nonfinite_gradients_stop_all_processes(tmp_path: Path) -> None:
    diverging = {"optimizer.learning_rate": 1e38, "optimizer.schedule": "constant"}
    diverging |= {"optimizer.warmup": 0.0, "optimizer.clip_norm": 0.0}
    for process in start(tmp_path / "run", 2, 2, diverging):
        _, errors = process.communicate(timeout=240)
        assert process.returncode == 1
        assert "the largest gradients are those of" in errors, errors
        assert "The state before this step is saved." in errors


def test_processes_with_different_data_are_rejected(tmp_path: Path) -> None:
    for process in start(tmp_path / "run", 2, 1, {}, {"data.train": "train 210"}):
        _, errors = process.communicate(timeout=240)
        assert process.returncode == 1
        assert (
            "config, the vocabulary of data.train, data.train: not the same in process 1" in errors
        ), errors


def test_an_error_in_one_process_is_printed_by_all(tmp_path: Path) -> None:
    missing = {"data.format": "cluener", "data.train": "lost.json"}
    for process in start(tmp_path / "run", 2, 1, {}, missing):
        _, errors = process.communicate(timeout=240)
        assert process.returncode == 1
        assert "error: process 1: data.train: no file 'lost.json'" in errors


def test_missing_processes_are_reported(tmp_path: Path) -> None:
    (process,) = start(tmp_path / "run", 1, 1, {"mesh.distributed": True})
    _, errors = process.communicate(timeout=240)
    assert process.returncode == 1
    assert "error: mesh.distributed: the other processes were not found" in errors
    assert "JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES, JAX_PROCESS_ID" in errors
