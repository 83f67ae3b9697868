"""Decode a head's scores into tags and their probabilities."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from flax_ner.model import crf
from flax_ner.model.tagging_model import Params


class Decoded(NamedTuple):
    """Predicted tags of packed rows.

    For a run of tags, p(run) = exp(log_probs of its first tag + sum of conditional_log_probs of the others).
    """

    tags: Array  # int32 [B, T]
    log_probs: Array  # float32 [B, T], of each tag
    conditional_log_probs: Array  # float32 [B, T], of each tag given the tag before it


class Decoder(NamedTuple):
    """Decoding method of a head.

    `softmax` takes the most probable tag of each token. `softmax_constrained` takes the most probable tag
    sequence that the scheme allows. `crf` does the same with the learned transitions of the CRF.
    `global_pointer` has no tags; see `global_pointer.predict_spans`.
    """

    head: str  # as in `BertConfig`
    allowed_transitions: np.ndarray  # bool [C, C], from `LabelSet.allowed_transitions`
    outside: int  # tag of [CLS] and [SEP]

    def decode(self, head: Params, logits: Array, chain: crf.Chain) -> Decoded:
        """Return the predicted tags.

        Args:
            head: parameters of the head.
            logits: float32 [B, T, C].
            chain: chains of the rows.
        """
        if self.head == "softmax":
            log_probs = jax.nn.log_softmax(logits)
            best = log_probs.max(-1)
            return Decoded(log_probs.argmax(-1), best, best)
        transitions = self.transition_scores(head)
        if self.head == "crf":
            emissions = crf.mask_special_tokens(logits, chain, self.outside)
            tags = crf.viterbi_decode(emissions, transitions, chain)
            log_probs = crf.log_marginals(emissions, transitions, chain)
            conditional = crf.conditional_log_probs(emissions, transitions, tags, chain)
            return Decoded(tags, _select(log_probs, tags), conditional)
        log_probs = jax.nn.log_softmax(logits)
        emissions = crf.mask_special_tokens(log_probs, chain, self.outside)
        tags = crf.viterbi_decode(emissions, transitions, chain)
        selected = _select(log_probs, tags)
        return Decoded(tags, selected, selected)

    def tag_probabilities(self, head: Params, logits: Array, chain: crf.Chain) -> Array:
        """Return the probability of every tag, float32 [B, T, C]; arguments as for `decode`."""
        if self.head != "crf":
            return jax.nn.softmax(logits)
        return jnp.exp(self.log_marginals(head, logits, chain))

    def log_marginals(self, head: Params, logits: Array, chain: crf.Chain) -> Array:
        """Return the log-marginals of the head `crf`, float32 [B, T, C]; arguments as for `decode`."""
        emissions = crf.mask_special_tokens(logits, chain, self.outside)
        return crf.log_marginals(emissions, self.transition_scores(head), chain)

    def transition_scores(self, head: Params) -> Array:
        """Return the transition scores, float32 [C, C], `crf.NEG_INF` where the scheme forbids one."""
        shape = self.allowed_transitions.shape
        learned = head["transitions"] if self.head == "crf" else jnp.zeros(shape, jnp.float32)
        return jnp.where(self.allowed_transitions, learned, jnp.float32(crf.NEG_INF))

    def negative_log_likelihood(
        self, head: Params, logits: Array, labels: Array, chain: crf.Chain
    ) -> Array:
        """Return the loss of the head `crf`, float32 scalar; see `crf.negative_log_likelihood`."""
        emissions = crf.mask_special_tokens(logits, chain, self.outside)
        return crf.negative_log_likelihood(emissions, self.transition_scores(head), labels, chain)


def _select(log_probs: Array, tags: Array) -> Array:
    return jnp.take_along_axis(log_probs, tags[..., None], -1)[..., 0]
