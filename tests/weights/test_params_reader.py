"""Parameters are read without Orbax, and are the arrays that Orbax wrote."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
import tensorstore as ts

from flax_ner.model.bert import BertConfig
from flax_ner.model.tagging_model import abstract_params, cast_kernels, init_params
from flax_ner.text.labels import LabelSet
from flax_ner.weights.model_dir import ModelDir, load_model, save_model
from flax_ner.weights.params_reader import ALIGNMENT, read_params

VOCAB = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *"abcdefg"]
LABELS = LabelSet(["a", "b"])
CONFIG = BertConfig(
    len(VOCAB), len(LABELS), 16, 2, 2, 32, max_position_embeddings=8, head="crf"
)  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    params = init_params(CONFIG, jax.random.key(0))
    save_model(tmp_path / "model", ModelDir(CONFIG, LABELS, VOCAB, 6, params))
    return tmp_path / "model"


def test_the_arrays_are_those_that_orbax_reads(folder: Path) -> None:
    shapes = abstract_params(CONFIG)
    params = read_params(folder / "params", shapes)
    with ocp.StandardCheckpointer() as checkpointer:
        expected = checkpointer.restore(folder / "params", shapes)
    assert jax.tree.structure(params) == jax.tree.structure(expected)
    for ours, theirs in zip(jax.tree.leaves(params), jax.tree.leaves(expected), strict=True):
        np.testing.assert_array_equal(ours, theirs)
        assert ours.ctypes.data % ALIGNMENT == 0


def test_kernels_are_read_in_the_compute_dtype(folder: Path) -> None:
    model = load_model(folder, for_inference=True, compute_dtype="bfloat16")
    config = replace(CONFIG, compute_dtype="bfloat16")
    assert model.config == config
    expected = cast_kernels(config, load_model(folder).params)
    assert {str(x.dtype) for x in jax.tree.leaves(expected)} == {"bfloat16", "float32"}
    for ours, theirs in zip(jax.tree.leaves(model.params), jax.tree.leaves(expected), strict=True):
        assert ours.dtype == theirs.dtype
        np.testing.assert_array_equal(ours, theirs)


def test_other_arrays_than_expected_are_an_error(folder: Path) -> None:
    params = folder / "params"
    shapes = abstract_params(CONFIG)
    with pytest.raises(ValueError, match=r"head\.transitions is stored"):
        read_params(params, abstract_params(replace(CONFIG, head="softmax")))
    with pytest.raises(ValueError, match=r"encoder\.layers\.2\.\S+ is missing"):
        read_params(params, abstract_params(replace(CONFIG, num_hidden_layers=3)))
    shapes["head"]["transitions"] = jax.ShapeDtypeStruct((9, 9), np.float32)
    with pytest.raises(ValueError, match=r"head\.transitions has the shape \(5, 5\), not \(9, 9\)"):
        read_params(params, shapes)


def test_missing_data_are_an_error_and_not_zeros(folder: Path) -> None:
    base = {"driver": "file", "path": f"{folder / 'params'}/"}
    database = ts.KvStore.open({"driver": "ocdbt", "base": base}).result()
    (chunk,) = [key for key in database.list().result() if key.startswith(b"head.transitions/0")]
    database.write(chunk, None).result()  # deletes it
    with pytest.raises(ValueError, match=r"head\.transitions"):
        read_params(folder / "params", abstract_params(CONFIG))


def test_loading_does_not_import_orbax(folder: Path) -> None:
    code = (
        "import sys; from flax_ner import load; load(sys.argv[1])('abc'); "
        "sys.exit('orbax' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code, str(folder)], check=False).returncode == 0
