"""Compare sentences picked by `data select` with random ones: F1 after the same number of labelled sentences.

    python benchmarks/selection.py run WORK ENCODER TRAIN DEV [--start N] [--sizes N ...] [--seeds N ...]
        [--steps N] [--ways random picked]
    python benchmarks/selection.py table WORK

Annotation is simulated: the label of a sentence in TRAIN is used only once the sentence is picked. Both methods
start with the same random sentences. To reach the next size, the first method lets the last model pick
sentences, and the second picks at random. Every model is trained from the encoder by `train.py`, with the
defaults of configs/cluener.py. --steps sets the number of steps of every model. The epoch is chosen on one half
of DEV (its lines 1, 3, 5, ...), and F1 (strict) is reported on the other half. WORK/selection.jsonl has one
line per model. Finished models are not trained again, and an interrupted run is resumed.
"""

import argparse
import json
import statistics
import subprocess
import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from common import ROOT, machine
from encoder import cut, halves

from flax_ner import load
from flax_ner.data.cluener import write_cluener
from flax_ner.data.formats import read_examples
from flax_ner.inference.selection import select_texts
from flax_ner.text.examples import Example

RECORD = "selection.jsonl"
WAYS = ("random", "picked")


def train_and_score(
    options: argparse.Namespace, folder: Path, sentences: Sequence[Example], seed: int
) -> float:
    """Train a model in `folder` unless it is there, and return its F1 on the second half of DEV."""
    folder.mkdir(parents=True, exist_ok=True)
    chosen_on, scored = halves(read_examples(str(options.dev), "auto"))
    write_cluener(folder / "train.json", sentences)
    write_cluener(folder / "dev.json", chosen_on)
    command = [
        sys.executable, "train.py", "--config=configs/cluener.py", f"--workdir={folder / 'run'}",
        f"--config.init_from={options.encoder.resolve()}", f"--config.seed={seed}",
        f"--config.data.train={folder / 'train.json'}", f"--config.data.dev={folder / 'dev.json'}",
        "--config.model.compute_dtype=bfloat16", f"--config.train.steps={options.steps}",
    ]  # fmt: skip
    with (folder / "log.txt").open("a", encoding="utf-8") as log:
        subprocess.run(command, cwd=ROOT, stdout=log, stderr=log, check=True)
    return load(folder / "run" / "best").score(scored).f1


def run(options: argparse.Namespace) -> None:
    """Train the models that the record lacks."""
    record = options.work / RECORD
    rows = [json.loads(line) for line in record.read_text().splitlines()] if record.exists() else []
    done = {(row["way"], row["size"], row["seed"], row.get("steps")) for row in rows}
    train = read_examples(str(options.train), "auto")
    for seed in options.seeds:
        order = cut(train, len(train), seed)
        for way in options.ways:
            labelled = order[: options.start]
            previous = options.work / f"start_{seed}"
            train_and_score(options, previous, labelled, seed)
            for size in options.sizes:
                folder = options.work / f"{way}_{size}_{seed}"
                if (folder / "train.json").exists():
                    labelled = read_examples(str(folder / "train.json"), "cluener")
                elif way == "random":
                    labelled = order[:size]
                else:
                    known = {example.text for example in labelled}
                    pool = [example for example in order if example.text not in known]
                    picks = select_texts(
                        load(previous / "run" / "best"),
                        [example.text for example in pool],
                        size - len(labelled),
                    )
                    labelled = [*labelled, *(pool[i] for i in picks)]
                previous = folder
                if (way, size, seed, options.steps) in done:
                    continue
                print(f"{way}, {size} sentences, seed {seed} ...", flush=True)
                f1 = train_and_score(options, folder, labelled, seed)
                characters = sum(len(example.text) for example in labelled)
                row = {
                    "way": way, "size": size, "seed": seed, "steps": options.steps, "f1": f1,
                    "characters": characters, "machine": machine(),
                }  # fmt: skip
                with record.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(row) + "\n")
                print(f"  F1 {f1:.4f}", flush=True)


def table(options: argparse.Namespace) -> None:
    """Print the mean F1 of each way and size with its standard deviation, and the mean number of characters."""
    scores: dict[tuple[int, str], list[float]] = defaultdict(list)
    characters: dict[tuple[int, str], list[int]] = defaultdict(list)
    for line in (options.work / RECORD).read_text().splitlines():
        row = json.loads(line)
        scores[row["size"], row["way"]].append(row["f1"])
        characters[row["size"], row["way"]].append(row["characters"])
    print(
        "| sentences | F1, random | F1, picked | seeds | characters, random | picked |\n"
        "| --- | --- | --- | --- | --- | --- |"
    )
    for size in sorted({size for size, _ in scores}):
        cells = []
        for way in WAYS:
            f1 = scores[size, way]
            spread = f" ± {statistics.stdev(f1):.4f}" if len(f1) > 1 else ""
            cells.append(f"{statistics.mean(f1):.4f}{spread}" if f1 else "")
        cells.append(str(len(scores[size, "picked"])))
        cells += [f"{statistics.mean(characters[size, way] or [0]):,.0f}" for way in WAYS]
        print(f"| {size:,} | {' | '.join(cells)} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    steps = parser.add_subparsers(required=True)
    step = steps.add_parser("run")
    for name in ("work", "encoder", "train", "dev"):
        step.add_argument(name, type=Path)
    step.add_argument("--start", type=int, default=300)
    step.add_argument("--sizes", type=int, nargs="+", default=[500, 1000, 2000])
    step.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    step.add_argument("--ways", nargs="+", choices=WAYS, default=WAYS)
    step.add_argument(
        "--steps",
        type=int,
        default=0,
        help="0: train.py decides",
    )
    step.set_defaults(run=run)
    step = steps.add_parser("table")
    step.add_argument("work", type=Path)
    step.set_defaults(run=table)
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    options.run(options)


if __name__ == "__main__":
    main()
