"""Several taggers as one: the mean of their scores, or of their parameters."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from flax_ner.errors import UserError
from flax_ner.weights.model_dir import ModelDir

# Fields of `BertConfig` that say nothing of what parameters mean.
OF_TRAINING: dict[str, Any] = {
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
    """One model of several.

    Args:
        models: with the same shape, labels and vocabulary; where they compute in different dtypes, the
            result does in float32.
        names: what to call them in errors.
        average_parameters: make a model like each of them, with the mean of their parameters, which
            serves where all were fine-tuned from the same weights (Wortsman et al. 2022, arXiv
            2203.05482); otherwise an ensemble, which takes the time of all of them and averages scores.

    Raises:
        UserError: they do not go together; the message says in what.
    """
    if len(models) < 2:
        raise UserError("an ensemble is of two models or more. Name another.")
    for model, name in zip(models, names, strict=True):
        if model.labels is None:
            raise UserError(f"{name}: an encoder without a head cannot tag, nor take part.")
        if model.config.ensemble > 1:
            raise UserError(f"{name}: is an ensemble. Name the models that it was made of.")
        unlike = _difference(models[0], model)
        if unlike:
            raise UserError(f"{name}: has {unlike} than {names[0]}. They must be the same.")

    def together(*arrays: Array) -> Array:
        stacked = jnp.stack(arrays)
        return stacked.mean(0) if average_parameters else stacked

    params = jax.tree.map(together, *(model.params for model in models))
    count = 1 if average_parameters else len(models)
    alike = len({model.config.compute_dtype for model in models}) == 1
    compute_dtype = models[0].config.compute_dtype if alike else "float32"
    return replace(
        models[0],
        config=replace(
            models[0].config, ensemble=count, compute_dtype=compute_dtype, attention="xla"
        ),
        max_length=min(model.max_length for model in models),
        params=params,
    )


def _difference(one: ModelDir, other: ModelDir) -> str:
    """What of two models is not the same, "" if nothing is."""
    names = [model.labels.names if model.labels else None for model in (one, other)]
    if names[0] != names[1]:
        return "other labels"
    if (one.vocab, one.lower_case, one.tokenizer, one.definition) != (
        other.vocab,
        other.lower_case,
        other.tokenizer,
        other.definition,
    ):
        return "another vocabulary or tokenizer"
    if replace(one.config, **OF_TRAINING) != replace(other.config, **OF_TRAINING):
        return "another shape or head"
    return ""
