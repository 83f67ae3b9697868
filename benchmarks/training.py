"""Compare training throughput with PyTorch on real CLUENER text, in sentences per second.

    python benchmarks/training.py data/cluener vocab.txt [--size small|narrow|base] [--rounds 5] [--compiled]

Number and shapes of the parameters and the tokens are the same. All train with dropout and gradient clipping:

    (a) the recipe of MMOCR's bert_softmax in PyTorch: batch 8, padded to 128, float32, Adadelta
    (b) transformers' Trainer with its defaults, but batch 32: dynamic padding, float32, AdamW (fused)
    (c) Trainer with sentences grouped by length, bfloat16 autocast, SDPA
    flax_ner: packed rows of 128, 8 per step (64 on a GPU), AdamW, in float32 and in bfloat16

`--compiled` adds (c) with torch.compile. Each configuration has its own process, which warms up before
anything is timed. Then each in turn trains for some steps, for `--rounds` rounds. The steps of (b) and (c)
have batches of every length in proportion. All processes use huge pages, as flax_ner's commands do; with
GLIBC_TUNABLES=glibc.malloc.hugetlb=0 none does. Needs torch, transformers and accelerate
(pip install '.[bench]').
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
from common import SHAPES, TimedSteps, machine, make_training, read_tokens

from flax_ner.huge_pages import use_huge_pages
from flax_ner.model.bert import BertConfig
from flax_ner.text.tokenizer import CharTokenizer

HERE = Path(__file__).resolve().parent
NAMES = {
    "small": "4 layers x 256",
    "narrow": "12 layers x 384",
    "base": "BERT-base, 12 layers x 768",
}
WAYS = {
    "a": "(a) MMOCR's recipe in PyTorch, float32",
    "b": "(b) Trainer, batch 32, float32",
    "c": "(c) Trainer, grouped by length, bfloat16",
    "compiled": "(c) with torch.compile",
    "float32": "flax_ner, float32",
    "bfloat16": "flax_ner, bfloat16",
}
# Steps per measurement on a CPU, so that each takes some seconds.
STEPS = {
    "small": {"a": 20, "b": 20, "c": 25, "compiled": 25, "float32": 40, "bfloat16": 60},
    "narrow": {"a": 4, "b": 5, "c": 10, "compiled": 10, "float32": 10, "bfloat16": 15},
    "base": {"a": 2, "b": 3, "c": 5, "compiled": 5, "float32": 5, "bfloat16": 7},
}
GPU_STEPS = 20  # times as many on a GPU, at most those of an epoch for flax_ner
LENGTH, LABELS = 128, 21


def encode(data: Path, vocab: Path) -> tuple[list[list[int]], list[list[int]]]:
    """Return token ids and tag ids of each training sentence; all configurations use the same."""
    tokens = read_tokens(data, vocab)[0]
    stops = np.cumsum(tokens.lengths)[:-1]
    ids, tags = (np.split(array, stops) for array in (tokens.ids, tokens.labels))
    return [row.tolist() for row in ids], [row.tolist() for row in tags]


def torch_model(size: str, attention: str) -> Any:
    import torch
    from transformers import BertConfig, BertForTokenClassification

    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=21128, num_labels=LABELS, attn_implementation=attention, **SHAPES[size]
    )
    return BertForTokenClassification(config).train().to(device())


def device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def wait() -> None:
    """Wait until the device has finished."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()


def mmocr_recipe(size: str, data: Path, vocab: Path, steps: int) -> TimedSteps:
    import torch

    model = torch_model(size, "eager")
    optimizer = torch.optim.Adadelta(model.parameters(), lr=0.5)
    ids, tags = encode(data, vocab)

    def padded(rows: list[list[int]], value: int) -> Any:
        rows = [row + [value] * (LENGTH - len(row)) for row in rows]
        return torch.tensor(rows, device=device())

    def timed_steps() -> tuple[int, float]:
        begin = time.perf_counter()
        for step in range(steps):
            rows = slice(8 * step, 8 * step + 8)
            batch = padded(ids[rows], 0)
            loss = model(
                batch, attention_mask=(batch > 0).long(), labels=padded(tags[rows], -100)
            ).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)
            optimizer.step()
            optimizer.zero_grad()
        wait()
        return 8 * steps, time.perf_counter() - begin

    return timed_steps


def hf_trainer(size: str, data: Path, vocab: Path, steps: int, way: str) -> TimedSteps:
    import torch
    from transformers import (
        DataCollatorForTokenClassification,
        PreTrainedTokenizerFast,
        Trainer,
        TrainerCallback,
        TrainingArguments,
    )
    from transformers.trainer_pt_utils import LengthGroupedSampler

    grouped = way != "b"
    ids, tags = encode(data, vocab)
    # The batches of an epoch, in the order of Trainer's own sampler.
    generator = torch.Generator().manual_seed(0)
    if grouped:
        lengths = [len(row) for row in ids]
        order = list(LengthGroupedSampler(32, lengths=lengths, generator=generator))
    else:
        order = torch.randperm(len(ids), generator=generator).tolist()
    batches = [order[i : i + 32] for i in range(0, len(order) - 31, 32)]
    batches.sort(key=lambda batch: max(len(ids[i]) for i in batch))
    batches = [batches[int((i + 0.5) / steps * len(batches))] for i in range(steps)]
    chosen = [i for batch in batches for i in batch]
    rows = [
        {"input_ids": ids[i], "attention_mask": [1] * len(ids[i]), "labels": tags[i]}
        for i in chosen
    ]

    class Clock(TrainerCallback):
        begin = end = 0.0

        def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step == 0:
                self.begin = time.perf_counter()

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step == state.max_steps:
                wait()
                self.end = time.perf_counter()

    class InOrder(Trainer):
        def _get_train_sampler(self, train_dataset: Any = None) -> Any:
            return torch.utils.data.SequentialSampler(rows)

    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=CharTokenizer(vocab)._backend, pad_token="[PAD]"
    )
    arguments = TrainingArguments(
        output_dir="unused", num_train_epochs=1, per_device_train_batch_size=32, use_cpu=device() == "cpu",
        bf16=grouped, torch_compile=way == "compiled", save_strategy="no", disable_tqdm=True,
    )  # fmt: skip
    clock = Clock()
    run = InOrder(
        torch_model(size, "sdpa"), arguments, train_dataset=rows, callbacks=[clock],
        data_collator=DataCollatorForTokenClassification(tokenizer),
    )  # fmt: skip

    def timed_steps() -> tuple[int, float]:
        run.train()
        # The clock starts after the first batch is collated.
        return len(rows), clock.end - clock.begin

    return timed_steps


def flax_ner_training(size: str, data: Path, vocab: Path, steps: int, dtype: str) -> TimedSteps:
    rows = 8 if jax.default_backend() == "cpu" else 64
    tokens, tokenizer, labels = read_tokens(data, vocab)
    model = BertConfig(len(tokenizer.tokens), len(labels), compute_dtype=dtype, **SHAPES[size])
    return make_training(tokens, model, rows, LENGTH, steps)[0]


def run_worker(way: str, size: str, data: Path, vocab: Path, steps: int) -> None:
    """Warm up, then time some steps for each line on standard input."""
    out, sys.stdout = sys.stdout, sys.stderr
    # Asked of one library only, because the other one would take memory of the device.
    flax = way in ("float32", "bfloat16")
    on_gpu = jax.default_backend() == "gpu" if flax else device() == "cuda"
    steps *= GPU_STEPS if on_gpu else 1
    if way == "a":
        timed_steps = mmocr_recipe(size, data, vocab, steps)
    elif way in ("b", "c", "compiled"):
        timed_steps = hf_trainer(size, data, vocab, steps, way)
    else:
        timed_steps = flax_ner_training(size, data, vocab, steps, way)
    timed_steps()
    print("ready", file=out, flush=True)
    for _ in sys.stdin:
        print(json.dumps(timed_steps()), file=out, flush=True)


def compare(size: str, ways: list[str], options: argparse.Namespace) -> dict[str, list[float]]:
    """Return the sentences per second of each round, by configuration."""
    paths = [str(options.data.absolute()), str(options.vocab.absolute())]
    workers = {}
    for way in ways:  # one after another, because warming up uses all cores
        command = [sys.executable, __file__, *paths, "--size", size, "--work", way]
        workers[way] = subprocess.Popen(
            command, cwd=HERE.parent, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=None if options.verbose else subprocess.DEVNULL,
        )  # fmt: skip
        read_line(workers[way], way)
    rates: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(options.rounds):
        for way, worker in workers.items():
            assert worker.stdin is not None
            worker.stdin.write("\n")
            worker.stdin.flush()
            sentences, seconds = json.loads(read_line(worker, way))
            rates[way].append(sentences / seconds)
    for worker in workers.values():
        worker.communicate()
    return rates


def read_line(worker: "subprocess.Popen[str]", way: str) -> str:
    assert worker.stdout is not None
    line = worker.stdout.readline()
    if not line:
        sys.exit(f"{WAYS[way]}: the process stopped. --verbose shows why.")
    return line


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, help="folder with train.json")
    parser.add_argument("vocab", type=Path, help="vocab.txt of 21,128 tokens")
    parser.add_argument("--size", choices=SHAPES, action="append")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--compiled", action="store_true")
    parser.add_argument("--verbose", action="store_true", help="show the output of the processes")
    parser.add_argument("--work", choices=WAYS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    for path in (options.data / "train.json", options.vocab):
        if not path.is_file():
            sys.exit(
                f"{path}: not found. Pass the folder of CLUENER and a vocab.txt of 21,128 tokens."
            )
    if options.work:
        size = options.size[0]
        return run_worker(
            options.work, size, options.data, options.vocab, STEPS[size][options.work]
        )
    ways = [way for way in WAYS if way != "compiled" or options.compiled]
    row: dict[str, Any] = {"rounds": options.rounds}
    for size in options.size or SHAPES:
        rates = compare(size, ways, options)
        medians = {way: statistics.median(values) for way, values in rates.items()}
        print(f"\n{NAMES[size]}\n")
        print(
            "| configuration | sentences/s: median (min, max) | ratio to (a) | ratio to (b) | ratio to (c) |"
        )
        print("| --- | --- | --- | --- | --- |")
        for way, values in rates.items():
            ratios = " | ".join(f"{medians[way] / medians[other]:.2f}" for other in "abc")
            spread = f"{medians[way]:.1f} ({min(values):.1f}, {max(values):.1f})"
            print(f"| {WAYS[way]} | {spread} | {ratios} |", flush=True)
        row[size] = {way: round(median, 2) for way, median in medians.items()}
    row |= machine("jax", "flax", "optax", "torch", "transformers", "accelerate")
    print(f"\n`{json.dumps(row)}`")


if __name__ == "__main__":
    use_huge_pages()
    main()
