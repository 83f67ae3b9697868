"""PyTorch files: the same values as PyTorch, and one error for everything else."""

import json
import os
import subprocess
import sys
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from flax_ner.weights.mapped import WeightsFileError
from flax_ner.weights.torch_files import read_state_dict, read_torch_file
from tests.weights.hostile import (
    ARCHIVES,
    BOMBS,
    CALLS,
    DAMAGED,
    INVALID_TENSORS,
    OPCODES,
    WRITERS,
    files,
    number,
    pair,
    program,
    state,
    storage,
    tensor,
    text,
    write_stream,
    write_zip,
)


@pytest.mark.parametrize("write", WRITERS)
def test_reads_files_written_by_hand(tmp_path: Path, write: Any) -> None:
    path = write(tmp_path / "x.pth", state(tensor(offset=1, size=pair(2, 2), stride=pair(1, 2))))
    np.testing.assert_array_equal(read_state_dict(path)["w"], [[1, 3], [2, 4]])


def test_reads_a_view_of_a_storage_in_a_stream(tmp_path: Path) -> None:
    view = b"(" + text("1") + number(2) + number(3) + b"t"
    body = tensor(offset=1, size=pair(2), stride=pair(1), over=storage(view=view))
    path = write_stream(tmp_path / "x.pth", state(body))
    np.testing.assert_array_equal(read_state_dict(path)["w"], [3, 4])
    past = tensor(offset=2, size=pair(2), stride=pair(1), over=storage(view=view))
    with pytest.raises(WeightsFileError, match="exceeds its storage"):
        read_state_dict(write_stream(tmp_path / "y.pth", state(past)))


# --- Golden files --------------------------------------------------------------------------------


def test_reads_the_golden_zip(golden: Path) -> None:
    path = golden / "bert_softmax_tiny.pth"
    whole = read_torch_file(path)
    assert set(whole) == {"meta", "state_dict", "optimizer"}
    assert whole["meta"]["CLASSES"][0] == "address"
    weights = read_state_dict(path)
    assert weights["encoder.bert.embeddings.word_embeddings.weight"].shape == (21128, 64)
    assert weights["decoder.classifier.bias"].shape == (24,)
    assert {w.dtype for w in weights.values()} == {np.dtype("float32")}


def test_reads_the_golden_stream_with_the_same_encoder(golden: Path) -> None:
    trained = read_state_dict(golden / "bert_softmax_tiny.pth")
    old = read_state_dict(golden / "bert_pretrain_tiny_legacy.pth")
    names = [name for name in old if name.startswith("bert.")]
    assert len(names) > 30
    for name in names:
        new = name.replace("LayerNorm.gamma", "LayerNorm.weight")
        new = new.replace("LayerNorm.beta", "LayerNorm.bias")
        np.testing.assert_array_equal(old[name], trained["encoder." + new])


def test_tensors_are_views_of_the_mapped_file(golden: Path) -> None:
    for name in ("bert_softmax_tiny.pth", "bert_pretrain_tiny_legacy.pth"):
        for array in read_state_dict(golden / name).values():
            assert not array.flags.owndata and not array.flags.writeable


@pytest.mark.parametrize("name", ["bert_softmax_tiny.pth", "bert_pretrain_tiny_legacy.pth"])
def test_a_truncated_file_is_one_error(golden: Path, tmp_path: Path, name: str) -> None:
    whole = (golden / name).read_bytes()
    random = np.random.default_rng(0)
    # Half of the lengths are within the first bytes, where the pickles are.
    lengths = [*random.integers(20_000, size=100), *random.integers(len(whole), size=100)]
    path = tmp_path / "cut.pth"
    path.write_bytes(whole)
    for length in sorted({0, 1, 7, len(whole) - 1, *map(int, lengths)}, reverse=True):
        os.truncate(path, length)
        refuses(path)


# --- Against PyTorch -----------------------------------------------------------------------------


def equal(ours: Any, theirs: Any) -> None:
    """Assert the same containers, names and values, and tensors of the same dtype with the same bits."""
    import torch

    if isinstance(theirs, torch.Tensor):
        theirs = theirs.detach()
        assert isinstance(ours, np.ndarray) and ours.shape == tuple(theirs.shape)
        if theirs.dtype == torch.bfloat16:
            assert ours.dtype == ml_dtypes.bfloat16
            ours, theirs = ours.astype("float32"), theirs.float()
        assert ours.dtype == theirs.numpy().dtype
        np.testing.assert_array_equal(ours, theirs.numpy())
    elif isinstance(theirs, dict):
        assert list(ours) == list(theirs)
        for key in theirs:
            equal(ours[key], theirs[key])
    elif isinstance(theirs, list | tuple):
        assert len(ours) == len(theirs)
        for a, b in zip(ours, theirs, strict=True):
            equal(a, b)
    else:
        assert ours == theirs and type(ours) is type(theirs)


def examples() -> dict[str, Any]:
    torch = pytest.importorskip("torch")
    base = torch.arange(60, dtype=torch.float32).reshape(3, 4, 5) / 7
    dtypes = "float64 float32 float16 bfloat16 int64 int32 int16 int8 uint8 bool"
    linear = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))
    adam = torch.optim.AdamW(linear.parameters())
    linear(torch.ones(4, 3)).sum().backward()
    adam.step()
    return {
        "dtypes": {d: (base * 3 - 50).to(getattr(torch, d)) for d in dtypes.split()},
        # One odd byte first, so that in a stream the following data have odd addresses.
        "odd": OrderedDict(a=torch.tensor([1], dtype=torch.uint8), b=base, c=base.bfloat16()),
        "views": {"t": base.permute(2, 0, 1), "s": base[1:, ::2, 3], "e": base[:1].expand(3, 4, 5)},
        "shared": {"a": base, "b": base[1], "c": base.view(-1)[7:9], "same": base},
        "small": {
            "scalar": torch.tensor(3.5),
            "none": torch.empty(0),
            "wide": torch.empty(2, 0, 3),
        },
        "nested": {
            "a": {"b": [1, 2.5, (None, True, "名字")]},
            "size": base.shape,
            3: 2**70,
            "l": [],
        },
        "parameter": {"p": torch.nn.Parameter(base)},
        "module": linear.state_dict(),
        "checkpoint": {"state_dict": linear.state_dict(), "optimizer": adam.state_dict()},
        "many": {str(i): torch.full((2,), i) for i in range(500)},
        "tensor": base,
    }


NAMES = [
    "dtypes", "odd", "views", "shared", "small", "nested",
    "parameter", "module", "checkpoint", "many", "tensor",
]  # fmt: skip


@pytest.mark.parametrize("new", [True, False], ids=["zip", "stream"])
@pytest.mark.parametrize("name", NAMES)
def test_reads_what_pytorch_reads(tmp_path: Path, name: str, new: bool) -> None:
    torch = pytest.importorskip("torch")
    path = tmp_path / "x.pth"
    torch.save(examples()[name], path, _use_new_zipfile_serialization=new)
    equal(read_torch_file(path), torch.load(path, weights_only=True))


@pytest.mark.parametrize("protocol", [3, 4, 5])
def test_reads_later_pickle_protocols(tmp_path: Path, protocol: int) -> None:
    torch = pytest.importorskip("torch")
    for name in NAMES:  # compared with what was saved: PyTorch itself supports only protocol 2
        saved = examples()[name]
        torch.save(saved, tmp_path / "x.pth", pickle_protocol=protocol)
        equal(read_torch_file(tmp_path / "x.pth"), saved)


@pytest.mark.parametrize("name", ["bert_softmax_tiny.pth", "bert_pretrain_tiny_legacy.pth"])
def test_reads_golden_files_as_pytorch_does(golden: Path, name: str) -> None:
    torch = pytest.importorskip("torch")
    equal(read_torch_file(golden / name), torch.load(golden / name, weights_only=True))


@pytest.mark.parametrize("new", [True, False])
def test_shared_storages_share_memory(tmp_path: Path, new: bool) -> None:
    torch = pytest.importorskip("torch")
    torch.save(examples()["shared"], tmp_path / "x.pth", _use_new_zipfile_serialization=new)
    read = read_torch_file(tmp_path / "x.pth")
    assert all(np.shares_memory(read["a"], read[name]) for name in ("b", "c", "same"))


# --- State dicts ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "outer", [[], ["state_dict"], ["model_state_dict"], ["model"], ["state_dict", "module"]]
)
def test_unwraps_a_checkpoint(tmp_path: Path, outer: list[str]) -> None:
    body = b"}" + text("w") + tensor() + b"s" + text("epoch") + number(3) + b"s"
    for name in reversed(outer):
        body = b"}" + text("meta") + b"}s" + text(name) + body + b"s"
    weights = read_state_dict(write_zip(tmp_path / "x.pth", program(body)))
    assert list(weights) == ["w"]


@pytest.mark.parametrize(
    "body",
    [
        b"}",
        tensor(),
        number(5),
        b"}" + text("epoch") + number(1) + b"s",
        b"}" + text("net") + b"}" + text("w") + tensor() + b"ss" + text("v") + tensor() + b"s",
        b"}q\x00" + text("state_dict") + b"h\x00s",  # contains itself
        b"}" + text("w") + tensor() + b"s" + text("rest") + b"](" + tensor() + b"es",
    ],
    ids=[
        "empty",
        "tensor",
        "number",
        "no tensor",
        "weights one level down",
        "itself",
        "weights in a list",
    ],
)
def test_other_objects_than_a_state_dict_are_an_error(tmp_path: Path, body: bytes) -> None:
    path = write_zip(tmp_path / "x.pth", program(body))
    read_torch_file(path)
    with pytest.raises(WeightsFileError, match="not a state dict"):
        read_state_dict(path)


# --- Hostile and damaged files -------------------------------------------------------------------


def refuses(path: Path) -> str:
    """Assert that a file is refused with a one-line message that names it, and return the message."""
    with pytest.raises(WeightsFileError) as caught:
        read_torch_file(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ") and message.isprintable() and len(message) < 1000
    return message


@pytest.mark.parametrize("write", WRITERS)
@pytest.mark.parametrize("name", CALLS)
def test_a_call_is_refused_by_name_and_does_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: Any, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    inside = b"ccollections\nOrderedDict\n]" + text("k") + CALLS[name] + b"\x86a\x85R"
    for body in (CALLS[name], state(CALLS[name])[2:-1], inside):
        assert name in refuses(write(tmp_path / "x.pth", program(body)))
    assert [path.name for path in tmp_path.iterdir()] == ["x.pth"]


@pytest.mark.parametrize("name", OPCODES)
def test_an_opcode_that_weights_do_not_need_is_refused(tmp_path: Path, name: str) -> None:
    assert name in refuses(write_zip(tmp_path / "x.pth", program(OPCODES[name])))


@pytest.mark.parametrize("write", WRITERS)
@pytest.mark.parametrize("name", INVALID_TENSORS)
def test_an_invalid_tensor_is_refused(tmp_path: Path, write: Any, name: str) -> None:
    body = b"(" + INVALID_TENSORS[name] + b"t"
    refuses(write(tmp_path / "x.pth", program(body)))


@pytest.mark.slow
@pytest.mark.every_python
@pytest.mark.parametrize("write", WRITERS)
@pytest.mark.parametrize("name", BOMBS)
def test_a_small_file_cannot_take_much_memory_or_time(
    tmp_path: Path, write: Any, name: str
) -> None:
    refuses(write(tmp_path / "x.pth", program(BOMBS[name])))


@pytest.mark.parametrize("write", WRITERS)
@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_pickle_is_one_error(tmp_path: Path, write: Any, name: str) -> None:
    refuses(write(tmp_path / "x.pth", DAMAGED[name]))


@pytest.mark.parametrize("name", ARCHIVES)
def test_an_inconsistent_archive_is_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / "x.pth"
    path.write_bytes(ARCHIVES[name])
    refuses(path)


@pytest.mark.slow
@pytest.mark.every_python
def test_hostile_files_run_nothing_and_use_few_resources() -> None:
    """Each file in a process of its own gives one error, runs nothing, and needs little memory and time."""
    assert len(files()) > 150
    result = subprocess.run(
        [sys.executable, "-m", "tests.weights.hostile"],
        cwd=Path(__file__).resolve().parents[2],
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
    )
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    assert [row["file"] for row in rows] == list(files())
    for row in rows:
        assert row["refused"] and not row["ran"], row
        assert row["outcome"].startswith("x.") and row["outcome"].isprintable(), row
        assert row["mib"] < 200 and row["seconds"] < 20, row


def test_damage_around_the_pickle_is_one_error(tmp_path: Path) -> None:
    path = tmp_path / "x.pth"
    good = state(tensor())
    assert "big" not in refuses(write_zip(path, good, byteorder=b"big"))
    assert "storage 0" in refuses(write_zip(path, good, **{"data/0": b"1234"}))
    refuses(write_stream(path, good, keys=b"]" + text("1") + b"a"))
    refuses(write_stream(path, good, keys=b"])" + b"q\x00h\x00\x86" * 100 + b"a"))
    refuses(write_stream(path, good, keys=b"]"))
    path.write_bytes(write_stream(path, good).read_bytes()[:-1])
    assert "ends within a storage" in refuses(path)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", good)
    assert "compressed" in refuses(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("other.txt", "")
    assert "not of weights" in refuses(path)
    path.write_text("version https://git-lfs.github.com/spec/v1\n")
    assert "is a Git LFS pointer" in refuses(path)
    path.write_text("<html>not found</html>")
    assert "is a text file, not weights (it starts with '<html>not found</html>')" in refuses(path)
    path.write_bytes("中国\n".encode("gb18030"))
    assert "not a PyTorch file" in refuses(path) and "opcode" not in refuses(path)


def test_a_damaged_byte_gives_the_object_or_one_error(tmp_path: Path) -> None:
    for write in WRITERS:
        whole = write(tmp_path / "x.pth", state(tensor())).read_bytes()
        for i in range(len(whole)):
            path = tmp_path / "damaged.pth"
            path.write_bytes(whole[:i] + bytes([whole[i] ^ 0x41]) + whole[i + 1 :])
            try:
                read_torch_file(path)
            except WeightsFileError as error:
                assert str(path) in str(error) and str(error).isprintable()


def test_a_missing_file_is_one_error(tmp_path: Path) -> None:
    assert "cannot be read" in refuses(tmp_path / "none.pth")
    assert "cannot be read" in refuses(tmp_path)


def test_needs_neither_torch_nor_jax() -> None:
    code = (
        "import sys, flax_ner.weights.torch_files; "
        "sys.exit(any(name in sys.modules for name in ('torch', 'jax')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_numpy_scalar_beside_the_weights_is_ignored(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    path = tmp_path / "best.pth"
    meta = {"hook_msgs": {"best_score": np.float64(0.79)}, "epoch": 18}
    torch.save({"meta": meta, "state_dict": {"w": torch.ones(2)}}, path)
    assert read_state_dict(path)["w"].tolist() == [1, 1]
    assert read_torch_file(path)["meta"] == {"hook_msgs": {"best_score": None}, "epoch": 18}
