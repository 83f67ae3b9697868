"""benchmarks/exports.py: exports compared with their model."""

import json
import sys
from pathlib import Path

import pytest

from flax_ner.data.cluener import write_cluener
from flax_ner.text.examples import Example
from flax_ner.weights.model_dir import save_model
from tests.benchmarks.scripts import load_benchmark
from tests.exports import random_model
from tests.subwords import TEXTS


def test_exports_are_compared_with_their_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for package in ("onnx", "onnxruntime"):
        pytest.importorskip(package, reason="the extra `onnx` is not installed")
    save_model(tmp_path / "model", random_model())
    write_cluener(tmp_path / "data.json", [Example(text, ()) for text in TEXTS])
    arguments = ["exports.py", str(tmp_path / "model"), str(tmp_path / "data.json")]
    monkeypatch.setattr(sys, "argv", arguments)
    load_benchmark("exports").main()
    ways = json.loads(capsys.readouterr().out.splitlines()[-1].strip("`"))["ways"]
    assert ways["ONNX, float32"]["other_texts"] == 0
    assert ways["ONNX, float32"]["difference"] < 1e-4 < ways["ONNX, int8"]["difference"]
