"""Batch size, epochs and learning rate, where they are not set: by the size of the data and the encoder.

They were chosen on dev data of CLUENER, cut to 1,000 sentences, and WNUT17, from encoders of width 384. The
rate for other widths is extrapolated. benchmarks/RESULTS.md has the figures under "Defaults".
"""

import math

import jax
from ml_collections import ConfigDict

from flax_ner.config import is_unset
from flax_ner.text.encoding import TokenSet

# Sentences per step: an epoch of little data needs enough steps.
STEPS_PER_EPOCH = 60
FEWEST_SENTENCES, MOST_SENTENCES = 8, 32
# Steps in all. Weights that have read much text need fewer.
LEAST_STEPS = {True: 800, False: 2000}
LEAST_EPOCHS = {True: 5, False: 20}
# 5e-5 suits pre-trained BERT-base, whose width is 768. A narrower encoder takes a higher rate.
RATE, WIDTH, HIGHEST_RATE = {True: 5e-5, False: 8e-5}, 768, 1e-3
ADADELTA_RATE = 0.5  # MMOCR's


def choose_training(config: ConfigDict, tokens: TokenSet, width: int) -> list[str]:
    """Set `data.batch_size`, `train.epochs` and `optimizer.learning_rate` where they are not set.

    Args:
        config: of the run, which is changed.
        tokens: the training data.
        width: of the encoder, D.

    Returns:
        What was chosen, as notes.
    """
    pretrained, sentences = bool(config.init_from), len(tokens.lengths)
    rows = sentences
    if config.data.batching == "pack":
        rows = max(int(tokens.lengths.sum()) // config.data.max_length, 1)
    per_row, told = sentences / rows, []
    if is_unset(config, "data.batch_size"):
        wanted = min(max(sentences / STEPS_PER_EPOCH, FEWEST_SENTENCES), MOST_SENTENCES)
        unit = math.lcm(_devices(config), config.train.gradient_accumulation_steps)
        # A power of two, so that a run can be resumed on more devices.
        fitting = 2 ** max(round(math.log2(wanted / per_row)), 0)
        config.data.batch_size = max(round(fitting / unit), 1) * unit
        told.append(f"data.batch_size={config.data.batch_size}")
    if is_unset(config, "train.epochs"):
        steps_per_epoch = -(-rows // config.data.batch_size)
        epochs = -(-LEAST_STEPS[pretrained] // steps_per_epoch)
        config.train.epochs = max(epochs, LEAST_EPOCHS[pretrained])
        if not config.train.steps:
            told.append(f"train.epochs={config.train.epochs}")
    if is_unset(config, "optimizer.learning_rate"):
        config.optimizer.learning_rate = suitable_rate(config.optimizer.name, width, pretrained)
        told.append(f"optimizer.learning_rate={config.optimizer.learning_rate:g}")
    if not told:
        return []
    return [f"Chosen by the size of data and encoder: {', '.join(told)}."]


def suitable_rate(optimizer: str, width: int, pretrained: bool) -> float:
    """Return a peak learning rate for an encoder of this width, to two digits."""
    if optimizer == "adadelta":
        return ADADELTA_RATE
    return float(f"{min(RATE[pretrained] * (WIDTH / width) ** 2, HIGHEST_RATE):.2g}")


def _devices(config: ConfigDict) -> int:
    mesh = config.mesh
    # `make_mesh` refuses more than there are.
    return int(max((mesh.data or jax.device_count() // mesh.fsdp) * mesh.fsdp, 1))
