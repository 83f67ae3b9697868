"""Compare a bulk job with one worker, with two workers, and in one process without Ray.

    python benchmarks/bulk.py data/cluener vocab.txt [--rounds 3] [--shards 24] [--texts N] [--size small|base]

Makes a random model (small: 4 layers of width 256; base: 12 of 768), divides CLUENER's training texts into
shards, and tags them with `python -m flax_ner bulk --workers N`. Runs are interleaved. Workers share the
cores, so a single worker has all of them. Throughput is what the command prints: it counts from the moment
when the first worker has loaded its model. The time of the whole command also includes starting Ray,
importing jax and loading the model. All configurations must write the same bytes, or the script fails. A
warm-up round fills the compilation cache. Needs the extra `ray`.
"""

import argparse
import json
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from common import BASE, SMALL, machine, random_model

from flax_ner import load
from flax_ner.compilation import keep_compiled_programs
from flax_ner.data.cluener import read_cluener
from flax_ner.serving.shards import tag_shard
from flax_ner.text.vocab import read_vocab
from flax_ner.weights.model_dir import save_model

SIZES: dict[str, tuple[dict[str, int], int]] = {"small": (SMALL, 10_748), "base": (BASE, 512)}
THROUGHPUT = re.compile(r"([\d,.]+) texts per second")


def run_command(model: Path, source: Path, out: Path, workers: int) -> tuple[float, float]:
    """Return the texts per second that the command prints, and the seconds that it took."""
    begin = time.perf_counter()
    result = subprocess.run(
        [sys.executable, "-m", "flax_ner", "bulk", model, source, out, "--workers", str(workers)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if result.returncode:
        sys.exit(result.stderr)
    match = THROUGHPUT.search(result.stdout)
    return float(match[1].replace(",", "")) if match else 0.0, time.perf_counter() - begin


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, help="folder with train.json")
    parser.add_argument("vocab", type=Path, help="vocab.txt of 21,128 tokens")
    parser.add_argument("--rounds", type=int, default=3, help="rounds after the warm-up")
    parser.add_argument("--shards", type=int, default=24, help="input files")
    parser.add_argument("--texts", type=int, help="number of texts; default: 10,748, base: 512")
    parser.add_argument("--size", choices=SIZES, default="small")
    options = parser.parse_args()
    shape, count = SIZES[options.size]
    texts = [example.text for example in read_cluener(options.data / "train.json")][
        : options.texts or count
    ]
    keep_compiled_programs()
    rates: dict[str, list[float]] = {}
    whole: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model, source = folder / "model", folder / "in"
        save_model(model, random_model(read_vocab(options.vocab), shape))
        source.mkdir()
        for i in range(options.shards):
            rows = [json.dumps({"text": text}) + "\n" for text in texts[i :: options.shards]]
            (source / f"{i:03}.jsonl").write_text("".join(rows))
        shards = sorted(source.iterdir())
        tagger = load(model)

        def run_without_ray(out: Path) -> tuple[float, float]:
            out.mkdir()
            begin = time.perf_counter()
            done = sum(tag_shard(tagger, path, out / path.name).texts for path in shards)
            return done / (time.perf_counter() - begin), float("nan")

        configurations = {
            "one process, without Ray": run_without_ray,
            "one worker": lambda out: run_command(model, source, out, 1),
            "two workers": lambda out: run_command(model, source, out, 2),
        }
        outs: list[Path] = []
        for turn in range(options.rounds + 1):
            for label, run in configurations.items():
                outs.append(folder / f"{turn} {label}")
                rate, seconds = run(outs[-1])
                if turn:  # the first round compiles
                    rates.setdefault(label, []).append(rate)
                    whole.setdefault(label, []).append(seconds)
        for path in shards:
            if len({(out / path.name).read_bytes() for out in outs}) > 1:
                sys.exit(f"{path.name}: the configurations wrote different bytes")

    print(
        f"\n{options.size}: {len(texts):,} texts in {len(shards)} shards, {options.rounds} rounds\n"
    )
    print("| configuration | texts/s: median (min, max) | ratio to one worker | whole command, s |")
    print("| --- | --- | --- | --- |")
    row = {"size": options.size, "texts": len(texts), "shards": len(shards)}
    row["rounds"] = options.rounds
    for label, runs in rates.items():
        # Ratios within a round, so that other load on the machine affects both sides.
        times = statistics.median(a / b for a, b in zip(runs, rates["one worker"], strict=True))
        seconds = statistics.median(whole[label])
        shown = f"{seconds:.1f}" if seconds == seconds else ""
        rate = f"{statistics.median(runs):.1f} ({min(runs):.1f}, {max(runs):.1f})"
        print(f"| {label} | {rate} | {times:.2f} | {shown} |")
        row[label] = {
            "texts_per_second": round(statistics.median(runs), 1),
            "times": round(times, 2),
        }
        if shown:
            row[label]["whole_seconds"] = round(seconds, 1)
    row |= machine("jax", "flax", "ray")
    print(f"\n`{json.dumps(row)}`")


if __name__ == "__main__":
    main()
