"""Compare a training step with its matrix products alone.

    python benchmarks/roofline.py data/cluener vocab.txt [--shapes small narrow base] [--rounds 5]

Times each matrix product of a float32 step (8 packed rows of 128 tokens) alone, with XLA and with PyTorch
(oneDNN or MKL). The operands are contiguous, and in the cache if they fit. The sum of the times estimates the
minimum time of the step. Products of attention are batched. Steps and products take turns. The smallest time of
all rounds counts, because other work on the machine can only make a time longer. Needs torch.
"""

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
from flax_ner.model.bert import BertConfig

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


def make_calls(shape: Product) -> dict[str, Callable[[], object]]:
    """Return functions that compute one product, by library."""
    batch, rows, inputs, outputs = shape
    rng = np.random.default_rng(0)
    a = rng.normal(size=(batch, rows, inputs)).astype(np.float32)
    b = rng.normal(size=(batch, inputs, outputs)).astype(np.float32)
    if batch == 1:
        a, b = a[0], b[0]
    dot = jax.jit(lambda a, b: jnp.matmul(a, b, precision="highest"))
    ours, theirs = (jnp.asarray(a), jnp.asarray(b)), (torch.from_numpy(a), torch.from_numpy(b))
    calls: dict[str, Callable[[], object]] = {
        "xla": lambda: dot(*ours).block_until_ready(),
        "torch": lambda: torch.matmul(*theirs),
    }
    for call in calls.values():
        call()
    return calls


def measure(shape: str, data: Path, vocab: Path, rounds: int) -> dict[str, float]:
    """Return the times of a step and of its products, in ms."""
    tokens, tokenizer, labels = read_tokens(data, vocab)
    model = BertConfig(len(tokenizer.tokens), len(labels), **SHAPES[shape])
    timed_steps, steps = make_training(tokens, model, ROWS, LENGTH, STEPS[shape])
    products = step_products(model)
    calls = {product: make_calls(product) for product in products}
    step, best = float("inf"), {(p, way): float("inf") for p in products for way in calls[p]}
    for _ in range(rounds):
        step = min(step, timed_steps()[1] / steps)
        for product, ways in calls.items():
            for way, call in ways.items():
                best[product, way] = min(best[product, way], time_call(call, REPEATS))
    row = {"step": step}
    for way in ("xla", "torch"):
        row[way] = sum(count * best[product, way] for product, count in products.items())
    row["best"] = sum(
        count * min(best[product, "xla"], best[product, "torch"])
        for product, count in products.items()
    )
    flops = step_flops(model, ROWS, LENGTH)
    return {name: round(1000 * seconds, 1) for name, seconds in row.items()} | {
        "gflops": round(flops / row["best"] / 1e9)
    }


def main() -> None:
    options = parse_shapes(__doc__.splitlines()[0])
    print(
        "| model | step, ms | products with XLA, ms | with PyTorch, ms | the faster of both, ms | GFLOP/s "
        "| step / products with XLA | step / fastest products |\n"
        "| --- | --- | --- | --- | --- | --- | --- | --- |"
    )
    rows = {}
    for shape in options.shapes:
        rows[shape] = row = measure(shape, options.data, options.vocab, options.rounds)
        print(
            f"| {shape} | {row['step']} | {row['xla']} | {row['torch']} | {row['best']} | {row['gflops']} | "
            f"{row['step'] / row['xla']:.2f} | {row['step'] / row['best']:.2f} |",
            flush=True,
        )
    print(f"\n`{json.dumps(rows | machine('jax', 'flax', 'torch'))}`")


if __name__ == "__main__":
    use_huge_pages()
    main()
