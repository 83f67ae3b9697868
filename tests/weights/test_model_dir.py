"""Saving and loading model directories."""

import itertools
import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import jax
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from flax_ner.errors import UserError
from flax_ner.model.mlm_head import init_masked_lm
from flax_ner.model.tagging_model import init_params
from flax_ner.text.labels import LabelSet
from flax_ner.training.mesh import make_mesh
from flax_ner.weights import model_dir
from flax_ner.weights.model_dir import ModelDir, load_model, read_metadata, save_model
from tests.weights.helpers import CONFIG, LABELS, VOCAB, assert_same

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("labels", [LABELS, LabelSet(["人-名", "b"], "bio")])
def test_save_and_load_preserve_every_bit(tmp_path: Path, labels: LabelSet) -> None:
    params = init_params(CONFIG, jax.random.key(0))
    save_model(tmp_path / "model", ModelDir(CONFIG, labels, VOCAB, 100, params))
    model = load_model(tmp_path / "model")
    assert_same(model.params, params)
    assert (model.config, model.vocab, model.max_length) == (CONFIG, VOCAB, 100)
    assert model.labels is not None
    assert model.labels.to_json() == labels.to_json()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model"]


def test_saving_replicated_arrays_compiles_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    params = init_params(CONFIG, jax.random.key(0))
    everywhere = NamedSharding(make_mesh(8, 1, 8), PartitionSpec())
    model = ModelDir(CONFIG, LABELS, VOCAB, 100, jax.device_put(params, everywhere))
    with jax.log_compiles():
        assert jax.jit(lambda x: x + 1)(1) == 2  # compilations are detected
        assert "Compiling" in caplog.text
        caplog.clear()
        save_model(tmp_path / "model", model)
    assert "Compiling" not in caplog.text
    assert_same(load_model(tmp_path / "model").params, params)


def test_an_encoder_directory_has_no_head_and_no_labels(tmp_path: Path) -> None:
    params = init_params(CONFIG, jax.random.key(0))
    del params["head"]
    save_model(tmp_path / "model", ModelDir(CONFIG, None, VOCAB, 6, params))
    model = load_model(tmp_path / "model")
    assert_same(model.params, params)
    assert model.labels is None
    assert not (tmp_path / "model" / "labels.json").exists()


def test_an_encoder_keeps_its_masked_lm_head(tmp_path: Path) -> None:
    initial = init_masked_lm(CONFIG, jax.random.key(0))
    params = {"encoder": initial["encoder"], "masked_lm": initial["head"]}
    save_model(tmp_path / "model", ModelDir(CONFIG, None, VOCAB, 6, params))
    assert_same(load_model(tmp_path / "model").params, params)
    (tmp_path / "model" / "checksums.json").unlink()
    (tmp_path / "model" / "params" / "_METADATA").unlink()  # says whether "masked_lm" is stored
    with pytest.raises(UserError, match="params/ is damaged"):
        load_model(tmp_path / "model")


def test_saving_again_replaces_the_old_model(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "model"
    for key, labels in ((0, LABELS), (1, None)):
        params = init_params(CONFIG, jax.random.key(key))
        if labels is None:
            del params["head"]
        save_model(path, ModelDir(CONFIG, labels, VOCAB, 6, params))
    model = load_model(path)
    assert model.labels is None
    assert_same(model.params, params)
    assert [other.name for other in path.parent.iterdir()] == ["model"]


def test_the_old_model_is_restored_after_a_kill_between_renames(tmp_path: Path) -> None:
    params = init_params(CONFIG, jax.random.key(0))
    save_model(tmp_path / "model", ModelDir(CONFIG, LABELS, VOCAB, 6, params))
    (tmp_path / "model").rename(tmp_path / ".model.replaced")
    unwritable = ModelDir(CONFIG, LABELS, ["\ud800"], 6, params)  # cannot be encoded as UTF-8
    with pytest.raises(UserError, match="What was there before is unchanged"):
        save_model(tmp_path / "model", unwritable)
    assert_same(load_model(tmp_path / "model").params, params)


FULL_DISK = """
import resource, sys
import jax
from flax_ner.errors import UserError
from flax_ner.model.tagging_model import init_params
from flax_ner.weights.model_dir import ModelDir, save_model
from tests.weights.helpers import CONFIG, LABELS, VOCAB

params = init_params(CONFIG, jax.random.key(1))
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))  # maximum file size in bytes
try:
    save_model(sys.argv[1], ModelDir(CONFIG, LABELS, VOCAB, 6, params))
except UserError as error:
    print(error)
"""


@pytest.mark.slow
@pytest.mark.every_python
def test_the_old_model_stays_if_writing_fails(tmp_path: Path) -> None:
    params = init_params(CONFIG, jax.random.key(0))
    save_model(tmp_path / "model", ModelDir(CONFIG, LABELS, VOCAB, 6, params))
    command = [sys.executable, "-c", FULL_DISK, str(tmp_path / "model")]
    printed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert re.search(r"model: cannot be written \(.*File too large.*What was there before", printed)
    assert_same(load_model(tmp_path / "model").params, params)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_files_written_after_a_failure_are_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(folder: Path, model: ModelDir) -> None:
        raise OSError("no room")

    sleeps = itertools.count()

    def write_again(seconds: float) -> None:
        if next(sleeps) in (0, 1, 3):  # not in between, so the folder is missing once
            (tmp_path / ".model.writing" / "params").mkdir(parents=True)

    monkeypatch.setattr(model_dir, "_write", fail)
    monkeypatch.setattr(model_dir, "time", SimpleNamespace(sleep=write_again))
    params = init_params(CONFIG, jax.random.key(0))
    with pytest.raises(UserError, match=r"cannot be written \(no room\)"):
        save_model(tmp_path / "model", ModelDir(CONFIG, LABELS, VOCAB, 6, params))
    assert not list(tmp_path.iterdir())
    assert next(sleeps) > 4


def test_scan_layers_does_not_change_the_stored_layout(tmp_path: Path) -> None:
    config = replace(CONFIG, scan_layers=True)
    params = init_params(config, jax.random.key(0))
    save_model(tmp_path / "model", ModelDir(config, LABELS, VOCAB, 6, params))
    assert set(load_model(tmp_path / "model").params["encoder"]["layers"]) == {"0", "1"}


@pytest.mark.parametrize("missing", ["config.json", "vocab.txt", "params"])
def test_an_incomplete_directory_is_refused(tmp_path: Path, missing: str) -> None:
    path = tmp_path / "model"
    path.mkdir()
    for name in {"config.json", "vocab.txt", "params"} - {missing}:
        (path / name).touch()
    with pytest.raises(UserError, match=rf"{path}: not a model directory, it has no {missing}"):
        load_model(path)


def test_lower_casing_and_tag_order_are_restored(tmp_path: Path) -> None:
    labels = LabelSet.from_names(["O", "B-a", "I-a", "B-b", "I-b"])
    params = init_params(CONFIG, jax.random.key(0))
    save_model(tmp_path / "model", ModelDir(CONFIG, labels, VOCAB, 6, params, lower_case=False))
    model = read_metadata(tmp_path / "model")
    assert model.labels is not None
    assert (model.labels.names, model.lower_case, model.params) == (labels.names, False, {})


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("vocab.txt", "\n".join(VOCAB[:-1]), "vocab.txt has 10 entries, but config.json says 11"),
        (
            "labels.json",
            '{"names": ["O", "B-a"]}',
            "labels.json has 2 entries, but config.json says 5",
        ),
        ("labels.json", None, "params/ is damaged, or does not match config.json and labels.json"),
        ("params", None, "params/ is damaged"),
        ("params/manifest.ocdbt", "", "params/ is damaged"),
        ("params/_METADATA", "{", "params/ is damaged"),
        ("params/_METADATA", "[]", "params/ is damaged"),
    ],
)
def test_inconsistent_files_are_refused(
    tmp_path: Path, name: str, text: str | None, message: str
) -> None:
    params = init_params(CONFIG, jax.random.key(0))
    save_model(tmp_path / "model", ModelDir(CONFIG, LABELS, VOCAB, 6, params))
    part = tmp_path / "model" / name
    if text is not None:
        part.write_text(text)
    elif part.is_dir():
        shutil.rmtree(part)
        part.mkdir()
    else:
        part.unlink()
    with pytest.raises(
        UserError, match=rf"{re.escape(name)}[\w/.]* (is missing|does not match its checksum)"
    ):
        load_model(tmp_path / "model")
    (tmp_path / "model" / "checksums.json").unlink()  # as the message says
    with pytest.raises(UserError, match=message):
        load_model(tmp_path / "model")


def test_lower_casing_is_the_default_of_old_directories(tmp_path: Path) -> None:
    params = init_params(CONFIG, jax.random.key(0))
    save_model(tmp_path / "model", ModelDir(CONFIG, LABELS, VOCAB, 6, params))
    (tmp_path / "model" / "checksums.json").unlink()
    path = tmp_path / "model" / "config.json"
    row = json.loads(path.read_text())
    del row["tokenizer"]["lower_case"]
    path.write_text(json.dumps(row))
    assert read_metadata(tmp_path / "model").lower_case
    path.write_text(json.dumps(row | {"tokenizer": {"kind": "bytes"}}))
    with pytest.raises(UserError, match="'bytes'} is unknown"):
        read_metadata(tmp_path / "model")
    path.write_text(json.dumps(row | {"tokenizer": {"kind": "char", "lower_case": "false"}}))
    with pytest.raises(UserError, match="'lower_case': 'false'} is unknown"):
        read_metadata(tmp_path / "model")


def test_later_formats_are_refused_and_format_0_is_read(
    tmp_path: Path,
) -> None:
    params = init_params(CONFIG, jax.random.key(0))
    save_model(tmp_path / "model", ModelDir(CONFIG, LABELS, VOCAB, 6, params))
    (tmp_path / "model" / "checksums.json").unlink()
    path = tmp_path / "model" / "config.json"
    row = json.loads(path.read_text())
    assert row.pop("format") == model_dir.FORMAT
    path.write_text(json.dumps(row))
    assert read_metadata(tmp_path / "model").config == CONFIG
    later = model_dir.FORMAT + 1
    path.write_text(json.dumps(row | {"format": later, "model": {"unknown": "field"}}))
    message = rf"model: was written by a later version of flax_ner \(format {later}; .* Upgrade"
    for read in (read_metadata, load_model):
        with pytest.raises(UserError, match=message):
            read(tmp_path / "model")
    path.write_text(json.dumps(row | {"format": "1"}))
    with pytest.raises(UserError, match=r"is damaged, or has another version \(format '1'"):
        read_metadata(tmp_path / "model")
