"""The command convert/torch_to_flax.py, and the files of labels that it takes."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

import flax_ner
from convert.torch_to_flax import main
from flax_ner.errors import UserError
from flax_ner.text.labels import LabelSet
from flax_ner.weights.convert import convert
from flax_ner.weights.head_labels import read_labels
from flax_ner.weights.model_dir import load_model
from flax_ner.weights.source import open_source
from tests.weights.helpers import (
    CONFIG,
    LABELS,
    VOCAB,
    assert_same,
    tagger_state_dict,
    tiny_config,
    write_source,
)


def test_torch_to_flax_converts_a_trained_checkpoint(
    golden: Path, cluener: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, vocab = tmp_path / "model", cluener / "vocab.txt"
    main([str(golden / "bert_softmax_tiny.pth"), str(out), "--vocab", str(vocab)])
    printed = capsys.readouterr().out
    expected, report = convert(open_source(golden / "bert_softmax_tiny.pth", vocab))
    assert str(report) in printed
    assert f"Configuration: {golden / 'config.json'}" in printed  # the one beside the source
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
        ([], "there is no vocab.txt or tokenizer.json beside it"),
        (["--vocab", "nowhere.txt"], "no file 'nowhere.txt'"),
        (["--vocab", "nowhere.json"], "nowhere.json: no such file"),
        (["--vocab", "VOCAB", "--labels", "nowhere.txt"], "--labels: no file 'nowhere.txt'"),
        (["--vocab", "VOCAB", "--config", "nowhere.json"], "nowhere.json: cannot be read"),
        (
            ["--vocab", "VOCAB", "--num-attention-heads", "3"],
            "model.hidden_size: 8 is not a multiple of",
        ),
    ],
)
def test_torch_to_flax_reports_errors_in_one_line(
    trained: Path, tmp_path: Path, options: list[str], message: str
) -> None:
    vocab = trained.with_name("vocab.txt").rename(tmp_path / "vocab.txt")
    options = [str(vocab) if option == "VOCAB" else option for option in options]
    heads = [] if "--num-attention-heads" in options else ["--num-attention-heads", "2"]
    with pytest.raises(SystemExit, match=f"torch_to_flax: .*{re.escape(message)}"):
        main([str(trained), str(tmp_path / "model"), *heads, *options])
    assert not (tmp_path / "model").exists()


def test_an_option_that_contradicts_the_config_is_refused(tmp_path: Path) -> None:
    path = write_source(tmp_path / "hf", tagger_state_dict(), config=tiny_config())
    with pytest.raises(SystemExit, match=r"heads: 4, but .*config\.json says 2\. Omit the option"):
        main([str(path), str(tmp_path / "model"), "--num-attention-heads", "4"])
    assert not (tmp_path / "model").exists()
    main([str(path), str(tmp_path / "model"), "--num-attention-heads", "2"])


def test_a_missing_source_is_one_error(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"torch_to_flax: SOURCE: no file or directory .*f\.pth"):
        main([str(tmp_path / "f.pth"), str(tmp_path / "model")])


def test_files_beside_the_source_are_used(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trained.with_name("config.json").write_text('{"num_attention_heads": 2}')
    labels = tmp_path / "labels.json"
    labels.write_text(json.dumps(LABELS.to_json()))
    main([str(trained), str(tmp_path / "model"), "--labels", str(labels)])
    assert f"Vocabulary: {trained.with_name('vocab.txt')}, lower" in capsys.readouterr().out
    model = load_model(tmp_path / "model")
    assert (model.config, model.vocab) == (CONFIG, VOCAB)
    assert model.labels is not None
    assert model.labels.names == LABELS.names


def test_a_model_directory_is_replaced_only_with_force(trained: Path, tmp_path: Path) -> None:
    out, labels = tmp_path / "model", tmp_path / "labels.json"
    labels.write_text(json.dumps(LABELS.to_json()))
    command = [str(trained), str(out), "--num-attention-heads", "2", "--labels", str(labels)]
    main(command)
    (out / "notes.txt").write_text("precious")
    with pytest.raises(
        SystemExit, match=r"torch_to_flax: .*model: already exists\. .* with --force\.$"
    ):
        main(command)
    assert (out / "notes.txt").read_text() == "precious"
    main([*command, "--force"])
    assert not (out / "notes.txt").exists() and load_model(out).vocab == VOCAB


# --- Labels --------------------------------------------------------------------------------------


def test_labels_are_read_one_per_line_or_as_json(tmp_path: Path) -> None:
    text, row = tmp_path / "labels.txt", tmp_path / "labels.json"
    text.write_text("人名\nplace\n", "utf-8")
    assert read_labels(text).to_json() == LabelSet.mmocr(["人名", "place"]).to_json()
    row.write_text(json.dumps(LABELS.to_json()), "utf-8")
    assert read_labels(row).to_json() == LABELS.to_json()
    text.write_text("O\nB-a\nI-a\nB-b\nI-b\n")
    assert read_labels(text).names == ["O", "B-a", "I-a", "B-b", "I-b"]
    row.write_text('{"names": ["O", "B-a", "I-a"]}')
    assert read_labels(row).to_json() == LabelSet(["a"]).to_json()


def test_a_category_may_contain_a_space(tmp_path: Path) -> None:
    path = tmp_path / "labels.txt"
    path.write_text("work of art\r\nplace\n\n", "utf-8")
    assert read_labels(path).categories == ("work of art", "place")


def test_a_label_that_is_not_a_string_is_reported(tmp_path: Path) -> None:
    path = tmp_path / "labels.json"
    path.write_text('{"names": ["O", 1]}')
    with pytest.raises(UserError, match=re.escape(f"{path}: labels[1]: 1, but expected a string")):
        read_labels(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[]", "labels: expected "),
        ('{"scheme": "bio"}', "labels: expected "),
        ('{"categories": ["a"]}', "labels: expected "),
        ("", "is not valid JSON"),
        ("{", "is not valid JSON"),
        (
            "O\nB-a\nI-a\n",
            "is not valid JSON. If it has one tag per line, rename it to labels.txt.",
        ),
    ],
)
def test_an_invalid_labels_file_is_reported(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "labels.json"
    path.write_text(text)
    with pytest.raises(UserError, match=re.escape(f"{path}: {message}")):
        read_labels(path)
    if "rename" in message:
        assert read_labels(path.rename(tmp_path / "labels.txt")).categories == ("a",)


def test_invalid_tags_are_reported_with_their_file(tmp_path: Path) -> None:
    path = tmp_path / "labels.txt"
    path.write_text("O\nNOUN\nB-a\n")
    with pytest.raises(UserError, match=r"labels\.txt: labels O, NOUN, B-a: 'NOUN' is not a tag"):
        read_labels(path)
