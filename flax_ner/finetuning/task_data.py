"""Build the data, tokenizer, labels, model and initial parameters of a tagging run."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

import jax
from ml_collections import ConfigDict

from flax_ner.config import is_unset
from flax_ner.config_checks import check_config, read_options
from flax_ner.data.formats import read_examples
from flax_ner.distillation.teacher import DistillationData, prepare_distillation
from flax_ner.errors import UserError
from flax_ner.finetuning.hyperparameters import DEFAULT_MIN_STEPS, choose_hyperparameters
from flax_ner.finetuning.standardise import standardise_outputs
from flax_ner.model.bert import BertConfig
from flax_ner.model.tagging_model import Params, init_params
from flax_ner.text.batches import Batcher
from flax_ner.text.category_names import find_intended_category
from flax_ner.text.character_rows import describe_coverage
from flax_ner.text.encoding import (
    check_tag_transitions,
    describe_misaligned_entities,
    encode_examples,
)
from flax_ner.text.examples import Example, gold_entities
from flax_ner.text.labels import LabelSet, SpanLabels
from flax_ner.text.overlaps import count_overlaps, drop_overlaps
from flax_ner.text.tokenizer import CharTokenizer, Tokenizer, Tokens
from flax_ner.text.vocab import build_vocab
from flax_ner.training.decisions import default_scheme, resolve_settings
from flax_ner.training.loss import has_teacher
from flax_ner.training.start import (
    make_bert_config,
    make_initial_params,
    make_tokenizer,
    read_source,
)
from flax_ner.training.workdir import total_steps
from flax_ner.weights.model_dir import ModelDir

# Fraction of overlapping entities above which data count as nested. Fewer may be errors.
MIN_NESTED = 0.01
SMALL_DATA_SENTENCES = 2000  # with fewer, training from scratch needs other settings
WARN_BELOW_STEPS_PRETRAINED = 320  # below this, pre-trained weights hardly learn new labels
WARN_BELOW_STEPS_SCRATCH = 500  # below this, a model from scratch hardly learns
GOOD_STEPS_SCRATCH = 2000  # enough from scratch, even for a few hundred sentences


@dataclass
class TaskData:
    """Everything that training needs on the host: data, tokenizer, labels, model and initial weights."""

    config: ConfigDict  # every setting is resolved
    batcher: Batcher
    dev: list[Example]
    tokenizer: Tokenizer
    labels: LabelSet
    model: BertConfig
    max_length: int  # maximum tokens per row of the trained tagger
    source: ModelDir | None  # weights of `init_from`
    notes: list[str]  # printed before training starts
    skipped: list[str]  # error messages of the lines that were skipped
    dropped: list[str]  # entities of data.train that overlap another one and are not learned
    new_head: bool = True  # False: the head is the source's
    distillation: DistillationData | None = None  # until the teacher has labelled the texts


def read_task_data(config: ConfigDict) -> TaskData:
    """Read and check everything that a configuration names.

    Args:
        config: configuration of the task `tagging`; it is not changed.

    Returns:
        The data. Unset settings are resolved in its `config`.

    Raises:
        UserError: something is missing, invalid or contradictory. The message names the setting.
    """
    # Data and weights. Both determine the settings that are not set.
    skipped: list[str] | None = [] if config.data.on_error == "skip" else None
    train, dev, notes = _read_examples(config, skipped)
    source, source_notes = read_source(config)
    if source is not None:
        source.params.pop("masked_lm", None)
    categories = sorted(_categories(train))
    config, resolved_notes = resolve_settings(config, source, categories)
    notes += [*source_notes, *resolved_notes, *_data_warnings(config, train, dev)]

    # Tokenizer, labels and model.
    make_vocab = partial(build_vocab, (e.text for e in train), config.tokenizer.min_count)
    tokenizer, source = make_tokenizer(config, source, make_vocab, notes, train)
    if is_unset(config, "data.scheme"):
        config.data.scheme = default_scheme(tokenizer.kind, config.model.head, config.eval.scoring)
    notes += _choose_nested(config, train, source)
    labels = _make_labels(config, source, categories)
    model = make_bert_config(config, source, len(tokenizer.tokens), len(labels))
    new_head = source is None or not _has_head_for(source, labels, model)
    if source is not None and new_head:
        notes.append("The head is freshly initialised: init_from has none for these labels.")

    # Labelled tokens.
    # MMOCR: entities overwrite one another. A CRF cannot learn from the tags that this can leave.
    overwrite = labels.scheme == "mmocr" and model.head != "crf"
    dropped: list[str] = []
    train_tokens = tokenizer.tokenize([example.text for example in train])
    tokens = encode_examples(
        train, tokenizer, labels, config.data.max_length, overwrite, dropped, train_tokens
    )
    if model.head == "crf":
        check_tag_transitions(tokens, labels)
    cuts = len(tokens.lengths) - len(train)
    if isinstance(tokenizer, CharTokenizer) and (source is not None or config.tokenizer.vocab):
        notes.append(describe_coverage(tokenizer, [e.text for e in train], "data.train"))
    if tokenizer.kind != CharTokenizer.kind:
        notes += _word_boundary_notes(train, train_tokens, dev, tokenizer, labels)

    # Texts for the teacher, batch size, epochs and learning rate.
    distillation = None
    if has_teacher(config.distill):
        tokens, distillation = prepare_distillation(
            config, train, dev, tokens, train_tokens, tokenizer, labels, skipped, notes
        )
    notes += choose_hyperparameters(config, tokens, model.hidden_size)
    data = config.data
    batcher = Batcher(tokens, data.batching, data.batch_size, data.max_length, config.seed)
    steps_per_epoch = batcher.steps_per_epoch
    unit = "categories" if isinstance(labels, SpanLabels) else "tags"
    notes.append(
        f"{len(train)} sentences to train on, {len(dev)} to evaluate on; {len(labels)} {unit} "
        f"({labels.scheme}), {len(tokenizer.tokens)} tokens ({tokenizer.kind}); "
        f"{steps_per_epoch} steps per epoch."
    )
    notes += _short_training_warnings(config, len(train), steps_per_epoch, new_head)
    notes += _encoding_notes(train, tokenizer, labels, overwrite, cuts, data.max_length)

    # Positions beyond the longest row seen in training are untrained, so the tagger does not use them.
    longest = int(tokens.lengths.max())
    max_length = longest
    if source is not None:
        max_length = min(data.max_length, max(source.max_length, longest))
    return TaskData(
        config,
        batcher,
        dev,
        tokenizer,
        labels,
        model,
        max_length,
        source,
        notes,
        skipped or [],
        dropped,
        new_head,
        distillation,
    )


def _read_examples(
    config: ConfigDict, skipped: list[str] | None
) -> tuple[list[Example], list[Example], list[str]]:
    """Return the examples of data.train and data.dev, and notes about the files."""
    notes: list[str] = []
    train, dev = (
        read_examples(
            config.data[split],
            config.data.format,
            f"data.{split}",
            skipped,
            notes,
            read_options(config),
        )
        for split in ("train", "dev")
    )
    gold_entities(dev, "data.dev")
    return train, dev, notes


def _categories(examples: list[Example]) -> Counter[str]:
    return Counter(entity.type for example in examples for entity in example.entities or ())


def _word_boundary_notes(
    train: list[Example],
    train_tokens: Tokens,
    dev: list[Example],
    tokenizer: Tokenizer,
    labels: LabelSet,
) -> list[str]:
    """Return notes about entities that start or end inside a word."""
    dev_tokens = tokenizer.tokenize([example.text for example in dev])
    notes = []
    for name, examples, tokens in (
        ("data.train", train, train_tokens),
        ("data.dev", dev, dev_tokens),
    ):
        notes += [
            f"{name}: {note}." for note in describe_misaligned_entities(examples, tokens, labels)
        ]
    return notes


def _encoding_notes(
    train: list[Example],
    tokenizer: Tokenizer,
    labels: LabelSet,
    overwrite: bool,
    cuts: int,
    max_length: int,
) -> list[str]:
    """Return notes about entities that the tags cannot represent, and about texts that were split."""
    notes = []
    if overwrite and (overlapping := sum(count_overlaps(e.entities or ()) for e in train)):
        notes.append(
            f"{overlapping} entities of data.train overlap an earlier one and overwrite it, as in MMOCR."
        )
    if labels.scheme == "io" and (merged := _merged_by_io(train, tokenizer.kind)):
        notes.append(
            f"{merged} entities of data.train directly follow another one of the same category; tags of scheme "
            "io merge them. --config.data.scheme=bio keeps them apart, with a new head."
        )
    if cuts:
        notes.append(
            f"Texts longer than {max_length - 2} tokens were split: {cuts} cuts, none inside an entity."
        )
    return notes


def _merged_by_io(train: list[Example], kind: str) -> int:
    """Count the entities that directly follow another one of the same category."""
    count = 0
    for example in train:
        entities = sorted(example.entities or (), key=lambda entity: entity.start)
        for entity, following in pairwise(entities):
            gap = example.text[entity.end : following.start]
            has_token = bool(gap if kind == CharTokenizer.kind else gap.strip())
            adjacent = entity.end <= following.start and not has_token
            count += adjacent and entity.type == following.type
    return count


def _data_warnings(config: ConfigDict, train: list[Example], dev: list[Example]) -> list[str]:
    """Return warnings about probable mistakes in the data."""
    warnings = []
    if config.data.train == config.data.dev:
        warnings.append("data.dev is data.train: its scores do not measure generalization.")
    counts, known = _categories(dev), _categories(train)
    for category in sorted(counts.keys() - known.keys() - set(config.data.categories)):
        similar = find_intended_category(category, known)
        hint = f" In data.dev it may be a misspelling of {similar!r}." if similar else ""
        warnings.append(
            f"data.dev has the category {category!r} ({counts[category]} entities), but data.train does not: "
            f"the model cannot learn it.{hint}"
        )
    return warnings


def small_data_flags(config: ConfigDict, steps: int) -> list[str]:
    """Return flags that improve training from scratch on small data; an empty list if none apply.

    The values were chosen on CLUENER cut to 300 and 1,000 sentences; docs/faq.md has the results.

    Args:
        config: configuration of the run. Flags that it already has are left out.
        steps: total number of steps of the run.
    """
    changes: dict[str, Any] = {}
    if config.model.head != "crf":
        changes["model.head"] = "crf"
    if config.optimizer.learning_rate > 3e-4:
        changes["optimizer.learning_rate"] = 3e-4
    if steps < GOOD_STEPS_SCRATCH:
        devices = (config.mesh.data or jax.device_count() // config.mesh.fsdp) * config.mesh.fsdp
        changes["data.batch_size"] = min(-(-2 // devices) * devices, config.data.batch_size)
        changes["train.steps"] = GOOD_STEPS_SCRATCH
    changed = ConfigDict(config.to_dict())
    changed.update_from_flattened_dict(changes)
    try:
        check_config(changed)
    except UserError:  # they contradict another setting of the run
        return []
    return [
        f"--config.{name}={value:g}" if isinstance(value, float) else f"--config.{name}={value}"
        for name, value in changes.items()
    ]


def _short_training_warnings(
    config: ConfigDict, sentences: int, steps_per_epoch: int, new_head: bool
) -> list[str]:
    """Return a warning if a run is too short, or has little data and no pre-trained weights."""
    steps = total_steps(config, steps_per_epoch)
    if config.init_from:
        if steps >= WARN_BELOW_STEPS_PRETRAINED or not new_head:
            return []
        return [
            f"Only {steps} steps: the model will predict few entities. Remove train.epochs, train.steps and "
            "data.batch_size, also from the configuration file, or set "
            f"--config.train.steps={DEFAULT_MIN_STEPS[True]} in a new --workdir."
        ]
    if sentences < SMALL_DATA_SENTENCES and not has_teacher(config.distill):
        flags = small_data_flags(config, steps)
        alternative = f", or train with {' '.join(flags)} in a new --workdir" if flags else ""
        return [
            f"Only {sentences} sentences and no pre-trained weights: the model will predict few entities. Set "
            f"init_from to pre-trained weights{alternative}. See docs/faq.md#f1-stays-0-or-everything-is-o."
        ]
    if steps < WARN_BELOW_STEPS_SCRATCH:
        longer = f"train.epochs={-(-GOOD_STEPS_SCRATCH // steps_per_epoch)}"
        if config.train.steps:
            longer = f"train.steps={GOOD_STEPS_SCRATCH}"
        return [
            f"Only {steps} steps and no pre-trained weights: the model will predict few entities. Set "
            f"--config.{longer} in a new --workdir, or lower data.batch_size (now {config.data.batch_size})."
        ]
    return []


def initial_params(data: TaskData, key: jax.Array, shardings: Params) -> Params:
    """Return the initial parameters: the source's if there is one, with a new head if its own does not match.

    Args:
        data: what `read_task_data` returned.
        key: random key of new parameters.
        shardings: shardings of the parameters.
    """
    source, head = data.source, None
    if source is not None and _has_head_for(source, data.labels, data.model):
        head = source.params["head"]
    params = make_initial_params(partial(init_params, data.model), source, head, key, shardings)
    if source is None or head is not None or not data.config.train.standardise:
        return params
    return standardise_outputs(data.model, params, data.batcher.tokens, shardings)


def _choose_nested(
    config: ConfigDict, train: Sequence[Example], source: ModelDir | None
) -> list[str]:
    """Set `data.nested` if it is unset. Return a note if overlapping entities are learned but not predicted."""
    if config.model.head != "global_pointer":
        config.data.nested = False  # one tag per token
        return []
    entities = [example.entities or () for example in train]
    total, overlapping = sum(map(len, entities)), sum(len(drop_overlaps(e)[1]) for e in entities)
    if is_unset(config, "data.nested"):
        config.data.nested = overlapping > MIN_NESTED * total
        if not config.data.nested and getattr(source and source.labels, "nested", False):
            return [
                f"init_from: {config.init_from} may predict overlapping entities. {overlapping} of {total} "
                "entities of data.train overlap a longer one, so this model will not. "
                "--config.data.nested=True allows it."
            ]
    if not overlapping or config.data.nested:
        return []
    return [
        f"{overlapping} of {total} entities of data.train overlap a longer one. All are learned, but predicted "
        "entities will not overlap. --config.data.nested=True allows it."
    ]


def _make_labels(
    config: ConfigDict, source: ModelDir | None, data_categories: list[str]
) -> LabelSet:
    """Return the labels of the source if they match the configuration and the data, else new ones."""
    categories = tuple(config.data.categories)
    known = source.labels if source else None
    spans = config.model.head == "global_pointer"
    covered = bool(data_categories) and known and set(data_categories) <= set(known.categories)
    if known and not categories and covered:
        if known.scheme == config.data.scheme and not spans:
            return known  # the head of another library may have its tags in another order
        # Earlier versions could not read io heads and took the data's categories.
        if known.scheme != "io":
            categories = known.categories
    if not categories and not data_categories:
        raise UserError(
            f"data.train: {config.data.train} has no entities. Training needs labelled data."
        )
    if spans:
        return SpanLabels(categories or data_categories, config.data.nested)
    return LabelSet(categories or data_categories, config.data.scheme)


def _has_head_for(source: ModelDir, labels: LabelSet, model: BertConfig) -> bool:
    heads = {source.config.head, model.head}
    # The softmax heads have the same parameters.
    compatible = len(heads) == 1 or not heads & {"crf", "global_pointer"}
    return source.labels is not None and source.labels.names == labels.names and compatible


def trained_model(data: TaskData, params: Params) -> ModelDir:
    """Return the model directory of a trained tagger with these parameters."""
    tokenizer = data.tokenizer
    return ModelDir(
        data.model,
        data.labels,
        tokenizer.tokens,
        data.max_length,
        params,
        tokenizer.lower_case,
        tokenizer.kind,
        tokenizer.definition,
    )
