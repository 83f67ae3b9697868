"""F1 on CLUENER's dev by head and recipe: the same small model, several seeds each, paired comparisons.

    python benchmarks/accuracy.py DATA WORK [--encoder MODEL] [--rows NAME;...] [--record FILE]

DATA holds train.json and dev.json, WORK is for the runs, which a repeated command goes on with. Each row
that RECORD lacks is trained and added to it as a line of JSON; then the table of all that it holds is
printed. Rows whose name begins with `pretrained: ` start from --encoder, a model directory that
configs/pretrain.py left, with the shape of BASE.
"""

import argparse
import json
import runpy
import statistics
import subprocess
from pathlib import Path
from typing import Any

import jax
import numpy as np
from common import machine
from ml_collections import ConfigDict

from flax_ner import load
from flax_ner.compilation import keep_compiled_programs
from flax_ner.text.analysis import compare, counts_per_text
from flax_ner.text.examples import Entity, Example
from flax_ner.text.formats import read_examples
from flax_ner.text.metrics import score
from flax_ner.training.loop import fit

CONFIG = Path(__file__).resolve().parents[1] / "configs" / "cluener_scratch.py"
PRETRAINED = "pretrained: "  # begins the names of rows that start from an encoder
SEEDS = 3
# An eighth of configs/cluener_scratch.py in its layers, half its epochs: minutes a row on two cores.
BASE = {
    "model.num_hidden_layers": 2,
    "model.hidden_size": 128,
    "model.intermediate_size": 512,
    "optimizer.learning_rate": 1e-3,
    "train.epochs": 10,
    "train.seeds": SEEDS,
}
HEADS = {name: {"model.head": name} for name in ("softmax_constrained", "crf", "global_pointer")}
SLOWER = {"optimizer.learning_rate": 3e-4}
TAG_TRICKS: dict[str, dict[str, Any]] = {  # of tags one by one, which a CRF is not trained on
    "label smoothing 0.1": {"loss.label_smoothing": 0.1},
    "focal loss, gamma 2": {"loss.name": "focal"},
    "R-Drop 1.0": {"train.r_drop": 1.0},
}
TRICKS: dict[str, dict[str, Any]] = {
    "rates x 0.8 a layer": {"optimizer.layer_decay": 0.8},
    "head's rate x 5": {"optimizer.head_factor": 5.0},
    "average of parameters 0.99": {"train.ema": 0.99},
    "FGM 1.0": {"train.fgm": 1.0},
    "word dropout 0.1": {"model.word_dropout_prob": 0.1},
}
REFERENCE = "softmax"  # what rows of one kind are compared with that add nothing to another
# What the tricks are added to: the first was ahead from an encoder, the second from nothing.
CRF = {"crf": HEADS["crf"], "crf, rate 3e-4": HEADS["crf"] | SLOWER}
ROWS: dict[str, dict[str, Any]] = {  # what differs from BASE
    REFERENCE: {},
    **HEADS,
    "softmax, rate 3e-4": SLOWER,
    **CRF,
    **{f"{of}, {name}": crf | fields for of, crf in CRF.items() for name, fields in TRICKS.items()},
    # The two that helped it from nothing.
    "crf, rate 3e-4, head's rate x 5, word dropout 0.1": (
        CRF["crf, rate 3e-4"] | TRICKS["head's rate x 5"] | TRICKS["word dropout 0.1"]
    ),
    **{f"softmax, {name}": fields for name, fields in (TAG_TRICKS | TRICKS).items()},
}


def configuration(fields: dict[str, Any], options: argparse.Namespace, encoder: str) -> ConfigDict:
    config: ConfigDict = runpy.run_path(str(CONFIG))["get_config"]()
    config.update_from_flattened_dict(BASE | fields)
    config.model.compute_dtype = options.compute_dtype
    config.data.train, config.data.dev = (
        str(options.data / f"{split}.json") for split in ("train", "dev")
    )
    if encoder:
        config.init_from = encoder
    return config


def measured(path: Path, dev: list[Example]) -> dict[str, Any]:
    """What a model finds in dev: F1 under `strict` and as MMOCR counts, and the counts of each text."""
    gold = [example.entities or () for example in dev]
    found = load(path)([example.text for example in dev])
    # MMOCR never gives an entity of one character.
    longer = [[e for e in row if e.end - e.start > 1] for row in found]
    counts = counts_per_text(gold, found)
    return {
        "f1": score(gold, found).f1,
        "mmocr": score(gold, longer, "mmocr").f1,
        "found": counts[:, 1].tolist(),
        "correct": counts[:, 2].tolist(),
    }


def rate(workdir: Path) -> float:
    """Sentences a second, of all seeds together: the median, as a run may have been stopped and gone on."""
    lines = (workdir / "metrics.jsonl").read_text("utf-8").splitlines()
    rows = [row for row in map(json.loads, lines) if row["split"] == "train"]
    return round(statistics.median(row["sentences_per_second"] for row in rows), 1)


def train(name: str, options: argparse.Namespace, dev: list[Example]) -> dict[str, Any]:
    encoder = options.encoder if name.startswith(PRETRAINED) else ""
    config = configuration(ROWS[name.removeprefix(PRETRAINED)], options, encoder)
    workdir = options.work / name.replace(" ", "_").replace(":", "")
    fit(config, workdir)
    seeds = range(config.seed, config.seed + SEEDS)
    params = load(workdir / f"seed_{seeds[0]}" / "best").params
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    )
    return {
        "row": name,
        "commit": commit.stdout.strip(),
        **machine("jax"),
        "compute_dtype": options.compute_dtype,
        "sentences_per_second": rate(workdir),
        "parameters": sum(x.size for x in jax.tree.leaves(params)),
        "models": [measured(workdir / f"seed_{seed}" / "best", dev) for seed in seeds],
        "ensemble": measured(workdir / "best", dev),
    }


def counts(models: list[dict[str, Any]], gold: np.ndarray) -> np.ndarray:
    """Gold, found and correct of each text over all models, int64 [texts, 3]."""
    columns = [sum(np.array(model[name]) for model in models) for name in ("found", "correct")]
    return np.stack([gold * len(models), *columns], 1)


def compared_with(name: str, rows: dict[str, dict[str, Any]]) -> str:
    """The row that `name` adds one thing to; else the softmax of its kind; of that, the one from nothing."""
    plain = name.rpartition(", ")[0]
    of_its_kind = PRETRAINED + REFERENCE if name.startswith(PRETRAINED) else REFERENCE
    if plain in rows:
        return plain
    return of_its_kind if of_its_kind != name else REFERENCE


def print_table(rows: dict[str, dict[str, Any]], dev: list[Example]) -> None:
    def golds(entities: tuple[Entity, ...] | None) -> int:
        return len({e[:3] for e in entities or ()})

    gold = np.array([golds(example.entities) for example in dev])
    print(
        f"| | F1, mean of {SEEDS} | deviation | as MMOCR counts | against | difference (95%) | p "
        "| ensemble | sentences a second |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    for name, row in rows.items():
        f1 = [model["f1"] for model in row["models"]]
        against = compared_with(name, rows)
        cells = ["", "", ""]
        if against in rows and against != name:
            found = compare(counts(row["models"], gold), counts(rows[against]["models"], gold))
            d = found.difference
            cells = [against, f"{d.value:+.4f} ({d.low:+.4f}, {d.high:+.4f})", f"{found.p:.3f}"]
        print(
            f"| {name} | {statistics.mean(f1):.4f} | {statistics.stdev(f1):.4f} "
            f"| {statistics.mean(model['mmocr'] for model in row['models']):.4f} "
            f"| {' | '.join(cells)} | {row['ensemble']['f1']:.4f} | {row['sentences_per_second']} |"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", metavar="DATA", type=Path)
    parser.add_argument("work", metavar="WORK", type=Path)
    parser.add_argument("--encoder", metavar="MODEL", default="")
    parser.add_argument("--rows", metavar="NAME;...", default="", help="default: those of RECORD")
    parser.add_argument("--compute-dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument(
        "--record", metavar="FILE", type=Path, default=Path(__file__).with_name("accuracy.jsonl")
    )
    options = parser.parse_args()
    keep_compiled_programs()
    dev = read_examples(str(options.data / "dev.json"), "cluener")
    lines = options.record.read_text("utf-8").splitlines() if options.record.exists() else []
    rows = {row["row"]: row for row in map(json.loads, lines)}
    wanted = [name for name in options.rows.split(";") if name]
    for name in wanted:
        if name.removeprefix(PRETRAINED) not in ROWS:
            parser.error(f"--rows: there is no row {name!r}. There are: {'; '.join(ROWS)}.")
        if name.startswith(PRETRAINED) and not options.encoder:
            parser.error(f"--rows: {name!r} needs --encoder.")
    for name in wanted:
        if name not in rows:
            rows[name] = train(name, options, dev)
            with options.record.open("a", encoding="utf-8") as file:
                file.write(json.dumps(rows[name]) + "\n")
    print_table(rows, dev)


if __name__ == "__main__":
    main()
