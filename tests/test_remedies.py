"""The advice in error messages works: each test causes an error and follows its message literally."""

import json
import re
import shlex
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from configs import demo
from flax_ner.cli.main import main, make_parser
from flax_ner.config import default_config
from flax_ner.config_checks import check_config
from flax_ner.data.formats import read_examples
from flax_ner.distillation.teacher import _match_tags
from flax_ner.errors import UserError
from flax_ner.evaluation.metrics import score
from flax_ner.finetuning.task_data import read_task_data
from flax_ner.text.category_names import find_intended_category
from flax_ner.text.examples import Entity
from flax_ner.text.labels import LabelSet
from flax_ner.training.decisions import resolve_settings
from flax_ner.weights.convert import convert
from flax_ner.weights.model_dir import ModelDir, load_model, save_model
from flax_ner.weights.open_model import open_model
from flax_ner.weights.source import open_source
from tests.inference import helpers as tagger
from tests.test_docs import check_settings
from tests.weights.helpers import LABELS, PRETRAINED, TRAINED, VOCAB, tiny_state_dict, write_source

HEADS = {"num_attention_heads": 2}


def message_of(action: Callable[..., object], *arguments: Any) -> str:
    """Return the message of the error that an action raises, and assert that it is one line."""
    with pytest.raises((UserError, SystemExit)) as caught:
        action(*arguments)
    message = str(caught.value)
    assert "\n" not in message
    return message


def extract(pattern: str, message: str) -> str:
    """Return the group of a pattern in a message, the part to follow."""
    match = re.search(pattern, message)
    assert match, message
    return match[1]


# --- Data ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["ner_tags", "tags"])
def test_names_of_numbered_tags_can_be_given_as_the_message_shows(
    tmp_path: Path, name: str
) -> None:
    path, info = tmp_path / "data.json", tmp_path / "dataset_info.json"
    path.write_text(json.dumps({"tokens": ["甲", "在"], name: [1, 0]}), "utf-8")
    absent = message_of(read_examples, str(path), "auto")
    assert str(info.name) in absent
    info.write_text("{}", "utf-8")
    for message in (absent, message_of(read_examples, str(path), "auto")):
        row = json.loads(extract(r"order of their numbers: (\{.*\})$", message))
        assert row["features"][name]["names"][0] == "O"
        row["features"][name]["names"] = ["O", "B-person"]
        info.write_text(json.dumps(row), "utf-8")
        (example,) = read_examples(str(path), "auto")
        assert example.entities == (Entity("person", 0, 1, "甲"),)


OFFSETS = {
    "cluener": '{{"text": "甲乙丙", "label": {{"name": {{"乙": [[{start}, {end}]]}}}}}}',
    "doccano": '{{"text": "甲乙丙", "label": [[{start}, {end}, "name"]]}}',
    "doccano with relations": '{{"text": "甲乙丙", "entities": [{{"label": "name", "start_offset": {start}, '
    '"end_offset": {end}}}]}}',
    "label_studio": '[{{"data": {{"text": "甲乙丙"}}, "annotations": [{{"result": [{{"type": "labels", '
    '"value": {{"start": {start}, "end": {end}, "labels": ["name"]}}}}]}}]}}]',
}


@pytest.mark.parametrize("value", ['"1"', "1.0", "true", "null", "[1]", '""'])
@pytest.mark.parametrize("data_format", OFFSETS)
def test_an_offset_of_the_wrong_type_is_reported_and_can_be_corrected(
    tmp_path: Path, data_format: str, value: str
) -> None:
    path, row = tmp_path / "data.json", OFFSETS[data_format]
    end = 1 if data_format == "cluener" else 2
    for start, stop, name in ((value, str(end), "start"), ("1", value, "end")):
        path.write_text(row.format(start=start, end=stop), "utf-8")
        message = message_of(read_examples, str(path), "auto")
        assert f"{name} is {json.loads(value)!r} (" in message
        assert message.endswith("Give offsets as whole numbers.") and "Expected 0" not in message
    path.write_text(row.format(start=1, end=end), "utf-8")
    (example,) = read_examples(str(path), "auto")
    assert example.entities == (Entity("name", 1, 2, "乙"),)
    # An offset outside of the text has its own message.
    path.write_text(row.format(start=1, end=9), "utf-8")
    assert re.search(r"the span \[1, 9", message_of(read_examples, str(path), "auto"))


@pytest.mark.parametrize("value", ["1", 1.0, True, None])
def test_an_offset_of_the_wrong_type_in_python_is_reported(value: Any) -> None:
    labels = LabelSet(["name"])
    message = re.escape(f"('name', {value!r}, 2), but an entity starts with")
    for action in (
        lambda start: labels.encode([("name", start, 2)], 3),
        lambda start: score([[("name", start, 2)]], [[("name", 1, 2)]]),
    ):
        with pytest.raises(UserError, match=f"{message}.* a string and two integers"):
            action(value)
        action(1)
        action(np.int64(1))


def test_a_misspelled_category_is_reported_with_the_correct_one(tmp_path: Path) -> None:
    known = ["name", "game", "organization", "PER"]
    for category, expected in {
        "nmae": "name", "organisation": "organization", "Name": "name", "per": "PER",
        "gmae": "game", "movie": None, "same": None, "ORG": None,
    }.items():  # fmt: skip
        assert find_intended_category(category, known) == expected, category
    assert find_intended_category("name", ["game", "movie"]) is None

    def write(split: str, category: str) -> None:
        row = {"text": "甲", "label": {category: {"甲": [[0, 0]]}}}
        (tmp_path / split).write_text(json.dumps(row), "utf-8")

    config = demo.get_config()
    config.data.format = "auto"
    config.data.train, config.data.dev = str(tmp_path / "train"), str(tmp_path / "dev")
    write("train", "organization")
    write("dev", "organisation")
    note = next(note for note in read_task_data(config).notes if note.startswith("data.dev has"))
    write("dev", extract(r"In data\.dev it may be a misspelling of '(\w+)'", note))
    assert not [note for note in read_task_data(config).notes if note.startswith("data.dev has")]


def test_the_demo_config_reads_the_users_own_files_after_the_suggested_change(
    tmp_path: Path,
) -> None:
    path = tmp_path / "mine.json"
    path.write_text('{"text": "甲", "label": {"name": {"甲": [[0, 0]]}}}', "utf-8")
    config = demo.get_config()
    config.data.train = str(path)
    assert "set data.format=auto, data.train and data.dev" in message_of(read_task_data, config)
    config.data.format, config.data.dev = "auto", str(path)
    assert read_task_data(config).labels.categories == ("name",)


# --- Weights ---------------------------------------------------------------------------------------------


def test_a_vocabulary_that_is_too_long_can_be_shortened_as_suggested(tmp_path: Path) -> None:
    path = write_source(tmp_path, tiny_state_dict(TRAINED), "f.pth")
    vocab = path.with_name("vocab.txt")
    vocab.write_text("\n".join([*VOCAB, "g", "h", "i"]), "utf-8")
    message = message_of(convert, open_source(path), LABELS, HEADS)
    assert "14 tokens" in message and "embeddings for 11" in message
    count = int(extract(r"delete the last (\d+)", message))
    vocab.write_text("\n".join(vocab.read_text("utf-8").split("\n")[:-count]), "utf-8")
    model, _ = convert(open_source(path), LABELS, HEADS)
    assert model.vocab == VOCAB


def test_a_vocabulary_that_is_too_short_can_be_extended_as_suggested(tmp_path: Path) -> None:
    path = write_source(tmp_path, tiny_state_dict(TRAINED), "f.pth")
    vocab = path.with_name("vocab.txt")
    vocab.write_text("\n".join(VOCAB[:7]), "utf-8")
    message = message_of(convert, open_source(path), LABELS, HEADS)
    assert "7 tokens" in message and "embeddings for 11" in message
    size = int(
        extract(r"append unused tokens until there are (\d+): \[padding1\], \[padding2\]", message)
    )
    more = [f"[padding{i}]" for i in range(1, size - 6)]
    vocab.write_text("\n".join([*VOCAB[:7], *more]), "utf-8")
    assert convert(open_source(path), LABELS, HEADS)[0].vocab == VOCAB[:7] + more


@pytest.mark.parametrize("source", ["MMOCR", "tokens scored", "config.json"])
def test_surplus_embedding_rows_are_ignored_and_reported(tmp_path: Path, source: str) -> None:
    """Many checkpoints of transformers and Megatron pad the embeddings to a multiple of 8 to 128 rows."""
    prefix = TRAINED if source == "MMOCR" else PRETRAINED
    state = tiny_state_dict(prefix)
    if source != "MMOCR":
        for name, shape in {
            "transform.dense.weight": (8, 8), "transform.dense.bias": (8,),
            "transform.LayerNorm.weight": (8,), "transform.LayerNorm.bias": (8,), "bias": (11,),
        }.items():  # fmt: skip
            state[f"cls.predictions.{name}"] = np.arange(np.prod(shape), dtype=np.float32).reshape(
                shape
            )
    stated = {"vocab_size": 12, **HEADS} if source == "config.json" else None
    labels = LABELS if source == "MMOCR" else None
    whole, _ = convert(open_source(write_source(tmp_path / "whole", state)), labels, HEADS)
    for name in (f"{prefix}embeddings.word_embeddings.weight", "cls.predictions.bias"):
        if name in state:
            state[name] = np.concatenate([state[name], np.full_like(state[name][:1], np.inf)])
    padded = write_source(tmp_path / "padded", state, config=stated)
    model, report = convert(open_source(padded), labels, HEADS)
    assert "Vocabulary: 1 surplus embedding rows ignored (11 tokens, 12 rows)." in report.notes
    assert (model.config.vocab_size, model.vocab) == (11, VOCAB)
    word = model.params["encoder"]["embeddings"]["word"]
    np.testing.assert_array_equal(word, whole.params["encoder"]["embeddings"]["word"])
    if source != "MMOCR":
        np.testing.assert_array_equal(model.params["masked_lm"]["bias"], np.arange(11))
    save_model(tmp_path / "model", model)
    assert load_model(tmp_path / "model").config.vocab_size == 11


@pytest.mark.parametrize("name", ["text.txt", "model.safetensors", "model.pth"])
def test_a_text_file_given_as_weights_is_reported_as_such(tmp_path: Path, name: str) -> None:
    for content in ("甲在乙\n", "\ufeffabc", '{"text": "甲"}\n', "<!DOCTYPE html>\n", "索" * 1000):
        (tmp_path / name).write_text(content, "utf-8")
        message = message_of(open_model, tmp_path / name, "MODEL")
        assert "is a text file, not weights" in message and "opcode" not in message
        assert repr(content.lstrip("\ufeff").strip()[:40]) in message
    (tmp_path / name).write_bytes("甲在乙\n".encode("gb18030"))  # not recognizable as text
    assert "opcode" not in message_of(open_model, tmp_path / name, "MODEL")


def test_the_shape_of_the_weights_can_be_set_as_suggested() -> None:
    source = ModelDir(replace(tagger.CONFIG, hidden_act="gelu_new"), None, tagger.VOCAB, 64, {})
    config = default_config()
    config.init_from = "x"
    config.model.hidden_size, config.model.layer_norm_eps = 16, 1e-6
    message = message_of(resolve_settings, config, source)
    assert (
        "model.hidden_size is 16, but the weights have 8; model.layer_norm_eps is 1e-06, but"
        in message
    )
    check_settings(shlex.split(extract(r"or set (.*)", message)), config)
    assert resolve_settings(config, source)[0].model.hidden_act == "gelu_new"
    config = default_config()  # without these fields
    config.init_from = "x"
    assert resolve_settings(config, source)[0].model.hidden_size == 8


# --- Commands --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Save a model that predicts an entity for every "b" with the "i"s after it."""
    path = tmp_path_factory.mktemp("remedies") / "a model"
    made = ModelDir(tagger.CONFIG, tagger.LABELS, tagger.VOCAB, 64, tagger.hand_made_params())
    save_model(path, made)
    return path


def test_arguments_can_be_reordered_as_suggested(
    tmp_path: Path, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text, data = tmp_path / "text.txt", tmp_path / "data.json"
    text.write_text("bii中\n", "utf-8")
    data.write_text('{"text": "bii中", "label": {"name": {"bii": [[0, 2]]}}}\n', "utf-8")
    for command, file, expected in (
        ("predict", text, "[bii name]中"),
        ("evaluate", data, "1.0000"),
    ):
        message = message_of(main, [command, str(file), str(model)])
        assert message.startswith("flax_ner: MODEL comes first")
        main(shlex.split(extract(r"Run: python -m flax_ner (.*)", message)))
        assert expected in capsys.readouterr().out
    out = str(tmp_path / "out")
    correct = ["bulk", str(model), str(tmp_path), out]
    for wrong in ([tmp_path, model, out], [tmp_path, out, model]):
        message = message_of(main, ["bulk", *map(str, wrong)])
        assert shlex.split(extract(r"Run: python -m flax_ner (.*)", message)) == correct
        make_parser().parse_args(correct)
    assert not Path(out).exists()


def test_a_damaged_model_directory_can_be_repaired_as_suggested(
    tmp_path: Path, model: Path
) -> None:
    made = load_model(model)
    save_model(tmp_path / "model", made)
    for name, damage in {"vocab.txt": "[PAD]\n", "config.json": "{}", "labels.json": "3"}.items():
        content = (tmp_path / "model" / name).read_text("utf-8")
        (tmp_path / "model" / name).write_text(damage, "utf-8")
        message = message_of(load_model, tmp_path / "model")
        assert "or convert or train again into another directory." in message
        (tmp_path / "model" / name).write_text(content, "utf-8")
        load_model(tmp_path / "model")
    (tmp_path / "model" / "params" / "manifest.ocdbt").write_bytes(b"")
    assert "into another directory" in message_of(load_model, tmp_path / "model")
    save_model(tmp_path / "other", made)
    load_model(tmp_path / "other")


# --- Settings --------------------------------------------------------------------------------------------


MLM = {"task": "masked_lm"}
CUDNN = {
    "model.attention": "cudnn", "model.compute_dtype": "bfloat16", "model.attention_probs_dropout_prob": 0.0,
}  # fmt: skip
# The settings, the advice in the message, and the settings that follow the advice.
SETTINGS: list[tuple[dict[str, Any], str, dict[str, Any]]] = [
    ({"model.head": "crf", "loss.name": "focal"},
     "Set loss.name=cross_entropy, or", {"loss.name": "cross_entropy"}),
    ({"model.head": "crf", "loss.name": "focal"},
     "or choose model.head softmax or softmax_constrained", {"model.head": "softmax_constrained"}),
    ({"loss.name": "focal", "loss.label_smoothing": 0.1},
     "Set loss.label_smoothing=0, or", {"loss.label_smoothing": 0.0}),
    ({"loss.name": "focal", "loss.label_smoothing": 0.1},
     "or loss.name=cross_entropy.", {"loss.name": "cross_entropy"}),
    ({"model.head": "crf", "loss.label_smoothing": 0.1},
     "Set loss.label_smoothing=0, or", {"loss.label_smoothing": 0.0}),
    ({"model.head": "global_pointer", "train.r_drop": 1.0},
     "choose model.head softmax or softmax_constrained", {"model.head": "softmax"}),
    ({"model.head": "crf", "data.nested": True},
     "Set model.head=global_pointer, or", {"model.head": "global_pointer"}),
    ({"model.head": "crf", "data.nested": True}, "or leave data.nested out.", {"data.nested": None}),
    (MLM | {"data.nested": True}, "its default, False.", {"data.nested": False}),
    (MLM | {"train.fgm": 1.0}, "its default, 0.", {"train.fgm": 0.0}),
    (MLM | {"data.format": "conll"}, "its default, 'auto'.", {"data.format": "auto"}),
    (MLM | {"data.categories": ("a",)}, "its default, ().", {"data.categories": ()}),
    (MLM | {"distill.teacher": "x"}, "its default, ''.", {"distill.teacher": ""}),
    ({"data.batch_size": 6, "train.gradient_accumulation_steps": 4},
     "Choose a divisor of it.", {"train.gradient_accumulation_steps": 3}),
    ({"seed": 2**32 - 1, "train.seeds": 2}, f"at most {2**32 - 2}.", {"seed": 2**32 - 2}),
    ({"data.max_length": 600},
     "Lower data.max_length or raise model.max_position_embeddings.", {"data.max_length": 512}),
    ({"data.max_length": 600},
     "Lower data.max_length or raise model.max_position_embeddings.", {"model.max_position_embeddings": 600}),
    # The number of positions in pre-trained weights cannot be raised.
    ({"data.max_length": 600, "init_from": "x", "model.max_position_embeddings": 512},
     "Lower data.max_length.", {"data.max_length": 512}),
    (CUDNN | {"data.max_length": 127},
     "Choose an even number, or", {"data.max_length": 126}),
    (CUDNN | {"data.max_length": 127},
     "or model.attention=xla.", {"model.attention": "xla"}),
    ({"optimizer.milestones": ("x",)}, "'x' is not a number.", {"optimizer.milestones": (3, 4.5)}),
    ({"data.categories": (1,)}, "1 is not text.", {"data.categories": ("1",)}),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "advice", "followed"), SETTINGS)
def test_a_setting_can_be_changed_as_suggested(
    changes: dict[str, Any], advice: str, followed: dict[str, Any]
) -> None:
    config = default_config()
    config.update_from_flattened_dict(changes)
    assert advice in message_of(check_config, config)
    config.update_from_flattened_dict(followed)
    check_config(config)


def test_the_teachers_tags_can_be_set_as_suggested() -> None:
    config = default_config()
    teachers = [LabelSet(c, "bioes") for c in (("a", "b"), ("it's", 'a "b" c'), ("one",))]
    # Tags of other tools, which name the same tags differently.
    teachers += [LabelSet.from_names(n.split()) for n in ("O PER LOC", "B-x M-x E-x S-x O")]
    for teacher in teachers:
        student = LabelSet(["y"], "bio")
        message = message_of(_match_tags, teacher, student, "teacher")
        check_settings(
            shlex.split(extract(r"must be the same\. Set (.*) for the same tags", message)), config
        )
        student = LabelSet(config.data.categories, config.data.scheme)
        tags = _match_tags(teacher, student, "teacher")
        assert [teacher.standard_names()[i] for i in tags] == student.names
