"""Copy tensors into parameters, and give parameters the names and shapes of PyTorch."""

import math
import mmap
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from itertools import accumulate
from typing import Any

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from flax_ner.errors import UserError
from flax_ner.weights.conversion_report import Report, UsedTensor
from flax_ner.weights.layouts import Layout
from flax_ner.weights.mapped import release
from flax_ner.weights.names import expand_rules, torch_shape

# Rows per block when transposing: a cache line holds 16 float32, and such blocks are twice as fast.
COPY_ROWS = 16


def fill(report: Report, tensors: Mapping[str, np.ndarray], abstract: Mapping[str, Any]) -> Any:
    """Return float32 parameters, filled as `report` says; freshly initialised ones are left out.

    Args:
        report: result of `names.match_tensors`, without errors.
        tensors: tensors of the source by their current names.
        abstract: see `names.match_tensors`.

    Raises:
        UserError: a float64 tensor has values that are not finite in float32.
    """
    targets = flatten_dict(abstract, sep="/")
    filled = _allocate({used.target: targets[used.target].shape for used in report.used})

    def copy(used: UsedTensor) -> None:
        view = _torch_view(filled[used.target], used.target, used.slot)
        tensor = tensors[used.source]
        step = COPY_ROWS if view.ndim == 2 else max(len(tensor), 1)
        with np.errstate(over="ignore"):  # checked below
            for row in range(0, len(tensor), step):
                view[row : row + step] = tensor[row : row + step]
        if tensor.dtype == np.float64 and not np.isfinite(view).all():
            raise UserError(
                f"{used.source}: has values that are not finite in float32. Use weights from an earlier step "
                "of the training that made them."
            )
        release(tensor)

    with ThreadPoolExecutor() as pool:  # NumPy releases the GIL while copying
        list(pool.map(copy, report.used))
    return unflatten_dict(filled, sep="/")


def to_torch(params: Mapping[str, Any], layout: Layout) -> dict[str, np.ndarray]:
    """Return views of the parameters with PyTorch's names and shapes, the inverse of `fill`."""
    arrays = {target: np.asarray(array) for target, array in flatten_dict(params, sep="/").items()}
    return {
        name: _torch_view(arrays[target], target, slot)
        for name, target, slot in expand_rules(layout, arrays)
    }


def _torch_view(array: np.ndarray, target: str, slot: int | None) -> np.ndarray:
    """Return a view of the part of a target that one source tensor fills, in PyTorch's shape."""
    if slot is not None:  # query, key and value share [D, 3, N, H] and [3, N, H]
        array = array[:, slot] if target.endswith("kernel") else array[slot]
    shape = torch_shape(array.shape, target)
    return array.reshape(shape[::-1]).T if target.endswith("kernel") else array.reshape(shape)


def _allocate(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """Return uninitialised float32 arrays of these shapes, in one block of memory.

    Each array starts at a multiple of 64 bytes, so that jax on a CPU can use it without a copy. The block is an
    anonymous memory map. NumPy would allocate huge pages, which a virtual machine may have to request from its
    host; that took longer than copying the weights.
    """
    lengths = [-(-math.prod(shape) // 16) * 16 for shape in shapes.values()]
    block = np.frombuffer(
        mmap.mmap(-1, 4 * max(sum(lengths), 1), access=mmap.ACCESS_COPY), np.float32
    )
    offsets = [0, *accumulate(lengths)]
    return {
        target: block[offset : offset + math.prod(shape)].reshape(shape)
        for (target, shape), offset in zip(shapes.items(), offsets, strict=False)
    }
