"""`flax_ner export`: targets, options and missing packages."""

import json
import sys
import tomllib
from dataclasses import replace
from pathlib import Path

import jax
import pytest

from convert.flax_to_torch import main as flax_to_torch
from flax_ner.cli.main import main
from flax_ner.model.tagging_model import init_params
from flax_ner.text.labels import LabelSet
from flax_ner.weights.export_folder import ONNXRUNTIME_REQUIREMENT
from flax_ner.weights.model_dir import save_model
from flax_ner.weights.onnx_graph import ONNX_REQUIREMENT
from tests.exports import LABELS, random_model

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")


@pytest.fixture
def saved(tmp_path: Path) -> str:
    save_model(tmp_path / "model", random_model(head="softmax"))
    return str(tmp_path / "model")


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["hf", "--dtype", "int8"], "--dtype int8: applies only to --to onnx. Omit --dtype"),
        (["stablehlo", "--dtype", "float32"], "--dtype float32: applies only to --to onnx"),
        (["stablehlo", "--labels", "bio"], "--labels bio: does not apply to --to stablehlo"),
        (["mmocr"], r"--to mmocr: this model's tags are bioes, .* Export it with --to hf"),
    ],
)
def test_options_that_do_not_apply_are_errors(
    saved: str, tmp_path: Path, options: list[str], reason: str
) -> None:
    with pytest.raises(SystemExit, match=f"flax_ner: {reason}"):
        main(["export", saved, str(tmp_path / "out"), "--to", *options])
    assert not (tmp_path / "out").exists()


def test_the_command_writes_every_target(
    saved: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for target in ("onnx", "stablehlo", "hf"):
        out = tmp_path / target
        main(["export", saved, str(out), "--to", target])
        assert f"Written: {out}" in capsys.readouterr().out
    flax_to_torch([saved, str(tmp_path / "other"), "--layout", "hf"])
    for file in (tmp_path / "hf").iterdir():
        assert file.read_bytes() == (tmp_path / "other" / file.name).read_bytes()
    # The files of transformers are the same in every export.
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json", "vocab.txt"):
        for target in ("onnx", "stablehlo"):
            file = tmp_path / target / name
            assert file.read_bytes() == (tmp_path / "hf" / name).read_bytes()


def test_mmocr_models_are_exported_by_the_command(tmp_path: Path) -> None:
    model = random_model(head="softmax")
    labels = LabelSet.mmocr(["name", "place"])
    config = replace(model.config, num_labels=len(labels))
    made = replace(
        model, config=config, labels=labels, params=init_params(config, jax.random.key(0))
    )
    save_model(tmp_path / "model", made)
    main(["export", str(tmp_path / "model"), str(tmp_path / "a.pth"), "--to", "mmocr"])
    flax_to_torch([str(tmp_path / "model"), str(tmp_path / "b.pth"), "--layout", "mmocr"])
    assert (tmp_path / "a.pth").read_bytes() == (tmp_path / "b.pth").read_bytes()


def test_bio_labels_rename_only_what_other_programs_read(saved: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    main(["export", saved, str(out), "--to", "onnx", "--labels", "bio"])
    names = json.loads((out / "config.json").read_text())["id2label"].values()
    assert list(names) == LABELS.bio_names() != LABELS.names
    assert json.loads((out / "labels.json").read_text()) == LABELS.to_json()


def test_a_missing_package_is_named(
    saved: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(SystemExit, match=r"ONNX export: needs onnx\. Run pip install 'onnx>="):
        main(["export", saved, str(tmp_path / "out"), "--to", "onnx"])
    assert not [path for path in tmp_path.iterdir() if "out" in path.name]  # no partial export
    extras = tomllib.loads(Path("pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert extras["onnx"] == [ONNX_REQUIREMENT, ONNXRUNTIME_REQUIREMENT]
