"""PyTorch files read without PyTorch, and without running what is in them.

A .pth is a pickle, that is, a program. This reader carries out what weights need of it (tensors,
storages, ordered dictionaries, plain containers) and refuses the rest by name. A tensor is a
read-only view of the memory-mapped file: nothing is copied before its user copies it.

Source: PyTorch's torch/serialization.py; the zip form is written since 1.6, the stream before.
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
    SAVE_WEIGHTS,
    WeightsFileError,
    map_file,
    refuse_pointer,
    refuse_text,
)

MAGIC, PROTOCOL = 0x1950A86A20F9469CFC6C, 1001  # how a stream begins
NESTED = (
    "state_dict",
    "model_state_dict",
    "model",
    "module",
)  # where checkpoints keep their weights
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
# Instructions of a pickle: those that hold a value, and those that make one.
VALUES = {
    "BININT", "BININT1", "BININT2", "LONG1", "LONG4", "BINFLOAT",
    "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8",
    "BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES",
}  # fmt: skip
NEW: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_DICT": dict,
    "EMPTY_LIST": list,
    "EMPTY_TUPLE": tuple,
}
# A pickle of weights has some dozens of instructions and some hundred bytes a tensor.
MOST_INSTRUCTIONS, MOST_BYTES = 1_000_000, 16 << 20
NOT_LITTLE_ENDIAN = "was not written on a little-endian machine. Save it again on one that is."

Places = dict[str, tuple[int, int]]  # of a storage, by its key: the first byte, how many bytes


def read_torch_file(path: str | os.PathLike[str]) -> Any:
    """Read the object in a PyTorch file.

    Returns:
        It, as dicts, lists, tuples and plain values, each tensor a read-only array over the mapped
        file (bfloat16 as `ml_dtypes.bfloat16`). Tensors that share a storage share its memory.

    Raises:
        WeightsFileError: no PyTorch file, a damaged one, or one with more in it than weights need.
            Damage to the numbers alone is not noticed; not every file has right checksums.
    """
    try:
        data = map_file(path)
        refuse_pointer(data)
        refuse_text(data)
        if data[:4] != b"PK\x03\x04":
            return _read_stream(data)
        with zipfile.ZipFile(path) as archive:
            return _read_zip(archive.infolist(), data)
    except WeightsFileError as error:
        raise WeightsFileError(f"{path}: {error}") from None
    except OSError as error:
        raise WeightsFileError(f"{path}: cannot be read ({error.strerror}).") from None
    # Which exceptions damage causes in pickletools and zipfile is not documented; all mean this.
    except Exception as error:
        raise WeightsFileError(
            f"{path}: not a PyTorch file, or a damaged one "
            f"({_line(str(error)) or type(error).__name__}). Fetch it or save it again."
        ) from None


def read_state_dict(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Read the weights in a PyTorch file by name; those of a checkpoint are unwrapped.

    Plain values beside the weights are left out.

    Raises:
        WeightsFileError: as `read_torch_file`, or there are no weights by name in the file.
    """
    found = read_torch_file(path)
    for name in NESTED:
        if isinstance(found, dict) and isinstance(found.get(name), dict):
            found = found[name]
    rows = found if isinstance(found, dict) else {}
    weights = {
        name: value
        for name, value in rows.items()
        if isinstance(name, str) and isinstance(value, np.ndarray)
    }
    # Leaving out a container could lose weights unseen.
    if not weights or any(
        isinstance(value, dict | list | tuple) and value for value in rows.values()
    ):
        names = _line(", ".join(name for name in rows if isinstance(name, str)))
        raise WeightsFileError(
            f"{path}: not a state dict: a {type(found).__name__} of {names or 'nothing by name'}. "
            f"{SAVE_WEIGHTS}"
        )
    return weights


def _read_zip(members: list[zipfile.ZipInfo], data: mmap.mmap) -> Any:
    places: Places = {}
    free = 0  # the first byte that no member before this one has
    for member in sorted(members, key=lambda member: member.header_offset):
        # torch.save never compresses, and only what is not compressed can be mapped.
        if member.compress_type != zipfile.ZIP_STORED or member.flag_bits & 1:
            raise WeightsFileError(f"is compressed or encrypted. {SAVE_WEIGHTS}")
        header = data[member.header_offset : member.header_offset + 30]
        signature, name_length, extra_length = struct.unpack("<4s22xHH", header)
        begin = member.header_offset + 30 + name_length + extra_length
        if signature != b"PK\x03\x04" or begin + member.file_size > len(data):
            raise ValueError("a member of the archive is not where its directory says")
        if member.header_offset < free or member.filename in places:
            raise ValueError("members of the archive overlap")
        places[member.filename] = (begin, member.file_size)
        free = begin + member.file_size

    pickles = [name for name in places if name.endswith("/data.pkl")]
    if len(pickles) != 1:
        raise WeightsFileError(f"is a zip archive, but not of weights. {SAVE_WEIGHTS}")
    folder = pickles[0].removesuffix("data.pkl")
    for name in places:
        if not name.startswith(folder) or ".." in name.split("/"):
            raise ValueError(f"member {_line(name)} lies outside of {_line(folder)}")
    begin, length = places.get(folder + "byteorder", (0, 0))  # older files have none
    if data[begin : begin + length] not in (b"little", b""):
        raise WeightsFileError(NOT_LITTLE_ENDIAN)
    stored = folder + "data/"
    return _Unpickler(
        data,
        {name[len(stored) :]: place for name, place in places.items() if name.startswith(stored)},
    ).load(_Pickle(data, *places[pickles[0]]))


def _read_stream(data: mmap.mmap) -> Any:
    if data[:1] != b"\x80":  # protocol 2, in which PyTorch writes
        raise ValueError("it does not begin as one")
    # The numbers come behind the pickle: one reading of it tells where, another makes the tensors.
    survey = _Unpickler(data, None)
    file = _Pickle(data, 0, len(data))
    if survey.load(file) != MAGIC or survey.load(file) != PROTOCOL:
        raise ValueError("it does not begin as one")
    if survey.load(file).get("little_endian") is not True:
        raise WeightsFileError(NOT_LITTLE_ENDIAN)
    begin = file.tell()
    survey.load(file)
    places: Places = {}
    keys, place = survey.load(file), file.tell()
    for key in keys:
        if not isinstance(key, str) or key not in survey.dtypes:
            raise ValueError("it has a storage that belongs to no tensor")
        (count,) = struct.unpack("<q", data[place : place + 8])
        places[key] = (place + 8, _natural(count) * survey.dtypes[key].itemsize)
        place = sum(places[key])
        if place > len(data):
            raise ValueError("it ends within a storage")
    return _Unpickler(data, places).load(_Pickle(data, begin, len(data) - begin))


class _Pickle:
    """A part of the file as `pickletools` reads it, as far as a pickle of weights may reach."""

    def __init__(self, data: mmap.mmap, begin: int, length: int):
        self.data, self.place = data, begin
        self.end, self.most = begin + length, begin + MOST_BYTES

    def tell(self) -> int:
        return self.place

    def read(self, count: int) -> bytes:
        return self._take(min(self.place + count, self.end))

    def readline(self) -> bytes:
        newline = self.data.find(b"\n", self.place, min(self.end, self.most))
        return self._take(newline + 1 or self.end)

    def _take(self, stop: int) -> bytes:
        if stop > self.most:
            raise WeightsFileError(
                f"has a pickle of over {MOST_BYTES >> 20} MiB, far more than weights need. {SAVE_WEIGHTS}"
            )
        taken, self.place = self.data[self.place : stop], stop
        return taken


class _Unpickler:
    """Carries out a pickle as far as weights need it.

    Not a `pickle.Unpickler` with a strict `find_class`: a few bytes of pickle make that allocate
    gigabytes (a high memo number) or crash (the hash of tuples nested a million deep).

    Args:
        data: the file.
        places: of the storages in it. None: not known yet, tensors become None.
    """

    def __init__(self, data: mmap.mmap, places: Places | None) -> None:
        self.data = data
        self.places = places
        self.dtypes: dict[str, np.dtype] = {}  # of the storages met
        self.spent = 0
        self.allowed: dict[str, Any] = {
            "collections OrderedDict": self.ordered_dict,
            "torch Size": _size,
            "torch device": lambda *parts: parts,
            # NumPy scalars, such as the best score that MMCV keeps in `meta`: read over, not made.
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
        """Carry out the pickle at the file's position, and leave the position behind it."""
        stack: list[Any] = []
        outer: list[list[Any]] = []  # the stacks below each mark
        memo: dict[Any, Any] = {}
        steps = pickletools.genops(cast(Any, file))  # of a file, just what `_Pickle` has
        for opcode, argument, _ in steps:
            self.spend(1)
            match opcode.name:
                case "PROTO" | "FRAME":
                    pass
                case "STOP":
                    return stack.pop()
                case name if name in VALUES:
                    stack.append(argument)
                case name if name in NEW:
                    stack.append(NEW[name]())
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
                    stack.append(self.find(argument))
                case "STACK_GLOBAL":
                    name, module = stack.pop(), stack.pop()
                    stack.append(self.find(" ".join((module, name))))
                case "BINPERSID":
                    stack.append(self.storage(*stack.pop()))
                case "REDUCE":
                    arguments, function = stack.pop(), stack.pop()
                    if type(arguments) is not tuple:
                        raise ValueError("it has a call without arguments")
                    stack.append(function(*arguments))  # callable is only what `find` gave
                case "BUILD":
                    stack.pop()  # attributes, such as a state dict's `_metadata`
                case name:
                    raise WeightsFileError(f"has a pickle with {name}: refused. {SAVE_WEIGHTS}")
        raise EOFError

    def spend(self, count: int) -> None:
        """Count instructions, and what they handle at once; far more than weights need is refused."""
        self.spent += count
        if self.spent > MOST_INSTRUCTIONS:
            raise WeightsFileError(
                f"has a pickle of over {MOST_INSTRUCTIONS:,} instructions, far more than weights need. "
                f"{SAVE_WEIGHTS}"
            )

    def ordered_dict(self, items: Any = ()) -> dict[Any, Any]:
        if not isinstance(items, list | tuple):
            raise ValueError("it has a dictionary of what is no list")
        self.spend(len(items))  # one list can be used again and again
        return _dict(items)

    def find(self, name: Any) -> Any:
        """What a pickle may name, by module and name."""
        if name not in self.allowed:
            raise WeightsFileError(
                f"asks for {_line(name).replace(' ', '.')}, which weights do not need: refused. "
                f"{SAVE_WEIGHTS}"
            )
        return self.allowed[name]

    def storage(
        self, kind: str, type_: str, key: str, _location: Any, count: Any, view: Any = None
    ) -> np.ndarray | None:
        """All numbers of a storage; of a part of it, where the pickle has (key, start, count)."""
        if kind != "storage" or not isinstance(type_, str) or not isinstance(key, str):
            raise ValueError("it has a storage that is not one")
        dtype = DTYPES[type_]
        if self.dtypes.setdefault(key, dtype) != dtype:
            raise ValueError(f"storage {key} has two dtypes")
        if self.places is None:
            return None
        if key not in self.places:
            raise ValueError(f"it lacks the numbers of storage {key}")
        begin, length = self.places[key]
        if _natural(count) * dtype.itemsize > length:
            raise ValueError(f"storage {key} is shorter than the pickle says")
        numbers = np.ndarray(count, dtype, self.data, begin)
        if view is None:
            return numbers
        _, start, count = view
        return numbers[_natural(start) :][: _natural(count)]

    def tensor(
        self, storage: Any, offset: Any, size: Any, stride: Any, *options: Any
    ) -> np.ndarray | None:
        """A tensor over a storage; offset and strides in numbers, as PyTorch has them."""
        if any(options[2:]):  # behind requires_grad and hooks
            raise WeightsFileError(f"has a lazily negated or conjugated tensor. {SAVE_WEIGHTS}")
        if self.places is None:
            return None
        if not isinstance(storage, np.ndarray) or storage.strides != (storage.itemsize,):
            raise ValueError("it has a tensor without a storage")
        size, stride = [_natural(n) for n in size], [_natural(n) for n in stride]
        # A stride of 0 repeats numbers, so a tensor may exceed its storage, but not without bound.
        if len(size) != len(stride) or len(size) > 64 or math.prod(size) > len(self.data):
            raise ValueError("it has a tensor of impossible size")
        if 0 in size:
            return np.empty(size, storage.dtype)
        last = _natural(offset) + sum((n - 1) * s for n, s in zip(size, stride, strict=True))
        if last >= len(storage):
            raise ValueError("it has a tensor that reaches past its storage")
        strides = [s * storage.itemsize for s in stride]
        return np.lib.stride_tricks.as_strided(storage[offset:], size, strides, writeable=False)


def _dict(items: Iterable[tuple[Any, Any]] = ()) -> dict[Any, Any]:
    result = {}
    for key, value in items:
        if key is not None and not isinstance(key, str | bytes | int | float):
            raise WeightsFileError(f"has a {type(key).__name__} for a key. {SAVE_WEIGHTS}")
        result[key] = value
    return result


def _size(sizes: Any = ()) -> tuple[Any, ...]:
    # Not a tensor, whose every number would become an object, and not a list used without end.
    if not isinstance(sizes, list | tuple) or len(sizes) > 64:
        raise ValueError("it has a size that is none")
    return tuple(sizes)


def _natural(value: Any) -> int:
    if type(value) is not int or not 0 <= value < 2**62:
        raise ValueError("it has a size, offset or stride that is none")
    return value


def _line(text: str) -> str:
    """Text out of a file, fit for an error message."""
    return "".join(c if c.isprintable() else " " for c in text[:200])
