"""Compare F1 of taggers fine-tuned from a pre-trained encoder, by configuration and training-set size.

    python benchmarks/encoder.py run WORK ENCODER TRAIN DEV [--test TEST] [--configurations NAME ...]
        [--sizes N ...] [--seeds N ...] [--compute-dtype DTYPE]
    python benchmarks/encoder.py constrain WORK
    python benchmarks/encoder.py table WORK
    python benchmarks/encoder.py plot WORK FILE.svg [--configurations NAME ...]

ENCODER is a folder with weights, or `scratch` for 4 layers x 256 with random weights and a vocabulary of
the training texts. `run` trains each configuration that WORK/encoder.jsonl has no result of, with
`train.py` as a user runs it, and appends one line per finished run. An interrupted run is resumed. With a
new --test, finished models are only scored. --sizes cuts the training data to N sentences, drawn at random
by the seed; a smaller draw is a subset of a larger one. 0 means all sentences. `constrain` scores every
finished softmax model again, with the decoding of `softmax_constrained`. The epoch remains the one that was
chosen without constraints.

The epoch is chosen on one half of DEV (its lines 1, 3, 5, ...); choose settings on that half, too. F1 is also
reported on the other half, on all of DEV, and on TEST if given. F1 is strict. `table` prints means over seeds
and their standard deviation, and the median of the minutes of the training loop. `plot` draws F1 on the other
half over the number of sentences, with a line for each encoder and each of --configurations ("default").
"""

import argparse
import hashlib
import json
import random
import statistics
import subprocess
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from common import ROOT, SMALL, machine

from flax_ner import Tagger, load
from flax_ner.compilation import keep_compiled_programs
from flax_ner.config import default_config
from flax_ner.data.cluener import write_cluener
from flax_ner.data.formats import read_examples
from flax_ner.evaluation.analysis import counts_per_text
from flax_ner.evaluation.metrics import score
from flax_ner.finetuning.task_data import read_task_data
from flax_ner.text.examples import Example
from flax_ner.training.workdir import total_steps

RECORD = "encoder.jsonl"
SCRATCH = Path("scratch")  # as ENCODER
SCRATCH_SETTINGS = {f"model.{name}": value for name, value in SMALL.items()} | {
    "init_from": "", "tokenizer.min_count": 2, "model.hidden_dropout_prob": 0.2,
    "model.classifier_dropout": 0.2,
}  # fmt: skip
CRF = {"model.head": "crf", "data.scheme": "bioes"}
GLOBAL_POINTER = {"model.head": "global_pointer"}
# Differences from the defaults of configs/cluener.py.
CONFIGURATIONS: dict[str, dict[str, Any]] = {
    "default": {},
    "not standardised": {"train.standardise": False},
    **{
        f"rate {rate}, {batch_size} rows": {
            "optimizer.learning_rate": float(rate),
            "data.batch_size": batch_size,
        }
        for rate in ("1e-4", "2e-4", "4e-4")
        for batch_size in (2, 4, 8)
    },
    "half the steps": {},  # see STEPS
    "twice the steps": {},
    "four times the steps": {},
    "bio": {"data.scheme": "bio"},
    "bioes": {"data.scheme": "bioes"},
    "rate 1.5e-3": {"optimizer.learning_rate": 1.5e-3},
    "rate 3e-3": {"optimizer.learning_rate": 3e-3},
    "crf": CRF,
    "crf, twice the steps": CRF,
    "crf, four times the steps": CRF,
    "crf, rate 1.5e-3": CRF | {"optimizer.learning_rate": 1.5e-3},
    "crf, not standardised": CRF | {"train.standardise": False},
    "crf, rate 2e-4": CRF | {"optimizer.learning_rate": 2e-4},
    "crf, rate 3e-4": CRF | {"optimizer.learning_rate": 3e-4},
    "crf, FGM 1.0": CRF | {"train.fgm": 1.0},
    "crf, FGM 1.0, rate 2e-4": CRF | {"train.fgm": 1.0, "optimizer.learning_rate": 2e-4},
    "head x 5": {"optimizer.head_lr_multiplier": 5.0},
    "layers x 0.9": {"optimizer.layer_decay": 0.9},
    "EMA 0.999": {"train.ema": 0.999},
    "FGM 1.0": {"train.fgm": 1.0},
    "R-Drop 1.0": {"train.r_drop": 1.0},
    "global_pointer": GLOBAL_POINTER,
    "global_pointer, FGM 1.0": GLOBAL_POINTER | {"train.fgm": 1.0},
    "global_pointer, FGM 1.0, 1.4 times the steps": GLOBAL_POINTER | {"train.fgm": 1.0},
    "global_pointer, head x 5": GLOBAL_POINTER | {"optimizer.head_lr_multiplier": 5.0},
    "global_pointer, rate 2e-4": GLOBAL_POINTER | {"optimizer.learning_rate": 2e-4},
}
# Number of steps, as a multiple of the default number for the data and the encoder.
STEPS = {
    "half the steps": 0.5,
    "twice the steps": 2.0,
    "four times the steps": 4.0,
    "crf, twice the steps": 2.0,
    "crf, four times the steps": 4.0,
    "global_pointer, FGM 1.0, 1.4 times the steps": 1.4,
}
MAX_EVALUATIONS = 20  # per run, about; epochs of a few sentences are shorter than an evaluation
# Fields of a result that determine the trained model. Results of earlier versions lack the last three, so they
# count as other runs.
KEYS = (
    "configuration", "size", "seed", "encoder", "corpus", "dev", "compute_dtype", "encoder_path",
)  # fmt: skip


def halves(dev: Sequence[Any]) -> tuple[list[Any], list[Any]]:
    """Return the half of the dev data (or of values per text) that chooses the epoch, and the other half."""
    return list(dev[::2]), list(dev[1::2])


def cut(train: Sequence[Example], size: int, seed: int) -> list[Example]:
    """Return `size` random sentences; a smaller draw with the same seed is a subset of a larger one."""
    order = list(range(len(train)))
    random.Random(seed).shuffle(order)
    return [train[i] for i in order[:size]]


def default_length(settings: Mapping[str, Any]) -> tuple[int, int]:
    """Return the steps and epochs that `train.py` chooses for these settings."""
    config = default_config()
    config.update_from_flattened_dict(settings)
    data = read_task_data(config)
    return total_steps(data.config, data.batcher.steps_per_epoch), data.config.train.epochs


def make_key(options: argparse.Namespace, name: str, size: int, seed: int) -> dict[str, Any]:
    """Return the `KEYS` of a run."""
    values = (
        name, size, seed, options.encoder.name, str(options.train), str(options.dev), options.compute_dtype,
        str(options.encoder),
    )  # fmt: skip
    return dict(zip(KEYS, values, strict=True))


def run_folder(work: Path, key: Mapping[str, Any]) -> Path:
    """Return the folder of a run. Runs with other keys have other folders."""
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:8]
    name = key["configuration"].replace(" ", "_")
    return work / f"{Path(key['corpus']).stem}_{key['size']}_{name}_{key['seed']}_{digest}"


def run_one(options: argparse.Namespace, key: Mapping[str, Any]) -> dict[str, Any]:
    """Train one model with `train.py`, or resume its training, and score it."""
    name, size, seed = (key[field] for field in ("configuration", "size", "seed"))
    folder = run_folder(options.work, key)
    folder.mkdir(parents=True, exist_ok=True)
    dev, train = (read_examples(str(path), "auto") for path in (options.dev, options.train))
    files = {"dev": folder / "dev.json", "train": folder / "train.json"}
    write_cluener(files["dev"], halves(dev)[0])
    write_cluener(files["train"], cut(train, size, seed) if size else train)
    scratch = options.encoder == SCRATCH
    start = SCRATCH_SETTINGS if scratch else {"init_from": str(options.encoder.resolve())}
    settings = start | {
        "seed": seed,
        "data.train": str(files["train"]), "data.dev": str(files["dev"]),
        "model.compute_dtype": options.compute_dtype, "checkpoint.every": 100,
    } | CONFIGURATIONS[name]  # fmt: skip
    steps, epochs = default_length(settings)
    settings["eval.every"] = max(round(epochs * STEPS.get(name, 1)) // MAX_EVALUATIONS, 1)
    if name in STEPS:
        settings["train.steps"] = round(STEPS[name] * steps)
    command = [
        sys.executable,
        "train.py",
        "--config=configs/cluener.py",
        f"--workdir={folder / 'run'}",
    ]
    command += [f"--config.{setting}={value}" for setting, value in settings.items()]
    with (folder / "log.txt").open("a", encoding="utf-8") as log:
        subprocess.run(command, cwd=ROOT, stdout=log, stderr=log, check=True)
    tagger = load(folder / "run" / "best")
    config = json.loads((folder / "run" / "config.json").read_text())
    result = {
        **key, **score_on_dev(tagger, dev), "seconds": training_seconds(folder / "run"),
        "batch_size": config["data"]["batch_size"], "epochs": config["train"]["epochs"],
        "rate": config["optimizer"]["learning_rate"],
        "machine": machine(),
    }  # fmt: skip
    if options.test:
        result["test"] = str(options.test)
        result["f1_test"] = tagger.score(read_examples(str(options.test), "auto")).f1
    return result


def score_on_dev(tagger: Tagger, dev: Sequence[Example]) -> dict[str, Any]:
    """Return the strict F1 of a tagger on each half of the dev data and on all of them, and its counts."""
    gold = [example.entities or () for example in dev]
    predicted = tagger([example.text for example in dev])
    chosen, other = map(score, halves(gold), halves(predicted))
    return {
        "f1_chosen_on": chosen.f1, "f1_other": other.f1, "f1": score(gold, predicted).f1,
        "counts": counts_per_text(gold, predicted).tolist(),
    }  # fmt: skip


def training_seconds(workdir: Path) -> float:
    """Return the seconds of the training loop, summed over the parts of a run that was resumed."""
    lines = (workdir / "metrics.jsonl").read_text("utf-8").splitlines()
    return float(json.loads(lines[-1])["seconds"])


def read_results(path: Path) -> list[dict[str, Any]]:
    """Read the results in the record; [] if there is none.

    Earlier versions named the configuration "row".
    """
    lines = path.read_text("utf-8").splitlines() if path.exists() else []
    results = [json.loads(line) for line in lines]
    return [{"configuration": result.get("row"), **result} for result in results]


def is_done(key: Mapping[str, Any], test: Path | None, results: Sequence[dict[str, Any]]) -> bool:
    """Return whether there is a result of a run, with the score on the test data if there are any."""
    return any(
        all(result.get(name) == value for name, value in key.items())
        and (test is None or result.get("test") == str(test))
        for result in results
    )


def run(options: argparse.Namespace) -> None:
    """Do the runs that the record has no result of."""
    keep_compiled_programs()
    options.work.mkdir(parents=True, exist_ok=True)
    record = options.work / RECORD
    for seed in options.seeds:
        for size in options.sizes:
            for name in options.configurations:
                key = make_key(options, name, size, seed)
                if is_done(key, options.test, read_results(record)):
                    continue
                print(f"{name}, {size or 'all'} sentences, seed {seed} ...", flush=True)
                result = run_one(options, key)
                with record.open("a") as file:
                    file.write(json.dumps(result) + "\n")
                print(f"  F1 {result['f1']:.4f}, {result['seconds']:.0f} s", flush=True)


def constrain(work: Path) -> None:
    """Score the finished softmax models with constrained decoding, and add the results to the record."""
    keep_compiled_programs()
    results = latest(read_results(work / RECORD))
    for result in results:
        key = {name: result.get(name) for name in KEYS}
        target = key | {"configuration": f"{key['configuration']}, constrained"}
        model = run_folder(work, key) / "run" / "best"
        if not model.exists() or is_done(target, None, results):
            continue
        if json.loads((model.parent / "config.json").read_text())["model"]["head"] != "softmax":
            continue
        tagger = load(model)
        config = replace(tagger.config, head="softmax_constrained")
        tagger = Tagger(config, tagger.params, tagger.tokenizer, tagger.labels, tagger.max_length)
        scores = score_on_dev(tagger, read_examples(result["dev"], "auto"))
        kept = {name: value for name, value in result.items() if name not in ("test", "f1_test")}
        with (work / RECORD).open("a") as file:
            file.write(json.dumps(kept | target | scores) + "\n")
        print(
            f"{model.parent.parent.name}: {result['f1']:.4f}, constrained {scores['f1']:.4f}",
            flush=True,
        )


def latest(results: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the last result of each run: a run that was scored again, with test data, has two."""
    return [*{tuple(result.get(name) for name in KEYS): result for result in results}.values()]


def table(results: Sequence[dict[str, Any]]) -> str:
    """Return a Markdown table with one line per corpus, size, encoder, configuration and dtype.

    F1 is the mean over seeds ± the standard deviation. Minutes are the median.
    """
    groups = defaultdict(list)
    for result in latest(results):
        corpus, dtype = Path(result["corpus"]).parent.name, result.get("compute_dtype", "")
        names = (corpus, result["size"], result["encoder"], result["configuration"], dtype)
        groups[*names, result.get("dev", "")].append(result)
    columns = {
        "chosen on": "f1_chosen_on",
        "other half": "f1_other",
        "dev": "f1",
        "test": "f1_test",
    }
    lines = [
        f"| corpus | sentences | encoder | configuration | dtype | seeds | {' | '.join(columns)} "
        "| minutes (median) |",
        f"| --- | --- | --- | --- | --- | --- | {' | '.join('---' for _ in columns)} | --- |",
    ]
    for (corpus, size, encoder, name, dtype, _), group in sorted(groups.items()):
        cells = []
        for field in columns.values():
            values = [result[field] for result in group if field in result]
            deviation = f" ± {statistics.stdev(values):.4f}" if len(values) > 1 else ""
            cells.append(f"{statistics.mean(values):.4f}{deviation}" if values else "")
        minutes = statistics.median(result["seconds"] for result in group) / 60
        lines.append(
            f"| {corpus} | {size or 'all'} | {encoder} | {name} | {dtype} | {len(group)} "
            f"| {' | '.join(cells)} | {minutes:.1f} |"
        )
    return "\n".join(lines)


def curves(
    results: Sequence[dict[str, Any]], configurations: Sequence[str]
) -> dict[str, dict[int, list[float]]]:
    """Return F1 on the other half of each encoder and configuration, by the number of sentences."""
    sizes = {path: len(read_examples(path, "auto")) for path in {r["corpus"] for r in results}}
    groups: dict[str, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    for result in latest(results):
        if result["configuration"] in configurations:
            size = result["size"] or sizes[result["corpus"]]
            groups[f"{result['encoder']}, {result['configuration']}"][size].append(
                result["f1_other"]
            )
    return {label: dict(by_size) for label, by_size in sorted(groups.items())}


def plot(
    results: Sequence[dict[str, Any]], target: Path, configurations: Sequence[str] = ("default",)
) -> None:
    """Draw the mean F1 over the number of training sentences, with the range of the seeds."""
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8.5, 4.5))
    ticks: set[int] = set()
    for label, by_size in curves(results, configurations).items():
        x = sorted(by_size)
        ticks.update(x)
        mean = [statistics.mean(by_size[size]) for size in x]
        spread = [[m - min(by_size[n]) for n, m in zip(x, mean, strict=True)],
                  [max(by_size[n]) - m for n, m in zip(x, mean, strict=True)]]  # fmt: skip
        axes.errorbar(x, mean, spread, marker="o", capsize=3, label=label)
    axes.set_xscale("log")
    axes.set_xticks(sorted(ticks), [f"{size:,}" for size in sorted(ticks)])
    axes.minorticks_off()
    axes.set(xlabel="training sentences", ylabel="strict F1", ylim=(0, None))
    axes.grid(alpha=0.3)
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1))
    figure.tight_layout()
    figure.savefig(target, metadata={"Date": None})


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    steps = parser.add_subparsers(dest="step", required=True)
    step = steps.add_parser("run")
    for name in ("work", "encoder", "train", "dev"):
        step.add_argument(name, type=Path)
    step.add_argument("--test", type=Path)
    step.add_argument("--sizes", nargs="+", type=int, default=[0])
    step.add_argument("--seeds", nargs="+", type=int, default=[0])
    step.add_argument("--compute-dtype", default="bfloat16")
    for name in ("constrain", "table", "plot"):
        step = steps.add_parser(name)
        step.add_argument("work", type=Path)
    step.add_argument("target", metavar="FILE.svg", type=Path)
    for name in ("run", "plot"):
        steps.choices[name].add_argument(
            "--configurations",
            nargs="+",
            choices=CONFIGURATIONS,
            default=["default"],
            metavar="NAME",
        )
    options = parser.parse_args()
    options.work = options.work.resolve()  # training runs in another folder
    if options.step == "run":
        run(options)
    elif options.step == "constrain":
        constrain(options.work)
    elif options.step == "plot":
        plot(read_results(options.work / RECORD), options.target, options.configurations)
    else:
        print(table(read_results(options.work / RECORD)))


if __name__ == "__main__":
    main()
