"""Files mapped into memory: an array over one takes memory only while it is read."""

import mmap
import os
from typing import Any

import numpy as np

from flax_ner.errors import UserError

SAVE_WEIGHTS = "Save the weights alone: torch.save(model.state_dict(), path)."


class WeightsFileError(UserError):
    """A file that is not readable as weights, or that asks for more than weights need."""


def map_file(path: str | os.PathLike[str]) -> mmap.mmap:
    """Map a file, read-only.

    Raises:
        OSError: it cannot be read.
        ValueError: it is empty.
    """
    with open(path, "rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


def release(array: np.ndarray) -> None:
    """Give back the memory of the file under `array`; reading the array again fetches it again."""
    base: Any = array
    while base is not None and not isinstance(base, mmap.mmap):
        base = getattr(base, "base", None)
    if base is not None and hasattr(mmap, "MADV_DONTNEED"):  # not on Windows
        base.madvise(mmap.MADV_DONTNEED)
