"""Standardise an encoder's outputs before a new head is trained on them."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from flax_ner.model.bert import STACKED, BertConfig
from flax_ner.model.tagging_model import Params, encode
from flax_ner.text.encoding import TokenSet

SAMPLE = 16384  # number of tokens that mean and variance are computed from, padding included


def standardise_outputs(
    config: BertConfig, params: Params, tokens: TokenSet, shardings: Params
) -> Params:
    """Shift and scale the last LayerNorm so that token vectors have mean 0 and variance 1.

    An encoder of sentence embeddings gives all tokens similar vectors: a large common mean and small
    differences between tokens. A new head then learns slowly, or the encoder collapses first. An affine
    change of its inputs costs a new head nothing. The change is therefore folded into the encoder's last
    LayerNorm, and the model stays a plain BERT.

    Args:
        config: configuration of the model.
        params: parameters, on the devices.
        tokens: training data. Mean and variance are computed from texts spread evenly over it. They do not
            depend on the seed.
        shardings: shardings of `params`.

    Returns:
        `params` with a new scale and bias, float32 [D], in the last LayerNorm. The mean is computed per
        dimension, the variance over all dimensions.
    """
    standardise = jax.jit(partial(_standardise, config), out_shardings=shardings)
    # The sample is NumPy arrays, which jit replicates over the devices of all hosts.
    result: Params = standardise(params, *_sample(tokens))
    return result


def _sample(tokens: TokenSet) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return input ids, segment ids and positions, int32 [B, T], of texts spread evenly over the data."""
    longest = int(tokens.lengths.max())
    rows = min(len(tokens.lengths), max(SAMPLE // longest, 1))
    chosen = np.linspace(0, len(tokens.lengths) - 1, rows).astype(int)
    starts = np.cumsum(tokens.lengths) - tokens.lengths
    positions = np.broadcast_to(np.arange(longest, dtype=np.int32), (rows, longest))
    inside = positions < tokens.lengths[chosen, None]
    token_index = np.where(inside, starts[chosen, None] + positions, 0)
    input_ids = np.where(inside, tokens.ids[token_index], 0)
    return input_ids, inside.astype(np.int32), np.where(inside, positions, 0)


def _standardise(
    config: BertConfig, params: Params, input_ids: Array, segment_ids: Array, positions: Array
) -> Params:
    x = encode(config, params, input_ids, segment_ids, positions).astype(jnp.float32)  # [B, T, D]
    inside = (segment_ids > 0)[..., None].astype(jnp.float32)
    count = inside.sum()
    mean = (x * inside).sum((0, 1)) / count  # [D]
    variance = (jnp.square(x - mean[None, None]) * inside).sum() / (count * x.shape[-1])
    # If all vectors are equal, the variance is rounding error. It must not be scaled up to 1.
    rounding_error = 1e-10 * jnp.square(mean).mean()
    factor = jax.lax.rsqrt(jnp.where(variance > rounding_error, variance, 1.0))

    layers = params["encoder"]["layers"]
    last = STACKED if STACKED in layers else str(config.num_hidden_layers - 1)
    norm = layers[last]["mlp_norm"]
    index = -1 if last == STACKED else ...
    changed = {
        "scale": norm["scale"].at[index].multiply(factor),
        "bias": norm["bias"].at[index].set((norm["bias"][index] - mean) * factor),
    }
    layers = layers | {last: layers[last] | {"mlp_norm": changed}}
    return params | {"encoder": params["encoder"] | {"layers": layers}}
