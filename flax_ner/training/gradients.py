"""Loss and gradients of a batch, and what some recipes do besides."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from ml_collections import ConfigDict

from flax_ner.model import global_pointer
from flax_ner.model.bert import BertConfig
from flax_ner.model.crf import Chain, chain
from flax_ner.model.decoding import Decoder
from flax_ner.model.losses import cross_entropy, focal_loss
from flax_ner.model.tagger import Logits, Params, apply
from flax_ner.training.random_keys import paired_row_keys, step_key

State = dict[str, Any]  # {"params", "opt_state", "step"}, and "ema" where parameters are averaged
Loss = Callable[[Logits, Any, Params], Array]  # of scores, batch, the head's parameters
Gradients = Callable[[State, Any], tuple[Array, Params]]


class Tricks(NamedTuple):
    """What a step does besides (fields of `config.train`, which says what they mean); all off."""

    gradient_accumulation_steps: int = 1
    fgm: float = 0.0
    r_drop: float = 0.0


def make_loss(config: ConfigDict, decoder: Decoder | None = None) -> Loss:
    """The loss that `config.loss` names; of a decoder of the heads `crf` and `global_pointer`, their own."""
    token_loss = partial(focal_loss, gamma=config.gamma)
    if config.name == "cross_entropy":
        token_loss = partial(cross_entropy, label_smoothing=config.label_smoothing)

    def loss_of(logits: Logits, batch: Any, head: Params) -> Array:
        labelled = has_label(batch)
        chains = chain(batch.segment_ids, batch.positions, labelled)
        if decoder is not None and decoder.head == "global_pointer":
            return global_pointer.loss(logits, batch.labels, batch.segment_ids, chains)
        if decoder is not None and decoder.head == "crf":
            chains = Chain(*(x & labelled for x in chains))  # of a teacher's texts there are none
            return decoder.negative_log_likelihood(head, logits, batch.labels, chains)
        return token_loss(logits, batch.labels, (batch.segment_ids > 0) & labelled)

    return loss_of


def make_gradients(
    model: BertConfig, loss_of: Loss, seed: int | Array, tricks: Tricks | None = None
) -> Gradients:
    """`(state, batch [B, T]) -> (loss, gradients)`; dropout depends on seed and step alone."""
    tricks = tricks or Tricks()

    def loss(params: Params, batch: Any, keys: Array) -> Array:
        def forward(keys: Array) -> Logits:
            return apply(model, params, batch.input_ids, batch.segment_ids, batch.positions, keys)

        logits = forward(keys[:, 0])
        mean = loss_of(logits, batch, params["head"])
        if tricks.r_drop:
            other = forward(keys[:, 1])
            mean = (mean + loss_of(other, batch, params["head"])) / 2
            mean += tricks.r_drop / 2 * divergence(logits, other, counted(batch))
        return mean

    return gradients_of(loss, lambda batch: counted(batch).sum(), seed, tricks)


def gradients_of(
    loss: Callable[[Params, Any, Array], Array],
    size: Callable[[Any], Array],
    seed: int | Array,
    tricks: Tricks,
) -> Gradients:
    """Return the gradients of a loss, accumulated over micro-batches, with an FGM pass where asked for.

    A row has the same random keys in every split of a batch, so micro-batches give the gradients of the
    whole batch but for rounding, with dropout too.

    Args:
        loss: of (parameters, batch, key array [B, 2]); a mean over the tokens that `size` counts. The two
            keys of a row depend on the seed, the step and the row's number in the batch alone.
        size: number of tokens of a batch that the loss is a mean of.
        seed: of the run.
        tricks: number of micro-batches, and the FGM perturbation.
    """
    parts = tricks.gradient_accumulation_steps

    def mean(params: Params, batch: Any, key: Array) -> tuple[Array, Params]:
        keys = paired_row_keys(key, len(batch.input_ids))  # [B, 2]
        if parts == 1:
            return jax.value_and_grad(loss)(params, batch, keys)

        def add(sums: Any, micro_batch: tuple[Any, Array]) -> tuple[Any, None]:
            rows, keys = micro_batch
            count = size(rows).astype(jnp.float32)
            found = jax.value_and_grad(loss)(params, rows, keys)
            weighted = jax.tree.map(lambda x: x * count, (*found, jnp.float32(1)))
            return jax.tree.map(jnp.add, sums, weighted), None

        # Each micro-batch has rows of every device.
        micro_batches = jax.tree.map(
            lambda x: x.reshape(-1, parts, *x.shape[1:]).swapaxes(0, 1), (batch, keys)
        )  # [parts, B / parts, T]
        zero = jax.tree.map(jnp.zeros_like, (jnp.float32(0), params, jnp.float32(0)))
        (value, grads, count), _ = jax.lax.scan(add, zero, micro_batches)
        return jax.tree.map(lambda x: x / jnp.maximum(count, 1), (value, grads))

    def gradients(state: State, batch: Any) -> tuple[Array, Params]:
        key, fgm_key = jax.random.split(step_key(seed, state["step"]))
        value, grads = mean(state["params"], batch, key)
        if tricks.fgm:
            moved = against(state["params"], grads, tricks.fgm)
            grads = jax.tree.map(jnp.add, grads, mean(moved, batch, fgm_key)[1])
        return value, grads

    return gradients


def divergence(logits: Array, other: Array, mask: Array) -> Array:
    """How far two passes with dropout of their own are apart, float32 scalar: the mean over `mask` [B, T]
    of KL(p, q) / 2 + KL(q, p) / 2.

    Source: Liang et al. 2021, R-Drop, arXiv 2106.14448; differs: half of all, so that the loss is
    that of one pass.
    """
    log_p, log_q = jax.nn.log_softmax(logits), jax.nn.log_softmax(other)
    apart = ((jnp.exp(log_p) - jnp.exp(log_q)) * (log_p - log_q)).sum(-1) / 2  # [B, T]
    mask = mask.astype(logits.dtype)
    return (apart * mask).sum() / jnp.maximum(mask.sum(), 1)


def against(params: Params, grads: Params, length: float) -> Params:
    """Parameters whose word embeddings are moved by `length` along their gradient.

    Source: Miyato et al. 2017, arXiv 1605.07725; differs: the table is moved as a whole, as is usual
    in taggers, and not the vectors of each sentence.
    """
    word = grads["encoder"]["embeddings"]["word"]
    step = length / jnp.maximum(jnp.sqrt(jnp.square(word).sum()), 1e-12) * word
    encoder = params["encoder"]
    embeddings = encoder["embeddings"]
    moved = embeddings | {"word": embeddings["word"] + step}
    return params | {"encoder": encoder | {"embeddings": moved}}


def has_label(batch: Any) -> Array:
    """Whether each token has a label that is known, bool [B, T]; what is padding does not matter."""
    labels: Array = batch.labels
    return (labels if labels.ndim == 2 else labels[..., 0]) >= 0


def counted(batch: Any) -> Array:
    """What the loss is a mean over, bool [B, T]: tokens with a label, or a teacher's answer; of a head of
    spans, sentences, by their first token."""
    inside = batch.segment_ids > 0
    if batch.labels.ndim == 3:
        return inside & (batch.positions == 0)
    known = has_label(batch)
    if batch.teacher is not None:
        known |= (batch.teacher > 0).any(-1)
    return inside & known
