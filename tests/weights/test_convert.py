"""PyTorch files to model directories, and model directories to disk and back."""

import json
import re
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest

import flax_ner
from convert.torch_to_flax import main
from flax_ner.errors import UserError
from flax_ner.model.tagger import Params, init_params
from flax_ner.text.labels import LabelSet
from flax_ner.text.tokenizer import SPECIAL_TOKENS
from flax_ner.weights import convert as convert_module
from flax_ner.weights.convert import CLUENER, convert, read_config, read_labels
from flax_ner.weights.model_dir import ModelDir, load_model, save_model
from flax_ner.weights.names import Report, flatten
from tests.weights.helpers import CONFIG, PRETRAINED, TRAINED, tiny_state_dict

VOCAB = [*SPECIAL_TOKENS, *"abcdef"]  # as many as CONFIG says
LABELS = LabelSet(["a", "b"])  # five tags


def assert_same(one: Params, other: Params) -> None:
    one, other = flatten(one), flatten(other)
    assert set(one) == set(other)
    for path, array in one.items():
        np.testing.assert_array_equal(array, other[path], err_msg=path)


@pytest.fixture(scope="module")
def converted(golden: Path, cluener: Path) -> dict[str, tuple[ModelDir, Report]]:
    """Both golden files, converted."""
    config = read_config(golden / "config.json")
    return {
        name: convert(golden / f"{name}.pth", cluener / "vocab.txt", config=config)
        for name in ("bert_softmax_tiny", "bert_pretrain_tiny_legacy")
    }


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A vocabulary beside a file that reads as a trained tagger of `CONFIG`."""
    monkeypatch.setattr(convert_module, "read_state_dict", lambda path: tiny_state_dict(TRAINED))
    path = tmp_path / "vocab.txt"
    path.write_text("\n".join(VOCAB) + "\n", "utf-8")
    return path


def test_a_trained_checkpoint_has_everything(
    converted: dict[str, tuple[ModelDir, Report]], golden: Path
) -> None:
    model, report = converted["bert_softmax_tiny"]
    stated = read_config(golden / "config.json")
    row = model.config.to_json()
    assert {name: row[name] for name in stated if name in row} == {
        name: value for name, value in stated.items() if name not in ("categories", "id2label")
    }
    assert model.labels is not None
    assert (model.labels.scheme, model.labels.categories) == ("mmocr", CLUENER)
    assert len(model.vocab) == 21128
    assert model.max_length == 512
    assert (len(report.used), len(report.ignored), len(report.fresh)) == (39, 2, 0)


def test_the_legacy_file_gives_the_same_encoder(
    converted: dict[str, tuple[ModelDir, Report]],
) -> None:
    trained, _ = converted["bert_softmax_tiny"]
    encoder, report = converted["bert_pretrain_tiny_legacy"]
    assert set(encoder.params) == {"encoder"}
    assert encoder.labels is None
    assert_same(encoder.params["encoder"], trained.params["encoder"])
    assert len(report.used) == 37
    assert {name.split(".")[0] for name, _ in report.ignored} == {"cls", "bert"}
    assert [target for target, _ in report.fresh] == [
        "head/classifier/bias",
        "head/classifier/kernel",
    ]


def test_another_vocabulary_is_refused_with_both_sizes(tiny: Path) -> None:
    tiny.write_text("\n".join([*VOCAB, "g"]), "utf-8")
    with pytest.raises(UserError, match=r"vocab\.txt: 12 tokens, but f\.pth has embeddings for 11"):
        convert("f.pth", tiny, LABELS, {"num_attention_heads": 2})


@pytest.mark.parametrize(
    ("name", "value", "truth"),
    [("vocab_size", 12, 11), ("hidden_size", 16, 8), ("num_hidden_layers", 3, 2),
     ("intermediate_size", 8, 12), ("max_position_embeddings", 512, 6), ("type_vocab_size", 1, 2)],
)  # fmt: skip
def test_a_config_that_contradicts_the_tensors_is_refused(
    tiny: Path, name: str, value: int, truth: int
) -> None:
    message = f"config: {name} is {value}, but the tensors of f.pth say {truth}"
    with pytest.raises(UserError, match=re.escape(message)):
        convert("f.pth", tiny, LABELS, {"num_attention_heads": 2, name: value})


def test_a_width_without_a_convention_needs_the_number_of_heads(tiny: Path) -> None:
    with pytest.raises(UserError, match=r"f\.pth: its width 8 .*num_attention_heads"):
        convert("f.pth", tiny, LABELS)


def test_what_the_tensors_cannot_tell_comes_from_the_config(tiny: Path) -> None:
    config = {"num_attention_heads": 4, "hidden_act": "gelu", "layer_norm_eps": 1e-5}
    model, report = convert("f.pth", tiny, LABELS, config)
    assert {name: model.config.to_json()[name] for name in config} == config
    assert report.notes == []
    model, report = convert("f.pth", tiny, LABELS, {"num_attention_heads": 2})
    assert model.config == CONFIG
    assert report.notes == ["Activation: gelu_new, as MMOCR runs it."]


def test_heads_are_64_wide_unless_told(golden: Path, cluener: Path) -> None:
    model, report = convert(golden / "bert_softmax_tiny.pth", cluener / "vocab.txt")
    assert model.config.num_attention_heads == 1
    assert "Attention heads: 1, by the convention of 64 wide heads." in report.notes


@pytest.mark.parametrize(
    ("labels", "size"), [(None, 24), (LabelSet(["a"]), 3), (LabelSet(["a"], "mmocr"), 6)]
)
def test_labels_must_be_as_many_as_the_outputs(
    tiny: Path, labels: LabelSet | None, size: int
) -> None:
    with pytest.raises(
        UserError, match=rf"head has 5 outputs, but the labels are {size} .*--labels"
    ):
        convert("f.pth", tiny, labels, {"num_attention_heads": 2})


def test_an_encoder_takes_no_labels(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(convert_module, "read_state_dict", lambda path: tiny_state_dict(PRETRAINED))
    model, report = convert("f.pth", tiny, LABELS, {"num_attention_heads": 2})
    assert model.labels is None
    assert len(report.fresh) == 2


def test_a_head_without_its_bias_is_refused(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state = tiny_state_dict(TRAINED)
    del state["decoder.classifier.bias"]
    monkeypatch.setattr(convert_module, "read_state_dict", lambda path: state)
    with pytest.raises(UserError, match=r"missing: decoder\.classifier\.bias"):
        convert("f.pth", tiny, LABELS, {"num_attention_heads": 2})


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


def test_an_encoder_directory_has_no_head_and_no_labels(tmp_path: Path) -> None:
    params = init_params(CONFIG, jax.random.key(0))
    del params["head"]
    save_model(tmp_path / "model", ModelDir(CONFIG, None, VOCAB, 6, params))
    model = load_model(tmp_path / "model")
    assert_same(model.params, params)
    assert model.labels is None
    assert not (tmp_path / "model" / "labels.json").exists()


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


def test_the_command_converts_a_trained_checkpoint(
    golden: Path, cluener: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    converted: dict[str, tuple[ModelDir, Report]],
) -> None:  # fmt: skip
    out, vocab = tmp_path / "model", cluener / "vocab.txt"
    main([str(golden / "bert_softmax_tiny.pth"), str(out), "--vocab", str(vocab)])
    printed = capsys.readouterr().out
    expected, report = converted["bert_softmax_tiny"]
    assert str(report) in printed
    assert f"Configuration: {golden / 'config.json'}" in printed  # found beside the source
    model = load_model(out)
    assert_same(model.params, expected.params)
    assert model.config == expected.config
    tagger = flax_ner.load(out)
    arrays = np.load(golden / "parity.npz")
    logits = tagger.logits(arrays["input_ids"], arrays["attention_mask"])
    inside = arrays["attention_mask"] > 0
    np.testing.assert_allclose(logits[inside], arrays["logits"][inside], rtol=0, atol=1e-4)


def test_an_encoder_cannot_be_loaded_as_a_tagger(
    golden: Path, cluener: Path, tmp_path: Path
) -> None:
    source, vocab = golden / "bert_pretrain_tiny_legacy.pth", cluener / "vocab.txt"
    main([str(source), str(tmp_path / "model"), "--vocab", str(vocab)])
    with pytest.raises(UserError, match="encoder without a head cannot tag"):
        flax_ner.load(tmp_path / "model")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "--vocab: there is no vocab.txt beside"),
        (["--vocab", "nowhere.txt"], "no file 'nowhere.txt'"),
        (["--vocab", "VOCAB", "--labels", "nowhere.txt"], "--labels: no file 'nowhere.txt'"),
        (["--vocab", "VOCAB", "--config", "nowhere.json"], "--config: no file 'nowhere.json'"),
    ],
)
def test_the_command_ends_in_one_clear_message(
    tiny: Path, tmp_path: Path, options: list[str], message: str
) -> None:
    options = [str(tiny) if option == "VOCAB" else option for option in options]
    with pytest.raises(SystemExit, match=f"torch_to_flax: .*{re.escape(message)}"):
        main([str(tmp_path / "elsewhere" / "f.pth"), str(tmp_path / "model"), *options])
    assert not (tmp_path / "model").exists()


def test_files_beside_the_source_are_found(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "config.json").write_text('{"num_attention_heads": 2}')
    (tmp_path / "labels.json").write_text(json.dumps(LABELS.to_json()))
    labels = ["--labels", str(tmp_path / "labels.json")]
    main([str(tmp_path / "f.pth"), str(tmp_path / "model"), *labels])
    assert f"Vocabulary: {tiny}. " in capsys.readouterr().out
    model = load_model(tmp_path / "model")
    assert (model.config, model.vocab) == (CONFIG, VOCAB)
    assert model.labels is not None
    assert model.labels.names == LABELS.names


def test_labels_are_read_one_a_line_or_as_json(tmp_path: Path) -> None:
    text, row = tmp_path / "labels.txt", tmp_path / "labels.json"
    text.write_text("人名\nplace\n", "utf-8")
    assert read_labels(text).to_json() == LabelSet.mmocr(["人名", "place"]).to_json()
    row.write_text(json.dumps(LABELS.to_json()), "utf-8")
    assert read_labels(row).to_json() == LABELS.to_json()


def test_a_category_may_hold_a_space(tmp_path: Path) -> None:
    path = tmp_path / "labels.txt"
    path.write_text("work of art\r\nplace\n\n", "utf-8")
    assert read_labels(path).categories == ("work of art", "place")


@pytest.mark.parametrize("text", ["", "[]", "{", '{"scheme": "bio"}', '{"categories": ["a"]}'])
def test_a_labels_file_of_another_form_is_named(tmp_path: Path, text: str) -> None:
    path = tmp_path / "labels.json"
    path.write_text(text)
    with pytest.raises(UserError, match=re.escape(f"{path}: expected ")):
        read_labels(path)


@pytest.mark.parametrize(("text", "message"), [("{", "not JSON"), ("[]", "not a JSON object")])
def test_a_config_file_of_another_form_is_named(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "config.json"
    path.write_text(text)
    with pytest.raises(UserError, match=f"{re.escape(str(path))}: {message}"):
        read_config(path)
