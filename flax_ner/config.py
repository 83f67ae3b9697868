"""Every setting once: its default, its unit, what it means.

A file in `configs/` calls `default_config()` and changes fields; the command line changes them
again: `--config.optimizer.learning_rate=5e-5`. Nothing else of a run has defaults.
"""

import math
from collections.abc import Iterator
from typing import Any

from ml_collections import ConfigDict, config_dict

from flax_ner.errors import UserError
from flax_ner.text.batches import BATCHINGS
from flax_ner.text.formats import FORMATS
from flax_ner.text.labels import CONVENTIONS, SCHEMES
from flax_ner.text.tokenizer import TOKENIZERS

TASKS = ("tagging", "masked_lm")
OPTIMIZERS = ("adamw", "adadelta")
HIGHEST_RATES = {"adamw": 0.05, "adadelta": 10.0}  # above these a BERT does not learn
SCHEDULES = ("linear", "cosine", "step", "constant")
LOSSES = ("cross_entropy", "focal")
TOKEN_HEADS = ("softmax", "softmax_constrained")  # trained on each tag by itself


def default_config() -> ConfigDict:
    """The whole configuration with its defaults: BERT-base, AdamW, packed rows."""
    config = ConfigDict()
    # What is trained: tagging; or masked_lm: an encoder to start taggers from, on plain text that
    # data.train and data.dev name, a document or sentence a line (docs/pretraining.md).
    config.task = "tagging"
    config.seed = 0  # of initial values, shuffling and dropout
    # True: trace the first dispatch that need not compile into WORKDIR/profile, for ui.perfetto.dev
    # or TensorBoard.
    config.profile = False
    # Weights to start from: a model directory (convert/torch_to_flax.py makes one, training leaves
    # `best` and `last`), PyTorch weights (a file, or a folder as Hugging Face has them), or either
    # on the Hugging Face hub: owner/name or owner/name@revision. Empty: from nothing.
    config.init_from = ""

    # Names as in a Hugging Face BERT config.json. Vocabulary size and number of tags come from the
    # tokenizer and the labels.
    config.model = ConfigDict()
    config.model.hidden_size = 768
    config.model.num_hidden_layers = 12
    config.model.num_attention_heads = 12
    config.model.intermediate_size = 3072
    config.model.hidden_act = "gelu"  # gelu (exact) or gelu_new (tanh)
    config.model.hidden_dropout_prob = 0.1
    config.model.attention_probs_dropout_prob = 0.1
    config.model.word_dropout_prob = 0.0  # of the word embedding of a token as a whole
    config.model.classifier_dropout = 0.1  # in front of the head
    config.model.max_position_embeddings = 512  # tokens of the longest row or window
    config.model.type_vocab_size = 2
    config.model.layer_norm_eps = 1e-12
    config.model.initializer_range = 0.02  # standard deviation of fresh weights
    # softmax: each token by itself; softmax_constrained: trained likewise, and of all sequences of tags
    # that may be the best is taken; crf: trained on whole sequences, with scores for tags in a row;
    # global_pointer: a score for each span, so that entities may lie in one another.
    config.model.head = "softmax"
    # Of products; or bfloat16: faster on TPU, on recent GPUs, on CPUs with AVX512-BF16 or AMX.
    config.model.compute_dtype = "float32"
    # xla; or cudnn: one kernel, on a GPU, in bfloat16, without dropout of attention probabilities
    # (elsewhere xla computes the same).
    config.model.attention = "xla"
    # True: a training step's compile time does not grow with depth; a slower step.
    config.model.scan_layers = False
    # True: training keeps only what goes from layer to layer and computes the rest again on the way
    # back: about a third more work, a fraction of the memory (on a CPU only with scan_layers).
    config.model.remat = False

    config.tokenizer = ConfigDict()
    # char: one token a character; wordpiece: as BERT cuts words, for text with words of letters, which
    # entities then begin and end with. Empty: as a tagger in `init_from` was trained, else char.
    config.tokenizer.kind = ""
    # vocab.txt of the pre-trained weights. Empty: that of `init_from`, else built from data.train.
    config.tokenizer.vocab = ""
    # Whether A is read as a. Not set: as `init_from` says, else yes.
    config.tokenizer.lower_case = config_dict.placeholder(bool)
    config.tokenizer.min_count = 1  # a built vocabulary leaves rarer characters to [UNK]

    config.data = ConfigDict()
    config.data.train = "data/cluener/train.json"
    config.data.dev = "data/cluener/dev.json"
    # auto: as the content says, one of cluener, conll, doccano, label_studio, tokens, brat; or one
    # of these by name; or synthetic: data.train = "train 4000", data.dev = "dev 500".
    config.data.format = "auto"
    # What becomes of a line of data that cannot be read: stop; or skip, which counts and lists them.
    config.data.on_error = "stop"
    config.data.max_length = (
        128  # tokens of a row, [CLS] and [SEP] included; longer texts are split
    )
    config.data.batching = "pack"  # pack several sentences into a row; or bucket, pad: one a row
    config.data.batch_size = 16  # rows a step, over all devices
    # Of tags: bio, bioes, or mmocr, the 24 outputs of its checkpoints (global_pointer has no tags).
    config.data.scheme = "bio"
    config.data.categories = ()  # empty: those of `init_from` if it has a head, else of the data

    config.train = ConfigDict()
    config.train.epochs = 10
    config.train.steps = 0  # how many in all, also for the schedule; 0: train.epochs decides
    # Seconds of training after which the run stops as if interrupted, its state saved and exit status
    # 75; the same command goes on. It changes no schedule. 0: never.
    config.train.max_seconds = 0
    # Models that are trained side by side, of seeds `seed`, `seed` + 1 and so on: WORKDIR/seed_N holds
    # each, WORKDIR/best and last are their ensembles.
    config.train.seeds = 1
    config.train.steps_per_dispatch = 20  # steps the device runs without the host
    config.train.skip_nonfinite = False  # leave a step out whose loss or gradients are not finite
    # Number of micro-batches per step, computed one after the other: less memory, the same gradients (but for
    # rounding), with dropout too.
    config.train.gradient_accumulation_steps = 1
    # Of parameters, an average that keeps this share of itself at each step, 0.999 say; it is what is
    # scored and saved. 0: none.
    config.train.ema = 0.0
    # Length of a step on the word embeddings against which the gradients are taken once more, 1.0 say
    # (FGM); twice the time. 0: none.
    config.train.fgm = 0.0
    # Weight of what two passes with other dropout differ in, 1.0 to 5.0 say (R-Drop); twice the time.
    config.train.r_drop = 0.0
    config.train.tensorboard = False  # True: event files beside metrics.jsonl; needs tensorboardX

    config.optimizer = ConfigDict()
    config.optimizer.name = "adamw"  # or adadelta
    config.optimizer.learning_rate = 5e-5  # the peak
    config.optimizer.schedule = "linear"  # to 0 at the end; cosine: likewise; constant; step
    config.optimizer.warmup = 0.1  # share of all steps during which the rate rises linearly from 0
    # For step: epochs after which the rate is multiplied by decay_factor, ascending.
    config.optimizer.milestones = ()
    config.optimizer.decay_factor = 0.1
    config.optimizer.layer_decay = 1.0  # the rate of each layer is that of the one above times this
    config.optimizer.head_factor = 1.0  # the rate of the head is the last layer's times this
    config.optimizer.weight_decay = 0.01  # adamw, not on biases and LayerNorm
    config.optimizer.b1 = 0.9
    config.optimizer.b2 = 0.999
    config.optimizer.eps = 1e-8
    config.optimizer.clip_norm = 1.0  # L2 norm of all gradients; 0: none

    config.loss = ConfigDict()
    config.loss.name = "cross_entropy"  # or focal
    config.loss.label_smoothing = 0.0  # of the cross-entropy: share of a label that all tags share
    config.loss.gamma = 2.0  # of the focal loss

    # Learning from a larger tagger besides (docs/distillation.md).
    config.distill = ConfigDict()
    # What `init_from` may be, if it has a head: of the student's categories and scheme, and reading the
    # same words. It tags all texts before training. Empty: none.
    config.distill.teacher = ""
    # Share of the loss that is the teacher's; the rest is the labels'. 0: as without a teacher.
    config.distill.weight = 0.9
    # By which both models' logits, of a CRF logarithms of its marginals, are divided for the teacher's
    # part: above 1 the less probable tags count for more.
    config.distill.temperature = 2.0
    # More texts, one a line or data of any format, which the teacher alone labels; the file's own
    # labels are not read. Empty: none.
    config.distill.texts = ""

    config.eval = ConfigDict()
    config.eval.scoring = "strict"  # or lenient, mmocr: how tags become entities
    config.eval.every = 1  # epochs, of masked_lm portions; the last one is always evaluated
    config.eval.batch_size = 32  # rows of 128 tokens at most

    config.checkpoint = ConfigDict()
    config.checkpoint.every = 0  # steps; 0: at the end of each epoch
    config.checkpoint.keep = 2  # the newest so many; the best and the last model are kept besides

    config.pretrain = ConfigDict()  # of the task masked_lm
    config.pretrain.mask_prob = 0.15  # share of a row's tokens that are to be guessed
    # Steps whose batches are on the device at a time; eval.every counts these, and checkpoint.every=0
    # saves behind each.
    config.pretrain.portion = 500

    config.mesh = ConfigDict()
    config.mesh.data = 0  # devices that share a batch; 0: all that are left
    config.mesh.fsdp = 1  # devices that share the parameters
    # True: the same command runs on each of several hosts, and their devices are one mesh
    # (docs/scaling.md). All of them see the work directory.
    config.mesh.distributed = False
    return config.lock()  # a name that is not here is an error, also in a file


def check_config(config: ConfigDict) -> None:
    """Raise `UserError` for a value outside its range; the message names field, value and choices."""
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
    own_loss = head not in TOKEN_HEADS
    if own_loss and config.loss.name != "cross_entropy":
        raise UserError(
            f"loss.name: {config.loss.name!r}, but model.head {head!r} has a loss of its own. Leave it out."
        )
    if head == "global_pointer" and config.eval.scoring != "strict":
        raise UserError(
            f"eval.scoring: {config.eval.scoring!r} is a way to read tags, and model.head global_pointer "
            "gives spans. Choose strict."
        )
    if config.data.scheme == "bioes" and config.eval.scoring == "mmocr":
        raise UserError(
            "eval.scoring: 'mmocr' knows no E- and S-. Choose strict, or data.scheme bio."
        )
    for name in ("optimizer.b1", "optimizer.b2", "train.ema", "loss.label_smoothing"):
        if _get(config, name) >= 1:
            raise UserError(f"{name}: {_get(config, name)}, but it must be below 1.")
    if config.data.batch_size % config.train.gradient_accumulation_steps:
        raise UserError(
            f"train.gradient_accumulation_steps: {config.train.gradient_accumulation_steps} does not divide "
            f"data.batch_size {config.data.batch_size}."
        )
    for name in ("train.r_drop", "loss.label_smoothing"):
        if own_loss and _get(config, name):
            raise UserError(
                f"{name}: {_get(config, name)}, but it is of tags one by one, and model.head is {head!r}."
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
                f"{name}: {_get(config, name)!r}, but task 'masked_lm' knows it not. Leave it out."
            )
    _check_distill(config)
    if config.train.seeds > 1 and config.data.batching == "bucket":
        raise UserError(
            f"data.batching: 'bucket', but with train.seeds {config.train.seeds} all rows have one length. "
            "Choose pack or pad."
        )
    if config.seed + config.train.seeds > 2**32:
        raise UserError(f"seed: {config.seed}, but it must be below 2**32.")
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
            f"data.max_length: {config.data.max_length}, but model.attention 'cudnn' takes even lengths only."
        )
    if config.data.max_length > config.model.max_position_embeddings:
        raise UserError(
            f"data.max_length: {config.data.max_length}, but model.max_position_embeddings is "
            f"{config.model.max_position_embeddings}. Lower the first or raise the second."
        )


def config_warnings(config: ConfigDict) -> list[str]:
    """Return what is allowed and hardly meant, a sentence each."""
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
