"""`train.py` and the model that it writes, with the smallest model. `test_training.py` is the longer test."""

import subprocess
import sys
from pathlib import Path

from flax_ner import load

ROOT = Path(__file__).resolve().parents[2]
TINY = [
    "--config.model.hidden_size=16",
    "--config.model.num_hidden_layers=1",
    "--config.model.num_attention_heads=2",
    "--config.model.intermediate_size=16",
    "--config.data.train=train 120",
    "--config.data.dev=dev 20",
    "--config.train.steps=10",
    "--config.mesh.data=1",
]


def test_train_py_writes_a_model_that_tags(tmp_path: Path) -> None:
    command = [sys.executable, "train.py", "--config=configs/demo.py", f"--workdir={tmp_path}/run"]
    result = subprocess.run(
        [*command, *TINY], cwd=ROOT, capture_output=True, text=True, check=False, timeout=300
    )
    assert result.returncode == 0, result.stderr
    assert "precision" in result.stdout
    assert "Predictions for the first sentences" in result.stdout
    text = "王建国在东海市工作。"
    for name in ("best", "last"):
        (entities,) = load(tmp_path / "run" / name)([text])
        assert all(text[entity.start : entity.end] == entity.text for entity in entities)
