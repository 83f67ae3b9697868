"""Measure time and memory from a data file to the batches of an epoch, for 1, 10 and 100 times the data.

    python benchmarks/data.py data/cluener vocab.txt

The larger files are train.json repeated. Each size has its own process, and imports are not measured. Memory
is the peak of the process above that after its imports, as the operating system counts it (Linux).
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from common import machine

ROOT = Path(__file__).resolve().parents[1]
ROUNDS = {1: 7, 10: 3, 100: 1}  # by size
STAGES = ("read", "tokens and labels", "pack", "epoch")
MEASURE = """
import json, resource, statistics, sys, time
from flax_ner.text.batches import Batcher
from flax_ner.text.encoding import encode_examples
from flax_ner.data.formats import read_examples
from flax_ner.text.labels import LabelSet
from flax_ner.text.tokenizer import CharTokenizer

def epoch(clock):
    clock.append(time.perf_counter())
    examples = read_examples(source, "cluener")
    clock.append(time.perf_counter())
    tokens = encode_examples(examples, CharTokenizer(vocab), labels, 128)
    clock.append(time.perf_counter())
    batcher = Batcher(tokens, "pack", 16, 128, 0)
    clock.append(time.perf_counter())
    batcher.epoch(0)
    clock.append(time.perf_counter())
    return len(examples)

source, vocab, categories, rounds = sys.argv[1:]
labels = LabelSet(json.loads(categories))
before = int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize()
runs = []
for _ in range(int(rounds)):
    clock = []
    sentences = epoch(clock)
    runs.append([b - a for a, b in zip(clock, clock[1:])] + [clock[-1] - clock[0]])
# Not ru_maxrss: it starts at the value of the parent process.
peak = next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))
medians = [statistics.median(column) for column in zip(*runs)]
print(json.dumps([sentences, medians, (peak * 1024 - before) / 2**20]))
"""


def measure(
    source: Path, vocab: Path, categories: list[str], rounds: int
) -> tuple[int, list[float], float]:
    """Return the sentences, the median seconds of each stage and in total, and the peak MiB."""
    result = subprocess.run(
        [sys.executable, "-c", MEASURE, str(source), str(vocab), json.dumps(categories), str(rounds)],
        cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True,
    )  # fmt: skip
    sentences, seconds, memory = json.loads(result.stdout)
    return sentences, seconds, memory


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, help="folder with train.json")
    parser.add_argument("vocab", type=Path, help="vocab.txt of 21,128 tokens")
    options = parser.parse_args()
    data = (options.data / "train.json").read_bytes()
    lines = data.decode().splitlines()
    categories = sorted({name for line in lines for name in json.loads(line)["label"]})
    print(
        f"| sentences | {', s | '.join(STAGES)}, s | total, s | µs per sentence | peak memory, MiB |"
    )
    print(f"|{' --- |' * (len(STAGES) + 4)}")
    row: dict[str, object] = {}
    with tempfile.TemporaryDirectory() as folder:
        for times, rounds in ROUNDS.items():
            source = Path(folder, "train.json")
            with open(source, "wb") as file:
                for _ in range(times):
                    file.write(data)
            sentences, seconds, memory = measure(
                source, options.vocab.absolute(), categories, rounds
            )
            cells = [f"{value:.3f}" for value in seconds]
            per_sentence = seconds[-1] / sentences * 1e6
            print(
                f"| {sentences:,} | {' | '.join(cells)} | {per_sentence:.1f} | {memory:,.0f} |",
                flush=True,
            )
            row[f"{sentences}"] = dict(zip((*STAGES, "all"), seconds, strict=True)) | {
                "peak_mib": round(memory)
            }
    row |= machine("numpy", "tokenizers")
    print(f"\n`{json.dumps(row)}`")


if __name__ == "__main__":
    main()
