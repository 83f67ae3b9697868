"""Memory-mapped files, so that an array over a file takes memory only while it is read."""

import codecs
import mmap
import os
from typing import Any

import numpy as np
from numpy.lib.array_utils import byte_bounds

from flax_ner.errors import UserError

SAVE_STATE_DICT = "Save the weights alone: torch.save(model.state_dict(), path)."


class WeightsFileError(UserError):
    """A file that cannot be read as weights, or that needs more than weights need."""


class MappedFile(mmap.mmap):
    """A read-only map, whose pages can be released at any time: the file still holds their content."""


def map_file(path: str | os.PathLike[str]) -> MappedFile:
    """Map a file read-only.

    Raises:
        OSError: the file cannot be read.
        ValueError: the file is empty.
    """
    with open(path, "rb") as file:
        return MappedFile(file.fileno(), 0, access=mmap.ACCESS_READ)


def refuse_lfs_pointer(data: mmap.mmap) -> None:
    """Raise `WeightsFileError` if the file is only a Git LFS pointer."""
    if data[:40].startswith(b"version https://git-lfs"):
        raise WeightsFileError("is a Git LFS pointer, not the file itself. Run: git lfs pull")


def refuse_text(data: mmap.mmap) -> None:
    """Raise `WeightsFileError` for a text file, such as data, an HTML page or a vocabulary."""
    try:  # incrementally, because the first 1000 bytes may end inside a character
        text = codecs.getincrementaldecoder("utf-8-sig")().decode(data[:1000])
    except UnicodeDecodeError:
        return
    if all(c.isprintable() or c in "\t\n\r" for c in text):  # no weights format starts with text
        first = text.strip().partition("\n")[0].strip()
        raise WeightsFileError(
            f"is a text file, not weights (it starts with {first[:40]!r}). Give a model directory, or a file "
            "of PyTorch weights or safetensors."
        )


def release(array: np.ndarray) -> None:
    """Release the memory of the mapped pages under `array`; a later access reads them again.

    Do nothing if the array is not over a mapped file.
    """
    base: Any = array
    while base is not None and not isinstance(base, MappedFile):
        base = getattr(base, "base", None)
    if base is None or not hasattr(mmap, "MADV_DONTNEED"):  # not on Windows
        return
    (start, _), (first, last) = byte_bounds(np.frombuffer(base, np.uint8)), byte_bounds(array)
    # Only whole pages within this array. Releasing the whole file every time is several times slower.
    begin = -(-(first - start) // mmap.PAGESIZE) * mmap.PAGESIZE
    length = (last - start) // mmap.PAGESIZE * mmap.PAGESIZE - begin
    if length > 0:
        base.madvise(mmap.MADV_DONTNEED, begin, length)
