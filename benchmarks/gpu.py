"""Measure one GPU: training throughput and MFU, time of epochs, memory, inference throughput.

    python benchmarks/gpu.py data/cluener vocab.txt

BERT-base in bfloat16, random weights, packed rows of real CLUENER text, dropout, AdamW. Takes less than eight
minutes. MFU is relative to the rate of one large matrix product in the same run, and counts only the model's
matrix products. If PyTorch has the GPU too, training.py and inference.py run afterwards and compare with
transformers. Without a GPU, the script runs a tiny model on the CPU and prints that it does. That only shows
that the script works.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # leaves GPU memory for PyTorch

import jax
import jax.numpy as jnp
from common import BASE, machine, make_training, read_tokens, step_flops

from flax_ner.config import default_config
from flax_ner.data.cluener import read_cluener
from flax_ner.fit import fit
from flax_ner.inference.tagger import Tagger
from flax_ner.model.bert import BertConfig
from flax_ner.model.tagging_model import cast_kernels, init_params
from flax_ner.text.labels import LabelSet
from flax_ner.text.tokenizer import CharTokenizer

TINY = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 128,
}
HERE = Path(__file__).resolve().parent
HAS_GPU = jax.default_backend() == "gpu"
SIZE = BASE if HAS_GPU else TINY
GRID = [(32, 128), (64, 128), (128, 128), (256, 128), (64, 256)] if HAS_GPU else [(8, 128)]
ROUNDS = 5


def matmul_tflops() -> float:
    """Return the TFLOP/s of one large bfloat16 matrix product."""
    n = 8192 if HAS_GPU else 256
    a = jnp.ones((n, n), jnp.bfloat16)
    product = jax.jit(lambda a: a @ a)
    product(a).block_until_ready()
    seconds = []
    for _ in range(3 * ROUNDS):
        begin = time.perf_counter()
        product(a).block_until_ready()
        seconds.append(time.perf_counter() - begin)
    return 2 * n**3 / statistics.median(seconds) / 1e12


def peak_gib() -> float:
    """Return the peak memory of the device so far in GiB, or 0 if it is unknown."""
    return (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use", 0) / 2**30


def measure_training(data: Path, vocab: Path, peak: float) -> list[dict[str, Any]]:
    """Measure training throughput by attention, rows per step and row length."""
    tokens, tokenizer, labels = read_tokens(data, vocab)
    results = []
    print(
        "| attention | rows | tokens per row | ms per step | sentences/s | MFU | peak GiB so far |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for attention in ("cudnn", "xla"):  # cudnn needs less memory, and the peak only rises
        # cuDNN's kernel has no dropout of attention probabilities.
        options: dict[str, Any] = {"attention": attention, "compute_dtype": "bfloat16"}
        if attention == "cudnn":
            options["attention_probs_dropout_prob"] = 0.0
        model = BertConfig(len(tokenizer.tokens), len(labels), **SIZE, **options)
        for rows, length in GRID:
            timed_steps, steps = make_training(tokens, model, rows, length, 20 if HAS_GPU else 2)
            runs = [timed_steps() for _ in range(ROUNDS)]
            seconds = statistics.median(run[1] for run in runs) / steps
            row = {
                "attention": attention, "rows": rows, "length": length,
                "ms": round(seconds * 1e3, 2),
                "sentences_per_second": round(statistics.median(n / s for n, s in runs), 1),
                "mfu": round(step_flops(model, rows, length) / seconds / 1e12 / peak, 3),
                "peak_gib": round(peak_gib(), 2),
            }  # fmt: skip
            results.append(row)
            del timed_steps  # frees the state on the device
            print(
                f"| {attention} | {rows} | {length} | {row['ms']} | {row['sentences_per_second']} "
                f"| {row['mfu']:.1%} | {row['peak_gib']} |",
                flush=True,
            )
    return results


def measure_epochs(data: Path, vocab: Path, folder: Path) -> dict[str, float]:
    """Return the seconds of four epochs with data loading and evaluation: cold and warm compilation cache."""
    seconds = {}
    for name in ("compiling", "compiled"):
        config = default_config()
        config.model.hidden_act = "gelu_new"
        config.update_from_flattened_dict({f"model.{key}": value for key, value in SIZE.items()})
        config.model.compute_dtype = "bfloat16"
        config.tokenizer.vocab = str(vocab)
        config.data.train, config.data.dev = str(data / "train.json"), str(data / "dev.json")
        config.data.batch_size = 32 if HAS_GPU else 8
        config.train.epochs = 4 if HAS_GPU else 1
        config.checkpoint.every = 1_000_000  # only one, at the end
        begin = time.perf_counter()
        with redirect_stdout(StringIO()):
            fit(config, folder / name)
        seconds[name] = round(time.perf_counter() - begin, 2)
    return seconds


def measure_inference(data: Path, vocab: Path) -> float:
    """Return the sentences per second of `tagger(texts)` on the dev set, repeated on a GPU."""
    texts = [example.text for example in read_cluener(data / "dev.json")] * (10 if HAS_GPU else 1)
    labels = LabelSet([f"type{i}" for i in range(10)])
    tokenizer = CharTokenizer(vocab)
    model = BertConfig(len(tokenizer.tokens), len(labels), **SIZE, compute_dtype="bfloat16")
    params = cast_kernels(model, init_params(model, jax.random.key(0)))  # as `load` does
    tagger = Tagger(model, params, tokenizer, labels, 128, batch_size=256)
    tagger(texts)
    rates = []
    for _ in range(ROUNDS):
        begin = time.perf_counter()
        tagger(texts)
        rates.append(len(texts) / (time.perf_counter() - begin))
    return round(statistics.median(rates), 1)


def torch_sees_gpu() -> bool:
    try:
        import torch
    except ImportError:
        print("\nPyTorch is not installed. It is left out of the comparison.")
        return False
    if not torch.cuda.is_available():
        print("\nPyTorch cannot use CUDA here. It is left out of the comparison.")
        return False
    return True


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, help="folder with train.json and dev.json")
    parser.add_argument("vocab", type=Path, help="vocab.txt")
    options = parser.parse_args()
    data, vocab = options.data.absolute(), options.vocab.absolute()
    if not HAS_GPU:
        print(
            f"jax finds no GPU, only {jax.devices()[0].device_kind}. A tiny model shows that the script works."
        )
        print("The numbers below say nothing about a GPU.\n")
    row: dict[str, Any] = {"reduced": not HAS_GPU}
    with tempfile.TemporaryDirectory() as folder:
        jax.config.update("jax_compilation_cache_dir", os.path.join(folder, "compiled"))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
        row["product_tflops"] = round(matmul_tflops(), 2)
        print(f"One bfloat16 matrix product: {row['product_tflops']} TFLOP/s.\n")
        row["training"] = measure_training(data, vocab, row["product_tflops"])
        row["epochs_seconds"] = measure_epochs(data, vocab, Path(folder))
        row["inference_sentences_per_second"] = measure_inference(data, vocab)
    print(f"\nTraining with evaluation, seconds: {row['epochs_seconds']}")
    print(f"Inference: {row['inference_sentences_per_second']} sentences/s")
    row |= machine("jax", "flax", "optax")
    print(f"\n`{json.dumps(row)}`", flush=True)
    if HAS_GPU and torch_sees_gpu():
        for script in ("training.py", "inference.py"):
            command = [sys.executable, str(HERE / script), str(data), str(vocab), "--size", "base"]
            subprocess.run(command, check=True)


if __name__ == "__main__":
    main()
