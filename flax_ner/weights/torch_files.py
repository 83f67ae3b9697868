"""Read PyTorch files without PyTorch, and without running code from the file.

A .pth file contains a pickle, which is a program. This reader supports what weights need (tensors, storages,
ordered dictionaries, plain containers) and refuses everything else by name. A tensor is a read-only view of
the memory-mapped file, so reading copies nothing.

Source: PyTorch's torch/serialization.py; PyTorch has written zip files since 1.6, and streams before.
"""

import math
import mmap
import os
import pickletools
import struct
import zipfile
from collections.abc import Callable, Iterable
from typing import Any, cast

import ml_dtypes
import numpy as np

from flax_ner.weights.mapped import (
    SAVE_STATE_DICT,
    WeightsFileError,
    map_file,
    refuse_lfs_pointer,
    refuse_text,
)

MAGIC, PROTOCOL = 0x1950A86A20F9469CFC6C, 1001  # the first two values of a stream
# Keys under which checkpoints store the state dict, in the order in which they are unwrapped.
WRAPPER_KEYS = ("state_dict", "model_state_dict", "model", "module")
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
    "UntypedStorage": np.dtype("u1"),
}
# Pickle opcodes whose argument is a value, and opcodes that create one.
VALUE_OPCODES = {
    "BININT", "BININT1", "BININT2", "LONG1", "LONG4", "BINFLOAT",
    "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8",
    "BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES",
}  # fmt: skip
CONSTRUCTORS: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_DICT": dict,
    "EMPTY_LIST": list,
    "EMPTY_TUPLE": tuple,
}
# A pickle of weights has a few dozen opcodes and a few hundred bytes per tensor.
MAX_INSTRUCTIONS, MAX_PICKLE_BYTES = 1_000_000, 16 << 20
NOT_LITTLE_ENDIAN = "is not little-endian. Save it again on a little-endian machine."

StorageRanges = dict[str, tuple[int, int]]  # key of a storage -> (offset, length) in bytes


def read_torch_file(path: str | os.PathLike[str]) -> Any:
    """Read the object in a PyTorch file.

    Returns:
        Dicts, lists, tuples and plain values. Tensors are read-only arrays over the mapped file (bfloat16 as
        `ml_dtypes.bfloat16`). Tensors that share a storage share memory.

    Raises:
        WeightsFileError: the file is not a PyTorch file, is damaged, or contains more than weights need. Damage
            to the tensor data is not detected, because not every file has correct checksums.
    """
    try:
        data = map_file(path)
        refuse_lfs_pointer(data)
        refuse_text(data)
        if data[:4] != b"PK\x03\x04":
            return _read_stream(data)
        with zipfile.ZipFile(path) as archive:
            return _read_zip(archive.infolist(), data)
    except WeightsFileError as error:
        raise WeightsFileError(f"{path}: {error}") from None
    except OSError as error:
        raise WeightsFileError(f"{path}: cannot be read ({error.strerror}).") from None
    # All other errors mean damage. The exceptions of pickletools and zipfile are not documented.
    except Exception as error:
        raise WeightsFileError(
            f"{path}: not a PyTorch file, or damaged "
            f"({_printable(str(error)) or type(error).__name__}). Download or save it again."
        ) from None


def read_state_dict(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Read the state dict in a PyTorch file or checkpoint, as arrays by name.

    Plain values beside the weights are ignored.

    Raises:
        WeightsFileError: as for `read_torch_file`, or the file holds no state dict.
    """
    content = read_torch_file(path)
    for name in WRAPPER_KEYS:
        if isinstance(content, dict) and isinstance(content.get(name), dict):
            content = content[name]
    rows = content if isinstance(content, dict) else {}
    weights = {
        name: value
        for name, value in rows.items()
        if isinstance(name, str) and isinstance(value, np.ndarray)
    }
    # Refuse containers: ignoring one could silently lose weights.
    if not weights or any(
        isinstance(value, dict | list | tuple) and value for value in rows.values()
    ):
        names = _printable(", ".join(name for name in rows if isinstance(name, str)))
        raise WeightsFileError(
            f"{path}: not a state dict, but a {type(content).__name__} with the keys {names or '(none)'}. "
            f"{SAVE_STATE_DICT}"
        )
    return weights


def _read_zip(members: list[zipfile.ZipInfo], data: mmap.mmap) -> Any:
    ranges: StorageRanges = {}
    end = 0  # of the previous member
    for member in sorted(members, key=lambda member: member.header_offset):
        # torch.save never compresses, and only uncompressed members can be mapped.
        if member.compress_type != zipfile.ZIP_STORED or member.flag_bits & 1:
            raise WeightsFileError(f"is compressed or encrypted. {SAVE_STATE_DICT}")
        header = data[member.header_offset : member.header_offset + 30]
        signature, name_length, extra_length = struct.unpack("<4s22xHH", header)
        begin = member.header_offset + 30 + name_length + extra_length
        if signature != b"PK\x03\x04" or begin + member.file_size > len(data):
            raise ValueError("a member of the archive is not where its directory says")
        if member.header_offset < end or member.filename in ranges:
            raise ValueError("members of the archive overlap")
        ranges[member.filename] = (begin, member.file_size)
        end = begin + member.file_size

    pickles = [name for name in ranges if name.endswith("/data.pkl")]
    if len(pickles) != 1:
        raise WeightsFileError(f"is a zip archive, but not of weights. {SAVE_STATE_DICT}")
    folder = pickles[0].removesuffix("data.pkl")
    for name in ranges:
        if not name.startswith(folder) or ".." in name.split("/"):
            raise ValueError(f"member {_printable(name)} is outside {_printable(folder)}")
    begin, length = ranges.get(folder + "byteorder", (0, 0))  # older files have none
    if data[begin : begin + length] not in (b"little", b""):
        raise WeightsFileError(NOT_LITTLE_ENDIAN)
    stored = folder + "data/"
    return _Unpickler(
        data,
        {name[len(stored) :]: span for name, span in ranges.items() if name.startswith(stored)},
    ).load(_Pickle(data, *ranges[pickles[0]]))


def _read_stream(data: mmap.mmap) -> Any:
    if data[:1] != b"\x80":  # the PROTO opcode
        raise ValueError("it does not start like one")
    # The data follow the pickle. A first pass over the pickle finds the storages' dtypes, with which their
    # ranges can be computed. A second pass creates the tensors.
    survey = _Unpickler(data, None)
    file = _Pickle(data, 0, len(data))
    if survey.load(file) != MAGIC or survey.load(file) != PROTOCOL:
        raise ValueError("it does not start like one")
    if survey.load(file).get("little_endian") is not True:
        raise WeightsFileError(NOT_LITTLE_ENDIAN)
    begin = file.tell()
    survey.load(file)
    ranges: StorageRanges = {}
    keys, offset = survey.load(file), file.tell()
    for key in keys:
        if not isinstance(key, str) or key not in survey.dtypes:
            raise ValueError("it has a storage that belongs to no tensor")
        (count,) = struct.unpack("<q", data[offset : offset + 8])
        ranges[key] = (offset + 8, _check_size(count) * survey.dtypes[key].itemsize)
        offset = sum(ranges[key])
        if offset > len(data):
            raise ValueError("it ends within a storage")
    return _Unpickler(data, ranges).load(_Pickle(data, begin, len(data) - begin))


class _Pickle:
    """File-like view of a pickle for `pickletools`, limited to `MAX_PICKLE_BYTES`."""

    def __init__(self, data: mmap.mmap, begin: int, length: int):
        self.data, self.position = data, begin
        self.end, self.limit = begin + length, begin + MAX_PICKLE_BYTES

    def tell(self) -> int:
        return self.position

    def read(self, count: int) -> bytes:
        return self._take(min(self.position + count, self.end))

    def readline(self) -> bytes:
        newline = self.data.find(b"\n", self.position, min(self.end, self.limit))
        return self._take(newline + 1 or self.end)

    def _take(self, stop: int) -> bytes:
        if stop > self.limit:
            raise WeightsFileError(
                f"has a pickle of over {MAX_PICKLE_BYTES >> 20} MiB, which is too large. {SAVE_STATE_DICT}"
            )
        content, self.position = self.data[self.position : stop], stop
        return content


class _Unpickler:
    """Interpreter of the subset of pickle that weights need.

    A `pickle.Unpickler` with a strict `find_class` would not be safe: a few bytes of pickle make it allocate
    gigabytes (a high memo number) or crash (hashing tuples nested a million deep).

    Args:
        data: the file.
        ranges: ranges of the storages in the file. None: they are not known yet, and tensors become None.
    """

    def __init__(self, data: mmap.mmap, ranges: StorageRanges | None) -> None:
        self.data = data
        self.ranges = ranges
        self.dtypes: dict[str, np.dtype] = {}  # key of a storage -> dtype
        self.instructions = 0
        self.allowed: dict[str, Any] = {
            "collections OrderedDict": self.ordered_dict,
            "torch Size": _torch_size,
            "torch device": lambda *parts: parts,
            # NumPy scalars, such as the best score that MMCV stores in `meta`, are skipped.
            "numpy dtype": lambda *_: None,
            "numpy.core.multiarray scalar": lambda *_: None,
            "numpy._core.multiarray scalar": lambda *_: None,
            "_codecs encode": lambda *_: None,
            "torch._utils _rebuild_tensor": self.tensor,
            "torch._utils _rebuild_tensor_v2": self.tensor,
            "torch._utils _rebuild_parameter": lambda tensor, *_: tensor,
            "torch.storage UntypedStorage": "UntypedStorage",
            **{f"torch {name}": name for name in DTYPES},
        }

    def load(self, file: _Pickle) -> Any:
        """Run the pickle at the file's position; the position is after it then."""
        stack: list[Any] = []
        outer: list[list[Any]] = []  # the stacks below each mark
        memo: dict[Any, Any] = {}
        opcodes = pickletools.genops(cast(Any, file))
        for opcode, argument, _ in opcodes:
            self.count_instructions(1)
            match opcode.name:
                case "PROTO" | "FRAME":
                    pass
                case "STOP":
                    return stack.pop()
                case name if name in VALUE_OPCODES:
                    stack.append(argument)
                case name if name in CONSTRUCTORS:
                    stack.append(CONSTRUCTORS[name]())
                case "MARK":
                    outer.append(stack)
                    stack = []
                case "TUPLE":
                    items, stack = stack, outer.pop()
                    stack.append(tuple(items))
                case "TUPLE1" | "TUPLE2" | "TUPLE3":
                    items = [stack.pop() for _ in range(int(opcode.name[-1]))]
                    stack.append(tuple(reversed(items)))
                case "APPEND":
                    item = stack.pop()
                    stack[-1].append(item)
                case "APPENDS":
                    items, stack = stack, outer.pop()
                    stack[-1].extend(items)
                case "SETITEM":
                    value, key = stack.pop(), stack.pop()
                    stack[-1].update(_dict([(key, value)]))
                case "SETITEMS":
                    items, stack = stack, outer.pop()
                    stack[-1].update(_dict(zip(items[::2], items[1::2], strict=True)))
                case "BINPUT" | "LONG_BINPUT":
                    memo[argument] = stack[-1]
                case "MEMOIZE":
                    memo[len(memo)] = stack[-1]
                case "BINGET" | "LONG_BINGET":
                    stack.append(memo[argument])
                case "GLOBAL":
                    stack.append(self.find_global(argument))
                case "STACK_GLOBAL":
                    name, module = stack.pop(), stack.pop()
                    stack.append(self.find_global(" ".join((module, name))))
                case "BINPERSID":
                    stack.append(self.storage(*stack.pop()))
                case "REDUCE":
                    arguments, function = stack.pop(), stack.pop()
                    if type(arguments) is not tuple:
                        raise ValueError("it has a call without an argument tuple")
                    stack.append(function(*arguments))  # only results of `find_global` are callable
                case "BUILD":
                    stack.pop()  # attributes, such as a state dict's `_metadata`
                case name:
                    raise WeightsFileError(
                        f"has a pickle with the opcode {name}, which weights do not need. {SAVE_STATE_DICT}"
                    )
        raise EOFError

    def count_instructions(self, count: int) -> None:
        """Count instructions, and items that one instruction handles at once, up to `MAX_INSTRUCTIONS`."""
        self.instructions += count
        if self.instructions > MAX_INSTRUCTIONS:
            raise WeightsFileError(
                f"has a pickle of over {MAX_INSTRUCTIONS:,} instructions, which are too many. "
                f"{SAVE_STATE_DICT}"
            )

    def ordered_dict(self, items: Any = ()) -> dict[Any, Any]:
        if not isinstance(items, list | tuple):
            raise ValueError("it has a dictionary that is not made from a list")
        self.count_instructions(len(items))  # a pickle can use one list again and again
        return _dict(items)

    def find_global(self, name: Any) -> Any:
        """Return an allowed global, by module and name."""
        if name not in self.allowed:
            raise WeightsFileError(
                f"asks for {_printable(name).replace(' ', '.')}, which weights do not need. "
                f"{SAVE_STATE_DICT}"
            )
        return self.allowed[name]

    def storage(
        self, kind: str, type_: str, key: str, _location: Any, count: Any, view: Any = None
    ) -> np.ndarray | None:
        """Return a storage as an array, or the part of it that `view` (key, start, count) selects."""
        if kind != "storage" or not isinstance(type_, str) or not isinstance(key, str):
            raise ValueError("it has an invalid storage")
        dtype = DTYPES[type_]
        if self.dtypes.setdefault(key, dtype) != dtype:
            raise ValueError(f"storage {key} has two dtypes")
        if self.ranges is None:
            return None
        if key not in self.ranges:
            raise ValueError(f"the data of storage {key} are missing")
        begin, length = self.ranges[key]
        if _check_size(count) * dtype.itemsize > length:
            raise ValueError(f"storage {key} is shorter than the pickle says")
        values = np.ndarray(count, dtype, self.data, begin)
        if view is None:
            return values
        _, start, count = view
        return values[_check_size(start) :][: _check_size(count)]

    def tensor(
        self, storage: Any, offset: Any, size: Any, stride: Any, *options: Any
    ) -> np.ndarray | None:
        """Return a tensor over a storage; offset and strides count elements, as in PyTorch."""
        if any(options[2:]):  # the first two are requires_grad and hooks
            raise WeightsFileError(f"has a lazily negated or conjugated tensor. {SAVE_STATE_DICT}")
        if self.ranges is None:
            return None
        if not isinstance(storage, np.ndarray) or storage.strides != (storage.itemsize,):
            raise ValueError("it has a tensor without a storage")
        size, stride = [_check_size(n) for n in size], [_check_size(n) for n in stride]
        # A stride of 0 repeats elements, so a tensor may be larger than its storage. The file size limits it.
        if len(size) != len(stride) or len(size) > 64 or math.prod(size) > len(self.data):
            raise ValueError("it has a tensor of invalid size")
        if 0 in size:
            return np.empty(size, storage.dtype)
        last = _check_size(offset) + sum((n - 1) * s for n, s in zip(size, stride, strict=True))
        if last >= len(storage):
            raise ValueError("it has a tensor that exceeds its storage")
        strides = [s * storage.itemsize for s in stride]
        return np.lib.stride_tricks.as_strided(storage[offset:], size, strides, writeable=False)


def _dict(items: Iterable[tuple[Any, Any]] = ()) -> dict[Any, Any]:
    result = {}
    for key, value in items:
        if key is not None and not isinstance(key, str | bytes | int | float):
            raise WeightsFileError(
                f"has a dictionary key of type {type(key).__name__}. {SAVE_STATE_DICT}"
            )
        result[key] = value
    return result


def _torch_size(sizes: Any = ()) -> tuple[Any, ...]:
    # A tensor would turn every element into an object, and a pickle can use one long list again and again.
    if not isinstance(sizes, list | tuple) or len(sizes) > 64:
        raise ValueError("it has an invalid size")
    return tuple(sizes)


def _check_size(value: Any) -> int:
    if type(value) is not int or not 0 <= value < 2**62:
        raise ValueError("it has an invalid size, offset or stride")
    return value


def _printable(text: str) -> str:
    """Return the start of a text from a file, safe to print in an error message."""
    return "".join(c if c.isprintable() else " " for c in text[:200])
