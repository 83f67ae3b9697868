"""What the device does with a batch of packed rows: the model, and its head's scores read."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import NamedSharding

from flax_ner.model import global_pointer
from flax_ner.model.bert import BertConfig
from flax_ner.model.crf import Chain, chain
from flax_ner.model.decoding import Decoded, Decoder
from flax_ner.model.global_pointer import Found
from flax_ner.model.tagger import Logits, Params, apply
from flax_ner.text.labels import LabelSet, SpanLabels


def make_decoder(config: BertConfig, labels: LabelSet) -> Decoder:
    """What reads the scores of this model's head; of spans it knows no more than the head's name."""
    spans = isinstance(labels, SpanLabels)
    legal = np.zeros((0, 0), bool) if spans else labels.legal_steps()
    return Decoder(config.head, legal, labels.outside)


def logits(config: BertConfig, params: Params, input_ids: Array, mask: Array) -> Array:
    """Scores of rows [B, T] of one text each, as `Tagger.logits` gives them."""
    positions = jnp.broadcast_to(jnp.arange(input_ids.shape[1], dtype=jnp.int32), input_ids.shape)
    scores = apply(config, params, input_ids, mask, positions)
    return global_pointer.scores(scores) if config.head == "global_pointer" else scores


def best(
    config: BertConfig,
    decoder: Decoder,
    sharding: NamedSharding | None,
    params: Params,
    *batch: Array,
) -> Decoded | Found:
    """The best tags, or of a head of spans those that are entities; `batch` as of `_scores`."""
    head, scores, chains = _scores(config, sharding, params, *batch)
    if config.head == "global_pointer":
        return global_pointer.found(scores, batch[1], chains)
    return decoder.best(head, scores, chains)


def probabilities(
    config: BertConfig,
    decoder: Decoder,
    sharding: NamedSharding | None,
    params: Params,
    *batch: Array,
) -> tuple[Array, Array]:
    """Return the probability of every tag, float32 [B, T, C], and the best tags, int32 [B, T].

    The tags are those of `best`. With a CRF they may differ from the most probable tag of each token.
    `batch` is as in `_scores`.
    """
    inputs = _scores(config, sharding, params, *batch)
    return decoder.probabilities(*inputs), decoder.best(*inputs).tag


def _scores(
    config: BertConfig, sharding: NamedSharding | None, params: Params, *batch: Array
) -> tuple[Params, Logits, Chain]:
    """What a decoder takes; `batch` is input_ids, segment_ids, positions, words [B, T]."""
    mesh: AbstractContextManager[Any] = nullcontext()
    if sharding is not None:
        mesh = jax.sharding.use_abstract_mesh(sharding.mesh.abstract_mesh)
    input_ids, segment_ids, positions, words = batch
    with mesh:
        scores = apply(config, params, input_ids, segment_ids, positions)
    head = params["head"]
    if config.ensemble > 1:  # of a CRF's transitions, too, the mean
        head = jax.tree.map(lambda x: x.mean(0), head)
    return head, scores, chain(segment_ids, positions, words > 0)
