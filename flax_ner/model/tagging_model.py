"""The tagging model: encoder and head, with parameters as a plain tree of arrays."""

import dataclasses
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from flax_ner.model.bert import STACKED, Bert, BertConfig, encoder_dropout_sites
from flax_ner.model.dropout import dropout_seeds
from flax_ner.model.global_pointer import GlobalPointer, SpanScoreFactors
from flax_ner.model.heads import Head
from flax_ner.model.initial_values import ShapesOnly

Params = dict[str, Any]  # nested dictionaries of float32 arrays
# float32 [B, T, C], a score for each tag; `SpanScoreFactors` for the head `global_pointer`.
Logits = Any


class BertTagger(nnx.Module):
    """BERT with a token classification or span head."""

    def __init__(self, config: BertConfig, rngs: nnx.Rngs):
        self.encoder = Bert(config, rngs)
        self.head = (GlobalPointer if config.head == "global_pointer" else Head)(config, rngs)
        self.config = config

    def __call__(
        self, input_ids: Array, segment_ids: Array, positions: Array, keys: Array | None = None
    ) -> Logits:
        """Return the head's scores.

        Args:
            input_ids, segment_ids, positions: see `Bert.__call__`.
            keys: key array [B], one per row, turns dropout on; None means a deterministic pass.
        """
        seeds = None
        if keys is not None:
            seeds = dropout_seeds(keys, encoder_dropout_sites(self.config) + 1)  # + 1: the head
        x = self.encoder(input_ids, segment_ids, positions, None if seeds is None else seeds[:-1])
        return self.head(x, positions, None if seeds is None else seeds[-1])


def init_params(config: BertConfig, key: Array) -> Params:
    """Return freshly initialised parameters.

    Kernels and embeddings are truncated normal with `initializer_range`, LayerNorm scales are one, biases are
    zero. `GlobalPointer` has its own initial values.
    """
    unstacked = dataclasses.replace(config, scan_layers=False)
    params: Params = nnx.to_pure_dict(nnx.state(BertTagger(unstacked, nnx.Rngs(params=key))))
    return stack_layers(params) if config.scan_layers else params


def abstract_params(config: BertConfig) -> Params:
    """Return the tree of `init_params` with shapes instead of arrays.

    The shapes of an ensemble have a leading axis, one entry per model.
    """
    if config.ensemble > 1:
        one = abstract_params(dataclasses.replace(config, ensemble=1))
        return jax.tree.map(
            lambda x: jax.ShapeDtypeStruct((config.ensemble, *x.shape), x.dtype), one
        )
    unstacked = dataclasses.replace(config, scan_layers=False)
    shapes: Params = nnx.to_pure_dict(_abstract_model(unstacked)[1])
    return jax.eval_shape(stack_layers, shapes) if config.scan_layers else shapes


def stack_layers(params: Params) -> Params:
    """Return parameters whose layers 0, 1, ... are stacked along a leading axis L."""
    layers = params["encoder"]["layers"]
    ordered = [layers[str(i)] for i in range(len(layers))]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *ordered)
    return params | {"encoder": params["encoder"] | {"layers": {STACKED: stacked}}}


def unstack_layers(params: Params) -> Params:
    """Undo `stack_layers`; return parameters that are not stacked unchanged."""
    layers = params["encoder"]["layers"]
    if STACKED not in layers:
        return params
    count = len(jax.tree.leaves(layers[STACKED])[0])
    layers = {str(i): jax.tree.map(lambda x, i=i: x[i], layers[STACKED]) for i in range(count)}
    return params | {"encoder": params["encoder"] | {"layers": layers}}


def cast_kernels(config: BertConfig, params: Params) -> Params:
    """Return parameters with the encoder's kernels cast to `compute_dtype`, once instead of in every call.

    The results stay the same. For inference only: training needs float32 parameters.
    """
    encoder = jax.tree.map_with_path(
        lambda path, x: x.astype(config.matmul_dtype) if path[-1].key == "kernel" else x,
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
    """Compute `BertTagger.__call__` as a pure function of the parameters.

    An ensemble returns the mean of its models' scores.
    """
    if config.ensemble > 1:
        one = dataclasses.replace(config, ensemble=1)
        inputs = (input_ids, segment_ids, positions, keys)
        # One model after the other is faster on a CPU than `vmap`, and needs no more memory.
        return average_scores(jax.lax.map(lambda member: apply(one, member, *inputs), params))
    model: BertTagger = nnx.merge(_abstract_model(config)[0], params)
    return model(input_ids, segment_ids, positions, keys)


def encode(
    config: BertConfig, params: Params, input_ids: Array, segment_ids: Array, positions: Array
) -> Array:
    """Return the encoder's token vectors without dropout, [B, T, D] in `config.activation_dtype`."""
    model: BertTagger = nnx.merge(_abstract_model(config)[0], params)
    return model.encoder(input_ids, segment_ids, positions, None)


def average_scores(members: Logits) -> Logits:
    """Return the mean of several models' scores, which are stacked along a leading axis."""
    if not isinstance(members, SpanScoreFactors):
        return members.mean(0)
    count = len(members.query)
    # A sum of dot products is the dot product of the concatenated vectors.
    query, key = (
        jnp.moveaxis(x, 0, 2).reshape(*x.shape[1:3], -1) for x in (members.query, members.key)
    )  # [B, T, models * H]
    return SpanScoreFactors(query / count, key, members.start.mean(0), members.end.mean(0))


@lru_cache
def _abstract_model(config: BertConfig) -> tuple[Any, Any]:
    """Return the graph definition of the model, and its state with shapes instead of arrays."""
    return nnx.split(BertTagger(config, ShapesOnly()))
