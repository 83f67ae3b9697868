"""Build the ONNX graph of a tagger from its parameters.

The graph computes what `model.bert.Bert` and `model.heads.Head` compute, for rows with one text each and
padding on the right.
"""

from typing import Any

import numpy as np

from flax_ner.errors import import_optional
from flax_ner.model.bert import BertConfig
from flax_ner.model.tagging_model import Params

ONNX_REQUIREMENT = "onnx>=1.17"
# The first version with LayerNormalization. Runtimes read older versions, but not newer ones than their own.
OPSET, IR_VERSION = 17, 8
CLASSIFIER = "classifier/MatMul"  # name of the product of the head
INPUT_IDS, ATTENTION_MASK, LOGITS = "input_ids", "attention_mask", "logits"
MASKED_SCORE = 1e9  # subtracted from the score of a masked key; its softmax weight is 0


def build_onnx_model(config: BertConfig, params: Params, half: bool = False) -> Any:
    """Return an ONNX model that computes the logits.

    Its inputs are `input_ids` and `attention_mask`, int64 [B, T]. Its output is `logits`, float32 [B, T, C].
    B and T are dynamic.

    Args:
        config: architecture of the model. The head must be one of `softmax`, `softmax_constrained` and `crf`.
        params: parameters of the model, NumPy arrays.
        half: store embeddings and kernels of the encoder in float16, and compute matrix products in float16.
            LayerNorm, softmax, activations and the head stay float32, as with bfloat16 in JAX.

    Returns:
        An `onnx.ModelProto`.

    Raises:
        UserError: the package `onnx` is not installed.
    """
    onnx = import_optional("onnx", "ONNX export", ONNX_REQUIREMENT)
    graph = _Graph(onnx, half)
    x = _embed(graph, config, params["encoder"]["embeddings"])
    # 0 for tokens and -1e9 for padding, float32 [B, 1, 1, T], added to the scores [B, N, T, T].
    mask = graph.node("Cast", ATTENTION_MASK, to=onnx.TensorProto.FLOAT)
    mask = graph.node("Unsqueeze", mask, graph.constant("mask/axes", np.array([1, 2])))
    bias = graph.node("Sub", mask, graph.constant("one", np.float32(1)))
    bias = graph.node("Mul", bias, graph.constant("mask/score", np.float32(MASKED_SCORE)))
    graph.constant("split_heads", np.array([0, 0, 3, config.num_attention_heads, config.head_dim]))
    graph.constant("merge_heads", np.array([0, 0, config.hidden_size]))
    for i in range(config.num_hidden_layers):
        x = _layer(graph, config, params["encoder"]["layers"][str(i)], f"layer{i}", x, bias)
    _classify(graph, params["head"]["classifier"], x)

    helper, int64 = onnx.helper, onnx.TensorProto.INT64
    inputs = [
        helper.make_tensor_value_info(name, int64, ["batch", "length"])
        for name in (INPUT_IDS, ATTENTION_MASK)
    ]
    shape = ["batch", "length", config.num_labels]
    output = helper.make_tensor_value_info(LOGITS, onnx.TensorProto.FLOAT, shape)
    return helper.make_model(
        helper.make_graph(graph.nodes, "tagger", inputs, [output], graph.constants),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="flax_ner",
    )


class _Graph:
    """The nodes and constants of a graph under construction. Methods return the name of their result."""

    def __init__(self, onnx: Any, half: bool):
        self.onnx, self.half = onnx, half
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def constant(self, name: str, value: Any) -> str:
        array = np.asarray(value, order="C")
        self.constants.append(self.onnx.numpy_helper.from_array(array, name))
        return name

    def node(self, op: str, *inputs: str, name: str = "", **attributes: Any) -> str:
        name = name or f"{op}_{len(self.nodes)}"
        self.nodes.append(self.onnx.helper.make_node(op, inputs, [name], name, **attributes))
        return name

    def stored(self, value: Any) -> np.ndarray:
        """Return embeddings or a kernel of the encoder in the dtype in which they are stored."""
        return np.asarray(value, np.float16 if self.half else np.float32)

    def matmul(self, a: str, b: str, name: str) -> str:
        """Multiply `a`, float32, with `b`, which has the dtype of `stored`. The result is float32."""
        if not self.half:
            return self.node("MatMul", a, b, name=name)
        return self.to_float(self.node("MatMul", self.to_operand(a), b, name=name))

    def to_operand(self, x: str) -> str:
        """Cast a float32 result to the dtype of matrix products."""
        return self.node("Cast", x, to=self.onnx.TensorProto.FLOAT16) if self.half else x

    def to_float(self, x: str) -> str:
        """Cast a result in the dtype of matrix products to float32."""
        return self.node("Cast", x, to=self.onnx.TensorProto.FLOAT) if self.half else x

    def dense(self, x: str, kernel: np.ndarray, bias: np.ndarray, name: str) -> str:
        product = self.matmul(
            x, self.constant(f"{name}/kernel", self.stored(kernel)), f"{name}/MatMul"
        )
        return self.node("Add", product, self.constant(f"{name}/bias", bias))

    def layer_norm(self, x: str, params: Params, epsilon: float, name: str) -> str:
        scale, bias = (self.constant(f"{name}/{key}", params[key]) for key in ("scale", "bias"))
        return self.node("LayerNormalization", x, scale, bias, axis=-1, epsilon=epsilon)


def _embed(graph: _Graph, config: BertConfig, params: Params) -> str:
    # The token type and the task type are always 0. RoBERTa counts positions over the tokens that are not
    # padding. With padding on the right, that is the column plus an offset.
    positions = params["position"][config.position_offset :] + params["token_type"][:1]
    if config.task_type_vocab_size:
        positions = positions + params["task_type"][:1]
    word = graph.constant("embeddings/word", graph.stored(params["word"]))
    x = graph.to_float(graph.node("Gather", word, INPUT_IDS, name="embeddings/Gather"))
    length = graph.node("Shape", INPUT_IDS, start=1, end=2)
    zero = graph.constant("zero", np.array([0]))
    table = graph.constant("embeddings/position", positions)
    x = graph.node("Add", x, graph.node("Slice", table, zero, length, zero))
    x = graph.layer_norm(x, params["norm"], config.layer_norm_eps, "embeddings/norm")
    if config.embedding_width != config.hidden_size:
        project = params["project"]
        x = graph.dense(x, project["kernel"], project["bias"], "embeddings/project")
    return x


def _layer(
    graph: _Graph, config: BertConfig, params: Params, name: str, x: str, mask_bias: str
) -> str:
    D = config.hidden_size
    attended = _attend(graph, config, params["attention"], f"{name}/attention", x, mask_bias)
    x = graph.node("Add", x, attended)
    x = graph.layer_norm(
        x, params["attention_norm"], config.layer_norm_eps, f"{name}/attention_norm"
    )
    hidden = graph.dense(x, *_flat(params["mlp_in"], D), f"{name}/mlp_in")
    hidden = _activate(graph, config.hidden_act, hidden)
    hidden = graph.dense(
        hidden, *_flat(params["mlp_out"], config.intermediate_size), f"{name}/mlp_out"
    )
    x = graph.node("Add", x, hidden)
    return graph.layer_norm(x, params["mlp_norm"], config.layer_norm_eps, f"{name}/mlp_norm")


def _attend(
    graph: _Graph, config: BertConfig, params: Params, name: str, x: str, mask_bias: str
) -> str:
    D = config.hidden_size
    kernel, bias = _flat(params["qkv"], D)  # [D, 3 D], [3 D]
    # The scale of the scores is part of the query's parameters.
    scale = np.repeat(np.array([config.head_dim**-0.5, 1, 1], np.float32), D)
    qkv = graph.dense(x, kernel * scale, bias * scale, f"{name}/qkv")
    qkv = graph.node("Reshape", graph.to_operand(qkv), "split_heads")  # [B, T, 3, N, H]
    qkv = graph.node("Transpose", qkv, perm=[2, 0, 3, 1, 4])  # [3, B, N, T, H]
    names = [f"{name}/{part}" for part in ("query", "key", "value")]
    query, key, value = (
        graph.node("Gather", qkv, graph.constant(f"{part}/index", np.int64(i)), axis=0, name=part)
        for i, part in enumerate(names)
    )  # [B, N, T, H]
    key = graph.node("Transpose", key, perm=[0, 1, 3, 2])  # [B, N, H, T]
    scores = graph.to_float(graph.node("MatMul", query, key, name=f"{name}/scores"))
    probs = graph.node("Softmax", graph.node("Add", scores, mask_bias), axis=-1)  # [B, N, T, T]
    attended = graph.matmul(probs, value, f"{name}/attended")
    attended = graph.node("Transpose", attended, perm=[0, 2, 1, 3])  # [B, T, N, H]
    attended = graph.node("Reshape", attended, "merge_heads")  # [B, T, D]
    return graph.dense(attended, *_flat(params["out"], D), f"{name}/out")


def _activate(graph: _Graph, activation: str, x: str) -> str:
    """Apply a function of `model.bert.ACTIVATIONS`, in the form that runtimes recognise and fuse."""
    if activation == "relu":
        return graph.node("Relu", x)

    def number(value: float) -> str:
        return graph.constant(f"number_{len(graph.constants)}", np.float32(value))

    if activation == "gelu":
        inner = graph.node("Erf", graph.node("Div", x, number(2**0.5)))
    else:  # gelu_new
        cube = graph.node("Mul", graph.node("Pow", x, number(3)), number(0.044715))
        inner = graph.node("Mul", graph.node("Add", x, cube), number((2 / np.pi) ** 0.5))
        inner = graph.node("Tanh", inner)
    product = graph.node("Mul", x, graph.node("Add", inner, number(1)))
    return graph.node("Mul", product, number(0.5))


def _classify(graph: _Graph, params: Params, x: str) -> None:
    # Always float32, as in `Head`.
    kernel = graph.constant("classifier/kernel", params["kernel"])
    product = graph.node("MatMul", x, kernel, name=CLASSIFIER)
    graph.node("Add", product, graph.constant("classifier/bias", params["bias"]), name=LOGITS)


def _flat(params: Params, inputs: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the kernel [inputs, outputs] and the bias [outputs] of a `Dense` layer."""
    return params["kernel"].reshape(inputs, -1), params["bias"].reshape(-1)
