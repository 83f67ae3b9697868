"""The tagging task: train on labelled sentences, evaluate the predicted entities on dev."""

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

from flax_ner.distillation.teacher import compute_teacher_probs, distillation_fingerprint
from flax_ner.evaluation.display import highlight, score_table
from flax_ner.evaluation.metrics import Scores
from flax_ner.finetuning.baseline import label_frequency_loss, label_transition_loss
from flax_ner.finetuning.hyperparameters import DEFAULT_MIN_STEPS, default_learning_rate
from flax_ner.finetuning.task_data import (
    TaskData,
    initial_params,
    read_task_data,
    small_data_flags,
    trained_model,
)
from flax_ner.inference.forward import make_decoder
from flax_ner.inference.tagger import Tagger, load
from flax_ner.model.tagging_model import Params, abstract_params
from flax_ner.next_steps import SAMPLE, after_tagger, is_printable_line, read_flags
from flax_ner.text.batches import Epoch
from flax_ner.text.examples import Example
from flax_ner.training.hosts import run_on_all_hosts
from flax_ner.training.loss import (
    Gradients,
    State,
    StepOptions,
    add_distillation,
    has_teacher,
    make_loss,
    make_tagging_gradients,
)
from flax_ner.training.mesh import BATCH_AXES
from flax_ner.training.start import array_bytes, params_digest
from flax_ner.training.task import Baseline, Content, Evaluate, Metrics
from flax_ner.training.workdir import TEACHER_INPUTS, total_steps, write_item_list
from flax_ner.weights.model_dir import ModelDir

SHOWN_EXAMPLES = 6  # tagged sentences printed at the end


class Tagging:
    """Fine-tune a tagger: a `TrainingTask` whose chunks are epochs.

    Args:
        config: configuration of the run.

    Raises:
        UserError: something is missing, invalid or contradictory. The message names the setting.
    """

    best_by, unit = "f1", "sentences"
    seeds: tuple[int | None, ...] = (None,)

    def __init__(self, config: ConfigDict):
        self._data = data = read_task_data(config)
        self.config = config = data.config
        self.tokenizer, self.notes = data.tokenizer, data.notes
        decoder = make_decoder(data.model, data.labels)
        loss_of = add_distillation(make_loss(config.loss, decoder), config.distill, decoder)
        step_options = StepOptions(*(config.train[name] for name in StepOptions._fields))

        def gradients(seed: int | jax.Array, state: State, batch: Any) -> tuple[jax.Array, Params]:
            return make_tagging_gradients(data.model, loss_of, seed, step_options)(state, batch)

        self.gradients_for_seed = gradients
        self.gradients: Gradients = partial(gradients, config.seed)
        self.dev_size = len(data.dev)
        self.steps_per_epoch = self.steps_per_chunk = data.batcher.steps_per_epoch
        self.units_per_step = len(data.batcher.tokens.lengths) / self.steps_per_epoch
        self.baseline = _baseline(data, total_steps(config, self.steps_per_epoch))

    def fingerprints(self) -> dict[str, Content]:
        """Return the data that decide the result, by setting."""
        data, tokens = self._data, self._data.batcher.tokens
        return {
            "data.categories": repr(data.labels.names).encode(),
            "data.train": map(array_bytes, tokens[:3]),
            "data.dev": _repr_blocks(data.dev),
            "init_from": params_digest(data.source),
            "distill.teacher": params_digest(
                data.distillation.teacher if data.distillation else None
            ),
            TEACHER_INPUTS: distillation_fingerprint(data.distillation),
        }

    def setup(self, workdir: Path, mesh: Mesh, console: Console) -> None:
        """Write skipped lines and overlapping entities to files, and compute the teacher's probabilities."""
        data = self._data
        for items, what, name in (
            (data.skipped, "lines of data were skipped", "skipped.txt"),
            (
                data.dropped,
                "entities of data.train overlap another one and are not learned",
                "overlaps.txt",
            ),
        ):
            run_on_all_hosts(partial(write_item_list, items, what, workdir / name, self.notes))
        if data.distillation is not None:
            compute_teacher_probs(data.distillation, data.batcher, self.config, mesh, console)
            data.distillation = None  # free the teacher's weights

    def batches(self, chunk: int, rows: np.ndarray) -> Epoch:
        """Return the batches of epoch `chunk`, of each only `rows`, int [n]."""
        return self._data.batcher.epoch(chunk, rows)

    def abstract(self) -> Params:
        """Return the parameters' shapes and dtypes, without arrays."""
        return abstract_params(self._data.model)

    def initial(self, key: jax.Array, shardings: Params) -> Params:
        """Return the initial parameters."""
        return initial_params(self._data, key, shardings)

    def release(self) -> None:
        """Free the weights of `init_from`, which the training state now holds."""
        self._data.source = None

    def evaluator(self, mesh: Mesh) -> Evaluate:
        """Return a function that computes precision, recall and F1 on dev."""
        data, options = self._data, self.config.eval
        tagger = Tagger(
            data.model,
            {},
            data.tokenizer,
            data.labels,
            data.max_length,
            options.batch_size,
            NamedSharding(mesh, P(BATCH_AXES)),
        )

        def evaluate(params: Params) -> list[Metrics]:
            tagger.params = params
            scores = tagger.score(data.dev, options.scoring)
            tagger.params = {}
            return [{"precision": scores.precision, "recall": scores.recall, "f1": scores.f1}]

        return evaluate

    def saved(self, params: Params, index: int = 0) -> ModelDir:
        """Return the model directory of the model number `index`."""
        return trained_model(self._data, params)

    def report(self, workdir: Path, console: Console) -> Scores:
        """Load `best`, print its dev scores and some predictions, and return the scores."""
        config, dev = self.config, self._data.dev
        tagger = load(workdir / "best")
        scores = tagger.score(dev, config.eval.scoring)
        console.print(
            score_table(scores, f"{workdir}/best on {config.data.dev}, {config.eval.scoring}")
        )
        if not scores.correct:
            steps = total_steps(config, self.steps_per_epoch)
            console.print(_explain_zero(scores, config, steps), highlight=False, markup=False)
        console.print("Predictions for the first sentences of dev:", highlight=False)
        for example in dev[:SHOWN_EXAMPLES]:
            tagged = highlight(example.text, tagger(example.text), self._data.labels.categories)
            console.print(tagged, soft_wrap=True)
        return scores

    def next_commands(self, workdir: Path) -> list[str]:
        """Return the commands that evaluate `best` and tag with it."""
        data, dev, scoring = self._data, self.config.data.dev, self.config.eval.scoring
        short = (e.text for e in data.dev if len(e.text) <= 60 and is_printable_line(e.text))
        evaluate = [dev, *read_flags(self.config.data)]
        evaluate += [] if scoring == "strict" else ["--scoring", scoring]
        readable = not data.skipped and self.config.data.format != "synthetic"
        commands = after_tagger(
            workdir / "best", evaluate if readable else None, next(short, SAMPLE)
        )
        if self.config.data.format == "synthetic":
            commands.append("# To train on your own data, follow docs/your_data.md")
        return commands


def _baseline(data: TaskData, steps: int) -> Baseline | None:
    """Return the loss without reading the text, and settings to try if training does not improve on it."""
    config, tokens = data.config, data.batcher.tokens
    other_loss = (
        data.model.head == "global_pointer"
        or has_teacher(config.distill)
        or config.loss.name != "cross_entropy"
        or config.loss.label_smoothing
        or config.train.r_drop
    )
    if other_loss:  # not comparable with the cross-entropy of the labels
        return None
    if data.model.head == "crf":
        loss, known = label_transition_loss(tokens), "how often each label follows another"
    else:
        loss, known = label_frequency_loss(tokens), "the frequency of each label"
    pretrained = data.source is not None
    rate = default_learning_rate(config.optimizer.name, data.model.hidden_size, pretrained)
    if pretrained and data.new_head and not config.train.standardise:
        remedy = "--config.train.standardise=True"
    elif not 2 / 3 < config.optimizer.learning_rate / rate < 3 / 2:
        remedy = f"--config.optimizer.learning_rate={rate:g}"
    else:
        remedy = f"--config.train.steps={max(2 * steps, DEFAULT_MIN_STEPS[pretrained])}"
    return Baseline(loss, known, remedy)


def _explain_zero(scores: Scores, config: ConfigDict, steps: int) -> str:
    """Explain a model without a single correct entity on dev, and say what to try."""
    if not scores.gold:
        return f"data.dev: {config.data.dev} has no entities, so these scores are meaningless."
    if scores.predicted:
        problem = (
            f"{scores.predicted:,} entities were predicted. None has the type and the boundaries of one of the "
            f"{scores.gold:,} gold entities; evaluate --html shows both."
        )
    else:
        problem = f"No entity was predicted; data.dev has {scores.gold:,}."
    flags = [] if config.init_from else small_data_flags(config, steps)
    remedy = " ".join(flags) or f"--config.train.steps={2 * steps}"
    more = "See docs/faq.md under 'F1 stays 0' for other causes."
    return f"{problem} Train with {remedy} in a new --workdir. {more}"


def _repr_blocks(examples: Sequence[Example]) -> Iterator[bytes]:
    """Yield `repr([(text, entities), ...])` in blocks; existing work directories have digests of this form."""
    yield b"["
    for i, example in enumerate(examples):
        yield (", " * (i > 0) + repr((example.text, example.entities))).encode()
    yield b"]"
