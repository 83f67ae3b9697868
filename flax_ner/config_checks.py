"""Check a configuration before training: invalid values, contradictions, and probable mistakes."""

import math
from collections.abc import Iterator
from typing import Any

from ml_collections import ConfigDict

from flax_ner.config import (
    ENCODER_FIELDS,
    FALLBACKS,
    TRAINING_FIELDS,
    UNLABELLED_FALLBACKS,
    get_setting,
    with_fallbacks,
)
from flax_ner.data.files import END_RULES, OFFSET_UNITS, ReadOptions
from flax_ner.data.formats import FORMATS
from flax_ner.data.tagged import READ_SCHEMES
from flax_ner.errors import UserError
from flax_ner.model.bert import ACTIVATIONS, ATTENTIONS, DTYPES, HEADS, BertConfig
from flax_ner.text.batches import BATCHINGS
from flax_ner.text.labels import CONVENTIONS, SCHEMES
from flax_ner.text.tokenizer_kinds import TOKENIZERS

TASKS = ("tagging", "masked_lm")
OPTIMIZERS = ("adamw", "adadelta")
MAX_LEARNING_RATES = {"adamw": 0.05, "adadelta": 10.0}  # above these BERT diverges
SCHEDULES = ("linear", "cosine", "step", "constant")
LOSSES = ("cross_entropy", "focal")
HEADS_WITH_OWN_LOSS = ("crf", "global_pointer")  # their loss is over sequences or spans

# Allowed values. "" allows an empty value.
CHOICES: dict[str, tuple[str, ...]] = {
    "task": TASKS,
    "model.hidden_act": tuple(ACTIVATIONS),
    "model.head": HEADS,
    "model.compute_dtype": DTYPES,
    "model.attention": ATTENTIONS,
    "tokenizer.kind": ("", *TOKENIZERS),
    "data.format": FORMATS,
    "data.on_error": ("stop", "skip"),
    "data.tag_scheme": ("", *READ_SCHEMES),
    "data.end": ("", *END_RULES),
    "data.offset_unit": ("", *OFFSET_UNITS),
    "data.batching": BATCHINGS,
    "data.scheme": SCHEMES,
    "optimizer.name": OPTIMIZERS,
    "optimizer.schedule": SCHEDULES,
    "loss.name": LOSSES,
    "eval.scoring": CONVENTIONS,
}
MINIMUMS = {
    "seed": 0,
    "model.hidden_size": 1,
    "model.num_hidden_layers": 1,
    "model.num_attention_heads": 1,
    "model.intermediate_size": 1,
    "model.max_position_embeddings": 1,
    "model.type_vocab_size": 1,
    "model.hidden_dropout_prob": 0,
    "model.attention_probs_dropout_prob": 0,
    "model.word_dropout_prob": 0,
    "model.classifier_dropout": 0,
    "model.initializer_range": 0,
    "tokenizer.min_count": 1,
    "data.max_length": 3,
    "data.batch_size": 1,
    "train.epochs": 1,
    "train.steps": 0,
    "train.seeds": 1,
    "train.steps_per_dispatch": 1,
    "train.max_seconds": 0,
    "train.gradient_accumulation_steps": 1,
    "train.ema": 0,
    "train.fgm": 0,
    "train.r_drop": 0,
    "loss.label_smoothing": 0,
    "optimizer.warmup": 0,
    "optimizer.weight_decay": 0,
    "optimizer.b1": 0,
    "optimizer.b2": 0,
    "loss.gamma": 0,
    "distill.weight": 0,
    "distill.temperature": 0,
    "optimizer.clip_norm": 0,
    "pretrain.steps_per_chunk": 1,
    "eval.every": 1,
    "eval.batch_size": 1,
    "checkpoint.every": 0,
    "checkpoint.keep": 1,
    "mesh.data": 0,
    "mesh.fsdp": 1,
}
POSITIVE = (
    "model.layer_norm_eps",
    "optimizer.learning_rate",
    "optimizer.eps",
    "optimizer.decay_factor",
    "optimizer.layer_decay",
    "optimizer.head_lr_multiplier",
)
AT_MOST_ONE = ("optimizer.decay_factor", "optimizer.layer_decay")
BELOW_ONE = (
    "model.hidden_dropout_prob",
    "model.attention_probs_dropout_prob",
    "model.word_dropout_prob",
    "model.classifier_dropout",
    "optimizer.b1",
    "optimizer.b2",
    "train.ema",
    "loss.label_smoothing",
)
ITEM_TYPES: dict[str, tuple[Any, str]] = {
    "optimizer.milestones": ((int, float), "a number. Give epochs, e.g. (8, 14)"),
    "data.categories": (str, "text. Put it in quotes"),
    "data.columns": (str, "text. Put it in quotes"),
}


def check_config(config: ConfigDict) -> None:
    """Check the values of a configuration, also those that are not used until training ends.

    Args:
        config: the configuration; settings may be unset.

    Raises:
        UserError: a value is invalid or contradicts another one. The message names setting and value.
    """
    filled = with_fallbacks(config, FALLBACKS | UNLABELLED_FALLBACKS)
    _check_choices(filled)
    _check_ranges(filled)
    _check_combinations(filled, config)


def read_options(config: ConfigDict) -> ReadOptions:
    """Return how to read data.train and data.dev.

    Raises:
        UserError: the encoding is unknown, or data.columns does not have two columns.
    """
    data = config.data
    return ReadOptions(
        data.encoding, tuple(data.columns), data.tag_scheme, data.end, data.offset_unit
    )


def config_warnings(config: ConfigDict) -> list[str]:
    """Return warnings about settings that are valid but probably a mistake."""
    name, rate = config.optimizer.name, config.optimizer.learning_rate
    if rate <= MAX_LEARNING_RATES[name]:
        return []
    usual = "1e-5 to 1e-2" if name == "adamw" else "0.1 to 1"
    return [
        f"optimizer.learning_rate: {rate:g} is far above the usual rates for BERT with {name} ({usual}), so "
        "the loss will probably not decrease. Set a lower rate in another work directory."
    ]


def _check_choices(config: ConfigDict) -> None:
    """Check the settings that have a list of allowed values."""
    for name, allowed in CHOICES.items():
        value = get_setting(config, name)
        if value not in allowed:
            empty = ", or leave it empty" if "" in allowed else ""
            raise UserError(
                f"{name}: {value!r} is unknown. Choose one of {', '.join(filter(None, allowed))}{empty}."
            )


def _check_ranges(config: ConfigDict) -> None:
    """Check numbers and the items of lists, each setting on its own."""
    read_options(config)  # raises if the encoding or the columns are invalid
    for name, value in _floats(config):
        if not math.isfinite(value):
            raise UserError(f"{name}: {value} is not finite. Give a finite number.")
    for name, minimum in MINIMUMS.items():
        if (value := get_setting(config, name)) < minimum:
            raise UserError(f"{name}: {value} is too small. Give at least {minimum}.")
    for name in POSITIVE:
        if not (value := get_setting(config, name)) > 0:
            raise UserError(f"{name}: {value}, but it must be above 0. Leave the setting out.")
    for name in AT_MOST_ONE:
        if (value := get_setting(config, name)) > 1:
            raise UserError(f"{name}: {value}, but it must be at most 1.")
    for name in BELOW_ONE:
        if (value := get_setting(config, name)) >= 1:
            raise UserError(f"{name}: {value}, but it must be below 1.")
    for name, (item_type, expected) in ITEM_TYPES.items():
        for item in get_setting(config, name):
            if not isinstance(item, item_type):
                raise UserError(f"{name}: {item!r} is not {expected}.")
    milestones = list(config.optimizer.milestones)
    if milestones != sorted(set(milestones)) or any(epoch <= 0 for epoch in milestones):
        raise UserError(
            f"optimizer.milestones: {tuple(milestones)}, but they must be epochs above 0 in ascending order, "
            f"e.g. {tuple(sorted({e for e in milestones if e > 0})) or (8, 14)}."
        )
    if config.optimizer.warmup > 1:
        raise UserError(
            f"optimizer.warmup: {config.optimizer.warmup} is a fraction of all steps and must be at most 1."
        )
    if not 0 < config.pretrain.mask_prob < 1:
        raise UserError(
            f"pretrain.mask_prob: {config.pretrain.mask_prob}, but it must be between 0 and 1."
        )
    if config.distill.weight > 1:
        raise UserError(
            f"distill.weight: {config.distill.weight} is a fraction of the loss and must be at most 1."
        )
    if not config.distill.temperature:
        raise UserError(
            f"distill.temperature: {config.distill.temperature}, but it must be above 0. Set 1 for no "
            "softening."
        )


def _check_combinations(config: ConfigDict, given: ConfigDict) -> None:
    """Check the settings that depend on each other.

    Args:
        config: the configuration; unset settings have fallback values.
        given: the configuration as it was given. The weights and the data determine the settings that are
            unset there, so their values are not known yet.
    """
    _check_loss(config)
    _check_task(config)
    _check_distill(config)
    head_is_known = not config.init_from or given.model.head is not None
    if config.data.nested and head_is_known and config.model.head != "global_pointer":
        raise UserError(
            f"data.nested: True, but model.head {config.model.head!r} predicts one tag per token, so entities "
            "cannot overlap. Set model.head=global_pointer, or leave data.nested out."
        )
    if config.model.head == "global_pointer" and config.eval.scoring != "strict":
        raise UserError(
            f"eval.scoring: {config.eval.scoring!r} applies to tags, but model.head global_pointer predicts "
            "spans. Choose strict."
        )
    if config.data.scheme in ("bioes", "io") and config.eval.scoring == "mmocr":
        raise UserError(
            f"eval.scoring: 'mmocr' does not support the tags of data.scheme {config.data.scheme}. Choose "
            "eval.scoring=strict or data.scheme=bio."
        )
    batch_size, micro_batches = given.data.batch_size, config.train.gradient_accumulation_steps
    if batch_size is not None and batch_size % micro_batches:
        raise UserError(
            f"train.gradient_accumulation_steps: {micro_batches} does not divide data.batch_size {batch_size}. "
            "Choose a divisor of it."
        )
    if config.train.max_seconds and config.mesh.distributed:
        raise UserError(
            f"train.max_seconds: {config.train.max_seconds}, but mesh.distributed does not support it. Set it "
            "to 0, and stop the run by sending SIGTERM to one process."
        )
    if config.train.seeds > 1 and config.data.batching == "bucket":
        raise UserError(
            f"data.batching: 'bucket', but train.seeds {config.train.seeds} needs rows of equal length. "
            "Choose pack or pad."
        )
    if config.seed + config.train.seeds > 2**32:
        raise UserError(
            f"seed: {config.seed}, but it must be at most {2**32 - config.train.seeds}."
        )
    _check_model(config, given)


def _check_loss(config: ConfigDict) -> None:
    head, loss = config.model.head, config.loss
    own_loss = head in HEADS_WITH_OWN_LOSS
    if own_loss and loss.name != "cross_entropy":
        raise UserError(
            f"loss.name: {loss.name!r}, but model.head {head!r} has a loss of its own. Set "
            "loss.name=cross_entropy, or choose model.head softmax or softmax_constrained."
        )
    for name in ("train.r_drop", "loss.label_smoothing"):
        if own_loss and get_setting(config, name):
            raise UserError(
                f"{name}: {get_setting(config, name)}, but model.head {head!r} does not support it. Set "
                f"{name}=0, or choose model.head softmax or softmax_constrained."
            )
    if loss.name == "focal" and loss.label_smoothing:
        raise UserError(
            f"loss.label_smoothing: {loss.label_smoothing}, but loss.name 'focal' does not support it. Set "
            "loss.label_smoothing=0, or loss.name=cross_entropy."
        )


def _check_task(config: ConfigDict) -> None:
    tagging_only = {
        "train.fgm": 0,
        "train.r_drop": 0,
        "loss.label_smoothing": 0,
        "loss.name": "cross_entropy",
        "distill.teacher": "",
        "data.batching": "pack",
        "data.format": "auto",
        "data.encoding": "",
        "data.columns": (),
        "data.tag_scheme": "",
        "data.end": "",
        "data.offset_unit": "",
        "data.categories": (),
        "data.nested": False,
    }
    for name, default in tagging_only.items():
        if config.task == "masked_lm" and (value := get_setting(config, name)) != default:
            raise UserError(
                f"{name}: {value!r}, but task 'masked_lm' does not support it. Set it back to its default, "
                f"{default!r}."
            )
    if config.train.seeds > 1 and config.task != "tagging":
        raise UserError(
            f"train.seeds: {config.train.seeds}, but task {config.task!r} trains one model. Set 1."
        )


def _check_distill(config: ConfigDict) -> None:
    options = config.distill
    if options.texts and not options.teacher:
        raise UserError(
            f"distill.texts: {options.texts!r} needs a teacher that labels these texts. Set distill.teacher."
        )
    if options.teacher and options.weight and config.model.head == "global_pointer":
        raise UserError(
            "model.head: 'global_pointer' predicts spans and cannot learn from the tag probabilities of "
            "distill.teacher. Choose another head, or train on the entities that the teacher predicts "
            "(docs/distillation.md)."
        )


def _check_model(config: ConfigDict, given: ConfigDict) -> None:
    """Check row length and architecture, as far as the weights of `init_from` do not determine them."""
    if config.model.attention == "cudnn" and config.data.max_length % 2:
        raise UserError(
            f"data.max_length: {config.data.max_length}, but model.attention 'cudnn' needs an even length. "
            "Choose an even number, or model.attention=xla."
        )
    known_positions = not config.init_from or given.model.max_position_embeddings is not None
    positions = config.model.max_position_embeddings
    known = known_positions and given.data.max_length is not None
    if known and config.data.max_length > positions:
        # The number of positions of pre-trained weights cannot be raised.
        alternative = "" if config.init_from else " or raise model.max_position_embeddings"
        raise UserError(
            f"data.max_length: {config.data.max_length}, but model.max_position_embeddings is {positions}. "
            f"Lower data.max_length{alternative}."
        )
    fields = (*ENCODER_FIELDS, *TRAINING_FIELDS)
    if not config.init_from or all(given.model[name] is not None for name in fields):
        BertConfig(
            vocab_size=1, num_labels=1, **config.model
        )  # raises if they contradict each other


def _floats(config: ConfigDict, prefix: str = "") -> Iterator[tuple[str, float]]:
    """Yield the name and value of every float setting."""
    for name, value in config.items():
        if isinstance(value, ConfigDict):
            yield from _floats(value, f"{prefix}{name}.")
        elif isinstance(value, float):
            yield f"{prefix}{name}", value
