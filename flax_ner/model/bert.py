"""BERT encoder.

Shape letters, here and everywhere: B batch rows, T tokens of a row, D width, N heads, H head width,
F MLP width, L layers, V vocabulary, C tags.

Source: Devlin et al. 2019, arXiv 1810.04805, post-LayerNorm as in the released model. There is no
pooler: tagging has no use for it.
"""

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array
from jax.sharding import PartitionSpec

from flax_ner.errors import UserError
from flax_ner.model.dropout import dropout
from flax_ner.model.products import between_products, matmul

# `gelu` is exact (erf), `gelu_new` the tanh approximation of the first release and of MMOCR. ERNIE 1.0 has
# `relu`.
ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "gelu": partial(jax.nn.gelu, approximate=False),
    "gelu_new": partial(jax.nn.gelu, approximate=True),
    "relu": jax.nn.relu,
}
# Encoders that differ from BERT in their embeddings alone, as `model_type` of a config.json names them.
MODEL_TYPES = ("bert", "roberta", "xlm-roberta", "camembert", "electra", "ernie")
DTYPES = ("float32", "bfloat16")
ATTENTIONS = ("xla", "cudnn")
STACKED = "stacked"  # stands for all layers, one behind the other on a leading axis L
HEADS = ("softmax", "softmax_constrained", "crf", "global_pointer")
MASKED = -1e9  # a score that no key with this value survives the softmax of


@dataclass(frozen=True)
class BertConfig:
    """Shape of encoder and head, by the names of a Hugging Face BERT `config.json`."""

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
    compute_dtype: str = (
        "float32"  # of products; or bfloat16: parameters, statistics, softmax, logits are float32
    )
    attention: str = "xla"
    scan_layers: bool = False
    remat: bool = False
    ensemble: int = 1  # models, their parameters along a leading axis, whose scores are averaged
    model_type: str = "bert"  # one of MODEL_TYPES
    position_offset: int = 0  # rows of the position table before position 0: 2 in RoBERTa
    # Width of the embeddings; 0: hidden_size. Otherwise they are projected.
    embedding_size: int = 0
    task_type_vocab_size: int = 0  # rows of ERNIE's task types; 0: none

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
                raise UserError(f"model.{name}: {getattr(self, name)}, but it must be at least 1.")
        if self.hidden_size % self.num_attention_heads:
            raise UserError(
                f"model.hidden_size: {self.hidden_size} does not divide by "
                f"model.num_attention_heads {self.num_attention_heads}."
            )
        for name in (
            "word_dropout_prob",
            "hidden_dropout_prob",
            "attention_probs_dropout_prob",
            "classifier_dropout",
        ):
            if not 0 <= getattr(self, name) < 1:
                raise UserError(f"model.{name}: {getattr(self, name)}, but it must lie in [0, 1).")

        if self.attention == "cudnn":
            if self.compute_dtype != "bfloat16":
                raise UserError(
                    "model.attention: 'cudnn' takes bfloat16 only. Set model.compute_dtype=bfloat16."
                )
            if self.head_dim % 8:
                raise UserError(
                    f"model.attention: 'cudnn' takes heads of a multiple of 8, not of {self.head_dim}."
                )
            if self.attention_probs_dropout_prob:
                raise UserError(
                    "model.attention: 'cudnn' has no dropout of attention probabilities. "
                    "Set model.attention_probs_dropout_prob=0."
                )
        if not self.layer_norm_eps > 0:
            raise UserError(f"model.layer_norm_eps: {self.layer_norm_eps}, but it must be above 0.")

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.num_attention_heads

    @property
    def embedding_width(self) -> int:
        """Width of the word, position and type embeddings."""
        return self.embedding_size or self.hidden_size

    @property
    def operands(self) -> Any:
        return jnp.dtype(self.compute_dtype)

    @property
    def dtype(self) -> Any:
        return between_products(self.operands)

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


class Dense(nnx.Module):
    """`x` [B, T, inputs...] times a kernel [inputs..., outputs...], plus a bias, in the dtype of `x`.

    `operands` is the dtype of the product's operands (see `matmul`).
    """

    def __init__(
        self, inputs: tuple[int, ...], outputs: tuple[int, ...], std: float, rngs: nnx.Rngs
    ):
        initial = jax.nn.initializers.truncated_normal(std)
        self.kernel = nnx.Param(initial(rngs.params(), (*inputs, *outputs), jnp.float32))
        self.bias = nnx.Param(jnp.zeros(outputs, jnp.float32))

    def __call__(self, x: Array, operands: Any) -> Array:
        kernel, bias = self.kernel[...], self.bias[...]
        width = math.prod(x.shape[2:])
        y = matmul(x.reshape(-1, width), kernel.reshape(width, -1), operands)  # [B T, outputs]
        return y.reshape(*x.shape[:2], *bias.shape) + bias.astype(x.dtype)[None, None]


class LayerNorm(nnx.Module):
    """Normalise over D, statistics in float32, result in the dtype asked for."""

    def __init__(self, width: int, eps: float):
        self.scale = nnx.Param(jnp.ones(width, jnp.float32))
        self.bias = nnx.Param(jnp.zeros(width, jnp.float32))
        self.eps = eps

    def __call__(self, x: Array, dtype: Any) -> Array:
        x = x.astype(jnp.float32)
        centred = x - x.mean(-1, keepdims=True)
        variance = jnp.square(centred).mean(-1, keepdims=True)
        y = centred * jax.lax.rsqrt(variance + self.eps) * self.scale[...][None, None]
        y = y + self.bias[...][None, None]
        return y.astype(dtype)


def over_all_devices(x: Array) -> Array:
    """`x` [B, ...] with its rows over all devices of the mesh in use, if there is one.

    The compiler would else spread how an embedding table is divided to all that follows: with its
    columns over many devices each of them would hold all rows of a batch, and send them around.
    """
    axes = jax.sharding.get_abstract_mesh().axis_names
    return jax.lax.with_sharding_constraint(x, PartitionSpec(axes)) if axes else x


def gathered(table: Array) -> Array:
    """An embedding table whole on every device of the mesh in use, however its parameter is divided.

    The compiler would else send the vectors of all rows, for lookup and gradient each.
    """
    mesh = jax.sharding.get_abstract_mesh()
    return table if mesh.empty else jax.lax.with_sharding_constraint(table, PartitionSpec())


class Embeddings(nnx.Module):
    """Word, position and token-type embeddings, summed and normalised.

    ERNIE adds an embedding of the task type. If ELECTRA's tables are narrower than the encoder, a linear layer
    after dropout projects them. The first two rows of RoBERTa's position table are not used.
    """

    def __init__(self, config: BertConfig, rngs: nnx.Rngs):
        initial = jax.nn.initializers.truncated_normal(config.initializer_range)
        width = config.embedding_width

        def table(rows: int) -> nnx.Param:
            return nnx.Param(initial(rngs.params(), (rows, width), jnp.float32))

        self.word = table(config.vocab_size)
        self.position = table(config.position_offset + config.max_position_embeddings)
        self.token_type = table(config.type_vocab_size)
        self.norm = LayerNorm(width, config.layer_norm_eps)
        if config.task_type_vocab_size:
            self.task_type = table(config.task_type_vocab_size)
        if width != config.hidden_size:
            self.project = Dense((width,), (config.hidden_size,), config.initializer_range, rngs)
        self.config = config

    def __call__(self, input_ids: Array, positions: Array, seeds: Array | None) -> Array:
        word, position = (gathered(table[...]) for table in (self.word, self.position))
        x = word[input_ids]
        word_seeds, sum_seeds = (None,) * 2 if seeds is None else seeds
        if word_seeds is not None and self.config.word_dropout_prob:
            kept = jnp.ones((*input_ids.shape, 1), x.dtype)
            x = x * dropout(kept, self.config.word_dropout_prob, word_seeds)
        # [B, T, D]; in ELECTRA the width of the embeddings
        x = over_all_devices(x + position[positions + self.config.position_offset])
        x = x + self.token_type[...][None, :1]
        if self.config.task_type_vocab_size:
            x = x + self.task_type[...][None, :1]
        x = self.norm(x, self.config.dtype)
        x = dropout(x, self.config.hidden_dropout_prob, sum_seeds)
        if self.config.embedding_width != self.config.hidden_size:
            x = self.project(x, self.config.operands)  # [B, T, D]
        return x


def attention_mask(segment_ids: Array) -> Array:
    """Which tokens [B, 1, T, T] attend to which: those of a segment to one another, padding to no padding."""
    # Padding attends to all of its row, as in the reference, so that its output agrees too.
    mine = segment_ids[:, :, None] == segment_ids[:, None, :]
    mask = (mine | (segment_ids == 0)[:, :, None]) & (segment_ids > 0)[:, None, :]
    return mask[:, None]


def fused_attention(qkv: Array, mask: Array, implementation: Literal["cudnn", "xla"]) -> Array:
    """Attention [B, T, N, H] of `qkv` [B, T, 3, N, H] in one kernel that never writes the scores."""
    query, key, value = (qkv[:, :, i] for i in range(3))
    return jax.nn.dot_product_attention(query, key, value, mask=mask, implementation=implementation)


class Attention(nnx.Module):
    """Self-attention; query, key and value come from one product."""

    def __init__(self, config: BertConfig, rngs: nnx.Rngs):
        D, N, H = config.hidden_size, config.num_attention_heads, config.head_dim
        self.qkv = Dense((D,), (3, N, H), config.initializer_range, rngs)
        self.out = Dense((N, H), (D,), config.initializer_range, rngs)
        self.config = config

    def __call__(self, x: Array, mask: Array, seeds: Array | None) -> Array:
        operands = self.config.operands
        qkv = self.qkv(x, operands)  # [B, T, 3, N, H]
        if self.config.attention == "cudnn" and jax.default_backend() == "gpu":
            return self.out(fused_attention(qkv, mask, "cudnn"), operands)
        query, key, value = jnp.transpose(qkv, (2, 0, 3, 1, 4))  # 3 x [B, N, T, H]
        query = query * self.config.head_dim**-0.5
        scores = matmul(query, key, operands, jnp.float32, transposed=True)  # [B, N, T, T]
        probs = jax.nn.softmax(jnp.where(mask, scores, MASKED)).astype(x.dtype)
        probs = dropout(probs, self.config.attention_probs_dropout_prob, seeds)
        attended = matmul(probs, value, operands)  # [B, N, T, H]
        return self.out(jnp.swapaxes(attended, 1, 2), operands)


class Layer(nnx.Module):
    """Attention and MLP, each with residual and LayerNorm behind it."""

    def __init__(self, config: BertConfig, rngs: nnx.Rngs):
        D, F, std = config.hidden_size, config.intermediate_size, config.initializer_range
        self.attention = Attention(config, rngs)
        self.attention_norm = LayerNorm(D, config.layer_norm_eps)
        self.mlp_in = Dense((D,), (F,), std, rngs)
        self.mlp_out = Dense((F,), (D,), std, rngs)
        self.mlp_norm = LayerNorm(D, config.layer_norm_eps)
        self.config = config

    def __call__(self, x: Array, mask: Array, seeds: Array | None) -> Array:
        rate = self.config.hidden_dropout_prob
        probs_seeds, attention_seeds, mlp_seeds = (None,) * 3 if seeds is None else seeds
        attended = dropout(self.attention(x, mask, probs_seeds), rate, attention_seeds)
        x = self.attention_norm(x + attended, x.dtype)
        hidden = ACTIVATIONS[self.config.hidden_act](
            self.mlp_in(x, self.config.operands)
        )  # [B, T, F]
        hidden = dropout(self.mlp_out(hidden, self.config.operands), rate, mlp_seeds)
        return self.mlp_norm(x + hidden, x.dtype)


def encoder_sites(config: BertConfig) -> int:
    """Return how often a pass through `Bert` drops elements: twice in the embeddings, three times a layer."""
    return 2 + 3 * config.num_hidden_layers


class Bert(nnx.Module):
    """The encoder: token ids to a vector a token.

    With `scan_layers` it has one layer, "stacked", whose parameters are those of all layers along a
    leading axis L (`stack_layers`), so that compile time does not grow with depth.
    """

    def __init__(self, config: BertConfig, rngs: nnx.Rngs):
        self.embeddings = Embeddings(config, rngs)
        names = [STACKED] if config.scan_layers else map(str, range(config.num_hidden_layers))
        self.layers = nnx.Dict({name: Layer(config, rngs) for name in names})
        self.config = config

    def __call__(
        self, input_ids: Array, segment_ids: Array, positions: Array, seeds: Array | None
    ) -> Array:
        """Encode.

        Args:
            input_ids: int32 [B, T].
            segment_ids: int32 [B, T], 0 for padding; tokens attend within their own segment.
            positions: int32 [B, T], counted from 0 in each segment.
            seeds: uint32 [`encoder_sites`, B, 2] for dropout; None for a deterministic pass.

        Returns:
            [B, T, D] in `config.dtype`.
        """
        mask = attention_mask(segment_ids)
        x = self.embeddings(input_ids, positions, None if seeds is None else seeds[:2])
        layer_seeds = None if seeds is None else seeds[2:].reshape(-1, 3, *seeds.shape[1:])
        scanned = self.config.scan_layers
        graphdef = nnx.graphdef(self.layers[STACKED if scanned else "0"])

        # One jitted function for all layers, which are alike: it is traced once, not L times.
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
