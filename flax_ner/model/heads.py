"""Token classification head: from the encoder's vectors to a score for each tag."""

import jax.numpy as jnp
from flax import nnx
from jax import Array

from flax_ner.model.bert import BertConfig, Dense
from flax_ner.model.dropout import dropout
from flax_ner.model.initial_values import constant_param


class Head(nnx.Module):
    """Dropout and one linear layer, shared by the heads `softmax`, `softmax_constrained` and `crf`.

    The head `crf` also has a transition score for each pair of tags, initialised to 0. `decoding.Decoder`
    turns the logits into tags.
    """

    def __init__(self, config: BertConfig, rngs: nnx.Rngs):
        self.classifier = Dense(
            (config.hidden_size,), (config.num_labels,), config.initializer_range, rngs
        )
        if config.head == "crf":
            self.transitions = constant_param(rngs, (config.num_labels, config.num_labels), 0)
        self.config = config

    def __call__(self, x: Array, positions: Array, seeds: Array | None) -> Array:
        """Return logits, float32 [B, T, C].

        Args:
            x: [B, T, D], from the encoder.
            positions: not used; `GlobalPointer` needs them.
            seeds: uint32 [B, 2] for dropout; None for a deterministic pass.
        """
        x = dropout(x, self.config.classifier_dropout, seeds)
        # Float32 logits for either compute dtype: small differences decide between tags.
        return self.classifier(x.astype(jnp.float32), jnp.float32)
