"""The side of transformers' Trainer in benchmarks/finetune.py, and predictions of both sides.

    python benchmarks/finetune_trainer.py train RUN
    python benchmarks/finetune_trainer.py predict RUN

benchmarks/finetune.py runs these commands, so that each training is measured in a process of its own. RUN is
the run.json of a run. Only `predict` for a run of flax_ner imports jax.
"""

import argparse
import json
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from finetune_data import (
    B1,
    B2,
    CORPORA,
    EPS,
    STEPS_PER_RATE,
    TRAINER,
    Run,
    Sentence,
    Settings,
    label_set,
    make_tokenizer,
    read_sentences,
    read_split,
    split_into_tokenizer_words,
)  # fmt: skip

from flax_ner.evaluation.analysis import counts_per_text
from flax_ner.evaluation.metrics import score
from flax_ner.text.encoding import align_spans_to_words
from flax_ner.text.examples import Entity
from flax_ner.text.labels import LabelSet


def trainer_settings(run: Run) -> dict[str, Any]:
    """Return the arguments of `TrainingArguments`."""
    settings, best = run.settings, run.configuration in ("best", "words")
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
    """Tokenize sentences and label the first piece of each word, the others -100.

    As in flax_ner, an entity that starts or ends inside a word is extended to the whole word, and one without
    a word is ignored.
    """
    encoded = tokenizer([sentence.words for sentence in sentences], is_split_into_words=True)
    features = Features([], [])
    for i, (example, words, spans) in enumerate(sentences):
        gold = example.entities or ()
        starts, ends = np.array(spans, np.int64).reshape(-1, 2).T
        offsets = np.array([(e.start, e.end) for e in gold], np.int64).reshape(-1, 2)
        first_word, stop = align_spans_to_words(offsets, starts, ends)
        entities = [
            (e.type, a, b)
            for e, a, b in zip(gold, first_word.tolist(), stop.tolist(), strict=True)
            if a < b
        ]
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
        sys.exit(
            "Trainer: the rows of its predictions are not in the order of the sentences. Install the version "
            "of transformers that benchmarks/RESULTS.md names."
        )
    # Number only the words that have a label. As in seqeval, a word without tokens does not end an entity.
    number = np.concatenate([np.arange(len(words)) for words in features.labelled])
    spans = labels.spans(tags[row, column], row, number, "strict")
    entities: list[list[Entity]] = [[] for _ in sentences]
    for i, category_id, first, stop in zip(*(column.tolist() for column in spans), strict=True):
        words, (example, _, word_spans) = features.labelled[i], sentences[i]
        start, end = word_spans[words[first]][0], word_spans[words[stop - 1]][1]
        entities[i].append(
            Entity(labels.categories[category_id], start, end, example.text[start:end])
        )
    return entities


def make_trainer(
    run: Run, model: str, splits: Sequence[str], clock: Any = None
) -> tuple[Any, Callable[[Any], list[list[Entity]]]]:
    """Make a Trainer.

    Args:
        run: the run.
        model: folder of the weights to start from or to evaluate.
        splits: the training and the evaluation split, or only the latter.
        clock: a callback of transformers, or None.

    Returns:
        The Trainer, and a function that decodes its output for the evaluation split to entities.
    """
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
    if run.configuration == "words":
        ours = make_tokenizer(run.corpus, Path(run.encoder))
        sentences = {
            split: split_into_tokenizer_words(rows, ours) for split, rows in sentences.items()
        }
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
    """Fine-tune with Trainer, score the best model on dev, and save it in the folder of the run."""
    import time

    from transformers import TrainerCallback

    class Clock(TrainerCallback):
        """Measure sentences per second of `STEPS_PER_RATE` steps each, and of the last steps of an epoch."""

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
    """Write the gold, predicted and correct entities of each text of dev and test, for a run's best model."""
    counts = {}
    for split in CORPORA[run.corpus].splits[1:]:
        examples = read_split(run.corpus, Path(run.data), split)
        if run.configuration in TRAINER:
            trainer, decode = make_trainer(run, f"{run.folder}/best", (split,))
            entities = decode(trainer.predict(trainer.eval_dataset))
        else:
            from flax_ner import load

            entities = load(f"{run.folder}/run/best")([example.text for example in examples])
        gold = [example.entities or () for example in examples]
        columns = counts_per_text(gold, entities).T.tolist()
        counts[split] = dict(zip(("gold", "predicted", "correct"), columns, strict=True))
    Path(run.folder, "predictions.json").write_text(json.dumps(counts))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("task", choices=("train", "predict"))
    parser.add_argument("run", metavar="RUN", type=Path)
    options = parser.parse_args()
    fields = json.loads(options.run.read_text())
    run = Run(**fields | {"settings": Settings(**fields["settings"])})
    (train_with_trainer if options.task == "train" else predict)(run)


if __name__ == "__main__":
    main()
