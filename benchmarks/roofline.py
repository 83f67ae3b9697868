"""Compare a training step with its matrix products alone.

    python benchmarks/roofline.py data/cluener vocab.txt [--shapes small narrow base] [--rounds 5]

Times each matrix product of a step (8 packed rows of 128 tokens, in float32 and in bfloat16) alone, with XLA
and with PyTorch (oneDNN or MKL). The results of bfloat16 products are float32 with XLA, as in the step, and
bfloat16 with PyTorch. The operands are contiguous, and in the cache if they fit. The sum of the times estimates
the minimum time of the step. Products of attention are batched. Steps and products take turns. The smallest
time of all rounds counts, because other work on the machine can only make a time longer. Needs torch.
"""

import itertools
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import torch
from common import (
    SHAPES,
    machine,
    make_training,
    parse_shapes,
    read_tokens,
    step_flops,
    time_call,
)  # fmt: skip

from flax_ner.huge_pages import use_huge_pages
from flax_ner.model.bert import DTYPES, BertConfig
from flax_ner.model.matmul import product

STEPS = {"small": 10, "narrow": 3, "base": 2}  # per measurement
ROWS, LENGTH = 8, 128
Product = tuple[int, int, int, int]  # batch, rows, inputs, outputs
REPEATS = 5  # calls per measurement of a product


def step_products(model: BertConfig) -> Counter[Product]:
    """Return the shapes of all matrix products of a training step, with their number."""
    N, D, F, T = ROWS * LENGTH, model.hidden_size, model.intermediate_size, LENGTH
    heads, per_head = ROWS * model.num_attention_heads, D // model.num_attention_heads
    products: Counter[Product] = Counter()

    def add(count: int, batch: int, rows: int, inputs: int, outputs: int) -> None:
        """Add a product and those of its two gradients."""
        for shape in (
            (rows, inputs, outputs),
            (rows, outputs, inputs),
            (inputs, rows, outputs),
        ):
            products[batch, *shape] += count

    L = model.num_hidden_layers
    add(L, 1, N, D, 3 * D)  # query, key and value
    add(L, heads, T, per_head, T)  # attention scores
    add(L, heads, T, T, per_head)  # context
    add(L, 1, N, D, D)  # attention output
    add(L, 1, N, D, F)
    add(L, 1, N, F, D)
    add(1, 1, N, D, model.num_labels)
    return products


def make_calls(shape: Product, compute_dtype: str) -> dict[str, Callable[[], object]]:
    """Return functions that compute one product, by library."""
    batch, rows, inputs, outputs = shape
    rng = np.random.default_rng(0)
    a = rng.normal(size=(batch, rows, inputs)).astype(np.float32)
    b = rng.normal(size=(batch, inputs, outputs)).astype(np.float32)
    if batch == 1:
        a, b = a[0], b[0]
    dot = jax.jit(lambda a, b: product(a, b, jnp.float32))
    ours = [jnp.asarray(x, compute_dtype) for x in (a, b)]
    theirs = [torch.from_numpy(x).to(getattr(torch, compute_dtype)) for x in (a, b)]
    calls: dict[str, Callable[[], object]] = {
        "xla": lambda: dot(*ours).block_until_ready(),
        "torch": lambda: torch.matmul(*theirs),
    }
    for call in calls.values():
        call()
    return calls


def measure(
    shape: str, compute_dtype: str, data: Path, vocab: Path, rounds: int
) -> dict[str, float]:
    """Return the times of a step and of its products, in ms."""
    tokens, tokenizer, labels = read_tokens(data, vocab)
    model = BertConfig(
        len(tokenizer.tokens), len(labels), compute_dtype=compute_dtype, **SHAPES[shape]
    )
    timed_steps, steps = make_training(tokens, model, ROWS, LENGTH, STEPS[shape])
    counts = step_products(model)
    calls = {key: make_calls(key, compute_dtype) for key in counts}
    step, best = float("inf"), {(key, way): float("inf") for key in counts for way in calls[key]}
    for _ in range(rounds):
        step = min(step, timed_steps()[1] / steps)
        for key, ways in calls.items():
            for way, call in ways.items():
                best[key, way] = min(best[key, way], time_call(call, REPEATS))
    row = {"step": step}
    for way in ("xla", "torch"):
        row[way] = sum(count * best[key, way] for key, count in counts.items())
    row["best"] = sum(
        count * min(best[key, "xla"], best[key, "torch"]) for key, count in counts.items()
    )
    flops = step_flops(model, ROWS, LENGTH)
    return {name: round(1000 * seconds, 1) for name, seconds in row.items()} | {
        "gflops": round(flops / row["best"] / 1e9)
    }


def main() -> None:
    options = parse_shapes(__doc__.splitlines()[0])
    print(
        "| model | dtype | step, ms | products with XLA, ms | with PyTorch, ms | the faster of both, ms "
        "| GFLOP/s | step / products with XLA | step / fastest products |\n"
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |"
    )
    rows = {}
    for shape, compute_dtype in itertools.product(options.shapes, DTYPES):
        row = measure(shape, compute_dtype, options.data, options.vocab, options.rounds)
        rows[f"{shape}, {compute_dtype}"] = row
        cells = [row[name] for name in ("step", "xla", "torch", "best", "gflops")]
        ratios = [f"{row['step'] / row[name]:.2f}" for name in ("xla", "best")]
        print("|", " | ".join(map(str, (shape, compute_dtype, *cells, *ratios))), "|", flush=True)
    print(f"\n`{json.dumps(rows | machine('jax', 'flax', 'torch'))}`")


if __name__ == "__main__":
    use_huge_pages()
    main()
