"""Export a tagger as a StableHLO program."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, export

from flax_ner.model.tagging_model import apply, unstack_layers
from flax_ner.weights.export_folder import STABLEHLO_FILE, check_supported, write_export
from flax_ner.weights.model_dir import ModelDir

PLATFORMS = ("cpu", "cuda", "tpu")  # that the program is lowered for


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
    label_set = check_supported(model, "stablehlo")
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

    return write_export(model, label_set, out, "StableHLO", write)
