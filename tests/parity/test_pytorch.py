"""Logits and gradients against transformers. Needs transformers and PyTorch."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from flax_ner.model.bert import BertConfig
from flax_ner.model.losses import cross_entropy
from flax_ner.model.tagging_model import abstract_params, apply
from flax_ner.weights.layouts import TAGGER
from flax_ner.weights.names import match_tensors
from flax_ner.weights.tensor_copy import fill

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

ROWS, WIDTH = 3, 40


@pytest.fixture(scope="module", params=["gelu", "gelu_new"])
def pair(request: pytest.FixtureRequest) -> tuple[Any, BertConfig, Any]:
    """Return a random model of transformers, in which no tensor has its initial value, and its conversion."""
    fields = {
        "vocab_size": 300,
        "num_labels": 9,
        "hidden_size": 48,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "intermediate_size": 96,
        "hidden_act": request.param,
    }
    theirs = transformers.BertForTokenClassification(transformers.BertConfig(**fields)).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    config = BertConfig(**fields)
    tensors = {name: tensor.detach().numpy() for name, tensor in theirs.state_dict().items()}
    return theirs, config, jax.tree.map(jnp.asarray, convert_tensors(tensors, config))


def convert_tensors(tensors: dict[str, np.ndarray], config: BertConfig) -> Any:
    """Convert tensors under PyTorch's names to a parameter tree."""
    report = match_tensors(tensors, TAGGER, abstract_params(config))
    assert report.errors == report.ignored == report.fresh == []
    return fill(report, tensors, abstract_params(config))


def inputs() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    ids = random.integers(
        1, 300, (ROWS, WIDTH)
    )  # not [PAD], id 0: PyTorch computes no gradient for it
    mask = (np.arange(WIDTH) < np.array([[40], [23], [7]])).astype(np.int64)
    return ids, mask, random.integers(0, 9, (ROWS, WIDTH))


def test_logits_agree(pair: tuple[Any, BertConfig, Any]) -> None:
    theirs, config, params = pair
    ids, mask, _ = inputs()
    with torch.no_grad():
        expected = theirs(torch.tensor(ids), torch.tensor(mask)).logits.numpy()
    positions = np.broadcast_to(np.arange(WIDTH), ids.shape)
    logits = np.asarray(jax.jit(lambda p: apply(config, p, ids, mask, positions))(params))
    np.testing.assert_allclose(logits[mask > 0], expected[mask > 0], rtol=0, atol=1e-4)


def test_gradients_agree(pair: tuple[Any, BertConfig, Any]) -> None:
    theirs, config, params = pair
    ids, mask, labels = inputs()
    theirs.zero_grad()
    ignored = torch.tensor(np.where(mask > 0, labels, -100))
    theirs(torch.tensor(ids), torch.tensor(mask), labels=ignored).loss.backward()
    positions = np.broadcast_to(np.arange(WIDTH), ids.shape)

    @jax.jit
    @jax.grad
    def gradients(p: Any) -> jax.Array:
        return cross_entropy(apply(config, p, ids, mask, positions), jnp.asarray(labels), mask)

    named = {name: parameter.grad.numpy() for name, parameter in theirs.named_parameters()}
    actual = flatten_dict(gradients(params), sep="/")
    expected = flatten_dict(convert_tensors(named, config), sep="/")
    assert actual.keys() == expected.keys()
    for name, gradient in actual.items():
        difference = np.linalg.norm(np.asarray(gradient) - expected[name])
        assert difference <= 1e-4 * max(np.linalg.norm(expected[name]), 1e-3), name
