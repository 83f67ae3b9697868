"""The folder of an ONNX or StableHLO export: what all exports have in common, and how to read it.

onnx/model.onnx    program from input_ids and attention_mask, int [B, T], to logits, float32 [B, T, C]. Its name
                   depends on the dtype, see `ONNX_FILES`. A StableHLO export has model.stablehlo instead.
config.json        as transformers reads it; so are tokenizer.json, tokenizer_config.json and vocab.txt
flax_ner.json      as config.json in a model directory
labels.json        as in a model directory
transitions.json   score of tag j (column) after tag i (row), [C, C], -1e30 where the scheme forbids it. It is
                   missing if the head is softmax.
"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
from jax import Array

from flax_ner import durable
from flax_ner.errors import UserError
from flax_ner.model.decoding import Decoder
from flax_ner.text.labels import LabelSet
from flax_ner.weights.export import check_new, write_hugging_face_files
from flax_ner.weights.model_dir import (
    EXPORT_CONFIG,
    RESTORE_HINT,
    ModelDir,
    check_replaceable,
    metadata_row,
    read_description,
    write_json,
)

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


def copy_export(export: Path, path: Path) -> None:
    """Copy an export. Replace an existing model only after the copy is on disk.

    Raises:
        UserError: `path` exists and is not a model.
    """
    check_replaceable(path)
    new = durable.staging_path(path)
    shutil.copytree(export, new)
    durable.replace_folder(new, path)


def check_supported(model: ModelDir, target: str) -> LabelSet:
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


def write_export(
    model: ModelDir,
    label_set: LabelSet,
    out: str | Path,
    name: str,
    write: Callable[[Path], Path],
    labels: str | None = None,
) -> str:
    """Create the folder of an export.

    Args:
        model: the tagger.
        label_set: its labels.
        out: folder to create.
        name: what is exported, for the message.
        write: function that adds the program to a folder and returns its path.
        labels: see `export.export`.

    Returns:
        A message that says what was written.

    Raises:
        UserError: `out` exists. After any error, nothing is left.
    """
    out = check_new(out)
    durable.makedirs_synced(out.parent)
    folder = durable.staging_path(out)  # so that `out` is never incomplete
    try:
        write_hugging_face_files(model, folder, labels)
        write_json(folder / EXPORT_CONFIG, metadata_row(model))
        write_json(folder / "labels.json", label_set.to_json())
        program = write(folder)
        size = sum(file.stat().st_size for file in program.parent.glob(f"{program.name}*"))
        message = f"{name}: {program.relative_to(folder)}, {size / 1e6:.1f} MB."
        if model.config.head != "softmax":
            decoder = Decoder(model.config.head, label_set.allowed_transitions(), label_set.outside)
            _write_transitions(
                decoder.transition_scores(model.params["head"]), folder / TRANSITIONS
            )
            message += (
                f" Decode with {TRANSITIONS}, as flax_ner does. Pipelines of other programs ignore it and "
                "take the most probable tag of each token."
            )
        durable.replace_folder(folder, out)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return f"{message} Written: {out}"


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
