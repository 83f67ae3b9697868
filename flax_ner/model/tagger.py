"""The tagger network: encoder and head, and its parameters as a plain tree of arrays."""

import dataclasses
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from flax_ner.model.bert import STACKED, Bert, BertConfig, encoder_sites
from flax_ner.model.dropout import dropout_seeds
from flax_ner.model.global_pointer import Factors, GlobalPointer
from flax_ner.model.heads import Head

Params = dict[str, Any]  # nested dictionaries of float32 arrays
Logits = Any  # float32 [B, T, C], a score for each tag; or of the head `global_pointer`, `Factors`


class BertTagger(nnx.Module):
    """BERT with a head over it."""

    def __init__(self, config: BertConfig, rngs: nnx.Rngs):
        self.encoder = Bert(config, rngs)
        self.head = (GlobalPointer if config.head == "global_pointer" else Head)(config, rngs)
        self.config = config

    def __call__(
        self, input_ids: Array, segment_ids: Array, positions: Array, keys: Array | None = None
    ) -> Logits:
        """Return the scores of all tokens.

        Args:
            input_ids, segment_ids, positions: as for `Bert.__call__`.
            keys: key array [B], one per row, turns dropout on; None means a deterministic pass.
        """
        seeds = None
        if keys is not None:
            seeds = dropout_seeds(keys, encoder_sites(self.config) + 1)  # and the head
        x = self.encoder(input_ids, segment_ids, positions, None if seeds is None else seeds[:-1])
        return self.head(x, positions, None if seeds is None else seeds[-1])


def init_params(config: BertConfig, key: Array) -> Params:
    """Fresh parameters: truncated normal of `initializer_range`, biases zero but for those that a
    head says, LayerNorm scales one."""
    layers = dataclasses.replace(config, scan_layers=False)
    params: Params = nnx.to_pure_dict(nnx.state(BertTagger(layers, nnx.Rngs(params=key))))
    return stack_layers(params) if config.scan_layers else params


def abstract_params(config: BertConfig) -> Params:
    """The tree of `init_params` with shapes in place of arrays; of an ensemble, with its leading axis."""
    if config.ensemble > 1:
        one = abstract_params(dataclasses.replace(config, ensemble=1))
        return jax.tree.map(
            lambda x: jax.ShapeDtypeStruct((config.ensemble, *x.shape), x.dtype), one
        )
    # All layers are alike, and tracing takes time.
    one_layer = dataclasses.replace(config, num_hidden_layers=1, scan_layers=False)
    shapes: Params = jax.eval_shape(lambda: init_params(one_layer, jax.random.key(0)))
    layer = shapes["encoder"]["layers"]["0"]
    shapes["encoder"]["layers"] = {
        str(i): jax.tree.map(lambda x: x, layer) for i in range(config.num_hidden_layers)
    }
    return jax.eval_shape(stack_layers, shapes) if config.scan_layers else shapes


def stack_layers(params: Params) -> Params:
    """The parameters of `encoder.layers` 0, 1, ... as those of one layer with a leading axis L."""
    layers = params["encoder"]["layers"]
    one_by_one = [layers[str(i)] for i in range(len(layers))]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *one_by_one)
    return params | {"encoder": params["encoder"] | {"layers": {STACKED: stacked}}}


def unstack_layers(params: Params) -> Params:
    """The inverse of `stack_layers`; parameters that are not stacked stay as they are."""
    layers = params["encoder"]["layers"]
    if STACKED not in layers:
        return params
    count = len(jax.tree.leaves(layers[STACKED])[0])
    layers = {str(i): jax.tree.map(lambda x, i=i: x[i], layers[STACKED]) for i in range(count)}
    return params | {"encoder": params["encoder"] | {"layers": layers}}


def cast_kernels(config: BertConfig, params: Params) -> Params:
    """The encoder's kernels in the dtype that products take them in: no call casts them again.

    Changes no result. For use, not for training.
    """
    encoder = jax.tree.map_with_path(
        lambda path, x: x.astype(config.operands) if path[-1].key == "kernel" else x,
        params["encoder"],
    )
    return params | {"encoder": encoder}


def apply(
    config: BertConfig,
    params: Params,
    input_ids: Array,
    segment_ids: Array,
    positions: Array,
    keys: Array | None = None,
) -> Logits:
    """`BertTagger.__call__` as a pure function of its parameters; of an ensemble the mean of scores."""
    if config.ensemble > 1:
        one = dataclasses.replace(config, ensemble=1)
        inputs = (input_ids, segment_ids, positions, keys)
        # One after the other: on a CPU faster than products of all at once, and it takes no more memory.
        return average(jax.lax.map(lambda own: apply(one, own, *inputs), params))
    model: BertTagger = nnx.merge(_graphdef(config), params)
    return model(input_ids, segment_ids, positions, keys)


def encode(
    config: BertConfig, params: Params, input_ids: Array, segment_ids: Array, positions: Array
) -> Array:
    """Return the encoder's token vectors, [B, T, D] in `config.dtype`, without dropout."""
    model: BertTagger = nnx.merge(_graphdef(config), params)
    return model.encoder(input_ids, segment_ids, positions, None)


def average(members: Logits) -> Logits:
    """The mean over the leading axis of scores that several models give."""
    if not isinstance(members, Factors):
        return members.mean(0)
    count = len(members.query)
    # The mean of products of vectors is one product of all of them end to end.
    query, key = (
        jnp.moveaxis(x, 0, 2).reshape(*x.shape[1:3], -1) for x in (members.query, members.key)
    )  # [B, T, models * H]
    return Factors(query / count, key, members.begin.mean(0), members.end.mean(0))


@lru_cache
def _graphdef(config: BertConfig) -> Any:
    abstract = nnx.eval_shape(lambda: BertTagger(config, nnx.Rngs(params=0)))
    return nnx.split(abstract)[0]
