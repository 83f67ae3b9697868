"""Read the parameters of a model directory: one Zarr array each, in an OCDBT database that Orbax wrote.

Orbax reads them too, but importing and starting it takes most of a second.
"""

import json
import math
import os
from pathlib import Path
from typing import Any

import jax
import numpy as np
import tensorstore as ts

from flax_ner.model.tagging_model import Params

# What damaged files raise.
READ_ERRORS = (ValueError, KeyError, TypeError, AttributeError, OSError)
ALIGNMENT = 64  # bytes; jax on a CPU uses such arrays without a copy


def stored_arrays(folder: Path) -> dict[str, ts.TensorStore]:
    """Open the arrays in `params/`, by their path, joined by dots.

    Raises:
        READ_ERRORS: the folder is damaged.
    """
    folder = Path(os.path.realpath(folder))  # TensorStore removes `..` without following links
    metadata = json.loads((folder / "_METADATA").read_text("utf-8"))
    driver = "zarr3" if metadata.get("use_zarr3") else "zarr"
    database = {"driver": "ocdbt", "base": {"driver": "file", "path": f"{folder}/"}}
    pending = {}
    for entry in metadata["tree_metadata"].values():
        name = ".".join(key["key"] for key in entry["key_metadata"])
        pending[name] = ts.open(
            {
                "driver": driver,
                "kvstore": {**database, "path": f"{name}/"},
                "fill_missing_data_reads": False,
            },
            read=True,
        )
    return {name: array.result() for name, array in pending.items()}


def read_params(folder: Path, shapes: Params) -> Params:
    """Read the arrays in `params/` into memory.

    Args:
        folder: the folder `params` of a model directory.
        shapes: tree of shapes and dtypes. Stored arrays of another dtype are cast.

    Returns:
        A tree of NumPy arrays.

    Raises:
        READ_ERRORS: the folder is damaged, or its arrays are not those of `shapes`.
    """
    stored, (leaves, tree) = stored_arrays(folder), jax.tree.flatten_with_path(shapes)
    expected = {".".join(key.key for key in path): shape for path, shape in leaves}
    if different := sorted(expected.keys() ^ stored.keys()):
        raise ValueError(f"{different[0]} is {'stored' if different[0] in stored else 'missing'}")
    arrays, pending = [], []
    for name, shape in expected.items():
        if stored[name].shape != shape.shape:
            raise ValueError(f"{name} has the shape {stored[name].shape}, not {shape.shape}")
        arrays.append(_aligned_array(shape.shape, shape.dtype))
        target = ts.array(arrays[-1])
        pending.append(target.write(ts.cast(stored[name], target.dtype)))
    for written in pending:
        written.result()
    params: Params = jax.tree.unflatten(tree, arrays)
    return params


def _aligned_array(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    size = math.prod(shape) * np.dtype(dtype).itemsize
    buffer = np.empty(size + ALIGNMENT, np.uint8)
    start = -buffer.ctypes.data % ALIGNMENT
    return buffer[start : start + size].view(dtype).reshape(shape)
