"""Resolution of unset settings from weights and data."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from flax_ner.config import ENCODER_FIELDS, default_config
from flax_ner.data.formats import read_examples
from flax_ner.data.synthetic import synthetic
from flax_ner.errors import UserError
from flax_ner.finetuning.task_data import read_task_data
from flax_ner.model.bert import BertConfig
from flax_ner.model.tagging_model import abstract_params, init_params
from flax_ner.text.examples import Entity, Example
from flax_ner.text.labels import LabelSet, SpanLabels
from flax_ner.text.vocab import SPECIAL_TOKENS, build_vocab, read_vocab, write_vocab
from flax_ner.training.decisions import (
    choose_lower_case,
    choose_tokenizer_kind,
    default_scheme,
    resolve_settings,
)
from flax_ner.training.workdir import CONFIG_FORMAT, fill_from_saved_config, lock_workdir
from flax_ner.weights.export import export
from flax_ner.weights.model_dir import ModelDir, save_model
from flax_ner.weights.source import open_source

TEXTS = synthetic("train", 60)
CATEGORIES = sorted({entity.type for text in TEXTS for entity in text.entities or ()})
VOCAB = build_vocab(text.text for text in TEXTS)
SHAPE = BertConfig(
    vocab_size=len(VOCAB), num_labels=1, hidden_size=64, num_hidden_layers=1, num_attention_heads=1,
    intermediate_size=24, max_position_embeddings=100, type_vocab_size=3,
)  # fmt: skip


def weights(labels: LabelSet | None = None, **fields: Any) -> ModelDir:
    """Return a character encoder without parameters."""
    config = replace(SHAPE, num_labels=len(labels) if labels else 1, **fields)
    return ModelDir(config, labels, VOCAB, 64, {})


def configuration(**settings: Any) -> ConfigDict:
    """Return a configuration that starts from weights and uses synthetic data."""
    config = default_config()
    data = {"data.format": "synthetic", "data.train": "train 60", "data.dev": "dev 5"}
    named = {name.replace("__", "."): value for name, value in settings.items()}
    config.update_from_flattened_dict({"init_from": "x", **data, **named})
    return config


def resolved(source: ModelDir | None, **settings: Any) -> ConfigDict:
    return resolve_settings(configuration(**settings), source, CATEGORIES)[0]


@pytest.mark.parametrize("form", ["directory", "hf", "mmocr"])
def test_the_weights_determine_shape_and_activation(tmp_path: Path, form: str) -> None:
    act, path = ("gelu_new" if form == "mmocr" else "gelu"), tmp_path / "source"
    # MMOCR's files have no config.json: heads are 64 wide, and eps is 1e-12.
    source = weights(hidden_act=act, **({} if form == "mmocr" else {"layer_norm_eps": 1e-6}))
    source.params = {"encoder": init_params(source.config, jax.random.key(0))["encoder"]}
    save_model(path, source) if form == "directory" else export(source, path, form)
    if form == "mmocr":
        write_vocab(tmp_path / "vocab.txt", VOCAB)
    task = read_task_data(configuration(init_from=str(path)))
    assert task.model == replace(source.config, num_labels=len(task.labels))
    assert task.tokenizer.lower_case and task.tokenizer.kind == "char"
    for name in ENCODER_FIELDS:
        assert task.config.model[name] == getattr(source.config, name)
    assert (task.config.data.max_length, task.config.data.scheme) == (100, "bioes")
    assert any(
        note.startswith("data.max_length: 100, the number of positions") for note in task.notes
    )


def test_without_weights_the_defaults_are_used() -> None:
    model = resolved(None, init_from="").model
    expected = BertConfig(vocab_size=1, num_labels=1).to_json()
    assert model.to_dict() == {name: expected[name] for name in model}


def test_a_field_that_contradicts_the_weights_is_reported_with_both_values() -> None:
    with pytest.raises(
        UserError,
        match=r"model\.hidden_act is gelu_new, but the weights have gelu\. Remove the setting",
    ):
        resolved(weights(), model__hidden_act="gelu_new")
    assert resolved(weights(), model__hidden_act="gelu", model__hidden_size=64)


def test_fields_that_no_file_has_come_from_the_configuration(tmp_path: Path) -> None:
    source = weights(num_attention_heads=4)
    source.params = {
        "encoder": jax.tree.map(
            lambda x: np.zeros(x.shape, x.dtype), abstract_params(source.config)["encoder"]
        )
    }
    export(source, tmp_path / "hf", "hf")
    (tmp_path / "hf" / "config.json").unlink()
    settings = {"model__num_attention_heads": 4, "model__hidden_act": "gelu_new"}
    config = configuration(init_from=str(tmp_path / "hf"), **settings)
    model = read_task_data(config).model
    assert (model.num_attention_heads, model.hidden_act) == (4, "gelu_new")


def test_dropout_is_the_set_value_or_that_of_the_weights() -> None:
    source = weights(hidden_dropout_prob=0.3, classifier_dropout=0.4)
    model = resolved(source, model__classifier_dropout=0.2).model
    assert (model.hidden_dropout_prob, model.classifier_dropout) == (0.3, 0.2)
    assert model.attention_probs_dropout_prob == 0.1


def test_a_set_max_length_above_the_number_of_positions_is_rejected() -> None:
    assert resolved(weights(), data__max_length=64).data.max_length == 64
    with pytest.raises(
        UserError, match=r"max_length: 128, but .*embeddings is 100\. Lower data\.max_length\."
    ):
        resolved(weights(), data__max_length=128)
    long = weights(max_position_embeddings=512)
    assert resolved(long).data.max_length == 128


BIO = LabelSet(CATEGORIES, "bio")


@pytest.mark.parametrize(
    ("source", "settings", "expected"),
    [
        (weights(BIO, head="crf"), {}, ("crf", "bio")),
        (weights(BIO, head="crf"), {"model__head": "softmax"}, ("softmax", "bio")),
        (weights(BIO, head="crf"), {"data__scheme": "bioes"}, ("softmax", "bioes")),
        (weights(BIO, head="crf"), {"data__categories": ("other",)}, ("softmax", None)),
        (weights(LabelSet(["other"], "bio"), head="crf"), {}, ("softmax", None)),
        (weights(SpanLabels(CATEGORIES), head="global_pointer"), {}, ("global_pointer", None)),
        (weights(SpanLabels(CATEGORIES), head="global_pointer"), {"model__head": "crf"}, ("crf", None)),
        (weights(LabelSet(CATEGORIES, "io")), {}, ("softmax", "io")),
        (weights(), {}, ("softmax", None)),
    ],
)  # fmt: skip
def test_a_tagger_with_matching_labels_determines_head_and_scheme(
    source: ModelDir, settings: dict[str, Any], expected: tuple[str, str | None]
) -> None:
    config = resolved(source, **settings)
    assert (config.model.head, config.data.scheme) == expected


def test_resolved_settings_are_checked_against_set_ones() -> None:
    with pytest.raises(UserError, match=r"loss\.name: 'focal', but model\.head 'crf'"):
        resolved(weights(BIO, head="crf"), loss__name="focal")


# --- Tokens ------------------------------------------------------------------------------------------------


def encoder(vocab: list[str], lower_case: bool = True, kind: str = "wordpiece") -> ModelDir:
    return ModelDir(SHAPE, None, vocab, 64, {}, lower_case, kind)


WORDS = [*SPECIAL_TOKENS, "ann", "met", "bob", ".", "##a", "a"]
ENGLISH = [Example("ann met bob.", (Entity("name", 0, 3), Entity("name", 8, 11)))]
CHINESE = [Example("王建国2018年在ABC公司", (Entity("name", 0, 3), Entity("company", 9, 14)))]
# A single word for a tokenizer that splits at spaces.
WITHOUT_SPACES = [Example("แอนพบบ็อบ", (Entity("name", 0, 3), Entity("name", 5, 9)))]


@pytest.mark.parametrize(
    ("vocab", "train", "kind", "reason"),
    [
        (WORDS, ENGLISH, "wordpiece", "own tokenizer"),
        (WORDS, CHINESE, "char", "of the words of data.train are CJK characters"),
        (WORDS, WITHOUT_SPACES, "char", "100% of the entities of data.train start or end inside"),
        (WORDS[:-2], ENGLISH, "char", "no word pieces"),
        (WORDS, [], "wordpiece", "own tokenizer"),
        (WORDS[:-2], [], "char", "no word pieces"),
    ],
)  # fmt: skip
def test_the_tokenizer_of_an_encoder_depends_on_vocabulary_and_data(
    vocab: list[str], train: list[Example], kind: str, reason: str
) -> None:
    chosen, chosen_reason = choose_tokenizer_kind(encoder(vocab), train)
    assert chosen == kind and reason in chosen_reason


@pytest.mark.parametrize("kind", ["char", "wordpiece"])
def test_a_tagger_and_a_character_encoder_keep_their_tokenizer(kind: str) -> None:
    for train in (ENGLISH, CHINESE):
        tagger = replace(encoder(WORDS, kind=kind), labels=LabelSet(["name"]))
        assert choose_tokenizer_kind(tagger, train) == (kind, "")
        assert choose_tokenizer_kind(encoder(WORDS, kind="char"), train) == ("char", "")


@pytest.mark.parametrize(
    ("data", "zh_characters", "en_words", "zh_words"),
    [
        ("cluener/train.json", "char", "char", "char"),
        ("resume/train.char.bmes", "char", "char", "char"),
        ("wnut17/train.conll", "char", "wordpiece", "wordpiece"),
    ],
)
def test_the_tokenizer_kinds_for_real_encoders_and_data(
    shared: Path, tmp_path: Path, data: str, zh_characters: str, en_words: str, zh_words: str
) -> None:
    train = read_examples(str(shared / "data" / data), "auto", "data.train", [], [])[:500]
    chinese = read_vocab(shared / "data/cluener/vocab.txt")
    kinds = []
    for name in ("e5-small-zh", "minilm-l6-en"):
        source = open_source(shared / "models" / name)
        assert source.vocab is not None and source.kind == "wordpiece"
        kinds.append(choose_tokenizer_kind(encoder(source.vocab, source.lower_case), train)[0])
    kinds.append(choose_tokenizer_kind(encoder(chinese, False), train)[0])
    assert kinds == [zh_characters, en_words, zh_words]


def test_text_is_lower_cased_for_an_encoder_without_capital_letters() -> None:
    lower_only, both = [*SPECIAL_TOKENS, "a", "中"], [*SPECIAL_TOKENS, "a", "B"]
    assert choose_lower_case(encoder(lower_only, False)) == (
        True, "because the vocabulary has no capital letters",
    )  # fmt: skip
    assert choose_lower_case(encoder(both, False)) == (False, "")
    assert choose_lower_case(encoder(both, True)) == (True, "")
    tagger = replace(encoder(lower_only, False), labels=LabelSet(["name"]))
    assert choose_lower_case(tagger) == (False, "")  # as it was trained


def test_choices_are_noted_with_their_reasons(tmp_path: Path) -> None:
    source = encoder([*VOCAB, "##x", "x"] if "x" not in VOCAB else [*VOCAB, "##x"], False)
    source.config = replace(SHAPE, vocab_size=len(source.vocab))
    source.params = {"encoder": init_params(source.config, jax.random.key(0))["encoder"]}
    save_model(tmp_path / "source", source)
    task = read_task_data(configuration(init_from=str(tmp_path / "source")))
    (kind,) = (note for note in task.notes if note.startswith("tokenizer.kind"))
    assert re.fullmatch(r"tokenizer\.kind: char, because \d+% of the words of data.train .*", kind)
    assert (
        "tokenizer.lower_case: True, because the vocabulary has no capital letters." in task.notes
    )
    assert (task.config.tokenizer.kind, task.config.tokenizer.lower_case) == ("char", True)


# --- Runs of earlier versions ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "head"),
    [
        (weights(), "softmax"),
        (weights(LabelSet(["other"], "bio"), head="crf"), "softmax"),  # its labels do not match
        (weights(SpanLabels(CATEGORIES), head="global_pointer"), "global_pointer"),
    ],
)
def test_a_run_of_an_earlier_version_keeps_its_bio_tags(
    tmp_path: Path, source: ModelDir, head: str
) -> None:
    before = resolved(source)
    before.model.head, before.data.scheme = head, "bio"
    with lock_workdir(tmp_path, before, {}):
        (tmp_path / "checkpoints" / "1").mkdir(parents=True)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format": 2}))
    for _ in range(3):  # resumed again and again
        filled = fill_from_saved_config(configuration(), tmp_path)
        now = resolve_settings(filled, source, CATEGORIES)[0]
        if head == "global_pointer":
            assert now.data.scheme is None and default_scheme("char", head, "strict") == "bio"
            now.data.scheme = "bio"
        assert now.to_json() == before.to_json()
        with lock_workdir(tmp_path, now, {}):
            pass


@pytest.mark.parametrize(
    ("head", "recorded", "kept"),
    [
        (
            "global_pointer",
            "absent",
            True,
        ),  # earlier versions always predicted overlapping entities
        ("global_pointer", False, False),
        ("global_pointer", True, True),
        ("softmax", "absent", False),
        ("softmax", False, False),
    ],
)
def test_a_resumed_run_keeps_whether_entities_may_overlap(
    tmp_path: Path, head: str, recorded: bool | str | None, kept: bool | None
) -> None:
    given = configuration(init_from="", model__head=head, data__scheme="bio")
    before = resolve_settings(given, None)[0]
    with lock_workdir(tmp_path, before, {}):
        (tmp_path / "checkpoints" / "1").mkdir(parents=True)
    path = tmp_path / "config.json"
    row = json.loads(path.read_text())
    row["data"]["nested"] = recorded
    if recorded == "absent":
        del row["data"]["nested"]
    path.write_text(json.dumps(row))
    for _ in range(3):  # resumed again and again
        now = resolve_settings(fill_from_saved_config(given, tmp_path), None)[0]
        assert now.data.nested is kept
        with lock_workdir(tmp_path, now, {}):
            pass
    # With another head, the error names the head. Without the file, the data decide again.
    given.model.head = "crf"
    assert fill_from_saved_config(given, tmp_path).data.nested is None
    given.model.head = head
    path.unlink()
    assert fill_from_saved_config(given, tmp_path).data.nested is None


@pytest.mark.parametrize(
    ("setting", "old", "new"),
    [("model.head", "crf", "softmax"), ("data.scheme", "bio", "bioes")],
)
def test_a_setting_left_out_when_a_run_is_resumed_is_reported(
    tmp_path: Path, setting: str, old: str, new: str
) -> None:
    before = configuration(init_from="")
    before.update_from_flattened_dict({"data.scheme": "bioes", setting: old})
    before = resolve_settings(before, None)[0]
    with lock_workdir(tmp_path, before, {}):
        (tmp_path / "checkpoints" / "1").mkdir(parents=True)
    filled = fill_from_saved_config(configuration(init_from=""), tmp_path)
    now = resolve_settings(filled, None)[0]
    if now.data.scheme is None:
        now.data.scheme = default_scheme("char", now.model.head, now.eval.scoring)
    with (
        pytest.raises(UserError, match=f"{setting} was '{old}', is '{new}'"),
        lock_workdir(tmp_path, now, {}),
    ):
        pass


def test_a_run_of_an_earlier_version_keeps_its_settings(tmp_path: Path) -> None:
    original = resolved(None, init_from="", model__hidden_size=32, model__num_attention_heads=4)
    original.model.head, original.data.scheme, original.data.max_length = "crf", "bio", 99
    original.tokenizer.kind, original.tokenizer.lower_case = "char", False
    with lock_workdir(tmp_path, original, {}):
        (tmp_path / "checkpoints" / "1").mkdir(parents=True)
    path = tmp_path / "config.json"
    row = json.loads(path.read_text())
    assert row["format"] == CONFIG_FORMAT == 3
    original.train.standardise = row["train"]["standardise"] = False  # earlier versions did not
    config = configuration(init_from="")
    # This version resolves the settings again and compares them.
    assert fill_from_saved_config(config, tmp_path) is config
    for version in ({"format": 1}, {}):  # version 0 has no format field
        old = {name: value for name, value in row.items() if name != "format"}
        path.write_text(json.dumps(old | version))
        for _ in range(2):  # resumed again
            filled = fill_from_saved_config(config, tmp_path)
            assert filled.to_json() == original.to_json()
            with lock_workdir(tmp_path, filled, {}):
                pass
        path.write_text(json.dumps(old | version))
        for standardise in (True, False):  # whatever the configuration says now
            now = configuration(init_from="", train__standardise=standardise)
            assert not fill_from_saved_config(now, tmp_path).train.standardise
        # With other weights the recorded shape would contradict them, before the paths are compared.
        other = fill_from_saved_config(configuration(init_from="elsewhere"), tmp_path)
        assert other.model.hidden_size is None and other.model.head == "crf"
        set_now = configuration(init_from="", model__hidden_size=48)
        assert fill_from_saved_config(set_now, tmp_path).model.hidden_size == 48
    path.write_text(json.dumps(row | {"format": "x"}))
    assert fill_from_saved_config(config, tmp_path) is config  # rejected later, with a reason
    assert fill_from_saved_config(config, tmp_path / "other") is config
