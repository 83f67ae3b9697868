"""Masked language model: the encoder, and a head that scores the tokens of the vocabulary.

Shape letters besides those of `bert`: E embedding width, K masked tokens per row, S scored tokens of the
vocabulary.

Source: Devlin et al. 2019, arXiv 1810.04805, as Hugging Face's `BertForMaskedLM`; differs: scores are
computed only at the K masked tokens of each row, and only for S tokens of the vocabulary. A corpus read by
characters uses a third of a Chinese BERT's 21,128 tokens.
"""

from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from flax_ner.model.bert import (
    ACTIVATIONS,
    Bert,
    BertConfig,
    Dense,
    LayerNorm,
    encoder_dropout_sites,
    replicate,
)
from flax_ner.model.dropout import dropout_seeds
from flax_ner.model.initial_values import ShapesOnly, constant_param
from flax_ner.model.matmul import matmul
from flax_ner.model.tagging_model import Params, abstract_params, init_params


class MaskedLMHead(nnx.Module):
    """A linear layer with activation and LayerNorm, then a product with the word embeddings, plus a bias."""

    def __init__(self, config: BertConfig, rngs: nnx.Rngs):
        width = config.embedding_width
        self.transform = Dense((config.hidden_size,), (width,), config.initializer_range, rngs)
        self.norm = LayerNorm(width, config.layer_norm_eps, rngs)
        self.bias = constant_param(rngs, (config.vocab_size,), 0)
        self.config = config

    def __call__(self, x: Array, table: Array, scored_ids: Array) -> Array:
        """Return logits, float32 [B, masked, scored].

        Args:
            x: [B, masked, D], from the encoder.
            table: [V, embedding width], the word embeddings.
            scored_ids: int [scored], ascending, the tokens to score.
        """
        table, bias = (
            array.at[scored_ids].get(unique_indices=True, indices_are_sorted=True)
            for array in (table, self.bias[...])
        )
        compute_dtype = self.config.matmul_dtype
        # RoBERTa and ELECTRA use the exact GELU here, whatever the encoder uses.
        follows_encoder = self.config.model_type in ("bert", "ernie")
        activation = ACTIVATIONS[self.config.hidden_act if follows_encoder else "gelu"]
        x = activation(self.transform(x, compute_dtype))
        x = self.norm(x, x.dtype)
        flat = x.reshape(-1, x.shape[-1])  # [B * masked, embedding width]
        logits = matmul(flat, table, compute_dtype, jnp.float32, transpose_b=True)
        return (logits + bias[None]).reshape(*x.shape[:2], -1)  # [B, masked, scored]


class BertMaskedLM(nnx.Module):
    """BERT with a masked language modelling head."""

    def __init__(self, config: BertConfig, rngs: nnx.Rngs):
        self.encoder = Bert(config, rngs)
        self.head = MaskedLMHead(config, rngs)
        self.config = config

    def __call__(
        self,
        input_ids: Array,
        segment_ids: Array,
        positions: Array,
        masked_indices: Array,
        scored_ids: Array,
        keys: Array | None = None,
    ) -> Array:
        """Return logits, float32 [B, masked, scored].

        Args:
            input_ids, segment_ids, positions, keys: see `BertTagger.__call__`.
            masked_indices: int [B, masked], the tokens of each row to predict.
            scored_ids: int [scored], ascending, the tokens of the vocabulary to score.
        """
        seeds = None if keys is None else dropout_seeds(keys, encoder_dropout_sites(self.config))
        x = self.encoder(input_ids, segment_ids, positions, seeds)
        x = jnp.take_along_axis(x, masked_indices[..., None], 1)  # [B, masked, D]
        return self.head(x, replicate(self.encoder.embeddings.word[...]), scored_ids)


def init_masked_lm(config: BertConfig, key: Array) -> Params:
    """Return freshly initialised parameters, "encoder" and "head"."""
    encoder, head = jax.random.split(key)
    return init_params(config, encoder) | {"head": _make_head(config, nnx.Rngs(params=head))}


def abstract_masked_lm(config: BertConfig) -> Params:
    """Return the tree of `init_masked_lm` with shapes instead of arrays."""
    return abstract_params(config) | {"head": abstract_masked_lm_head(config)}


def abstract_masked_lm_head(config: BertConfig) -> Params:
    """Return the parameters of `MaskedLMHead` with shapes instead of arrays."""
    return _make_head(config, ShapesOnly())


def _make_head(config: BertConfig, rngs: nnx.Rngs) -> Params:
    head: Params = nnx.to_pure_dict(nnx.state(MaskedLMHead(config, rngs)))
    return head


def apply_masked_lm(
    config: BertConfig,
    params: Params,
    input_ids: Array,
    segment_ids: Array,
    positions: Array,
    masked_indices: Array,
    scored_ids: Array,
    keys: Array | None = None,
) -> Array:
    """Compute `BertMaskedLM.__call__` as a pure function of the parameters."""
    model: BertMaskedLM = nnx.merge(_graphdef(config), params)
    return model(input_ids, segment_ids, positions, masked_indices, scored_ids, keys)


@lru_cache
def _graphdef(config: BertConfig) -> Any:
    return nnx.graphdef(BertMaskedLM(config, ShapesOnly()))
