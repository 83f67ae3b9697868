"""Measure memory: training BERT-base by batch size, and tagging a long stream.

    python benchmarks/memory.py data/cluener vocab.txt [--sentences 1000000] [--only training|stream]

Training: the memory that XLA plans for a step of packed rows of 128 tokens with AdamW, dropout and
`scan_layers`. It is the sum of parameters, optimizer state and temporary memory. Nothing is run. XLA plans for
the device that jax uses, so run this on a GPU or TPU for exact numbers; those of a CPU are a rough estimate.

Stream: the dev texts repeated, each with a number appended, through a tagger of 2 layers of width 128 with
random weights. The memory of the process, as the operating system counts it, is printed ten times.
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
from flax_ner.config import UNLABELLED_FALLBACKS, default_config, with_fallbacks
from flax_ner.data.cluener import read_cluener
from flax_ner.model.bert import BertConfig
from flax_ner.model.tagging_model import abstract_params, init_params
from flax_ner.text.batches import Batches
from flax_ner.text.labels import LabelSet
from flax_ner.text.tokenizer import CharTokenizer
from flax_ner.training.loss import make_loss, make_tagging_gradients
from flax_ner.training.mesh import make_mesh, state_shardings
from flax_ner.training.optimizer import make_optimizer, make_schedule
from flax_ner.training.step import init_state, make_run_steps, make_step

ROWS = (8, 16, 32, 64, 128)
WIDTH, STEPS = 128, 20
CONFIGURATIONS = [
    # Without a loop over layers, XLA's CPU back end merges the recomputation that `remat` asks for.
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


def plan_memory(config: BertConfig, rows: int) -> tuple[int, int]:
    """Return the bytes of the training state, and the temporary bytes of a training step."""
    options = with_fallbacks(default_config(), UNLABELLED_FALLBACKS)
    schedule = make_schedule(options.optimizer, 100, 100)
    optimizer = make_optimizer(options.optimizer, schedule)
    state = jax.eval_shape(partial(init_state, optimizer), abstract_params(config))
    shardings = state_shardings(make_mesh(1, 1, rows), state)
    step = make_step(
        make_tagging_gradients(config, make_loss(options.loss), 0), optimizer, schedule
    )
    batches = Batches(*[jax.ShapeDtypeStruct((STEPS, rows, WIDTH), np.int32)] * 4)
    plan = (
        make_run_steps(step, shardings).lower(state, batches, 0, 1, 0).compile().memory_analysis()
    )
    size = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(state))
    return size, plan.temp_size_in_bytes


def training() -> dict[str, dict[int, float]]:
    """Print a table of training memory and return gigabytes by configuration and rows."""
    table: dict[str, dict[int, float]] = {}
    for fields in CONFIGURATIONS:
        name = f"{fields['compute_dtype']}{', remat' if fields['remat'] else ''}"
        table[name] = {}
        for rows in ROWS:
            state, temporary = plan_memory(BertConfig(21128, 21, **fields), rows)
            table[name][rows] = round((state + temporary) / 1e9, 2)
    print(f"BERT-base, GB; {state / 1e9:.2f} of them are parameters and optimizer state\n")
    print("| rows of 128 tokens per step |", *(f"{name} |" for name in table))
    print("| --- |", "--- |" * len(table))
    for rows in ROWS:
        print(f"| {rows} |", *(f"{column[rows]:.1f} |" for column in table.values()))
    print()
    return table


def resident_mb() -> float:
    """Return the resident memory of this process in MB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 1e6


def stream(data: Path, vocab: Path, sentences: int) -> dict[int, float]:
    """Print a table of the memory while tagging a stream and return MB by number of sentences."""
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
    total, begin = 0, time.perf_counter()
    print("| sentences | process memory, MB |\n| --- | --- |")
    for number, entities in enumerate(tagger.stream(itertools.islice(endless(), sentences)), 1):
        total += len(entities)
        if number % (sentences // 10) == 0:
            table[number] = round(resident_mb(), 1)
            print(f"| {number:,} | {table[number]:.0f} |", flush=True)
    rate = sentences / (time.perf_counter() - begin)
    print(f"\n{total:,} entities, {rate:,.0f} sentences per second\n")
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, help="folder with dev.json")
    parser.add_argument("vocab", type=Path, help="vocab.txt of 21,128 tokens")
    parser.add_argument("--sentences", type=int, default=1_000_000, help="of the stream")
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
