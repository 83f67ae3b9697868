"""Shared by several benchmarks: model sizes, tokens of CLUENER, a compiled training loop, machine details."""

import argparse
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from flax_ner.config import UNLABELLED_FALLBACKS, default_config, with_fallbacks
from flax_ner.data.cluener import CATEGORIES
from flax_ner.data.formats import read_examples
from flax_ner.model.bert import BertConfig
from flax_ner.model.tagging_model import init_params
from flax_ner.text.batches import Batcher
from flax_ner.text.encoding import TokenSet, encode_examples
from flax_ner.text.labels import LabelSet
from flax_ner.text.tokenizer import CharTokenizer
from flax_ner.text.vocab import read_vocab
from flax_ner.training.loss import make_loss, make_tagging_gradients
from flax_ner.training.mesh import make_mesh, put_epoch, state_shardings
from flax_ner.training.optimizer import make_optimizer, make_schedule
from flax_ner.training.step import init_state, make_run_steps, make_step
from flax_ner.weights.model_dir import ModelDir, load_model

ROOT = Path(__file__).resolve().parents[1]
SMALL = {
    "hidden_size": 256,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "intermediate_size": 1024,
}
NARROW = {  # the shape of multilingual-e5-small
    "hidden_size": 384,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 1536,
}
BASE: dict[str, int] = {}  # the defaults of `BertConfig`
LARGE = {
    "hidden_size": 1024,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "intermediate_size": 4096,
}
SHAPES = {"small": SMALL, "narrow": NARROW, "base": BASE}
TimedSteps = Callable[[], tuple[int, float]]  # run some training steps -> sentences, seconds


class Usage(NamedTuple):
    """Time and memory that a command used."""

    seconds: float
    peak_mib: float  # resident; at least that of this process at the start
    others_percent: float  # share of the cores' time that other processes used meanwhile


def measure(
    command: Sequence[str], log: Path | None = None, env: Mapping[str, str] | None = None
) -> Usage:
    """Run a command in the root of the checkout and return what it used.

    Args:
        command: the program and its arguments.
        log: file for the output of the command; None: the terminal.
        env: environment variables; None: those of this process.

    Raises:
        SystemExit: the command failed.
    """
    busy, begin = busy_seconds(), time.perf_counter()
    with open(os.devnull if log is None else log, "wb") as file:
        output = None if log is None else file
        process = subprocess.Popen(command, cwd=ROOT, env=env, stdout=output, stderr=output)
        _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - begin
    process.returncode = os.waitstatus_to_exitcode(status)  # os.wait4 has reaped it
    if status:
        sys.exit(f"{command[1]} failed{f', see {log}' if log else ''}")
    others = busy_seconds() - busy - usage.ru_utime - usage.ru_stime
    share = 100 * others / seconds / (os.cpu_count() or 1)
    return Usage(seconds, usage.ru_maxrss / 1024, share)


def busy_seconds() -> float:
    """Return the core seconds that all processes have used since boot (Linux only)."""
    busy = list(map(int, Path("/proc/stat").read_text().split()[1:9]))
    del busy[3:5]  # idle and iowait
    return sum(busy) / os.sysconf("SC_CLK_TCK")


def cpu_seconds(process: int) -> float:
    """Return the CPU time that a process has used so far, also if it has just ended (Linux only)."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:13])) / os.sysconf("SC_CLK_TCK")


def machine(*packages: str) -> dict[str, Any]:
    """Return processor, device and versions, for the JSON line of a benchmark."""
    return {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "device": jax.devices()[0].device_kind,
        "versions": {name: version(name) for name in packages},
    }


def random_model(vocab: list[str], shape: dict[str, int]) -> ModelDir:
    """Make an untrained model that still predicts entities."""
    labels = LabelSet(CATEGORIES)
    config = BertConfig(vocab_size=len(vocab), num_labels=len(labels), **shape)
    params = init_params(config, jax.random.key(0))
    # Embeddings differ enough for all tags to be predicted, mostly O.
    params["encoder"]["embeddings"]["word"] *= 50
    head = params["head"]["classifier"]
    head["kernel"] *= 50
    head["bias"] = head["bias"].at[labels.outside].add(2.5 * np.sqrt(config.hidden_size))
    return ModelDir(config, labels, vocab, 128, params)


def load_or_make(name: str, vocab: Path | None) -> ModelDir:
    """Return the model of a model directory, or an untrained one if `name` is in `SHAPES`.

    Raises:
        SystemExit: an untrained model needs a vocabulary.
    """
    if name not in SHAPES:
        return load_model(name)
    if vocab is None:
        sys.exit(f"{name}: an untrained model needs --vocab")
    return random_model(read_vocab(vocab), SHAPES[name])


def parse_shapes(description: str) -> argparse.Namespace:
    """Parse the arguments of a benchmark of training steps: data, vocab, shapes and rounds."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("data", type=Path, help="folder with CLUENER's train.json")
    parser.add_argument("vocab", type=Path)
    parser.add_argument("--shapes", nargs="+", choices=tuple(SHAPES), default=list(SHAPES))
    parser.add_argument("--rounds", type=int, default=5)
    return parser.parse_args()


def time_call(call: Callable[[], object], repeats: int) -> float:
    """Return the seconds of one call, as a mean."""
    begin = time.perf_counter()
    for _ in range(repeats):
        call()
    return (time.perf_counter() - begin) / repeats


def read_tokens(data: Path, vocab: Path) -> tuple[TokenSet, CharTokenizer, LabelSet]:
    """Read the training set in `data` as tokens and tags."""
    examples = read_examples(str(data / "train.json"), "cluener")
    tokenizer = CharTokenizer(vocab)
    labels = LabelSet(sorted({e.type for example in examples for e in example.entities or ()}))
    return encode_examples(examples, tokenizer, labels, 128), tokenizer, labels


def step_flops(model: BertConfig, rows: int, length: int) -> float:
    """Return the FLOPs of a step's matrix products: forward, and twice that backward."""
    D, F = model.hidden_size, model.intermediate_size
    layer = 4 * D * D + 2 * D * F + 2 * length * D  # multiplications per token
    token = model.num_hidden_layers * layer + D * model.num_labels
    return 6.0 * rows * length * token


def make_training(
    tokens: TokenSet, model: BertConfig, rows: int, length: int, steps: int
) -> tuple[TimedSteps, int]:
    """Make a function that runs and times training steps: packed rows, AdamW, dropout.

    The function is already compiled. Packing an epoch (12 ms for CLUENER) and moving it to the device are
    not timed.

    Args:
        tokens: the training set.
        model: shape and options of the model.
        rows: rows per step.
        length: tokens per row.
        steps: steps per call; at most those of an epoch.

    Returns:
        The function and the number of steps per call.
    """
    batcher = Batcher(tokens, "pack", rows, length, seed=0)
    config = with_fallbacks(default_config(), UNLABELLED_FALLBACKS)
    schedule = make_schedule(config.optimizer, batcher.steps_per_epoch, batcher.steps_per_epoch)
    optimizer = make_optimizer(config.optimizer, schedule)
    mesh = make_mesh(1, 1, rows)
    state = init_state(optimizer, init_params(model, jax.random.key(0)))
    shardings = state_shardings(mesh, state)
    kept, done = jax.device_put(state, shardings), 0
    del state
    gradients = make_tagging_gradients(model, make_loss(config.loss), 0)
    run = make_run_steps(make_step(gradients, optimizer, schedule), shardings)
    batches = batcher.epoch(0).shapes[0]
    steps = min(steps, len(batches.segment_ids))
    sentences = int(np.asarray(batches.segment_ids[:steps]).max(-1).sum())
    arrays = put_epoch(mesh, rows, batches)

    def timed_steps() -> tuple[int, float]:
        nonlocal kept, done
        begin = time.perf_counter()
        kept, metrics = run(kept, arrays, 0, steps, done)
        float(metrics["loss"])  # waits for the device
        done += steps
        return sentences, time.perf_counter() - begin

    timed_steps()  # compiles
    return timed_steps, steps
