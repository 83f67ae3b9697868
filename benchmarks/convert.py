"""Compare converting a PyTorch file of real size with PyTorch reading it: time and memory.

    python benchmarks/convert.py vocab.txt [--rounds 7]

Writes a random bert_pretrain.pth of MMOCR's shape (102 M parameters, 409 MB; needs PyTorch and
transformers). Every measurement has its own process. Runs are interleaved, so that other load on the machine
affects all of them. Memory is the peak of the process above that after its imports, as the operating system
counts it (Linux).
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
PAUSE = 5  # seconds between runs
ENVIRONMENT = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}

# Each defines `run()`, which is timed; its imports are not.
CONFIGURATIONS = {
    "torch.load, state_dict in memory": """
import torch
def run():
    return torch.load(source, weights_only=True)
""",
    "torch.load, load_state_dict into transformers' BertModel": """
import torch
from transformers import BertConfig, BertModel
def run():
    model = BertModel(BertConfig(vocab_size=21128))
    state = torch.load(source, weights_only=True)
    model.load_state_dict({name.removeprefix("bert."): tensor for name, tensor in state.items()})
    return model
""",
    "torch.load, torch.save": """
import torch
def run():
    torch.save(torch.load(source, weights_only=True), out)
""",
    "flax_ner, parameters in memory": """
from flax_ner.weights.convert import convert
from flax_ner.weights.source import open_source
def run():
    return convert(open_source(source, vocab))[0].params
""",
    "flax_ner, model directory written": """
from flax_ner.weights.convert import convert
from flax_ner.weights.model_dir import save_model
from flax_ner.weights.source import open_source
def run():
    save_model(out, convert(open_source(source, vocab))[0])
""",
}
MEASURE = """
import resource, sys, time
source, vocab, out = sys.argv[1:]
{imports}
before = int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize()
begin = time.perf_counter()
result = run()
seconds = time.perf_counter() - begin
# Not ru_maxrss: it starts at the value of the parent process.
peak = next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(seconds, (peak * 1024 - before) / 2**20)
"""


def measure(name: str, *arguments: Path) -> tuple[float, float, float]:
    """Return the seconds after the imports, those of the whole process, and the peak MiB above the imports."""
    code = MEASURE.format(imports=CONFIGURATIONS[name])
    # Every run starts from the same state: earlier writes are on disk, and the host of the virtual machine
    # has the freed memory back. flax_ner's modules have bytecode files, as installed ones do.
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
    parser.add_argument("--rounds", type=int, default=7, help="rounds after the warm-up")
    options = parser.parse_args()
    runs_of: dict[str, list[tuple[float, float, float]]] = {name: [] for name in CONFIGURATIONS}
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "bert_pretrain.pth")
        parameters = make_random_file(source)
        for turn in range(options.rounds + 1):
            for i, name in enumerate(CONFIGURATIONS):
                run = measure(name, source, options.vocab.absolute(), Path(folder, f"model{i}"))
                if turn:  # the first round writes bytecode files
                    runs_of[name].append(run)
    size = parameters * 4 / 2**20
    print(
        f"{parameters:,} parameters, {size:.0f} MiB; medians of {options.rounds} rounds (min, max)\n"
    )
    print(
        "| configuration | after imports, s | whole process, s | peak memory, MiB | ratio to parameter size |"
    )
    print("| --- | --- | --- | --- | --- |")
    row: dict[str, object] = {"parameters": parameters, "rounds": options.rounds}
    for name, runs in runs_of.items():
        cells, medians = [], []
        for column in zip(*runs, strict=True):
            medians.append(round(statistics.median(column), 3))
            cells.append(f"{statistics.median(column):.2f} ({min(column):.2f}, {max(column):.2f})")
        cells[-1] = f"{medians[-1]:.0f}"
        print(f"| {name} | {' | '.join(cells)} | {medians[-1] / size:.2f} |")
        row[name] = dict(zip(("seconds", "whole_seconds", "peak_mib"), medians, strict=True))
    row |= machine("jax", "flax", "orbax-checkpoint", "torch", "transformers")
    print(f"\n`{json.dumps(row)}`")


if __name__ == "__main__":
    main()
