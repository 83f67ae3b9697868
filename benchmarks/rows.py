"""How row length and rows a step change training speed, as a table and a plot.

    python benchmarks/rows.py data/cluener vocab.txt [--dtype bfloat16] [--plot docs/throughput.svg]

4 layers x 256, packed rows of real CLUENER text, dropout on, AdamW; sentences a second, medians of
five stretches of about 12,000 tokens. The settings take turns only within themselves: compare
neighbours, not machines. Needs matplotlib for the plot: pip install '.[bench]'.
"""

import argparse
import json
import statistics
from pathlib import Path

from common import SMALL, machine, read_tokens, training

from flax_ner.model.bert import BertConfig

LENGTHS = (64, 96, 128, 192, 256)  # tokens a row; the longest sentence has 52
TOKENS = (768, 1536, 3072)  # tokens a step


def plot(rates: dict[tuple[int, int], float], dtype: str, path: Path) -> None:
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6, 3.6))
    for size in TOKENS:
        axes.plot(LENGTHS, [rates[n, size] for n in LENGTHS], marker="o", label=f"{size}")
    axes.set_xlabel("tokens a row")
    axes.set_ylabel("sentences a second")
    axes.set_xticks(LENGTHS)
    axes.set_ylim(bottom=0)
    axes.set_title(f"Training, 4 layers x 256, packed, {dtype}", fontsize=10)
    axes.legend(title="tokens a step", fontsize=8, title_fontsize=8)
    axes.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, help="folder with train.json")
    parser.add_argument("vocab", type=Path, help="vocab.txt of 21,128 tokens")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="bfloat16")
    parser.add_argument("--plot", type=Path, metavar="SVG")
    options = parser.parse_args()
    tokens, tokenizer, labels = read_tokens(options.data, options.vocab)
    model = BertConfig(len(tokenizer.tokens), len(labels), compute_dtype=options.dtype, **SMALL)
    rates: dict[tuple[int, int], float] = {}
    print(f"| tokens a row | {' | '.join(f'{size} tokens a step' for size in TOKENS)} |")
    print(f"| --- |{' --- |' * len(TOKENS)}")
    for length in LENGTHS:
        for size in TOKENS:
            stretch, _ = training(tokens, model, size // length, length, 12_000 // size)
            runs = [stretch() for _ in range(5)]
            rates[length, size] = statistics.median(n / seconds for n, seconds in runs)
        cells = " | ".join(f"{rates[length, size]:.0f}" for size in TOKENS)
        print(f"| {length} | {cells} |", flush=True)
    row = {f"{length} x {size // length}": round(rate, 1) for (length, size), rate in rates.items()}
    print(f"\n`{json.dumps({'dtype': options.dtype} | row | machine('jax', 'optax'))}`")
    if options.plot:
        plot(rates, options.dtype, options.plot)


if __name__ == "__main__":
    main()
