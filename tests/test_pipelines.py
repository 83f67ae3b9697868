"""The examples of docs/pipelines.md run as written."""

import contextlib
import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from flax_ner.weights.model_dir import ModelDir, save_model
from tests.inference.helpers import CONFIG, LABELS, hand_made_params
from tests.inference.helpers import VOCAB as TOKENS

ROOT = Path(__file__).resolve().parents[1]
# 王 is B-name, 建 is I-name, everything else is O.
VOCAB = [{"b": "王", "i": "建"}.get(token, token) for token in TOKENS]


def example(package: str) -> str:
    """Return the example in docs/pipelines.md that imports a package first."""
    page = (ROOT / "docs" / "pipelines.md").read_text("utf-8")
    (code,) = re.findall(
        rf"^```python\n(import {package}\b.*?)^```$", page, re.MULTILINE | re.DOTALL
    )
    return str(code)


@pytest.fixture(autouse=True)
def in_folder_with_a_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_model(tmp_path / "runs/demo/best", ModelDir(CONFIG, LABELS, VOCAB, 64, hand_made_params()))
    monkeypatch.chdir(tmp_path)


def run(code: str) -> str:
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        exec(compile(code, "example", "exec"), {})
    return output.getvalue()


def test_the_pandas_example() -> None:
    pytest.importorskip("pandas")
    lines = [line.split() for line in run(example("pandas")).splitlines()]
    assert lines == [
        ["text", "type", "start", "end"],
        ["a", "王建国在东海市工作。", "name", "0.0", "2.0"],
        ["b", "近日天气比较好。", "NaN", "NaN", "NaN"],
    ]


def test_the_spacy_example() -> None:
    pytest.importorskip("spacy")
    assert run(example("spacy")) == "[('王建', 'name')]\n[('王建', 0.831)]\n"


@pytest.mark.slow
def test_the_ray_example(tmp_path: Path) -> None:
    pytest.importorskip("ray.data")
    # The first batches have no entities at all.
    texts = ["近日天气"] * 40 + ["王建国", "王"] * 10
    Path("texts.jsonl").write_text("".join(json.dumps({"text": t}) + "\n" for t in texts))
    Path("example.py").write_text(example("ray"), "utf-8")
    # "local" starts a new cluster. Otherwise Ray joins one that runs on this machine.
    environment = os.environ | {
        "PYTHONPATH": str(ROOT), "RAY_ADDRESS": "local", "RAY_USAGE_STATS_ENABLED": "0",
    }  # fmt: skip
    result = subprocess.run(
        [sys.executable, "example.py"], env=environment, capture_output=True, text=True,
        check=False, timeout=300,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    lines = [line for path in Path("tagged").iterdir() for line in path.read_text().splitlines()]
    rows = [json.loads(line) for line in lines]
    found = sorted((row["text"], [e["text"] for e in row["entities"]]) for row in rows)
    expected = {"近日天气": [], "王建国": ["王建"], "王": ["王"]}
    assert found == sorted((text, expected[text]) for text in texts)
    assert list(rows[-1]) == ["text", "entities"]
