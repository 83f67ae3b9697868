"""Standardise an encoder's outputs before a fresh head is trained on them."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from flax_ner.model.bert import STACKED, BertConfig
from flax_ner.model.tagger import Params, encode
from flax_ner.text.encoding import TokenSet

SAMPLE = 16384  # tokens whose vectors are measured, padding included


def standardise_outputs(
    config: BertConfig, params: Params, tokens: TokenSet, shardings: Params
) -> Params:
    """Shift and scale the last LayerNorm so that token vectors have mean 0 and variance 1.

    An encoder that was trained for sentence vectors gives all tokens similar vectors: most of each is a
    common mean, and the differences between tokens are small. A fresh head then learns late, or the encoder
    collapses first. A head that is trained from scratch loses nothing by an affine change of its inputs. So
    the change goes into the encoder's last LayerNorm, and the model stays a plain BERT.

    Args:
        config: of the model.
        params: parameters, on devices.
        tokens: training data. Texts evenly spread over it are measured, whatever the seed.
        shardings: of `params`.

    Returns:
        `params` with another scale and bias, float32 [D], in the last LayerNorm. The mean is taken per
        dimension, the variance over all dimensions.
    """
    changed = jax.jit(partial(_standardise, config), out_shardings=shardings)
    result: Params = changed(params, *_sample(tokens))  # NumPy arrays are replicated on all hosts
    return result


def _sample(tokens: TokenSet) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return input ids, segment ids and positions, int32 [B, T], of texts evenly spread over the data."""
    longest = int(tokens.lengths.max())
    rows = min(len(tokens.lengths), max(SAMPLE // longest, 1))
    chosen = np.linspace(0, len(tokens.lengths) - 1, rows).astype(int)
    starts = np.cumsum(tokens.lengths) - tokens.lengths
    positions = np.broadcast_to(np.arange(longest, dtype=np.int32), (rows, longest))
    inside = positions < tokens.lengths[chosen, None]
    places = np.where(inside, starts[chosen, None] + positions, 0)
    input_ids = np.where(inside, tokens.ids[places], 0)
    return input_ids, inside.astype(np.int32), np.where(inside, positions, 0)


def _standardise(
    config: BertConfig, params: Params, input_ids: Array, segment_ids: Array, positions: Array
) -> Params:
    x = encode(config, params, input_ids, segment_ids, positions).astype(jnp.float32)  # [B, T, D]
    inside = (segment_ids > 0)[..., None].astype(jnp.float32)
    count = inside.sum()
    mean = (x * inside).sum((0, 1)) / count  # [D]
    variance = (jnp.square(x - mean[None, None]) * inside).sum() / (count * x.shape[-1])
    # Vectors that are all the same differ by rounding alone, which must not be scaled to variance 1.
    rounding = 1e-10 * jnp.square(mean).mean()
    factor = jax.lax.rsqrt(jnp.where(variance > rounding, variance, 1.0))

    layers = params["encoder"]["layers"]
    last = STACKED if STACKED in layers else str(config.num_hidden_layers - 1)
    norm = layers[last]["mlp_norm"]
    place = -1 if last == STACKED else ...
    changed = {
        "scale": norm["scale"].at[place].multiply(factor),
        "bias": norm["bias"].at[place].set((norm["bias"][place] - mean) * factor),
    }
    layers = layers | {last: layers[last] | {"mlp_norm": changed}}
    return params | {"encoder": params["encoder"] | {"layers": layers}}
