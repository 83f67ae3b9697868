"""Fine-tune the same encoder with transformers' Trainer and with flax_ner: F1, wall time, throughput, memory.

    python benchmarks/finetune.py run CORPUS DATA ENCODER WORK [--configurations NAME ...] [--seeds N ...]
        [--epochs N] [--sentences N]
    python benchmarks/finetune.py time CORPUS DATA ENCODER WORK [--configurations NAME ...] [--rounds N]
        [--epochs N] [--sentences N]
    python benchmarks/finetune.py table WORK

CORPUS is `cluener` (train.json, dev.json; one label per character) or `wnut17` (train.conll, dev.conll,
test.conll; labels on first pieces), and DATA the folder of these files. ENCODER is a Hugging Face folder of a
BERT. WORK receives the runs and the record.

    default     Trainer: float32, random order, padding to the longest sentence of a batch
    best        Trainer: bfloat16, sentences of similar length in a batch
    words       as best, with the labels of flax_ner: one for each word of BERT's tokenizer
    float32     train.py: float32, packed rows
    bfloat16    train.py: bfloat16, packed rows

`run` trains every configuration with the first seed, then with the next, and appends a line to
WORK/finetune.jsonl for each finished run. It trains `words` only if you name it. A run that is in the file is
skipped, and one that was interrupted starts over, so you can repeat the command. `time` compares time alone:
it interleaves the configurations, for fewer epochs, in several rounds. `table` prints both as Markdown.

Equal on both sides (`SETTINGS`): weights, labels, softmax head, epochs, sentences per step, and AdamW with
linear warm-up and decay, weight decay, clipping, and a higher learning rate for the head. Both evaluate on dev
and save a checkpoint after each epoch, and both report the best epoch on dev. The differences:

- A step of Trainer has exactly `sentences` sentences. flax_ner packs them into rows of `max_length` tokens.
  `data.batch_size` is the number of rows that hold as many sentences on average, and `run` prints both numbers.
  `data.batching=bucket` would make them equal, but packing is what users get by default.
- In wnut17, Trainer labels the first piece of each token of the file. flax_ner labels the first piece of each
  word of BERT's tokenizer, which also divides the tokens of the file at punctuation. `words` removes this
  difference: its labels and its predicted entities are those of such words. In cluener, it equals `best`.
- [CLS] and [SEP] have no label in Trainer, as usual there. flax_ner trains them as O.
- flax_ner standardises the encoder's outputs before training (`train.standardise`). Trainer has no such step.
- Initial values of the head, dropout masks and the order of sentences come from different random generators.

Before the first run, the script checks that both sides label the same number of entities in each split and
that no training sentence is longer than `max_length`. Trainer does not truncate the few longer sentences of
wnut17's test set; flax_ner divides them. One scorer, `flax_ner.score` (strict), scores both sides.

Wall time is that of the whole command: imports, reading, tokenizing, compiling (with an empty compilation
cache), training, an evaluation per epoch, and the score of the best model. It excludes the predictions for the
table. Throughput is the median over blocks of 20 training steps, without evaluations and checkpoints. Peak
memory is that of the process, as the operating system counts it. Needs torch, transformers and accelerate:
pip install '.[bench]'.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from finetune_data import (
    B1,
    B2,
    CONFIGURATIONS,
    CORPORA,
    EPS,
    SETTINGS,
    STEPS_PER_RATE,
    TRAINER,
    USUAL_CONFIGURATIONS,
    Run,
    Settings,
    cut_data,
    label_set,
    make_tokenizer,
    read_sentences,
    read_split,
    split_into_tokenizer_words,
    split_path,
)  # fmt: skip
from finetune_record import RECORD, print_tables, read_record
from finetune_trainer import Features, hf_features, hf_tokenizer

from flax_ner.text.batches import pack_sequences
from flax_ner.text.encoding import NO_LABEL, TokenSet, encode_examples

ROOT = Path(__file__).resolve().parents[1]


def flax_settings(run: Run, rows: int) -> dict[str, Any]:
    """Return the settings that `train.py` is given."""
    settings, data = run.settings, Path(run.data)
    return {
        "init_from": run.encoder,
        "model.head": "softmax",
        "model.compute_dtype": run.configuration,
        "data.train": str(split_path(run.corpus, data, "train")),
        "data.dev": str(split_path(run.corpus, data, "dev")),
        "data.scheme": "bio",
        "data.batching": "pack",
        "data.batch_size": rows,
        "data.max_length": settings.max_length,
        "seed": run.seed,
        "train.epochs": settings.epochs,
        "train.steps_per_dispatch": STEPS_PER_RATE,
        "optimizer.name": "adamw",
        "optimizer.learning_rate": settings.learning_rate,
        "optimizer.head_lr_multiplier": settings.head_lr_multiplier,
        "optimizer.schedule": "linear",
        "optimizer.warmup": settings.warmup,
        "optimizer.weight_decay": settings.weight_decay,
        "optimizer.clip_norm": settings.clip_norm,
        "optimizer.b1": B1,
        "optimizer.b2": B2,
        "optimizer.eps": EPS,
    }


def rows_per_step(lengths: np.ndarray, settings: Settings) -> tuple[int, float]:
    """Return the rows that hold `settings.sentences` on average when packed, and the average they hold.

    Args:
        lengths: tokens of each sentence, int [sentences].
        settings: give the sentences per step and the length of a row.
    """
    used = int(pack_sequences(np.sort(lengths), settings.max_length)[0].max()) + 1
    per_row = len(lengths) / used
    rows = max(round(settings.sentences / per_row), 1)
    steps = -(-used // rows)
    return rows, len(lengths) / steps


def own_labels(tokens: TokenSet) -> list[int]:
    """Return the labels of words in flax_ner, without those of [CLS] and [SEP]."""
    ends = np.cumsum(tokens.lengths)
    inside = np.ones(len(tokens.labels), bool)
    inside[ends - tokens.lengths] = inside[ends - 1] = False
    labels = tokens.labels[inside]
    return [int(label) for label in labels[labels != NO_LABEL]]


def trainer_labels(features: Features) -> list[int]:
    """Return the labels of words in Trainer."""
    return [label for row in features.rows for label in row["labels"] if label != -100]


def check_labels(corpus: str, data: Path, encoder: Path, work: Path, settings: Settings) -> int:
    """Check that both sides train on the same entities.

    Returns:
        The rows per step of flax_ner, see `rows_per_step`.

    Raises:
        SystemExit: the sides label different numbers of entities, or a training sentence is longer than a row.
    """
    labels = label_set(read_split(corpus, data, "train"))
    tokenizer = make_tokenizer(corpus, encoder)
    theirs = hf_tokenizer(corpus, encoder, work)
    begins = [i for i, name in enumerate(labels.names) if name.startswith("B-")]
    rows = 1
    for split in CORPORA[corpus].splits:
        path, examples = split_path(corpus, data, split), read_split(corpus, data, split)
        tokens = encode_examples(examples, tokenizer, labels, settings.max_length)
        sentences = read_sentences(corpus, data, split)
        features = hf_features(sentences, labels, theirs)
        divided = len(tokens.lengths) - len(examples)
        if split == "train":
            if divided:
                sys.exit(
                    f"{path}: flax_ner divides sentences of more than {settings.max_length} tokens, and "
                    "Trainer does not. Raise max_length in SETTINGS."
                )
            rows, average = rows_per_step(tokens.lengths, settings)
            print(
                f"{corpus}: {settings.sentences} sentences per step in Trainer; {rows} rows of "
                f"{settings.max_length} tokens in flax_ner, {average:.2f} sentences on average"
            )
        ours, other = (
            int(np.isin(array, begins).sum())
            for array in (own_labels(tokens), trainer_labels(features))
        )
        if ours != other:
            sys.exit(
                f"{path}: flax_ner labels {ours} entities, Trainer {other}. Check that tokenizer_config.json "
                f"and vocab.txt in {encoder} belong together."
            )
        # Equal words have equal labels.
        words = hf_features(split_into_tokenizer_words(sentences, tokenizer), labels, theirs)
        if own_labels(tokens) != trainer_labels(words):
            sys.exit(
                f"{path}: flax_ner and Trainer label the words of BERT's tokenizer differently. Check that "
                f"tokenizer_config.json and vocab.txt in {encoder} belong together."
            )
        print(
            f"{corpus}, {split}: {len(examples):,} sentences, {ours:,} entities labelled on both sides, "
            f"{divided} sentences divided by flax_ner"
        )
    return rows


def train_command(run: Run, rows: int) -> list[str]:
    """Return the command that fine-tunes the encoder and scores the best model on dev."""
    if run.configuration in TRAINER:
        return write_subprocess_command("train", run)
    fields = flax_settings(run, rows).items()
    flags = [f"--config.{name}={value}" for name, value in fields]
    config = "--config=configs/cluener.py"
    return [sys.executable, "train.py", config, f"--workdir={run.folder}/run", *flags]


def write_subprocess_command(task: str, run: Run) -> list[str]:
    """Write the inputs of a run to its folder, and return a command of finetune_trainer.py that reads them.

    Args:
        task: "train" with Trainer, or "predict" with the best model of either side.
        run: the run.
    """
    path = Path(run.folder, "run.json")
    path.write_text(json.dumps(asdict(run)))
    return [sys.executable, str(Path(__file__).with_name("finetune_trainer.py")), task, str(path)]


def read_training(run: Run) -> dict[str, Any]:
    """Return dev F1 of each epoch, median throughput and number of steps of a finished training."""
    if run.configuration in TRAINER:
        metrics = json.loads(Path(run.folder, "training.json").read_text())
        rates, f1, steps = metrics["rates"], metrics["f1_per_epoch"], metrics["steps"]
    else:
        lines = Path(run.folder, "run", "metrics.jsonl").read_text("utf-8").splitlines()
        rows = [json.loads(line) for line in lines]
        rates = [row["sentences_per_second"] for row in rows if row["split"] == "train"]
        f1 = [row["f1"] for row in rows if row["split"] == "dev"]
        steps = rows[-1]["step"]
    rate = round(statistics.median(rates), 2)
    return {"f1_per_epoch": f1, "sentences_per_second": rate, "steps": steps}


def execute(run: Run, rows: int, scored: bool) -> dict[str, Any]:
    """Train in a new folder, then delete it; return the measurements, with predictions if `scored`."""
    from common import measure

    folder = Path(run.folder)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    # With an empty compilation cache, as in the first run of a user.
    env = os.environ | {"XDG_CACHE_HOME": str(folder / "cache")}
    log = folder.with_suffix(".log")
    used = measure(train_command(run, rows), log, env)
    row = {
        "wall_seconds": round(used.seconds, 1),
        "peak_mib": round(used.peak_mib),
        "others_percent": round(used.others_percent),
        **read_training(run),
    }
    if scored:
        measure(write_subprocess_command("predict", run), log.with_suffix(".predict.log"), env)
        row["predictions"] = json.loads((folder / "predictions.json").read_text())
    shutil.rmtree(folder)  # half a gigabyte each
    return row


def measure_all(options: argparse.Namespace) -> None:
    """Do the runs of `run` or `time` that the record lacks."""
    from common import machine

    corpus, work, timed = options.corpus, options.work.absolute(), options.step == "time"
    settings = SETTINGS[corpus]
    if options.epochs:
        settings = replace(settings, epochs=options.epochs)
    data, encoder = options.data.absolute(), options.encoder.absolute()
    for path in (
        encoder / "config.json",
        *(split_path(corpus, data, s) for s in CORPORA[corpus].splits),
    ):
        if not path.is_file():
            sys.exit(f"{path}: not found. Pass the folder of {corpus} and that of the encoder.")
    work.mkdir(parents=True, exist_ok=True)
    if options.sentences:
        data = cut_data(corpus, data, work / f"{corpus}_{options.sentences}", options.sentences)
    rows = check_labels(corpus, data, encoder, work, settings)
    number_field = "round" if timed else "seed"
    conditions = {
        "settings": asdict(settings),
        "rows": rows,
        "encoder": encoder.name,
        "cut_to": options.sentences,
    }
    done = set()
    for row in read_record(work):
        if (row["kind"], row["corpus"]) == (options.step, corpus):
            if any(row[name] != value for name, value in conditions.items()):
                sys.exit(
                    f"{work / RECORD} has runs of {corpus} with other settings: {row['settings']}, "
                    f"{row['rows']} rows, {row['encoder']}, cut to {row['cut_to']}. Name another WORK, or "
                    "delete those lines."
                )
            done.add((row["configuration"], row[number_field]))
    numbers = range(options.rounds) if timed else options.seeds
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False
    ).stdout.strip()  # fmt: skip
    about = machine("jax", "flax", "optax", "torch", "transformers", "accelerate")
    for i in numbers:
        for name in options.configurations:
            if (name, i) in done:
                continue
            folder = work / f"{corpus}_{options.step}_{name}_{i}"
            seed = 0 if timed else i
            run = Run(corpus, name, seed, str(data), str(encoder), str(folder), settings)
            result = execute(run, rows, scored=not timed)
            line = {
                "kind": options.step,
                "corpus": corpus,
                "configuration": name,
                number_field: i,
                **conditions,
            }
            line |= {"commit": commit, **about, **result}
            with (work / RECORD).open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
            print(
                f"{folder.name}: {result['wall_seconds']} s, {result['sentences_per_second']} sentences/s, "
                f"{result['peak_mib']} MiB, dev F1 {max(result['f1_per_epoch']):.4f}",
                flush=True,
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    steps = parser.add_subparsers(dest="step", required=True)
    for name in ("run", "time"):
        step = steps.add_parser(name)
        step.add_argument("corpus", choices=CORPORA)
        step.add_argument("data", type=Path, help="folder with the files of the data set")
        step.add_argument("encoder", type=Path, help="Hugging Face folder of a BERT")
        step.add_argument(
            "work", metavar="WORK", type=Path, help="folder for runs and their record"
        )
        step.add_argument(
            "--configurations", nargs="+", choices=CONFIGURATIONS, default=USUAL_CONFIGURATIONS
        )
        step.add_argument("--epochs", type=int, default=0 if name == "run" else 1)
        step.add_argument("--sentences", type=int, default=0, help="sentences per split; 0: all")
    steps.choices["run"].add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    steps.choices["time"].add_argument("--rounds", type=int, default=3)
    steps.add_parser("table").add_argument("work", metavar="WORK", type=Path)
    options = parser.parse_args()
    if options.step == "table":
        print_tables(options.work)
    else:
        measure_all(options)


if __name__ == "__main__":
    main()
