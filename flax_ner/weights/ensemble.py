"""Combine several taggers into one, by averaging their scores or their parameters."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from flax_ner.errors import UserError
from flax_ner.weights.model_dir import ModelDir

# Fields of `BertConfig` that may differ between the models: they do not change what the parameters mean.
TRAINING_FIELDS: dict[str, Any] = {
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
    "word_dropout_prob": 0.0,
    "classifier_dropout": 0.0,
    "scan_layers": False,
    "remat": False,
    "attention": "xla",
    "compute_dtype": "float32",
    "initializer_range": 0.02,
}


def combine(
    models: Sequence[ModelDir], names: Sequence[str], average_parameters: bool = False
) -> ModelDir:
    """Combine several models into one.

    By default the result is an ensemble: it averages the scores and takes as long as all its models together.
    If all models were fine-tuned from the same weights, averaging the parameters instead gives a model of the
    usual size and speed.

    Args:
        models: models with the same shape, labels and vocabulary. If their compute dtypes differ, the result
            uses float32.
        names: names of the models, for messages.
        average_parameters: average the parameters, not the scores.

    Raises:
        UserError: the models cannot be combined.

    Source: Wortsman et al. 2022, arXiv 2203.05482, for averaged parameters.
    """
    if len(models) < 2:
        raise UserError("An ensemble needs at least two models. Name another.")
    for model, name in zip(models, names, strict=True):
        if model.labels is None:
            raise UserError(f"{name}: is an encoder without a head, so it cannot tag.")
        if model.config.ensemble > 1:
            raise UserError(f"{name}: is an ensemble. Name the models that it was made from.")
        difference = _find_difference(models[0], model)
        if difference:
            raise UserError(f"{name}: {difference} from {names[0]}. They must be the same.")

    def merge(*arrays: Array) -> Array:
        stacked = jnp.stack(arrays)
        return stacked.mean(0) if average_parameters else stacked

    params = jax.tree.map(merge, *(model.params for model in models))
    count = 1 if average_parameters else len(models)
    same_dtype = len({model.config.compute_dtype for model in models}) == 1
    compute_dtype = models[0].config.compute_dtype if same_dtype else "float32"
    return replace(
        models[0],
        config=replace(
            models[0].config, ensemble=count, compute_dtype=compute_dtype, attention="xla"
        ),
        max_length=min(model.max_length for model in models),
        params=params,
    )


def _find_difference(one: ModelDir, other: ModelDir) -> str:
    """Return why two models cannot be combined, "" if they can."""
    names = [model.labels.names if model.labels else None for model in (one, other)]
    if names[0] != names[1]:
        return "the labels differ"
    if len({getattr(model.labels, "nested", None) for model in (one, other)}) > 1:
        return "the setting data.nested differs"
    if (one.vocab, one.lower_case, one.tokenizer, one.definition) != (
        other.vocab,
        other.lower_case,
        other.tokenizer,
        other.definition,
    ):
        return "the vocabulary or tokenizer differs"
    if replace(one.config, **TRAINING_FIELDS) != replace(other.config, **TRAINING_FIELDS):
        return "the shape or head differs"
    return ""
