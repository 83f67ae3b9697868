"""Jittable forward passes over a batch of packed rows: logits, predictions and tag probabilities."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import NamedSharding

from flax_ner.model import global_pointer
from flax_ner.model.bert import BertConfig
from flax_ner.model.crf import Chain, make_chain
from flax_ner.model.decoding import Decoded, Decoder
from flax_ner.model.global_pointer import SpanPredictions
from flax_ner.model.tagging_model import Logits, Params, apply
from flax_ner.text.labels import LabelSet, SpanLabels


def make_decoder(config: BertConfig, labels: LabelSet) -> Decoder:
    """Return the decoder for the model's head. A span head has no tag transitions."""
    has_spans = isinstance(labels, SpanLabels)
    allowed = np.zeros((0, 0), bool) if has_spans else labels.allowed_transitions()
    return Decoder(config.head, allowed, labels.outside)


def logits(config: BertConfig, params: Params, input_ids: Array, mask: Array) -> Array:
    """Return the logits of rows with one text each, see `Tagger.logits`.

    Args:
        config: architecture of the model.
        params: parameters of the model.
        input_ids: int32 [B, T].
        mask: int32 [B, T], 0 for padding.
    """
    positions = jnp.broadcast_to(jnp.arange(input_ids.shape[1], dtype=jnp.int32), input_ids.shape)
    scores = apply(config, params, input_ids, mask, positions)
    return global_pointer.span_scores(scores) if config.head == "global_pointer" else scores


def predict(
    config: BertConfig,
    decoder: Decoder,
    sharding: NamedSharding | None,
    params: Params,
    *batch: Array,
) -> Decoded | SpanPredictions:
    """Return the best tags, or, for a span head, the predicted spans.

    Args:
        config: architecture of the model.
        decoder: decoder of its head.
        sharding: sharding of the batch, None for a single device.
        params: parameters of the model.
        batch: input_ids, segment_ids, positions and word_starts of a `rows.Batch`, int32 [B, T] each.
    """
    head, scores, chains = _forward(config, sharding, params, *batch)
    if config.head == "global_pointer":
        return global_pointer.predict_spans(scores, batch[1], chains)
    return decoder.decode(head, scores, chains)


def predict_proba(
    config: BertConfig,
    decoder: Decoder,
    sharding: NamedSharding | None,
    params: Params,
    *batch: Array,
) -> tuple[Array, Array]:
    """Return the probability of every tag, float32 [B, T, C], and the best tags, int32 [B, T].

    The tags are those of `predict`. With a CRF they may differ from the most probable tag of each token.
    The arguments are those of `predict`.
    """
    inputs = _forward(config, sharding, params, *batch)
    return decoder.tag_probabilities(*inputs), decoder.decode(*inputs).tags


def _forward(
    config: BertConfig, sharding: NamedSharding | None, params: Params, *batch: Array
) -> tuple[Params, Logits, Chain]:
    """Return the parameters of the head, the logits, and which tokens form the chains to decode."""
    mesh: AbstractContextManager[Any] = nullcontext()
    if sharding is not None:
        mesh = jax.sharding.use_abstract_mesh(sharding.mesh.abstract_mesh)
    input_ids, segment_ids, positions, word_starts = batch
    with mesh:
        scores = apply(config, params, input_ids, segment_ids, positions)
    head = params["head"]
    if config.ensemble > 1:  # the members' mean, for the transitions of a CRF too
        head = jax.tree.map(lambda x: x.mean(0), head)
    return head, scores, make_chain(segment_ids, positions, word_starts > 0)
