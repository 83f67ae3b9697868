"""What a configuration asks for: data, tokenizer, labels, model, and the parameters to begin with."""

import hashlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from runpy import run_path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from flax_ner.config import check_config
from flax_ner.errors import UserError
from flax_ner.model.bert import STACKED, BertConfig
from flax_ner.model.tagger import Params, init_params, stack_layers
from flax_ner.next_steps import CHECKOUT, after_encoder
from flax_ner.text.batches import Batcher
from flax_ner.text.encoding import check_paths, encode_examples, not_whole_words
from flax_ner.text.examples import Example
from flax_ner.text.formats import read_examples
from flax_ner.text.labels import LabelSet, SpanLabels, misspelling_of
from flax_ner.text.overlaps import overlaps
from flax_ner.text.tokenizer import TOKENIZERS, Tokenizer
from flax_ner.text.vocab import build_vocab, read_vocab
from flax_ner.training.distillation import Lesson, has_teacher, make_lesson
from flax_ner.training.mesh import put_whole
from flax_ner.weights.convert import UNTOLD, is_ours, make_plan, open_model
from flax_ner.weights.hub import resolve
from flax_ner.weights.model_dir import ModelDir, read_card
from flax_ner.weights.source import open_source

# Fields of `BertConfig` in which a model and its weights must agree, whatever the shapes allow.
SHAPE = (
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "hidden_act",
    "max_position_embeddings",
    "type_vocab_size",
    "layer_norm_eps",
)


FEW = 2000  # sentences, below which a model from nothing wants other settings
MIN_STEPS = 500  # in all, below which a model from nothing hardly learns
ENOUGH_STEPS = 2000  # in all, with which it does, on a few hundred sentences too


@dataclass
class Task:
    """Everything that training needs and that no device holds."""

    batcher: Batcher
    dev: list[Example]
    tokenizer: Tokenizer
    labels: LabelSet
    model: BertConfig
    max_length: int  # tokens of the rows that the model will be used with
    source: ModelDir | None  # where `init_from` leads
    notes: list[str]  # what a user should know before training starts
    skipped: list[str]  # faults of the lines of data that were left out
    dropped: list[str]  # entities of data.train that overlap another one and are not learned
    lesson: Lesson | None = None  # what to ask `distill.teacher`, until it has been asked


def take_shape(config: ConfigDict) -> None:
    """Give `config.model` the shape of the weights that `config.init_from` names; they are not read.

    Raises:
        UserError: there are no such weights, or they are no BERT.
    """
    path = resolve(config.init_from, "init_from")
    vocab = config.tokenizer.vocab or None
    shape = read_card(path).config if is_ours(path) else make_plan(open_source(path, vocab)).config
    for name in SHAPE:
        config.model[name] = getattr(shape, name)


def make_task(config: ConfigDict) -> Task:
    """Read and check all that `config` names.

    Raises:
        UserError: what is missing or does not fit, and which field says so.
    """
    skipped: list[str] | None = [] if config.data.on_error == "skip" else None
    data_notes: list[str] = []
    train, dev = (
        read_examples(config.data[split], config.data.format, f"data.{split}", skipped, data_notes)
        for split in ("train", "dev")
    )
    for example in dev:
        if example.entities is None:
            raise UserError(
                f"data.dev: {example.source} has no label. Scoring needs labelled data; "
                "python -m flax_ner predict tags unlabelled texts."
            )
    source, source_notes = read_source(config)
    if source is not None:
        source.params.pop("masked_lm", None)
    notes = [*data_notes, *source_notes, *_warnings(config, train, dev)]
    min_count = config.tokenizer.min_count
    built = partial(build_vocab, (example.text for example in train), min_count)
    tokenizer = make_tokenizer(config, source, built)
    trained = source is not None and (source.labels or source.tokenizer != "char")
    if source is not None and trained and source.tokenizer != tokenizer.kind:
        notes.append(
            f"{config.init_from}: was trained on {source.tokenizer} tokens, and words of letters and numbers "
            f"are read as {tokenizer.kind} now. --config.tokenizer.kind={source.tokenizer} reads them as then."
        )
    labels = _make_labels(config, source, train)
    model = BertConfig(vocab_size=len(tokenizer.tokens), num_labels=len(labels), **config.model)
    if source is not None:
        check_source(config, source, model)
        if not _has_head_for(source, labels, model):
            notes.append("The head is freshly initialised: init_from has none for these labels.")
    # MMOCR: entities overwrite one another. A CRF cannot learn from the tags that this can leave.
    overwrite = labels.scheme == "mmocr" and model.head != "crf"
    dropped: list[str] = []
    train_tokens = tokenizer.tokenize([example.text for example in train])
    tokens = encode_examples(
        train, tokenizer, labels, config.data.max_length, overwrite, dropped, train_tokens
    )
    if model.head == "crf":
        check_paths(tokens, labels)
    if tokenizer.kind != "char":
        dev_tokens = tokenizer.tokenize([example.text for example in dev])
        for name, examples, of in (
            ("data.train", train, train_tokens),
            ("data.dev", dev, dev_tokens),
        ):
            notes += [f"{name}: {told}." for told in not_whole_words(examples, of, labels)]
    split = len(tokens.lengths) - len(train)
    lesson = None
    if has_teacher(config.distill):
        tokens, lesson = make_lesson(
            config, train, dev, tokens, train_tokens, tokenizer, labels, skipped, notes
        )
    data = config.data
    batcher = Batcher(tokens, data.batching, data.batch_size, data.max_length, config.seed)
    unit = "categories" if isinstance(labels, SpanLabels) else "tags"
    notes.append(
        f"{len(train)} sentences to train on, {len(dev)} to score; {len(labels)} {unit} ({labels.scheme}), "
        f"{len(tokenizer.tokens)} tokens ({tokenizer.kind}); {batcher.steps_per_epoch} steps an epoch."
    )
    notes += _little_training(config, len(train), batcher.steps_per_epoch)
    if overwrite and (overlapping := sum(overlaps(e.entities or ()) for e in train)):
        notes.append(
            f"{overlapping} entities of data.train overlap an earlier one and overwrite it, as in MMOCR."
        )
    if split:
        notes.append(
            f"Texts over {data.max_length - 2} tokens were split, {split} cuts, none inside an entity."
        )
    # Positions that were never trained are of no use, so no row is longer than those seen.
    seen = int(tokens.lengths.max())
    max_length = min(data.max_length, max(source.max_length, seen)) if source else seen
    skipped = skipped or []
    return Task(
        batcher, dev, tokenizer, labels, model, max_length, source, notes, skipped, dropped, lesson
    )


def _warnings(config: ConfigDict, train: list[Example], dev: list[Example]) -> list[str]:
    """Return warnings about data that are probably a mistake."""
    warnings = []
    if config.data.train == config.data.dev:
        warnings.append("data.dev is data.train: its scores say nothing about other texts.")
    counts = Counter(entity.type for example in dev for entity in example.entities or ())
    known = {entity.type for example in train for entity in example.entities or ()}
    for category in sorted(counts.keys() - known - set(config.data.categories)):
        near = misspelling_of(category, known)
        hint = f" In data.dev it may be a misspelling of {near!r}." if near else ""
        warnings.append(
            f"data.dev has the category {category!r} ({counts[category]} entities), which data.train does not "
            f"have: it cannot be learned.{hint}"
        )
    return warnings


def total_steps(config: ConfigDict, per_epoch: int) -> int:
    """Return the number of steps of a run."""
    return int(config.train.steps or config.train.epochs * per_epoch)


def from_nothing_flags(config: ConfigDict, steps: int) -> list[str]:
    """Return the settings that a run of `steps` steps without `init_from` lacks for small data.

    They were chosen on CLUENER cut to 300 and 1,000 sentences; docs/faq.md has the figures.
    """
    wanted: dict[str, Any] = {}
    if config.model.head != "crf":
        wanted["model.head"] = "crf"
    if config.optimizer.learning_rate > 3e-4:
        wanted["optimizer.learning_rate"] = 3e-4
    if steps < ENOUGH_STEPS:
        devices = (config.mesh.data or jax.device_count() // config.mesh.fsdp) * config.mesh.fsdp
        wanted["data.batch_size"] = min(-(-2 // devices) * devices, config.data.batch_size)
        wanted["train.steps"] = ENOUGH_STEPS
    changed = ConfigDict(config.to_dict())
    changed.update_from_flattened_dict(wanted)
    try:
        check_config(changed)
    except UserError:  # they contradict a setting that was made on purpose
        return []
    return [
        f"--config.{name}={value:g}" if isinstance(value, float) else f"--config.{name}={value}"
        for name, value in wanted.items()
    ]


def _little_training(config: ConfigDict, sentences: int, per_epoch: int) -> list[str]:
    """Return what to change where a run from nothing is too short or has little data."""
    if config.init_from:
        return []
    steps = total_steps(config, per_epoch)
    if sentences < FEW and not has_teacher(config.distill):
        flags = from_nothing_flags(config, steps)
        instead = f", or train with {' '.join(flags)} in a new --workdir" if flags else ""
        return [
            f"Only {sentences} sentences and no pre-trained weights: the model will find little. Set init_from "
            f"to pre-trained weights{instead}. docs/faq.md#f1-stays-0-or-everything-is-o has figures."
        ]
    if steps < MIN_STEPS:
        more = f"train.epochs={-(-ENOUGH_STEPS // per_epoch)}"
        if config.train.steps:
            more = f"train.steps={ENOUGH_STEPS}"
        return [
            f"Only {steps} steps and no pre-trained weights: the model will find little. Set --config.{more} "
            f"in a new --workdir, or lower data.batch_size (now {config.data.batch_size})."
        ]
    return []


def initial_params(task: Task, key: jax.Array, shardings: Params) -> Params:
    """Fresh parameters, or those of the source with a fresh head where it has none that fits."""
    source, head = task.source, None
    if source is not None and _has_head_for(source, task.labels, task.model):
        head = source.params["head"]
    return first_params(partial(init_params, task.model), source, head, key, shardings)


def first_params(
    fresh: Callable[[jax.Array], Params],
    source: ModelDir | None,
    head: Params | None,
    key: jax.Array,
    shardings: Params,
) -> Params:
    """Parameters to begin with, placed like this: a source's encoder and its `head`; `fresh` what is None."""
    if source is None:
        return jax.jit(fresh, out_shardings=shardings)(key)
    params = {"encoder": source.params["encoder"]}
    if STACKED in shardings["encoder"]["layers"]:
        params = stack_layers(params)
    params["head"] = head if head is not None else jax.jit(lambda key: fresh(key)["head"])(key)
    return put_whole(params, shardings)


def read_source(config: ConfigDict) -> tuple[ModelDir | None, list[str]]:
    """Where `init_from` leads, and notes about it."""
    if not config.init_from:
        return None, []
    defaults = {name: config.model[name] for name in UNTOLD}
    source, report = open_model(
        config.init_from, "init_from", config.tokenizer.vocab, defaults, encoder_will_do=True
    )
    if source.config.ensemble > 1:
        raise UserError(
            f"init_from: {config.init_from} is an ensemble of {source.config.ensemble} models. Name one of "
            "them, as WORKDIR/seed_0/best."
        )
    if report is None:
        return source, []
    note = (
        f"{config.init_from}: {report.layout}, {len(report.used)} tensors used, {len(report.ignored)} "
        "ignored (python -m flax_ner inspect lists them)."
    )
    return source, [note, *report.notes]


def make_tokenizer(
    config: ConfigDict,
    source: ModelDir | None,
    built: Callable[[], list[str]],
    goes_on: bool = False,
) -> Tokenizer:
    """The tokenizer that a configuration asks for.

    Args:
        config: the whole.
        source: where `init_from` leads.
        built: makes a vocabulary of the text, where there is no other.
        goes_on: read text as the source does, also where it is an encoder.

    Raises:
        UserError: vocabulary and source do not fit, or there is no vocabulary.
    """
    kind = config.tokenizer.kind
    if not kind:
        kind = source.tokenizer if source and (source.labels or goes_on) else "char"
    if config.tokenizer.vocab:
        tokens = read_vocab(config.tokenizer.vocab)
        if source is not None and tokens != source.vocab:
            raise UserError(
                f"tokenizer.vocab: {config.tokenizer.vocab} ({len(tokens)} tokens) is not the vocabulary "
                f"of {config.init_from} ({len(source.vocab)} tokens). Leave the field empty."
            )
    if source is not None:
        tokens = source.vocab
    elif not config.tokenizer.vocab and kind != "char":
        raise UserError(
            f"tokenizer.kind: {kind} needs a vocabulary. Name its vocab.txt in tokenizer.vocab, or weights "
            "that have one in init_from."
        )
    elif not config.tokenizer.vocab:
        tokens = built()
    lower_case = config.tokenizer.lower_case
    if lower_case is None:
        lower_case = True if source is None else source.lower_case
    return TOKENIZERS[kind](tokens, lower_case)


def _make_labels(config: ConfigDict, source: ModelDir | None, train: list[Example]) -> LabelSet:
    found = sorted({entity.type for example in train for entity in example.entities or ()})
    categories = tuple(config.data.categories)
    known = source.labels if source else None
    spans = config.model.head == "global_pointer"
    if known and not categories and found and set(found) <= set(known.categories):
        if known.scheme == (SpanLabels.scheme if spans else config.data.scheme):
            return known  # also where a head made elsewhere has its tags in another order
        categories = known.categories
    if not categories and not found:
        raise UserError(
            f"data.train: {config.data.train} has no entity. Training needs labelled data."
        )
    if spans:
        return SpanLabels(categories or found)
    return LabelSet(categories or found, config.data.scheme)


def _has_head_for(source: ModelDir, labels: LabelSet, model: BertConfig) -> bool:
    own = ("crf", "global_pointer")  # what the others have they share
    alike = source.config.head == model.head or not {source.config.head, model.head} & {*own}
    return source.labels is not None and source.labels.names == labels.names and alike


def check_source(config: ConfigDict, source: ModelDir, model: BertConfig) -> None:
    """Raise `UserError` where the source has another shape than the model."""
    flags = _shape_flags(model, source.config)
    if flags:
        raise UserError(
            f"init_from: {config.init_from} has another shape than the model. Set {' '.join(flags)}"
        )


def _shape_flags(model: ConfigDict | BertConfig, wanted: BertConfig) -> list[str]:
    """Return the settings that give `model` another shape."""
    return [
        f"--config.model.{name}={getattr(wanted, name)}"
        for name in SHAPE
        if getattr(model, name) != getattr(wanted, name)
    ]


def fine_tuning_commands(path: Path, shape: BertConfig, name: str, workdir: str) -> list[str]:
    """Return the commands that fine-tune weights on CLUENER, as lines of the shell.

    Args:
        path: the model directory.
        shape: of its encoder.
        name: of the file in `configs/` to use, without its ending.
        workdir: of the run.
    """
    file = CHECKOUT / "configs" / f"{name}.py"
    flags = []
    if file.exists():
        config = run_path(str(file))["get_config"]()
        flags = _shape_flags(config.model, shape)
        if config.data.max_length > shape.max_position_embeddings:
            flags.append(f"--config.data.max_length={shape.max_position_embeddings}")
    return after_encoder(path, flags, name, workdir)


def digest(model: ModelDir | None) -> bytes:
    """What several processes must have alike of a model."""
    arrays = jax.tree.leaves(model.params) if model else []
    return b"".join(hashlib.sha256(bytes_of(np.asarray(x))).digest() for x in arrays)


def bytes_of(array: np.ndarray) -> memoryview:
    """Return the bytes that `tobytes` does, without a copy where the array is contiguous."""
    # As uint8, because an array of bfloat16 gives no memoryview.
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data


def trained_model(task: Task, params: Params) -> ModelDir:
    """The model directory of this task with these parameters."""
    tokenizer = task.tokenizer
    return ModelDir(
        task.model,
        task.labels,
        tokenizer.tokens,
        task.max_length,
        params,
        tokenizer.lower_case,
        tokenizer.kind,
    )
