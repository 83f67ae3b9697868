"""From a head's scores to tags and how probable they are."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from flax_ner.model import crf
from flax_ner.model.tagger import Params


class Decoded(NamedTuple):
    """Tags of rows; the probability of neighbouring tags is that of the first times the steps behind it."""

    tag: Array  # int32 [B, T]
    log_p: Array  # float32 [B, T], of the tag
    log_step: Array  # float32 [B, T], of the tag, given the one before it


class Decoder(NamedTuple):
    """How a head's scores are read.

    Softmax takes the best tag of each token; `softmax_constrained` the best of those sequences in which
    every tag may stand behind the one before it; `crf` likewise, by a chain's probabilities.
    `global_pointer` has no tags, and is read by `global_pointer.found`.
    """

    head: str  # as in `BertConfig`
    legal: np.ndarray  # bool [C, C], as `LabelSet.legal_steps` gives it
    outside: int  # the tag of [CLS] and [SEP]

    def best(self, head: Params, logits: Array, chain: crf.Chain) -> Decoded:
        """The tags.

        Args:
            head: the head's parameters.
            logits: its scores, float32 [B, T, C].
            chain: of the rows.
        """
        if self.head == "softmax":
            log_p = jax.nn.log_softmax(logits)
            best = log_p.max(-1)
            return Decoded(log_p.argmax(-1), best, best)
        transitions = self.transitions(head)
        if self.head == "crf":
            emissions = crf.clamp(logits, chain, self.outside)
            tag = crf.best_path(emissions, transitions, chain)
            log_p = crf.log_marginals(emissions, transitions, chain)
            log_step = crf.log_steps(emissions, transitions, tag, chain)
            return Decoded(tag, _of(log_p, tag), log_step)
        log_p = jax.nn.log_softmax(logits)
        tag = crf.best_path(crf.clamp(log_p, chain, self.outside), transitions, chain)
        own = _of(log_p, tag)
        return Decoded(tag, own, own)

    def probabilities(self, head: Params, logits: Array, chain: crf.Chain) -> Array:
        """Of every tag, float32 [B, T, C]; arguments as of `best`."""
        if self.head != "crf":
            return jax.nn.softmax(logits)
        return jnp.exp(self.log_marginals(head, logits, chain))

    def log_marginals(self, head: Params, logits: Array, chain: crf.Chain) -> Array:
        """Of the head `crf`, log-probabilities of every tag, float32 [B, T, C]."""
        emissions = crf.clamp(logits, chain, self.outside)
        return crf.log_marginals(emissions, self.transitions(head), chain)

    def transitions(self, head: Params) -> Array:
        """Scores of one tag behind another, float32 [C, C]; of what may not be, none that counts."""
        learnt = (
            head["transitions"] if self.head == "crf" else jnp.zeros(self.legal.shape, jnp.float32)
        )
        return jnp.where(self.legal, learnt, jnp.float32(crf.IMPOSSIBLE))

    def negative_log_likelihood(
        self, head: Params, logits: Array, labels: Array, chain: crf.Chain
    ) -> Array:
        """The loss of the head `crf`, float32 scalar: the mean over tokens of -log p(labels)."""
        emissions = crf.clamp(logits, chain, self.outside)
        return crf.negative_log_likelihood(emissions, self.transitions(head), labels, chain)


def _of(log_p: Array, tag: Array) -> Array:
    return jnp.take_along_axis(log_p, tag[..., None], -1)[..., 0]
