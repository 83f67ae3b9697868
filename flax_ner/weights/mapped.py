"""Files mapped into memory: an array over one takes memory only while it is read."""

import codecs
import mmap
import os
from typing import Any

import numpy as np
from numpy.lib.array_utils import byte_bounds

from flax_ner.errors import UserError

SAVE_WEIGHTS = "Save the weights alone: torch.save(model.state_dict(), path)."


class WeightsFileError(UserError):
    """A file that is not readable as weights, or that asks for more than weights need."""


class MappedFile(mmap.mmap):
    """Its pages can be given back at any time: the file has what they hold."""


def map_file(path: str | os.PathLike[str]) -> MappedFile:
    """Map a file, read-only.

    Raises:
        OSError: it cannot be read.
        ValueError: it is empty.
    """
    with open(path, "rb") as file:
        return MappedFile(file.fileno(), 0, access=mmap.ACCESS_READ)


def refuse_pointer(data: mmap.mmap) -> None:
    """Raise `WeightsFileError` where Git LFS left a pointer in the place of a file."""
    if data[:40].startswith(b"version https://git-lfs"):
        raise WeightsFileError("is a pointer of Git LFS, not the file itself. Run: git lfs pull")


def refuse_text(data: mmap.mmap) -> None:
    """Raise `WeightsFileError` for a file of text: data, a page of HTML, a vocabulary."""
    try:  # what is read may end inside a character
        text = codecs.getincrementaldecoder("utf-8-sig")().decode(data[:1000])
    except UnicodeDecodeError:
        return
    if all(c.isprintable() or c in "\t\n\r" for c in text):  # no kind of weights begins so
        first = text.strip().partition("\n")[0].strip()
        raise WeightsFileError(
            f"is a text file, not weights (it begins with {first[:40]!r}). Give a model directory, or a file "
            "of PyTorch weights or safetensors."
        )


def release(array: np.ndarray) -> None:
    """Give back the memory of the part of a file under `array`; reading it again fetches it again.

    An array over no mapped file is left as it is.
    """
    base: Any = array
    while base is not None and not isinstance(base, MappedFile):
        base = getattr(base, "base", None)
    if base is None or not hasattr(mmap, "MADV_DONTNEED"):  # not on Windows
        return
    (start, _), (first, last) = byte_bounds(np.frombuffer(base, np.uint8)), byte_bounds(array)
    # Whole pages that are this array's alone; all of the file's would be several times slower.
    begin = -(-(first - start) // mmap.PAGESIZE) * mmap.PAGESIZE
    length = (last - start) // mmap.PAGESIZE * mmap.PAGESIZE - begin
    if length > 0:
        base.madvise(mmap.MADV_DONTNEED, begin, length)
