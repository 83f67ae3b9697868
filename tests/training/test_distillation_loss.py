"""What a student's loss is: by hand, with labels, answers, both and neither."""

from itertools import pairwise, product
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from flax_ner.config import default_config
from flax_ner.model.bert import BertConfig
from flax_ner.model.decoding import Decoder
from flax_ner.model.tagger import init_params
from flax_ner.text.batches import Batches
from flax_ner.text.encoding import NO_LABEL, UNLABELLED
from flax_ner.text.labels import LabelSet
from flax_ner.training.distillation import distilled, divergence_from, soften
from flax_ner.training.gradients import Tricks, make_gradients, make_loss

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
    """Rows of different lengths: tokens with a label, with a teacher's answer, with both, with neither."""
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
def test_the_loss_is_that_of_its_formula(name: str) -> None:
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
    for place in np.ndindex(8, 6):
        label, answer = rows.labels[place], rows.teacher[place].astype(np.float64)
        if not rows.segment_ids[place]:
            continue
        counted += label >= 0 or answer.any()
        if label >= 0:
            own = -np.log(p[place][label])
            if name == "focal":
                own *= (1 - p[place][label]) ** 2
            elif name == "smoothed":
                own = 0.9 * own - 0.1 * np.log(p[place]).mean()
            total += (1 - weight) * own
        if answer.any():
            answer /= answer.sum()
            some = answer > 0
            apart = (answer[some] * np.log(answer[some] / q[place][some])).sum()
            total += weight * temperature**2 * apart
    loss_of = distilled(make_loss(losses), options(weight=weight, temperature=temperature))
    found = loss_of(jnp.array(logits), jax.tree.map(jnp.array, rows), {})
    assert float(found) == pytest.approx(total / counted, rel=1e-5)


def test_a_chain_learns_from_the_marginals() -> None:
    labels = LabelSet(["name"])  # O, B, I
    decoder = Decoder("crf", labels.legal_steps(), labels.outside)
    random = np.random.default_rng(0)
    # In one row a text with labels, of which a word has two pieces, and one that only the teacher knows,
    # but for the word at place 7.
    tags = np.array([[0, 1, NO_LABEL, 2, 0, *[UNLABELLED] * 5]], np.int32)
    answers = random.dirichlet(np.ones(3), (1, 10)).astype(np.float16)
    answers[0, [0, 2, 4, 5, 7, 9]] = 0
    rows = Batches(
        np.zeros((1, 10), np.int32),
        np.array([[1] * 5 + [2] * 5], np.int32),
        np.array([[*range(5), *range(5)]], np.int32),
        tags,
        answers,
    )
    logits = random.normal(0, 2, (1, 10, 3)).astype(np.float32)
    transitions = random.normal(0, 1, (3, 3)).astype(np.float32)
    weight, temperature, total = 0.7, 2.0, 0.0
    for words in ([0, 1, 3, 4], [5, 6, 7, 8, 9]):
        scores = {
            path: sum(logits[0, word, tag] for word, tag in zip(words, path, strict=True))
            + sum(transitions[step] for step in pairwise(path))
            for path in product(range(3), repeat=len(words))
            if path[0] == path[-1] == 0 and all(decoder.legal[step] for step in pairwise(path))
        }
        log_z = np.logaddexp.reduce(list(scores.values()))
        if words[0] == 0:
            total += (1 - weight) * (log_z - scores[0, 1, 2, 0])
        for i, word in enumerate(words):
            if not answers[0, word].any():
                continue
            mass = np.zeros(3)
            for path, score in scores.items():
                mass[path[i]] += np.exp(score - log_z)
            can = mass > 0
            assert can.all() == (i > 1)  # I does not begin a text
            p, q = answers[0, word, can].astype(np.float64), mass[can] ** (1 / temperature)
            share = p.sum() / answers[0, word].astype(np.float64).sum()
            p, q = p / p.sum(), q / q.sum()
            total += weight * temperature**2 * share * (p * np.log(p / q)).sum()
    loss_of = distilled(make_loss(default_config().loss, decoder), options(weight=weight), decoder)
    head = {"transitions": jnp.array(transitions)}
    on_device = jax.tree.map(jnp.array, rows)
    found, slope = jax.value_and_grad(loss_of)(jnp.array(logits), on_device, head)
    assert float(found) == pytest.approx(total / 6, rel=1e-5)
    assert np.isfinite(slope).all() and slope[0, [1, 3, 6, 7, 8]].any(-1).all()
    assert not slope[0, 2].any()


def test_without_labels_the_teacher_alone_counts() -> None:
    rows = jax.tree.map(jnp.array, batch())
    loss_of = make_loss(default_config().loss)
    logits = jnp.array(np.random.default_rng(1).normal(0, 2, (8, 6, 5)), jnp.float32)
    bare = rows._replace(labels=jnp.full_like(rows.labels, UNLABELLED))
    alone = divergence_from(rows.teacher, logits, 2.0)
    assert float(loss_of(logits, bare, {})) == 0
    found = distilled(loss_of, options(weight=0.25))(logits, bare, {})
    assert float(found) == pytest.approx(float(alone.sum() / (alone > 0).sum()), rel=1e-5)


def test_temperature_divides_logits() -> None:
    logits = np.random.default_rng(0).normal(0, 4, (9, 5)).astype(np.float32)
    for temperature in (0.5, 1.0, 4.0):
        found = soften(softmax(logits), temperature)
        np.testing.assert_allclose(found, softmax(logits / temperature), atol=1e-6)
    certain = soften(np.eye(3, dtype=np.float32), 4.0)  # as a chain's impossible tags are
    np.testing.assert_array_equal(certain, np.eye(3))


@pytest.mark.slow
@pytest.mark.parametrize("parts", [2, 8])
def test_parts_of_a_batch_have_the_gradients_of_the_whole(parts: int) -> None:
    still = {
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "classifier_dropout": 0.0,
    }
    model = BertConfig(vocab_size=30, num_labels=5, **SMALL, **still)
    state = {"params": init_params(model, jax.random.key(0)), "step": jnp.int32(3)}
    loss_of = distilled(make_loss(default_config().loss), options())
    loss, grads = make_gradients(model, loss_of, 0)(state, batch())
    tricks = Tricks(gradient_accumulation_steps=parts)
    value, found = make_gradients(model, loss_of, 0, tricks)(state, batch())
    assert float(value) == pytest.approx(float(loss), rel=1e-5)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-6), found, grads)


def test_without_a_teacher_the_loss_is_the_same() -> None:
    loss_of = make_loss(default_config().loss)
    assert distilled(loss_of, options(teacher="")) is loss_of
    assert len(jax.tree.leaves(batch()._replace(teacher=None))) == 4  # a step compiles as it did
