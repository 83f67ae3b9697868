"""Changing the tokenizer of a model."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from convert.torch_to_flax import main
from flax_ner.errors import UserError
from flax_ner.model.bert import BertConfig
from flax_ner.model.mlm_head import init_masked_lm
from flax_ner.model.tagging_model import apply, init_params
from flax_ner.text.character_rows import find_character_rows
from flax_ner.text.labels import LabelSet
from flax_ner.text.subword import SubwordTokenizer
from flax_ner.weights.char_tokenizer import with_tokenizer
from flax_ner.weights.describe import describe
from flax_ner.weights.export import export
from flax_ner.weights.model_dir import ModelDir, load_model, save_model
from flax_ner.weights.safetensors_files import read_safetensors, write_safetensors
from flax_ner.weights.source import open_source
from tests.conftest import SHARED
from tests.subwords import bpe_tokenizer, unigram_tokenizer
from tests.weights.helpers import LABELS, VOCAB

SHAPE: dict[str, Any] = {
    "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8,
    "max_position_embeddings": 20,
}  # fmt: skip
ROBERTA = {"model_type": "roberta", "position_offset": 2, "type_vocab_size": 1}


def model_over(subword: SubwordTokenizer, **fields: Any) -> ModelDir:
    """Return a random encoder with a masked language modelling head."""
    config = BertConfig(vocab_size=len(subword.tokens), num_labels=1, **SHAPE | fields)
    params = init_params(config, jax.random.key(0))
    head = init_masked_lm(config, jax.random.key(1))["head"]
    head["bias"] = jnp.arange(config.vocab_size, dtype=jnp.float32)
    kept = {"encoder": params["encoder"], "masked_lm": head}
    return ModelDir(config, None, subword.tokens, 20, kept, False, "subword", subword.definition)


def vectors(model: ModelDir, ids: list[int]) -> np.ndarray:
    head = {"classifier": {"kernel": jnp.eye(16)[:, :1], "bias": jnp.zeros(1)}}
    params = {"encoder": jax.tree.map(jnp.asarray, model.params["encoder"]), "head": head}
    row = np.array([ids], np.int32)
    positions = np.arange(len(ids), dtype=np.int32)[None]
    return np.asarray(apply(model.config, params, row, np.ones_like(row), positions))[0, :, 0]


@pytest.mark.parametrize("make", [bpe_tokenizer, unigram_tokenizer], ids=["bpe", "unigram"])
@pytest.mark.parametrize("fields", [{}, ROBERTA], ids=["bert", "roberta"])
def test_character_model_uses_the_embeddings_of_the_subwords(
    tmp_path: Path, make: Any, fields: dict[str, Any]
) -> None:
    subword = make()
    model = model_over(subword, **fields)
    converted, (note,) = with_tokenizer(model, "char", "tokenizer.kind")
    tokenizer = converted.build_tokenizer()
    assert (converted.tokenizer, converted.definition, converted.lower_case) == ("char", "", False)
    assert converted.vocab[:5] == ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    assert len(converted.vocab) == len(set(converted.vocab)) == converted.config.vocab_size
    text = "国，H，Ｈ"
    ids = tokenizer.encode(text).ids
    assert tokenizer.unknown_id not in ids
    rows, _ = find_character_rows(subword.tokens, subword.special.values(), subword.byte_level)
    subword_ids = [subword.cls_id, *(rows[x] for x in text), subword.sep_id]
    np.testing.assert_array_equal(vectors(converted, ids), vectors(model, subword_ids))
    words = np.asarray(model.params["encoder"]["embeddings"]["word"])
    kept = np.asarray(converted.params["encoder"]["embeddings"]["word"])
    np.testing.assert_array_equal(kept[:5], words[[1, 3, 0, 2, 4]])
    assert converted.params["masked_lm"]["bias"][:5].tolist() == [1, 3, 0, 2, 4]
    assert f"Of {len(subword.tokens)} embedding rows, those of 5 special tokens and" in note
    assert len(converted.vocab) == 5 + len(rows)
    # The converted model is a plain BERT, which every reader of BERT can load.
    assert (converted.config.model_type, converted.config.position_offset) == ("bert", 0)
    save_model(tmp_path / "model", converted)
    assert "Hugging Face BertForMaskedLM" in export(converted, tmp_path / "hf", "hf")
    assert load_model(tmp_path / "model").vocab == converted.vocab
    assert (tmp_path / "hf" / "vocab.txt").read_text("utf-8").split("\n")[:-1] == converted.vocab


def test_a_tokenizer_that_does_not_fit_the_vocabulary_is_refused() -> None:
    model = model_over(unigram_tokenizer())
    assert with_tokenizer(model, "", "F") == with_tokenizer(model, "subword", "F") == (model, [])
    with pytest.raises(UserError, match=r"^F: 'wordpiece' needs the vocabulary of a BERT.*subword"):
        with_tokenizer(model, "wordpiece", "F")
    bert = replace(model, vocab=VOCAB, tokenizer="wordpiece", definition="")
    assert with_tokenizer(bert, "char", "F") == (replace(bert, tokenizer="char"), [])
    # A WordPiece tokenizer.json that differs from BERT's, and a Unigram one with BERT's special tokens.
    definitions = (json.dumps({"model": {"type": kind}}) for kind in ("WordPiece", "Unigram"))
    odd, other = (replace(bert, tokenizer="subword", definition=text) for text in definitions)
    converted, notes = with_tokenizer(odd, "wordpiece", "F")
    assert converted == bert and "Some text is tokenized differently than in training." in notes[0]
    with pytest.raises(UserError, match=r"^F: 'wordpiece' needs the vocabulary of a BERT"):
        with_tokenizer(other, "wordpiece", "F")
    with pytest.raises(
        UserError, match=r"^F: 'subword' needs a tokenizer\.json .* Choose wordpiece"
    ):
        with_tokenizer(bert, "subword", "F")


def test_a_missing_special_token_is_reported() -> None:
    row = json.loads(bpe_tokenizer().definition)
    row["added_tokens"] = [t for t in row["added_tokens"] if t["content"] != "<pad>"]
    model = model_over(SubwordTokenizer(json.dumps(row)))
    with pytest.raises(
        UserError,
        match=r"'char' needs \[PAD\], which the tokenizer.json of these weights does not have",
    ):
        with_tokenizer(model, "char", "tokenizer.kind")


def test_torch_to_flax_converts_to_characters_with_tokenizer_char(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    export(model_over(bpe_tokenizer(), **ROBERTA), tmp_path / "hf", "hf")
    main([str(tmp_path / "hf"), str(tmp_path / "own")])
    own = load_model(tmp_path / "own")
    assert (own.tokenizer, own.config.model_type) == ("subword", "roberta")
    assert own.definition == bpe_tokenizer().definition
    assert sorted(path.name for path in (tmp_path / "own").iterdir() if path.is_file()) == [
        "checksums.json", "config.json", "tokenizer.json",
    ]  # fmt: skip
    capsys.readouterr()
    main([str(tmp_path / "hf"), str(tmp_path / "char"), "--tokenizer", "char"])
    printed = capsys.readouterr().out
    assert "Tokenizer: text is read one token per character" in printed
    assert "vocab.txt like BERT's" in printed
    assert load_model(tmp_path / "char").tokenizer == "char"
    with pytest.raises(SystemExit, match="--tokenizer: 'wordpiece' needs the vocabulary of a BERT"):
        main([str(tmp_path / "hf"), str(tmp_path / "other"), "--tokenizer", "wordpiece"])


def test_a_subword_tagger_keeps_its_labels(tmp_path: Path) -> None:
    encoder = model_over(bpe_tokenizer())
    config = replace(encoder.config, num_labels=len(LABELS))
    params = init_params(config, jax.random.key(0))
    tagger = replace(encoder, config=config, labels=LABELS, params=params)
    converted, _ = with_tokenizer(tagger, "char", "tokenizer.kind")
    assert isinstance(converted.labels, LabelSet) and converted.labels.names == LABELS.names
    assert converted.params["head"] is tagger.params["head"]


@pytest.mark.slow
def test_published_vocabulary_with_surplus_rows(tmp_path: Path) -> None:
    """A model like intfloat/multilingual-e5-small: a BertModel with XLM-R's tokenizer.json."""
    path = SHARED / "models/xlmr-tokenizer/tokenizer.json"
    if not path.is_file():
        pytest.skip(f"no {path}; FLAX_NER_SHARED names the folder that holds models")
    subword = SubwordTokenizer(path.read_text("utf-8"))
    model = model_over(subword)
    model.params.pop("masked_lm")
    export(model, tmp_path / "hf", "hf")
    weights = tmp_path / "hf" / "model.safetensors"
    tensors = read_safetensors(weights)
    name = "embeddings.word_embeddings.weight"
    padded = tensors | {name: np.pad(tensors[name], ((0, 35), (0, 0)))}
    write_safetensors(tmp_path / "new", padded)
    (tmp_path / "new").replace(weights)
    stated = json.loads((tmp_path / "hf" / "config.json").read_text())
    (tmp_path / "hf" / "config.json").write_text(json.dumps(stated | {"vocab_size": 250_037}))
    assert (
        open_source(tmp_path / "hf").tensors["embeddings.word_embeddings.weight"].shape[0]
        == 250_037
    )
    main([str(tmp_path / "hf"), str(tmp_path / "char"), "--tokenizer", "char"])
    converted = load_model(tmp_path / "char")
    words = np.asarray(model.params["encoder"]["embeddings"]["word"])
    kept = np.asarray(converted.params["encoder"]["embeddings"]["word"])
    for x, piece in {"中": "中", "王": "王", "，": ",", "Ⅶ": "V", "℃": "°"}.items():
        row = subword.tokens.index(piece)
        np.testing.assert_array_equal(kept[converted.vocab.index(x)], words[row])


def test_an_unusable_tokenizer_json_is_an_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    export(model_over(bpe_tokenizer()), tmp_path / "hf", "hf")
    path = tmp_path / "hf" / "tokenizer.json"
    row = json.loads(path.read_text("utf-8")) | {"post_processor": None}
    path.write_text(json.dumps(row), "utf-8")
    with pytest.raises(SystemExit, match=r"tokenizer\.json: adds 0 special tokens to a text"):
        main([str(tmp_path / "hf"), str(tmp_path / "own")])
    assert not (tmp_path / "own").exists()
    text, errors = describe(tmp_path / "hf", "FILE")
    assert "split by its tokenizer.json" in text and "Model: bert, 1 layers" in text
    assert errors[0].startswith(f"{path}: adds 0 special tokens to a text")
