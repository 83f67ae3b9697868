"""All settings of a training run, with their defaults.

A file in `configs/` calls `default_config()` and changes fields. The command line overrides these values:
`--config.optimizer.learning_rate=5e-5`. No other module defines a default.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import fields
from typing import Any

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder as unset

from flax_ner.data.files import END_RULES, OFFSET_UNITS, ReadOptions
from flax_ner.data.formats import FORMATS
from flax_ner.data.tagged import READ_SCHEMES
from flax_ner.errors import UserError
from flax_ner.model.bert import BertConfig
from flax_ner.text.batches import BATCHINGS
from flax_ner.text.labels import CONVENTIONS, SCHEMES
from flax_ner.text.tokenizer_kinds import TOKENIZERS

TASKS = ("tagging", "masked_lm")
OPTIMIZERS = ("adamw", "adadelta")
MAX_LEARNING_RATES = {"adamw": 0.05, "adadelta": 10.0}  # above these BERT diverges
SCHEDULES = ("linear", "cosine", "step", "constant")
LOSSES = ("cross_entropy", "focal")
HEADS_WITH_OWN_LOSS = ("crf", "global_pointer")  # their loss is over sequences or spans
# Fields of `BertConfig` that describe the encoder. If set, they must agree with the weights of `init_from`.
ENCODER_FIELDS = (
    "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "hidden_act",
    "max_position_embeddings", "type_vocab_size", "layer_norm_eps",
)  # fmt: skip
# Fields that a run may set to other values than the weights of `init_from` have.
TRAINING_FIELDS = (
    "hidden_dropout_prob", "attention_probs_dropout_prob", "classifier_dropout", "initializer_range",
)  # fmt: skip
_BERT_DEFAULTS = {field.name: field.default for field in fields(BertConfig)}
# Values of unset settings that `init_from` does not determine.
FALLBACKS: dict[str, Any] = {
    **{
        f"model.{name}": _BERT_DEFAULTS[name]
        for name in (*ENCODER_FIELDS, *TRAINING_FIELDS, "head")
    },
    "data.max_length": 128,
    "data.scheme": "bio",
}
# Values of unset settings that otherwise depend on the size of the labelled data.
UNLABELLED_FALLBACKS: dict[str, Any] = {
    "data.batch_size": 16,
    "train.epochs": 1,
    "optimizer.learning_rate": 3e-4,
}


def default_config() -> ConfigDict:
    """Return the default configuration: BERT-base, AdamW, packed rows.

    Unset settings (None) are resolved when training starts: from the weights of `init_from`, the data, or
    `FALLBACKS`.

    `python train.py --help` prints each setting with its default and its comment from here. Every setting
    therefore needs a comment, above it or at the end of its line.
    """
    config = ConfigDict()
    # tagging (train a tagger), or masked_lm (pre-train an encoder on plain text, one document or sentence per
    # line; docs/pretraining.md).
    config.task = "tagging"
    # Random seed of parameter initialisation, shuffling and dropout.
    config.seed = 0
    # True: profile the first dispatch that is already compiled. The trace is written to WORKDIR/profile; open
    # it in ui.perfetto.dev or TensorBoard.
    config.profile = False
    # Weights to start from: a model directory, PyTorch weights (a file, or a Hugging Face folder), or
    # either on the Hugging Face hub as owner/name or owner/name@revision. Empty: random initialisation.
    config.init_from = ""

    # Model architecture, with the field names of a Hugging Face BERT config.json. Unset fields are read from
    # the weights of init_from; without init_from they have the values of FALLBACKS, which --help shows in
    # brackets. The tokenizer determines the vocabulary size, the labels the number of tags.
    config.model = ConfigDict()
    config.model.hidden_size = unset(int)  # Hidden size of the encoder.
    config.model.num_hidden_layers = unset(int)  # Number of encoder layers.
    config.model.num_attention_heads = unset(int)  # Attention heads per layer; divides hidden_size.
    config.model.intermediate_size = unset(int)  # Hidden size of the MLP.
    config.model.hidden_act = unset(str)  # gelu (exact), gelu_new (tanh approximation) or relu.
    # Dropout rate of the embeddings and of each layer's outputs.
    config.model.hidden_dropout_prob = unset(float)
    # Dropout rate of the attention probabilities.
    config.model.attention_probs_dropout_prob = unset(float)
    config.model.word_dropout_prob = 0.0  # Dropout rate of whole word embeddings.
    config.model.classifier_dropout = unset(float)  # Dropout rate before the head.
    config.model.max_position_embeddings = unset(int)  # Number of positions.
    config.model.type_vocab_size = unset(int)  # Number of token types.
    config.model.layer_norm_eps = unset(float)  # Epsilon of LayerNorm.
    # Standard deviation of randomly initialised weights.
    config.model.initializer_range = unset(float)
    # softmax: classify each token independently. softmax_constrained: the same training, but decoding picks the
    # best valid tag sequence. crf: linear-chain CRF with learned transition scores. global_pointer: score
    # each span, so entities may be nested. Not set: the head of init_from if its labels match.
    config.model.head = unset(str)
    # dtype of matrix multiplications: float32, or bfloat16, which is faster on TPUs, recent GPUs and CPUs
    # with AVX512-BF16 or AMX.
    config.model.compute_dtype = "float32"
    # Attention implementation: xla, or cudnn (a fused kernel on GPUs in bfloat16, without dropout of attention
    # probabilities; elsewhere it falls back to xla).
    config.model.attention = "xla"
    # True: run the layers with jax.lax.scan. Compile time no longer grows with depth, but a step is slower.
    config.model.scan_layers = False
    # True: recompute activations in the backward pass (gradient checkpointing). A step takes a third longer
    # and a fraction of the memory (on a CPU only with scan_layers).
    config.model.remat = False

    config.tokenizer = ConfigDict()
    # char: one token per character. wordpiece: BERT's tokenizer, for languages that separate words by spaces.
    # subword: the tokenizer.json of the weights, e.g. of RoBERTa or XLM-R. Empty: the kind of init_from, else
    # char. For an encoder, char is also chosen if most words of data.train are CJK characters, if a tenth
    # of its entities start or end inside a word, or if the vocabulary has no word pieces.
    config.tokenizer.kind = ""
    # Path of a vocab.txt or tokenizer.json. Empty: the vocabulary of init_from, else one built from data.train.
    config.tokenizer.vocab = ""
    # Whether to lower-case text. Not set: the value of init_from (True for an encoder whose vocabulary has no
    # capital letters), else True.
    config.tokenizer.lower_case = unset(bool)
    # Minimum count of a character in data.train to enter a vocabulary built from it.
    config.tokenizer.min_count = 1

    config.data = ConfigDict()
    config.data.train = "data/cluener/train.json"  # Training data; plain text for masked_lm.
    config.data.dev = "data/cluener/dev.json"  # Data to evaluate on during training.
    # Data format: auto (detect it from the content), one of docs/your_data.md, or synthetic with
    # data.train="train 4000" and data.dev="dev 500".
    config.data.format = "auto"
    config.data.encoding = ""  # Encoding of the files, e.g. gb18030. Empty: UTF-8.
    # Columns of the tokens and of the tags, each a number from 1 or a name in the header. Empty: detected.
    config.data.columns = ()
    # Scheme of the tags in the files: BIO, BIOS, BIOES, BMES, BMEWO, BILOU or IOB1. Empty: detected.
    config.data.tag_scheme = ""
    # Whether the end of a span is exclusive or inclusive, if spans do not repeat their text. Empty: by format.
    config.data.end = ""
    # What offsets count, if spans do not repeat their text: character or utf16. Empty: character.
    config.data.offset_unit = ""
    # What to do with an invalid line: stop with an error, or skip it and list it in WORKDIR/skipped.txt.
    config.data.on_error = "stop"
    # Maximum tokens per row, including [CLS] and [SEP]. Longer texts are split. Not set: 128, or the number of
    # positions of the model if that is smaller.
    config.data.max_length = unset(int)
    # pack: several sentences per row. bucket: one sentence per row, batches of similar lengths. pad: one
    # sentence per row, padded to max_length.
    config.data.batching = "pack"
    # Rows per step, over all devices. Not set: enough rows for 8 to 32 sentences, depending on the size of the
    # data (16 for masked_lm).
    config.data.batch_size = unset(int)
    # Tag scheme: bio, bioes, io (one tag per category, so adjacent entities of the same category are merged),
    # or mmocr (the 24 outputs of its checkpoints). global_pointer has no tags. Not set: the scheme of
    # init_from if its labels match.
    config.data.scheme = unset(str)
    # Entity categories. Empty: the categories of init_from if they cover those of data.train, else those of
    # data.train.
    config.data.categories = ()

    config.train = ConfigDict()
    # Passes over the training data. Not set: chosen by the size of the data (1 for masked_lm).
    config.train.epochs = unset(int)
    config.train.steps = 0  # Total number of steps; overrides train.epochs. 0: use train.epochs.
    # Stop after this many seconds, save the state and exit with status 75. The same command resumes. The
    # learning-rate schedule does not change. 0: no limit.
    config.train.max_seconds = 0
    # Number of models to train in parallel, with the seeds seed, seed + 1, ... Each is saved in
    # WORKDIR/seed_N; WORKDIR/best and WORKDIR/last are their ensembles.
    config.train.seeds = 1
    config.train.steps_per_dispatch = 20  # Steps per call from the host to the device.
    # True: skip steps whose loss or gradients are not finite, instead of stopping.
    config.train.skip_nonfinite = False
    # Number of micro-batches per step. More take less memory and give the same gradients up to rounding. Must
    # divide data.batch_size.
    config.train.gradient_accumulation_steps = 1
    # EMA decay of the parameters, e.g. 0.999. The averaged parameters are evaluated and saved. 0: off.
    config.train.ema = 0.0
    # FGM: L2 norm of the adversarial perturbation of the word embeddings, e.g. 1.0. A step takes twice as
    # long. 0: off.
    config.train.fgm = 0.0
    # R-Drop: weight of the KL term, e.g. 1.0 to 5.0. A step takes twice as long. 0: off.
    config.train.r_drop = 0.0
    # True: if the head is new, shift and scale the last LayerNorm of the encoder of init_from so that token
    # vectors have mean 0 and variance 1. Without it, encoders of sentence embeddings train slowly.
    config.train.standardise = True
    # True: also write TensorBoard event files. Needs tensorboardX.
    config.train.tensorboard = False

    config.optimizer = ConfigDict()
    config.optimizer.name = "adamw"  # adamw or adadelta.
    # Peak learning rate. Not set: 5e-5 for a pre-trained encoder of hidden size 768, higher for a smaller one.
    config.optimizer.learning_rate = unset(float)
    # Learning-rate schedule after warm-up: linear (decay to 0), cosine (decay to 0), constant, or step.
    config.optimizer.schedule = "linear"
    config.optimizer.warmup = 0.1  # Linear warm-up, as a fraction of all steps.
    # Schedule step: epochs, in ascending order, after which the learning rate is multiplied by decay_factor.
    config.optimizer.milestones = ()
    config.optimizer.decay_factor = 0.1  # Schedule step: factor at each milestone.
    # Layer-wise learning-rate decay: layer i of L is scaled by layer_decay ** (L - 1 - i). 1: off.
    config.optimizer.layer_decay = 1.0
    # Learning rate of the head, as a multiple of the last layer's.
    config.optimizer.head_lr_multiplier = 1.0
    # AdamW weight decay; not applied to biases and LayerNorm.
    config.optimizer.weight_decay = 0.01
    config.optimizer.b1 = 0.9  # AdamW beta1.
    config.optimizer.b2 = 0.999  # AdamW beta2.
    config.optimizer.eps = 1e-8  # AdamW epsilon.
    config.optimizer.clip_norm = 1.0  # Clip the global L2 norm of the gradients; 0: off.

    config.loss = ConfigDict()
    config.loss.name = "cross_entropy"  # cross_entropy or focal.
    # Label smoothing of the cross-entropy, e.g. 0.1. 0: off.
    config.loss.label_smoothing = 0.0
    config.loss.gamma = 2.0  # Focusing parameter gamma of the focal loss.

    # Distillation from a larger tagger (docs/distillation.md).
    config.distill = ConfigDict()
    # The teacher: a tagger with the student's tags and words, given like init_from. It tags all texts once
    # before training. Empty: no distillation.
    config.distill.teacher = ""
    # Weight w of the distillation loss; the loss is (1 - w) * labels + w * distillation. 0: no distillation.
    config.distill.weight = 0.9
    # Temperature that divides the logits of teacher and student (for a CRF, the log marginals).
    config.distill.temperature = 2.0
    # Additional texts that only the teacher labels: a file with one text per line, or data in any supported
    # format, whose labels are ignored. Empty: none.
    config.distill.texts = ""

    config.eval = ConfigDict()
    # Scoring convention: strict, lenient or mmocr (docs/conventions.md).
    config.eval.scoring = "strict"
    # Epochs between evaluations (masked_lm: chunks). The last step is always followed by one.
    config.eval.every = 1
    config.eval.batch_size = 32  # Maximum rows of 128 tokens per evaluation batch.

    config.checkpoint = ConfigDict()
    config.checkpoint.every = 0  # Steps between checkpoints. 0: after each epoch.
    # Number of most recent checkpoints to keep. WORKDIR/best and WORKDIR/last are always kept.
    config.checkpoint.keep = 2

    # Masked language modelling; used by task masked_lm only.
    config.pretrain = ConfigDict()
    config.pretrain.mask_prob = 0.15  # Fraction of a row's tokens to mask and predict.
    # Steps per chunk. The batches of a chunk are on the device at once. eval.every counts chunks, and
    # checkpoint.every=0 saves a checkpoint after each chunk.
    config.pretrain.steps_per_chunk = 500

    config.mesh = ConfigDict()
    # Size of the data axis: devices that shard the batch and replicate the parameters. 0: all devices that
    # mesh.fsdp leaves.
    config.mesh.data = 0
    # Size of the fsdp axis: devices that shard the batch, the parameters and the optimizer state.
    config.mesh.fsdp = 1
    # True: the same command runs on several hosts, and their devices form one mesh (docs/scaling.md). All
    # hosts need access to the work directory.
    config.mesh.distributed = False
    return config.lock()  # setting an unknown field raises an error, also in a configuration file


def read_options(config: ConfigDict) -> ReadOptions:
    """Return how to read data.train and data.dev.

    Raises:
        UserError: the encoding is unknown, or data.columns does not have two columns.
    """
    data = config.data
    return ReadOptions(
        data.encoding, tuple(data.columns), data.tag_scheme, data.end, data.offset_unit
    )


def is_unset(config: ConfigDict, name: str) -> bool:
    """Return whether a setting, e.g. "data.max_length", is unset."""
    return _get(config, name) in (None, "")


def with_fallbacks(config: ConfigDict, fallbacks: Mapping[str, Any] = FALLBACKS) -> ConfigDict:
    """Return a copy whose unset settings have the values of `fallbacks`."""
    filled = ConfigDict(config.to_dict())
    missing = {name: value for name, value in fallbacks.items() if is_unset(config, name)}
    filled.update_from_flattened_dict(missing)
    return filled


def check_config(config: ConfigDict) -> None:
    """Raise `UserError` if a value is invalid or contradicts another one; the message names field and value."""
    positions = config.model.max_position_embeddings
    # These are resolved later, from the weights and the data.
    unknown_positions = bool(config.init_from) and positions is None
    unknown_length = config.data.max_length is None
    unknown_batch_size = config.data.batch_size is None
    config = with_fallbacks(config, FALLBACKS | UNLABELLED_FALLBACKS)
    choices = {
        "task": TASKS,
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
    for name, allowed in choices.items():
        if _get(config, name) not in allowed:
            raise UserError(
                f"{name}: {_get(config, name)!r} is unknown. Choose one of {', '.join(allowed)}."
            )
    minimums = {
        "seed": 0,
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
    read_options(config)  # raises if the encoding or the columns are invalid
    for name, value in _floats(config):
        if not math.isfinite(value):
            raise UserError(f"{name}: {value}, but it must be a finite number.")
    for name, value in minimums.items():
        if _get(config, name) < value:
            raise UserError(f"{name}: {_get(config, name)}, but it must be at least {value}.")
    item_types: dict[str, tuple[Any, str]] = {
        "optimizer.milestones": ((int, float), "a number"),
        "data.categories": (str, "text"),
        "data.columns": (str, "text"),
    }
    for name, (item_type, expected) in item_types.items():
        for item in _get(config, name):
            if not isinstance(item, item_type):
                raise UserError(f"{name}: {item!r} is not {expected}.")
    for name in ("learning_rate", "eps", "decay_factor", "layer_decay", "head_lr_multiplier"):
        if not config.optimizer[name] > 0:
            raise UserError(
                f"optimizer.{name}: {config.optimizer[name]}, but it must be above 0. Leave the field out."
            )
    for name in ("decay_factor", "layer_decay"):
        if config.optimizer[name] > 1:
            raise UserError(
                f"optimizer.{name}: {config.optimizer[name]}, but it must be at most 1."
            )
    milestones = list(config.optimizer.milestones)
    if milestones != sorted(set(milestones)) or any(epoch <= 0 for epoch in milestones):
        raise UserError(
            f"optimizer.milestones: {tuple(milestones)}, but they must be epochs above 0 in ascending order, "
            f"e.g. {tuple(sorted({e for e in milestones if e > 0})) or (8, 14)}."
        )
    head = config.model.head
    own_loss = head in HEADS_WITH_OWN_LOSS
    if own_loss and config.loss.name != "cross_entropy":
        raise UserError(
            f"loss.name: {config.loss.name!r}, but model.head {head!r} has a loss of its own. Set "
            "loss.name=cross_entropy, or choose model.head softmax or softmax_constrained."
        )
    if head == "global_pointer" and config.eval.scoring != "strict":
        raise UserError(
            f"eval.scoring: {config.eval.scoring!r} applies to tags, but model.head global_pointer predicts "
            "spans. Choose strict."
        )
    if config.data.scheme in ("bioes", "io") and config.eval.scoring == "mmocr":
        raise UserError(
            f"eval.scoring: 'mmocr' does not support the tags of data.scheme {config.data.scheme}. Choose "
            "eval.scoring=strict or data.scheme=bio."
        )
    for name in ("optimizer.b1", "optimizer.b2", "train.ema", "loss.label_smoothing"):
        if _get(config, name) >= 1:
            raise UserError(f"{name}: {_get(config, name)}, but it must be below 1.")
    if not unknown_batch_size and config.data.batch_size % config.train.gradient_accumulation_steps:
        raise UserError(
            f"train.gradient_accumulation_steps: {config.train.gradient_accumulation_steps} does not divide "
            f"data.batch_size {config.data.batch_size}. Choose a divisor of it."
        )
    for name in ("train.r_drop", "loss.label_smoothing"):
        if own_loss and _get(config, name):
            raise UserError(
                f"{name}: {_get(config, name)}, but model.head {head!r} does not support it. Set {name}=0, or "
                "choose model.head softmax or softmax_constrained."
            )
    if config.train.max_seconds and config.mesh.distributed:
        raise UserError(
            f"train.max_seconds: {config.train.max_seconds}, but mesh.distributed does not support it. Set it "
            "to 0, and stop the run by sending SIGTERM to one process."
        )
    if not 0 < config.pretrain.mask_prob < 1:
        raise UserError(
            f"pretrain.mask_prob: {config.pretrain.mask_prob}, but it must be between 0 and 1."
        )
    tagging_only = {
        "train.fgm": 0,
        "train.r_drop": 0,
        "loss.label_smoothing": 0,
        "loss.name": "cross_entropy",
        "distill.teacher": "",
        "data.batching": "pack",
        "data.format": "auto",
        "data.categories": (),
    }
    for name, default in tagging_only.items():
        if config.task == "masked_lm" and _get(config, name) != default:
            raise UserError(
                f"{name}: {_get(config, name)!r}, but task 'masked_lm' does not support it. Set it back to "
                f"its default, {default!r}."
            )
    _check_distill(config)
    if config.train.seeds > 1 and config.data.batching == "bucket":
        raise UserError(
            f"data.batching: 'bucket', but train.seeds {config.train.seeds} needs rows of equal length. "
            "Choose pack or pad."
        )
    if config.seed + config.train.seeds > 2**32:
        raise UserError(
            f"seed: {config.seed}, but it must be at most {2**32 - config.train.seeds}."
        )
    if config.train.seeds > 1 and config.task != "tagging":
        raise UserError(
            f"train.seeds: {config.train.seeds}, but task {config.task!r} trains one model. Set 1."
        )
    if config.optimizer.warmup > 1:
        raise UserError(
            f"optimizer.warmup: {config.optimizer.warmup} is a fraction of all steps and must be at most 1."
        )
    if config.model.attention == "cudnn" and config.data.max_length % 2:
        raise UserError(
            f"data.max_length: {config.data.max_length}, but model.attention 'cudnn' needs an even length. "
            "Choose an even number, or model.attention=xla."
        )
    known = not (unknown_positions or unknown_length)
    if known and config.data.max_length > config.model.max_position_embeddings:
        # The number of positions of pre-trained weights cannot be raised.
        alternative = "" if config.init_from else " or raise the second"
        raise UserError(
            f"data.max_length: {config.data.max_length}, but model.max_position_embeddings is "
            f"{config.model.max_position_embeddings}. Lower the first{alternative}."
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


def _check_distill(config: ConfigDict) -> None:
    options = config.distill
    if options.weight > 1:
        raise UserError(
            f"distill.weight: {options.weight} is a fraction of the loss and must be at most 1."
        )
    if not options.temperature:
        raise UserError(
            f"distill.temperature: {options.temperature}, but it must be above 0. Set 1 for no softening."
        )
    if options.texts and not options.teacher:
        raise UserError(
            f"distill.texts: {options.texts!r}, but there is no teacher to label them. Set distill.teacher."
        )
    if options.teacher and options.weight and config.model.head == "global_pointer":
        raise UserError(
            "model.head: 'global_pointer' predicts spans and cannot learn from the tag probabilities of "
            "distill.teacher. Choose another head."
        )


def _floats(config: ConfigDict, prefix: str = "") -> Iterator[tuple[str, float]]:
    """Yield the name and value of every float field."""
    for name, value in config.items():
        if isinstance(value, ConfigDict):
            yield from _floats(value, f"{prefix}{name}.")
        elif isinstance(value, float):
            yield f"{prefix}{name}", value


def _get(config: ConfigDict, name: str) -> Any:
    for key in name.split("."):
        config = config[key]
    return config
