"""Data, tokenizer, labels and initial parameters of a tagging run, from all kinds of `init_from`."""

import hashlib
import json
import re
import shutil
import tracemalloc
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import ml_dtypes
import numpy as np
import pytest
from jax.sharding import SingleDeviceSharding
from ml_collections import ConfigDict
from rich.console import Console

from configs import demo
from flax_ner import load
from flax_ner.data.cluener import write_cluener
from flax_ner.data.synthetic import synthetic
from flax_ner.errors import UserError
from flax_ner.finetuning.tagging import Tagging
from flax_ner.finetuning.task_data import initial_params, read_task_data, trained_model
from flax_ner.fit import fit
from flax_ner.model.bert import BertConfig
from flax_ner.model.tagging_model import abstract_params, init_params
from flax_ner.text.encoding import TokenSet
from flax_ner.text.examples import Entity, Example
from flax_ner.text.labels import LabelSet, SpanLabels
from flax_ner.text.tokenizer import Tokens, WordPieceTokenizer
from flax_ner.text.vocab import SPECIAL_TOKENS, build_vocab, write_vocab
from flax_ner.training.loop import _digests
from flax_ner.training.mesh import make_mesh
from flax_ner.weights.export import export
from flax_ner.weights.model_dir import ModelDir, load_model, save_model
from tests.weights.helpers import assert_same

TEXTS = synthetic("train", 60)
CATEGORIES = sorted({entity.type for text in TEXTS for entity in text.entities or ()})
VOCAB = [*build_vocab(text.text for text in TEXTS), "A"]


def model(labels: LabelSet | None, lower_case: bool = True) -> ModelDir:
    config = BertConfig(
        vocab_size=len(VOCAB), num_labels=len(labels) if labels else 1, hidden_size=16,
        num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
    )  # fmt: skip
    params = init_params(config, jax.random.key(7))
    if labels is None:
        del params["head"]
    return ModelDir(config, labels, VOCAB, 64, params, lower_case)


def config(init_from: Path, **changes: Any) -> ConfigDict:
    made = demo.get_config()
    made.update_from_flattened_dict(
        {"model.hidden_size": 16, "model.num_hidden_layers": 1, "model.num_attention_heads": 2,
         "model.intermediate_size": 16, "data.train": "train 60", "data.dev": "dev 5",
         "init_from": str(init_from)}
        | {name.replace("__", "."): value for name, value in changes.items()}
    )  # fmt: skip
    made.model.max_position_embeddings = 512
    return made


def start(made: ConfigDict) -> tuple[Any, Any]:
    task = read_task_data(made)
    device = SingleDeviceSharding(jax.devices()[0])
    shardings = jax.tree.map(lambda _: device, abstract_params(task.model))
    return task, initial_params(task, jax.random.key(0), shardings)


@pytest.mark.parametrize("form", ["directory", "hf", "mmocr"])
def test_fine_tuning_a_tagger_continues_with_its_head(tmp_path: Path, form: str) -> None:
    # The tags may have another order than ours.
    names = LabelSet(CATEGORIES).names
    labels = LabelSet.from_names([names[0], *names[:0:-1]])
    if form == "mmocr":
        labels = LabelSet.mmocr(CATEGORIES)
    source, path = model(labels), tmp_path / "source"
    if form == "directory":
        save_model(path, source)
    else:
        export(source, path, form)
    if form == "mmocr":
        (tmp_path / "vocab.txt").write_text("\n".join(VOCAB) + "\n", "utf-8")
        row = {"id2label": dict(enumerate(labels.names)), "num_attention_heads": 2}
        (tmp_path / "config.json").write_text(json.dumps(row))
    task, params = start(config(path))
    assert task.config.data.scheme == ("mmocr" if form == "mmocr" else "bio")
    assert task.labels.names == labels.names
    assert_same(params, source.params)
    assert not [note for note in task.notes if "freshly" in note]


@pytest.mark.parametrize(
    ("overlapping", "setting", "nested"),
    [(0, None, False), (2, None, False), (3, None, True), (2, True, True), (3, False, False)],
)
def test_predictions_may_overlap_if_the_training_data_do(
    tmp_path: Path, overlapping: int, setting: bool | None, nested: bool
) -> None:
    texts = [Example("张三在北京大学", (Entity("name", 0, 2), Entity("school", 3, 7)))] * 100
    city = Entity("city", 3, 5)
    texts += [Example("在北京大学", (city, Entity("school", 1, 5)))] * overlapping
    write_cluener(tmp_path / "train.json", texts)
    made = config(
        tmp_path, data__format="cluener", data__train=str(tmp_path / "train.json"),
        data__dev=str(tmp_path / "train.json"), model__head="global_pointer", data__nested=setting,
    )  # fmt: skip
    made.init_from = ""
    task = read_task_data(made)
    assert task.labels.to_json()["nested"] is task.config.data.nested is nested
    notes = [note for note in task.notes if "overlap a longer one" in note]
    assert len(notes) == (overlapping > 0 and not nested)
    if notes:
        assert notes[0].startswith(
            f"{overlapping} of {200 + 2 * overlapping} entities of data.train"
        )
        # The remedy of the note.
        made.data.nested = True
        assert read_task_data(made).labels.to_json()["nested"] is True
    # The setting and the data also decide when a tagger is fine-tuned; its head is kept.
    source = task.model
    save_model(tmp_path / "m", ModelDir(
        source, SpanLabels(task.labels.categories, not nested), task.tokenizer.tokens, 64,
        init_params(source, jax.random.key(0)),
    ))  # fmt: skip
    made.update_from_flattened_dict({"init_from": str(tmp_path / "m"), "data.nested": setting})
    task = read_task_data(made)
    assert task.labels.to_json()["nested"] is nested and not task.new_head
    assert any("may predict overlapping" in n for n in task.notes) == (
        setting is None and not nested
    )


def test_an_encoder_gets_a_new_head(tmp_path: Path) -> None:
    source = model(None)
    export(source, tmp_path / "hf", "hf")
    task, params = start(config(tmp_path / "hf", train__standardise=False))
    assert_same(params["encoder"], source.params["encoder"])
    assert params["head"]["classifier"]["kernel"].shape == (16, len(task.labels))
    assert any("head is freshly initialised" in note for note in task.notes)
    assert any("Hugging Face BertModel, 21 tensors used, 0 ignored" in note for note in task.notes)


def test_few_steps_from_weights_give_a_warning_with_a_sufficient_number(tmp_path: Path) -> None:
    save_model(tmp_path / "encoder", model(None))

    def advice(**changes: Any) -> list[str]:
        notes = read_task_data(config(tmp_path / "encoder", **changes)).notes
        return [note for note in notes if note.startswith("Only")]

    (note,) = advice(train__epochs=1)
    (steps,) = re.findall(r"--config\.train\.steps=(\d+)", note)
    assert advice(train__epochs=1, train__steps=int(steps)) == []
    unset = {"train__epochs": None, "data__batch_size": None}
    assert "train.epochs" in note and "data.batch_size" in note and advice(**unset) == []


@pytest.mark.slow
@pytest.mark.every_python
def test_training_is_the_same_from_a_model_directory_and_from_an_export(tmp_path: Path) -> None:
    """Converted parameters share memory with NumPy arrays, and training donates them."""
    source = model(LabelSet(CATEGORIES))
    save_model(tmp_path / "directory", source)
    export(source, tmp_path / "hf", "hf")
    for form in ("directory", "hf"):
        made = config(tmp_path / form, train__steps=4, train__steps_per_dispatch=2, mesh__data=1)
        fit(made, tmp_path / "runs" / form)
    one, other = (load_model(tmp_path / "runs" / form / "last") for form in ("directory", "hf"))
    assert_same(one.params, other.params)


@pytest.mark.parametrize("stated", [True, False])
def test_lower_casing_is_that_of_the_source_unless_set(tmp_path: Path, stated: bool) -> None:
    export(model(None, stated), tmp_path / "hf", "hf")
    assert read_task_data(config(tmp_path / "hf")).tokenizer.lower_case is stated
    for value in (True, False):
        task = read_task_data(config(tmp_path / "hf", tokenizer__lower_case=value))
        assert task.tokenizer.lower_case is value
    capital = VOCAB.index("A") if not stated else VOCAB.index("[UNK]")
    assert read_task_data(config(tmp_path / "hf")).tokenizer.encode("A").ids[1] == capital


def test_the_tokenizer_is_that_of_a_tagger_unless_set(tmp_path: Path) -> None:
    for kind in ("char", "wordpiece"):
        tagger = model(LabelSet(CATEGORIES))
        tagger.tokenizer = kind
        save_model(tmp_path / kind, tagger)
        assert read_task_data(config(tmp_path / kind)).tokenizer.kind == kind
        encoder = model(None)
        encoder.tokenizer = kind
        save_model(tmp_path / f"encoder_{kind}", encoder)
        assert read_task_data(config(tmp_path / f"encoder_{kind}")).tokenizer.kind == "char"
    message = "was trained with tokenizer.kind=wordpiece, .*--config.tokenizer.kind=wordpiece"
    for name in ("wordpiece", "encoder_wordpiece"):
        task = read_task_data(config(tmp_path / name, tokenizer__kind="char"))
        # An encoder without word pieces gets a character tokenizer anyway.
        assert any(re.search(message, note) for note in task.notes) is (name == "wordpiece")
        task = read_task_data(config(tmp_path / name, tokenizer__kind="wordpiece"))
        assert not any("was trained with" in note for note in task.notes)
        assert trained_model(task, {}).tokenizer == "wordpiece"


@pytest.mark.slow
@pytest.mark.every_python
def test_a_run_cannot_resume_with_another_tokenizer(tmp_path: Path) -> None:
    tagger = model(LabelSet(CATEGORIES))
    save_model(tmp_path / "source", tagger)
    made = config(tmp_path / "source", train__steps=4, checkpoint__every=2, mesh__data=1)
    fit(made, tmp_path / "run")
    fit(made, tmp_path / "run")  # nothing is left to do
    tagger.tokenizer = "wordpiece"
    save_model(tmp_path / "source", tagger)
    with pytest.raises(UserError, match=r"tokenizer\.kind was 'char', is 'wordpiece'"):
        fit(made, tmp_path / "run")


def test_wordpieces_need_a_vocabulary(tmp_path: Path) -> None:
    made = config(tmp_path)
    made.update_from_flattened_dict({"init_from": "", "tokenizer.kind": "wordpiece"})
    with pytest.raises(UserError, match=r"tokenizer\.kind: wordpiece needs a vocabulary"):
        read_task_data(made)


@pytest.mark.parametrize(
    ("kind", "settings", "expected"),
    [
        ("char", {}, "bioes"),
        ("char", {"data__scheme": "bio"}, "bio"),
        ("char", {"eval__scoring": "mmocr"}, "bio"),
        ("wordpiece", {}, "bio"),
        ("wordpiece", {"data__scheme": "bioes"}, "bioes"),
    ],
)
def test_new_labels_are_bioes_for_characters_and_bio_for_words(
    tmp_path: Path, kind: str, settings: dict[str, Any], expected: str
) -> None:
    source = model(None)
    source.tokenizer = kind
    save_model(tmp_path / "source", source)
    task = read_task_data(config(tmp_path / "source", tokenizer__kind=kind, **settings))
    assert task.labels.scheme == task.config.data.scheme == expected


@pytest.mark.slow
def test_a_wordpiece_tagger_learns_whole_words(tmp_path: Path) -> None:
    """Only the first piece of a word has a label."""
    people = [a + b for a in ("ann", "bob", "cleo") for b in ("son", "sen", "")]
    rows = [
        Example(f"Today {p.title()} met Mr. {q.title()}son.", (
            Entity("name", 6, 6 + len(p)), Entity("name", 15 + len(p), 18 + len(p) + len(q)),
        ))
        for p in people for q in people
    ]  # fmt: skip
    write_cluener(tmp_path / "train.json", rows)
    vocab = [*SPECIAL_TOKENS, *"abcdefghijklmnopqrstuvwxyz.", "today", "met", "mr", "##son"]
    vocab += [f"##{letter}" for letter in "abcdefghijklmnopqrstuvwxyz"]
    write_vocab(tmp_path / "vocab.txt", vocab)
    made = config(tmp_path, train__steps=150, train__steps_per_dispatch=50, mesh__data=1)
    changes = {
        "init_from": "", "tokenizer.vocab": str(tmp_path / "vocab.txt"), "tokenizer.kind": "wordpiece",
        "data.train": str(tmp_path / "train.json"), "data.dev": str(tmp_path / "train.json"),
        "data.format": "cluener", "optimizer.learning_rate": 5e-3,
    }  # fmt: skip
    made.update_from_flattened_dict(changes)
    fit(made, tmp_path / "run")
    tagger = load(tmp_path / "run" / "last")
    assert tagger.score(rows).f1 > 0.99
    assert [e.text for e in tagger("today Annsen met mr Bobsonson")] == ["Annsen", "Bobsonson"]


def test_missing_and_invalid_weights_are_reported(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"init_from: no file or directory .*none\.pth"):
        read_task_data(config(tmp_path / "none.pth"))
    np.save(tmp_path / "weights.npy", np.zeros(3))
    with pytest.raises(UserError, match="not a PyTorch file, or damaged"):
        read_task_data(config(tmp_path / "weights.npy"))


@pytest.mark.parametrize("data_format", ["auto", "conll"])
def test_the_detected_format_and_conversion_warnings_are_noted(
    tmp_path: Path, data_format: str
) -> None:
    path = tmp_path / "train.bmes"
    path.write_text("# id = 1\n甲 B-name\n乙 E-name\n丙 O\n", "utf-8")
    made = config(Path())
    changes = {
        "init_from": "",
        "data.format": data_format,
        "data.train": str(path),
        "data.dev": str(path),
    }
    made.update_from_flattened_dict(changes)
    notes = [note for note in read_task_data(made).notes if note.startswith("data.")]
    for split in ("train", "dev"):
        detected = f"data.{split}: {path} is read as CoNLL columns of characters, BIOES."
        assert detected in notes
        assert f"data.{split}: comments, left out: 1 (first: {path}:1)" in notes


def test_probable_mistakes_give_warnings(tmp_path: Path) -> None:
    rows = [Example("甲在乙", (Entity("name", 0, 1, "甲"), Entity("address", 2, 3, "乙")))]
    write_cluener(tmp_path / "train.json", rows)
    write_cluener(tmp_path / "dev.json", [Example("甲", (Entity("nmae", 0, 1, "甲"),))])
    made = config(Path())
    files = {f"data.{split}": str(tmp_path / f"{split}.json") for split in ("train", "dev")}
    made.update_from_flattened_dict({"init_from": "", "data.format": "auto", **files})
    note = " ".join(read_task_data(made).notes)
    assert "Only 1 sentences and no pre-trained weights" in note
    assert "data.dev has the category 'nmae' (1 entities)" in note
    assert "it may be a misspelling of 'name'." in note and "data.dev is data.train" not in note
    made.data.dev = made.data.train
    assert any(note.startswith("data.dev is data.train") for note in read_task_data(made).notes)
    many = config(Path(), data__train="train 2000", train__steps=1000)
    many.init_from = ""
    assert not any(note.startswith(("Only", "data.dev")) for note in read_task_data(many).notes)


@pytest.mark.slow
def test_a_resumed_run_with_all_step_options_is_bit_identical(tmp_path: Path) -> None:
    step_options = {
        "train__ema": 0.9, "train__fgm": 0.5, "train__r_drop": 1.0, "loss__label_smoothing": 0.1,
        "train__gradient_accumulation_steps": 2, "model__word_dropout_prob": 0.1,
        "optimizer__layer_decay": 0.9, "optimizer__head_lr_multiplier": 2.0,
    }  # fmt: skip
    made = config(Path(), train__steps=4, checkpoint__every=2, mesh__data=1, **step_options)
    made.init_from = ""
    fit(made, tmp_path / "run")
    (tmp_path / "run" / "last").rename(tmp_path / "whole")
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "4")
    fit(made, tmp_path / "run")
    whole, again = (load_model(tmp_path / name) for name in ("whole", "run/last"))
    assert_same(whole.params, again.params)
    plain = config(Path(), train__steps=4, checkpoint__every=2, mesh__data=1)
    plain.init_from = ""
    fit(plain, tmp_path / "plain")
    other = load_model(tmp_path / "plain" / "last").params["head"]["classifier"]["kernel"]
    assert (other != whole.params["head"]["classifier"]["kernel"]).any()


def test_digests_are_those_of_the_concatenated_content(tmp_path: Path) -> None:
    """So runs of versions that joined all bytes before hashing can resume."""
    source = model(LabelSet(CATEGORIES))
    source.params["head"]["classifier"]["kernel"] = np.asfortranarray(  # not contiguous
        source.params["head"]["classifier"]["kernel"]
    )
    save_model(tmp_path / "source", source)
    made = config(tmp_path / "source")
    task = Tagging(made)
    data = task._data
    data.dev.append(Example("a\ud800'\"", None, "file:1"))
    assert data.source is not None
    data.source.params["a"] = {"empty": np.zeros((0, 3), np.float32), "one": np.array(1.0)}
    data.source.params["b"] = np.ones((2, 3), ml_dtypes.bfloat16).T
    arrays = [np.asarray(x).tobytes() for x in jax.tree.leaves(data.source.params)]
    whole = {
        "data.categories": repr(data.labels.names).encode(),
        "data.train": b"".join(np.ascontiguousarray(x).tobytes() for x in data.batcher.tokens[:3]),
        "data.dev": repr([(e.text, e.entities) for e in data.dev]).encode(),
        "init_from": b"".join(hashlib.sha256(x).digest() for x in arrays),
        "distill.teacher": b"",
    }
    digests = _digests(made, task)
    for name, content in whole.items():
        assert digests[name] == hashlib.sha256(content).hexdigest(), name


def test_hashing_makes_no_copy_of_the_data() -> None:
    made = demo.get_config()
    made.data.train, made.data.dev = "train 60", "dev 5"
    task = Tagging(made)
    task._data.dev *= 20_000
    tokens = np.zeros((3, 4_000_000), np.int32)
    task._data.batcher.tokens = TokenSet(*tokens)
    tracemalloc.start()
    _digests(made, task)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 5e6  # bytes; the tokens are 48 MB, dev is about as much


def test_each_text_is_tokenized_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counts = Counter[tuple[str, str]]()
    tokenize = WordPieceTokenizer.tokenize

    def counted(self: WordPieceTokenizer, texts: Sequence[str]) -> Tokens:
        counts.update((self.tokens[-1], text) for text in texts)
        return tokenize(self, texts)

    monkeypatch.setattr(WordPieceTokenizer, "tokenize", counted)
    vocab = tmp_path / "vocab.txt"
    write_vocab(vocab, VOCAB)
    teacher = model(LabelSet(CATEGORIES))
    teacher.tokenizer = "wordpiece"
    more = tmp_path / "more.txt"
    more.write_text("\n".join(text.text for text in synthetic("dev", 40)[20:]), "utf-8")
    shared = {
        "tokenizer__kind": "wordpiece",
        "tokenizer__vocab": str(vocab),
        "distill__texts": str(more),
    }
    train, dev = synthetic("train", 60), synthetic("dev", 5)
    unlabelled = [line for line in more.read_text("utf-8").splitlines()]
    student_texts = Counter(example.text for example in [*train, *dev]) + Counter(unlabelled)
    teacher_texts = Counter(example.text for example in train) + Counter(unlabelled)
    for last in ("A", "Z"):  # the student's vocabulary, and another one
        teacher.vocab = [*VOCAB[:-1], last]
        save_model(tmp_path / f"teacher_{last}", teacher)
        made = config(Path(), **shared, distill__teacher=str(tmp_path / f"teacher_{last}"))
        made.init_from = ""
        task = Tagging(made)
        task.setup(tmp_path / f"run_{last}", make_mesh(1, 1, 8), Console(quiet=True))
        expected = Counter({("A", text): count for text, count in student_texts.items()})
        if last == "Z":
            expected += Counter({("Z", text): count for text, count in teacher_texts.items()})
        assert counts == expected
        counts.clear()
