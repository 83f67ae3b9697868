"""Export a tagger as an ONNX program, in float32, float16 or int8."""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import jax
import numpy as np

from flax_ner.errors import import_optional
from flax_ner.model.tagging_model import unstack_layers
from flax_ner.weights.export_folder import (
    ONNX_FILES,
    ONNXRUNTIME_REQUIREMENT,
    check_supported,
    write_export,
)
from flax_ner.weights.model_dir import ModelDir
from flax_ner.weights.onnx_graph import (
    ATTENTION_MASK,
    CLASSIFIER,
    INPUT_IDS,
    ONNX_REQUIREMENT,
    build_onnx_model,
)

# Maximum RMS rounding error of a product's int8 input, relative to its RMS. Products above it stay in float32.
MAX_ROUNDING = 0.1
# How much of the range of a product's input channels moves to the rows of its kernel, 0 to 1.
SMOOTHING = 0.65
MAX_PROTOBUF_BYTES = 2**31 - 2**20  # a larger ONNX file keeps its tensors in a second file


def export_onnx(
    model: ModelDir, out: str | Path, dtype: str = "float32", labels: str | None = None
) -> str:
    """Export a tagger for ONNX runtimes.

    Args:
        model: a tagger with the head softmax, softmax_constrained or crf.
        out: folder to create.
        dtype: `float32`; `float16`, in which embeddings and kernels are stored and products computed; or
            `int8`, to which they are quantized.
        labels: see `export.export`.

    Returns:
        A message that says what was written.

    Raises:
        UserError: `out` exists, the model is not supported, or a package is not installed.
    """
    label_set = check_supported(model, "onnx")

    def write(folder: Path) -> Path:
        params = jax.tree.map(np.asarray, unstack_layers(model.params))
        graph = build_onnx_model(model.config, params, half=dtype == "float16")
        path = folder / ONNX_FILES[dtype]
        path.parent.mkdir()
        if dtype == "int8":
            _quantize(graph, path, _random_tokens(model))
        else:
            _save_onnx(graph, path)
        return path

    return write_export(model, label_set, out, f"ONNX {dtype}", write, labels)


def _save_onnx(graph: Any, path: Path) -> None:
    onnx = import_optional("onnx", "ONNX export", ONNX_REQUIREMENT)
    size = sum(len(tensor.raw_data) for tensor in graph.graph.initializer)
    external = size > MAX_PROTOBUF_BYTES
    location = f"{path.name}_data" if external else None  # the name that the readers expect
    onnx.save_model(graph, path, save_as_external_data=external, location=location)


def _quantize(graph: Any, path: Path, ids: np.ndarray) -> None:
    """Write a graph with embeddings and kernels in int8, except for the head and for coarse products.

    All inputs of a product share one scale, which follows from the largest of them. Most inputs are smoothed.
    Those of the second product of the MLP are not, because that makes the logits worse. In a few layers some of
    them are so large that the others keep only a few bits, so that the product stays in float32. Which layers
    these are hardly depends on the tokens.

    Args:
        graph: the graph in float32; it is changed.
        path: file to write.
        ids: token ids to run the graph with, int64 [B, T].
    """
    quantization = import_optional(
        "onnxruntime.quantization", "--dtype int8", ONNXRUNTIME_REQUIREMENT
    )
    inputs = _product_inputs(graph, path, ids)
    del inputs[CLASSIFIER]
    smoothed = {n: x for n, x in inputs.items() if not n.endswith("/mlp_out/MatMul")}
    inputs |= _smooth(graph, smoothed)
    coarse = [name for name, x in inputs.items() if not _rounding(x) <= MAX_ROUNDING]
    # Marks the graph as pre-processed, otherwise a warning asks for it. There is nothing left to infer or fuse.
    graph.metadata_props.add(key="onnx.quant.pre_process", value="onnxruntime.quant")
    quantization.quantize_dynamic(
        graph,
        path,
        per_channel=True,
        nodes_to_exclude=[*coarse, CLASSIFIER],
    )


def _random_tokens(model: ModelDir) -> np.ndarray:
    """Return rows of random tokens between [CLS] and [SEP], int64 [4, T]."""
    start, end = model.build_tokenizer().encode("").ids
    length = min(model.max_length, 64)
    ids = np.random.default_rng(0).integers(0, model.config.vocab_size, (4, length))
    ids[:, 0], ids[:, -1] = start, end
    return ids


def _product_inputs(graph: Any, path: Path, ids: np.ndarray) -> dict[str, np.ndarray]:
    """Return the input of each product with a kernel, float32 [B, T, inputs], by the name of its node."""
    onnx = import_optional("onnx", "ONNX export", ONNX_REQUIREMENT)
    onnxruntime = import_optional("onnxruntime", "--dtype int8", ONNXRUNTIME_REQUIREMENT)
    products = {
        node.name: node.input[0]
        for node in graph.graph.node
        if node.op_type == "MatMul" and node.input[1].endswith("/kernel")
    }
    probe = onnx.ModelProto()
    probe.CopyFrom(graph)
    for name in set(products.values()):
        probe.graph.output.append(
            onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None)
        )
    with TemporaryDirectory(dir=path.parent) as folder:
        file = Path(folder) / "probe.onnx"
        _save_onnx(probe, file)
        session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
        fed = {INPUT_IDS: ids, ATTENTION_MASK: np.ones_like(ids)}
        values = session.run([*products.values()], fed)
    return dict(zip(products, values, strict=True))


def _smooth(graph: Any, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Divide the channels of products' inputs by factors, and multiply the rows of their kernels by them.

    The products stay the same. Channels with large values become smaller, so that the others keep more bits.

    Args:
        graph: the graph, which is changed.
        inputs: by name of the product, float32 [..., inputs].

    Returns:
        The divided inputs.

    Source: Xiao et al. 2023, "SmoothQuant".
    """
    onnx = import_optional("onnx", "ONNX export", ONNX_REQUIREMENT)
    kernels = {tensor.name: tensor for tensor in graph.graph.initializer}
    nodes, divided = [], dict[str, np.ndarray]()
    for node in graph.graph.node:
        if node.name in inputs:
            kernel = onnx.numpy_helper.to_array(kernels[node.input[1]])  # [inputs, outputs]
            factors = _smoothing_factors(inputs[node.name], kernel)
            smoothed = onnx.numpy_helper.from_array(kernel * factors[:, None], node.input[1])
            kernels[node.input[1]].CopyFrom(smoothed)
            inverse, scaled = f"{node.name}/inverse_factors", f"{node.name}/smoothed"
            graph.graph.initializer.append(onnx.numpy_helper.from_array(1 / factors, inverse))
            nodes.append(onnx.helper.make_node("Mul", [node.input[0], inverse], [scaled], scaled))
            node.input[0] = scaled
            divided[node.name] = inputs[node.name] / factors
        nodes.append(node)
    # Copies, because deleting the graph's nodes clears them.
    nodes = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.graph.node[:]
    graph.graph.node.extend(nodes)
    return divided


def _smoothing_factors(x: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """Return a factor per input channel, float32 [inputs], with a geometric mean of 1."""

    def log_range(values: np.ndarray) -> np.ndarray:
        # Limit the factors: a channel that is 0 for these tokens may not be for others.
        least = max(1e-3 * values.max(), np.finfo(np.float32).tiny)
        ranges: np.ndarray = np.log(np.maximum(values, least))
        return ranges

    of_inputs = log_range(np.abs(x).reshape(-1, len(kernel)).max(0))
    ranges = SMOOTHING * of_inputs - (1 - SMOOTHING) * log_range(np.abs(kernel).max(1))
    factors: np.ndarray = np.exp(ranges - ranges.mean()).astype(np.float32)
    return factors


def _rounding(x: np.ndarray) -> float:
    """Return the root mean square of the rounding of `x` to 8 bits, relative to that of `x`."""
    step = (max(x.max(), 0) - min(x.min(), 0)) / 255
    return float(step / np.sqrt(12) / max(np.sqrt(np.square(x).mean()), np.finfo(np.float32).tiny))
