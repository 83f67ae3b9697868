"""Export to PyTorch, and round trips."""

import json
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest

from convert.flax_to_torch import main
from convert.torch_to_flax import main as torch_to_flax
from flax_ner.errors import UserError
from flax_ner.model.mlm_head import init_masked_lm
from flax_ner.model.tagging_model import init_params
from flax_ner.text.labels import LabelSet
from flax_ner.text.vocab import SPECIAL_TOKENS
from flax_ner.weights.convert import convert
from flax_ner.weights.export import export
from flax_ner.weights.model_dir import ModelDir, load_model, save_model
from flax_ner.weights.safetensors_files import read_safetensors
from flax_ner.weights.source import open_source
from flax_ner.weights.torch_files import read_state_dict, read_torch_file
from flax_ner.weights.torch_writer import write_torch_file
from tests.weights.helpers import CONFIG, LABELS, VOCAB, assert_same

MMOCR_LABELS = LabelSet.mmocr(["人-名", "b"])
WIDE = replace(CONFIG, hidden_size=64, num_attention_heads=1, num_labels=len(MMOCR_LABELS))


def model(labels: LabelSet | None = LABELS, lower_case: bool = True) -> ModelDir:
    """Return a model in which no tensor has its initial value."""
    config = WIDE if labels is not None and labels.scheme == "mmocr" else CONFIG
    params = init_params(config, jax.random.key(0))
    keys = iter(jax.random.split(jax.random.key(1), 100))
    params = jax.tree.map(lambda x: x + jax.random.normal(next(keys), x.shape), params)
    if labels is None:
        del params["head"]
    return ModelDir(config, labels, VOCAB, 5, params, lower_case)


@pytest.mark.parametrize("lower_case", [True, False])
@pytest.mark.parametrize(
    "labels",
    [LABELS, LabelSet.from_names(["B-b", "I-b", "O", "B-a-1", "I-a-1"]), None],
    ids=["bio", "another order", "encoder"],
)
def test_hugging_face_round_trip(tmp_path: Path, labels: LabelSet | None, lower_case: bool) -> None:
    ours = model(labels, lower_case)
    export(ours, tmp_path / "hf", "hf")
    assert sorted(path.name for path in (tmp_path / "hf").iterdir()) == [
        "config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "vocab.txt",
    ]  # fmt: skip
    back, report = convert(open_source(tmp_path / "hf"))
    assert_same(back.params, ours.params)
    # Without a head, num_labels has no meaning.
    assert back.config == replace(ours.config, num_labels=1 if labels is None else 5)
    assert (back.vocab, back.max_length, back.lower_case) == (VOCAB, 5, lower_case)
    assert (back.labels and back.labels.names) == (labels and labels.names)
    assert report.notes == report.ignored == []


@pytest.mark.parametrize("labels", [MMOCR_LABELS, None], ids=["trained", "encoder"])
def test_mmocr_round_trip(tmp_path: Path, labels: LabelSet | None) -> None:
    ours = model(labels)
    message = export(ours, tmp_path / "out" / "f.pth", "mmocr")
    assert "of which two are zero: the pooler" in message
    (tmp_path / "vocab.txt").write_text("\n".join(VOCAB) + "\n")
    source = open_source(tmp_path / "out" / "f.pth", tmp_path / "vocab.txt")
    back, _ = convert(source, labels, {"num_attention_heads": ours.config.num_attention_heads})
    assert_same(back.params, ours.params)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["f.pth"]


def test_masked_lm_head_round_trip(tmp_path: Path) -> None:
    ours = model(None)
    keys = iter(jax.random.split(jax.random.key(2), 10))
    ours.params["masked_lm"] = jax.tree.map(
        lambda x: x + jax.random.normal(next(keys), x.shape),
        init_masked_lm(CONFIG, jax.random.key(0))["head"],
    )
    assert "BertForMaskedLM" in export(ours, tmp_path / "hf", "hf")
    row = json.loads((tmp_path / "hf" / "config.json").read_text())
    assert row["architectures"] == ["BertForMaskedLM"]
    back, report = convert(open_source(tmp_path / "hf"))
    assert_same(back.params, ours.params)
    assert report.ignored == []

    export(ours, tmp_path / "f.pth", "mmocr")  # ignores the masked language modelling head
    assert not any(name.startswith("cls.") for name in read_state_dict(tmp_path / "f.pth"))


def test_exported_names_match_mmocr(golden: Path, cluener: Path, tmp_path: Path) -> None:
    ours, _ = convert(open_source(golden / "bert_softmax_tiny.pth", cluener / "vocab.txt"))
    export(ours, tmp_path / "f.pth", "mmocr")
    reference = read_state_dict(golden / "bert_softmax_tiny.pth")
    loaded = read_torch_file(tmp_path / "f.pth")  # only tensors, no checkpoint around them
    assert list(loaded) == list(reference)
    for name, tensor in reference.items():
        assert loaded[name].shape == tensor.shape and loaded[name].dtype == tensor.dtype
        if "pooler" not in name:
            np.testing.assert_array_equal(loaded[name], tensor, err_msg=name)
        else:
            assert not loaded[name].any()


def test_pytorch_reads_exported_files(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    arrays = {
        "w": np.arange(6, dtype=np.float32).reshape(2, 3),
        "transposed": np.arange(6, dtype=np.float32).reshape(2, 3).T,
        "scalar": np.float32(3.5).reshape(()),
        "none": np.zeros((0, 4), np.float32),
        "名": np.ones(1000, np.float32),
    }
    write_torch_file(tmp_path / "f.pth", arrays)
    for mapped in (False, True):
        loaded = torch.load(tmp_path / "f.pth", weights_only=True, mmap=mapped)
        assert list(loaded) == list(arrays)
        for name, array in arrays.items():
            assert loaded[name].is_contiguous() and not loaded[name].requires_grad
            np.testing.assert_array_equal(loaded[name].numpy(), array)
            # Vector instructions need aligned data.
            assert not mapped or loaded[name].data_ptr() % 64 == 0
    with pytest.raises(TypeError, match="w: has dtype float64, but only float32"):
        write_torch_file(tmp_path / "g.pth", {"w": np.zeros(1)})


def test_equal_models_give_equal_files(tmp_path: Path) -> None:
    for layout, labels in (("hf", LABELS), ("mmocr", MMOCR_LABELS)):
        for name in ("a", "b"):
            export(model(labels), tmp_path / (layout + name), layout)
    for file in (tmp_path / "hfa").iterdir():
        assert file.read_bytes() == (tmp_path / "hfb" / file.name).read_bytes()
    assert (tmp_path / "mmocra").read_bytes() == (tmp_path / "mmocrb").read_bytes()


def test_exported_config_matches_hugging_face(tmp_path: Path) -> None:
    export(model(), tmp_path / "hf", "hf")
    row = json.loads((tmp_path / "hf" / "config.json").read_text())
    assert row["architectures"] == ["BertForTokenClassification"]
    assert row["model_type"] == "bert"
    assert row["id2label"] == {"0": "O", "1": "B-a", "2": "B-b", "3": "I-a", "4": "I-b"}
    assert row["label2id"] == {"O": 0, "B-a": 1, "B-b": 2, "I-a": 3, "I-b": 4}
    assert row["pad_token_id"] == VOCAB.index("[PAD]")
    assert not {"head", "scan_layers", "attention", "compute_dtype"} & row.keys()
    tokenizer = json.loads((tmp_path / "hf" / "tokenizer_config.json").read_text())
    assert {tokenizer[f"{name}_token"] for name in ("pad", "unk", "cls", "sep", "mask")} == set(
        SPECIAL_TOKENS
    )
    tensors = read_safetensors(tmp_path / "hf" / "model.safetensors")
    assert {name.split(".")[0] for name in tensors} == {"bert", "classifier"}


def test_mmocr_layout_refuses_other_schemes(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"this model's tags are bio, .*--layout hf"):
        export(model(LABELS), tmp_path / "f.pth", "mmocr")
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("layout", ["hf", "mmocr"])
def test_nothing_is_overwritten(tmp_path: Path, layout: str) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "precious").touch()
    with pytest.raises(UserError, match="out: already exists"):
        export(model(MMOCR_LABELS), tmp_path / "out", layout)
    assert [path.name for path in tmp_path.rglob("*")] == ["out", "precious"]


def test_flax_to_torch_converts_a_pytorch_file_directly(
    golden: Path, cluener: Path, tmp_path: Path
) -> None:
    for file in ("bert_softmax_tiny.pth", "config.json"):
        (tmp_path / file).symlink_to(golden / file)
    (tmp_path / "vocab.txt").symlink_to(cluener / "vocab.txt")
    main([str(tmp_path / "bert_softmax_tiny.pth"), str(tmp_path / "hf"), "--layout", "hf"])
    loaded = read_safetensors(tmp_path / "hf" / "model.safetensors")
    for name, tensor in read_state_dict(golden / "bert_softmax_tiny.pth").items():
        if "pooler" not in name:
            name = name.removeprefix("encoder.").removeprefix("decoder.")
            np.testing.assert_array_equal(loaded[name], tensor, err_msg=name)


def test_leftovers_of_an_interrupted_export_are_replaced(tmp_path: Path) -> None:
    for name in (".hf.writing", ".f.pth.writing"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "half").touch()
    export(model(MMOCR_LABELS), tmp_path / "hf", "hf")
    export(model(MMOCR_LABELS), tmp_path / "f.pth", "mmocr")
    (tmp_path / ".g.pth.writing").touch()
    export(model(MMOCR_LABELS), tmp_path / "g.pth", "mmocr")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["f.pth", "g.pth", "hf"]


def test_flax_to_torch_prints_what_it_wrote(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_model(tmp_path / "model", model(MMOCR_LABELS))
    main([str(tmp_path / "model"), str(tmp_path / "f.pth"), "--layout", "mmocr"])
    printed = capsys.readouterr().out
    assert "Categories, in order: 人-名, b." in printed
    assert f"Written: {tmp_path / 'f.pth'}" in printed
    with pytest.raises(SystemExit, match=r"flax_to_torch: .*f\.pth: already exists"):
        main([str(tmp_path / "model"), str(tmp_path / "f.pth"), "--layout", "mmocr"])
    with pytest.raises(SystemExit, match="flax_to_torch: MODEL: no file or directory"):
        main([str(tmp_path / "nothing"), str(tmp_path / "g.pth"), "--layout", "hf"])


BMES = LabelSet.from_names(["O", "B-人", "M-人", "E-人", "S-人"])
BIOES = LabelSet.from_names(["O", "B-人", "E-人", "I-人", "S-人"])


@pytest.mark.parametrize("labels", [BIOES, BMES], ids=["bioes", "bmes"])
def test_export_warns_if_the_pipeline_splits_entities(tmp_path: Path, labels: LabelSet) -> None:
    message = export(model(labels), tmp_path / "hf", "hf")
    assert "Warning: transformers' pipeline groups only B- and I- tags" in message
    assert "--labels bio" in message
    constrained = replace(model(labels), config=replace(CONFIG, head="softmax_constrained"))
    assert "export with --labels bio" in export(constrained, tmp_path / "constrained", "hf")


@pytest.mark.parametrize("labels", [LABELS, MMOCR_LABELS, None], ids=["bio", "mmocr", "encoder"])
def test_export_does_not_warn_if_the_pipeline_groups_the_tags(
    tmp_path: Path, labels: LabelSet | None
) -> None:
    assert "Warning" not in export(model(labels), tmp_path / "hf", "hf")


@pytest.mark.parametrize("labels", [BIOES, BMES], ids=["bioes", "bmes"])
def test_labels_bio_renames_tags_and_stores_the_trained_ones(
    tmp_path: Path, labels: LabelSet, capsys: pytest.CaptureFixture[str]
) -> None:
    ours = model(labels)
    save_model(tmp_path / "model", ours)
    main([str(tmp_path / "model"), str(tmp_path / "hf"), "--layout", "hf", "--labels", "bio"])
    printed = capsys.readouterr().out
    assert 'aggregation_strategy="simple"' in printed and "Warning" not in printed
    row = json.loads((tmp_path / "hf" / "config.json").read_text("utf-8"))
    expected = [name.translate(str.maketrans("MES", "IIB")) for name in labels.names]
    assert list(row["id2label"].values()) == expected
    assert row["label2id"] == {"O": 0, "B-人": 1, "I-人": 2}
    with pytest.raises(
        UserError, match=r"two names mean the same tag.*torch_to_flax\.py --labels FILE"
    ):
        convert(open_source(tmp_path / "hf"))
    torch_to_flax(
        [
            str(tmp_path / "hf"),
            str(tmp_path / "back"),
            "--labels",
            str(tmp_path / "hf" / "tags.txt"),
        ]
    )
    back = load_model(tmp_path / "back")
    assert back.labels is not None and back.labels.names == labels.names
    assert_same(back.params, ours.params)


def test_labels_bio_renames_mmocr_special_outputs_to_o(tmp_path: Path) -> None:
    export(model(MMOCR_LABELS), tmp_path / "hf", "hf", "bio")
    row = json.loads((tmp_path / "hf" / "config.json").read_text("utf-8"))
    names = ["O", "B-人-名", "B-b", "I-人-名", "I-b", "O", "O", "O"]
    assert list(row["id2label"].values()) == names


def test_labels_bio_needs_a_tagger_in_the_hf_layout(tmp_path: Path) -> None:
    for exported, target in (
        (model(None), "hf of an encoder without a head"),
        (model(MMOCR_LABELS), "mmocr"),
    ):
        with pytest.raises(
            UserError, match=rf"--labels bio: does not apply to --layout {target}\."
        ):
            export(exported, tmp_path / "out", target.split()[0], "bio")
    assert not list(tmp_path.iterdir())
