"""Read Hugging Face's Flax weights, `flax_model.msgpack`: nested dictionaries named after Flax modules.

Source: flax/serialization.py; transformers 4, modeling_flax_pytorch_utils.py.
"""

import os
from collections.abc import Mapping
from typing import Any

import numpy as np
from flax import serialization
from flax.traverse_util import flatten_dict

from flax_ner.weights.mapped import WeightsFileError, map_file, refuse_lfs_pointer, refuse_text
from flax_ner.weights.safetensors_files import DTYPES

# Last components of names that PyTorch calls weight; a kernel is transposed in PyTorch.
WEIGHTS = ("kernel", "embedding", "scale")


def read_flax_file(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Read a Flax msgpack file into memory, as arrays by path, joined by slashes.

    Raises:
        WeightsFileError: the file is missing or damaged, or holds something else than numeric arrays.
    """
    try:
        data: Any = map_file(path)
        refuse_lfs_pointer(data)
        refuse_text(data)
        restored = flatten_dict(serialization.msgpack_restore(data))
        arrays = {"/".join(map(str, path)): array for path, array in restored.items()}
        if numbers := [path for path in restored if not all(isinstance(x, str) for x in path)]:
            raise ValueError(f"{numbers[0]} has a name that is not text")
        for name, array in arrays.items():
            supported = isinstance(array, np.ndarray) and array.dtype in DTYPES.values()
            if not supported:
                kind = getattr(array, "dtype", type(array).__name__)
                raise ValueError(f"{name[:100]!r} holds {kind}")
        return arrays
    except WeightsFileError as error:
        raise WeightsFileError(f"{path}: {error}") from None
    except OSError as error:
        raise WeightsFileError(f"{path}: cannot be read ({error.strerror}).") from None
    # All other errors mean damage. msgpack, Flax and NumPy have no common exception class.
    except Exception as error:
        reason = "".join(c for c in str(error)[:200] if c.isprintable())
        raise WeightsFileError(
            f"{path}: not a Flax msgpack file, or damaged ({reason or type(error).__name__}). "
            "Download or save it again."
        ) from None


def as_pytorch(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return views of the arrays with PyTorch's names and shapes."""
    named = {}
    for path, array in arrays.items():
        *parents, last = path.split("/")
        name = "weight" if last in WEIGHTS else last
        named[".".join([*parents, name])] = array.T if last == "kernel" else array
    return named
