"""Standardised token vectors have mean 0 and variance 1."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from flax_ner.finetuning.standardise import SAMPLE, standardise_outputs
from flax_ner.model.bert import STACKED, BertConfig
from flax_ner.model.tagging_model import Params, encode, init_params, stack_layers
from flax_ner.text.encoding import TokenSet
from flax_ner.training.mesh import make_mesh

CONFIG = BertConfig(
    vocab_size=30, num_labels=3, hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
    intermediate_size=16, max_position_embeddings=20,
)  # fmt: skip
LENGTHS = np.array([5, 9, 12, 3])


def encoder_of_similar_vectors() -> Params:
    """Return an encoder like those of sentence embeddings: a large common mean, small differences."""
    params = init_params(CONFIG, jax.random.key(0))
    norm = params["encoder"]["layers"]["1"]["mlp_norm"]
    norm["scale"] = norm["scale"] * 0.1
    norm["bias"] = 3 + jax.random.normal(jax.random.key(1), norm["bias"].shape)
    return params


def token_set(lengths: np.ndarray) -> TokenSet:
    ids = np.random.default_rng(0).integers(0, CONFIG.vocab_size, lengths.sum())
    return TokenSet(ids.astype(np.int32), np.zeros(lengths.sum(), np.int32), lengths)


def vectors(config: BertConfig, params: Params, tokens: TokenSet) -> np.ndarray:
    """Return the vectors of all tokens, [tokens, D], with each text in its own row."""
    rows, first = [], 0
    for length in map(int, tokens.lengths):
        ids = jnp.asarray(tokens.ids[first : first + length])[None]
        positions = jnp.arange(length)[None]
        rows.append(encode(config, params, ids, jnp.ones_like(ids), positions)[0])
        first += length
    return np.concatenate(rows)


def standardised(config: BertConfig, params: Params, tokens: TokenSet) -> Params:
    mesh = make_mesh(2, 1, 2)
    shardings = jax.tree.map(lambda _: jax.NamedSharding(mesh, P()), params)
    return standardise_outputs(config, jax.device_put(params, shardings), tokens, shardings)


@pytest.mark.slow
@pytest.mark.every_python
@pytest.mark.parametrize("scan_layers", [False, True])
def test_vectors_have_mean_0_and_variance_1(scan_layers: bool) -> None:
    config, params, tokens = CONFIG, encoder_of_similar_vectors(), token_set(LENGTHS)
    if scan_layers:
        config, params = replace(config, scan_layers=True), stack_layers(params)
    before = vectors(config, params, tokens)
    assert np.linalg.norm(before.mean(0)) > 5 * before.std(0).max()

    after = vectors(config, standardised(config, params, tokens), tokens)
    np.testing.assert_allclose(after.mean(0), 0, atol=1e-4)
    np.testing.assert_allclose(np.square(after).mean(), 1, rtol=1e-4)
    # The scale is the same for all dimensions.
    deviations = before - before.mean(0)
    np.testing.assert_allclose(after, deviations / np.sqrt(np.square(deviations).mean()), atol=1e-3)


@pytest.mark.parametrize("scan_layers", [False, True])
def test_only_the_last_layernorm_changes(scan_layers: bool) -> None:
    config, params = CONFIG, encoder_of_similar_vectors()
    last = "1"
    if scan_layers:
        config, params, last = replace(config, scan_layers=True), stack_layers(params), STACKED
    after = standardised(config, params, token_set(LENGTHS))
    for path, old in jax.tree_util.tree_leaves_with_path(params):
        new = after
        names = [entry.key for entry in path]
        for name in names:
            new = new[name]
        if names[1:4] == ["layers", last, "mlp_norm"]:
            assert not np.array_equal(old, new)
            old, new = (old[:-1], new[:-1]) if scan_layers else ((), ())  # layer 0 is unchanged
        np.testing.assert_array_equal(old, new)


def test_equal_vectors_stay_finite() -> None:
    params = encoder_of_similar_vectors()
    params["encoder"]["layers"]["1"]["mlp_norm"]["scale"] *= 0
    after = vectors(CONFIG, standardised(CONFIG, params, token_set(LENGTHS)), token_set(LENGTHS))
    np.testing.assert_allclose(after, 0, atol=1e-5)


def test_the_sample_is_spread_over_large_data() -> None:
    # The second half of the data has other tokens. A sample of the first texts would not represent it.
    lengths = np.full(4 * SAMPLE // 20, 20)
    ids = np.repeat([[1], [2]], lengths.sum() // 2, axis=1).reshape(-1).astype(np.int32)
    tokens = TokenSet(ids, np.zeros_like(ids), lengths)
    params = standardised(CONFIG, encoder_of_similar_vectors(), tokens)
    halves = TokenSet(ids[[*range(20), *range(-20, 0)]], np.zeros(40, np.int32), np.array([20, 20]))
    np.testing.assert_allclose(vectors(CONFIG, params, halves).mean(0), 0, atol=2e-2)
