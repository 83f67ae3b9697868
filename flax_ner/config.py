"""Every setting once: its default, its unit, what it means.

A file in `configs/` calls `default_config()` and changes fields; the command line changes them
again: `--config.optimizer.learning_rate=5e-5`. Nothing else of a run has defaults.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import fields
from typing import Any

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder as unset

from flax_ner.errors import UserError
from flax_ner.model.bert import BertConfig
from flax_ner.text.batches import BATCHINGS
from flax_ner.text.formats import FORMATS
from flax_ner.text.kinds import TOKENIZERS
from flax_ner.text.labels import CONVENTIONS, SCHEMES

TASKS = ("tagging", "masked_lm")
OPTIMIZERS = ("adamw", "adadelta")
HIGHEST_RATES = {"adamw": 0.05, "adadelta": 10.0}  # above these a BERT does not learn
SCHEDULES = ("linear", "cosine", "step", "constant")
LOSSES = ("cross_entropy", "focal")
OWN_LOSS = ("crf", "global_pointer")  # heads with a loss over sequences or spans
# Fields of `BertConfig` that describe the encoder. Weights have them, and a set one must agree.
ENCODER_FIELDS = (
    "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "hidden_act",
    "max_position_embeddings", "type_vocab_size", "layer_norm_eps",
)  # fmt: skip
# Fields that weights may state and that a run may change.
TRAINING_FIELDS = (
    "hidden_dropout_prob", "attention_probs_dropout_prob", "classifier_dropout", "initializer_range",
)  # fmt: skip
_OF_BERT = {field.name: field.default for field in fields(BertConfig)}
# Values of settings that are not set, where nothing in `init_from` decides them.
FALLBACKS: dict[str, Any] = {
    **{f"model.{name}": _OF_BERT[name] for name in (*ENCODER_FIELDS, *TRAINING_FIELDS, "head")},
    "data.max_length": 128,
    "data.scheme": "bio",
}
# Values of settings that the size of the data decides, for a task without labelled data.
WITHOUT_LABELS: dict[str, Any] = {
    "data.batch_size": 16,
    "train.epochs": 1,
    "optimizer.learning_rate": 3e-4,
}


def default_config() -> ConfigDict:
    """Return the whole configuration with its defaults: BERT-base, AdamW, packed rows.

    A setting that is not set (None) is decided when training starts: by the weights of `init_from` and the
    data, else by `FALLBACKS`.

    `python train.py --help` prints each setting with its default and its comment here, so every
    setting has one, above it or at the end of its line.
    """
    config = ConfigDict()
    # tagging, or masked_lm: pre-train an encoder on plain text, one document or sentence per line
    # (docs/pretraining.md).
    config.task = "tagging"
    # Seed of initial values, shuffling and dropout.
    config.seed = 0
    # True: profile the first dispatch that is already compiled. The trace is in WORKDIR/profile, for
    # ui.perfetto.dev or TensorBoard.
    config.profile = False
    # Weights to start from: a model directory, PyTorch weights (a file, or a Hugging Face folder), or
    # either on the Hugging Face hub as owner/name or owner/name@revision. Empty: random weights.
    config.init_from = ""

    # The model, by the names of a Hugging Face BERT config.json. A field that is not set comes from the weights
    # of init_from, and otherwise has the value in brackets. Vocabulary size and number of tags come from the
    # tokenizer and the labels.
    config.model = ConfigDict()
    config.model.hidden_size = unset(int)  # Width of the encoder.
    config.model.num_hidden_layers = unset(int)  # Number of encoder layers.
    config.model.num_attention_heads = unset(int)  # Attention heads per layer; divides hidden_size.
    config.model.intermediate_size = unset(int)  # Width of the MLP.
    config.model.hidden_act = unset(str)  # gelu (exact) or gelu_new (tanh approximation).
    # Dropout of embeddings and of each layer's outputs.
    config.model.hidden_dropout_prob = unset(float)
    # Dropout of attention probabilities.
    config.model.attention_probs_dropout_prob = unset(float)
    config.model.word_dropout_prob = 0.0  # Dropout of whole word embeddings.
    config.model.classifier_dropout = unset(float)  # Dropout before the head.
    config.model.max_position_embeddings = unset(int)  # Tokens of the longest row.
    config.model.type_vocab_size = unset(int)  # Number of token types.
    config.model.layer_norm_eps = unset(float)  # Epsilon of LayerNorm.
    # Standard deviation of freshly initialised weights.
    config.model.initializer_range = unset(float)
    # softmax: every token independently. softmax_constrained: the same training, but decoding chooses the
    # best valid tag sequence. crf: trained on whole sequences, with transition scores. global_pointer:
    # a score per span, so entities may be nested. Not set: that of a tagger in init_from whose labels fit.
    config.model.head = unset(str)
    # dtype of matrix products: float32, or bfloat16, which is faster on TPUs, recent GPUs and CPUs with
    # AVX512-BF16 or AMX.
    config.model.compute_dtype = "float32"
    # xla, or cudnn: one fused kernel on a GPU in bfloat16, without dropout of attention probabilities.
    # Elsewhere cudnn falls back to xla.
    config.model.attention = "xla"
    # True: scan over the layers. Compile time no longer grows with depth, but a step is slower.
    config.model.scan_layers = False
    # True: recompute activations in the backward pass. A third more work for a fraction of the memory
    # (on a CPU only with scan_layers).
    config.model.remat = False

    config.tokenizer = ConfigDict()
    # char: one token per character. wordpiece: BERT's tokenizer, for languages written in words. subword: the
    # tokenizer.json of the weights, as of RoBERTa and XLM-R. Empty: that of init_from, but char for an encoder
    # if most words of data.train are CJK characters, a tenth of its entities begin or end inside a word, or
    # the vocabulary has no pieces of words. Else char.
    config.tokenizer.kind = ""
    # vocab.txt or tokenizer.json of the pre-trained weights. Empty: that of init_from, else built from
    # data.train.
    config.tokenizer.vocab = ""
    # Whether to lower-case text. Not set: as init_from says, but True for an encoder whose vocabulary has no
    # capital letters. Else True.
    config.tokenizer.lower_case = unset(bool)
    # A vocabulary that is built leaves out characters that occur less often.
    config.tokenizer.min_count = 1

    config.data = ConfigDict()
    config.data.train = "data/cluener/train.json"  # Training data; plain text for masked_lm.
    config.data.dev = "data/cluener/dev.json"  # Data to evaluate on during training.
    # auto (detect by content), cluener, conll, doccano, label_studio, tokens or brat. Or synthetic, with
    # data.train="train 4000" and data.dev="dev 500".
    config.data.format = "auto"
    # What to do with a line that cannot be read: stop, or skip and list it in WORKDIR/skipped.txt.
    config.data.on_error = "stop"
    # Tokens per row, [CLS] and [SEP] included. Longer texts are split. Not set: at most as many as the model
    # has positions.
    config.data.max_length = unset(int)
    # pack several sentences into a row; or one per row: bucket by length, or pad to max_length.
    config.data.batching = "pack"
    # Rows per step, over all devices. Not set: as many as hold 8 to 32 sentences, depending on the data.
    config.data.batch_size = unset(int)
    # Tag scheme: bio, bioes, io (one tag per category, so entities of one category that touch become one),
    # or mmocr (the 24 outputs of its checkpoints). global_pointer has no tags. Not set: that of a tagger in
    # init_from whose labels fit.
    config.data.scheme = unset(str)
    # Entity categories. Empty: those of init_from if it has a head that fits, else those of the data.
    config.data.categories = ()

    config.train = ConfigDict()
    # Passes over the training data. Not set: enough for the size of the data.
    config.train.epochs = unset(int)
    config.train.steps = 0  # Total number of steps; 0: train.epochs decides.
    # Stop after this many seconds of training, with the state saved and exit status 75. The same command
    # resumes. The learning-rate schedule does not change. 0: no limit.
    config.train.max_seconds = 0
    # Number of models to train side by side, with the seeds seed, seed + 1, ... Each is in
    # WORKDIR/seed_N; WORKDIR/best and last are their ensembles.
    config.train.seeds = 1
    config.train.steps_per_dispatch = 20  # Steps that the device runs without the host.
    # True: skip steps whose loss or gradients are not finite, instead of stopping.
    config.train.skip_nonfinite = False
    # Number of micro-batches per step: less memory, the same gradients but for rounding. Divides
    # data.batch_size.
    config.train.gradient_accumulation_steps = 1
    # EMA decay of the parameters, e.g. 0.999. The average is evaluated and saved. 0: off.
    config.train.ema = 0.0
    # FGM: L2 norm of the adversarial perturbation of the word embeddings, e.g. 1.0. A step takes twice as
    # long. 0: off.
    config.train.fgm = 0.0
    # R-Drop: weight of the KL term, e.g. 1.0 to 5.0. A step takes twice as long. 0: off.
    config.train.r_drop = 0.0
    # True: before a fresh head is trained on weights of init_from, shift and scale the encoder's last LayerNorm
    # so that token vectors have mean 0 and variance 1. Without it, encoders of sentence vectors learn late.
    config.train.standardise = True
    # True: also write TensorBoard event files. Needs tensorboardX.
    config.train.tensorboard = False

    config.optimizer = ConfigDict()
    config.optimizer.name = "adamw"  # adamw or adadelta.
    # Peak learning rate. Not set: 5e-5 for an encoder of width 768, higher for a narrower one.
    config.optimizer.learning_rate = unset(float)
    # linear (decay to 0), cosine (decay to 0), constant, or step.
    config.optimizer.schedule = "linear"
    config.optimizer.warmup = 0.1  # Fraction of all steps for linear warm-up.
    # For schedule step: epochs after which the learning rate is multiplied by decay_factor, ascending.
    config.optimizer.milestones = ()
    config.optimizer.decay_factor = 0.1  # For schedule step: factor at each milestone.
    # Layer-wise decay: layer i of L is scaled by layer_decay ** (L - 1 - i).
    config.optimizer.layer_decay = 1.0
    # Learning rate of the head as a multiple of the last layer's.
    config.optimizer.head_factor = 1.0
    # AdamW weight decay, except on biases and LayerNorm.
    config.optimizer.weight_decay = 0.01
    config.optimizer.b1 = 0.9  # AdamW beta1.
    config.optimizer.b2 = 0.999  # AdamW beta2.
    config.optimizer.eps = 1e-8  # AdamW epsilon.
    config.optimizer.clip_norm = 1.0  # Clip the global L2 norm of the gradients; 0: off.

    config.loss = ConfigDict()
    config.loss.name = "cross_entropy"  # cross_entropy or focal.
    # Cross-entropy: share of a label's probability that is spread over all tags.
    config.loss.label_smoothing = 0.0
    config.loss.gamma = 2.0  # Gamma of the focal loss.

    # Distillation from a larger tagger (docs/distillation.md).
    config.distill = ConfigDict()
    # A tagger with the student's tags and tokenizer, given like init_from. It tags all texts once before
    # training. Empty: no distillation.
    config.distill.teacher = ""
    # Weight of the teacher's part of the loss; the rest is the labels'. 0: no distillation.
    config.distill.weight = 0.9
    # Temperature that divides both models' logits (of a CRF the log marginals).
    config.distill.temperature = 2.0
    # Further texts that only the teacher labels: one per line, or data in any format, whose labels are
    # ignored. Empty: none.
    config.distill.texts = ""

    config.eval = ConfigDict()
    # How tags become entities: strict, lenient or mmocr (docs/conventions.md).
    config.eval.scoring = "strict"
    # Evaluate every this many epochs (of masked_lm: chunks), and after the last.
    config.eval.every = 1
    config.eval.batch_size = 32  # Rows of 128 tokens per batch, at most.

    config.checkpoint = ConfigDict()
    config.checkpoint.every = 0  # Steps between checkpoints; 0: after each epoch.
    # Number of newest checkpoints to keep. The best and the last model are kept besides.
    config.checkpoint.keep = 2

    # Of the task masked_lm.
    config.pretrain = ConfigDict()
    config.pretrain.mask_prob = 0.15  # Share of a row's tokens to predict.
    # Steps per chunk, whose batches are on the device at the same time. eval.every counts chunks, and
    # checkpoint.every=0 saves after each.
    config.pretrain.portion = 500

    config.mesh = ConfigDict()
    config.mesh.data = 0  # Devices that share a batch; 0: all that are left.
    config.mesh.fsdp = 1  # Devices that share the parameters.
    # True: the same command runs on several hosts, and their devices form one mesh (docs/scaling.md).
    # All hosts see the work directory.
    config.mesh.distributed = False
    return config.lock()  # a name that is not here is an error, also in a file


def is_unset(config: ConfigDict, name: str) -> bool:
    """Whether a setting, by its name with section, has no value of its own."""
    return _get(config, name) in (None, "")


def with_fallbacks(config: ConfigDict, fallbacks: Mapping[str, Any] = FALLBACKS) -> ConfigDict:
    """Return a copy in which settings that are not set have the values of `fallbacks`."""
    filled = ConfigDict(config.to_dict())
    missing = {name: value for name, value in fallbacks.items() if is_unset(config, name)}
    filled.update_from_flattened_dict(missing)
    return filled


def check_config(config: ConfigDict) -> None:
    """Raise `UserError` for a value outside its range; the message names field, value and choices."""
    positions = config.model.max_position_embeddings
    unknown_positions = bool(config.init_from) and positions is None  # the weights will tell
    unknown_length = config.data.max_length is None  # follows from the positions
    unknown_rows = config.data.batch_size is None
    config = with_fallbacks(config, FALLBACKS | WITHOUT_LABELS)
    choices = {
        "task": TASKS,
        "tokenizer.kind": ("", *TOKENIZERS),
        "data.format": FORMATS,
        "data.on_error": ("stop", "skip"),
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
    least = {
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
        "pretrain.portion": 1,
        "eval.every": 1,
        "eval.batch_size": 1,
        "checkpoint.every": 0,
        "checkpoint.keep": 1,
        "mesh.data": 0,
        "mesh.fsdp": 1,
    }
    for name, value in _numbers(config):
        if not math.isfinite(value):
            raise UserError(f"{name}: {value}, but it must be a finite number.")
    for name, value in least.items():
        if _get(config, name) < value:
            raise UserError(f"{name}: {_get(config, name)}, but it must be at least {value}.")
    kinds: dict[str, tuple[Any, str]] = {
        "optimizer.milestones": ((int, float), "a number"),
        "data.categories": (str, "text"),
    }
    for name, (kind, wanted) in kinds.items():
        for item in _get(config, name):
            if not isinstance(item, kind):
                raise UserError(f"{name}: {item!r} is not {wanted}.")
    for name in ("learning_rate", "eps", "decay_factor", "layer_decay", "head_factor"):
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
            f"as {tuple(sorted({e for e in milestones if e > 0})) or (8, 14)}."
        )
    head = config.model.head
    own_loss = head in OWN_LOSS
    if own_loss and config.loss.name != "cross_entropy":
        raise UserError(
            f"loss.name: {config.loss.name!r}, but model.head {head!r} has a loss of its own. Set "
            "loss.name=cross_entropy, or choose model.head softmax or softmax_constrained."
        )
    if head == "global_pointer" and config.eval.scoring != "strict":
        raise UserError(
            f"eval.scoring: {config.eval.scoring!r} is a way to read tags, and model.head global_pointer "
            "gives spans. Choose strict."
        )
    if config.data.scheme in ("bioes", "io") and config.eval.scoring == "mmocr":
        raise UserError(
            f"eval.scoring: 'mmocr' does not support the tags of data.scheme {config.data.scheme}. Choose "
            "strict, or data.scheme bio."
        )
    for name in ("optimizer.b1", "optimizer.b2", "train.ema", "loss.label_smoothing"):
        if _get(config, name) >= 1:
            raise UserError(f"{name}: {_get(config, name)}, but it must be below 1.")
    if not unknown_rows and config.data.batch_size % config.train.gradient_accumulation_steps:
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
            f"train.max_seconds: {config.train.max_seconds}, but several processes have no common clock. Send "
            "SIGTERM to one of them, and leave the field 0."
        )
    if not 0 < config.pretrain.mask_prob < 1:
        raise UserError(
            f"pretrain.mask_prob: {config.pretrain.mask_prob} is a share, above 0 and below 1."
        )
    of_tagging = {
        "train.fgm": 0,
        "train.r_drop": 0,
        "loss.label_smoothing": 0,
        "loss.name": "cross_entropy",
        "distill.teacher": "",
        "data.batching": "pack",
        "data.format": "auto",
        "data.categories": (),
    }
    for name, default in of_tagging.items():
        if config.task == "masked_lm" and _get(config, name) != default:
            raise UserError(
                f"{name}: {_get(config, name)!r}, but task 'masked_lm' does not support it. Set it back to "
                f"its default, {default!r}."
            )
    _check_distill(config)
    if config.train.seeds > 1 and config.data.batching == "bucket":
        raise UserError(
            f"data.batching: 'bucket', but with train.seeds {config.train.seeds} all rows have one length. "
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
            f"optimizer.warmup: {config.optimizer.warmup} is a share of all steps, at most 1."
        )
    if config.model.attention == "cudnn" and config.data.max_length % 2:
        raise UserError(
            f"data.max_length: {config.data.max_length}, but model.attention 'cudnn' takes even lengths only. "
            "Choose an even number, or model.attention=xla."
        )
    known = not (unknown_positions or unknown_length)
    if known and config.data.max_length > config.model.max_position_embeddings:
        # Pre-trained weights have as many positions as they have.
        other = "" if config.init_from else " or raise the second"
        raise UserError(
            f"data.max_length: {config.data.max_length}, but model.max_position_embeddings is "
            f"{config.model.max_position_embeddings}. Lower the first{other}."
        )


def config_warnings(config: ConfigDict) -> list[str]:
    """Return warnings about valid settings that are probably a mistake."""
    name, rate = config.optimizer.name, config.optimizer.learning_rate
    if rate <= HIGHEST_RATES[name]:
        return []
    usual = "1e-5 to 1e-2" if name == "adamw" else "0.1 to 1"
    return [
        f"optimizer.learning_rate: {rate:g} is far above what {name} trains a BERT with ({usual}), so the loss "
        "will probably not fall. Set a lower rate in another work directory."
    ]


def _check_distill(config: ConfigDict) -> None:
    options = config.distill
    if options.weight > 1:
        raise UserError(f"distill.weight: {options.weight} is a share of the loss, at most 1.")
    if not options.temperature:
        raise UserError(
            f"distill.temperature: {options.temperature}, but logits are divided by it. 1 changes nothing."
        )
    if options.texts and not options.teacher:
        raise UserError(
            f"distill.texts: {options.texts!r}, but nobody labels them. Name a distill.teacher."
        )
    if options.teacher and options.weight and config.model.head == "global_pointer":
        raise UserError(
            "model.head: 'global_pointer' scores spans and cannot learn from distill.teacher, which gives the "
            "probabilities of tags. Choose another head."
        )


def _numbers(config: ConfigDict, prefix: str = "") -> Iterator[tuple[str, float]]:
    """Return the name and value of every field that is a float."""
    for name, value in config.items():
        if isinstance(value, ConfigDict):
            yield from _numbers(value, f"{prefix}{name}.")
        elif isinstance(value, float):
            yield f"{prefix}{name}", value


def _get(config: ConfigDict, name: str) -> Any:
    for part in name.split("."):
        config = config[part]
    return config
