"""BERT encoder.

Shape letters, here and in all modules: B batch size (rows), T tokens per row, D hidden size, N attention
heads, H head width, F MLP width, L layers, V vocabulary size, C tags, S steps (batches), E entities, K labels
per token of a span head.

Source: Devlin et al. 2019, arXiv 1810.04805, post-LayerNorm as in the released model; differs:
no pooler, because token classification does not use it.
"""

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array
from jax.sharding import PartitionSpec

from flax_ner.errors import UserError
from flax_ner.model.attention import attention, attention_mask, fused_attention
from flax_ner.model.dropout import dropout
from flax_ner.model.initial_values import constant_param, normal_param
from flax_ner.model.matmul import activation_dtype, matmul


@jax.custom_vjp
def gelu(x: Array) -> Array:
    """Return x Phi(x), with the distribution function of the normal distribution.

    As in PyTorch by erf, in float32. The absolute error is below 1e-6, but small negative results lose relative
    precision. `jax.nn.gelu` uses erfc, which does not, but takes twice the time on a CPU.
    """
    y = x.astype(jnp.float32)
    return (y * _normal_cdf(y)).astype(x.dtype)


def _normal_cdf(x: Array) -> Array:
    return 0.5 * (1 + jax.lax.erf(x * math.sqrt(0.5)))


def _gelu_forward(x: Array) -> tuple[Array, Array]:
    return gelu(x), x


def _gelu_backward(x: Array, gradient: Array) -> tuple[Array]:
    y = x.astype(jnp.float32)
    density = jnp.exp(-0.5 * jnp.square(y)) / math.sqrt(2 * math.pi)
    derivative = _normal_cdf(y) + y * density
    return ((gradient.astype(jnp.float32) * derivative).astype(x.dtype),)


gelu.defvjp(_gelu_forward, _gelu_backward)

# `gelu` is exact (erf). `gelu_new` is the tanh approximation of the first release and of MMOCR. ERNIE 1.0
# uses `relu`.
ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "gelu": gelu,
    "gelu_new": partial(jax.nn.gelu, approximate=True),
    "relu": jax.nn.relu,
}
# `model_type` of a Hugging Face config.json. These encoders differ from BERT only in their embeddings.
MODEL_TYPES = ("bert", "roberta", "xlm-roberta", "camembert", "electra", "ernie")
DTYPES = ("float32", "bfloat16")
ATTENTIONS = ("xla", "cudnn")
STACKED = "stacked"  # key of the parameters of all layers, stacked along a leading axis L
HEADS = ("softmax", "softmax_constrained", "crf", "global_pointer")


@dataclass(frozen=True)
class BertConfig:
    """Shape of encoder and head. Fields are named as in a Hugging Face BERT `config.json`."""

    vocab_size: int
    num_labels: int
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_act: str = "gelu"
    hidden_dropout_prob: float = 0.1
    attention_probs_dropout_prob: float = 0.1
    word_dropout_prob: float = 0.0
    classifier_dropout: float = 0.1
    max_position_embeddings: int = 512
    type_vocab_size: int = 2
    layer_norm_eps: float = 1e-12
    initializer_range: float = 0.02
    head: str = "softmax"  # one of HEADS
    # Dtype of matrix products: float32 or bfloat16. Parameters, statistics, softmax and logits are float32.
    compute_dtype: str = "float32"
    attention: str = "xla"
    scan_layers: bool = False
    remat: bool = False
    ensemble: int = 1  # number of models, stacked along a leading axis; their scores are averaged
    model_type: str = "bert"  # one of MODEL_TYPES
    position_offset: int = 0  # row of position 0 in the position table; 2 in RoBERTa
    # Width of the embeddings; 0: hidden_size. If it differs from hidden_size, a linear layer projects them.
    embedding_size: int = 0
    task_type_vocab_size: int = 0  # number of ERNIE's task types; 0: no task embedding

    def __post_init__(self) -> None:
        choices = {
            "hidden_act": tuple(ACTIVATIONS),
            "head": HEADS,
            "compute_dtype": DTYPES,
            "attention": ATTENTIONS,
            "model_type": MODEL_TYPES,
        }
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise UserError(
                    f"model.{name}: {getattr(self, name)!r} is unknown. Choose one of {', '.join(allowed)}."
                )
        for name in (
            "vocab_size",
            "num_labels",
            "hidden_size",
            "num_hidden_layers",
            "num_attention_heads",
            "intermediate_size",
            "max_position_embeddings",
            "type_vocab_size",
            "ensemble",
        ):
            if getattr(self, name) < 1:
                raise UserError(
                    f"model.{name}: {getattr(self, name)} is too small. It must be at least 1."
                )
        if self.hidden_size % self.num_attention_heads:
            raise UserError(
                f"model.hidden_size: {self.hidden_size} is not a multiple of "
                f"model.num_attention_heads {self.num_attention_heads}."
            )
        for name in (
            "word_dropout_prob",
            "hidden_dropout_prob",
            "attention_probs_dropout_prob",
            "classifier_dropout",
        ):
            if not 0 <= getattr(self, name) < 1:
                raise UserError(f"model.{name}: {getattr(self, name)} is not in [0, 1).")

        if self.attention == "cudnn":
            if self.compute_dtype != "bfloat16":
                raise UserError(
                    "model.attention: 'cudnn' requires bfloat16. Set model.compute_dtype=bfloat16."
                )
            if self.head_dim % 8:
                raise UserError(
                    f"model.attention: 'cudnn' requires a head width of a multiple of 8, not {self.head_dim}."
                )
            if self.attention_probs_dropout_prob:
                raise UserError(
                    "model.attention: 'cudnn' does not support dropout of attention probabilities. "
                    "Set model.attention_probs_dropout_prob=0."
                )
        if not self.layer_norm_eps > 0:
            raise UserError(f"model.layer_norm_eps: {self.layer_norm_eps} is not above 0.")

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.num_attention_heads

    @property
    def embedding_width(self) -> int:
        """Width of the word, position and type embeddings."""
        return self.embedding_size or self.hidden_size

    @property
    def matmul_dtype(self) -> Any:
        return jnp.dtype(self.compute_dtype)

    @property
    def activation_dtype(self) -> Any:
        return activation_dtype(self.matmul_dtype)

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


class Dense(nnx.Module):
    """Linear layer from [B, T, inputs...] to [B, T, outputs...].

    The product is computed in `compute_dtype` (see `matmul`). The result has the dtype of the input.
    """

    def __init__(
        self, inputs: tuple[int, ...], outputs: tuple[int, ...], std: float, rngs: nnx.Rngs
    ):
        self.kernel = normal_param(rngs, (*inputs, *outputs), std)
        self.bias = constant_param(rngs, outputs, 0)

    def __call__(self, x: Array, compute_dtype: Any) -> Array:
        kernel, bias = self.kernel[...], self.bias[...]
        width = math.prod(x.shape[2:])
        y = matmul(x.reshape(-1, width), kernel.reshape(width, -1), compute_dtype)  # [B T, outputs]
        return y.reshape(*x.shape[:2], *bias.shape) + bias.astype(x.dtype)[None, None]


class LayerNorm(nnx.Module):
    """LayerNorm over the last axis; statistics in float32, result in the given dtype."""

    def __init__(self, width: int, eps: float, rngs: nnx.Rngs):
        self.scale = constant_param(rngs, (width,), 1)
        self.bias = constant_param(rngs, (width,), 0)
        self.eps = eps

    def __call__(self, x: Array, dtype: Any) -> Array:
        x = x.astype(jnp.float32)
        centred = x - x.mean(-1, keepdims=True)
        variance = jnp.square(centred).mean(-1, keepdims=True)
        y = centred * jax.lax.rsqrt(variance + self.eps) * self.scale[...][None, None]
        y = y + self.bias[...][None, None]
        return y.astype(dtype)


def shard_batch(x: Array) -> Array:
    """Shard the rows of `x` [B, ...] over all devices of the current mesh, if there is one.

    Otherwise XLA propagates the embedding table's sharding to the activations: with columns sharded, each
    device would hold all rows of the batch and communicate them.
    """
    axes = jax.sharding.get_abstract_mesh().axis_names
    return jax.lax.with_sharding_constraint(x, PartitionSpec(axes)) if axes else x


def replicate(table: Array) -> Array:
    """Replicate an embedding table on every device of the current mesh, however it is sharded.

    Otherwise XLA communicates the vectors of all rows, once for the lookup and once for the gradient.
    """
    mesh = jax.sharding.get_abstract_mesh()
    return table if mesh.empty else jax.lax.with_sharding_constraint(table, PartitionSpec())


class Embeddings(nnx.Module):
    """Word, position and token-type embeddings, summed and normalised.

    ERNIE adds an embedding of the task type. If the tables are narrower than the encoder (ELECTRA), a linear
    layer after dropout projects them. RoBERTa does not use the first two rows of its position table.
    """

    def __init__(self, config: BertConfig, rngs: nnx.Rngs):
        width = config.embedding_width

        def table(rows: int) -> nnx.Param:
            return normal_param(rngs, (rows, width), config.initializer_range)

        self.word = table(config.vocab_size)
        self.position = table(config.position_offset + config.max_position_embeddings)
        self.token_type = table(config.type_vocab_size)
        self.norm = LayerNorm(width, config.layer_norm_eps, rngs)
        if config.task_type_vocab_size:
            self.task_type = table(config.task_type_vocab_size)
        if width != config.hidden_size:
            self.project = Dense((width,), (config.hidden_size,), config.initializer_range, rngs)
        self.config = config

    def __call__(self, input_ids: Array, positions: Array, seeds: Array | None) -> Array:
        word, position = (replicate(table[...]) for table in (self.word, self.position))
        x = word[input_ids]
        word_seeds, sum_seeds = (None,) * 2 if seeds is None else seeds
        if word_seeds is not None and self.config.word_dropout_prob:
            kept = jnp.ones((*input_ids.shape, 1), x.dtype)
            x = x * dropout(kept, self.config.word_dropout_prob, word_seeds)
        # [B, T, D]; before a projection the last axis is `embedding_width`.
        x = shard_batch(x + position[positions + self.config.position_offset])
        x = x + self.token_type[...][None, :1]
        if self.config.task_type_vocab_size:
            x = x + self.task_type[...][None, :1]
        x = self.norm(x, self.config.activation_dtype)
        x = dropout(x, self.config.hidden_dropout_prob, sum_seeds)
        if self.config.embedding_width != self.config.hidden_size:
            x = self.project(x, self.config.matmul_dtype)  # [B, T, D]
        return x


class Attention(nnx.Module):
    """Self-attention. One linear layer computes query, key and value."""

    def __init__(self, config: BertConfig, rngs: nnx.Rngs):
        D, N, H = config.hidden_size, config.num_attention_heads, config.head_dim
        self.qkv = Dense((D,), (3, N, H), config.initializer_range, rngs)
        self.out = Dense((N, H), (D,), config.initializer_range, rngs)
        self.config = config

    def __call__(self, x: Array, mask: Array, seeds: Array | None) -> Array:
        compute_dtype = self.config.matmul_dtype
        qkv = self.qkv(x, compute_dtype)  # [B, T, 3, N, H]
        if self.config.attention == "cudnn" and jax.default_backend() == "gpu":
            return self.out(fused_attention(qkv, mask, "cudnn"), compute_dtype)
        rate = self.config.attention_probs_dropout_prob
        attended = attention(qkv, mask, seeds, rate, compute_dtype)  # [B, T, N, H]
        return self.out(attended, compute_dtype)


class Layer(nnx.Module):
    """Attention and MLP, each followed by a residual connection and LayerNorm."""

    def __init__(self, config: BertConfig, rngs: nnx.Rngs):
        D, F, std = config.hidden_size, config.intermediate_size, config.initializer_range
        self.attention = Attention(config, rngs)
        self.attention_norm = LayerNorm(D, config.layer_norm_eps, rngs)
        self.mlp_in = Dense((D,), (F,), std, rngs)
        self.mlp_out = Dense((F,), (D,), std, rngs)
        self.mlp_norm = LayerNorm(D, config.layer_norm_eps, rngs)
        self.config = config

    def __call__(self, x: Array, mask: Array, seeds: Array | None) -> Array:
        rate = self.config.hidden_dropout_prob
        probs_seeds, attention_seeds, mlp_seeds = (None,) * 3 if seeds is None else seeds
        attended = dropout(self.attention(x, mask, probs_seeds), rate, attention_seeds)
        x = self.attention_norm(x + attended, x.dtype)
        activation = ACTIVATIONS[self.config.hidden_act]
        hidden = activation(self.mlp_in(x, self.config.matmul_dtype))  # [B, T, F]
        hidden = dropout(self.mlp_out(hidden, self.config.matmul_dtype), rate, mlp_seeds)
        return self.mlp_norm(x + hidden, x.dtype)


def encoder_dropout_sites(config: BertConfig) -> int:
    """Return how often `Bert` calls `dropout`: twice in the embeddings, three times per layer."""
    return 2 + 3 * config.num_hidden_layers


class Bert(nnx.Module):
    """The encoder: from token ids to one vector per token.

    With `scan_layers` the parameters of all layers are stacked along a leading axis L (`stack_layers`) under
    the key "stacked", and `jax.lax.scan` runs the layers, so that compile time does not grow with depth.
    """

    def __init__(self, config: BertConfig, rngs: nnx.Rngs):
        self.embeddings = Embeddings(config, rngs)
        names = [STACKED] if config.scan_layers else map(str, range(config.num_hidden_layers))
        self.layers = nnx.Dict({name: Layer(config, rngs) for name in names})
        self.config = config

    def __call__(
        self, input_ids: Array, segment_ids: Array, positions: Array, seeds: Array | None
    ) -> Array:
        """Return the token vectors.

        Args:
            input_ids: int32 [B, T].
            segment_ids: int32 [B, T], 0 for padding; tokens attend within their own segment.
            positions: int32 [B, T], counted from 0 in each segment.
            seeds: uint32 [`encoder_dropout_sites`, B, 2] for dropout; None for a deterministic pass.

        Returns:
            [B, T, D] in `config.activation_dtype`.
        """
        mask = attention_mask(segment_ids)
        x = self.embeddings(input_ids, positions, None if seeds is None else seeds[:2])
        layer_seeds = None if seeds is None else seeds[2:].reshape(-1, 3, *seeds.shape[1:])
        scanned = self.config.scan_layers
        graphdef = nnx.graphdef(self.layers[STACKED if scanned else "0"])

        # All layers share one jitted function, so it is traced once, not L times.
        @jax.jit
        def step(x: Array, layer: tuple[Any, Array | None]) -> tuple[Array, None]:
            params, seeds = layer
            return nnx.merge(graphdef, params)(x, mask, seeds), None

        forward = jax.checkpoint(step) if self.config.remat else step
        if scanned:
            return jax.lax.scan(forward, x, (nnx.state(self.layers[STACKED]), layer_seeds))[0]
        for i in range(self.config.num_hidden_layers):
            params = nnx.state(self.layers[str(i)])
            x, _ = forward(x, (params, None if layer_seeds is None else layer_seeds[i]))
        return x
