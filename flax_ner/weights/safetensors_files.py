"""The safetensors format: a table of contents in JSON, then the numbers.

Read here and not with the `safetensors` library, so that a tensor is a view of the mapped file
(bfloat16 too, which the library's NumPy side lacks) and a header cannot take much memory.

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

from flax_ner.weights.mapped import WeightsFileError, map_file, refuse_pointer, refuse_text

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
MOST_HEADER = 4 << 20  # bytes; a BERT's header has some 20 thousand


def read_safetensors(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Read a safetensors file: each tensor by name, a read-only array over the mapped file.

    Raises:
        WeightsFileError: no such file, a damaged one, or one whose header does not fit its numbers.
    """
    try:
        data = map_file(path)
        refuse_pointer(data)
        refuse_text(data)
        begin, rows = _read_header(data)
        tensors, end = {}, 0
        for name, row in sorted(rows.items(), key=lambda item: item[1]["data_offsets"]):
            if isinstance(row["dtype"], str) and row["dtype"] not in DTYPES:
                raise ValueError(f"{name!r} holds {row['dtype']}, which is not supported")
            dtype, shape = DTYPES[row["dtype"]], row["shape"]
            if any(type(n) is not int or n < 0 for n in shape) or len(shape) > 64:
                raise ValueError(f"{name!r} has an impossible shape")
            start, stop = row["data_offsets"]
            if start != end or stop - start != math.prod(shape) * dtype.itemsize:
                raise ValueError(f"{name!r} does not lie where its shape and the others say")
            if begin + stop > len(data):
                raise ValueError(f"it ends within {name!r}")
            array = np.ndarray(shape, dtype, data, begin + start)
            tensors[name], end = array, stop
        if begin + end != len(data):
            raise ValueError("there is more behind the last tensor")
        return {name: tensors[name] for name in rows}
    except WeightsFileError as error:
        raise WeightsFileError(f"{path}: {error}") from None
    except OSError as error:
        raise WeightsFileError(f"{path}: cannot be read ({error.strerror}).") from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, struct.error) as error:
        reason = "".join(c for c in str(error)[:200] if c.isprintable())
        raise WeightsFileError(
            f"{path}: not a safetensors file, or a damaged one ({reason or type(error).__name__}). "
            "Fetch it or save it again."
        ) from None


def _read_header(data: Any) -> tuple[int, dict[str, Any]]:
    """Where the numbers begin, and the row of each tensor."""
    (length,) = struct.unpack("<Q", data[:8])
    if length > min(len(data) - 8, MOST_HEADER):
        raise ValueError(f"a header of {length} bytes")
    rows = json.loads(data[8 : 8 + length], object_pairs_hook=_once)
    rows.pop("__metadata__", None)
    return 8 + length, rows


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    row = dict(pairs)
    if len(row) < len(pairs):
        raise ValueError("a name is there twice")
    return row


def write_safetensors(path: str | os.PathLike[str], tensors: Mapping[str, np.ndarray]) -> None:
    """Write arrays by name, as PyTorch's; views are copied one at a time."""
    names = {dtype: name for name, dtype in DTYPES.items()}
    rows: dict[str, Any] = {"__metadata__": {"format": "pt"}}  # transformers refuses it without
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
