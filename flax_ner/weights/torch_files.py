"""PyTorch files read without PyTorch, and without running what is in them.

A .pth is a pickle, that is, a program. The reader here can build tensors, storages, ordered
dictionaries and plain containers, and refuses everything else by name. A tensor is a view of the
memory-mapped file until it is copied to its place.

Source: the formats are those of PyTorch's torch/serialization.py (zip since 1.6, the stream before).
"""

import collections
import mmap
import os
import pickle
import struct
import zipfile
from collections.abc import Callable
from io import BytesIO
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from flax_ner.errors import UserError

MAGIC, PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
DTYPES = {
    "DoubleStorage": np.dtype("<f8"),
    "FloatStorage": np.dtype("<f4"),
    "HalfStorage": np.dtype("<f2"),
    "BFloat16Storage": np.dtype(ml_dtypes.bfloat16),
    "LongStorage": np.dtype("<i8"),
    "IntStorage": np.dtype("<i4"),
    "ShortStorage": np.dtype("<i2"),
    "CharStorage": np.dtype("i1"),
    "ByteStorage": np.dtype("u1"),
    "BoolStorage": np.dtype("?"),
}
NESTED = ("state_dict", "model", "module")  # where checkpoints keep their weights


class WeightsFileError(UserError):
    """A file that is not readable as weights, or that asks for more than weights need."""


class _Storage(NamedTuple):
    """A run of numbers in the file; `array` comes later where the stream puts it behind the pickle."""

    key: str
    dtype: np.dtype
    length: int


class _Tensor(NamedTuple):
    """A tensor as the pickle describes it."""

    storage: _Storage
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]


def read_torch_file(path: str | os.PathLike[str]) -> Any:
    """The object in a PyTorch file, plain containers, tensors as read-only NumPy arrays.

    Raises:
        WeightsFileError: not a PyTorch file, damaged, or with content that is not weights.
    """
    try:
        with open(path, "rb") as file:
            if not os.fstat(file.fileno()).st_size:
                raise WeightsFileError(f"{path}: is empty.")
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except OSError as error:
        raise WeightsFileError(f"{path}: cannot be read ({error.strerror}).") from None
    try:
        return _read_zip(path, data) if data[:4] == b"PK\x03\x04" else _read_stream(data)
    except WeightsFileError as error:
        raise WeightsFileError(f"{path}: {error}") from None
    # What pickle and zipfile raise on damaged input is not documented; all of it means the same.
    except Exception as error:
        raise WeightsFileError(
            f"{path}: not a PyTorch file, or a damaged one ({type(error).__name__}: {error}). "
            "Fetch it again, or save it again with torch.save."
        ) from None


def read_state_dict(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """The weights in a PyTorch file by name; a checkpoint's `state_dict` is unwrapped.

    Raises:
        WeightsFileError: as `read_torch_file`, or there are no weights in it.
    """
    found = read_torch_file(path)
    for name in NESTED:
        if isinstance(found, dict) and isinstance(found.get(name), dict):
            found = found[name]
            break
    if not isinstance(found, dict):
        raise WeightsFileError(f"{path}: holds a {type(found).__name__}, not a state dict.")
    others = [str(name) for name, value in found.items() if not isinstance(value, np.ndarray)]
    if others or not found:
        raise WeightsFileError(
            f"{path}: not a state dict, {', '.join(others[:3]) or 'nothing'} in it is no tensor. "
            "Save the weights alone: torch.save(model.state_dict(), path)."
        )
    return {str(name): value for name, value in found.items()}


class _Unpickler(pickle.Unpickler):
    """Builds weights and nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        if module == "torch" and name in DTYPES:
            return DTYPES[name]
        allowed: dict[tuple[str, str], Callable[..., Any]] = {
            ("collections", "OrderedDict"): collections.OrderedDict,
            ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
            ("torch._utils", "_rebuild_tensor"): _rebuild_tensor,
            ("torch._utils", "_rebuild_parameter"): lambda tensor, *_: tensor,
            ("torch", "Size"): tuple,
        }
        if (module, name) not in allowed:
            raise WeightsFileError(
                f"asks to run {module}.{name}, which weights do not need, so it is refused. "
                "Save the weights alone: torch.save(model.state_dict(), path)."
            )
        return allowed[module, name]

    def persistent_load(self, pid: Any) -> _Storage:
        kind, dtype, key, _location, count, *_view = pid
        if kind != "storage" or not isinstance(dtype, np.dtype) or not isinstance(key, str):
            raise WeightsFileError("has a storage that is not one.")
        return _Storage(key, dtype, _natural(count))


def _rebuild_tensor(storage: Any, offset: Any, size: Any, stride: Any, *_: Any) -> _Tensor:
    if not isinstance(storage, _Storage):
        raise WeightsFileError("has a tensor without a storage.")
    return _Tensor(
        storage, _natural(offset), tuple(map(_natural, size)), tuple(map(_natural, stride))
    )


def _natural(value: Any) -> int:
    if type(value) is not int or not 0 <= value < 2**62:
        raise WeightsFileError(f"gives {value!r} for a size, offset or stride.")
    return value


def _read_zip(path: str | os.PathLike[str], data: mmap.mmap) -> Any:
    with zipfile.ZipFile(path) as archive:
        members = {member.filename: member for member in archive.infolist()}
        pickles = [name for name in members if name.endswith("/data.pkl")]
        if len(pickles) != 1:
            raise WeightsFileError("is a zip archive, but not one that torch.save wrote.")
        prefix = pickles[0].removesuffix("data.pkl")
        order = members.get(prefix + "byteorder")
        if order is not None and archive.read(order) != b"little":
            raise WeightsFileError("was written on a big-endian machine. Save it again on another.")
        tree = _Unpickler(BytesIO(_member(data, members[pickles[0]]))).load()

    def storage(wanted: _Storage) -> np.ndarray:
        member = members.get(f"{prefix}data/{wanted.key}")
        if member is None:
            raise WeightsFileError(f"lacks the data of storage {wanted.key}.")
        return _numbers(_member(data, member), wanted)

    return _resolve(tree, storage)


def _member(data: mmap.mmap, member: zipfile.ZipInfo) -> memoryview:
    """A member of the archive as a view; torch.save never compresses."""
    if member.compress_type != zipfile.ZIP_STORED or member.flag_bits & 1:
        raise WeightsFileError(
            f"{member.filename} is compressed or encrypted; torch.save writes neither."
        )
    header = data[member.header_offset : member.header_offset + 30]
    if header[:4] != b"PK\x03\x04":
        raise WeightsFileError(f"{member.filename} is not where the archive says.")
    name, extra = struct.unpack("<HH", header[26:30])
    begin = member.header_offset + 30 + name + extra
    if begin + member.file_size > len(data):
        raise WeightsFileError(f"{member.filename} ends behind the file; it is truncated.")
    return memoryview(data)[begin : begin + member.file_size]


def _read_stream(file: mmap.mmap) -> Any:
    for expected in (MAGIC, PROTOCOL):
        if _Unpickler(file).load() != expected:
            raise WeightsFileError("not a PyTorch file.")
    if _Unpickler(file).load().get("little_endian") is not True:
        raise WeightsFileError("was written on a big-endian machine. Save it again on another.")
    tree = _Unpickler(file).load()
    keys = _Unpickler(file).load()
    places: dict[str, tuple[int, int]] = {}
    sizes = {storage.key: storage.dtype.itemsize for storage in _storages(tree)}
    for key in keys:
        if key not in sizes:
            raise WeightsFileError(f"holds a storage {key!r} that no tensor uses.")
        (count,) = struct.unpack("<q", file.read(8))
        end = file.tell() + _natural(count) * sizes[key]
        if end > len(file):
            raise WeightsFileError(f"storage {key} ends behind the file; it is truncated.")
        places[key] = (file.tell(), end)
        file.seek(end)

    def storage(wanted: _Storage) -> np.ndarray:
        if wanted.key not in places:
            raise WeightsFileError(f"lacks the data of storage {wanted.key}.")
        begin, end = places[wanted.key]
        return _numbers(memoryview(file)[begin:end], wanted)

    return _resolve(tree, storage)


def _numbers(data: memoryview, storage: _Storage) -> np.ndarray:
    if storage.length * storage.dtype.itemsize > len(data):
        raise WeightsFileError(f"storage {storage.key} is shorter than it says.")
    return np.frombuffer(data, storage.dtype, storage.length)


def _storages(tree: Any) -> list[_Storage]:
    if isinstance(tree, _Tensor):
        return [tree.storage]
    children = (
        tree.values() if isinstance(tree, dict) else tree if isinstance(tree, list | tuple) else ()
    )
    return [storage for child in children for storage in _storages(child)]


def _resolve(tree: Any, storage: Callable[[_Storage], np.ndarray]) -> Any:
    """Put arrays in the place of `_Tensor`s."""
    if isinstance(tree, _Tensor):
        numbers = storage(tree.storage)
        if len(tree.size) != len(tree.stride):
            raise WeightsFileError("has a tensor with more sizes than strides, or fewer.")
        if 0 in tree.size:
            return np.zeros(tree.size, numbers.dtype)
        last = tree.offset + sum((n - 1) * s for n, s in zip(tree.size, tree.stride, strict=True))
        if last >= len(numbers):
            raise WeightsFileError("has a tensor that reaches behind its storage.")
        strides = [s * numbers.itemsize for s in tree.stride]
        return np.lib.stride_tricks.as_strided(
            numbers[tree.offset :], tree.size, strides, writeable=False
        )
    if isinstance(tree, dict):
        return {key: _resolve(value, storage) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return [_resolve(value, storage) for value in tree]
    return tree
