"""Runs that start from other encoders and tokenizers than BERT's."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from configs import demo
from flax_ner import load
from flax_ner.data.synthetic import synthetic
from flax_ner.errors import UserError
from flax_ner.finetuning.task_data import read_task_data
from flax_ner.fit import fit
from flax_ner.model.bert import BertConfig
from flax_ner.model.tagging_model import init_params
from flax_ner.pretraining.masked_lm import MaskedLM
from flax_ner.text.subword import SubwordTokenizer
from flax_ner.text.tokenizer import Tokenizer, WordPieceTokenizer
from flax_ner.text.vocab import build_vocab
from flax_ner.weights.export import export
from flax_ner.weights.model_dir import ModelDir, load_model, save_model
from flax_ner.weights.open_model import open_model
from tests.subwords import bpe_tokenizer, unigram_tokenizer
from tests.weights.helpers import assert_same

SHAPE: dict[str, Any] = {
    "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16,
    "max_position_embeddings": 128,
}  # fmt: skip
ROBERTA = {"model_type": "roberta", "position_offset": 2, "type_vocab_size": 1}


def wordpiece_tokenizer() -> Tokenizer:
    return WordPieceTokenizer(build_vocab(text.text for text in synthetic("train", 60)))


FAMILIES: dict[str, tuple[Any, dict[str, Any]]] = {
    "roberta": (bpe_tokenizer, ROBERTA),
    "xlm-roberta": (unigram_tokenizer, ROBERTA | {"model_type": "xlm-roberta"}),
    "electra": (wordpiece_tokenizer, {"model_type": "electra", "embedding_size": 8}),
    "ernie": (
        wordpiece_tokenizer,
        {"model_type": "ernie", "task_type_vocab_size": 3, "hidden_act": "relu"},
    ),
}


def encoder(name: str) -> ModelDir:
    make, fields = FAMILIES[name]
    made = make()
    config = BertConfig(vocab_size=len(made.tokens), num_labels=1, **SHAPE | fields)
    params = init_params(config, jax.random.key(0))
    del params["head"]
    case = made.lower_case
    return ModelDir(config, None, made.tokens, 128, params, case, made.kind, made.definition)


def tokenizer_with_all_characters() -> SubwordTokenizer:
    """Return a subword tokenizer whose vocabulary has all characters of the data."""
    row = json.loads(unigram_tokenizer().definition)
    known = {piece for piece, _ in row["model"]["vocab"]}
    characters = {c for text in synthetic("train", 60) for c in text.text}
    row["model"]["vocab"] += [[c, -9.0] for c in sorted(characters - known)]
    return SubwordTokenizer(json.dumps(row))


def config(init_from: Path | str, **changes: Any) -> ConfigDict:
    made = demo.get_config()
    made.update_from_flattened_dict(
        {f"model.{name}": value for name, value in SHAPE.items()}
        | {"data.train": "train 60", "data.dev": "dev 5", "data.max_length": 64,
           "init_from": str(init_from), "train.steps": 2}
        | {name.replace("__", "."): value for name, value in changes.items()}
    )  # fmt: skip
    return made


@pytest.mark.parametrize(
    "name",
    ["roberta", *(pytest.param(x, marks=pytest.mark.slow) for x in list(FAMILIES)[1:])],
)
def test_a_tagger_survives_training_and_export(tmp_path: Path, name: str) -> None:
    source = encoder(name)
    export(source, tmp_path / "hf", "hf")
    kind = {"tokenizer__kind": source.tokenizer}
    fit(config(tmp_path / "hf", **kind, model__head="softmax"), tmp_path / "run")
    best = load_model(tmp_path / "run" / "best")
    family = ("model_type", "position_offset", "embedding_size", "task_type_vocab_size")
    for field in family:
        assert getattr(best.config, field) == getattr(source.config, field)
    assert (best.tokenizer, best.definition) == (source.tokenizer, source.definition)
    export(best, tmp_path / "back", "hf")
    back, report = open_model(tmp_path / "back", "MODEL")
    assert report is not None and not report.notes
    assert_same(back.params, best.params)
    assert back.config == replace(best.config, word_dropout_prob=0.0)
    texts = [example.text for example in synthetic("dev", 5)]
    assert load(tmp_path / "back")(texts) == load(tmp_path / "run" / "best")(texts)
    # The same command finds the run complete.
    before = (tmp_path / "run" / "metrics.jsonl").read_text()
    fit(config(tmp_path / "hf", **kind, model__head="softmax"), tmp_path / "run")
    assert (tmp_path / "run" / "metrics.jsonl").read_text() == before


def test_a_subword_encoder_gets_characters_if_they_suit_the_data(tmp_path: Path) -> None:
    for make, kind, why in (
        (bpe_tokenizer, "subword", "because the vocabulary lacks most characters of data.train"),
        (tokenizer_with_all_characters, "char", "of the words of data.train are CJK characters"),
    ):
        made = make()
        size = len(made.tokens)
        config_of = BertConfig(vocab_size=size, num_labels=1, **SHAPE | ROBERTA)
        params = {"encoder": init_params(config_of, jax.random.key(0))["encoder"]}
        source = ModelDir(
            config_of, None, made.tokens, 128, params, False, "subword", made.definition
        )
        save_model(tmp_path / kind, source)
        task = read_task_data(config(tmp_path / kind))
        assert task.tokenizer.kind == task.config.tokenizer.kind == kind
        assert task.model.model_type == ("roberta" if kind == "subword" else "bert")
        (chosen,) = [note for note in task.notes if note.startswith("tokenizer.kind: ")]
        assert chosen.startswith(f"tokenizer.kind: {kind}, ") and why in chosen
        coverage = [note for note in task.notes if note.startswith("The vocabulary has")]
        assert len(coverage) == (kind == "char")
    assert coverage[0].startswith("The vocabulary has 100.00% of the")
    assert any(
        note.startswith("Tokenizer: text is read one token per character") for note in task.notes
    )
    assert task.source is not None and task.model.vocab_size == task.source.config.vocab_size

    task = read_task_data(config(tmp_path / "subword", tokenizer__kind="char"))
    assert (task.tokenizer.kind, task.model.position_offset) == ("char", 0)
    (coverage,) = [note for note in task.notes if note.startswith("The vocabulary has")]
    unknown = task.batcher.tokens.ids == task.tokenizer.unknown_id
    share = 1 - unknown.sum() / (len(unknown) - 2 * len(task.batcher.tokens.lengths))
    assert f"has {share:.2%} of the" in coverage
    assert any("was trained with tokenizer.kind=subword" in note for note in task.notes)


def test_settings_that_contradict_a_tokenizer_json_are_rejected(tmp_path: Path) -> None:
    source = encoder("roberta")
    save_model(tmp_path / "own", source)
    with pytest.raises(UserError, match=r"lower_case: True, but the tokenizer\.json .* determines"):
        read_task_data(config(tmp_path / "own", tokenizer__lower_case=True))
    with pytest.raises(UserError, match=r"tokenizer\.kind: 'wordpiece' needs the vocabulary of"):
        read_task_data(config(tmp_path / "own", tokenizer__kind="wordpiece"))
    save_model(tmp_path / "electra", encoder("electra"))
    with pytest.raises(UserError, match=r"tokenizer\.kind: 'subword' needs a tokenizer\.json"):
        read_task_data(config(tmp_path / "electra", tokenizer__kind="subword"))


def test_subwords_from_scratch_need_a_tokenizer_json(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"subword needs a vocabulary\. Name its tokenizer\.json in"
    ):
        read_task_data(config("", tokenizer__kind="subword"))
    path = tmp_path / "tokenizer.json"
    path.write_text(unigram_tokenizer().definition, "utf-8")
    task = read_task_data(config("", tokenizer__kind="subword", tokenizer__vocab=str(path)))
    assert task.tokenizer.definition == unigram_tokenizer().definition
    wordpiece_tokenizer().save(path)
    with pytest.raises(UserError, match=r"'subword', but .*tokenizer\.json has BERT's WordPieces"):
        read_task_data(config("", tokenizer__kind="subword", tokenizer__vocab=str(path)))


@pytest.mark.slow
@pytest.mark.every_python
def test_masked_language_modelling_continues_with_subwords(tmp_path: Path) -> None:
    source = encoder("xlm-roberta")
    save_model(tmp_path / "own", source)
    text = tmp_path / "text.txt"
    text.write_text("\n".join(x.text for x in synthetic("train", 60)) + "\n", "utf-8")
    made = config(
        tmp_path / "own", task="masked_lm", data__train=str(text), data__dev=str(text),
        pretrain__steps_per_chunk=2, data__format="auto",
    )  # fmt: skip
    task = MaskedLM(made)
    assert task.tokenizer.definition == source.definition
    fit(made, tmp_path / "run")
    best = load_model(tmp_path / "run" / "best")
    assert (best.tokenizer, best.config.model_type) == ("subword", "xlm-roberta")
    export(best, tmp_path / "hf", "hf")
    back, report = open_model(tmp_path / "hf", "MODEL")
    assert report is not None and report.layout == "Hugging Face XLMRobertaForMaskedLM"
    assert_same(back.params, best.params)
    moved = np.asarray(best.params["encoder"]["embeddings"]["word"]) != np.asarray(
        source.params["encoder"]["embeddings"]["word"]
    )
    assert moved.any()
