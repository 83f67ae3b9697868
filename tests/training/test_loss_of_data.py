"""The loss of training data for all heads and schemes is a negative log-likelihood, so at least 0."""

from dataclasses import replace
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flax_ner.config import default_config
from flax_ner.data.cluener import read_cluener
from flax_ner.inference.forward import make_decoder
from flax_ner.model.bert import HEADS, BertConfig
from flax_ner.model.tagging_model import apply, init_params
from flax_ner.text.batches import Batcher
from flax_ner.text.encoding import check_tag_transitions, encode_examples
from flax_ner.text.examples import Entity, Example
from flax_ner.text.labels import LabelSet, SpanLabels
from flax_ner.text.tokenizer import CharTokenizer
from flax_ner.text.vocab import build_vocab
from flax_ner.training.loss import make_loss

WIDTH = 128
SIZES = {
    "hidden_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 1,
    "intermediate_size": 8,
    "max_position_embeddings": WIDTH,
}


def losses_of_rows(examples: list[Example], head: str, scheme: str) -> np.ndarray:
    """Return the loss of each packed row of a training set with random parameters, float32 [rows]."""
    categories = sorted({e.type for example in examples for e in example.entities or ()})
    labels = SpanLabels(categories) if head == "global_pointer" else LabelSet(categories, scheme)
    tokenizer = CharTokenizer(build_vocab(example.text for example in examples))
    overwrite = scheme == "mmocr" and head != "crf"
    tokens = encode_examples(examples, tokenizer, labels, WIDTH, overwrite)
    (rows,), _ = Batcher(tokens, "pack", 1, WIDTH, 0).epoch(0)  # [rows, 1, T]
    config = BertConfig(len(tokenizer.tokens), len(labels), head=head, **SIZES)
    keys = iter(jax.random.split(jax.random.key(0), 100))
    params = jax.tree.map(
        lambda x: x + 2 * jax.random.normal(next(keys), x.shape),
        init_params(config, jax.random.key(1)),
    )
    loss_of = make_loss(default_config().loss, make_decoder(config, labels))

    @jax.jit
    def losses(rows):  # type: ignore[no-untyped-def]
        def row_loss(row):  # type: ignore[no-untyped-def]
            scores = apply(config, params, row.input_ids, row.segment_ids, row.positions)
            return loss_of(scores, row, params["head"])

        return jax.lax.map(row_loss, rows, batch_size=32)

    return np.asarray(losses(jax.tree.map(jnp.asarray, rows)))


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["bio", "bioes", "mmocr"])
@pytest.mark.parametrize("head", HEADS)
def test_the_loss_of_cluener_rows_is_not_negative(cluener: Path, head: str, scheme: str) -> None:
    if head == "global_pointer" and scheme != "bio":
        pytest.skip("spans have no scheme")
    losses = losses_of_rows(read_cluener(cluener / "train.json"), head, scheme)
    assert len(losses) > 3000
    assert losses.min() >= 0 and losses.max() < 1e4  # it would be 1e30 for an invalid tag sequence


OVERLAPPING = Example("北京大学城", (Entity("name", 0, 4), Entity("scene", 2, 5)), "f:1")


@pytest.mark.slow
@pytest.mark.every_python
@pytest.mark.parametrize("scheme", ["bio", "bioes", "mmocr"])
def test_the_crf_loss_of_overlapping_entities_is_not_negative(scheme: str) -> None:
    losses = losses_of_rows([OVERLAPPING] * 20, "crf", scheme)
    assert losses.min() >= 0 and losses.max() < 1e4


def test_the_crf_loss_of_overlapping_entities_converges_to_zero() -> None:
    """Gradient descent on the scores. If an invalid tag sequence were gold, the loss would have no minimum."""
    labels = LabelSet(["name", "scene"], "bio")
    config = replace(BertConfig(5, len(labels), head="crf"), **SIZES)
    decoder = make_decoder(config, labels)
    loss_of = make_loss(default_config().loss, decoder)
    tokenizer = CharTokenizer(build_vocab([OVERLAPPING.text]))
    tokens = encode_examples([OVERLAPPING], tokenizer, labels, 16)
    check_tag_transitions(tokens, labels)
    (rows,), _ = Batcher(tokens, "pack", 1, 16, 0).epoch(0)
    batch = jax.tree.map(lambda x: jnp.asarray(x[0]), rows)
    scores = {
        "logits": jnp.zeros((1, 16, len(labels))),
        "head": {"transitions": jnp.zeros((len(labels),) * 2)},
    }

    @jax.jit
    def descend(scores):  # type: ignore[no-untyped-def]
        loss = partial(lambda s: loss_of(s["logits"], batch, s["head"]))
        value, grads = jax.value_and_grad(loss)(scores)
        return value, jax.tree.map(lambda x, g: x - 50 * g, scores, grads)

    losses = []
    for _ in range(200):
        value, scores = descend(scores)
        losses.append(float(value))
    assert min(losses) > -1e-5 and losses[-1] < 0.1 < losses[0]
