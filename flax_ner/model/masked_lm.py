"""The network of masked language modelling: the encoder, and a score for every token of the vocabulary.

Source: Devlin et al. 2019, arXiv 1810.04805, as Hugging Face's `BertForMaskedLM` has it; differs: scores
are made at K places of each row only, and for those S tokens of the vocabulary only that are asked for: a
text in characters has a third of a Chinese BERT's 21,128. Other shape letters as in `bert`.
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
    encoder_sites,
    gathered,
)
from flax_ner.model.dropout import dropout_seeds
from flax_ner.model.products import matmul
from flax_ner.model.tagger import Params, abstract_params, init_params


class MaskedLMHead(nnx.Module):
    """A linear layer with activation and LayerNorm, then products with the word embeddings, and a bias."""

    def __init__(self, config: BertConfig, rngs: nnx.Rngs):
        width = config.embedding_width  # of the word embeddings
        self.transform = Dense((config.hidden_size,), (width,), config.initializer_range, rngs)
        self.norm = LayerNorm(width, config.layer_norm_eps)
        self.bias = nnx.Param(jnp.zeros(config.vocab_size, jnp.float32))
        self.config = config

    def __call__(self, x: Array, table: Array, scored: Array) -> Array:
        """Logits float32 [B, K, S] of `x` [B, K, D]; `table` [V, E] are the word embeddings."""
        table, bias = (
            array.at[scored].get(unique_indices=True, indices_are_sorted=True)
            for array in (table, self.bias[...])
        )
        operands = self.config.operands
        # RoBERTa and ELECTRA have the exact GELU here, whatever the encoder has.
        own = self.config.model_type in ("bert", "ernie")
        activation = ACTIVATIONS[self.config.hidden_act if own else "gelu"]
        x = activation(self.transform(x, operands))
        x = self.norm(x, x.dtype)
        flat = x.reshape(-1, x.shape[-1])  # [B K, E]
        logits = matmul(flat, table, operands, jnp.float32, transposed=True)
        return (logits + bias[None]).reshape(*x.shape[:2], -1)  # [B, K, S]


class BertMaskedLM(nnx.Module):
    """BERT with that head over it."""

    def __init__(self, config: BertConfig, rngs: nnx.Rngs):
        self.encoder = Bert(config, rngs)
        self.head = MaskedLMHead(config, rngs)
        self.config = config

    def __call__(
        self,
        input_ids: Array,
        segment_ids: Array,
        positions: Array,
        places: Array,
        scored: Array,
        keys: Array | None = None,
    ) -> Array:
        """Logits float32 [B, K, S].

        Args:
            input_ids, segment_ids, positions, keys: as for `BertTagger.__call__`.
            places: int [B, K], which tokens of each row.
            scored: int [S], ascending, which tokens of the vocabulary.
        """
        seeds = None if keys is None else dropout_seeds(keys, encoder_sites(self.config))
        x = self.encoder(input_ids, segment_ids, positions, seeds)
        x = jnp.take_along_axis(x, places[..., None], 1)  # [B, K, D]
        return self.head(x, gathered(self.encoder.embeddings.word[...]), scored)


def init_masked_lm(config: BertConfig, key: Array) -> Params:
    """Fresh parameters, as `init_params`: "encoder" and "head"."""
    encoder, head = jax.random.split(key)
    return init_params(config, encoder) | {"head": _init_head(config, head)}


def abstract_masked_lm(config: BertConfig) -> Params:
    """The tree of `init_masked_lm` with shapes in place of arrays."""
    return abstract_params(config) | {"head": abstract_masked_lm_head(config)}


def abstract_masked_lm_head(config: BertConfig) -> Params:
    """The parameters of `MaskedLMHead`, with shapes in place of arrays."""
    return jax.eval_shape(lambda: _init_head(config, jax.random.key(0)))


def _init_head(config: BertConfig, key: Array) -> Params:
    head: Params = nnx.to_pure_dict(nnx.state(MaskedLMHead(config, nnx.Rngs(params=key))))
    return head


def apply_masked_lm(
    config: BertConfig,
    params: Params,
    input_ids: Array,
    segment_ids: Array,
    positions: Array,
    places: Array,
    scored: Array,
    keys: Array | None = None,
) -> Array:
    """`BertMaskedLM.__call__` as a pure function of its parameters."""
    model: BertMaskedLM = nnx.merge(_graphdef(config), params)
    return model(input_ids, segment_ids, positions, places, scored, keys)


@lru_cache
def _graphdef(config: BertConfig) -> Any:
    abstract = nnx.eval_shape(lambda: BertMaskedLM(config, nnx.Rngs(params=0)))
    return nnx.split(abstract)[0]
