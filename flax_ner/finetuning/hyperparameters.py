"""Default batch size, epochs and learning rate, from the size of the data and of the encoder.

The rules were chosen on dev data of WNUT17 and of CLUENER cut to 1,000 sentences, with encoders of hidden size
384. Learning rates for other sizes are extrapolated. benchmarks/RESULTS.md has the results under "Defaults".
"""

import math

import jax
from ml_collections import ConfigDict

from flax_ner.config import is_unset
from flax_ner.text.encoding import TokenSet

# The batch size gives small data enough steps per epoch, within these limits of sentences per step.
TARGET_STEPS_PER_EPOCH = 60
MIN_BATCH_SENTENCES, MAX_BATCH_SENTENCES = 8, 32
# By default a run has at least this many steps and epochs, with pre-trained weights (True) and from
# scratch (False).
DEFAULT_MIN_STEPS = {True: 800, False: 2000}
MIN_EPOCHS = {True: 5, False: 20}
# 5e-5 is the usual rate for pre-trained BERT-base (hidden size 768). Smaller encoders need a higher rate.
BASE_LEARNING_RATE, BASE_WIDTH, MAX_LEARNING_RATE = {True: 5e-5, False: 8e-5}, 768, 1e-3
WIDTH_EXPONENT = {
    True: 1.5,
    False: 2.0,
}  # fits the best rates at widths 384 and 256, see RESULTS.md
ADADELTA_LEARNING_RATE = 0.5  # MMOCR's


def choose_hyperparameters(config: ConfigDict, tokens: TokenSet, width: int) -> list[str]:
    """Set `data.batch_size`, `train.epochs` and `optimizer.learning_rate` if they are unset.

    Args:
        config: configuration of the run; it is changed.
        tokens: the training data.
        width: hidden size of the encoder, D.

    Returns:
        A note about the chosen values; empty if all were set.
    """
    pretrained, sentences = bool(config.init_from), len(tokens.lengths)
    rows = sentences
    if config.data.batching == "pack":
        rows = max(int(tokens.lengths.sum()) // config.data.max_length, 1)
    sentences_per_row = sentences / rows
    chosen: list[str] = []
    if is_unset(config, "data.batch_size"):
        target = min(
            max(sentences / TARGET_STEPS_PER_EPOCH, MIN_BATCH_SENTENCES), MAX_BATCH_SENTENCES
        )
        unit = math.lcm(_devices(config), config.train.gradient_accumulation_steps)
        # A power of two also divides by the number of devices when a run is resumed on more of them.
        power = 2 ** max(round(math.log2(target / sentences_per_row)), 0)
        config.data.batch_size = max(round(power / unit), 1) * unit
        chosen.append(f"data.batch_size={config.data.batch_size}")
    if is_unset(config, "train.epochs"):
        steps_per_epoch = -(-rows // config.data.batch_size)
        epochs = -(-DEFAULT_MIN_STEPS[pretrained] // steps_per_epoch)
        config.train.epochs = max(epochs, MIN_EPOCHS[pretrained])
        if not config.train.steps:
            chosen.append(f"train.epochs={config.train.epochs}")
    if is_unset(config, "optimizer.learning_rate"):
        config.optimizer.learning_rate = default_learning_rate(
            config.optimizer.name, width, pretrained
        )
        chosen.append(f"optimizer.learning_rate={config.optimizer.learning_rate:g}")
    if not chosen:
        return []
    return [f"Chosen by the size of the data and the encoder: {', '.join(chosen)}."]


def default_learning_rate(optimizer: str, width: int, pretrained: bool) -> float:
    """Return the default peak learning rate for an encoder of this hidden size, rounded to two digits."""
    if optimizer == "adadelta":
        return ADADELTA_LEARNING_RATE
    scale = (BASE_WIDTH / width) ** WIDTH_EXPONENT[pretrained]
    return float(f"{min(BASE_LEARNING_RATE[pretrained] * scale, MAX_LEARNING_RATE):.2g}")


def _devices(config: ConfigDict) -> int:
    mesh = config.mesh
    # If there are fewer devices, `make_mesh` raises an error later.
    return int(max((mesh.data or jax.device_count() // mesh.fsdp) * mesh.fsdp, 1))
