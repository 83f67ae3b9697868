"""Hugging Face's Flax weights, `flax_model.msgpack`: nested tables of arrays, by the names of Flax modules.

Source: flax/serialization.py; transformers 4, modeling_flax_pytorch_utils.py.
"""

import os
from collections.abc import Mapping
from typing import Any

import numpy as np
from flax import serialization

from flax_ner.weights.mapped import WeightsFileError, map_file, refuse_pointer, refuse_text
from flax_ner.weights.names import flatten
from flax_ner.weights.safetensors_files import DTYPES

# Last parts of names that PyTorch calls weight; a kernel is transposed there.
WEIGHTS = ("kernel", "embedding", "scale")


def read_flax_file(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Read a msgpack file of Flax: each array by its names, joined by slashes. It is read whole.

    Raises:
        WeightsFileError: no such file, a damaged one, or one that holds anything but arrays of numbers.
    """
    try:
        data: Any = map_file(path)
        refuse_pointer(data)
        refuse_text(data)
        arrays = flatten(serialization.msgpack_restore(data))
        for name, array in arrays.items():
            known = isinstance(array, np.ndarray) and array.dtype in DTYPES.values()
            if not known or not isinstance(name, str):
                kind = getattr(array, "dtype", type(array).__name__)
                raise ValueError(f"{str(name)[:100]!r} holds {kind}")
        return arrays
    except WeightsFileError as error:
        raise WeightsFileError(f"{path}: {error}") from None
    except OSError as error:
        raise WeightsFileError(f"{path}: cannot be read ({error.strerror}).") from None
    # Whatever else is raised comes from what the file says: msgpack, Flax and NumPy have no error in common.
    except Exception as error:
        reason = "".join(c for c in str(error)[:200] if c.isprintable())
        raise WeightsFileError(
            f"{path}: not a msgpack file of Flax, or a damaged one ({reason or type(error).__name__}). "
            "Fetch it or save it again."
        ) from None


def as_pytorch(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return arrays by the names and in the shapes of PyTorch; views."""
    named = {}
    for path, array in arrays.items():
        *parents, last = path.split("/")
        name = "weight" if last in WEIGHTS else last
        named[".".join([*parents, name])] = array.T if last == "kernel" else array
    return named
