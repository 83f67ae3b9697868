"""Fine-tune the same encoder with transformers' Trainer and with flax_ner: F1, wall time, throughput, memory.

    python benchmarks/finetune.py run cluener data/cluener e5-small-zh WORK [--ways NAME ...] [--seeds N ...]
    python benchmarks/finetune.py time cluener data/cluener e5-small-zh WORK [--rounds 3] [--epochs 1]
    python benchmarks/finetune.py table WORK

The data set is `cluener` (train.json, dev.json; one label per character) or `wnut17` (train.conll, dev.conll,
test.conll; labels on first pieces). The third argument is the encoder, a Hugging Face folder of a BERT.

    default     Trainer: float32, random order, padding to the longest sentence of a batch
    best        Trainer: bfloat16, sentences of similar length in a batch
    float32     train.py: float32, packed rows
    bfloat16    train.py: bfloat16, packed rows

`run` trains every configuration (--ways) with the first seed, then with the next, and appends a line to
WORK/finetune.jsonl for each finished run. A run that is in the file is skipped, and one that was interrupted
starts over, so you can repeat the command. `time` compares time alone: it interleaves the configurations, for
fewer epochs, in several rounds. `table` prints both as Markdown.

Equal on both sides (`SETTINGS`): weights, labels, softmax head, epochs, sentences per step, and AdamW with
linear warm-up and decay, weight decay, clipping, and a higher learning rate for the head. Both evaluate on dev
and save a checkpoint after each epoch, and both report the best epoch on dev. The differences:

- A step of Trainer has exactly `sentences` sentences. flax_ner packs them into rows of `max_length` tokens.
  `data.batch_size` is the number of rows that hold as many sentences on average, and `run` prints both numbers.
  `data.batching=bucket` would make them equal, but packing is what users get by default.
- In wnut17, Trainer labels the first piece of each token of the file. flax_ner labels the first piece of each
  word of BERT's tokenizer, which also divides the tokens of the file at punctuation.
- [CLS] and [SEP] have no label in Trainer, as usual there. flax_ner trains them as O.
- flax_ner standardises the encoder's outputs before training (`train.standardise`). Trainer has no such step.
- Initial values of the head, dropout masks and the order of sentences come from different random generators.

Before the first run, the script checks that both sides label the same number of entities in each split and
that no training sentence is longer than `max_length`. Trainer does not truncate the few longer sentences of
wnut17's test set; flax_ner divides them. One scorer, `flax_ner.score` (strict), scores both sides.

Wall time is that of the whole command: imports, reading, tokenizing, compiling (with an empty compilation
cache), training, an evaluation per epoch, and the score of the best model. Predictions for the table are made
after that. Throughput is the median over 20 training steps each, evaluations and checkpoints left out.
Peak memory is that of the process, as the operating system counts it. Needs torch, transformers and accelerate:
pip install '.[bench]'.
"""

import argparse
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from flax_ner.data.columns import split_columns
from flax_ner.data.formats import read_examples
from flax_ner.data.tagged import join_tokens

# No module that imports jax, because the processes of Trainer run this file, too.
from flax_ner.evaluation.analysis import Comparison, counts_per_text, paired_bootstrap
from flax_ner.evaluation.metrics import score
from flax_ner.text.batches import pack_sequences
from flax_ner.text.encoding import encode_examples
from flax_ner.text.examples import Entity, Example
from flax_ner.text.labels import LabelSet
from flax_ner.text.tokenizer import Tokenizer
from flax_ner.text.tokenizer_kinds import build_tokenizer
from flax_ner.text.vocab import read_vocab

ROOT = Path(__file__).resolve().parents[1]
RECORD = "finetune.jsonl"


@dataclass(frozen=True)
class Settings:
    """The hyperparameters of both sides."""

    learning_rate: float  # peak, of the encoder
    head_lr_multiplier: float  # the head's learning rate as a multiple of the encoder's
    epochs: int = 5
    sentences: int = 16  # per step
    warmup: float = 0.1  # fraction of all steps
    weight_decay: float = 0.01
    clip_norm: float = 1.0
    max_length: int = 128  # tokens, [CLS] and [SEP] included


@dataclass(frozen=True)
class Corpus:
    """A data set and how to read it."""

    splits: tuple[str, ...]
    suffix: str  # of the files
    format: str
    tokenizer: str


SETTINGS = {
    "cluener": Settings(learning_rate=3e-4, head_lr_multiplier=10.0),
    "wnut17": Settings(learning_rate=2e-4, head_lr_multiplier=5.0),
}
CORPORA = {
    "cluener": Corpus(("train", "dev"), "json", "cluener", "char"),
    "wnut17": Corpus(("train", "dev", "test"), "conll", "conll", "wordpiece"),
}
WAYS = {
    "default": "transformers, default",
    "best": "transformers, best",
    "float32": "flax_ner, float32",
    "bfloat16": "flax_ner, bfloat16",
}
TRAINER = ("default", "best")
# The defaults of both optimizers, stated so that they stay equal.
B1, B2, EPS = 0.9, 0.999, 1e-8
STEPS_PER_RATE = 20  # steps per throughput measurement; also train.steps_per_dispatch


@dataclass(frozen=True)
class Run:
    """One training run and all of its inputs."""

    corpus: str
    way: str
    seed: int
    data: str
    encoder: str
    folder: str
    settings: Settings


class Sentence(NamedTuple):
    """An example as words with one label each: characters, or the tokens of a CoNLL file."""

    example: Example
    words: list[str]
    spans: list[tuple[int, int]]  # characters [start, end) of each word


# The data, as both sides see them.


def split_path(corpus: str, data: Path, split: str) -> Path:
    return data / f"{split}.{CORPORA[corpus].suffix}"


def read_split(corpus: str, data: Path, split: str) -> list[Example]:
    return read_examples(str(split_path(corpus, data, split)), CORPORA[corpus].format)


def label_set(train: Iterable[Example]) -> LabelSet:
    return LabelSet(sorted({e.type for example in train for e in example.entities or ()}))


def make_tokenizer(corpus: str, encoder: Path) -> Tokenizer:
    """Return flax_ner's tokenizer of an encoder."""
    options = json.loads((encoder / "tokenizer_config.json").read_text("utf-8"))
    kind, vocab = CORPORA[corpus].tokenizer, read_vocab(encoder / "vocab.txt")
    return build_tokenizer(kind, vocab, options["do_lower_case"])


def read_sentences(corpus: str, data: Path, split: str) -> list[Sentence]:
    """Read the words of a split as users of Trainer do.

    Raises:
        SystemExit: the tokens of a CoNLL file do not make the text that flax_ner reads.
    """
    examples = read_split(corpus, data, split)
    if CORPORA[corpus].format != "conll":
        return [
            Sentence(e, list(e.text), [(i, i + 1) for i in range(len(e.text))]) for e in examples
        ]
    blocks: list[list[str]] = [[]]
    # Not splitlines, which also divides at characters that tweets contain.
    for line in split_path(corpus, data, split).read_text("utf-8").split("\n"):
        if line.strip(" \t\r"):
            blocks[-1].append(split_columns(line)[0])
        elif blocks[-1]:
            blocks.append([])
    sentences = [
        Sentence(example, words, join_tokens(words, False)[1])
        for example, words in zip(examples, filter(None, blocks), strict=True)
    ]
    for example, words, _ in sentences:
        if join_tokens(words, False)[0] != example.text:
            sys.exit(f"{example.source}: its tokens do not make the text {example.text[:40]!r}.")
    return sentences


def cut_data(corpus: str, data: Path, target: Path, sentences: int) -> Path:
    """Write the first sentences of each split to a folder and return it."""
    conll = CORPORA[corpus].format == "conll"
    target.mkdir(parents=True, exist_ok=True)
    for split in CORPORA[corpus].splits:
        text = split_path(corpus, data, split).read_text("utf-8")
        # A line of only white space separates sentences, too.
        units = re.split(r"\n(?:[ \t\r]*\n)+" if conll else "\n", text.strip("\n"))
        path = split_path(corpus, target, split)
        path.write_text(("\n\n" if conll else "\n").join(units[:sentences]) + "\n", "utf-8")
    return target


# The settings, as each side takes them.


def trainer_settings(run: Run) -> dict[str, Any]:
    """Return the arguments of `TrainingArguments`."""
    settings, best = run.settings, run.way == "best"
    return {
        "output_dir": f"{run.folder}/checkpoints",
        "seed": run.seed,
        "learning_rate": settings.learning_rate,
        "num_train_epochs": settings.epochs,
        "per_device_train_batch_size": settings.sentences,
        "warmup_steps": settings.warmup,
        "lr_scheduler_type": "linear",
        "weight_decay": settings.weight_decay,
        "max_grad_norm": settings.clip_norm,
        "adam_beta1": B1,
        "adam_beta2": B2,
        "adam_epsilon": EPS,
        "bf16": best,
        "train_sampling_strategy": "group_by_length" if best else "random",
        "per_device_eval_batch_size": 32 if best else 8,
        "eval_strategy": "epoch",
        "save_strategy": "epoch",
        "save_total_limit": 2,
        "load_best_model_at_end": True,
        "metric_for_best_model": "f1",
        "use_cpu": True,
        "report_to": "none",
        "disable_tqdm": True,
    }


def flax_settings(run: Run, rows: int) -> dict[str, Any]:
    """Return the fields of the configuration that `train.py` is given."""
    settings, data = run.settings, Path(run.data)
    return {
        "init_from": run.encoder,
        "model.head": "softmax",
        "model.compute_dtype": run.way,
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


def parameter_groups(
    names: Iterable[str], decayed: Iterable[str], settings: Settings
) -> list[dict[str, Any]]:
    """Divide the parameters of a PyTorch model by learning rate and weight decay.

    Args:
        names: names of all parameters.
        decayed: names of the parameters with weight decay.
        settings: give the learning rate of the encoder, the factor of the head's, and the weight decay.

    Returns:
        One dict for each group that has parameters: their names in "params", "lr" and "weight_decay".
    """
    groups: dict[tuple[bool, bool], list[str]] = {}
    with_decay = set(decayed)
    for name in names:
        groups.setdefault((name.startswith("classifier."), name in with_decay), []).append(name)
    return [
        {
            "params": group,
            "lr": settings.learning_rate * (settings.head_lr_multiplier if head else 1),
            "weight_decay": settings.weight_decay if decay else 0.0,
        }
        for (head, decay), group in groups.items()
    ]


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


# Trainer, in a process of its own.


class Features(NamedTuple):
    """Tokenized sentences, and which word each label belongs to."""

    rows: list[dict[str, list[int]]]
    labelled: list[list[int]]  # for each sentence, the words that have a label


def hf_tokenizer(corpus: str, encoder: Path, folder: Path) -> Any:
    """Return the tokenizer of an encoder for transformers; for characters, flax_ner's own."""
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    if CORPORA[corpus].tokenizer != "char":
        return AutoTokenizer.from_pretrained(encoder)
    # BERT's tokenizer would join letters and digits, and drop spaces.
    path = folder / "characters.json"
    make_tokenizer(corpus, encoder).save(path)
    names = {f"{name}_token": f"[{name.upper()}]" for name in ("unk", "sep", "pad", "cls", "mask")}
    return PreTrainedTokenizerFast(tokenizer_file=str(path), **names)


def hf_features(sentences: Sequence[Sentence], labels: LabelSet, tokenizer: Any) -> Features:
    """Tokenize sentences and label the first piece of each word, the others -100."""
    encoded = tokenizer([sentence.words for sentence in sentences], is_split_into_words=True)
    features = Features([], [])
    for i, (example, words, spans) in enumerate(sentences):
        starts = {start: word for word, (start, _) in enumerate(spans)}
        ends = {end: word + 1 for word, (_, end) in enumerate(spans)}
        entities = [(e.type, starts[e.start], ends[e.end]) for e in example.entities or ()]
        tags = labels.encode(entities, len(words))[1:-1].tolist()
        row, before, labelled = list[int](), None, list[int]()
        for word in encoded.word_ids(i):
            first = word is not None and word != before
            row.append(tags[word] if first else -100)
            labelled += [word] * first
            before = word
        features.rows.append({name: encoded[name][i] for name in encoded} | {"labels": row})
        features.labelled.append(labelled)
    return features


def hf_entities(
    tags: np.ndarray, golds: np.ndarray, sentences: Sequence[Sentence], features: Features,
    labels: LabelSet,
) -> list[list[Entity]]:  # fmt: skip
    """Decode predicted tags to entities with offsets in characters.

    Args:
        tags: predicted, int [sentences, T].
        golds: labels, int [sentences, T], -100 where there is none.
        sentences, features: sentences and features of these rows.
        labels: decode the tags.

    Raises:
        SystemExit: the labels are not those of the features, so the rows have another order.
    """
    row, column = np.nonzero(golds != -100)
    expected = [label for row in features.rows for label in row["labels"] if label != -100]
    if golds[row, column].tolist() != expected:
        sys.exit("Trainer: the rows of its predictions are not in the order of the sentences.")
    # Count the words that have a label: as with seqeval, a word without tokens does not end an entity.
    number = np.concatenate([np.arange(len(words)) for words in features.labelled])
    spans = labels.spans(tags[row, column], row, number, "strict")
    entities: list[list[Entity]] = [[] for _ in sentences]
    for i, kind, first, stop in zip(*(column.tolist() for column in spans), strict=True):
        words, (example, _, places) = features.labelled[i], sentences[i]
        start, end = places[words[first]][0], places[words[stop - 1]][1]
        entities[i].append(Entity(labels.categories[kind], start, end, example.text[start:end]))
    return entities


def make_trainer(run: Run, model: str, splits: Sequence[str], clock: Any = None) -> Any:
    """Make a Trainer for a model; `splits` are the training and the evaluation data, or the latter alone."""
    import torch
    from transformers import (
        AutoModelForTokenClassification,
        DataCollatorForTokenClassification,
        Trainer,
        TrainingArguments,
        set_seed,
    )

    set_seed(run.seed)  # of the head's initial values
    folder, data = Path(run.folder), Path(run.data)
    labels = label_set(read_split(run.corpus, data, "train"))
    tokenizer = hf_tokenizer(run.corpus, Path(run.encoder), folder)
    sentences = {split: read_sentences(run.corpus, data, split) for split in splits}
    features = {split: hf_features(rows, labels, tokenizer) for split, rows in sentences.items()}
    scored = splits[-1]

    def predicted(output: Any) -> list[list[Entity]]:
        # With group_by_length, Trainer orders the evaluation data by length, too.
        order = np.argsort(list(trainer._get_eval_sampler(trainer.eval_dataset)))
        tags, golds = output.predictions[order], output.label_ids[order]
        return hf_entities(tags, golds, sentences[scored], features[scored], labels)

    def f1(output: Any) -> dict[str, float]:
        gold = [sentence.example.entities or () for sentence in sentences[scored]]
        return {"f1": score(gold, predicted(output)).f1}

    class TwoRates(Trainer):
        def create_optimizer(self, model: Any = None) -> Any:
            parameters = dict(self.model.named_parameters())
            decayed = self.get_decay_parameter_names(self.model)
            groups = parameter_groups(parameters, decayed, run.settings)
            for group in groups:
                group["params"] = [parameters[name] for name in group["params"]]
            kind, options = self.get_optimizer_cls_and_kwargs(self.args, self.model)
            self.optimizer = kind(groups, **options)
            return self.optimizer

    trainer = TwoRates(
        # The files may hold float16, which from_pretrained would keep.
        AutoModelForTokenClassification.from_pretrained(
            model, dtype=torch.float32, id2label=dict(enumerate(labels.names)),
            label2id={name: i for i, name in enumerate(labels.names)},
        ),
        TrainingArguments(**trainer_settings(run)),
        train_dataset=features["train"].rows if "train" in features else None,
        eval_dataset=features[scored].rows,
        data_collator=DataCollatorForTokenClassification(tokenizer),
        processing_class=tokenizer,
        compute_metrics=f1,
        preprocess_logits_for_metrics=lambda logits, _: logits.argmax(-1),
        callbacks=[clock] if clock else None,
    )  # fmt: skip
    return trainer, predicted


def train_with_trainer(run: Run) -> None:
    """Fine-tune, score the best model on dev, and save it in the folder of the run."""
    import time

    from transformers import TrainerCallback

    class Clock(TrainerCallback):
        """Measures every `STEPS_PER_RATE` steps, and the remaining steps at the end of an epoch."""

        def __init__(self) -> None:
            self.rates: list[float] = []
            self._begin, self._steps = 0.0, 0

        def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            self._begin, self._steps = time.perf_counter(), 0

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            self._steps += 1
            if self._steps == STEPS_PER_RATE:
                self.on_epoch_end(args, state, control)
                self.on_epoch_begin(args, state, control)

        def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if self._steps:
                seconds = time.perf_counter() - self._begin
                self.rates.append(self._steps * run.settings.sentences / seconds)

    clock = Clock()
    trainer, _ = make_trainer(run, run.encoder, ("train", "dev"), clock)
    trainer.train()
    final = trainer.evaluate()
    trainer.save_model(f"{run.folder}/best")
    logs = trainer.state.log_history[:-1]
    metrics = {
        "f1_per_epoch": [row["eval_f1"] for row in logs if "eval_f1" in row],
        "rates": clock.rates,
        "steps": trainer.state.max_steps,
    }
    Path(run.folder, "training.json").write_text(json.dumps(metrics))
    print(f"F1 on dev: {final['eval_f1']:.4f}")


def predict(run: Run) -> None:
    """Write what the best model of a run predicts in dev and test, as counts for each text."""
    counts = {}
    for split in CORPORA[run.corpus].splits[1:]:
        examples = read_split(run.corpus, Path(run.data), split)
        if run.way in TRAINER:
            trainer, decode = make_trainer(run, f"{run.folder}/best", (split,))
            entities = decode(trainer.predict(trainer.eval_dataset))
        else:
            from flax_ner import load

            entities = load(f"{run.folder}/run/best")([example.text for example in examples])
        gold = [example.entities or () for example in examples]
        columns = counts_per_text(gold, entities).T.tolist()
        counts[split] = dict(zip(("gold", "predicted", "correct"), columns, strict=True))
    Path(run.folder, "predictions.json").write_text(json.dumps(counts))


# The measurement.


def check_labels(corpus: str, data: Path, encoder: Path, work: Path, settings: Settings) -> int:
    """Check that both sides train on the same entities; return the rows of a packed step.

    Raises:
        SystemExit: they do not, or a sentence is longer than a row.
    """
    labels = label_set(read_split(corpus, data, "train"))
    tokenizer = make_tokenizer(corpus, encoder)
    theirs = hf_tokenizer(corpus, encoder, work)
    begins = [i for i, name in enumerate(labels.names) if name.startswith("B-")]
    rows = 1
    for split in CORPORA[corpus].splits:
        path, examples = split_path(corpus, data, split), read_split(corpus, data, split)
        tokens = encode_examples(examples, tokenizer, labels, settings.max_length)
        features = hf_features(read_sentences(corpus, data, split), labels, theirs)
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
        flat = [label for row in features.rows for label in row["labels"]]
        ours, other = (int(np.isin(array, begins).sum()) for array in (tokens.labels, flat))
        if ours != other:
            sys.exit(f"{path}: flax_ner labels {ours} entities, Trainer {other}.")
        print(
            f"{corpus}, {split}: {len(examples):,} sentences, {ours:,} entities labelled on both sides, "
            f"{divided} sentences divided by flax_ner"
        )
    return rows


def train_command(run: Run, rows: int) -> list[str]:
    """Return the command that goes from the encoder to a scored model."""
    if run.way in TRAINER:
        return child("train", run)
    fields = flax_settings(run, rows).items()
    flags = [f"--config.{name}={value}" for name, value in fields]
    config = "--config=configs/cluener.py"
    return [sys.executable, "train.py", config, f"--workdir={run.folder}/run", *flags]


def child(step: str, run: Run) -> list[str]:
    """Return a command that does one step of a run in a process of its own."""
    path = Path(run.folder, "run.json")
    path.write_text(json.dumps(asdict(run)))
    return [sys.executable, __file__, "child", step, str(path)]


def read_training(run: Run) -> dict[str, Any]:
    """Return dev F1 of each epoch, median throughput and number of steps of a finished training."""
    if run.way in TRAINER:
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
    # The first command of a user compiles everything.
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
        measure(child("predict", run), log.with_suffix(".predict.log"), env)
        row["predictions"] = json.loads((folder / "predictions.json").read_text())
    shutil.rmtree(folder)  # half a gigabyte each
    return row


def read_record(work: Path) -> list[dict[str, Any]]:
    path = work / RECORD
    lines = path.read_text("utf-8").splitlines() if path.exists() else []
    return [json.loads(line) for line in lines]


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
    number = "round" if timed else "seed"
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
            done.add((row["way"], row[number]))
    numbers = range(options.rounds) if timed else options.seeds
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False
    ).stdout.strip()  # fmt: skip
    about = machine("jax", "flax", "optax", "torch", "transformers", "accelerate")
    for i in numbers:
        for way in options.ways:
            if (way, i) in done:
                continue
            name = f"{corpus}_{options.step}_{way}_{i}"
            seed = 0 if timed else i
            run = Run(corpus, way, seed, str(data), str(encoder), str(work / name), settings)
            result = execute(run, rows, scored=not timed)
            line = {"kind": options.step, "corpus": corpus, "way": way, number: i, **conditions}
            line |= {"commit": commit, **about, **result}
            with (work / RECORD).open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
            print(
                f"{name}: {result['wall_seconds']} s, {result['sentences_per_second']} sentences/s, "
                f"{result['peak_mib']} MiB, dev F1 {max(result['f1_per_epoch']):.4f}",
                flush=True,
            )


# The tables.


def pooled_counts(runs: Sequence[dict[str, Any]], split: str) -> np.ndarray:
    """Return gold, predicted and correct entities of each text, summed over seeds, int64 [texts, 3]."""
    columns = [list(run["predictions"][split].values()) for run in runs]
    return np.sum(np.array(columns, np.int64), axis=0).T


def f1_of(run: dict[str, Any], split: str) -> float:
    gold, predicted, correct = (sum(column) for column in run["predictions"][split].values())
    return 2 * correct / max(gold + predicted, 1)


def format_difference(comparison: Comparison) -> str:
    d = comparison.difference
    return f"{d.value:+.4f} ({d.low:+.4f}, {d.high:+.4f}), {comparison.p:.3f}"


def f1_table(runs: dict[str, list[dict[str, Any]]], split: str) -> list[str]:
    """Return the lines of a table of F1 by configuration, with paired tests against Trainer."""
    baselines = [way for way in TRAINER if way in runs]
    headings = ["configuration", "seeds", f"F1 on {split}, mean", "standard deviation"]
    headings += [f"difference from {WAYS[way]} (95%), p" for way in baselines]
    lines = [f"| {' | '.join(headings)} |", "| --- " * len(headings) + "|"]
    for way, rows in runs.items():
        f1 = [f1_of(row, split) for row in rows]
        cells = [f"{len(f1)}", f"{statistics.mean(f1):.4f}"]
        cells.append(f"{statistics.stdev(f1):.4f}" if len(f1) > 1 else "")
        for other in baselines:
            comparison = way != other and paired_bootstrap(
                pooled_counts(rows, split), pooled_counts(runs[other], split)
            )
            cells.append(format_difference(comparison) if comparison else "")
        lines.append(f"| {WAYS[way]} | {' | '.join(cells)} |")
    return lines


def cost_table(runs: dict[str, list[dict[str, Any]]]) -> list[str]:
    """Return the lines of a table of wall time, throughput and memory; ratios are of medians."""
    baselines = [way for way in TRAINER if way in runs]
    ratios = [f"ratio to {way}" for way in baselines]
    headings = ["configuration", "runs", "wall time, s: median (min, max)", *ratios]
    headings += [
        "sentences/s: median (min, max)",
        *ratios,
        "peak memory, MiB",
        "CPU used by others, %",
    ]
    lines = [f"| {' | '.join(headings)} |", "| --- " * len(headings) + "|"]

    def cells(name: str, digits: int) -> dict[str, list[str]]:
        columns = {way: [row[name] for row in rows] for way, rows in runs.items()}
        medians = {way: statistics.median(values) for way, values in columns.items()}
        return {
            way: [
                f"{medians[way]:.{digits}f} ({min(values):.{digits}f}, {max(values):.{digits}f})",
                *(f"{medians[way] / medians[other]:.2f}" for other in baselines),
            ]
            for way, values in columns.items()
        }

    wall, rate = cells("wall_seconds", 0), cells("sentences_per_second", 1)
    for way, rows in runs.items():
        memory, others = (max(row[name] for row in rows) for name in ("peak_mib", "others_percent"))
        columns = [WAYS[way], f"{len(rows)}", *wall[way], *rate[way], f"{memory:,}", f"{others}"]
        lines.append(f"| {' | '.join(columns)} |")
    return lines


def print_tables(work: Path) -> None:
    record = read_record(work)
    if not record:
        sys.exit(f"{work / RECORD} has no finished run. Start some with `run` or `time`.")
    for corpus, about in CORPORA.items():
        for kind in ("run", "time"):
            of_kind = [row for row in record if (row["corpus"], row["kind"]) == (corpus, kind)]
            runs = {way: [row for row in of_kind if row["way"] == way] for way in WAYS}
            runs = {way: rows for way, rows in runs.items() if rows}
            if not runs:
                continue
            first = of_kind[0]
            epochs, cut = first["settings"]["epochs"], first["cut_to"]
            print(
                f"\n{corpus} from {first['encoder']}, {f'{cut} sentences, ' if cut else ''}epochs: {epochs}, "
                f"`benchmarks/finetune.py {kind}`"
            )
            tables = [cost_table(runs)]
            if kind == "run":
                tables = [f1_table(runs, split) for split in about.splits[1:]] + tables
            for lines in tables:
                print("", *lines, sep="\n")
            names = ("settings", "rows", "commit", "machine", "device", "versions")
            print(f"\n`{json.dumps({name: first[name] for name in names})}`")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    steps = parser.add_subparsers(dest="step", required=True, metavar="{run,time,table}")
    for name in ("run", "time"):
        step = steps.add_parser(name)
        step.add_argument("corpus", choices=CORPORA)
        step.add_argument("data", type=Path, help="folder with the files of the data set")
        step.add_argument("encoder", type=Path, help="Hugging Face folder of a BERT")
        step.add_argument(
            "work", metavar="WORK", type=Path, help="folder for runs and their record"
        )
        step.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
        step.add_argument("--epochs", type=int, default=0 if name == "run" else 1)
        step.add_argument("--sentences", type=int, default=0, help="sentences per split; 0: all")
    steps.choices["run"].add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    steps.choices["time"].add_argument("--rounds", type=int, default=3)
    steps.add_parser("table").add_argument("work", metavar="WORK", type=Path)
    child_step = steps.add_parser("child")
    child_step.add_argument("task", choices=("train", "predict"))
    child_step.add_argument("run", type=Path)
    options = parser.parse_args()
    if options.step == "table":
        print_tables(options.work)
    elif options.step == "child":
        fields = json.loads(options.run.read_text())
        run = Run(**fields | {"settings": Settings(**fields["settings"])})
        (train_with_trainer if options.task == "train" else predict)(run)
    else:
        measure_all(options)


if __name__ == "__main__":
    main()
