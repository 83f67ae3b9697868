"""The distillation loss, compared with direct computations."""

from itertools import pairwise, product
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from flax_ner.config import default_config
from flax_ner.distillation.teacher import apply_temperature
from flax_ner.model.bert import BertConfig
from flax_ner.model.decoding import Decoder
from flax_ner.model.tagging_model import init_params
from flax_ner.text.batches import Batches
from flax_ner.text.encoding import NO_LABEL, UNLABELLED
from flax_ner.text.labels import LabelSet
from flax_ner.training.loss import (
    StepOptions,
    add_distillation,
    make_loss,
    make_tagging_gradients,
    teacher_divergence,
)

SMALL = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 16,
}


def options(**fields: Any) -> ConfigDict:
    config = default_config().distill
    config.update({"teacher": "somewhere", **fields})
    return config


def batch(rows: int = 8, width: int = 6, tags: int = 5) -> Batches:
    """Return rows of different lengths, whose tokens have a label, teacher probabilities, both or neither."""
    random = np.random.default_rng(0)
    shape = (rows, width)
    positions = np.broadcast_to(np.arange(width, dtype=np.int32), shape)
    labels = random.integers(-1, tags, shape, np.int32)
    labels[1::2] = UNLABELLED
    segments = (positions < random.integers(3, width + 1, (rows, 1))).astype(np.int32)
    teacher = random.dirichlet(np.ones(tags), shape) * (random.random(shape) < 0.7)[..., None]
    teacher[segments == 0] = 0
    ids = random.integers(0, 30, shape, np.int32)
    return Batches(ids, segments, positions, labels, teacher.astype(np.float16))


def softmax(x: np.ndarray) -> np.ndarray:
    powers = np.exp(x - x.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


@pytest.mark.parametrize("name", ["cross_entropy", "focal", "smoothed"])
def test_the_loss_equals_its_formula(name: str) -> None:
    rows, weight, temperature = batch(), 0.7, 3.0
    logits = np.random.default_rng(1).normal(0, 2, (8, 6, 5)).astype(np.float32)
    losses = default_config().loss
    if name == "smoothed":
        losses.label_smoothing = 0.1
    else:
        losses.name = name
    total = np.float64(0)
    counted, p, q = 0, softmax(logits), softmax(logits / temperature)
    assert rows.teacher is not None
    for index in np.ndindex(8, 6):
        label, probs = rows.labels[index], rows.teacher[index].astype(np.float64)
        if not rows.segment_ids[index]:
            continue
        counted += label >= 0 or probs.any()
        if label >= 0:
            own = -np.log(p[index][label])
            if name == "focal":
                own *= (1 - p[index][label]) ** 2
            elif name == "smoothed":
                own = 0.9 * own - 0.1 * np.log(p[index]).mean()
            total += (1 - weight) * own
        if probs.any():
            probs /= probs.sum()
            positive = probs > 0
            divergence = (probs[positive] * np.log(probs[positive] / q[index][positive])).sum()
            total += weight * temperature**2 * divergence
    loss_of = add_distillation(make_loss(losses), options(weight=weight, temperature=temperature))
    loss = loss_of(jnp.array(logits), jax.tree.map(jnp.array, rows), {})
    assert float(loss) == pytest.approx(total / counted, rel=1e-5)


@pytest.mark.slow
@pytest.mark.every_python
def test_a_crf_learns_from_the_marginals() -> None:
    labels = LabelSet(["name"])  # O, B, I
    decoder = Decoder("crf", labels.allowed_transitions(), labels.outside)
    random = np.random.default_rng(0)
    # One row with a labelled text, in which a word has two tokens, and an unlabelled text. The word at index 7
    # has no teacher probabilities.
    tags = np.array([[0, 1, NO_LABEL, 2, 0, *[UNLABELLED] * 5]], np.int32)
    probss = random.dirichlet(np.ones(3), (1, 10)).astype(np.float16)
    probss[0, [0, 2, 4, 5, 7, 9]] = 0
    rows = Batches(
        np.zeros((1, 10), np.int32),
        np.array([[1] * 5 + [2] * 5], np.int32),
        np.array([[*range(5), *range(5)]], np.int32),
        tags,
        probss,
    )
    logits = random.normal(0, 2, (1, 10, 3)).astype(np.float32)
    transitions = random.normal(0, 1, (3, 3)).astype(np.float32)
    weight, temperature, total = 0.7, 2.0, 0.0
    for words in ([0, 1, 3, 4], [5, 6, 7, 8, 9]):
        scores = {
            path: sum(logits[0, word, tag] for word, tag in zip(words, path, strict=True))
            + sum(transitions[step] for step in pairwise(path))
            for path in product(range(3), repeat=len(words))
            if path[0] == path[-1] == 0
            and all(decoder.allowed_transitions[step] for step in pairwise(path))
        }
        log_z = np.logaddexp.reduce(list(scores.values()))
        if words[0] == 0:
            total += (1 - weight) * (log_z - scores[0, 1, 2, 0])
        for i, word in enumerate(words):
            if not probss[0, word].any():
                continue
            mass = np.zeros(3)
            for path, score in scores.items():
                mass[path[i]] += np.exp(score - log_z)
            possible = mass > 0
            assert possible.all() == (i > 1)  # a text cannot start with I
            p, q = probss[0, word, possible].astype(np.float64), mass[possible] ** (1 / temperature)
            share = p.sum() / probss[0, word].astype(np.float64).sum()
            p, q = p / p.sum(), q / q.sum()
            total += weight * temperature**2 * share * (p * np.log(p / q)).sum()
    loss_of = add_distillation(
        make_loss(default_config().loss, decoder), options(weight=weight), decoder
    )
    head = {"transitions": jnp.array(transitions)}
    on_device = jax.tree.map(jnp.array, rows)
    loss, grad = jax.value_and_grad(loss_of)(jnp.array(logits), on_device, head)
    assert float(loss) == pytest.approx(total / 6, rel=1e-5)
    assert np.isfinite(grad).all() and grad[0, [1, 3, 6, 7, 8]].any(-1).all()
    assert not grad[0, 2].any()


def test_unlabelled_tokens_have_the_distillation_term_only() -> None:
    rows = jax.tree.map(jnp.array, batch())
    loss_of = make_loss(default_config().loss)
    logits = jnp.array(np.random.default_rng(1).normal(0, 2, (8, 6, 5)), jnp.float32)
    unlabelled = rows._replace(labels=jnp.full_like(rows.labels, UNLABELLED))
    divergence = teacher_divergence(rows.teacher, logits, 2.0)
    assert float(loss_of(logits, unlabelled, {})) == 0
    loss = add_distillation(loss_of, options(weight=0.25))(logits, unlabelled, {})
    assert float(loss) == pytest.approx(float(divergence.sum() / (divergence > 0).sum()), rel=1e-5)


def test_the_temperature_divides_logits() -> None:
    logits = np.random.default_rng(0).normal(0, 4, (9, 5)).astype(np.float32)
    for temperature in (0.5, 1.0, 4.0):
        result = apply_temperature(softmax(logits), temperature)
        np.testing.assert_allclose(result, softmax(logits / temperature), atol=1e-6)
    certain = apply_temperature(
        np.eye(3, dtype=np.float32), 4.0
    )  # a CRF gives impossible tags probability 0
    np.testing.assert_array_equal(certain, np.eye(3))


@pytest.mark.slow
@pytest.mark.parametrize("micro_batches", [2, 8])
def test_micro_batches_have_the_gradients_of_the_whole_batch(micro_batches: int) -> None:
    no_dropout = {
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "classifier_dropout": 0.0,
    }
    model = BertConfig(vocab_size=30, num_labels=5, **SMALL, **no_dropout)
    state = {"params": init_params(model, jax.random.key(0)), "step": jnp.int32(3)}
    loss_of = add_distillation(make_loss(default_config().loss), options())
    loss, grads = make_tagging_gradients(model, loss_of, 0)(state, batch())
    step_options = StepOptions(gradient_accumulation_steps=micro_batches)
    value, accumulated = make_tagging_gradients(model, loss_of, 0, step_options)(state, batch())
    assert float(value) == pytest.approx(float(loss), rel=1e-5)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-6), accumulated, grads)


def test_without_a_teacher_the_loss_is_the_same() -> None:
    loss_of = make_loss(default_config().loss)
    assert add_distillation(loss_of, options(teacher="")) is loss_of
    assert (
        len(jax.tree.leaves(batch()._replace(teacher=None))) == 4
    )  # batches are as without distillation
