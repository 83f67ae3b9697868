"""Benchmarks that need what is not here run without it: the one for a GPU, and the calculation."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from flax_ner.text.cluener import write_cluener
from flax_ner.text.synthetic import synthetic
from flax_ner.text.vocab import build_vocab, write_vocab

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


@pytest.mark.slow
def test_the_calculation_for_many_chips_runs_and_agrees_with_the_compiler() -> None:
    result = subprocess.run(
        [sys.executable, "benchmarks/scaling.py", "--reduced"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout.strip().splitlines()[-1].strip("`"))
    for model in ("BERT-base", "BERT-large"):
        alone, *_, most = found[model]
        assert (alone["data"], alone["fsdp"], alone["sent"]) == (1, 1, 0)
        assert (most["data"], most["fsdp"]) == (1, 256)
        assert alone["state"] / 256 < most["state"] < alone["state"] / 100  # small arrays are whole
    forms = {(row["data"], row["fsdp"]): row for row in found["compiled"] if row["for"] == "CPU"}
    assert forms.keys() == {(8, 1), (2, 4), (1, 8)}
    # Gradients and nothing else; the divided forms depend on what the compiler makes of them.
    assert forms[8, 1]["compiled"] == pytest.approx(forms[8, 1]["formula"], rel=0.01)
