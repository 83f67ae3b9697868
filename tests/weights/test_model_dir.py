"""Model directories to disk and back."""

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
from flax_ner.model.masked_lm import init_masked_lm
from flax_ner.model.tagger import init_params
from flax_ner.text.labels import LabelSet
from flax_ner.training.mesh import make_mesh
from flax_ner.weights import model_dir
from flax_ner.weights.model_dir import ModelDir, load_model, read_card, save_model
from tests.weights.helpers import CONFIG, LABELS, VOCAB, assert_same

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("labels", [LABELS, LabelSet(["人-名", "b"], "bio")])
def test_a_model_directory_comes_back_bit_for_bit(tmp_path: Path, labels: LabelSet) -> None:
    params = init_params(CONFIG, jax.random.key(0))
    save_model(tmp_path / "model", ModelDir(CONFIG, labels, VOCAB, 100, params))
    model = load_model(tmp_path / "model")
    assert_same(model.params, params)
    assert (model.config, model.vocab, model.max_length) == (CONFIG, VOCAB, 100)
    assert model.labels is not None
    assert model.labels.to_json() == labels.to_json()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model"]


def test_what_all_devices_have_is_written_without_a_program(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    params = init_params(CONFIG, jax.random.key(0))
    everywhere = NamedSharding(make_mesh(8, 1, 8), PartitionSpec())
    model = ModelDir(CONFIG, LABELS, VOCAB, 100, jax.device_put(params, everywhere))
    with jax.log_compiles():
        assert jax.jit(lambda x: x + 1)(1) == 2  # programs are noticed
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


def test_an_encoder_keeps_the_layers_that_score_tokens(tmp_path: Path) -> None:
    made = init_masked_lm(CONFIG, jax.random.key(0))
    params = {"encoder": made["encoder"], "masked_lm": made["head"]}
    save_model(tmp_path / "model", ModelDir(CONFIG, None, VOCAB, 6, params))
    assert_same(load_model(tmp_path / "model").params, params)
    (tmp_path / "model" / "checksums.json").unlink()
    (tmp_path / "model" / "params" / "_METADATA").unlink()  # which says whether they are there
    with pytest.raises(UserError, match="its params are damaged"):
        load_model(tmp_path / "model")


def test_saving_again_replaces_the_older_model(tmp_path: Path) -> None:
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


def test_the_older_model_comes_back_where_a_kill_left_it_aside(tmp_path: Path) -> None:
    params = init_params(CONFIG, jax.random.key(0))
    save_model(tmp_path / "model", ModelDir(CONFIG, LABELS, VOCAB, 6, params))
    (tmp_path / "model").rename(tmp_path / ".model.replaced")
    unwritable = ModelDir(CONFIG, LABELS, ["\ud800"], 6, params)  # a vocabulary that is not UTF-8
    with pytest.raises(UserError, match="What was there before is whole"):
        save_model(tmp_path / "model", unwritable)
    assert_same(load_model(tmp_path / "model").params, params)


FULL_DISK = """
import resource, sys
import jax
from flax_ner.errors import UserError
from flax_ner.model.tagger import init_params
from flax_ner.weights.model_dir import ModelDir, save_model
from tests.weights.helpers import CONFIG, LABELS, VOCAB

params = init_params(CONFIG, jax.random.key(1))
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))  # bytes of a file
try:
    save_model(sys.argv[1], ModelDir(CONFIG, LABELS, VOCAB, 6, params))
except UserError as error:
    print(error)
"""


def test_where_there_is_no_writing_the_older_model_stays(tmp_path: Path) -> None:
    params = init_params(CONFIG, jax.random.key(0))
    save_model(tmp_path / "model", ModelDir(CONFIG, LABELS, VOCAB, 6, params))
    command = [sys.executable, "-c", FULL_DISK, str(tmp_path / "model")]
    said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert re.search(r"model: cannot be written \(.*File too large.*What was there before", said)
    assert_same(load_model(tmp_path / "model").params, params)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_what_is_written_behind_a_failure_is_removed_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(folder: Path, model: ModelDir) -> None:
        raise OSError("no room")

    moments = itertools.count()

    def others_write_on(seconds: float) -> None:
        if next(moments) in (0, 1, 3):  # with a pause, in which the folder is gone
            (tmp_path / ".model.writing" / "params").mkdir(parents=True)

    monkeypatch.setattr(model_dir, "_write", fail)
    monkeypatch.setattr(model_dir, "time", SimpleNamespace(sleep=others_write_on))
    params = init_params(CONFIG, jax.random.key(0))
    with pytest.raises(UserError, match=r"cannot be written \(no room\)"):
        save_model(tmp_path / "model", ModelDir(CONFIG, LABELS, VOCAB, 6, params))
    assert not list(tmp_path.iterdir())
    assert next(moments) > 4


def test_the_scan_of_layers_does_not_change_what_is_stored(tmp_path: Path) -> None:
    config = replace(CONFIG, scan_layers=True)
    params = init_params(config, jax.random.key(0))
    save_model(tmp_path / "model", ModelDir(config, LABELS, VOCAB, 6, params))
    assert set(load_model(tmp_path / "model").params["encoder"]["layers"]) == {"0", "1"}


@pytest.mark.parametrize("missing", ["config.json", "vocab.txt", "params"])
def test_a_directory_with_a_part_missing_is_refused(tmp_path: Path, missing: str) -> None:
    path = tmp_path / "model"
    path.mkdir()
    for name in {"config.json", "vocab.txt", "params"} - {missing}:
        (path / name).touch()
    with pytest.raises(UserError, match=rf"{path}: not a model directory, it has no {missing}"):
        load_model(path)


def test_lower_casing_and_an_order_of_tags_come_back(tmp_path: Path) -> None:
    labels = LabelSet.from_names(["O", "B-a", "I-a", "B-b", "I-b"])
    params = init_params(CONFIG, jax.random.key(0))
    save_model(tmp_path / "model", ModelDir(CONFIG, labels, VOCAB, 6, params, lower_case=False))
    model = read_card(tmp_path / "model")
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
        ("labels.json", None, "its params are damaged, or of another shape"),
        ("params", None, "its params are damaged"),
        ("params/manifest.ocdbt", "", "its params are damaged"),
        ("params/_METADATA", "{", "its params are damaged"),
        ("params/_METADATA", "[]", "its params are damaged"),
    ],
)
def test_parts_that_do_not_belong_together_are_refused(
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
    with pytest.raises(UserError, match=rf"{re.escape(name)}[\w/.]* is (missing|not as)"):
        load_model(tmp_path / "model")
    (tmp_path / "model" / "checksums.json").unlink()  # as the message says
    with pytest.raises(UserError, match=message):
        load_model(tmp_path / "model")


def test_a_directory_that_does_not_say_is_lower_cased(tmp_path: Path) -> None:
    params = init_params(CONFIG, jax.random.key(0))
    save_model(tmp_path / "model", ModelDir(CONFIG, LABELS, VOCAB, 6, params))
    (tmp_path / "model" / "checksums.json").unlink()
    path = tmp_path / "model" / "config.json"
    row = json.loads(path.read_text())
    del row["tokenizer"]["lower_case"]
    path.write_text(json.dumps(row))
    assert read_card(tmp_path / "model").lower_case
    path.write_text(json.dumps(row | {"tokenizer": {"kind": "bytes"}}))
    with pytest.raises(UserError, match="'bytes'} is unknown"):
        read_card(tmp_path / "model")
    path.write_text(json.dumps(row | {"tokenizer": {"kind": "char", "lower_case": "false"}}))
    with pytest.raises(UserError, match="'lower_case': 'false'} is unknown"):
        read_card(tmp_path / "model")


def test_a_directory_of_a_later_version_is_refused_and_one_without_a_version_is_read(
    tmp_path: Path,
) -> None:
    params = init_params(CONFIG, jax.random.key(0))
    save_model(tmp_path / "model", ModelDir(CONFIG, LABELS, VOCAB, 6, params))
    (tmp_path / "model" / "checksums.json").unlink()
    path = tmp_path / "model" / "config.json"
    row = json.loads(path.read_text())
    assert row.pop("format") == model_dir.FORMAT
    path.write_text(json.dumps(row))
    assert read_card(tmp_path / "model").config == CONFIG
    later = model_dir.FORMAT + 1
    path.write_text(json.dumps(row | {"format": later, "model": {"of a kind": "not known yet"}}))
    told = rf"model: was written by a later version of flax_ner \(format {later}; .* Upgrade"
    for read in (read_card, load_model):
        with pytest.raises(UserError, match=told):
            read(tmp_path / "model")
    path.write_text(json.dumps(row | {"format": "1"}))
    with pytest.raises(UserError, match=r"is damaged, or of another version \(format '1'"):
        read_card(tmp_path / "model")
