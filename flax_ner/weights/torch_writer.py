"""Write PyTorch files without PyTorch: zip files with a state dict of float32 tensors.

Source: PyTorch's torch/serialization.py and caffe2/serialize, format version 3.
"""

import os
import struct
import zipfile
from collections.abc import Mapping

import numpy as np

ALIGNMENT = 64  # bytes; PyTorch aligns tensor data so that files can be mapped
# Parts of the pickle that torch.save writes for each tensor.
DICT = b"ccollections\nOrderedDict\n)R"
TENSOR = b"ctorch._utils\n_rebuild_tensor_v2\n"
STORAGE = b"ctorch\nFloatStorage\n"


def write_torch_file(path: str | os.PathLike[str], tensors: Mapping[str, np.ndarray]) -> None:
    """Write float32 arrays by name, as `torch.save(state_dict, path)` would."""
    pickled = [b"\x80\x02", DICT, b"("]
    for key, (name, array) in enumerate(tensors.items()):
        if array.dtype != np.float32:
            raise TypeError(f"{name}: has dtype {array.dtype}, but only float32 is supported")
        strides = [int(np.prod(array.shape[i + 1 :])) for i in range(array.ndim)]
        storage = [_text("storage"), STORAGE, _text(str(key)), _text("cpu"), _int(array.size)]
        pickled += [_text(name), TENSOR, b"((", *storage, b"tQ", _int(0)]
        pickled += [_ints(array.shape), _ints(strides), b"\x89", DICT, b"tR"]
    pickled += [b"u."]
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        _write(archive, "data.pkl", b"".join(pickled))
        _write(archive, "byteorder", b"little")
        for key, array in enumerate(tensors.values()):
            _write(archive, f"data/{key}", array.tobytes())
        _write(archive, "version", b"3\n")


def _write(archive: zipfile.ZipFile, name: str, content: bytes) -> None:
    # The default date of ZipInfo (1980) is fixed, so equal models give equal files.
    member = zipfile.ZipInfo(f"archive/{name}")
    # PyTorch pads with an extra field before the data.
    begin = archive.start_dir + 30 + len(member.filename) + 4
    padding = -begin % ALIGNMENT
    member.extra = b"FB" + struct.pack("<H", padding) + b"Z" * padding
    archive.writestr(member, content)


def _text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def _int(value: int) -> bytes:
    return b"J" + struct.pack("<i", value)


def _ints(values: tuple[int, ...] | list[int]) -> bytes:
    return b"(" + b"".join(map(_int, values)) + b"t"
