"""Compare tagging with transformers' pipeline on the same weights: throughput and latency.

    python benchmarks/inference.py data/cluener vocab.txt [--rounds 5] [--size small|narrow|base|all]

Makes a random model (small: 4 layers x 256; narrow: 12 x 384; base: 12 x 768), exports it for transformers and
tags CLUENER's dev texts with both, each with its default number of threads. It runs on a GPU if both libraries
find one, else on the CPU. In float32 both must predict the same entities, or the script fails; only where two
tags have almost equal logits may they differ. In bfloat16 more texts may differ, and the script
prints how many.

PyTorch's threads wait for one another at every step. If other processes keep a core busy, PyTorch becomes many
times slower. So check the last column of the table first. Runs are interleaved. Compilation is timed
separately, beforehand. Needs PyTorch and transformers.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import torch
import transformers
from common import BASE, NARROW, SMALL, busy_seconds, machine, random_model

from flax_ner import Tagger, load
from flax_ner.data.cluener import read_cluener
from flax_ner.huge_pages import use_huge_pages
from flax_ner.text.vocab import read_vocab
from flax_ner.weights.export import export
from flax_ner.weights.model_dir import save_model

SIZES: dict[str, tuple[dict[str, int], int]] = {
    "small": (SMALL, 1343),
    "narrow": (NARROW, 512),
    "base": (BASE, 128),
}
BATCH = 32
SINGLE = 500  # sentences for the latency
TURN = 25  # sentences per turn, because PyTorch's threads spin for a while after each call
GPU = torch.cuda.is_available() and jax.default_backend() == "gpu"
ROUNDING = 1e-4  # relative to the largest logit
LABELS = {
    "its forward pass alone": "pipeline, forward pass only"
}  # in tables; records have the keys


def make_model(folder: Path, vocab: list[str], shape: dict[str, int]) -> None:
    """Write a random model to `folder`/ours and, for transformers, to `folder`/theirs."""
    model = random_model(vocab, shape)
    save_model(folder / "ours", model)
    export(model, folder / "theirs", "hf")


def check(tagger: Tagger, pipeline: Any, texts: list[str]) -> tuple[int, int]:
    """Compare the predictions of both.

    Returns:
        The number of entities, and that of texts whose entities differ by rounding.

    Raises:
        SystemExit: entities differ by more than rounding.
    """
    ours = [[entity[:3] for entity in row] for row in tagger(texts, "lenient")]
    theirs = [
        [(entity["entity_group"], entity["start"], entity["end"]) for entity in row]
        for row in pipeline(texts, batch_size=BATCH)
    ]
    differ = [i for i, (a, b) in enumerate(zip(ours, theirs, strict=True)) if a != b]
    for i in differ:
        ids = np.array([tagger.tokenizer.encode(texts[i]).ids])
        logits = np.sort(np.asarray(tagger.logits(ids, np.ones_like(ids)))[0])
        if (logits[:, -1] - logits[:, -2]).min() > ROUNDING * np.abs(logits).max():
            sys.exit(f"text {i}: {ours[i]} in flax_ner, {theirs[i]} in transformers")
    return sum(map(len, ours)), len(differ)


def timed(call: Callable[[], Any]) -> float:
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin


def others_seconds() -> float:
    """Return the core seconds that other processes have used so far."""
    return busy_seconds() - time.process_time()


def measure(size: str, folder: Path, texts: list[str], rounds: int) -> dict[str, Any]:
    count = SIZES[size][1]
    single_texts = list(dict.fromkeys(texts))[:SINGLE]
    texts = texts[:count]
    tagger = load(folder / "ours")
    pipeline = transformers.pipeline(
        "token-classification",
        str(folder / "theirs"),
        aggregation_strategy="simple",
        device=0 if GPU else "cpu",
    )
    half = load(folder / "ours", compute_dtype="bfloat16")
    half_pipeline = transformers.pipeline(
        "token-classification",
        str(folder / "theirs"),
        aggregation_strategy="simple",
        device=0 if GPU else "cpu",
        dtype=torch.bfloat16,
    )
    compile_seconds = timed(tagger.compile)
    half.compile()
    entities, differ = check(tagger, pipeline, texts)  # also warms up
    half_pipeline(texts, batch_size=BATCH)
    exact, rounded = (
        [[entity[:3] for entity in row] for row in t(texts, "lenient")] for t in (tagger, half)
    )
    half_differ = sum(a != b for a, b in zip(exact, rounded, strict=True))
    shapes = tagger._predict._cache_size()

    padded = [
        pipeline.tokenizer(texts[i : i + BATCH], padding=True, return_tensors="pt").to(
            pipeline.device
        )
        for i in range(0, count, BATCH)
    ]

    @torch.inference_mode()
    def forward() -> None:
        for batch in padded:
            logits = pipeline.model(**batch).logits
        logits.cpu()  # waits for the device

    ways: dict[str, Callable[[], Any]] = {
        "flax_ner": lambda: tagger(texts, "lenient"),
        "flax_ner, bfloat16": lambda: half(texts, "lenient"),
        "pipeline": lambda: pipeline(texts, batch_size=BATCH),
        "pipeline, bfloat16": lambda: half_pipeline(texts, batch_size=BATCH),
        "its forward pass alone": forward,
    }
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    others: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(rounds):
        for way, call in ways.items():
            before = others_seconds()
            seconds[way].append(timed(call))
            cores = (os.cpu_count() or 1) * seconds[way][-1]
            others[way].append(100 * (others_seconds() - before) / cores)

    one: dict[str, Callable[[str], Any]] = {
        "flax_ner": tagger,
        "flax_ner, bfloat16": half,
        "pipeline": pipeline,
        "pipeline, bfloat16": half_pipeline,
    }
    latency: dict[str, list[float]] = {way: [] for way in one}
    for first in range(0, len(single_texts), TURN):
        for way, tag in one.items():
            for text in single_texts[first : first + TURN]:
                latency[way].append(1e3 * timed(lambda tag=tag, text=text: tag(text)))
    if tagger._predict._cache_size() != shapes:
        sys.exit("A shape was compiled during tagging, after compile().")

    print(
        f"\n{size}: {count} texts, {rounds} rounds, {entities} entities. Rounding changes the entities of "
        f"{differ} texts ({half_differ} in bfloat16). {shapes} shapes were compiled beforehand, in "
        f"{compile_seconds:.1f} s.\n"
    )
    print(
        "| configuration | sentences/s: median (min, max) | ratio to pipeline "
        "| CPU used by others, % |"
    )
    print("| --- | --- | --- | --- |")
    row: dict[str, Any] = {"texts": count, "entities": entities, "differ": differ}
    row["differ_bfloat16"] = half_differ
    row |= {"shapes": shapes, "compile_seconds": round(compile_seconds, 1)}
    for way, runs in seconds.items():
        rates = [count / s for s in runs]
        # Ratios within a round, so that other load on the machine affects both sides.
        times = statistics.median(s / own for s, own in zip(seconds["pipeline"], runs, strict=True))
        rate = f"{statistics.median(rates):.1f} ({min(rates):.1f}, {max(rates):.1f})"
        used = statistics.median(others[way])
        print(f"| {LABELS.get(way, way)} | {rate} | {times:.2f} | {used:.0f} |")
        row[way] = {
            "sentences_per_second": round(statistics.median(rates), 1),
            "times": round(times, 2),
            "others_percent": round(used),
        }
    print(f"\n| latency per sentence, {len(single_texts)} sentences | median, ms | p99, ms |")
    print("| --- | --- | --- |")
    for way, runs in latency.items():
        median, p99 = np.percentile(runs, [50, 99]).tolist()
        print(f"| {way} | {median:.1f} | {p99:.1f} |", flush=True)
        row[way] |= {"single_ms": round(median, 1), "single_p99_ms": round(p99, 1)}
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, help="folder with dev.json")
    parser.add_argument("vocab", type=Path, help="vocab.txt of 21,128 tokens")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--size", choices=(*SIZES, "all"), default="all")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    texts = [example.text for example in read_cluener(options.data / "dev.json")]
    vocab = read_vocab(options.vocab)
    row: dict[str, Any] = {"rounds": options.rounds}
    for size in SIZES if options.size == "all" else (options.size,):
        with tempfile.TemporaryDirectory() as folder:
            make_model(Path(folder), vocab, SIZES[size][0])
            row[size] = measure(size, Path(folder), texts, options.rounds)
    row |= machine("jax", "flax", "torch", "transformers")
    print(f"\n`{json.dumps(row)}`")


if __name__ == "__main__":
    use_huge_pages()
    main()
