"""The benchmark that needs a GPU runs without one, reduced, and says so."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from flax_ner.text.formats import write_cluener
from flax_ner.text.synthetic import synthetic
from flax_ner.text.tokenizer import build_vocab, write_vocab

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.slow
def test_the_script_for_a_gpu_runs_on_a_cpu_and_says_so(tmp_path: Path) -> None:
    train = synthetic("train", 300)
    write_cluener(tmp_path / "train.json", train)
    write_cluener(tmp_path / "dev.json", synthetic("dev", 40))
    write_vocab(tmp_path / "vocab.txt", build_vocab(example.text for example in train))
    result = subprocess.run(
        [sys.executable, "benchmarks/gpu.py", str(tmp_path), str(tmp_path / "vocab.txt")],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("There is no GPU here")
    row = json.loads(result.stdout.strip().splitlines()[-1].strip("`"))
    assert row["reduced"] is True
    assert {(r["attention"], r["mfu"] > 0) for r in row["training"]} == {
        ("xla", True),
        ("cudnn", True),
    }
    assert row["epochs_seconds"]["compiled"] > 0
    assert row["inference_sentences_per_second"] > 0
