"""All settings of a training run, with their defaults.

A file in `configs/` calls `default_config()` and changes settings. The command line overrides these values:
`--config.optimizer.learning_rate=5e-5`. Defaults that depend on the training data are chosen in
`finetuning/hyperparameters.py`.
"""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder as unset

from flax_ner.model.bert import BertConfig

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
}
# Values of these settings for runs without labelled data (masked_lm).
UNLABELLED_FALLBACKS: dict[str, Any] = {
    "data.scheme": "bio",
    "data.nested": False,
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

    # Model architecture, with the field names of a Hugging Face BERT config.json. Unset settings are read from
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
    # each span, so entities may be nested (data.nested). Not set: the head of init_from if its labels match.
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
    # of its entities start or end inside a word, or if the vocabulary has no word pieces. A subword encoder
    # whose vocabulary lacks most characters of data.train keeps its kind.
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
    # Encoding of data.train, data.dev and distill.texts, e.g. gb18030. Empty: UTF-8.
    config.data.encoding = ""
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
    # init_from if its labels match, else bioes if tokens are characters, and bio if they are words or pieces or
    # if eval.scoring is mmocr.
    config.data.scheme = unset(str)
    # Entity categories. Empty: the categories of init_from if they cover those of data.train, else those of
    # data.train.
    config.data.categories = ()
    # Whether predicted entities may overlap; global_pointer only. Not set: if more than 1% of the entities of
    # data.train overlap a longer one.
    config.data.nested = unset(bool)

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
    # Peak learning rate. Not set: for adamw, 5e-5 for a pre-trained encoder of hidden size 768, 8e-5 without
    # init_from, and more for a smaller hidden size; 0.5 for adadelta; 3e-4 for masked_lm.
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
    # AdamW weight decay; not applied to biases, LayerNorm and the transitions of a CRF.
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
    # Maximum rows of 128 tokens per evaluation batch (masked_lm: rows of data.max_length tokens).
    config.eval.batch_size = 32

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


def is_unset(config: ConfigDict, name: str) -> bool:
    """Return whether a setting is None or empty."""
    return get_setting(config, name) in (None, "")


def with_fallbacks(config: ConfigDict, fallbacks: Mapping[str, Any] = FALLBACKS) -> ConfigDict:
    """Return a copy whose unset settings have the values of `fallbacks`."""
    filled = ConfigDict(config.to_dict())
    missing = {name: value for name, value in fallbacks.items() if is_unset(config, name)}
    filled.update_from_flattened_dict(missing)
    return filled


def get_setting(config: ConfigDict, name: str) -> Any:
    """Return the value of a setting, e.g. "data.max_length"."""
    for key in name.split("."):
        config = config[key]
    return config
