"""Compare heads and training options by F1 on CLUENER's dev: a small model, several seeds, paired tests.

    python benchmarks/accuracy.py DATA WORK [--encoder MODEL] [--rows NAME;...] [--record FILE]

DATA is the folder of train.json and dev.json. WORK is the folder for the runs; a repeated command resumes
them. Each row of --rows that --record lacks is trained and appended to it as a line of JSON. Then the table
of all recorded rows is printed. Rows whose name begins with `pretrained: ` start from --encoder, a model
directory written by configs/pretrain.py with the shape of BASE.
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
from flax_ner.data.formats import read_examples
from flax_ner.evaluation.analysis import counts_per_text, paired_bootstrap
from flax_ner.evaluation.metrics import score
from flax_ner.fit import fit
from flax_ner.text.examples import Entity, Example

CONFIG = Path(__file__).resolve().parents[1] / "configs" / "cluener_scratch.py"
PRETRAINED = "pretrained: "  # prefix of the rows that start from an encoder
SEEDS = 3
# An eighth of the layer parameters of configs/cluener_scratch.py and half its epochs, so that a row takes
# minutes on two cores.
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
TOKEN_LOSS_OPTIONS: dict[str, dict[str, Any]] = {  # a CRF has no loss per token
    "label smoothing 0.1": {"loss.label_smoothing": 0.1},
    "focal loss, gamma 2": {"loss.name": "focal"},
    "R-Drop 1.0": {"train.r_drop": 1.0},
}
OPTIONS: dict[str, dict[str, Any]] = {
    "rates x 0.8 a layer": {"optimizer.layer_decay": 0.8},
    "head's rate x 5": {"optimizer.head_lr_multiplier": 5.0},
    "average of parameters 0.99": {"train.ema": 0.99},
    "FGM 1.0": {"train.fgm": 1.0},
    "word dropout 0.1": {"model.word_dropout_prob": 0.1},
}
# Rows that add no option to another row are compared with this one.
REFERENCE = "softmax"
# The options are added to both: the first was better from an encoder, the second from scratch.
CRF = {"crf": HEADS["crf"], "crf, rate 3e-4": HEADS["crf"] | SLOWER}
ROWS: dict[str, dict[str, Any]] = {  # differences from BASE
    REFERENCE: {},
    **HEADS,
    "softmax, rate 3e-4": SLOWER,
    **CRF,
    **{
        f"{of}, {name}": crf | fields for of, crf in CRF.items() for name, fields in OPTIONS.items()
    },
    # The two options that helped from scratch.
    "crf, rate 3e-4, head's rate x 5, word dropout 0.1": (
        CRF["crf, rate 3e-4"] | OPTIONS["head's rate x 5"] | OPTIONS["word dropout 0.1"]
    ),
    **{f"softmax, {name}": fields for name, fields in (TOKEN_LOSS_OPTIONS | OPTIONS).items()},
}


def make_config(fields: dict[str, Any], options: argparse.Namespace, encoder: str) -> ConfigDict:
    config: ConfigDict = runpy.run_path(str(CONFIG))["get_config"]()
    config.update_from_flattened_dict(BASE | fields)
    config.model.compute_dtype = options.compute_dtype
    config.data.train, config.data.dev = (
        str(options.data / f"{split}.json") for split in ("train", "dev")
    )
    if encoder:
        config.init_from = encoder
    return config


def evaluate(path: Path, dev: list[Example]) -> dict[str, Any]:
    """Return a model's F1 on dev, `strict` and `mmocr`, and its predicted and correct entities per text."""
    gold = [example.entities or () for example in dev]
    predicted = load(path)([example.text for example in dev])
    # MMOCR never predicts an entity of one character.
    longer = [[e for e in row if e.end - e.start > 1] for row in predicted]
    counts = counts_per_text(gold, predicted)
    return {
        "f1": score(gold, predicted).f1,
        "mmocr": score(gold, longer, "mmocr").f1,
        "found": counts[:, 1].tolist(),
        "correct": counts[:, 2].tolist(),
    }


def median_throughput(workdir: Path) -> float:
    """Return sentences per second of all seeds together; the median, because a run may have been resumed."""
    lines = (workdir / "metrics.jsonl").read_text("utf-8").splitlines()
    rows = [row for row in map(json.loads, lines) if row["split"] == "train"]
    return round(statistics.median(row["sentences_per_second"] for row in rows), 1)


def train(name: str, options: argparse.Namespace, dev: list[Example]) -> dict[str, Any]:
    encoder = options.encoder if name.startswith(PRETRAINED) else ""
    config = make_config(ROWS[name.removeprefix(PRETRAINED)], options, encoder)
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
        "sentences_per_second": median_throughput(workdir),
        "parameters": sum(x.size for x in jax.tree.leaves(params)),
        "models": [evaluate(workdir / f"seed_{seed}" / "best", dev) for seed in seeds],
        "ensemble": evaluate(workdir / "best", dev),
    }


def pooled_counts(models: list[dict[str, Any]], gold: np.ndarray) -> np.ndarray:
    """Return gold, predicted and correct entities per text, summed over models, int64 [texts, 3]."""
    columns = [sum(np.array(model[name]) for model in models) for name in ("found", "correct")]
    return np.stack([gold * len(models), *columns], 1)


def baseline_of(name: str, rows: dict[str, dict[str, Any]]) -> str:
    """Return the row to compare with: the one without the last option, or else a softmax."""
    without_option = name.rpartition(", ")[0]
    if without_option in rows:
        return without_option
    softmax = PRETRAINED + REFERENCE if name.startswith(PRETRAINED) else REFERENCE
    return softmax if softmax != name else REFERENCE


def print_table(rows: dict[str, dict[str, Any]], dev: list[Example]) -> None:
    def count_distinct(entities: tuple[Entity, ...] | None) -> int:
        return len({e[:3] for e in entities or ()})

    gold = np.array([count_distinct(example.entities) for example in dev])
    print(
        f"| | F1, mean of {SEEDS} | standard deviation | F1, `mmocr` scoring | compared with "
        "| difference (95%) | p | F1 of ensemble | sentences/s |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    for name, row in rows.items():
        f1 = [model["f1"] for model in row["models"]]
        baseline = baseline_of(name, rows)
        cells = ["", "", ""]
        if baseline in rows and baseline != name:
            comparison = paired_bootstrap(
                pooled_counts(row["models"], gold), pooled_counts(rows[baseline]["models"], gold)
            )
            d, p = comparison.difference, comparison.p
            cells = [baseline, f"{d.value:+.4f} ({d.low:+.4f}, {d.high:+.4f})", f"{p:.3f}"]
        print(
            f"| {name} | {statistics.mean(f1):.4f} | {statistics.stdev(f1):.4f} "
            f"| {statistics.mean(model['mmocr'] for model in row['models']):.4f} "
            f"| {' | '.join(cells)} | {row['ensemble']['f1']:.4f} | {row['sentences_per_second']} |"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "data", metavar="DATA", type=Path, help="folder with train.json and dev.json"
    )
    parser.add_argument("work", metavar="WORK", type=Path, help="folder for the runs")
    parser.add_argument(
        "--encoder", metavar="MODEL", default="", help="model directory for the `pretrained: ` rows"
    )
    parser.add_argument(
        "--rows", metavar="NAME;...", default="", help="rows to train; default: none"
    )
    parser.add_argument("--compute-dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument(
        "--record", metavar="FILE", type=Path, default=Path(__file__).with_name("accuracy.jsonl"),
        help="JSON lines of finished rows",
    )  # fmt: skip
    options = parser.parse_args()
    keep_compiled_programs()
    dev = read_examples(str(options.data / "dev.json"), "cluener")
    lines = options.record.read_text("utf-8").splitlines() if options.record.exists() else []
    rows = {row["row"]: row for row in map(json.loads, lines)}
    wanted = [name for name in options.rows.split(";") if name]
    for name in wanted:
        if name.removeprefix(PRETRAINED) not in ROWS:
            parser.error(f"--rows: unknown row {name!r}. Choose from: {'; '.join(ROWS)}.")
        if name.startswith(PRETRAINED) and not options.encoder:
            parser.error(f"--rows: {name!r} starts from an encoder. Set --encoder.")
    for name in wanted:
        if name not in rows:
            rows[name] = train(name, options, dev)
            with options.record.open("a", encoding="utf-8") as file:
                file.write(json.dumps(rows[name]) + "\n")
    print_table(rows, dev)


if __name__ == "__main__":
    main()
