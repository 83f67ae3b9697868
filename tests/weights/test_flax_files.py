"""Hugging Face's Flax weights, and damaged or inconsistent files."""

import json
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from flax import serialization
from flax.traverse_util import unflatten_dict

from flax_ner.inference.tagger import load
from flax_ner.weights.convert import convert
from flax_ner.weights.flax_files import as_pytorch, read_flax_file
from flax_ner.weights.mapped import WeightsFileError
from flax_ner.weights.source import open_source
from tests.weights.helpers import assert_same, tagger_state_dict, tiny_config, write_source
from tests.weights.hostile import FLAX

GOLDEN = Path(__file__).parents[1] / "parity/fixtures/flax_tagger"


def as_flax(state: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return PyTorch's tensors under the names of Flax."""
    arrays = {}
    for name, tensor in state.items():
        *parents, last = name.split(".")
        if last == "weight" and tensor.ndim == 2:
            last = "embedding" if "embeddings" in parents[-1] else "kernel"
        elif last == "weight":
            last = "scale"
        arrays["/".join([*parents, last])] = tensor.T if last == "kernel" else tensor
    return arrays


def write_flax(path: Path, arrays: dict[str, np.ndarray]) -> None:
    path.write_bytes(serialization.msgpack_serialize(unflatten_dict(arrays, sep="/")))


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("shards", [False, True])
def test_flax_weights_convert_to_the_same_bits_as_pytorch(
    tmp_path: Path, shards: bool, dtype: str
) -> None:
    state = tagger_state_dict()
    expected, _ = convert(open_source(write_source(tmp_path / "a", state, config=tiny_config())))
    folder = write_source(tmp_path / "b", {}, config=tiny_config()).parent
    (folder / "model.safetensors").unlink()
    kind = ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype
    arrays = {name: x.astype(kind) for name, x in as_flax(state).items()}
    if shards:
        names = sorted(arrays)
        parts = {"flax_model-00001-of-00002.msgpack": names[:9]}
        parts["flax_model-00002-of-00002.msgpack"] = names[9:]
        for file, part in parts.items():
            write_flax(folder / file, {name: arrays[name] for name in part})
        weight_map = {name: file for file, part in parts.items() for name in part}
        (folder / "flax_model.msgpack.index.json").write_text(
            json.dumps({"weight_map": weight_map})
        )
    else:
        write_flax(folder / "flax_model.msgpack", arrays)
    model, report = convert(open_source(folder))
    assert_same(model.params, expected.params)
    assert model.config == expected.config
    assert len(report.used) == len(state) and not report.ignored and not report.fresh
    assert {str(used.dtype) for used in report.used} == {dtype}


def test_a_file_written_by_transformers_is_read(tmp_path: Path) -> None:
    for file in ("flax_model.msgpack", "config.json"):
        (tmp_path / file).symlink_to(GOLDEN / file)
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *map(chr, range(0x4E00, 0x4E00 + 26))]
    (tmp_path / "vocab.txt").write_text("\n".join(tokens) + "\n", "utf-8")
    scores = np.load(GOLDEN / "scores.npz")
    ids = scores["ids"]
    actual = load(tmp_path).logits(ids, np.ones_like(ids))
    np.testing.assert_allclose(actual, scores["logits"], rtol=0, atol=1e-4)


def test_pytorch_files_take_precedence(tmp_path: Path) -> None:
    path = write_source(tmp_path, tagger_state_dict(), "pytorch_model.bin", tiny_config())
    (tmp_path / "flax_model.msgpack").write_bytes(b"\xc1")
    assert open_source(tmp_path).path == str(path)


def test_chunked_arrays_are_joined(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serialization, "MAX_CHUNK_SIZE", 16)
    array = np.arange(20, dtype=np.float32).reshape(4, 5)
    write_flax(tmp_path / "x.msgpack", {"a/kernel": array, "b/0/bias": array[0]})
    actual = as_pytorch(read_flax_file(tmp_path / "x.msgpack"))
    assert list(actual) == ["a.weight", "b.0.bias"]
    np.testing.assert_array_equal(actual["a.weight"], array.T)
    np.testing.assert_array_equal(actual["b.0.bias"], array[0])


@pytest.mark.parametrize("name", FLAX)
def test_an_inconsistent_file_is_one_error(tmp_path: Path, name: str) -> None:
    path = tmp_path / "x.msgpack"
    path.write_bytes(FLAX[name])
    with pytest.raises(WeightsFileError) as caught:
        read_flax_file(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert message.isprintable() and len(message) < 1000


def test_a_truncated_file_is_one_error(tmp_path: Path) -> None:
    write_flax(tmp_path / "x.msgpack", {"a/kernel": np.ones((2, 3), np.float32)})
    whole = (tmp_path / "x.msgpack").read_bytes()
    for length in range(len(whole)):
        (tmp_path / "cut.msgpack").write_bytes(whole[:length])
        with pytest.raises(
            WeightsFileError, match=r"not a Flax msgpack file, or damaged|is a text file"
        ):
            read_flax_file(tmp_path / "cut.msgpack")
    with pytest.raises(WeightsFileError, match=r"none\.msgpack: cannot be read"):
        read_flax_file(tmp_path / "none.msgpack")
    (tmp_path / "x.msgpack").write_text("version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(WeightsFileError, match=r"is a Git LFS pointer.*lfs pull"):
        read_flax_file(tmp_path / "x.msgpack")
