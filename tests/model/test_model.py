"""Modules, dropout, losses and model configuration."""

from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from flax_ner.errors import UserError
from flax_ner.model.attention import attention_mask, fused_attention
from flax_ner.model.bert import Attention, BertConfig
from flax_ner.model.dropout import dropout, dropout_seeds, row_keys
from flax_ner.model.losses import cross_entropy, focal_loss
from flax_ner.model.tagging_model import (
    BertTagger,
    _abstract_model,
    abstract_params,
    apply,
    init_params,
    stack_layers,
)

CONFIG = BertConfig(
    vocab_size=30,
    num_labels=7,
    hidden_size=16,
    num_hidden_layers=2,
    num_attention_heads=2,
    intermediate_size=32,
)


def random_inputs(batch: int = 2, width: int = 6) -> tuple[jax.Array, jax.Array, jax.Array]:
    ids = jax.random.randint(jax.random.key(0), (batch, width), 0, 30)
    return ids, jnp.ones((batch, width), jnp.int32), jnp.tile(jnp.arange(width)[None], (batch, 1))


def test_logits_are_float32_for_both_compute_dtypes() -> None:
    params = init_params(CONFIG, jax.random.key(0))
    exact = apply(CONFIG, params, *random_inputs())
    half = apply(replace(CONFIG, compute_dtype="bfloat16"), params, *random_inputs())
    assert exact.shape == (2, 6, 7)
    assert exact.dtype == half.dtype == jnp.float32
    assert 0 < float(jnp.abs(exact - half).max()) < 0.05


def test_gelu_and_gelu_new_differ_slightly() -> None:
    params = jax.tree.map(lambda x: 10 * x, init_params(CONFIG, jax.random.key(0)))
    exact = apply(CONFIG, params, *random_inputs())
    tanh = apply(replace(CONFIG, hidden_act="gelu_new"), params, *random_inputs())
    assert 0 < float(jnp.abs(exact - tanh).max()) < 0.1


def test_dropout_is_applied_only_with_keys() -> None:
    params = init_params(CONFIG, jax.random.key(0))
    plain = apply(CONFIG, params, *random_inputs())
    one, two, again = (
        apply(CONFIG, params, *random_inputs(), row_keys(jax.random.key(seed), 2))
        for seed in (1, 2, 1)
    )
    assert bool((one == again).all())
    assert float(jnp.abs(one - two).max()) > 1e-3
    assert float(jnp.abs(one - plain).max()) > 1e-3


def test_more_than_ten_layers_stay_in_order() -> None:
    """Layer keys are sorted as numbers, not as strings: 2 comes before 10."""
    config = replace(CONFIG, num_hidden_layers=12)
    params = jax.tree.map(lambda x: 10 * x, init_params(config, jax.random.key(0)))
    logits = apply(config, params, *random_inputs())
    stacked = apply(replace(config, scan_layers=True), stack_layers(params), *random_inputs())
    np.testing.assert_allclose(logits, stacked, rtol=0, atol=1e-3)
    layers = params["encoder"]["layers"]
    layers["2"], layers["10"] = layers["10"], layers["2"]
    assert float(jnp.abs(apply(config, params, *random_inputs()) - logits).max()) > 0.1


@pytest.mark.parametrize(
    "changes",
    [
        {}, {"head": "crf"}, {"head": "global_pointer"}, {"scan_layers": True},
        {"task_type_vocab_size": 3}, {"embedding_size": 16},
    ],
)  # fmt: skip
def test_abstract_params_have_the_shapes_and_dtypes_of_params(changes: dict[str, Any]) -> None:
    config = replace(CONFIG, **changes)
    traced = jax.eval_shape(lambda: init_params(config, jax.random.key(0)))
    abstract = abstract_params(config)
    assert abstract == traced
    assert list(abstract["encoder"]["layers"]) == (
        ["stacked"] if changes.get("scan_layers") else ["0", "1"]
    )


@pytest.mark.parametrize("rate", [0.1, 0.5])
def test_dropout_keeps_rate_and_mean(rate: float) -> None:
    x = jnp.ones((3, 400, 500))
    seeds = jnp.array(((1, 2), (1, 3), (2, 2)), jnp.uint32)
    masks = np.asarray(dropout(x, rate, seeds))
    x = x[0]
    error = 5 * np.sqrt(rate * (1 - rate) / x.size)  # five standard deviations
    for mask in masks:
        assert set(np.unique(mask)) == {np.float32(0), np.float32(1 / (1 - rate))}
        assert abs((mask == 0).mean() - rate) < error
        # Masks are independent of their neighbours along both axes, and of each other.
        for other in (mask[1:], mask[:, 1:]):
            both = ((mask[: len(other), : other.shape[1]] == 0) & (other == 0)).mean()
            assert abs(both - rate**2) < 2 * error
    for i, j in ((0, 1), (0, 2), (1, 2)):
        both = ((masks[i] == 0) & (masks[j] == 0)).mean()
        assert abs(both - rate**2) < 2 * error


def test_dropout_without_seeds_or_rate_is_the_identity() -> None:
    x = jnp.arange(6.0).reshape(2, 3)
    assert dropout(x, 0.5, None) is x
    assert dropout(x, 0.0, jnp.zeros((2, 2), jnp.uint32)) is x


def test_dropout_of_a_row_does_not_depend_on_other_rows() -> None:
    x = jnp.ones((6, 50, 4))
    seeds = dropout_seeds(row_keys(jax.random.key(0), 6), 1)[0]
    whole = np.asarray(dropout(x, 0.5, seeds))
    np.testing.assert_array_equal(dropout(x[::2], 0.5, seeds[::2]), whole[::2])
    assert len({row.tobytes() for row in whole}) == 6


def test_dropout_refuses_rows_whose_mask_would_repeat() -> None:
    seeds = jax.ShapeDtypeStruct((3, 2), jnp.uint32)
    # More than 2**32 elements in total are fine: each row has its own seed.
    many = jax.ShapeDtypeStruct((3, 2**31), jnp.float32)
    assert jax.eval_shape(partial(dropout, rate=0.5), many, seeds=seeds).shape == many.shape
    large = jax.ShapeDtypeStruct((3, 2**20, 2**13), jnp.float32)
    with pytest.raises(UserError, match=r"more than 2\*\*32 elements.*Set data.max_length lower"):
        jax.eval_shape(partial(dropout, rate=0.5), large, seeds=seeds)


@pytest.mark.parametrize("gamma", [0.0, 0.01, 0.5, 1.0, 2.0])
def test_focal_loss_has_finite_gradients_for_certain_tokens(gamma: float) -> None:
    certain = [[200.0, 0.0, 0.0], [20.0, 0.0, 0.0], [0.0, 1e-4, 0.0], [-200.0, 0.0, 0.0]]
    logits, labels = jnp.array([certain]), jnp.zeros((1, 4), jnp.int32)
    for mask in ([1, 1, 1, 1], [0, 0, 1, 1]):
        value, grads = jax.value_and_grad(focal_loss)(logits, labels, jnp.array([mask]), gamma)
        assert np.isfinite(value) and np.isfinite(grads).all()
        assert not np.asarray(grads)[0, np.array(mask) == 0].any()
        assert (np.asarray(grads)[0, 0] == 0).all()  # the limit for p = 1


def test_losses_match_hand_computed_values() -> None:
    logits = jnp.log(jnp.array([[[0.5, 0.25, 0.25], [0.1, 0.8, 0.1], [1.0, 1.0, 1.0]]]))
    labels, mask = jnp.array([[0, 1, 2]]), jnp.array([[1, 1, 0]])
    expected = -(np.log(0.5) + np.log(0.8)) / 2
    assert float(cross_entropy(logits, labels, mask)) == pytest.approx(expected, rel=1e-6)
    expected = -(0.5**2 * np.log(0.5) + 0.2**2 * np.log(0.8)) / 2
    assert float(focal_loss(logits, labels, mask)) == pytest.approx(expected, rel=1e-5)
    assert float(cross_entropy(logits, labels, jnp.zeros_like(mask))) == 0


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"hidden_act": "silu"}, "model.hidden_act: 'silu'"),
        ({"head": "linear"}, "model.head: 'linear'"),
        ({"compute_dtype": "float16"}, "model.compute_dtype: 'float16'"),
        ({"num_attention_heads": 3}, "model.hidden_size: 16 is not a multiple of"),
        ({"hidden_dropout_prob": 1.0}, "model.hidden_dropout_prob: 1.0"),
        ({"num_hidden_layers": 0}, "model.num_hidden_layers: 0"),
    ],
)
def test_invalid_configurations_are_refused(fields: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        replace(CONFIG, **fields)


@pytest.mark.slow
@pytest.mark.every_python
def test_fused_attention_matches_plain_attention() -> None:
    """The call that a GPU runs with cuDNN, here run by XLA, so that no GPU is needed."""
    config = replace(CONFIG, attention_probs_dropout_prob=0.0)
    attention = Attention(config, nnx.Rngs(params=0))
    # A row with three sentences, a row with padding, a row of padding only.
    segment_ids = jnp.array([[1, 1, 2, 2, 2, 3], [1, 1, 1, 1, 0, 0], [0, 0, 0, 0, 0, 0]])
    mask = attention_mask(segment_ids)
    x = jax.random.normal(jax.random.key(1), (*segment_ids.shape, config.hidden_size))

    def fused(x: jax.Array) -> jax.Array:
        return attention.out(
            fused_attention(attention.qkv(x, jnp.float32), mask, "xla"), jnp.float32
        )

    def plain(x: jax.Array) -> jax.Array:
        return attention(x, mask, None)

    np.testing.assert_allclose(fused(x), plain(x), rtol=0, atol=1e-6)
    gradients = (jax.grad(lambda x, f=f: (f(x) ** 2).sum())(x) for f in (fused, plain))
    np.testing.assert_allclose(*gradients, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"attention_probs_dropout_prob": 0.0}, "'cudnn' requires bfloat16"),
        ({"compute_dtype": "bfloat16"}, "'cudnn' does not support dropout"),
        (
            {"compute_dtype": "bfloat16", "hidden_size": 24},
            "'cudnn' requires a head width of a multiple of 8, not 12",
        ),
    ],
)
def test_unsupported_cudnn_options_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        replace(CONFIG, attention="cudnn", **{"attention_probs_dropout_prob": 0.1} | fields)


@pytest.mark.parametrize("head", ["crf", "global_pointer"])
def test_the_abstract_model_has_the_structure_of_a_real_one(head: str) -> None:
    config = replace(CONFIG, head=head)
    graphdef, state = _abstract_model(config)
    expected, params = nnx.split(BertTagger(config, nnx.Rngs(params=0)))
    assert graphdef == expected
    shapes = jax.tree.map(lambda x: (x.shape, x.dtype), params)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), state) == shapes
