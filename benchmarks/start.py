"""Measure the startup time of training, with a cold and a warm compilation cache, and its compile time.

    python benchmarks/start.py data/cluener vocab.txt [--rounds 5]

For the first table, `train.py` runs twice (4 layers x 256, one step, evaluation on 64 sentences): with an empty
cache folder, and then with the same folder. The time of the first step counts from when the training state is
ready. For the second table, a training step with `scan_layers` is compiled for several numbers of layers.
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

from flax_ner.config import UNLABELLED_FALLBACKS, default_config, with_fallbacks
from flax_ner.model.bert import BertConfig
from flax_ner.model.tagging_model import abstract_params
from flax_ner.text.batches import Batches
from flax_ner.training.loss import make_loss, make_tagging_gradients
from flax_ner.training.mesh import make_mesh, state_shardings
from flax_ner.training.optimizer import make_optimizer, make_schedule
from flax_ner.training.step import init_state, make_run_steps, make_step

ROOT = Path(__file__).resolve().parents[1]
CACHE_VARIABLES = ("JAX_COMPILATION_CACHE_DIR", "JAX_ENABLE_COMPILATION_CACHE")


def time_training(options: argparse.Namespace, folder: Path, cache: str) -> tuple[float, float]:
    """Run `train.py`; return the seconds of the first step and of the whole process."""
    workdir = folder / cache
    dev = folder / "dev.json"
    fields = {f"model.{name}": value for name, value in SMALL.items()} | {
        "tokenizer.vocab": options.vocab.absolute(),
        "data.train": options.data.absolute() / "train.json",
        "data.dev": dev,
        "data.batch_size": 8,
        "train.steps": 1,
    }
    dev.write_text("".join((options.data / "dev.json").read_text("utf-8").splitlines(True)[:64]))
    environment = {k: v for k, v in os.environ.items() if k not in CACHE_VARIABLES}
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
    """Return the seconds to trace and compile a training step with `layers` scanned layers."""
    model = BertConfig(21128, 21, scan_layers=True, **SMALL | {"num_hidden_layers": layers})
    config = with_fallbacks(default_config(), UNLABELLED_FALLBACKS)
    schedule = make_schedule(config.optimizer, 10, 10)
    optimizer = make_optimizer(config.optimizer, schedule)
    state = jax.eval_shape(partial(init_state, optimizer), abstract_params(model))
    shardings = state_shardings(make_mesh(1, 1, 8), state)
    gradients = make_tagging_gradients(model, make_loss(config.loss), 0)
    run = make_run_steps(make_step(gradients, optimizer, schedule), shardings)
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
    results: dict[str, list[tuple[float, float]]] = {"cold": [], "warm": []}
    for _ in range(options.rounds):
        with tempfile.TemporaryDirectory() as folder:
            for cache, runs in results.items():
                runs.append(time_training(options, Path(folder), cache))
    row: dict[str, object] = {"rounds": options.rounds}
    print(
        "| compilation cache | first step, s: median (min, max) | whole process, s: median (min, max) |"
    )
    print("| --- | --- | --- |")
    for cache, runs in results.items():
        cells = [
            f"{statistics.median(x):.2f} ({min(x):.2f}, {max(x):.2f})"
            for x in zip(*runs, strict=True)
        ]
        print(f"| {cache} | {' | '.join(cells)} |")
        row[cache] = [round(statistics.median(x), 2) for x in zip(*runs, strict=True)]
    compile_seconds(1)  # warms up
    print("\n| layers, scanned | compile time of a training step, s |\n| --- | --- |")
    rounds = [{n: compile_seconds(n) for n in (2, 12, 48)} for _ in range(3)]
    for layers in (2, 12, 48):
        seconds = statistics.median(times[layers] for times in rounds)
        print(f"| {layers} | {seconds:.2f} |")
        row[f"{layers} layers"] = round(seconds, 2)
    print(f"\n`{json.dumps(row | machine('jax', 'optax'))}`")


if __name__ == "__main__":
    main()
