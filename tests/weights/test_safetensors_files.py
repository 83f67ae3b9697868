"""The safetensors format, against the library and with inconsistent headers."""

import json
import struct
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flax_ner.weights.mapped import WeightsFileError
from flax_ner.weights.safetensors_files import read_safetensors, write_safetensors
from tests.weights.hostile import SAFETENSORS

ARRAYS = {
    "float32": np.arange(6, dtype=np.float32).reshape(2, 3),
    "transposed": np.arange(6, dtype=np.float32).reshape(2, 3).T,
    "float64": np.array([1.5, -2.5]),
    "float16": np.array([1.5, -2.5], np.float16),
    "bfloat16": np.array([1.5, -2.5], ml_dtypes.bfloat16),
    "int64": np.array([2**40]),
    "int8": np.array([-3], np.int8),
    "bool": np.array([True, False, True]),
    "名": np.array(7, np.int32),
    "none": np.zeros((0, 5), np.float32),
}


def same(one: Any, other: Any) -> None:
    assert list(one) == list(other)
    for name, array in one.items():
        assert array.dtype == other[name].dtype and array.shape == other[name].shape
        np.testing.assert_array_equal(np.asarray(array), np.asarray(other[name]))


def test_round_trip(tmp_path: Path) -> None:
    write_safetensors(tmp_path / "x.safetensors", ARRAYS)
    loaded = read_safetensors(tmp_path / "x.safetensors")
    same(loaded, ARRAYS)
    assert not any(array.flags.owndata or array.flags.writeable for array in loaded.values())


def test_the_library_reads_our_files(tmp_path: Path) -> None:
    library = pytest.importorskip("safetensors")
    write_safetensors(tmp_path / "x.safetensors", ARRAYS)
    with library.safe_open(tmp_path / "x.safetensors", "np") as file:
        assert file.metadata() == {"format": "pt"}
        assert set(file.keys()) == set(ARRAYS)
        for name, array in ARRAYS.items():
            if name != "bfloat16":
                np.testing.assert_array_equal(file.get_tensor(name), array)


def test_reads_files_of_the_library(tmp_path: Path) -> None:
    library = pytest.importorskip("safetensors.numpy")
    arrays = {name: np.ascontiguousarray(array) for name, array in ARRAYS.items() if array.ndim}
    library.save_file(arrays, tmp_path / "x.safetensors", {"format": "pt", "note": "随便"})
    loaded = read_safetensors(tmp_path / "x.safetensors")
    same(dict(sorted(loaded.items())), dict(sorted(arrays.items())))


@settings(max_examples=50, deadline=None)
@given(st.dictionaries(st.text(max_size=5), st.lists(st.integers(0, 4), max_size=4), max_size=6))
def test_round_trip_of_arbitrary_names_and_shapes(
    tmp_path_factory: pytest.TempPathFactory, shapes: dict[str, list[int]]
) -> None:
    shapes.pop("__metadata__", None)
    path = tmp_path_factory.getbasetemp() / "any.safetensors"
    random = np.random.default_rng(0)
    arrays = {name: random.random(shape, np.float32) for name, shape in shapes.items()}
    write_safetensors(path, arrays)
    same(read_safetensors(path), arrays)


@pytest.mark.parametrize("name", SAFETENSORS)
def test_an_inconsistent_header_is_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(SAFETENSORS[name])
    with pytest.raises(WeightsFileError) as caught:
        read_safetensors(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: not a safetensors file, or damaged (")
    assert message.isprintable() and len(message) < 1000


def test_a_consistent_header_of_the_same_form_is_read(tmp_path: Path) -> None:
    """The inconsistent headers differ only slightly from this one, so the inconsistency is what is refused."""
    header = json.dumps({"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}).encode()
    path = tmp_path / "x.safetensors"
    path.write_bytes(struct.pack("<Q", len(header)) + header + struct.pack("<2f", 1, 2))
    assert read_safetensors(path)["w"].tolist() == [1, 2]


def test_a_truncated_file_is_one_error(tmp_path: Path) -> None:
    write_safetensors(tmp_path / "x.safetensors", ARRAYS)
    whole = (tmp_path / "x.safetensors").read_bytes()
    for length in range(len(whole)):
        (tmp_path / "cut.safetensors").write_bytes(whole[:length])
        with pytest.raises(WeightsFileError, match="not a safetensors file, or damaged"):
            read_safetensors(tmp_path / "cut.safetensors")


def test_a_git_lfs_pointer_is_reported(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    with pytest.raises(WeightsFileError, match=r"x\.safetensors: is a Git LFS pointer.*lfs pull"):
        read_safetensors(path)


def test_a_missing_file_is_one_error(tmp_path: Path) -> None:
    with pytest.raises(WeightsFileError, match=r"none\.safetensors: cannot be read"):
        read_safetensors(tmp_path / "none.safetensors")
