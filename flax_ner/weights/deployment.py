"""Export a tagger as an ONNX or StableHLO program, and read what the folder of an export says about it.

onnx/model.onnx    program from input_ids and attention_mask, int [B, T], to logits, float32 [B, T, C]. Its name
                   depends on the dtype, see `ONNX_FILES`. A StableHLO export has model.stablehlo instead.
config.json        as transformers reads it; so are tokenizer.json, tokenizer_config.json and vocab.txt
flax_ner.json      as config.json in a model directory
labels.json        as in a model directory
transitions.json   score of tag j (column) after tag i (row), [C, C], -1e30 where the scheme forbids it. It is
                   missing if the head is softmax.
"""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, export

from flax_ner import durable
from flax_ner.errors import UserError, import_optional
from flax_ner.model.decoding import Decoder
from flax_ner.model.tagging_model import apply, unstack_layers
from flax_ner.text.labels import LabelSet
from flax_ner.weights.export import check_new, write_hugging_face_files
from flax_ner.weights.model_dir import (
    EXPORT_CONFIG,
    RESTORE_HINT,
    ModelDir,
    metadata_row,
    read_description,
    write_json,
)
from flax_ner.weights.onnx_graph import ONNX_REQUIREMENT, build_onnx_model, sensitive_products

ONNXRUNTIME_REQUIREMENT = "onnxruntime>=1.20"
# transformers.js looks for these names in the folder `onnx`. Optimum searches all folders for a model.onnx, and
# opens any other .onnx file if there is none.
ONNX_FILES = {
    "float32": "onnx/model.onnx",
    "float16": "onnx/model_fp16.onnx",
    "int8": "onnx/model_quantized.onnx",
}
STABLEHLO_FILE = "model.stablehlo"
TRANSITIONS = "transitions.json"
PLATFORMS = ("cpu", "cuda", "tpu")  # that the StableHLO program is lowered for
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
    label_set = _check_supported(model, "onnx")

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

    return _write_folder(model, label_set, out, f"ONNX {dtype}", write, labels)


def export_stablehlo(model: ModelDir, out: str | Path) -> str:
    """Export a tagger as a StableHLO program, which `jax.export.deserialize` reads.

    Its inputs are int32. It computes in float32, on every platform of `PLATFORMS`.

    Args:
        model: a tagger with the head softmax, softmax_constrained or crf.
        out: folder to create.

    Returns:
        A message that says what was written.

    Raises:
        UserError: `out` exists, or the model is not supported.
    """
    label_set = _check_supported(model, "stablehlo")
    config = replace(
        model.config, compute_dtype="float32", attention="xla", scan_layers=False, remat=False
    )
    params = unstack_layers(model.params)

    def logits(input_ids: Array, attention_mask: Array) -> Any:
        columns = jnp.arange(input_ids.shape[1], dtype=jnp.int32)
        positions = jnp.broadcast_to(columns[None], input_ids.shape)
        return apply(config, params, input_ids, attention_mask, positions)

    def write(folder: Path) -> Path:
        rows = jax.ShapeDtypeStruct(export.symbolic_shape("batch, length"), jnp.int32)
        program = export.export(jax.jit(logits), platforms=PLATFORMS)(rows, rows)
        (folder / STABLEHLO_FILE).write_bytes(program.serialize())
        return folder / STABLEHLO_FILE

    return _write_folder(model, label_set, out, "StableHLO", write)


def is_export(path: Path) -> bool:
    """Return whether a path is a folder with an ONNX or StableHLO program of this project."""
    return (path / EXPORT_CONFIG).is_file()


def read_export(path: Path) -> ModelDir:
    """Read what an export says about its model. `params` has only the transitions of a CRF.

    Raises:
        UserError: a file is missing or damaged.
    """
    model = read_description(path, EXPORT_CONFIG)
    model.params = {"head": {}}
    if model.config.head == "crf":
        transitions = _read_transitions(path / TRANSITIONS, model.config.num_labels)
        model.params["head"]["transitions"] = transitions
    return model


def find_onnx(path: Path) -> Path:
    """Return the ONNX file of an export, the most accurate one if there are several.

    Raises:
        UserError: there is none.
    """
    files = [path / name for name in ONNX_FILES.values() if (path / name).is_file()]
    if files:
        return files[0]
    if (path / STABLEHLO_FILE).is_file():
        raise UserError(
            f"{path}: is a StableHLO export, which only jax.export.deserialize reads. Name the model directory "
            "that it was exported from, or an ONNX export."
        )
    raise UserError(
        f"{path}: has none of {', '.join(ONNX_FILES.values())}. Export the model again."
    )


def _check_supported(model: ModelDir, target: str) -> LabelSet:
    """Return the labels of a model, and raise `UserError` if its logits alone do not give its tags."""
    if model.labels is None:
        raise UserError(
            f"--to {target}: this model is an encoder without a head. Fine-tune it first: "
            "python train.py --config configs/cluener.py --workdir DIR --config.init_from=MODEL"
        )
    if model.config.head == "global_pointer":
        raise UserError(
            f"--to {target}: does not support model.head global_pointer, which scores spans. Train a model "
            "with another head: --config.model.head=crf"
        )
    if model.config.ensemble > 1:
        raise UserError(
            f"--to {target}: does not support an ensemble of {model.config.ensemble} models. Export one of "
            "them, or distil them into one model: --config.distill.teacher=MODEL"
        )
    return model.labels


def _write_folder(
    model: ModelDir,
    label_set: LabelSet,
    out: str | Path,
    name: str,
    write: Callable[[Path], Path],
    labels: str | None = None,
) -> str:
    """Create the folder of an export. `write` adds the program and returns its path."""
    out = check_new(out)
    durable.makedirs_synced(out.parent)
    folder = durable.staging_path(out)  # so that `out` is never incomplete
    write_hugging_face_files(model, folder, labels)
    write_json(folder / EXPORT_CONFIG, metadata_row(model))
    write_json(folder / "labels.json", label_set.to_json())
    program = write(folder)
    size = sum(file.stat().st_size for file in program.parent.iterdir() if file.is_file())
    message = f"{name}: {program.relative_to(folder)}, {size / 1e6:.1f} MB."
    if model.config.head != "softmax":
        decoder = Decoder(model.config.head, label_set.allowed_transitions(), label_set.outside)
        _write_transitions(decoder.transition_scores(model.params["head"]), folder / TRANSITIONS)
        message += (
            f" Decode with {TRANSITIONS}, as flax_ner does. Pipelines of other programs ignore it and take the "
            "most probable tag of each token."
        )
    durable.replace_folder(folder, out)
    return f"{message} Written: {out}"


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


def _write_transitions(scores: Array, path: Path) -> None:
    rows = map(json.dumps, np.asarray(scores).tolist())
    path.write_text("[" + ",\n ".join(rows) + "]\n", "utf-8", newline="\n")


def _read_transitions(path: Path, tags: int) -> np.ndarray:
    try:
        scores = np.array(json.loads(path.read_text("utf-8")), np.float32)
    except FileNotFoundError:
        raise UserError(f"{path}: is missing. {RESTORE_HINT}") from None
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"{path}: is damaged ({error}). {RESTORE_HINT}") from None
    if scores.shape != (tags, tags) or not np.isfinite(scores).all():
        raise UserError(f"{path}: is not a matrix of {tags} x {tags} scores. {RESTORE_HINT}")
    return scores
