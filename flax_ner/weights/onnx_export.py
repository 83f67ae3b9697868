"""Export a tagger as an ONNX program, in float32, float16 or int8."""

from pathlib import Path
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
from flax_ner.weights.onnx_graph import ONNX_REQUIREMENT, build_onnx_model, sensitive_products

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
            _quantize(graph, path, sensitive_products(model.config))
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


def _quantize(graph: Any, path: Path, excluded: list[str]) -> None:
    """Write a graph with embeddings and kernels in int8, except for the kernels of the excluded nodes."""
    quantization = import_optional(
        "onnxruntime.quantization", "--dtype int8", ONNXRUNTIME_REQUIREMENT
    )
    # Marks the graph as pre-processed, otherwise a warning asks for it. There is nothing left to infer or fuse.
    graph.metadata_props.add(key="onnx.quant.pre_process", value="onnxruntime.quant")
    quantization.quantize_dynamic(
        graph,
        path,
        per_channel=True,
        nodes_to_exclude=excluded,
    )
