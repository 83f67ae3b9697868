"""Two processes of four devices each, over the loopback, next to one of eight."""

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

from flax_ner.weights.model_dir import load_model
from flax_ner.weights.names import flatten

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[2]
# `fit` with the demo's configuration made small; prints what the process held of each batch.
WORKER = """
import json, os, sys, time
from pathlib import Path
from configs.demo import get_config
from flax_ner.errors import UserError
from flax_ner.text.batches import Batcher
from flax_ner.training.interruption import Interrupted
from flax_ner.training.log import RunLog
from flax_ner.training.loop import fit

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
def none_left_behind() -> Iterator[None]:
    yield
    for process in STARTED:
        process.kill()
        process.communicate()


def start(workdir: Path, processes: int, devices: int, *changes: dict[str, Any]) -> list[Any]:
    """`processes` workers; `changes` are of the configuration of each, or of all."""
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
    """What the workers print; their other output under "out"."""
    found = []
    for (out, errors), process in zip(
        [p.communicate(timeout=300) for p in started], started, strict=True
    ):
        assert process.returncode == 0, errors
        out, _, row = out.partition("RESULT ")
        found.append(json.loads(row) | {"out": out, "errors": errors})
    return found


def metrics(workdir: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def params(model: Path) -> dict[str, np.ndarray]:
    return {name: np.asarray(array) for name, array in flatten(load_model(model).params).items()}


MESH = {"mesh.data": 2, "mesh.fsdp": 4}


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    """Work directory and results of two processes."""
    workdir = tmp_path_factory.mktemp("two") / "run"
    return workdir, results(start(workdir, 2, 4, MESH))


def test_two_processes_train_as_one_does(
    two: tuple[Path, list[dict[str, Any]]], tmp_path: Path
) -> None:
    workdir, (first, second) = two
    (alone,) = results(start(tmp_path / "one", 1, 8, MESH))
    rows, expected = metrics(workdir), metrics(tmp_path / "one")
    assert [(row["split"], row["step"]) for row in rows] == [
        (row["split"], row["step"]) for row in expected
    ]
    for row, wanted in zip(rows, expected, strict=True):
        name = "loss" if row["split"] == "train" else "f1"
        assert row[name] == pytest.approx(wanted[name], abs=1e-5)
    # Every sentence of dev once, though 53 do not divide by 8.
    for scores in (first, second):
        assert [scores[name] for name in ("f1", "gold", "predicted")] == [
            alone[name] for name in ("f1", "gold", "predicted")
        ]
    # A process builds its four rows of each batch of eight.
    for one, half, other in zip(alone["built"], first["built"], second["built"], strict=True):
        for (steps, rows_, width), *halves in zip(one, half, other, strict=True):
            assert halves == [[steps, rows_ // 2, width]] * 2


def test_only_the_first_process_speaks(two: tuple[Path, list[dict[str, Any]]]) -> None:
    workdir, (first, second) = two
    assert "What it finds" in first["out"]
    said = second["out"].splitlines()  # Gloo's own lines may be mixed
    assert not [line for line in said if line.strip() and "Gloo" not in line and "peer" not in line]
    steps = [row["step"] for row in metrics(workdir) if row["split"] == "train"]
    assert steps == sorted(set(steps)) and steps[-1] == 30
    assert {path.name for path in workdir.iterdir() if not path.name.startswith(".")} == {
        "config.json", "inputs.json", "metrics.jsonl", "checkpoints", "best", "last",
    }  # fmt: skip


def test_a_signal_to_any_process_stops_all_and_they_go_on_to_the_same_bits(
    two: tuple[Path, list[dict[str, Any]]], tmp_path: Path
) -> None:
    workdir = tmp_path / "stopped"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SECONDS_PER_DISPATCH", "0.5")  # the notice travels for up to a second
        started = start(workdir, 2, 4, MESH | {"train.steps_per_dispatch": 1})
    deadline = time.monotonic() + 240
    while not (workdir / "metrics.jsonl").exists() or not metrics(workdir):
        assert started[0].poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    started[1].send_signal(signal.SIGTERM)
    for process in started:
        _, errors = process.communicate(timeout=240)
        assert process.returncode == 75, errors
        assert "stopped by SIGTERM behind step" in errors
    step = metrics(workdir)[-1]["step"]
    assert step < 30
    assert max(int(path.name) for path in (workdir / "checkpoints").iterdir()) == step
    first, _ = results(start(workdir, 2, 4, MESH))
    assert f"Going on at step {step} of 30." in first["out"]
    found, wanted = params(workdir / "last"), params(two[0] / "last")
    for name in wanted:
        np.testing.assert_array_equal(found[name], wanted[name], err_msg=name)


def test_weights_to_start_from_and_a_teacher_are_taken_by_two_as_by_one(
    two: tuple[Path, list[dict[str, Any]]], tmp_path: Path
) -> None:
    taught = MESH | {"init_from": str(two[0] / "last"), "distill.teacher": str(two[0] / "best")}
    first, second = results(start(tmp_path / "two", 2, 4, taught | {"train.steps": 4}))
    results(start(tmp_path / "one", 1, 8, taught | {"train.steps": 4}))
    # The line begins with a path, so anywhere may be its break.
    assert "tags 200 texts" in " ".join(first["out"].split()) and "texts" not in second["out"]
    losses = [
        [row["loss"] for row in metrics(tmp_path / name) if row["split"] == "train"]
        for name in ("two", "one")
    ]
    np.testing.assert_allclose(losses[0], losses[1], rtol=0, atol=1e-5)


def test_numbers_that_are_not_finite_stop_all(tmp_path: Path) -> None:
    wild = {"optimizer.learning_rate": 1e38, "optimizer.schedule": "constant"}
    wild |= {"optimizer.warmup": 0.0, "optimizer.clip_norm": 0.0}
    for process in start(tmp_path / "run", 2, 2, wild):
        _, errors = process.communicate(timeout=240)
        assert process.returncode == 1
        assert "the largest gradients are those of" in errors, errors
        assert "The state before it is saved." in errors


def test_processes_with_other_data_are_told_apart(tmp_path: Path) -> None:
    for process in start(tmp_path / "run", 2, 1, {}, {"data.train": "train 210"}):
        _, errors = process.communicate(timeout=240)
        assert process.returncode == 1
        assert (
            "config, the vocabulary of data.train, data.train: not the same in process 1" in errors
        ), errors


def test_a_fault_in_one_process_is_told_by_all(tmp_path: Path) -> None:
    lost = {"data.format": "cluener", "data.train": "lost.json"}
    for process in start(tmp_path / "run", 2, 1, {}, lost):
        _, errors = process.communicate(timeout=240)
        assert process.returncode == 1
        assert "error: process 1: data.train: no file 'lost.json'" in errors


def test_processes_that_cannot_be_found_are_told(tmp_path: Path) -> None:
    (process,) = start(tmp_path / "run", 1, 1, {"mesh.distributed": True})
    _, errors = process.communicate(timeout=240)
    assert process.returncode == 1
    assert "error: mesh.distributed: the other processes are not found" in errors
    assert "JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES, JAX_PROCESS_ID" in errors
