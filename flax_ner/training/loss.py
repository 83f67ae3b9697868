"""The training loss and its gradients, from the loss of a head to what the optimizer receives.

1. `make_loss`: cross-entropy, focal loss, or the loss of the head `crf` or `global_pointer`.
2. `add_distillation`: a share of it becomes the divergence from a teacher.
3. `make_tagging_gradients`: R-Drop adds the divergence between two forward passes.
4. `accumulate_gradients`: gradients over micro-batches, and FGM adds those at perturbed word embeddings.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.scipy.special import xlogy
from ml_collections import ConfigDict

from flax_ner.model import global_pointer
from flax_ner.model.bert import BertConfig
from flax_ner.model.crf import NEG_INF, Chain, make_chain
from flax_ner.model.decoding import Decoder
from flax_ner.model.losses import cross_entropy, focal_loss
from flax_ner.model.tagging_model import Logits, Params, apply
from flax_ner.text.encoding import NO_LABEL
from flax_ner.training.random_keys import paired_row_keys, step_key

State = dict[str, Any]  # {"params", "opt_state", "step"}, and "ema" with `train.ema`
Loss = Callable[[Logits, Any, Params], Array]  # of logits, batch, the head's parameters; a scalar
Gradients = Callable[[State, Any], tuple[Array, Params]]


class StepOptions(NamedTuple):
    """Fields of `config.train` that change the gradients. By default they are off."""

    gradient_accumulation_steps: int = 1
    fgm: float = 0.0
    r_drop: float = 0.0


def make_loss(config: ConfigDict, decoder: Decoder | None = None) -> Loss:
    """Return the loss of a head, a mean over the labelled tokens of a batch (sentences for `global_pointer`).

    Args:
        config: `config.loss`; the heads `crf` and `global_pointer` have a loss of their own.
        decoder: decoder of the tagger. None: each token is classified independently.
    """
    token_loss = partial(focal_loss, gamma=config.gamma)
    if config.name == "cross_entropy":
        token_loss = partial(cross_entropy, label_smoothing=config.label_smoothing)

    def loss_of(logits: Logits, batch: Any, head: Params) -> Array:
        labelled = has_label(batch)
        chains = make_chain(batch.segment_ids, batch.positions, labelled)
        if decoder is not None and decoder.head == "global_pointer":
            return global_pointer.loss(logits, batch.labels, batch.segment_ids, chains)
        if decoder is not None and decoder.head == "crf":
            chains = Chain(*(x & labelled for x in chains))  # texts without labels have no chain
            return decoder.negative_log_likelihood(head, logits, batch.labels, chains)
        return token_loss(logits, batch.labels, (batch.segment_ids > 0) & labelled)

    return loss_of


def add_distillation(loss_of: Loss, options: ConfigDict, decoder: Decoder | None = None) -> Loss:
    """Return a loss that also learns from a teacher's probabilities; `loss_of` itself without a teacher.

    For each token: (1 - weight) * loss + weight * temperature^2 * KL(teacher || student), the divergence
    at the temperature; then the mean over tokens with a label or teacher probabilities. A token without
    label has the second term only, one without teacher probabilities the first only. With the head `crf`
    the divergence is between marginals.

    Args:
        loss_of: the loss of the labels, a mean over labelled tokens.
        options: `config.distill`.
        decoder: decoder of the student; required for the head `crf`.

    Source: Hinton, Vinyals and Dean 2015, arXiv 1503.02531.
    """
    if not has_teacher(options):
        return loss_of
    weight, temperature = options.weight, options.temperature

    def distillation_loss(logits: Array, batch: Any, head: Params) -> Array:
        labelled = ((batch.segment_ids > 0) & has_label(batch)).sum().astype(jnp.float32)
        count = jnp.maximum(counted_tokens(batch).sum(), 1).astype(jnp.float32)
        label_loss = loss_of(logits, batch, head) * (labelled / count)
        scores = logits
        if decoder is not None and decoder.head == "crf":
            chains = make_chain(batch.segment_ids, batch.positions, batch.labels != NO_LABEL)
            scores = decoder.log_marginals(head, logits, chains)
        divergence = teacher_divergence(batch.teacher, scores, temperature).sum() / count
        return (1 - weight) * label_loss + weight * temperature**2 * divergence

    return distillation_loss


def make_tagging_gradients(
    model: BertConfig, loss_of: Loss, seed: int | Array, options: StepOptions | None = None
) -> Gradients:
    """Return `(state, batch [B, T]) -> (loss, gradients)` of a tagger.

    Dropout depends on the seed and the step only.
    """
    options = options or StepOptions()

    def loss(params: Params, batch: Any, keys: Array) -> Array:
        def forward(keys: Array) -> Logits:
            return apply(model, params, batch.input_ids, batch.segment_ids, batch.positions, keys)

        logits = forward(keys[:, 0])
        mean = loss_of(logits, batch, params["head"])
        if options.r_drop:
            other = forward(keys[:, 1])
            mean = (mean + loss_of(other, batch, params["head"])) / 2
            mean += options.r_drop / 2 * r_drop_divergence(logits, other, counted_tokens(batch))
        return mean

    return accumulate_gradients(loss, lambda batch: counted_tokens(batch).sum(), seed, options)


def accumulate_gradients(
    loss: Callable[[Params, Any, Array], Array],
    size: Callable[[Any], Array],
    seed: int | Array,
    options: StepOptions,
) -> Gradients:
    """Return the gradients of a loss, accumulated over micro-batches, with an FGM pass if set.

    A row has the same random keys in every split of a batch. Micro-batches therefore give the gradients of
    the whole batch up to rounding, with dropout too.

    Args:
        loss: function of (parameters, batch, key array [B, 2]). It returns a mean over the tokens that `size`
            counts. The two keys of a row depend only on the seed, the step and the row's index in the batch.
        size: number of tokens of a batch that the loss is a mean of.
        seed: seed of the run.
        options: number of micro-batches, and the norm of the FGM perturbation.
    """
    micro_batches = options.gradient_accumulation_steps

    def accumulate(params: Params, batch: Any, key: Array) -> tuple[Array, Params]:
        keys = paired_row_keys(key, len(batch.input_ids))  # [B, 2]
        if micro_batches == 1:
            return jax.value_and_grad(loss)(params, batch, keys)

        def add(sums: Any, micro_batch: tuple[Any, Array]) -> tuple[Any, None]:
            rows, keys = micro_batch
            count = size(rows).astype(jnp.float32)
            value_and_grads = jax.value_and_grad(loss)(params, rows, keys)
            weighted = jax.tree.map(lambda x: x * count, (*value_and_grads, jnp.float32(1)))
            return jax.tree.map(jnp.add, sums, weighted), None

        # Each micro-batch has rows of every device.
        split = jax.tree.map(
            lambda x: x.reshape(-1, micro_batches, *x.shape[1:]).swapaxes(0, 1), (batch, keys)
        )  # [micro_batches, B / micro_batches, T]
        zero = jax.tree.map(jnp.zeros_like, (jnp.float32(0), params, jnp.float32(0)))
        (value, grads, count), _ = jax.lax.scan(add, zero, split)
        return jax.tree.map(lambda x: x / jnp.maximum(count, 1), (value, grads))

    def gradients(state: State, batch: Any) -> tuple[Array, Params]:
        key, fgm_key = jax.random.split(step_key(seed, state["step"]))
        value, grads = accumulate(state["params"], batch, key)
        if options.fgm:
            perturbed = fgm_perturb(state["params"], grads, options.fgm)
            _, adversarial = accumulate(perturbed, batch, fgm_key)
            grads = jax.tree.map(jnp.add, grads, adversarial)
        return value, grads

    return gradients


def teacher_divergence(teacher: Array, logits: Array, temperature: float) -> Array:
    """Return KL(teacher || student) of each token, float32 [B, T], over the tags that the student allows.

    It is weighted by the teacher's probability of those tags: the student cannot learn the others.

    Args:
        teacher: probabilities at the temperature, float16 [B, T, C]. Where all are 0, the divergence is 0.
        logits: the student's, or logarithms of its probabilities, float32 [B, T, C].
        temperature: the logits are divided by it.
    """
    whole = teacher.astype(logits.dtype)
    p = jnp.where(logits > NEG_INF / 2, whole, 0)
    total, possible = whole.sum(-1), p.sum(-1)  # float16 rounds each on its own
    p /= jnp.where(possible > 0, possible, 1)[..., None]
    divergence = (xlogy(p, p) - p * jax.nn.log_softmax(logits / temperature)).sum(-1)
    return divergence * possible / jnp.where(total > 0, total, 1)


def r_drop_divergence(logits: Array, other: Array, mask: Array) -> Array:
    """Return the divergence of two passes with different dropout, float32 scalar.

    It is the mean over `mask` [B, T] of (KL(p || q) + KL(q || p)) / 2.

    Source: Liang et al. 2021, R-Drop, arXiv 2106.14448; differs: the whole loss is halved, so that it has
    the scale of one pass.
    """
    log_p, log_q = jax.nn.log_softmax(logits), jax.nn.log_softmax(other)
    divergence = ((jnp.exp(log_p) - jnp.exp(log_q)) * (log_p - log_q)).sum(-1) / 2  # [B, T]
    mask = mask.astype(logits.dtype)
    return (divergence * mask).sum() / jnp.maximum(mask.sum(), 1)


def fgm_perturb(params: Params, grads: Params, norm: float) -> Params:
    """Return parameters whose word embeddings are moved along their gradient, by a step of this L2 norm.

    Source: Miyato et al. 2017, arXiv 1605.07725; differs: the embedding table is perturbed as a whole, as is
    usual for taggers, not the vectors of each sentence.
    """
    word = grads["encoder"]["embeddings"]["word"]
    step = norm / jnp.maximum(jnp.sqrt(jnp.square(word).sum()), 1e-12) * word
    encoder = params["encoder"]
    embeddings = encoder["embeddings"]
    moved = embeddings | {"word": embeddings["word"] + step}
    return params | {"encoder": encoder | {"embeddings": moved}}


def has_teacher(options: ConfigDict) -> bool:
    """Return whether `config.distill` names a teacher whose weight is not 0."""
    return bool(options.teacher) and options.weight > 0


def has_label(batch: Any) -> Array:
    """Return whether each token has a known label, bool [B, T]; its value at padding is arbitrary."""
    labels: Array = batch.labels
    return (labels if labels.ndim == 2 else labels[..., 0]) >= 0


def counted_tokens(batch: Any) -> Array:
    """Return the tokens that the loss is a mean over, bool [B, T].

    They have a label or teacher probabilities. For a head of spans they are the first tokens of sentences.
    """
    inside = batch.segment_ids > 0
    if batch.labels.ndim == 3:
        return inside & (batch.positions == 0)
    known = has_label(batch)
    if batch.teacher is not None:
        known |= (batch.teacher > 0).any(-1)
    return inside & known
