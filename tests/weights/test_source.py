"""All forms of weights, and the files beside them."""

import json
import re
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from flax_ner.errors import UserError
from flax_ner.model.tagging_model import Params
from flax_ner.text.tokenizer import CharTokenizer
from flax_ner.weights.convert import convert
from flax_ner.weights.open_model import open_model
from flax_ner.weights.safetensors_files import write_safetensors
from flax_ner.weights.source import open_source
from flax_ner.weights.torch_writer import write_torch_file
from tests.weights.helpers import (
    LABELS,
    PRETRAINED,
    TRAINED,
    VOCAB,
    assert_same,
    old_name,
    tagger_state_dict,
    tiny_config,
    tiny_state_dict,
    write_source,
)
from tests.weights.hub_server import HubServer

HEADS = {"num_attention_heads": 2}


@pytest.fixture(scope="module")
def params(tmp_path_factory: pytest.TempPathFactory) -> Params:
    """Parameters of the tiny model, which every form must give."""
    path = write_source(tmp_path_factory.mktemp("source"), tiny_state_dict(TRAINED), "f.pth")
    return convert(open_source(path), LABELS, HEADS)[0].params


def write_shards(folder: Path, suffix: str, state: dict[str, np.ndarray]) -> Path:
    """Write three shards and their index like Hugging Face; return the path of the index."""
    stem = "model" if suffix == "safetensors" else "pytorch_model"
    weight_map = {
        name: f"{stem}-{1 + i % 3:05d}-of-00003.{suffix}" for i, name in enumerate(sorted(state))
    }
    write = write_safetensors if suffix == "safetensors" else write_torch_file
    for file in set(weight_map.values()):
        write(folder / file, {n: tensor for n, tensor in state.items() if weight_map[n] == file})
    index = folder / f"{stem}.{suffix}.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 0}, "weight_map": weight_map}))
    return index


# --- All forms give the same bits ----------------------------------------------------------------

NAMES = {
    "MMOCR trained": lambda name: name,
    "Hugging Face": lambda name: name.replace("encoder.bert.", "bert.").replace("decoder.", ""),
    "no prefix": lambda name: name.replace("encoder.bert.", "").replace("decoder.", ""),
    "old names": lambda name: old_name(
        name.replace("encoder.bert.", "bert.").replace("decoder.", "")
    ),
    "data parallel": lambda name: "module." + name,
}


@pytest.mark.parametrize("file", ["f.pth", "pytorch_model.bin", "model.safetensors", "odd.bin"])
@pytest.mark.parametrize("names", NAMES)
def test_all_forms_of_a_tagger_give_the_same_bits(
    tmp_path: Path, params: Params, names: str, file: str
) -> None:
    state = {NAMES[names](name): tensor for name, tensor in tiny_state_dict(TRAINED).items()}
    path = write_source(tmp_path, state, file)
    if file == "odd.bin":  # safetensors under another name
        write_safetensors(path, state)
    model, _ = convert(open_source(path), LABELS, HEADS)
    assert_same(model.params, params)


@pytest.mark.parametrize("file", ["f.pth", "model.safetensors"])
@pytest.mark.parametrize("prefix", ["bert.", ""])
@pytest.mark.parametrize("heads", [[], ["cls.predictions.bias"], ["cls.seq_relationship.weight"]])
def test_all_forms_of_an_encoder_give_the_same_bits(
    tmp_path: Path, params: Params, prefix: str, file: str, heads: list[str]
) -> None:
    state = {
        prefix + name.removeprefix("bert."): tensor
        for name, tensor in tiny_state_dict(PRETRAINED).items()
    }
    extra = dict.fromkeys([*heads, prefix + "pooler.dense.bias"], np.zeros(8, np.float32))
    model, report = convert(open_source(write_source(tmp_path, state | extra, file)), None, HEADS)
    assert_same(model.params, {"encoder": params["encoder"]})
    assert {name for name, _ in report.ignored} == extra.keys()


@pytest.mark.parametrize("suffix", ["safetensors", "bin"])
@pytest.mark.parametrize("whole", [True, False], ids=["folder", "index"])
def test_a_sharded_model_gives_the_same_bits(
    tmp_path: Path, params: Params, suffix: str, whole: bool
) -> None:
    write_source(tmp_path, {}, "unused.safetensors", tiny_config())
    index = write_shards(tmp_path, suffix, tagger_state_dict())
    model, _ = convert(open_source(tmp_path if whole else index))
    assert_same(model.params, params)


@pytest.mark.parametrize("old", [True, False], ids=["stream", "zip"])
def test_files_of_pytorch_give_the_same_bits(tmp_path: Path, params: Params, old: bool) -> None:
    torch = pytest.importorskip("torch")
    state = {name: torch.from_numpy(tensor) for name, tensor in tiny_state_dict(TRAINED).items()}
    path = write_source(tmp_path, {}, "f.pth")
    checkpoint = {"meta": {"epoch": 18, "CLASSES": ("a", "b")}, "state_dict": state}
    torch.save(checkpoint, path, _use_new_zipfile_serialization=not old)
    model, _ = convert(open_source(path), LABELS, HEADS)
    assert_same(model.params, params)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float64])
@pytest.mark.parametrize("file", ["model.safetensors", "pytorch_model.bin"])
def test_other_float_dtypes_become_float32(
    tmp_path: Path, params: Params, dtype: Any, file: str
) -> None:
    state = {name: tensor.astype(dtype) for name, tensor in tagger_state_dict().items()}
    path = write_source(tmp_path, {}, file, tiny_config())
    if file.endswith(".safetensors"):
        write_safetensors(path, state)
    else:
        torch = pytest.importorskip("torch")
        kind = getattr(torch, np.dtype(dtype).name)
        tensors = {n: torch.from_numpy(t.astype(np.float32)).to(kind) for n, t in state.items()}
        torch.save(tensors, path)
    model, report = convert(open_source(path))
    assert_same(model.params, params)  # small integers, exact in every dtype
    assert {used.dtype for used in report.used} == {np.dtype(dtype)}


def test_safetensors_take_precedence_over_a_pickle(tmp_path: Path) -> None:
    path = write_source(tmp_path, tagger_state_dict(), config=tiny_config())
    (tmp_path / "pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    assert open_source(tmp_path).path == str(path)


def test_tensors_are_read_lazily(tmp_path: Path) -> None:
    for file in ("model.safetensors", "f.pth"):
        source = open_source(write_source(tmp_path, tagger_state_dict(), file))
        for tensor in source.tensors.values():
            assert not tensor.flags.owndata and not tensor.flags.writeable


# --- Files beside the weights --------------------------------------------------------------------


def word_piece(vocab: dict[str, int], **more: Any) -> str:
    return json.dumps({"model": {"type": "WordPiece", "vocab": vocab}, **more})


def test_the_vocabulary_is_read_from_tokenizer_json(tmp_path: Path) -> None:
    path = write_source(tmp_path, tagger_state_dict(), config=tiny_config())
    path.with_name("vocab.txt").unlink()
    ids = {token: i for i, token in enumerate(VOCAB)}
    special = [{"id": 10, "content": VOCAB[10], "special": True}]
    nfc = {"type": "Sequence", "normalizers": [{"type": "NFC"}, {"type": "Lowercase"}]}
    for normalizer, lower, kind in (
        ({"type": "BertNormalizer", "lowercase": True}, True, "wordpiece"),
        ({"type": "BertNormalizer", "lowercase": False}, False, "wordpiece"),
        (nfc, True, "subword"),
        (None, False, "subword"),
    ):
        text = word_piece(
            {token: i for token, i in ids.items() if i < 10},
            added_tokens=special,
            normalizer=normalizer,
            pre_tokenizer={"type": "BertPreTokenizer"},
        )
        path.with_name("tokenizer.json").write_text(text)
        source = open_source(path)
        assert (source.vocab, source.lower_case, source.kind) == (VOCAB, lower, kind)


def test_added_tokens_are_appended_to_the_vocabulary(tmp_path: Path) -> None:
    path = write_source(tmp_path, tagger_state_dict(), config=tiny_config())
    path.with_name("vocab.txt").write_text("\n".join(VOCAB[:8]) + "\n")
    added = {VOCAB[10]: 10, VOCAB[8]: 8, VOCAB[9]: 9}
    path.with_name("added_tokens.json").write_text(json.dumps(added))
    assert open_source(path).vocab == VOCAB
    for wrong in ({"x": 9}, {"x": "8"}, {"x": None}, {"x": 8, "y": 8}):
        path.with_name("added_tokens.json").write_text(json.dumps(wrong))
        with pytest.raises(UserError, match=r"added_tokens\.json: ids do not continue at 8"):
            open_source(path)


def test_lower_casing_comes_from_the_tokenizer_with_a_given_vocabulary(tmp_path: Path) -> None:
    path = write_source(tmp_path / "hf", tagger_state_dict(), config=tiny_config())
    CharTokenizer(VOCAB, False).save(path.with_name("tokenizer.json"))
    other = path.with_name("vocab.txt").rename(tmp_path / "other.txt")
    source = open_source(path, other)
    assert (source.vocab, source.vocab_path, source.lower_case) == (VOCAB, other, False)


def test_a_hugging_face_folder_uses_wordpiece(tmp_path: Path) -> None:
    path = write_source(tmp_path, tagger_state_dict(), config=tiny_config())
    assert open_source(path).kind == "char"  # no sign of Hugging Face
    path.with_name("config.json").write_text(json.dumps(tiny_config() | {"model_type": "bert"}))
    assert open_source(path).kind == "wordpiece"


def test_our_tokenizer_json_round_trip(tmp_path: Path) -> None:
    path = write_source(tmp_path, tagger_state_dict(), config=tiny_config())
    for lower in (True, False):
        CharTokenizer(VOCAB, lower).save(path.with_name("tokenizer.json"))
        source = open_source(path)
        assert (source.vocab, source.lower_case, source.kind) == (VOCAB, lower, "char")


@pytest.mark.parametrize(
    ("row", "lower", "longest"),
    [
        ({}, True, 6),
        ({"do_lower_case": False, "model_max_length": 4}, False, 4),
        ({"do_lower_case": True, "model_max_length": 1e30}, True, 6),
        ({"model_max_length": 10**30}, True, 6),
    ],
)
def test_tokenizer_config_is_applied(
    tmp_path: Path, row: dict[str, Any], lower: bool, longest: int
) -> None:
    path = write_source(tmp_path, tagger_state_dict(), config=tiny_config())
    path.with_name("tokenizer_config.json").write_text(json.dumps(row))
    model, _ = convert(open_source(path))
    assert (model.lower_case, model.max_length) == (lower, longest)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("tokenizer.json", "{", "not a tokenizer.json"),
        ("tokenizer.json", "[" * 10**5, "not a tokenizer.json"),
        (
            "tokenizer.json",
            '{"model": {"type": "CharLevel", "vocab": {}}}',
            "the model CharLevel is not supported",
        ),
        (
            "tokenizer.json",
            '{"model": {"type": "Unigram", "vocab": ["a"]}}',
            "not a tokenizer.json",
        ),
        (
            "tokenizer.json",
            '{"model": {"type": "WordPiece", "vocab": []}}',
            "does not map tokens to ids",
        ),
        ("tokenizer.json", word_piece({"a": 0, "b": 2}), "its ids are not 0, 1, 2"),
        ("tokenizer.json", word_piece({"a": 0, "b": 10**15}), "its ids are not 0, 1, 2"),
        ("tokenizer.json", '{"model": {"type": "WordPiece", "vocab": {"a": "0"}}}', "its ids"),
        ("tokenizer_config.json", "[]", "not a JSON object"),
        ("tokenizer_config.json", '{"do_lower_case": "no"}', "expected bool"),
        ("tokenizer_config.json", '{"model_max_length": "long"}', "expected int"),
        (
            "tokenizer_config.json",
            '{"model_max_length": 0}',
            "model_max_length is 0. It must be at least 3",
        ),
        ("config.json", "{", "not JSON"),
        ("config.json", "[]", "not a JSON object"),
        ("config.json", '{"a":' * 10**5, "not JSON"),
    ],
)
def test_a_damaged_file_beside_the_weights_is_reported(
    tmp_path: Path, name: str, text: str, message: str
) -> None:
    path = write_source(tmp_path, tagger_state_dict(), config=tiny_config())
    path.with_name(name).write_text(text)
    with pytest.raises(UserError, match=f"{re.escape(str(tmp_path / name))}: .*{message}"):
        open_source(path)


# --- Missing or inconsistent files ---------------------------------------------------------------


def test_a_folder_without_weights_is_explained(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"has none of model\.safetensors, .*Give the path of the file itself\."
    ):
        open_source(tmp_path)
    (tmp_path / "tf_model.h5").touch()
    with pytest.raises(UserError, match=r"has only tf_model\.h5\. Save the model with PyTorch"):
        open_source(tmp_path)
    (tmp_path / "tf_model.h5").unlink()
    (tmp_path / "best.pth").touch()
    with pytest.raises(UserError, match=rf"Give the path of the file itself: {tmp_path}/best\.pth"):
        open_source(tmp_path)


def test_an_index_that_does_not_match_its_files_is_refused(tmp_path: Path) -> None:
    index = write_shards(tmp_path, "safetensors", tagger_state_dict())
    row = json.loads(index.read_text())
    name, file = next(iter(row["weight_map"].items()))
    for weight_map, message in (
        (
            {n: f for n, f in row["weight_map"].items() if n != name},
            f"does not match {file}, which has an unlisted tensor {name}",
        ),
        (row["weight_map"] | {"more": file}, f"does not match {file}, which has no tensor more"),
        (row["weight_map"] | {name: "../secret.bin"}, "'../secret.bin' is not a file in the same"),
        (row["weight_map"] | {name: "/etc/passwd"}, "'/etc/passwd' is not a file in the same"),
        (row["weight_map"] | {name: "..\\secret.bin"}, "is not a file in the same folder"),
        (row["weight_map"] | {name: "0.bin"}, "0.bin: cannot be read"),
        (
            row["weight_map"] | {name: 7},
            "weight_map is not an object from tensor names to file names",
        ),
        ([], "weight_map is not an object from tensor names to file names"),
    ):
        index.write_text(json.dumps({"weight_map": weight_map}))
        with pytest.raises(UserError, match=re.escape(message)):
            open_source(tmp_path)


# --- From the hub --------------------------------------------------------------------------------


def test_a_hub_repository_gives_the_same_model(
    tmp_path: Path, params: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_source(tmp_path / "repo", tagger_state_dict(), config=tiny_config())
    (tmp_path / "repo" / "pytorch_model.bin").write_bytes(b"never fetched")
    from huggingface_hub import constants

    with HubServer({"owner/tiny": tmp_path / "repo"}) as server:
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        monkeypatch.setattr(
            constants,
            "HUGGINGFACE_CO_URL_TEMPLATE",
            server.url + "/{repo_id}/resolve/{revision}/{filename}",
        )
        model, _ = open_model("owner/tiny", "path")
        assert_same(model.params, params)
        assert "pytorch_model.bin" not in server.files()
        with pytest.raises(UserError, match="init_from: no file or directory 'owner/none'"):
            open_model("owner/none", "init_from")
