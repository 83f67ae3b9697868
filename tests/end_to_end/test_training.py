"""End to end: train, interrupt, resume, load, evaluate, predict."""

import json
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from flax_ner import load
from flax_ner.data.synthetic import synthetic
from flax_ner.weights.model_dir import load_model

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[2]
STEPS = 120
# A shorter version of the demo.
SMALL = [
    "--config.model.hidden_size=64",
    "--config.model.intermediate_size=128",
    "--config.data.train=train 1000",
    "--config.data.dev=dev 100",
    f"--config.train.steps={STEPS}",
    "--config.train.steps_per_dispatch=5",
    "--config.checkpoint.every=10",
    "--config.optimizer.learning_rate=3e-3",
]


def train(workdir: Path, *arguments: str) -> list[str]:
    return [
        sys.executable,
        "train.py",
        "--config=configs/demo.py",
        f"--workdir={workdir}",
        *SMALL,
        *arguments,
    ]


def run(*command: str, stdin: str | None = None) -> str:
    result = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, input=stdin, check=False, timeout=300
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def params(model: Path) -> dict[str, np.ndarray]:
    return {
        name: np.asarray(array)
        for name, array in flatten_dict(load_model(model).params, sep="/").items()
    }


def metrics(workdir: Path) -> list[dict[str, Any]]:
    """Return the lines of metrics.jsonl without fields that depend on the clock."""
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    clock = ("seconds", "sentences_per_second")
    return [{name: value for name, value in row.items() if name not in clock} for row in rows]


@pytest.fixture(scope="module", autouse=True)
def user_environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Compile with optimizations and with the persistent cache, as users do."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XLA_FLAGS", "--xla_force_host_platform_device_count=2")
        patch.setenv("JAX_ENABLE_COMPILATION_CACHE", "true")
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the work directory of an uninterrupted run."""
    workdir = tmp_path_factory.mktemp("run") / "whole"
    output = run(*train(workdir))
    assert "precision" in output and "Predictions for the first sentences" in output
    return workdir


def test_a_run_writes_models_metrics_and_its_configuration(trained: Path) -> None:
    rows = metrics(trained)
    steps = [row["step"] for row in rows if row["split"] == "train"]
    assert steps == sorted({*range(5, STEPS + 1, 5), *range(24, STEPS, 24)})  # 24 per epoch
    dev = [row for row in rows if row["split"] == "dev"]
    assert dev[-1]["step"] == STEPS
    assert dev[-1]["f1"] > 0.3  # it learns
    assert json.loads((trained / "config.json").read_text())["train"]["steps"] == STEPS
    assert {path.name for path in (trained / "checkpoints").iterdir()} >= {"110", "120"}
    scores = load(trained / "best").score(synthetic("dev", 100))
    assert scores.f1 == pytest.approx(max(row["f1"] for row in dev), abs=1e-9)


def assert_same_run(actual: Path, expected: Path) -> None:
    """Assert bit-identical models and equal metrics."""
    for model in ("best", "last"):
        arrays, expected_arrays = params(actual / model), params(expected / model)
        assert expected_arrays.keys() == arrays.keys()
        for name in expected_arrays:
            np.testing.assert_array_equal(
                arrays[name], expected_arrays[name], err_msg=f"{model} {name}"
            )
    assert metrics(actual) == metrics(expected)


def test_signals_stop_a_run_with_its_state_saved(trained: Path, tmp_path: Path) -> None:
    workdir = tmp_path / "stopped"
    per_epoch = "--config.checkpoint.every=0"  # other checkpoints do not change the result
    for number in (signal.SIGTERM, signal.SIGINT):
        before = (workdir / "metrics.jsonl").read_text() if workdir.exists() else ""
        process = subprocess.Popen(
            train(workdir, per_epoch),
            cwd=ROOT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        deadline = time.monotonic() + 120
        while not (workdir / "metrics.jsonl").exists() or (
            len((workdir / "metrics.jsonl").read_text()) <= len(before)
        ):
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.01)
        process.send_signal(number)
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 75, errors
        step = max(int(path.name) for path in (workdir / "checkpoints").iterdir())
        assert f"stopped by {number.name} after step {step} of {STEPS}" in errors
        assert "The same command resumes from there." in errors
        assert [row["step"] for row in metrics(workdir)][-1] == step
    run(*train(workdir, per_epoch))
    assert_same_run(workdir, trained)


def test_thirty_kills_at_random_times_do_not_change_the_result(
    trained: Path, tmp_path: Path
) -> None:
    workdir, rest = tmp_path / "killed", random.Random(0)
    kills = 0
    while kills < 30:
        process = subprocess.Popen(
            train(workdir), cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )
        try:
            _, errors = process.communicate(timeout=rest.uniform(1, 8))
            assert process.returncode == 0, errors
            shutil.rmtree(workdir)  # it finished before the kill: start over
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            kills += 1
    run(*train(workdir))
    assert_same_run(workdir, trained)


def test_repeating_a_finished_run_changes_nothing(trained: Path) -> None:
    before = metrics(trained), params(trained / "last")
    run(*train(trained))
    assert metrics(trained) == before[0]
    after = params(trained / "last")
    assert all((after[name] == before[1][name]).all() for name in after)


def test_fine_tuning_starts_from_a_trained_model(trained: Path, tmp_path: Path) -> None:
    arguments = [f"--config.init_from={trained}/best", "--config.train.steps=5"]
    output = run(*train(tmp_path / "tuned", *arguments, "--config.optimizer.learning_rate=1e-5"))
    assert "freshly initialised" not in output
    f1 = metrics(tmp_path / "tuned")[-1]["f1"]
    assert f1 == pytest.approx(max(row.get("f1", 0) for row in metrics(trained)), abs=0.05)
    output = run(*train(tmp_path / "other", *arguments, "--config.data.scheme=bio"))
    assert "The head is freshly initialised" in output


def test_evaluate_and_predict_from_the_command_line(trained: Path, tmp_path: Path) -> None:
    from flax_ner.data.cluener import write_cluener

    examples, data, out = synthetic("dev", 100), tmp_path / "dev.json", tmp_path / "scores.json"
    write_cluener(data, examples)
    command = [sys.executable, "-m", "flax_ner"]
    page = tmp_path / "report.html"
    more = ["--html", str(page), "--train", str(data), "--compare", f"{trained}/last"]
    output = run(*command, "evaluate", f"{trained}/best", str(data), "--json", str(out), *more)
    scores = json.loads(out.read_text())
    assert scores["groups"]["surface"]["seen in training"]["gold"] == scores["all"]["gold"]
    assert {"strict", "lenient"} == set(scores["conventions"])  # mmocr does not support BIOES tags
    assert "comparison" in scores and page.read_text().count("<article") == 100
    assert f"{scores['all']['f1']:.4f}" in output
    assert scores["all"]["f1"] == load(trained / "best").score(examples).f1
    text = "王建国在东海市工作。"
    lines = run(*command, "predict", f"{trained}/best", "--format", "jsonl", stdin=f"{text}\n\n")
    rows = [json.loads(line) for line in lines.splitlines()]
    assert [row["text"] for row in rows] == [text, ""]
    for entity in rows[0]["entities"]:
        assert text[entity["start"] : entity["end"]] == entity["text"]
        assert 0 < entity["score"] <= 1
    clue = run(*command, "predict", f"{trained}/best", "--format", "clue", stdin=f"{text}\n\n")
    first, second = map(json.loads, clue.splitlines())
    assert second == {"id": 1, "label": {}} and first["id"] == 0
    spans = [
        (kind, *span)
        for kind, surfaces in first["label"].items()
        for surface in surfaces.values()
        for span in surface
    ]
    assert sorted(spans) == sorted(
        (e["type"], e["start"], e["end"] - 1) for e in rows[0]["entities"]
    )
    most = ["--threshold", "1"]
    assert run(*command, "predict", f"{trained}/best", *most, stdin=text) == text + "\n"
    marked = run(*command, "predict", f"{trained}/best", stdin=text)
    assert re.sub(r"\[(.*?) \w+\]", r"\1", marked) == text + "\n"


def test_the_demo_generalises_and_teaches_a_student(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("XLA_FLAGS")  # one device, as most users have

    def f1(name: str, *fields: str) -> float:
        arguments = (f"--workdir={tmp_path}/{name}", *(f"--config.{field}" for field in fields))
        run(sys.executable, "train.py", "--config=configs/demo.py", *arguments)
        return metrics(tmp_path / name)[-1]["f1"]

    teacher = f1("demo")
    assert teacher >= 0.90
    # A student learns little from few labelled sentences, and much from the teacher's tags on others.
    texts = [example.text for example in synthetic("train", 3000)[200:]]
    (tmp_path / "more.txt").write_text("\n".join(texts), "utf-8")
    student = [
        "model.hidden_size=32", "model.intermediate_size=128", "model.num_hidden_layers=1",
        "optimizer.learning_rate=3e-3", "data.train=train 200",
        f"tokenizer.vocab={tmp_path}/demo/best/vocab.txt",
    ]  # fmt: skip
    alone = f1("alone", *student, "train.epochs=128", "eval.every=128")
    known = (f"distill.teacher={tmp_path}/demo/best", f"distill.texts={tmp_path}/more.txt")
    taught = f1(
        "taught", *student, *known, "train.epochs=8", "eval.every=8"
    )  # the same number of steps
    assert taught > alone + 0.3 and taught > 0.5
