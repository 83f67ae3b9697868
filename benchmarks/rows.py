"""Measure how row length and tokens per step change training throughput, as a table and a plot.

    python benchmarks/rows.py data/cluener vocab.txt [--dtype bfloat16] [--plot docs/throughput.svg]

4 layers x 256, packed rows of real CLUENER text, dropout, AdamW. Each number is the median over five
measurements of about 12,000 tokens, in sentences per second. The measurements are interleaved, in a process
with huge pages, as in train.py. All fifteen models are in memory (1.6 GB). The plot needs matplotlib:
pip install '.[bench]'.
"""

import argparse
import json
import statistics
import sys
from itertools import product
from pathlib import Path

from common import SMALL, machine, make_training, read_tokens

from flax_ner.huge_pages import use_huge_pages
from flax_ner.model.bert import BertConfig

LENGTHS = (64, 96, 128, 192, 256)  # tokens per row; the longest sentence has 52
TOKENS = (768, 1536, 3072)  # tokens per step
ROUNDS = 5


def plot(rates: dict[tuple[int, int], float], dtype: str, path: Path) -> None:
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6, 3.6))
    for size in TOKENS:
        axes.plot(LENGTHS, [rates[n, size] for n in LENGTHS], marker="o", label=f"{size}")
    axes.set_xlabel("tokens per row")
    axes.set_ylabel("sentences per second")
    axes.set_xticks(LENGTHS)
    axes.set_ylim(bottom=0)
    axes.set_title(f"Training, 4 layers x 256, packed, {dtype}", fontsize=10)
    axes.legend(title="tokens per step", fontsize=8, title_fontsize=8)
    axes.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, help="folder with train.json")
    parser.add_argument("vocab", type=Path, help="vocab.txt of 21,128 tokens")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="bfloat16")
    parser.add_argument("--plot", type=Path, metavar="SVG", help="write a plot to this file")
    options = parser.parse_args()
    tokens, tokenizer, labels = read_tokens(options.data, options.vocab)
    model = BertConfig(len(tokenizer.tokens), len(labels), compute_dtype=options.dtype, **SMALL)
    trainings = {
        (length, size): make_training(tokens, model, size // length, length, round(12_000 / size))[
            0
        ]
        for length, size in product(LENGTHS, TOKENS)
    }
    runs: dict[tuple[int, int], list[float]] = {key: [] for key in trainings}
    for i in range(ROUNDS):
        print(f"round {i + 1} of {ROUNDS}", file=sys.stderr)
        for key, timed_steps in trainings.items():
            sentences, seconds = timed_steps()
            runs[key].append(sentences / seconds)
    rates = {key: statistics.median(values) for key, values in runs.items()}
    print(f"| tokens per row | {' | '.join(f'{size} tokens per step' for size in TOKENS)} |")
    print(f"| --- |{' --- |' * len(TOKENS)}")
    for length in LENGTHS:
        print(f"| {length} | {' | '.join(f'{rates[length, size]:.0f}' for size in TOKENS)} |")
    row = {f"{length} x {size // length}": round(rate, 1) for (length, size), rate in rates.items()}
    print(f"\n`{json.dumps({'dtype': options.dtype} | row | machine('jax', 'optax'))}`")
    if options.plot:
        plot(rates, options.dtype, options.plot)


if __name__ == "__main__":
    use_huge_pages()
    main()
