"""Choose what to train, and train it.

The loop is `training/loop.py`, the step `training/step.py`, the loss `training/loss.py`.
"""

from pathlib import Path

from ml_collections import ConfigDict

from flax_ner.evaluation.metrics import Scores
from flax_ner.finetuning.multi_seed import MultiSeed
from flax_ner.finetuning.tagging import Tagging
from flax_ner.pretraining.masked_lm import MaskedLM
from flax_ner.training.loop import run_training
from flax_ner.training.task import Metrics, TrainingTask


def fit(config: ConfigDict, workdir: str | Path) -> Scores | Metrics:
    """Train, or resume the run in the same work directory.

    Args:
        config: a configuration with the fields of `flax_ner.config.default_config()`. `config.task` is
            `tagging` or `masked_lm`.
        workdir: receives `config.json`, `inputs.json`, `metrics.jsonl`, `checkpoints/`, and the model
            directories `best` (highest dev F1; for `masked_lm` highest dev accuracy) and `last`. With
            `config.train.seeds` > 1 each model has such directories in `seed_N/`, and `best` and `last` are
            their ensembles.

    Returns:
        The dev scores of `best`.

    Raises:
        UserError: an error that the user can fix.
        Interrupted: SIGTERM, SIGINT or `train.max_seconds` stopped training after the current dispatch. The
            state is saved.
    """
    return run_training(config, workdir, make_task)


def make_task(config: ConfigDict) -> TrainingTask:
    """Return the task that a configuration asks for, with its data read and checked."""
    if config.task == "masked_lm":
        return MaskedLM(config)
    return MultiSeed(config) if config.train.seeds > 1 else Tagging(config)
