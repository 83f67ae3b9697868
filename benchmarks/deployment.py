"""Compare ways to use one trained softmax tagger: F1, size of the files, memory and throughput.

    python benchmarks/deployment.py MODEL data/cluener/dev.json [--optimum /venv/bin/python] [--rounds 5]
    python benchmarks/deployment.py small data/cluener/dev.json --vocab vocab.txt

MODEL is a model directory, or the shape of an untrained model: small (4 layers x 256), narrow (12 x 384) or
base (12 x 768). Gold entities are those of the data, or for an untrained model those that it predicts in
float32.

Ways: flax_ner with JAX; flax_ner with its ONNX exports; the pipeline of transformers. With --optimum, the
Python of an environment with optimum-onnx, also the pipeline of Optimum on our ONNX file, and onnxruntime on
the files that Optimum's own commands export, optimize (-O2) and quantize (--avx512_vnni --per_channel), with
texts sorted by length. Each way is a process of its own. The runs are interleaved, and ratios are taken within
a round. Needs PyTorch, transformers, onnx and onnxruntime.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from common import ROOT, SHAPES, busy_seconds, load_or_make, machine

from flax_ner.data.formats import read_examples
from flax_ner.evaluation.metrics import score
from flax_ner.huge_pages import REQUEST, VARIABLE
from flax_ner.text.examples import Example, gold_entities
from flax_ner.weights.export import export
from flax_ner.weights.export_folder import ONNX_FILES
from flax_ner.weights.model_dir import ModelDir, save_model
from flax_ner.weights.onnx_export import export_onnx

WORKER = str(Path(__file__).with_name("deployment_worker.py"))
SINGLES = 100  # texts that are tagged one by one, for the latency
QUANTIZE = ("--avx512_vnni", "--per_channel")
BASELINE = "transformers pipeline, float32"


class Way(NamedTuple):
    """How to tag: arguments of the worker, the file or folder with the parameters, and a Python."""

    arguments: Sequence[str | Path]
    weights: Path
    python: str = sys.executable


class Worker:
    """A process that tags texts in one way."""

    def __init__(self, way: Way):
        # All processes get huge pages, because the commands of flax_ner ask for them.
        environment = os.environ | {VARIABLE: REQUEST, "PYTHONPATH": str(ROOT)}
        self.process = subprocess.Popen(
            [way.python, WORKER, *map(str, way.arguments)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment,
        )  # fmt: skip
        self.read()

    def read(self) -> dict[str, Any]:
        assert self.process.stdout
        line = self.process.stdout.readline()
        if not line:
            sys.exit(f"{self.process.args} failed")
        row: dict[str, Any] = json.loads(line)
        return row

    def tag(self, texts: list[str]) -> dict[str, Any]:
        """Tag texts in one call. Returns the worker's row, with the share of the cores that others used."""
        assert self.process.stdin
        busy = busy_seconds()
        self.process.stdin.write(json.dumps(texts) + "\n")
        self.process.stdin.flush()
        row = self.read()
        cores = row["seconds"] * (os.cpu_count() or 1)
        row["others_percent"] = 100 * (busy_seconds() - busy - row["cpu_seconds"]) / cores
        return row


def make_files(model: ModelDir, folder: Path, optimum: str | None) -> dict[str, Way]:
    """Write the model in all forms, and return the ways to use them."""
    save_model(folder / "jax", model)
    assert model.labels
    labels = None if model.labels.bio_names() == model.labels.names else "bio"
    export(model, folder / "hf", "hf", labels)
    ways = {
        f"flax_ner, JAX, {dtype}": Way(["flax_ner", folder / "jax", dtype], folder / "jax")
        for dtype in ("float32", "bfloat16")
    }
    for dtype in ("float32", "int8"):
        out = folder / dtype
        export_onnx(model, out, dtype, labels)
        ways[f"flax_ner, ONNX, {dtype}"] = Way(["flax_ner", out], out / ONNX_FILES[dtype])
    for dtype in ("float32", "bfloat16"):
        way = Way(["pipeline", folder / "hf", dtype], folder / "hf" / "model.safetensors")
        ways[f"transformers pipeline, {dtype}"] = way
    if optimum is None:
        return ways
    ours = folder / "float32"
    ways["Optimum pipeline, float32, our file"] = Way(
        ["optimum", ours], ours / ONNX_FILES["float32"], optimum
    )
    run = [str(Path(optimum).with_name("optimum-cli"))]
    for command in (
        ["export", "onnx", "--model", "hf", "--task", "token-classification", "exported"],
        ["onnxruntime", "optimize", "--onnx_model", "exported", "-o", "optimized", "-O2"],
        ["onnxruntime", "quantize", "--onnx_model", "exported", "-o", "quantized", *QUANTIZE],
    ):  # fmt: skip
        subprocess.run([*run, *command], check=True, cwd=folder, capture_output=True)
    for name, file in (
        ("float32, -O2", "optimized/model_optimized.onnx"),
        ("int8", "quantized/model_quantized.onnx"),
    ):
        path = folder / file
        ways[f"onnxruntime, {name}"] = Way(["onnxruntime", path.parent, path.name], path)
    return ways


def size_mb(path: Path) -> float:
    """Return the size of a file and its `_data`, or of all files in a folder, in MB."""
    files = path.parent.glob(f"{path.name}*") if path.is_file() else path.rglob("*")
    return sum(file.stat().st_size for file in files if file.is_file()) / 1e6


def measure(
    ways: dict[str, Way], examples: Sequence[Example], trained: bool, rounds: int
) -> dict[str, Any]:
    """Run all ways, print a table and return its rows."""
    texts = [example.text for example in examples]
    singles = sorted(set(texts))[:SINGLES]
    gold = [[(e.type, e.start, e.end) for e in row] for row in gold_entities(examples)]
    workers, scores, latency, peak = {}, {}, {}, {}
    for name, way in ways.items():
        workers[name] = Worker(way)
        entities = workers[name].tag(texts)["entities"]  # also warms up
        if not trained and not scores:
            gold = entities
        scores[name] = score(gold, entities, "lenient").f1
        print(f"{name}: loaded, F1 {scores[name]:.4f}", file=sys.stderr, flush=True)
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, worker in workers.items():
            runs[name].append(worker.tag(texts))
    one: dict[str, list[float]] = {name: [] for name in ways}
    for text in singles:
        for name, worker in workers.items():
            one[name].append(worker.tag([text])["seconds"])
    for name, worker in workers.items():
        latency[name] = statistics.median(one[name])
        peak[name] = worker.tag(texts[:1])["peak_mib"]
        worker.process.kill()

    print(
        f"\n{len(texts)} texts, {rounds} rounds\n\n"
        "| way | texts/s | ratio to the pipeline | one text, ms | F1 | MB | peak MiB | others' CPU, % |\n"
        "| --- | --- | --- | --- | --- | --- | --- | --- |"
    )
    rows = {}
    for name, way in ways.items():
        seconds = [run["seconds"] for run in runs[name]]
        ratio = statistics.median(
            base["seconds"] / own for base, own in zip(runs[BASELINE], seconds, strict=True)
        )
        rows[name] = row = {
            "texts_per_second": round(len(texts) / statistics.median(seconds), 1),
            "ratio": round(ratio, 2),
            "single_ms": round(1e3 * latency[name], 1),
            "f1": round(scores[name], 4),
            "mb": round(size_mb(way.weights), 1),
            "peak_mib": round(peak[name]),
            "others_percent": round(statistics.median(r["others_percent"] for r in runs[name])),
        }
        print(f"| {name} | {' | '.join(map(str, row.values()))} |")
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help=f"model directory, or one of {', '.join(SHAPES)}")
    parser.add_argument("data", help="labelled data, such as CLUENER's dev.json")
    parser.add_argument("--vocab", type=Path, help="vocab.txt, for an untrained model")
    parser.add_argument("--optimum", help="Python of an environment with optimum-onnx")
    parser.add_argument("--texts", type=int, help="use only the first N texts")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    model = load_or_make(options.model, options.vocab)
    examples = read_examples(options.data, "cluener")[: options.texts]
    with tempfile.TemporaryDirectory() as folder:
        ways = make_files(model, Path(folder), options.optimum)
        rows = measure(ways, examples, options.model not in SHAPES, options.rounds)
    record = {"model": Path(options.model).name, "texts": len(examples), "ways": rows}
    record |= machine("jax", "flax", "onnxruntime", "torch", "transformers")
    print(f"\n`{json.dumps(record)}`")


if __name__ == "__main__":
    main()
