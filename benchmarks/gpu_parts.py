"""The parts of benchmarks/gpu.py. Each yields rows of results, and runs in a process of its own."""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # leaves GPU memory for PyTorch

import jax
import jax.numpy as jnp
from common import BASE, NARROW, ROOT, machine, make_training, random_model, read_tokens, step_flops
from encoder import CRF, cut

from flax_ner.data.cluener import read_cluener, write_cluener
from flax_ner.data.corpus import count_characters, read_documents
from flax_ner.inference.tagger import Tagger, load
from flax_ner.model.attention import attention, attention_mask, fused_attention
from flax_ner.model.bert import BertConfig
from flax_ner.model.tagging_model import cast_kernels
from flax_ner.text.vocab import read_vocab

TINY = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 128,
}
Row = dict[str, Any]
ROUNDS = 5
LENGTH = 128  # tokens per row
MASK_PROB = 0.3  # of configs/pretrain.py
# Relative error of bfloat16 attention. A wrong mask or gradient has an error of about 1.
MAX_ATTENTION_ERROR = 0.02


def check(options: argparse.Namespace) -> Iterator[Row]:
    """Yield the device, and the rate of one large bfloat16 matrix product on it."""
    yield {
        "backend": jax.default_backend(),
        **machine("jax", "jaxlib", "flax", "optax"),
        "driver": driver(),
        "matmul_tflops": round(matmul_tflops(8192 if jax.default_backend() == "gpu" else 256), 2),
    }


def driver() -> str:
    """Return the version of NVIDIA's driver, or "" if there is none."""
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=20).stdout.strip()
    except (OSError, subprocess.TimeoutExpired):
        return ""


def matmul_tflops(n: int) -> float:
    # Random, because a GPU multiplies constants faster.
    a = jax.random.normal(jax.random.key(0), (n, n), jnp.bfloat16)
    product = jax.jit(lambda a: a @ a)
    seconds = median_seconds(lambda: product(a).block_until_ready(), 3 * ROUNDS)
    return 2 * n**3 / seconds / 1e12


def median_seconds(call: Callable[[], Any], rounds: int) -> float:
    """Return the median time of a call, after one that is not timed."""
    call()
    seconds = []
    for _ in range(rounds):
        begin = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - begin)
    return statistics.median(seconds)


def finetune(options: argparse.Namespace, head: str, settings: Row) -> Iterator[Row]:
    """Yield one run of train.py, from the command to the scored model."""
    with tempfile.TemporaryDirectory() as folder:
        files = data_files(options, Path(folder))
        settings = {
            "init_from": options.encoder, "model.compute_dtype": "bfloat16", **files, **settings,
        }  # fmt: skip
        if options.reduced:
            settings["train.steps"] = 4
        wall, steps, dev = run_train("cluener", Path(folder) / "run", settings)
    best = max(dev, key=lambda row: row["f1"])
    yield {
        "encoder": options.encoder.name,
        "head": head,
        "wall_s": round(wall, 1),
        "training_loop_s": dev[-1]["seconds"],
        "first_dispatch_s": steps[0]["seconds"],  # mostly compilation
        "steps": steps[-1]["step"],
        "sentences_per_s": round(warm_median(steps, "sentences_per_second"), 1),
        "dev_sentences_per_s": round(warm_median(dev, "sentences_per_second"), 1),
        "strict_f1": round(best["f1"], 4),
        "best_epoch": best["epoch"],
    }


def data_files(options: argparse.Namespace, folder: Path) -> Row:
    """Return the settings of the training and dev data; in a reduced run, cut to a few sentences."""
    files = {f"data.{name}": options.data / f"{name}.json" for name in ("train", "dev")}
    if options.reduced:
        for name, size in (("data.train", 64), ("data.dev", 32)):
            examples = cut(read_cluener(files[name]), size, seed=0)
            files[name] = folder / files[name].name
            write_cluener(files[name], examples)
    return files


def run_train(
    config: str, workdir: Path, settings: Row, **environment: str
) -> tuple[float, list[Row], list[Row]]:
    """Run train.py; return its seconds, and the lines of metrics.jsonl for training and for dev."""
    command = [sys.executable, "train.py", f"--config=configs/{config}.py", f"--workdir={workdir}"]
    command += [f"--config.{name}={value}" for name, value in settings.items()]
    begin = time.perf_counter()
    subprocess.run(command, cwd=ROOT, env=os.environ | environment, check=True)
    seconds = time.perf_counter() - begin
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    train, dev = ([row for row in rows if row["split"] == split] for split in ("train", "dev"))
    return seconds, train, dev


def warm_median(rows: list[Row], name: str) -> float:
    """Return the median of a rate, without the first row, which includes compilation."""
    return statistics.median(row[name] for row in rows[1:] or rows)


def train_base(options: argparse.Namespace) -> Iterator[Row]:
    grid = [(8, LENGTH)] if options.reduced else [(64, LENGTH), (256, LENGTH)]
    return train_steps(options, grid, {"attention": "xla"})


def train_steps(
    options: argparse.Namespace, grid: list[tuple[int, int]], settings: Row
) -> Iterator[Row]:
    """Yield the throughput of training steps, by rows per step and row length.

    The grid starts with the smallest step, because the peak memory of a process only rises.
    """
    tokens, tokenizer, labels = read_tokens(options.data, options.vocab)
    shape = TINY if options.reduced else BASE
    model = BertConfig(
        len(tokenizer.tokens), len(labels), **shape, compute_dtype="bfloat16", **settings
    )
    for rows, length in grid:
        begin = time.perf_counter()
        timed_steps, steps = make_training(
            tokens, model, rows, length, 2 if options.reduced else 20
        )
        compile_seconds = time.perf_counter() - begin
        runs = [timed_steps() for _ in range(ROUNDS)]
        seconds = statistics.median(run[1] for run in runs) / steps
        del timed_steps  # frees the state on the device
        yield {
            "model": name_of(shape),
            "attention": model.attention,
            "rows": rows,
            "tokens_per_row": length,
            "ms_per_step": round(seconds * 1e3, 2),
            "sentences_per_s": round(statistics.median(n / s for n, s in runs), 1),
            **utilization(options, step_flops(model, rows, length) / seconds),
            "peak_gib": round(peak_gib(), 2),
            "compile_s": round(compile_seconds, 1),
        }


def utilization(options: argparse.Namespace, flops_per_second: float) -> Row:
    tflops = flops_per_second / 1e12
    return {"tflops": round(tflops, 3), "mfu": round(tflops / options.peak, 3)}


def peak_gib() -> float:
    """Return the peak memory of the device so far in GiB, or 0 if it is unknown."""
    return (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use", 0) / 2**30


def name_of(shape: dict[str, int]) -> str:
    model = BertConfig(1, 1, **shape)
    return f"{model.num_hidden_layers} x {model.hidden_size}"


def tag(options: argparse.Namespace) -> Iterator[Row]:
    """Yield the throughput of `tagger(texts)`, in larger batches and in those of `load`."""
    texts = tagging_texts(options)
    vocab = read_vocab(options.vocab)
    for batch_size in (256, 32):
        for shape in (TINY,) if options.reduced else (NARROW, BASE):
            tagger = make_tagger(vocab, shape, batch_size)
            begin = time.perf_counter()
            entities = sum(map(len, tagger(texts)))
            first = time.perf_counter() - begin
            seconds = median_seconds(lambda tagger=tagger: tagger(texts), 2)
            yield {
                "model": name_of(shape),
                "batch_size": batch_size,
                "texts": len(texts),
                "entities": entities,
                "texts_per_s": round(len(texts) / seconds, 1),
                "compile_s": round(first - seconds, 1),
            }


def tagging_texts(options: argparse.Namespace) -> list[str]:
    """Return the first 1,024 dev texts, repeated on a GPU.

    A tagger dispatches 1,024 texts at a time, so all dispatches have the same shapes, which are few to compile.
    """
    texts = [example.text for example in read_cluener(options.data / "dev.json")]
    return texts[:64] if options.reduced else texts[:1024] * 64


def make_tagger(vocab: list[str], shape: dict[str, int], batch_size: int) -> Tagger:
    """Return a tagger of a random model in bfloat16, as `load` makes it."""
    model = random_model(vocab, shape | {"compute_dtype": "bfloat16"})
    assert model.labels is not None
    params = cast_kernels(model.config, model.params)
    tokenizer = model.build_tokenizer()
    return Tagger(model.config, params, tokenizer, model.labels, model.max_length, batch_size)


def pretrain(options: argparse.Namespace) -> Iterator[Row]:
    """Yield the throughput of train.py on plain text."""
    rows, steps = (8, 40) if options.reduced else (64, 300)
    shape = TINY if options.reduced else BASE
    vocab = read_vocab(options.vocab)
    model = BertConfig(len(vocab), 1, **shape)
    with tempfile.TemporaryDirectory() as folder:
        files = {name: Path(folder) / f"{name}.txt" for name in ("dev", "train")}
        # About the text of all steps.
        cut_text(options.text, files, {"dev": 20_000, "train": rows * LENGTH * steps})
        scored = len(count_characters(files["train"]).keys() & set(vocab))
        fields = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
        settings = {
            **{f"model.{name}": getattr(model, name) for name in fields},
            **{f"data.{name}": path for name, path in files.items()},
            "tokenizer.vocab": options.vocab, "model.compute_dtype": "bfloat16",
            "model.max_position_embeddings": 512, "optimizer.learning_rate": 1e-4,
            "data.batch_size": rows, "train.steps": steps, "pretrain.mask_prob": MASK_PROB,
            "checkpoint.every": 1_000_000, "eval.every": 1_000_000,  # only at the end
        }  # fmt: skip
        wall, train, dev = run_train("pretrain", Path(folder) / "run", settings)
    # After the first dispatch, nothing but training happens until the last one.
    seconds = (train[-1]["seconds"] - train[0]["seconds"]) / (train[-1]["step"] - train[0]["step"])
    flops = step_flops(model, rows, LENGTH) + head_flops(model, rows, scored)
    yield {
        "model": name_of(shape),
        "rows": rows,
        "tokens_per_row": LENGTH,
        "steps": train[-1]["step"],
        "wall_s": round(wall, 1),
        "first_dispatch_s": train[0]["seconds"],  # mostly compilation
        "steps_per_s": round(1 / seconds, 2),
        "tokens_per_s": round(warm_median(train, "tokens_per_second")),
        **utilization(options, flops / seconds),
        "dev_loss": round(dev[-1]["loss"], 3),
    }


def cut_text(text: Path, files: dict[str, Path], characters: dict[str, int]) -> None:
    """Write the first lines of a text to each of the files, one file after the other."""
    lines = (line for block in read_documents(text) for line in block)
    for name, file in files.items():
        kept, size = list[str](), 0
        while size < characters[name] and (line := next(lines, None)) is not None:
            kept.append(line)
            size += len(line)
        if not kept:
            sys.exit(
                f"{text}: is too short. Give at least {sum(characters.values()):,} characters."
            )
        file.write_text("\n".join(kept) + "\n", encoding="utf-8")


def head_flops(model: BertConfig, rows: int, scored: int) -> float:
    """Return the FLOPs of the masked-LM head in a step: forward, and twice that backward."""
    D, masked = model.hidden_size, round(MASK_PROB * LENGTH)
    return 6.0 * rows * masked * (D * D + D * scored)


def measure_cudnn(options: argparse.Namespace) -> Iterator[Row]:
    """Yield the errors of cuDNN's attention, then its training steps without attention dropout."""
    implementation = "xla" if options.reduced else "cudnn"
    wrong = []
    # Some versions of cuDNN return NaN for 64 more than a multiple of 128 tokens.
    for head_width, length in ((32, 128), (64, 128), (64, 192)):
        errors = attention_errors(implementation, head_width, length)
        # Written so that NaN fails, too.
        if not all(error < MAX_ATTENTION_ERROR for error in errors.values()):
            wrong.append(f"{head_width} x {length} tokens")
        yield {"model": f"heads of {head_width}", "tokens_per_row": length, **errors}
    grid = [(8, 128)] if options.reduced else [(64, 128), (256, 128), (64, 256)]
    yield from train_steps(
        options, grid, {"attention": "cudnn", "attention_probs_dropout_prob": 0.0}
    )
    if wrong:
        sys.exit(f"Fused attention differs from float32 attention: heads of {', '.join(wrong)}.")


def attention_errors(implementation: Any, head_width: int, length: int) -> Row:
    """Return the relative errors of fused attention and its gradient on packed rows, one of them empty."""
    key, weight_key = jax.random.split(jax.random.key(0))
    qkv = jax.random.normal(key, (4, length, 3, 4, head_width), jnp.bfloat16)
    segment_ids = jnp.minimum(jnp.arange(length) // 30 + 1, 4)
    segment_ids = jnp.where(jnp.arange(length) < length - 8, segment_ids, 0)
    segment_ids = jnp.stack([segment_ids] * 3 + [jnp.zeros_like(segment_ids)])
    mask, real = attention_mask(segment_ids), (segment_ids > 0)[..., None, None]
    # Padding has no gradient, as in training.
    weights = real * jax.random.normal(weight_key, (4, length, 4, head_width))

    def weighted(qkv: jax.Array, attend: Callable[[jax.Array], jax.Array]) -> Any:
        attended = attend(qkv).astype(jnp.float32)
        return (attended * weights).sum(), jnp.where(real, attended, 0)

    def run(qkv: jax.Array, attend: Callable[[jax.Array], jax.Array]) -> tuple[Any, Any]:
        gradients = jax.grad(lambda qkv: weighted(qkv, attend), has_aux=True)
        gradient, attended = jax.jit(gradients)(qkv)
        return attended, gradient.astype(jnp.float32)

    fused = run(qkv, lambda qkv: fused_attention(qkv, mask, implementation))
    exact = run(
        qkv.astype(jnp.float32), lambda qkv: attention(qkv, mask, None, 0.0, jnp.dtype("float32"))
    )
    norm = jnp.linalg.norm
    errors = [float(norm(a - b) / norm(b)) for a, b in zip(fused, exact, strict=True)]
    return {"output_error": round(errors[0], 5), "gradient_error": round(errors[1], 5)}


def measure_epochs(options: argparse.Namespace) -> Iterator[Row]:
    """Yield the time of four epochs with train.py: data, training, evaluation, saving."""
    shape = TINY if options.reduced else BASE
    with tempfile.TemporaryDirectory() as folder:
        settings = {
            **{f"model.{name}": value for name, value in shape.items()},
            **data_files(options, Path(folder)),
            "init_from": "", "tokenizer.vocab": options.vocab, "model.compute_dtype": "bfloat16",
            "data.batch_size": 8 if options.reduced else 32,
            "train.epochs": 1 if options.reduced else 4,
            "checkpoint.every": 1_000_000,  # only one, at the end
        }  # fmt: skip
        for cache in ("cold", "warm"):
            workdir, compiled = Path(folder) / cache, str(Path(folder) / "compiled")
            wall, steps, _ = run_train(
                "cluener", workdir, settings, JAX_COMPILATION_CACHE_DIR=compiled
            )
            yield {
                "model": name_of(shape),
                "compilation_cache": cache,
                "wall_s": round(wall, 1),
                "first_dispatch_s": steps[0]["seconds"],
                "sentences_per_s": round(warm_median(steps, "sentences_per_second"), 1),
            }


def compare(options: argparse.Namespace) -> Iterator[Row]:
    """Yield throughput in bfloat16 next to that of transformers, interleaved."""
    if reason := why_no_torch():
        yield {"skipped": reason}
        return
    import torch
    import transformers
    from inference import make_model
    from training import WAYS
    from training import compare as compare_training

    settings = argparse.Namespace(
        data=options.data, vocab=options.vocab, rounds=ROUNDS, verbose=True
    )
    for way, rates in compare_training("base", ["c", "bfloat16"], settings).items():
        rate = round(statistics.median(rates), 1)
        yield {"task": "training", "configuration": WAYS[way], "sentences_per_s": rate}
    vocab, texts, seconds = read_vocab(options.vocab), tagging_texts(options)[:4096], Row()
    with tempfile.TemporaryDirectory() as folder:
        make_model(Path(folder), vocab, BASE)
        tagger = load(Path(folder) / "ours", "bfloat16", batch_size=256)
        pipeline = transformers.pipeline(
            "token-classification", str(Path(folder) / "theirs"), aggregation_strategy="simple",
            device=0, dtype=torch.bfloat16,
        )  # fmt: skip
        calls = {
            "pipeline, batches of 256": lambda: pipeline(texts, batch_size=256),
            "flax_ner, batches of 256 rows": lambda: tagger(texts, "lenient"),
        }
        for name, call in calls.items():
            seconds[name] = median_seconds(call, 2)
            rate = round(len(texts) / seconds[name], 1)
            yield {"task": "tagging", "configuration": name, "sentences_per_s": rate}


def why_no_torch() -> str:
    """Return why PyTorch cannot be compared, or ""."""
    try:
        import torch
        import transformers  # noqa: F401
    except ImportError as error:
        return f"{error.name} is not installed."
    return "" if torch.cuda.is_available() else "PyTorch cannot use CUDA here."


class Part(NamedTuple):
    title: str
    # Expected time on an H200 with nothing compiled. There a part is stopped after twice this time.
    seconds: int
    measure: Callable[[argparse.Namespace], Iterator[Row]]
    needs: str = ""  # an option without which the part is skipped


CHECK = Part("Device", 90, check)
PARTS = {
    "softmax": Part(
        "Fine-tuning, softmax", 90, lambda options: finetune(options, "softmax", {}), "encoder"
    ),
    "base": Part("Training steps of BERT-base", 80, train_base),
    "tagging": Part("Tagging", 80, tag),
    "masked_lm": Part("Pre-training", 60, pretrain, "text"),
    "crf": Part("Fine-tuning, CRF", 80, lambda options: finetune(options, "crf", CRF), "encoder"),
    "cudnn": Part("cuDNN attention", 60, measure_cudnn),
    "epochs": Part("Four epochs", 80, measure_epochs),
    "transformers": Part("Comparison with transformers", 90, compare),
}
