"""Converting a PyTorch file of real size next to PyTorch reading it: time and memory.

    python benchmarks/convert.py vocab.txt [--rounds 7]

Makes a random bert_pretrain.pth of MMOCR's shape (102 M parameters, 409 MB; needs PyTorch and
transformers). Every figure comes from a process of its own; the ways take turns, so that what else
the machine does falls on all of them. Memory is the peak above what the process had after its
imports, by the operating system's count (Linux).
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bert_base import make_random_file
from common import machine

ROOT = Path(__file__).resolve().parents[1]
PAUSE = 5  # seconds
ENVIRONMENT = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}

# Each sets `ready()`, to be timed; imports come before.
WAYS = {
    "torch.load, state_dict in memory": """
import torch
def ready():
    return torch.load(source, weights_only=True)
""",
    "torch.load, load_state_dict into transformers' BertModel": """
import torch
from transformers import BertConfig, BertModel
def ready():
    model = BertModel(BertConfig(vocab_size=21128))
    state = torch.load(source, weights_only=True)
    model.load_state_dict({name.removeprefix("bert."): tensor for name, tensor in state.items()})
    return model
""",
    "torch.load, torch.save": """
import torch
def ready():
    torch.save(torch.load(source, weights_only=True), out)
""",
    "flax_ner, parameters in memory": """
from flax_ner.weights.convert import convert
from flax_ner.weights.source import open_source
def ready():
    return convert(open_source(source, vocab))[0].params
""",
    "flax_ner, model directory written": """
from flax_ner.weights.convert import convert
from flax_ner.weights.model_dir import save_model
from flax_ner.weights.source import open_source
def ready():
    save_model(out, convert(open_source(source, vocab))[0])
""",
}
MEASURE = """
import resource, sys, time
source, vocab, out = sys.argv[1:]
{imports}
before = int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize()
begin = time.perf_counter()
result = ready()
seconds = time.perf_counter() - begin
# Not ru_maxrss: it begins with what the parent had.
peak = next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(seconds, (peak * 1024 - before) / 2**20)
"""


def measure(way: str, *arguments: Path) -> tuple[float, float, float]:
    """Seconds after the imports, seconds of the whole process, peak MiB above the imports."""
    code = MEASURE.format(imports=WAYS[way])
    # Each begins alike: what was written before is on disk, memory that was freed before is back with
    # the (virtual) machine's host, our modules are compiled as installed ones are.
    os.sync()
    time.sleep(PAUSE)
    begin = time.perf_counter()
    result = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True, env=ENVIRONMENT,
    )  # fmt: skip
    whole = time.perf_counter() - begin
    seconds, memory = map(float, result.stdout.split())
    return seconds, whole, memory


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("vocab", type=Path, help="vocab.txt of 21,128 tokens")
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    figures: dict[str, list[tuple[float, float, float]]] = {way: [] for way in WAYS}
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "bert_pretrain.pth")
        parameters = make_random_file(source)
        for turn in range(options.rounds + 1):
            for i, way in enumerate(WAYS):
                run = measure(way, source, options.vocab.absolute(), Path(folder, f"model{i}"))
                if turn:  # the first only compiles modules
                    figures[way].append(run)
    size = parameters * 4 / 2**20
    print(
        f"{parameters:,} parameters, {size:.0f} MiB; medians of {options.rounds} rounds (least, most)\n"
    )
    print(
        "| way | seconds after imports | seconds, whole process | peak memory, MiB | of the parameters' size |"
    )
    print("| --- | --- | --- | --- | --- |")
    row: dict[str, object] = {"parameters": parameters, "rounds": options.rounds}
    for way, runs in figures.items():
        cells, medians = [], []
        for column in zip(*runs, strict=True):
            medians.append(round(statistics.median(column), 3))
            cells.append(f"{statistics.median(column):.2f} ({min(column):.2f}, {max(column):.2f})")
        cells[-1] = f"{medians[-1]:.0f}"
        print(f"| {way} | {' | '.join(cells)} | {medians[-1] / size:.2f} |")
        row[way] = dict(zip(("seconds", "whole_seconds", "peak_mib"), medians, strict=True))
    row |= machine("jax", "flax", "orbax-checkpoint", "torch", "transformers")
    print(f"\n`{json.dumps(row)}`")


if __name__ == "__main__":
    main()
