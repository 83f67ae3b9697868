"""Read and write safetensors files: a JSON header, then the data.

The `safetensors` library is not used, for three reasons. Here a tensor is a view of the mapped file, also with
bfloat16, which the library does not support for NumPy. The size of the header is limited. And writing copies
one tensor at a time, where the library copies all of them.

Source: https://github.com/huggingface/safetensors, "Format".
"""

import json
import math
import os
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from flax_ner.weights.mapped import WeightsFileError, map_file, refuse_lfs_pointer, refuse_text

DTYPES = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "I64": np.dtype("<i8"),
    "I32": np.dtype("<i4"),
    "I16": np.dtype("<i2"),
    "I8": np.dtype("i1"),
    "U8": np.dtype("u1"),
    "BOOL": np.dtype("?"),
}
MAX_HEADER_BYTES = 4 << 20  # a BERT's header has about 20 kB


def read_safetensors(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Read a safetensors file, as read-only arrays over the mapped file, by name.

    Raises:
        WeightsFileError: the file is missing or damaged, or its header does not match its data.
    """
    try:
        data = map_file(path)
        refuse_lfs_pointer(data)
        refuse_text(data)
        begin, rows = _read_header(data)
        tensors, end = {}, 0
        for name, row in sorted(rows.items(), key=lambda item: item[1]["data_offsets"]):
            if isinstance(row["dtype"], str) and row["dtype"] not in DTYPES:
                raise ValueError(f"{name!r} has dtype {row['dtype']}, which is not supported")
            dtype, shape = DTYPES[row["dtype"]], row["shape"]
            if any(type(n) is not int or n < 0 for n in shape) or len(shape) > 64:
                raise ValueError(f"{name!r} has an invalid shape")
            start, stop = row["data_offsets"]
            if start != end or stop - start != math.prod(shape) * dtype.itemsize:
                raise ValueError(
                    f"the offsets of {name!r} do not match its shape or the other tensors"
                )
            if begin + stop > len(data):
                raise ValueError(f"it ends within {name!r}")
            array = np.ndarray(shape, dtype, data, begin + start)
            tensors[name], end = array, stop
        if begin + end != len(data):
            raise ValueError("there is data after the last tensor")
        return {name: tensors[name] for name in rows}
    except WeightsFileError as error:
        raise WeightsFileError(f"{path}: {error}") from None
    except OSError as error:
        raise WeightsFileError(f"{path}: cannot be read ({error.strerror}).") from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, struct.error) as error:
        reason = "".join(c for c in str(error)[:200] if c.isprintable())
        raise WeightsFileError(
            f"{path}: not a safetensors file, or damaged ({reason or type(error).__name__}). "
            "Download or save it again."
        ) from None


def _read_header(data: Any) -> tuple[int, dict[str, Any]]:
    """Return the offset of the data, and the header entry of each tensor."""
    (length,) = struct.unpack("<Q", data[:8])
    if length > min(len(data) - 8, MAX_HEADER_BYTES):
        raise ValueError(f"its header has {length} bytes")
    rows = json.loads(data[8 : 8 + length], object_pairs_hook=_unique_names)
    rows.pop("__metadata__", None)
    return 8 + length, rows


def _unique_names(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    row = dict(pairs)
    if len(row) < len(pairs):
        raise ValueError("a name occurs twice")
    return row


def write_safetensors(path: str | os.PathLike[str], tensors: Mapping[str, np.ndarray]) -> None:
    """Write arrays by name, marked as PyTorch's. Views are copied one at a time."""
    names = {dtype: name for name, dtype in DTYPES.items()}
    rows: dict[str, Any] = {"__metadata__": {"format": "pt"}}  # required by transformers
    end = 0
    for name, array in tensors.items():
        begin, end = end, end + array.nbytes
        dtype, shape = names[array.dtype], list(array.shape)
        rows[name] = {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}
    header = json.dumps(rows, ensure_ascii=False, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    with Path(path).open("wb") as file:
        file.write(struct.pack("<Q", len(header)) + header)
        for array in tensors.values():
            file.write(array.tobytes())
