"""benchmarks/gpu.py, reduced to a CPU."""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import jax
import pytest

from flax_ner.data.cluener import write_cluener
from flax_ner.data.synthetic import synthetic
from flax_ner.model.bert import BertConfig
from flax_ner.model.tagging_model import init_params
from flax_ner.text.vocab import build_vocab, write_vocab
from flax_ner.weights.model_dir import ModelDir, save_model
from tests.benchmarks.scripts import ROOT, load_benchmark


@pytest.fixture(scope="module")
def gpu() -> ModuleType:
    return load_benchmark("gpu")


@pytest.fixture
def gpu_inputs(tmp_path: Path) -> list[str]:
    """Write data, a tiny encoder and text, and return the arguments of benchmarks/gpu.py that name them."""
    train = synthetic("train", 300)
    vocab = build_vocab(example.text for example in train)
    write_cluener(tmp_path / "train.json", train)
    write_cluener(tmp_path / "dev.json", synthetic("dev", 40))
    write_vocab(tmp_path / "vocab.txt", vocab)
    (tmp_path / "text.txt").write_text("\n".join(example.text for example in train * 20))
    config = BertConfig(len(vocab), 1, 64, 2, 2, 128)
    encoder = {"encoder": init_params(config, jax.random.key(0))["encoder"]}
    save_model(tmp_path / "encoder", ModelDir(config, None, vocab, 128, encoder))
    paths = [tmp_path / name for name in ("vocab.txt", "encoder", "text.txt")]
    return [str(tmp_path), str(paths[0]), "--encoder", str(paths[1]), "--text", str(paths[2])]


@pytest.mark.slow
def test_gpu_benchmark_runs_reduced_on_a_cpu(
    gpu: ModuleType, gpu_inputs: list[str], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    result = subprocess.run(
        [sys.executable, "benchmarks/gpu.py", *gpu_inputs, "--out", str(out), "--budget", "1500"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stdout
    assert result.stdout.startswith("jax finds no GPU")
    results: dict[str, list[dict[str, Any]]] = {}
    for line in (out / "results.jsonl").read_text().splitlines():
        row = json.loads(line)
        results.setdefault(row.pop("part"), []).append(row)
    assert list(results) == ["check", *gpu.PARTS]
    assert results["softmax"][0]["steps"] == results["crf"][0]["steps"] == 4
    assert 0 <= results["softmax"][0]["strict_f1"] <= 1
    (base, _), (tagging, *_), (pretraining, _) = (
        results[name] for name in ("base", "tagging", "masked_lm")
    )
    assert base["attention"] == "xla" and base["mfu"] > 0
    assert tagging["texts"] == 40 and tagging["entities"] > 0 and tagging["texts_per_s"] > 0
    # Rows are nearly full, and all of them have the same number of tokens.
    tokens_per_step = pretraining["tokens_per_s"] / pretraining["steps_per_s"]
    assert tokens_per_step == pytest.approx(8 * 128, rel=0.5)
    *attention, trained, _ = results["cudnn"]
    assert all(
        0 < row["gradient_error"] < load_benchmark("gpu_parts").MAX_ATTENTION_ERROR
        for row in attention
    )
    assert trained["attention"] == "cudnn" and trained["ms_per_step"] > 0
    caches = [row["compilation_cache"] for row in results["epochs"][:2]]
    assert caches == ["cold", "warm"]
    assert "skipped" in results["transformers"][0]
    markdown = (out / "results.md").read_text()
    assert all(f"## {part.title}\n" in markdown for part in gpu.PARTS.values())
    assert markdown.strip() in result.stdout


@pytest.mark.slow
def test_gpu_benchmark_goes_on_after_a_part_that_fails_or_hangs(
    gpu: ModuleType, gpu_inputs: list[str], tmp_path: Path
) -> None:
    (tmp_path / "encoder" / "config.json").unlink()
    arguments, log = [*gpu_inputs, "--reduced", "--peak", "1"], tmp_path / "log.txt"
    report, part = gpu.Report(tmp_path / "out"), gpu.PARTS["softmax"]
    rows, note = gpu.run_part("softmax", part, 300, arguments, log, report)
    assert rows == [] and note.startswith("The part failed")
    assert str(tmp_path / "encoder") in note  # train.py's own message
    rows, note = gpu.run_part("tagging", gpu.PARTS["tagging"], 0.5, arguments, log, report)
    assert rows == [] and note.startswith("The part was stopped after")


@pytest.mark.slow
def test_gpu_benchmark_skips_what_does_not_fit_into_the_budget(
    gpu: ModuleType, gpu_inputs: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, vocab, _, encoder, *_ = gpu_inputs
    options = argparse.Namespace(
        data=Path(data), vocab=Path(vocab), encoder=Path(encoder), text=None, out=tmp_path / "out",
        budget=1,
    )  # fmt: skip
    assert gpu.measure_all(options, tmp_path / "log.txt")
    printed = capsys.readouterr().out
    assert printed.count("Skipped: it takes about") == len(gpu.PARTS) - 1
    assert "Skipped: it needs --text." in printed
