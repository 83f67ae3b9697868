"""The conversion report, and the command `inspect`."""

import re
from pathlib import Path

import jax
import numpy as np
import pytest

from flax_ner.cli.main import main
from flax_ner.model.tagging_model import init_params
from flax_ner.weights.conversion_report import Report, UsedTensor, table
from flax_ner.weights.describe import describe
from flax_ner.weights.model_dir import ModelDir, save_model
from tests.weights.helpers import (
    CONFIG,
    LABELS,
    TRAINED,
    VOCAB,
    tagger_state_dict,
    tiny_config,
    tiny_state_dict,
    write_source,
)

FLOAT32 = np.dtype("float32")


def test_layers_that_are_treated_alike_share_a_line() -> None:
    rows = [(f"bert.encoder.layer.{i}.w", f"-> encoder/layers/{i}/w") for i in range(12)]
    assert table(rows) == ["  bert.encoder.layer.{0-11}.w  -> encoder/layers/{0-11}/w"]
    assert table(rows[2:4]) == ["  bert.encoder.layer.{2,3}.w  -> encoder/layers/{2,3}/w"]
    assert table([rows[0], rows[5], rows[7]])[0].startswith("  bert.encoder.layer.{0,5,7}.w ")
    assert table(rows[3:4]) == ["  bert.encoder.layer.3.w  -> encoder/layers/3/w"]
    assert table([]) == []
    # Rows with another shape are not merged. Names without a layer number stay unchanged, even with braces.
    rows = [("layer.0.w", "[8]"), ("layer.1.w", "[9]"), ("w{}", "[8]"), ("layer.2.w", "[8]")]
    assert table(rows) == ["  layer.{0,2}.w  [8]", "  layer.1.w      [9]", "  w{}            [8]"]


def test_report_text() -> None:
    report = Report("Some layout")
    report.notes = ["A note."]
    for i in range(3):
        report.used.append(UsedTensor(f"layer.{i}.q", f"layers/{i}/qkv", 0, (2, 3), FLOAT32))
    report.used.append(UsedTensor("word", "embeddings/word", None, (5, 2), np.dtype("float16")))
    report.ignored = [("pooler", "no use")]
    report.fresh = [("head/bias", "none there")]
    assert str(report).splitlines() == [
        "Layout: Some layout",
        "A note.",
        "4 tensors used, 28 parameters:",
        "  layer.{0-2}.q  float32 [2, 3]  -> layers/{0-2}/qkv, query",
        "  word           float16 [5, 2]  -> embeddings/word",
        "1 tensors ignored:",
        "  pooler  no use",
        "1 parameters freshly initialised:",
        "  head/bias  none there",
    ]
    report.errors = ["missing: w"]
    assert str(report).splitlines()[-2:] == ["1 errors:", "  missing: w"]


def test_description_lists_every_tensor(tmp_path: Path) -> None:
    state = tagger_state_dict() | {"bert.embeddings.position_ids": np.zeros(6, np.float32)}
    path = write_source(tmp_path, state, config=tiny_config())
    text, errors = describe(tmp_path, "FILE")
    assert errors == []
    lines = text.splitlines()
    assert lines[0] == str(path)
    numbers = sum(tensor.size for tensor in state.values())
    assert lines[1] == f"Tensors: {len(state)} with {numbers:,} float32"
    assert (
        f"Vocabulary: {tmp_path}/vocab.txt, 11 tokens; text is lower-cased and split into characters."
        in text
    )
    assert "Labels: O, B-a, B-b, I-a, I-b." in lines
    assert (
        "2 layers of width 8, 2 heads, MLP 12 gelu_new, 6 positions, vocabulary of 11, 5 out"
        in text
    )
    assert "Layout: Hugging Face BertForTokenClassification" in lines
    listed = {line.split()[0] for line in lines if line.startswith("  ")}
    assert {name.replace("{0,1}", i) for name in listed for i in "01"} == set(state)


def test_inspect_reads_no_tensor(tmp_path: Path) -> None:
    path = write_source(tmp_path, tagger_state_dict(), config=tiny_config())
    expected = describe(path, "FILE")
    # Replace the data by a hole: the file keeps its size, and a read would return zeros.
    whole = path.read_bytes()
    begin = 8 + int.from_bytes(whole[:8], "little")
    with path.open("wb") as file:
        file.write(whole[:begin])
        file.truncate(len(whole))
    assert describe(path, "FILE") == expected


def test_problems_are_reported_with_the_description(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state = tagger_state_dict()
    del state["bert.encoder.layer.1.output.dense.bias"]
    state["bert.encoder.layer.0.output.dense.weight"] = np.zeros((12, 8), np.float32)
    state["extra"] = np.zeros(3, np.float32)
    path = write_source(tmp_path, state, config=tiny_config())
    path.with_name("vocab.txt").write_text("\n".join(VOCAB[:-2]))
    with pytest.raises(SystemExit) as caught:
        main(["inspect", str(path)])
    errors = str(caught.value).splitlines()
    assert errors[0] == "flax_ner: not usable as it is:"
    for error, part in zip(
        errors[1:],
        ("wrong shape: bert.encoder.layer.0.output.dense.weight is [12, 8], the model needs [8, 12]",
         "missing: bert.encoder.layer.1.output.dense.bias, for encoder/layers/1/mlp_out/bias",
         "unknown head: extra. Only a single linear layer named classifier is supported.",
         "9 tokens, but"),
        strict=True,
    ):  # fmt: skip
        assert part in error
    assert "Layout: Hugging Face" in capsys.readouterr().out


def test_an_unsupported_model_is_described(tmp_path: Path) -> None:
    names = [f"transformer.layer.{i}.ffn.weight" for i in range(6)]
    path = write_source(tmp_path, dict.fromkeys(names, np.zeros((2, 3), np.float32)))
    text, (error,) = describe(path, "FILE")
    assert "  transformer.layer.{0-5}.ffn.weight  float32 [2, 3]" in text.splitlines()
    assert "DistilBERT" in error


def test_mmocr_files_need_no_config(tmp_path: Path) -> None:
    path = write_source(tmp_path, tiny_state_dict(TRAINED), "f.pth", {"num_attention_heads": 2})
    text, (error,) = describe(path, "FILE")
    assert "Layout: MMOCR trained checkpoint" in text
    assert "the head has 5 outputs, but there are 24 labels" in error


def test_a_model_directory_is_described(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    params = init_params(CONFIG, jax.random.key(0))
    save_model(tmp_path / "model", ModelDir(CONFIG, LABELS, VOCAB, 6, params))
    monkeypatch.chdir(tmp_path)
    main(["inspect", "model"])
    printed = capsys.readouterr().out
    numbers = sum(x.size for x in jax.tree.leaves(params))
    assert f"Parameters: {len(jax.tree.leaves(params))} with {numbers:,} float32" in printed
    assert "Labels: bio tags of 2. Vocabulary: 11 tokens, lower-cased, char. Rows of 6" in printed
    assert re.search(
        r"encoder/layers/\{0,1\}/attention/qkv/kernel +float32 \[8, 3, 2, 4\]", printed
    )


def test_inspecting_a_missing_file_is_one_error(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="flax_ner: FILE: no file or directory"):
        main(["inspect", str(tmp_path / "f.pth")])
    with pytest.raises(SystemExit, match="not a model directory"):
        main(["inspect", str(tmp_path)])
