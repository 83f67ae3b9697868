"""Compare F1 of taggers fine-tuned from a pre-trained encoder, by settings, head and training-set size.

    python benchmarks/encoder.py run WORK ENCODER TRAIN DEV [--test TEST] [--rows NAME ...] [--sizes N ...]
        [--seeds N ...]
    python benchmarks/encoder.py table WORK

`run` trains each row of --rows that WORK/encoder.jsonl lacks, with `train.py` as a user runs it, and appends
one line per finished run. An interrupted run is resumed. --sizes cuts the training data to N sentences, drawn
at random by the seed; a smaller draw is a subset of a larger one. 0 means all sentences.

The epoch is chosen on one half of DEV (its lines 1, 3, 5, ...); choose settings on that half, too. F1 is also
reported on the other half, on all of DEV, and on TEST if given. F1 is strict.
"""

import argparse
import json
import random
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from common import ROOT, machine

from flax_ner import load
from flax_ner.compilation import keep_compiled_programs
from flax_ner.data.cluener import write_cluener
from flax_ner.data.formats import read_examples
from flax_ner.evaluation.analysis import counts_per_text
from flax_ner.evaluation.metrics import score
from flax_ner.text.examples import Example

RECORD = "encoder.jsonl"
CRF = {"model.head": "crf", "data.scheme": "bioes"}
# Differences from the defaults of configs/cluener.py.
ROWS: dict[str, dict[str, Any]] = {
    "default": {},
    "not standardised": {"train.standardise": False},
    **{
        f"rate {rate}, {rows} rows": {
            "optimizer.learning_rate": float(rate),
            "data.batch_size": rows,
        }
        for rate in ("1e-4", "2e-4", "4e-4")
        for rows in (2, 4, 8)
    },
    "half the steps": {"train.steps": 400},
    "twice the steps": {"train.steps": 1600},
    "bioes": {"data.scheme": "bioes"},
    "crf": CRF,
    "crf, not standardised": CRF | {"train.standardise": False},
    "crf, rate 3e-4": CRF | {"optimizer.learning_rate": 3e-4},
    "crf, head x 5": CRF | {"optimizer.head_lr_multiplier": 5.0},
    "crf, layers x 0.9": CRF | {"optimizer.layer_decay": 0.9},
    "crf, EMA 0.999": CRF | {"train.ema": 0.999},
    "crf, FGM 1.0": CRF | {"train.fgm": 1.0},
    "crf, 10 epochs": CRF | {"train.epochs": 10},
    "softmax, R-Drop 1.0": {"train.r_drop": 1.0},
    "global_pointer": {"model.head": "global_pointer"},
    "global_pointer, FGM 1.0": {"model.head": "global_pointer", "train.fgm": 1.0},
}


def halves(dev: Sequence[Example]) -> tuple[list[Example], list[Example]]:
    """Return the half of the dev data that chooses the epoch, and the other half."""
    return list(dev[::2]), list(dev[1::2])


def cut(train: Sequence[Example], size: int, seed: int) -> list[Example]:
    """Return `size` random sentences; a smaller draw with the same seed is a subset of a larger one."""
    order = list(range(len(train)))
    random.Random(seed).shuffle(order)
    return [train[i] for i in order[:size]]


def run_one(options: argparse.Namespace, name: str, size: int, seed: int) -> dict[str, Any]:
    """Train one model with `train.py` and score it."""
    folder = options.work / f"{options.train.stem}_{size}_{name.replace(' ', '_')}_{seed}"
    folder.mkdir(parents=True, exist_ok=True)
    dev, train = (read_examples(str(path), "auto") for path in (options.dev, options.train))
    files = {"dev": folder / "dev.json", "train": folder / "train.json"}
    write_cluener(files["dev"], halves(dev)[0])
    write_cluener(files["train"], cut(train, size, seed) if size else train)
    fields = {
        "seed": seed, "init_from": options.encoder.resolve(),
        "data.train": files["train"], "data.dev": files["dev"],
        "model.compute_dtype": options.compute_dtype, "checkpoint.every": 100,
    } | ROWS[name]  # fmt: skip
    command = [
        sys.executable,
        "train.py",
        "--config=configs/cluener.py",
        f"--workdir={folder / 'run'}",
    ]
    command += [f"--config.{field}={value}" for field, value in fields.items()]
    begin = time.monotonic()
    with (folder / "log.txt").open("a", encoding="utf-8") as log:
        subprocess.run(command, cwd=ROOT, stdout=log, stderr=log, check=True)
    seconds = time.monotonic() - begin
    tagger = load(folder / "run" / "best")

    def f1(examples: Sequence[Example]) -> tuple[float, list[Any]]:
        gold = [example.entities or () for example in examples]
        predicted = tagger([example.text for example in examples])
        return score(gold, predicted).f1, counts_per_text(gold, predicted).tolist()

    settings = json.loads((folder / "run" / "config.json").read_text())
    chosen, other = halves(dev)
    row = {
        "row": name, "size": size, "seed": seed, "encoder": options.encoder.name, "corpus": str(options.train),
        "f1_chosen_on": f1(chosen)[0], "f1_other": f1(other)[0], "f1": (whole := f1(dev))[0],
        "counts": whole[1], "seconds": round(seconds),
        "rows": settings["data"]["batch_size"], "epochs": settings["train"]["epochs"],
        "rate": settings["optimizer"]["learning_rate"],
        "machine": machine(),
    }  # fmt: skip
    if options.test:
        row["f1_test"] = f1(read_examples(str(options.test), "auto"))[0]
    return row


def read_record(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def run(options: argparse.Namespace) -> None:
    """Train the rows that the record lacks."""
    keep_compiled_programs()
    options.work.mkdir(parents=True, exist_ok=True)
    record = options.work / RECORD
    keys = ("row", "size", "seed", "encoder", "corpus")
    for seed in options.seeds:
        for size in options.sizes:
            for name in options.rows:
                key = (name, size, seed, options.encoder.name, str(options.train))
                if key in {tuple(row[k] for k in keys) for row in read_record(record)}:
                    continue
                print(f"{name}, {size or 'all'} sentences, seed {seed} ...", flush=True)
                row = run_one(options, name, size, seed)
                with record.open("a") as file:
                    file.write(json.dumps(row) + "\n")
                print(f"  F1 {row['f1']:.4f}, {row['seconds']} s", flush=True)


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Return a Markdown table with one line per corpus, size, encoder and row: means over seeds."""
    groups = defaultdict(list)
    for row in rows:
        groups[Path(row["corpus"]).parent.name, row["size"], row["encoder"], row["row"]].append(row)
    columns = {
        "chosen on": "f1_chosen_on",
        "other half": "f1_other",
        "dev": "f1",
        "test": "f1_test",
    }
    lines = [
        f"| corpus | sentences | encoder | row | seeds | {' | '.join(columns)} | minutes |",
        f"| --- | --- | --- | --- | --- | {' | '.join('---' for _ in columns)} | --- |",
    ]
    for (corpus, size, encoder, name), group in sorted(groups.items()):
        cells = []
        for field in columns.values():
            values = [row[field] for row in group if field in row]
            spread = f" ± {statistics.stdev(values):.4f}" if len(values) > 1 else ""
            cells.append(f"{statistics.mean(values):.4f}{spread}" if values else "")
        minutes = statistics.median(row["seconds"] for row in group) / 60
        lines.append(
            f"| {corpus} | {size or 'all'} | {encoder} | {name} | {len(group)} | {' | '.join(cells)} "
            f"| {minutes:.1f} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    steps = parser.add_subparsers(dest="step", required=True)
    step = steps.add_parser("run")
    for name in ("work", "encoder", "train", "dev"):
        step.add_argument(name, type=Path)
    step.add_argument("--test", type=Path)
    step.add_argument("--rows", nargs="+", choices=ROWS, default=["default"], metavar="NAME")
    step.add_argument("--sizes", nargs="+", type=int, default=[0])
    step.add_argument("--seeds", nargs="+", type=int, default=[0])
    step.add_argument("--compute-dtype", default="bfloat16")
    step = steps.add_parser("table")
    step.add_argument("work", type=Path)
    options = parser.parse_args()
    options.work = options.work.resolve()  # training runs in another folder
    if options.step == "run":
        run(options)
    else:
        print(table(read_record(options.work / RECORD)))


if __name__ == "__main__":
    main()
