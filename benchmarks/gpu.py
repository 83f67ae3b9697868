"""Everything about one GPU: training rate and its share of the device's, epochs, memory, inference.

    python benchmarks/gpu.py data/cluener vocab.txt

BERT-base in bfloat16, random weights, packed rows of real CLUENER text, dropout on, AdamW; under
eight minutes. The share ("MFU") is of what one large matrix product reaches in the same run, and
counts the model's products only. Where PyTorch sees the GPU too, training.py and inference.py
follow, with transformers beside. Without a GPU it runs on the CPU with a tiny model and says so:
that shows that the script works, and nothing else.
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

os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # PyTorch wants some of it too

import jax
import jax.numpy as jnp
from common import BASE, machine, read_tokens, step_flops, training

from flax_ner.config import default_config
from flax_ner.inference.tagger import Tagger
from flax_ner.model.bert import BertConfig
from flax_ner.model.tagger import cast_kernels, init_params
from flax_ner.text.cluener import read_cluener
from flax_ner.text.labels import LabelSet
from flax_ner.text.tokenizer import CharTokenizer
from flax_ner.training.loop import fit

TINY = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 128,
}
HERE = Path(__file__).resolve().parent
FULL = jax.default_backend() == "gpu"
SIZE = BASE if FULL else TINY
GRID = [(32, 128), (64, 128), (128, 128), (256, 128), (64, 256)] if FULL else [(8, 128)]
ROUNDS = 5


def product_rate() -> float:
    """TFLOP/s of one large bfloat16 product."""
    n = 8192 if FULL else 256
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
    """The most memory the device has held so far, GiB; 0 where it does not say."""
    return (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use", 0) / 2**30


def train_rows(data: Path, vocab: Path, peak: float) -> list[dict[str, Any]]:
    """Training rates over rows, row length and kind of attention."""
    tokens, tokenizer, labels = read_tokens(data, vocab)
    found = []
    print("| attention | rows | tokens a row | ms a step | sentences/s | MFU | peak GiB so far |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for attention in ("cudnn", "xla"):  # the memory of the thrifty one first: the peak only rises
        # cuDNN's kernel has no dropout of attention probabilities.
        options: dict[str, Any] = {"attention": attention, "compute_dtype": "bfloat16"}
        if attention == "cudnn":
            options["attention_probs_dropout_prob"] = 0.0
        model = BertConfig(len(tokenizer.tokens), len(labels), **SIZE, **options)
        for rows, length in GRID:
            stretch, steps = training(tokens, model, rows, length, 20 if FULL else 2)
            runs = [stretch() for _ in range(ROUNDS)]
            seconds = statistics.median(run[1] for run in runs) / steps
            row = {
                "attention": attention, "rows": rows, "length": length,
                "ms": round(seconds * 1e3, 2),
                "sentences_per_second": round(statistics.median(n / s for n, s in runs), 1),
                "mfu": round(step_flops(model, rows, length) / seconds / 1e12 / peak, 3),
                "peak_gib": round(peak_gib(), 2),
            }  # fmt: skip
            found.append(row)
            del stretch  # and with it a state on the device
            print(
                f"| {attention} | {rows} | {length} | {row['ms']} | {row['sentences_per_second']} "
                f"| {row['mfu']:.1%} | {row['peak_gib']} |",
                flush=True,
            )
    return found


def epochs(data: Path, vocab: Path, folder: Path) -> dict[str, float]:
    """Seconds of four epochs of `train.py`, data and evaluation included: compiling, and compiled."""
    seconds = {}
    for name in ("compiling", "compiled"):
        config = default_config()
        config.model.hidden_act = "gelu_new"
        config.update_from_flattened_dict({f"model.{key}": value for key, value in SIZE.items()})
        config.model.compute_dtype = "bfloat16"
        config.tokenizer.vocab = str(vocab)
        config.data.train, config.data.dev = str(data / "train.json"), str(data / "dev.json")
        config.data.batch_size = 32 if FULL else 8
        config.train.epochs = 4 if FULL else 1
        config.checkpoint.every = 1_000_000  # one, at the end
        begin = time.perf_counter()
        with redirect_stdout(StringIO()):
            fit(config, folder / name)
        seconds[name] = round(time.perf_counter() - begin, 2)
    return seconds


def inference(data: Path, vocab: Path) -> float:
    """Sentences a second of `tagger(texts)`, the dev set over and over."""
    texts = [example.text for example in read_cluener(data / "dev.json")] * (10 if FULL else 1)
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
        print("\nNo PyTorch here to compare with.")
        return False
    if not torch.cuda.is_available():
        print("\nPyTorch here has no CUDA: nothing to compare with.")
        return False
    return True


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, help="folder with train.json and dev.json")
    parser.add_argument("vocab", type=Path, help="vocab.txt")
    options = parser.parse_args()
    data, vocab = options.data.absolute(), options.vocab.absolute()
    if not FULL:
        print(
            f"There is no GPU here, only {jax.devices()[0].device_kind}: a tiny model, to show that"
        )
        print("the script works. No figure below says anything about a GPU.\n")
    row: dict[str, Any] = {"reduced": not FULL}
    with tempfile.TemporaryDirectory() as folder:
        jax.config.update("jax_compilation_cache_dir", os.path.join(folder, "compiled"))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
        row["product_tflops"] = round(product_rate(), 2)
        print(f"One product of bfloat16 matrices: {row['product_tflops']} TFLOP/s.\n")
        row["training"] = train_rows(data, vocab, row["product_tflops"])
        row["epochs_seconds"] = epochs(data, vocab, Path(folder))
        row["inference_sentences_per_second"] = inference(data, vocab)
    print(f"\n`fit` with evaluation, seconds: {row['epochs_seconds']}")
    print(f"Inference: {row['inference_sentences_per_second']} sentences/s")
    row |= machine("jax", "flax", "optax")
    print(f"\n`{json.dumps(row)}`", flush=True)
    if FULL and torch_sees_gpu():
        for script in ("training.py", "inference.py"):
            command = [sys.executable, str(HERE / script), str(data), str(vocab), "--size", "base"]
            subprocess.run(command, check=True)


if __name__ == "__main__":
    main()
