"""How long training takes to get going: with nothing compiled, with a warm cache, and with many layers.

    python benchmarks/start.py data/cluener vocab.txt [--rounds 5]

The first table starts `train.py` (4 layers x 256, one step, 64 sentences scored) with an empty cache
folder and then again with the same one, each a process of its own. The first step counts from when
the state is ready. The second compiles a training step with `scan_layers` in one process.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
from common import SMALL, machine

from flax_ner.config import WITHOUT_LABELS, default_config, with_fallbacks
from flax_ner.model.bert import BertConfig
from flax_ner.model.tagger import abstract_params
from flax_ner.text.batches import Batches
from flax_ner.training.gradients import make_gradients, make_loss
from flax_ner.training.mesh import make_mesh, state_shardings
from flax_ner.training.optimizer import make_optimizer, make_schedule
from flax_ner.training.step import init_state, make_step, run_steps

ROOT = Path(__file__).resolve().parents[1]
OWN = ("JAX_COMPILATION_CACHE_DIR", "JAX_ENABLE_COMPILATION_CACHE")


def start(options: argparse.Namespace, folder: Path, turn: str) -> tuple[float, float]:
    """Seconds to the end of the first step, and of the whole process."""
    workdir = folder / turn
    dev = folder / "dev.json"
    fields = {f"model.{name}": value for name, value in SMALL.items()} | {
        "tokenizer.vocab": options.vocab.absolute(),
        "data.train": options.data.absolute() / "train.json",
        "data.dev": dev,
        "data.batch_size": 8,
        "train.steps": 1,
    }
    dev.write_text("".join((options.data / "dev.json").read_text("utf-8").splitlines(True)[:64]))
    environment = {k: v for k, v in os.environ.items() if k not in OWN}
    begin = time.perf_counter()
    subprocess.run(
        [
            *(sys.executable, "train.py", "--config=configs/cluener_scratch.py"),
            f"--workdir={workdir}",
            *(f"--config.{name}={value}" for name, value in fields.items()),
        ],
        cwd=ROOT,
        env=environment | {"XDG_CACHE_HOME": str(folder / "cache")},
        stdout=subprocess.DEVNULL,
        check=True,
    )
    whole = time.perf_counter() - begin
    first = json.loads((workdir / "metrics.jsonl").read_text().splitlines()[0])
    return first["seconds"], whole


def compile_seconds(layers: int) -> float:
    """Seconds to trace and compile a training step of that many scanned layers."""
    model = BertConfig(21128, 21, scan_layers=True, **SMALL | {"num_hidden_layers": layers})
    config = with_fallbacks(default_config(), WITHOUT_LABELS)
    schedule = make_schedule(config.optimizer, 10, 10)
    optimizer = make_optimizer(config.optimizer, schedule)
    state = jax.eval_shape(partial(init_state, optimizer), abstract_params(model))
    shardings = state_shardings(make_mesh(1, 1, 8), state)
    gradients = make_gradients(model, make_loss(config.loss), 0)
    run = run_steps(make_step(gradients, optimizer, schedule), shardings)
    batches = Batches(*[jax.ShapeDtypeStruct((2, 8, 128), jnp.int32)] * 4)
    begin = time.perf_counter()
    run.lower(state, batches, 0, 1, 0).compile()
    return time.perf_counter() - begin


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, help="folder with train.json and dev.json")
    parser.add_argument("vocab", type=Path, help="vocab.txt of 21,128 tokens")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    turns: dict[str, list[tuple[float, float]]] = {"cold": [], "warm": []}
    for _ in range(options.rounds):
        with tempfile.TemporaryDirectory() as folder:
            for turn, found in turns.items():
                found.append(start(options, Path(folder), turn))
    row: dict[str, object] = {"rounds": options.rounds}
    print("| cache | first step, seconds: median (least, most) | whole process, seconds |")
    print("| --- | --- | --- |")
    for turn, found in turns.items():
        cells = [
            f"{statistics.median(x):.2f} ({min(x):.2f}, {max(x):.2f})"
            for x in zip(*found, strict=True)
        ]
        print(f"| {turn} | {' | '.join(cells)} |")
        row[turn] = [round(statistics.median(x), 2) for x in zip(*found, strict=True)]
    compile_seconds(1)
    print("\n| layers, scanned | seconds to compile a training step |\n| --- | --- |")
    rounds = [{n: compile_seconds(n) for n in (2, 12, 48)} for _ in range(3)]
    for layers in (2, 12, 48):
        seconds = statistics.median(found[layers] for found in rounds)
        print(f"| {layers} | {seconds:.2f} |")
        row[f"{layers} layers"] = round(seconds, 2)
    print(f"\n`{json.dumps(row | machine('jax', 'optax'))}`")


if __name__ == "__main__":
    main()
