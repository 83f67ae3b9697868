"""The job of training a tagger: labelled sentences, scored by the entities that are found in dev."""

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from ml_collections import ConfigDict
from rich.console import Console

from flax_ner.inference.forward import make_decoder
from flax_ner.inference.tagger import Tagger, load
from flax_ner.model.tagger import Params, abstract_params
from flax_ner.next_steps import SAMPLE, after_tagger, is_printable_line
from flax_ner.text.batches import Epoch
from flax_ner.text.examples import Example
from flax_ner.text.frequencies import label_frequency_loss, label_transition_loss
from flax_ner.text.metrics import Scores
from flax_ner.text.recognise import recognise
from flax_ner.text.report import highlight, score_table
from flax_ner.training.distillation import (
    TEACHER_READS,
    ask_teacher,
    distilled,
    fingerprint,
    has_teacher,
)
from flax_ner.training.gradients import Gradients, State, Tricks, make_gradients, make_loss
from flax_ner.training.hosts import everywhere
from flax_ner.training.hyperparameters import LEAST_STEPS, suitable_rate
from flax_ner.training.job import Baseline, Content, Evaluate, Figures
from flax_ner.training.mesh import BATCH
from flax_ner.training.task import (
    Task,
    bytes_of,
    digest,
    from_nothing_flags,
    initial_params,
    make_task,
    total_steps,
    trained_model,
)
from flax_ner.training.workdir import list_left_out
from flax_ner.weights.model_dir import ModelDir

EXAMPLES = 6  # tagged sentences shown at the end


class Tagging:
    """A `Job`; an epoch of its batches is on the device as a whole.

    Raises:
        UserError: what is missing or does not fit, and which field says so.
    """

    best_by, unit = "f1", "sentences"
    seeds: tuple[int | None, ...] = (None,)

    def __init__(self, config: ConfigDict):
        self._task = task = make_task(config)
        self.config = config = task.config
        self.tokenizer, self.notes = task.tokenizer, task.notes
        decoder = make_decoder(task.model, task.labels)
        loss_of = distilled(make_loss(config.loss, decoder), config.distill, decoder)
        tricks = Tricks(*(config.train[name] for name in Tricks._fields))

        def gradients(seed: int | jax.Array, state: State, batch: Any) -> tuple[jax.Array, Params]:
            return make_gradients(task.model, loss_of, seed, tricks)(state, batch)

        self.gradients_of_seed = gradients
        self.gradients: Gradients = partial(gradients, config.seed)
        self.dev_size = len(task.dev)
        self.steps_per_epoch = self.steps_per_portion = task.batcher.steps_per_epoch
        self.units_per_step = len(task.batcher.tokens.lengths) / self.steps_per_epoch
        self.baseline = _baseline(task, total_steps(config, self.steps_per_epoch))

    def parts(self) -> dict[str, Content]:
        """See `Job`."""
        task, tokens = self._task, self._task.batcher.tokens
        return {
            "data.categories": repr(task.labels.names).encode(),
            "data.train": map(bytes_of, tokens[:3]),
            "data.dev": _listed(task.dev),
            "init_from": digest(task.source),
            "distill.teacher": digest(task.lesson.teacher if task.lesson else None),
            TEACHER_READS: fingerprint(task.lesson),
        }

    def prepare(self, workdir: Path, mesh: Mesh, console: Console) -> None:
        """List what is left out, and ask the teacher."""
        task = self._task
        for left_out, what, name in (
            (task.skipped, "lines of data were skipped", "skipped.txt"),
            (
                task.dropped,
                "entities of data.train overlap another one and are not learned",
                "overlaps.txt",
            ),
        ):
            everywhere(partial(list_left_out, left_out, what, workdir / name, self.notes))
        if task.lesson is not None:
            ask_teacher(task.lesson, task.batcher, self.config, mesh, console)
            task.lesson = None  # its weights are needed no more

    def batches(self, portion: int, rows: np.ndarray) -> Epoch:
        """Those of an epoch."""
        return self._task.batcher.epoch(portion, rows)

    def abstract(self) -> Params:
        """See `Job`."""
        return abstract_params(self._task.model)

    def initial(self, key: jax.Array, shardings: Params) -> Params:
        """See `Job`."""
        return initial_params(self._task, key, shardings)

    def release(self) -> None:
        """See `Job`."""
        self._task.source = None

    def evaluator(self, mesh: Mesh) -> Evaluate:
        """Precision, recall and F1."""
        task, options = self._task, self.config.eval
        tagger = Tagger(
            task.model,
            {},
            task.tokenizer,
            task.labels,
            task.max_length,
            options.batch_size,
            NamedSharding(mesh, P(BATCH)),
        )

        def evaluate(params: Params) -> list[Figures]:
            tagger.params = params
            scores = tagger.score(task.dev, options.scoring)
            tagger.params = {}
            return [{"precision": scores.precision, "recall": scores.recall, "f1": scores.f1}]

        return evaluate

    def saved(self, params: Params, index: int = 0) -> ModelDir:
        """See `Job`."""
        return trained_model(self._task, params)

    def report(self, workdir: Path, console: Console) -> Scores:
        """Score the best model on dev as it lies on disk, and show what it finds."""
        config, dev = self.config, self._task.dev
        tagger = load(workdir / "best")
        scores = tagger.score(dev, config.eval.scoring)
        console.print(
            score_table(scores, f"{workdir}/best on {config.data.dev}, {config.eval.scoring}")
        )
        if not scores.correct:
            steps = total_steps(config, self.steps_per_epoch)
            console.print(_explain_zero(scores, config, steps), highlight=False, markup=False)
        console.print("What it finds in the first sentences:", highlight=False)
        for example in dev[:EXAMPLES]:
            found = highlight(example.text, tagger(example.text), self._task.labels.categories)
            console.print(found, soft_wrap=True)
        return scores

    def next_commands(self, workdir: Path) -> list[str]:
        """Return the commands that score `best` and tag with it."""
        task, dev, scoring = self._task, self.config.data.dev, self.config.eval.scoring
        short = (e.text for e in task.dev if len(e.text) <= 60 and is_printable_line(e.text))
        evaluate = [dev] if scoring == "strict" else [dev, "--scoring", scoring]
        readable = not task.skipped and _is_recognised(dev, self.config.data.format)
        commands = after_tagger(
            workdir / "best", evaluate if readable else None, next(short, SAMPLE)
        )
        if self.config.data.format == "synthetic":
            commands.append("# To train on your own data, follow docs/your_data.md")
        return commands


def _is_recognised(path: str, data_format: str) -> bool:
    """Whether `evaluate`, which goes by the content, reads a file as the run did."""
    if data_format in ("auto", "synthetic"):
        return data_format == "auto"
    return recognise(Path(path)) == data_format


def _baseline(task: Task, steps: int) -> Baseline | None:
    """Return the loss of a model that does not read the text, and what to change if training stays there."""
    config, tokens = task.config, task.batcher.tokens
    other = (
        task.model.head == "global_pointer"
        or has_teacher(config.distill)
        or config.loss.name != "cross_entropy"
        or config.loss.label_smoothing
        or config.train.r_drop
    )
    if other:  # the loss is not the cross-entropy of the labels
        return None
    if task.model.head == "crf":
        loss, known = label_transition_loss(tokens), "which label follows which"
    else:
        loss, known = label_frequency_loss(tokens), "how frequent each label is"
    pretrained = task.source is not None
    rate = suitable_rate(config.optimizer.name, task.model.hidden_size, pretrained)
    if pretrained and task.fresh_head and not config.train.standardise:
        remedy = "--config.train.standardise=True"
    elif not 2 / 3 < config.optimizer.learning_rate / rate < 3 / 2:
        remedy = f"--config.optimizer.learning_rate={rate:g}"
    else:
        remedy = f"--config.train.steps={max(2 * steps, LEAST_STEPS[pretrained])}"
    return Baseline(loss, known, remedy)


def _explain_zero(scores: Scores, config: ConfigDict, steps: int) -> str:
    """Return what is known of a model that gets no entity of dev right, and what to do."""
    if not scores.gold:
        return f"data.dev: {config.data.dev} has no entity, so these scores say nothing."
    if scores.predicted:
        known = (
            f"{scores.predicted:,} entities were predicted. None has the type and the boundaries of one of the "
            f"{scores.gold:,} in data.dev; evaluate --html shows both."
        )
    else:
        known = f"No entity was predicted; data.dev has {scores.gold:,}."
    flags = [] if config.init_from else from_nothing_flags(config, steps)
    longer = " ".join(flags) or f"--config.train.steps={2 * steps}"
    more = "docs/faq.md has other causes under 'F1 stays 0'."
    return f"{known} Train with {longer} in a new --workdir. {more}"


def _listed(examples: Sequence[Example]) -> Iterator[bytes]:
    """Yield `repr([(text, entities), ...])` in chunks: work directories hold digests of this form."""
    yield b"["
    for i, example in enumerate(examples):
        yield (", " * (i > 0) + repr((example.text, example.entities))).encode()
    yield b"]"
