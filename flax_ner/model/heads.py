"""The head of tags: from the encoder's vectors to a score for each."""

import jax.numpy as jnp
from flax import nnx
from jax import Array

from flax_ner.model.bert import BertConfig, Dense
from flax_ner.model.dropout import dropout


class Head(nnx.Module):
    """Dropout and one linear layer, a score for each tag of each token; `decoding` reads them.

    With a CRF also a score for each tag behind each other, 0 at first.
    """

    def __init__(self, config: BertConfig, rngs: nnx.Rngs):
        self.classifier = Dense(
            (config.hidden_size,), (config.num_labels,), config.initializer_range, rngs
        )
        if config.head == "crf":
            self.transitions = nnx.Param(
                jnp.zeros((config.num_labels, config.num_labels), jnp.float32)
            )
        self.config = config

    def __call__(self, x: Array, positions: Array, seeds: Array | None) -> Array:
        """Logits float32 [B, T, C] of `x` [B, T, D]; `seeds` uint32 [B, 2] for dropout; None for none.

        `positions` are not looked at.
        """
        x = dropout(x, self.config.classifier_dropout, seeds)
        # Float32 logits in either compute dtype: tags are chosen by small differences.
        return self.classifier(x.astype(jnp.float32), jnp.float32)
