"""Damaged, inconsistent and malicious files, a few bytes each.

Reading any of them must raise one error, run nothing, and need little memory and time.
`python -m tests.weights.hostile` measures that.
"""

import json
import pickle
import struct
import zipfile
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import msgpack
import numpy as np

FLOATS = np.arange(6, dtype="<f4")
HUGE = 2**61

# --- Parts of a pickle ---------------------------------------------------------------------------


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def number(value: int) -> bytes:
    return pickle.dumps(value, 2)[2:-1]


def pair(*values: int) -> bytes:
    return b"(" + b"".join(map(number, values)) + b"t"


def storage(count: int = 6, key: str = "0", kind: str = "FloatStorage", view: bytes = b"") -> bytes:
    return (
        b"(" + text("storage") + b"ctorch\n" + kind.encode() + b"\n" + text(key) + text("cpu")
        + number(count) + view + b"tQ"
    )  # fmt: skip


def tensor(
    offset: int = 0,
    size: bytes = pair(2, 3),
    stride: bytes = pair(3, 1),
    over: bytes = storage(),
) -> bytes:
    return (
        b"ctorch._utils\n_rebuild_tensor_v2\n(" + over + number(offset) + size + stride
        + b"\x89ccollections\nOrderedDict\n)RtR"
    )  # fmt: skip


def program(body: bytes) -> bytes:
    return b"\x80\x02" + body + b"."


def state(value: bytes) -> bytes:
    return program(b"}" + text("w") + value + b"s")


def zip_file(pickled: bytes, **members: bytes) -> bytes:
    file = BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("archive/data.pkl", pickled)
        for name, content in ({"data/0": FLOATS.tobytes()} | members).items():
            archive.writestr(f"archive/{name}", content)
    return file.getvalue()


def stream(pickled: bytes, keys: bytes = b"]" + text("0") + b"a") -> bytes:
    head = [pickle.dumps(x, 2) for x in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True})]
    numbers = struct.pack("<q", len(FLOATS)) + FLOATS.tobytes()
    return b"".join(head) + pickled + program(keys) + numbers


def write_zip(path: Path, pickled: bytes, **members: bytes) -> Path:
    path.write_bytes(zip_file(pickled, **members))
    return path


def write_stream(path: Path, pickled: bytes, keys: bytes = b"]" + text("0") + b"a") -> Path:
    path.write_bytes(stream(pickled, keys))
    return path


WRITERS: list[Callable[..., Path]] = [write_zip, write_stream]

# --- Pickles -------------------------------------------------------------------------------------

# The key is what the error message must name.
CALLS = {
    "posix.system": b"cposix\nsystem\n" + text("touch ran") + b"\x85R",
    "os.system": text("os") + text("system") + b"\x93" + text("touch ran") + b"\x85R",
    "os.popen": b"\x8c\x02os\x8c\x05popen\x93" + text("touch ran") + b"\x85R",
    "subprocess.Popen": b"csubprocess\nPopen\n" + text("touch ran") + b"\x85R",
    "builtins.eval": b"cbuiltins\neval\n" + text("open('ran', 'w')") + b"\x85R",
    "builtins.exec": b"cbuiltins\nexec\n" + text("open('ran', 'w')") + b"\x85R",
    "builtins.getattr": b"cbuiltins\ngetattr\nccollections\nOrderedDict\n" + text("pop") + b"\x86R",
    "builtins.__import__": b"cbuiltins\n__import__\n" + text("os") + b"\x85R",
    "runpy.run_path": b"crunpy\nrun_path\n" + text("ran.py") + b"\x85R",
    "pickle.loads": b"cpickle\nloads\n" + text("x") + b"\x85R",
    "torch.load": b"ctorch\nload\n" + text("x") + b"\x85R",
    "torch.FloatStorage.from_file": b"ctorch\nFloatStorage.from_file\n" + text("x") + b"\x85R",
    "torch.hub.load": b"ctorch.hub\nload\n" + text("x") + b"\x85R",
    "collections.OrderedDict.fromkeys": b"ccollections\nOrderedDict.fromkeys\n)R",
    "numpy.core.multiarray._reconstruct": b"cnumpy.core.multiarray\n_reconstruct\n)R",
    "copyreg._reconstructor": b"ccopyreg\n_reconstructor\n)R",
}
OPCODES = {
    "EXT1": b"\x82\x01",
    "EXT2": b"\x83\x01\x00",
    "EXT4": b"\x84\x01\x00\x00\x00",
    "INST": b"(iposix\nsystem\n",
    "OBJ": b"(ccollections\nOrderedDict\no",
    "NEWOBJ": b"ccollections\nOrderedDict\n)\x81",
    "NEWOBJ_EX": b"ccollections\nOrderedDict\n)}\x92",
    "PERSID": b"P0\n",
    "READONLY_BUFFER": b"\x98",
    "NEXT_BUFFER": b"\x97",
}
INVALID_TENSORS = {
    "offset past the end": tensor(offset=6),
    "size past the end": tensor(size=pair(3, 3)),
    "stride past the end": tensor(stride=pair(4, 1)),
    "negative offset": tensor(offset=-1),
    "negative stride": tensor(offset=5, stride=pair(-3, -1)),
    "negative size": tensor(size=pair(-2, 3)),
    "huge size": tensor(size=pair(HUGE, HUGE)),
    "huge size, repeated": tensor(size=pair(HUGE), stride=pair(0)),
    "huge empty size": tensor(size=pair(0, HUGE, HUGE)),
    "huge stride": tensor(stride=pair(HUGE, HUGE)),
    "beyond 64 bits": tensor(offset=2**80),
    "more sizes than strides": tensor(stride=pair(1)),
    "too many dimensions": tensor(size=pair(*[1] * 65), stride=pair(*[1] * 65)),
    "sizes of text": tensor(size=text("23")),
    "no storage": tensor(over=number(0)),
    "a tensor for a storage": tensor(over=tensor(size=pair(3), stride=pair(2))),
    "storage longer than its data": tensor(over=storage(count=7)),
    "storage of wider numbers": tensor(over=storage(kind="DoubleStorage")),
    "negative storage": tensor(over=storage(count=-1)),
    "huge storage": tensor(over=storage(count=HUGE)),
    "another storage": tensor(over=storage(key="1")),
    "storage of two dtypes": tensor() + tensor(over=storage(kind="IntStorage")),
    "unknown storage": tensor(over=storage(kind="QInt8Storage")),
    "lazy negation": tensor()[:-2] + b"}" + text("neg") + b"\x88stR",
}
NESTED_TUPLES = b")" + b"\x85" * 300_000
BOMBS = {
    "memo number": b"}r\xff\xff\xff\x7fNs",
    "deep key": b"}" + NESTED_TUPLES + b"Ns",
    "wide key": b"})" + b"".join(b"q%ch%c\x86" % (i, i) for i in range(100)) + b"Ns",
    "wide storage key": storage().replace(text("0"), b")" + b"q\x00h\x00\x86" * 100),
    "length": b"\x8e" + struct.pack("<Q", 2**40) + b"x",
    "text length": b"X\xff\xff\xff\xffx",
    "frame": b"\x95" + struct.pack("<Q", 2**62),
    "long": b"\x8b" + struct.pack("<i", 2**31 - 1) + b"x",
    "list in itself as a size": b"]q\x00h\x00a" + tensor(size=b"h\x00"),
    "a million dictionaries": b"(" + b"}" * 1_100_000 + b"t",
    "a million in the memo": b"(" + b"]\x94" * 600_000 + b"t",
    # The elements of a list or of a tensor, turned into objects many times.
    "sizes of a tensor": tensor(size=pair(1000), stride=pair(0))
    + b"q\x00"
    + b"ctorch\nSize\nh\x00\x85R" * 100,
    "sizes of a long list": b"]("
    + b"K\x01" * 100_000
    + b"eq\x00"
    + b"ctorch\nSize\nh\x00\x85R" * 1000,
    "dictionaries of a long list": b"]("
    + b"K\x01K\x01\x86" * 50_000
    + b"eq\x00"
    + b"ccollections\nOrderedDict\nh\x00\x85R" * 1000,
    "dictionary of a tensor": b"ccollections\nOrderedDict\n" + tensor() + b"\x85R",
    "a tensor for arguments": b"ctorch\nSize\n" + tensor() + b"R",
    "a long pickle": b"X" + struct.pack("<I", 17 << 20) + b"x" * (17 << 20),
}
DAMAGED = {
    "nothing": b"",
    "underflow": b"\x85.",
    "no mark": b"}t.",
    "unknown memo": b"h\x05.",
    "not a container": b"NNNs.",
    "odd items": b"}(NNNu.",
    "not callable": b"N)R.",
    "no stop": b"}",
    "bad text": b"X\x01\x00\x00\x00\xff.",
    "terminal escapes": b"\x8c\x06\x1b[2Jos\x8c\x06system\x93.",
}

# --- Archives ------------------------------------------------------------------------------------

GOOD = zip_file(state(tensor()))


def _entry(whole: bytes, name: bytes) -> int:
    """Return the offset of a member's entry in the archive's directory."""
    return whole.rindex(b"PK\x01\x02", 0, whole.rindex(name))


def _change_directory(name: bytes, offset: int, form: str, value: int) -> bytes:
    """Return the good archive with one field of a directory entry changed."""
    whole = bytearray(GOOD)
    struct.pack_into(form, whole, _entry(GOOD, name) + offset, value)
    return bytes(whole)


def _renamed(new: bytes) -> bytes:
    """Return the good archive with its tensor data under another name of the same length."""
    assert len(new) == len(b"archive/data/0")
    return GOOD.replace(b"archive/data/0", new)


def _twice(name: str) -> bytes:
    file = BytesIO(GOOD)
    with zipfile.ZipFile(file, "a") as archive:
        archive._didModify = True  # type: ignore[attr-defined]
        del archive.NameToInfo[name]
        archive.writestr(name, b"x" * 24)
    return file.getvalue()


ARCHIVES = {
    "member past the end": _change_directory(b"archive/data/0", 42, "<I", len(GOOD) - 10),
    "member far past the end": _change_directory(b"archive/data/0", 42, "<I", 2**32 - 2),
    "size past the end": _change_directory(b"archive/data/0", 24, "<I", 2**31),
    "members overlap": _change_directory(b"archive/data/0", 42, "<I", 0),
    "size over the next member": _change_directory(
        b"archive/data.pkl", 24, "<I", len(state(tensor())) + 30
    ),
    "marked as compressed": _change_directory(b"archive/data/0", 10, "<H", 8),
    "marked as encrypted": _change_directory(b"archive/data/0", 8, "<H", 1),
    "outside by ..": _renamed(b"archive/../../"),
    "outside by /": _renamed(b"/etc/archive/0"),
    "another folder": _renamed(b"archivf/data/0"),
    "a name twice": _twice("archive/data/0"),
    "directory cut off": GOOD[:-30],
    "no directory": GOOD[: GOOD.index(b"PK\x01\x02")],
}

# --- safetensors ---------------------------------------------------------------------------------


def _safe(header: object, numbers: bytes = bytes(8), length: int | None = None) -> bytes:
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(raw) if length is None else length) + raw + numbers


def _row(**more: object) -> dict[str, object]:
    return {"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]} | more}


SAFETENSORS = {
    "empty": b"",
    "seven bytes": b"\x08\x00\x00\x00\x00\x00\x00",
    "header past the end": _safe(_row(), length=10**6),
    "header of 2^63 bytes": _safe(_row(), length=2**63),
    "header of 5 MiB": _safe(b'{"a": "' + b"x" * (5 << 20) + b'"}'),
    "no JSON": _safe(b"{"),
    "eight-bit floats": _safe(_row(dtype="F8_E4M3", shape=[8])),
    "not UTF-8": _safe(b'{"\xff": 1}'),
    "deep JSON": _safe(b'{"a":' + b"[" * 200_000),
    "a list": _safe([1]),
    "a row that is no object": _safe({"w": 7}),
    "no dtype": _safe({"w": {"shape": [2], "data_offsets": [0, 8]}}),
    "unknown dtype": _safe(_row(dtype="F33")),
    "dtype of a list": _safe(_row(dtype=["F32"])),
    "no shape": _safe({"w": {"dtype": "F32", "data_offsets": [0, 8]}}),
    "shape larger": _safe(_row(shape=[3])),
    "shape smaller": _safe(_row(shape=[1])),
    "negative shape": _safe(_row(shape=[-2])),
    "doubly negative shape": _safe(_row(shape=[-1, -2])),
    "huge shape": _safe(_row(shape=[2**62, 2**62])),
    "huge empty shape": _safe(_row(shape=[2**62, 0], data_offsets=[0, 0]), b""),
    "shape of text": _safe(_row(shape="2")),
    "shape of fractions": _safe(_row(shape=[2.0])),
    "shape of booleans": _safe(_row(shape=[True, 2])),
    "too many dimensions": _safe(_row(shape=[1] * 65 + [2])),
    "offsets reversed": _safe(_row(data_offsets=[8, 0])),
    "offsets negative": _safe(_row(data_offsets=[-8, 0])),
    "offsets past the end": _safe(_row(data_offsets=[0, 8]), bytes(4)),
    "three offsets": _safe(_row(data_offsets=[0, 4, 8])),
    "offsets of text": _safe(_row(data_offsets="08")),
    "a hole": _safe(_row(data_offsets=[4, 12]), bytes(12)),
    "trailing data": _safe(_row(), bytes(12)),
    "overlap": _safe(
        _row() | {"v": {"dtype": "F32", "shape": [2], "data_offsets": [4, 12]}}, bytes(12)
    ),
    "a name twice": _safe(
        b'{"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}, '
        b'"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}'
    ),
}

# --- msgpack of Flax -----------------------------------------------------------------------------


def _array(shape: object = (2,), dtype: str = "float32", numbers: bytes = bytes(8)) -> object:
    return msgpack.ExtType(1, msgpack.packb((shape, dtype, numbers)))


def _flax(tree: object) -> bytes:
    packed: bytes = msgpack.packb(tree)
    return packed


def _chunked(**more: object) -> bytes:
    row = {"__msgpack_chunked_array__": True, "shape": {"0": 2}, "chunks": {"0": _array()}} | more
    return _flax({"w": {name: value for name, value in row.items() if value is not None}})


FLAX = {
    "empty": b"",
    "a table of 2^32 rows": b"\xdf\xff\xff\xff\xff",
    "a list of 2^32 items": b"\x81\xa1w\xdd\xff\xff\xff\xff",
    "text of 2^32 bytes": b"\x81\xa1w\xdb\xff\xff\xff\xff",
    "an array of 2^32 bytes": b"\x81\xa1w\xc9\xff\xff\xff\xff\x01",
    "deep tables": b"\x81\xa1w" * 200_000 + b"\xc0",
    "not UTF-8": b"\x81\xa1\xff\xc0",
    "terminal escapes": _flax({"\x1b[2J": 7}),
    "trailing data": _flax({"w": _array()}) + b"\xc0",
    "a list": _flax([_array()]),
    "an array alone": _flax(_array()),
    "a number for an array": _flax({"w": 7}),
    "text for an array": _flax({"w": "x"}),
    "a number for a name": _flax({7: _array()}),
    "a complex number": _flax({"w": msgpack.ExtType(2, msgpack.packb((1.0, 2.0)))}),
    "a scalar": _flax({"w": msgpack.ExtType(3, msgpack.packb(((), "float32", bytes(4))))}),
    "an unknown extension": _flax({"w": msgpack.ExtType(9, b"x")}),
    "an invalid array": _flax({"w": msgpack.ExtType(1, b"\xc1")}),
    "an array of two parts": _flax({"w": msgpack.ExtType(1, msgpack.packb(((2,), "float32")))}),
    "objects": _flax({"w": _array(dtype="O")}),
    "rows": _flax({"w": _array(dtype="f4,f4", shape=(1,))}),
    "texts": _flax({"w": _array(dtype="S4")}),
    "unknown dtype": _flax({"w": _array(dtype="float33")}),
    "shape larger": _flax({"w": _array((3,))}),
    "shape smaller": _flax({"w": _array((1,))}),
    "negative shape": _flax({"w": _array((-1, -2))}),
    "huge shape": _flax({"w": _array((2**62, 2**62))}),
    "shape of text": _flax({"w": _array("2")}),
    "too many dimensions": _flax({"w": _array((1,) * 65 + (2,))}),
    "half a number": _flax({"w": _array(numbers=bytes(7))}),
    "no chunks": _chunked(chunks=None),
    "empty chunks": _chunked(chunks={}),
    "chunks of a larger shape": _chunked(shape={"0": 2**40}),
    "invalid chunks": _chunked(chunks={"0": 7}),
    "chunks without shape": _chunked(shape=None),
}


def files() -> dict[str, tuple[str, bytes]]:
    """Return the suffix and the bytes of every file, by what is wrong with it."""
    all_files: dict[str, tuple[str, bytes]] = {}
    for kind, bodies in (
        ("call", CALLS), ("opcode", OPCODES), ("invalid tensor", INVALID_TENSORS),
        ("bomb", BOMBS), ("damage", DAMAGED),
    ):  # fmt: skip
        for name, body in bodies.items():
            pickled = program(b"}" + text("w") + b"(" + body + b"ts")
            if kind == "damage":
                pickled = body
            all_files[f"zip, {kind}: {name}"] = (".pth", zip_file(pickled))
            all_files[f"stream, {kind}: {name}"] = (".pth", stream(pickled))
    all_files |= {f"archive: {name}": (".pth", whole) for name, whole in ARCHIVES.items()}
    all_files |= {f"safetensors: {name}": (".safetensors", b) for name, b in SAFETENSORS.items()}
    all_files |= {f"Flax: {name}": (".msgpack", whole) for name, whole in FLAX.items()}
    return all_files


def main() -> None:
    """Read each file in a process of its own and print the outcome, as JSON lines."""
    import os
    import resource
    import tempfile
    import time

    from flax_ner.errors import UserError
    from flax_ner.weights.source import open_source

    def resident_mib() -> float:
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 2**20

    def peak_mib() -> float:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        for name, (suffix, whole) in files().items():
            path = Path(f"x{suffix}")
            path.write_bytes(whole)
            del whole
            before = sorted(os.listdir())
            process = os.fork()
            if process == 0:
                begin, baseline = time.perf_counter(), resident_mib()
                outcome, code = "read without an error", 1
                try:
                    open_source(path)
                except UserError as error:
                    outcome, code = str(error), 0
                except BaseException as error:
                    outcome = f"{type(error).__name__}: {error}"
                row = {
                    "file": name,
                    "refused": code == 0,
                    "outcome": outcome,
                    "mib": round(peak_mib() - baseline, 1),
                    "seconds": round(time.perf_counter() - begin, 2),
                    "ran": sorted(os.listdir()) != before,
                }
                os.write(1, (json.dumps(row) + "\n").encode())
                os._exit(0)
            _, status = os.waitpid(process, 0)
            if status:
                row = {"file": name, "refused": False, "outcome": f"died with status {status}"}
                os.write(1, (json.dumps(row) + "\n").encode())
            path.unlink()


if __name__ == "__main__":
    main()
