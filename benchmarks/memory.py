"""Memory: of training BERT-base by batch size, and of tagging a stream that does not end soon.

    python benchmarks/memory.py data/cluener vocab.txt [--sentences 1000000] [--only training|stream]

Training: what XLA plans for a step of packed rows of 128 tokens, AdamW, dropout on: parameters and
optimizer state, and what lives while the step runs, with `scan_layers`. It is planned for the device
at hand and nothing is run, so a GPU's or TPU's table needs one of them; a CPU's stands for them roughly.
Stream: dev texts over and over, each with a number behind it, through a tagger of 2 layers of width
128 with random weights; the memory that the operating system counts, every tenth of the way.
"""

import argparse
import itertools
import json
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import jax
import numpy as np
from common import machine

from flax_ner import Tagger
from flax_ner.config import WITHOUT_LABELS, default_config, with_fallbacks
from flax_ner.model.bert import BertConfig
from flax_ner.model.tagger import abstract_params, init_params
from flax_ner.text.batches import Batches
from flax_ner.text.cluener import read_cluener
from flax_ner.text.labels import LabelSet
from flax_ner.text.tokenizer import CharTokenizer
from flax_ner.training.gradients import make_gradients, make_loss
from flax_ner.training.mesh import make_mesh, state_shardings
from flax_ner.training.optimizer import make_optimizer, make_schedule
from flax_ner.training.step import init_state, make_step, run_steps

ROWS = (8, 16, 32, 64, 128)
WIDTH, STEPS = 128, 20
WAYS = [
    # Without a loop over layers XLA for CPUs merges what is computed twice.
    {"compute_dtype": dtype, "remat": remat, "scan_layers": True}
    for dtype in ("float32", "bfloat16")
    for remat in (False, True)
]
TINY = {
    "hidden_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 512,
}


def planned(config: BertConfig, rows: int) -> tuple[int, int]:
    """Bytes of the state, and of what else a training step needs."""
    options = with_fallbacks(default_config(), WITHOUT_LABELS)
    schedule = make_schedule(options.optimizer, 100, 100)
    optimizer = make_optimizer(options.optimizer, schedule)
    state = jax.eval_shape(partial(init_state, optimizer), abstract_params(config))
    shardings = state_shardings(make_mesh(1, 1, rows), state)
    step = make_step(make_gradients(config, make_loss(options.loss), 0), optimizer, schedule)
    batches = Batches(*[jax.ShapeDtypeStruct((STEPS, rows, WIDTH), np.int32)] * 4)
    plan = run_steps(step, shardings).lower(state, batches, 0, 1, 0).compile().memory_analysis()
    size = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(state))
    return size, plan.temp_size_in_bytes


def training() -> dict[str, dict[int, float]]:
    """Print the table; gigabytes by way and rows."""
    table: dict[str, dict[int, float]] = {}
    for way in WAYS:
        name = f"{way['compute_dtype']}{', remat' if way['remat'] else ''}"
        table[name] = {}
        for rows in ROWS:
            state, temporary = planned(BertConfig(21128, 21, **way), rows)
            table[name][rows] = round((state + temporary) / 1e9, 2)
    print(f"BERT-base, GB; {state / 1e9:.2f} of them parameters and optimizer state\n")
    print("| rows of 128 tokens a step |", *(f"{name} |" for name in table))
    print("| --- |", "--- |" * len(table))
    for rows in ROWS:
        print(f"| {rows} |", *(f"{column[rows]:.1f} |" for column in table.values()))
    print()
    return table


def resident() -> float:
    """MB that this process holds in memory now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 1e6


def stream(data: Path, vocab: Path, sentences: int) -> dict[int, float]:
    """Print the table; MB by sentences tagged."""
    texts = [example.text for example in read_cluener(data / "dev.json")]
    tokenizer = CharTokenizer(vocab)
    labels = LabelSet(["name"])
    config = BertConfig(len(tokenizer.tokens), len(labels), **TINY)
    tagger = Tagger(config, init_params(config, jax.random.key(0)), tokenizer, labels, 128)
    tagger.compile()

    def endless() -> Iterator[str]:
        for number, text in enumerate(itertools.cycle(texts)):
            yield f"{text}{number}"

    table: dict[int, float] = {}
    found, begin = 0, time.perf_counter()
    print("| sentences | MB |\n| --- | --- |")
    for number, entities in enumerate(tagger.stream(itertools.islice(endless(), sentences)), 1):
        found += len(entities)
        if number % (sentences // 10) == 0:
            table[number] = round(resident(), 1)
            print(f"| {number:,} | {table[number]:.0f} |", flush=True)
    rate = sentences / (time.perf_counter() - begin)
    print(f"\n{found:,} entities, {rate:,.0f} sentences a second\n")
    return table


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("data", type=Path)
    parser.add_argument("vocab", type=Path)
    parser.add_argument("--sentences", type=int, default=1_000_000)
    parser.add_argument("--only", choices=("training", "stream"))
    options = parser.parse_args()
    row = {}
    if options.only != "stream":
        row["training_gb"] = training()
    if options.only != "training":
        row["stream_mb"] = stream(options.data, options.vocab, options.sentences)
    print(f"`{json.dumps(row | machine('jax', 'flax'))}`")


if __name__ == "__main__":
    main()
