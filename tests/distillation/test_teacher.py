"""Teacher probabilities: alignment with the student's tokens, rejected teachers, and distillation runs."""

import shutil
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict
from rich.console import Console

from configs import cluener_scratch, demo, student
from flax_ner import load
from flax_ner.config import with_fallbacks
from flax_ner.config_checks import check_config
from flax_ner.data.cluener import write_cluener
from flax_ner.data.synthetic import synthetic
from flax_ner.distillation.teacher import compute_teacher_probs
from flax_ner.errors import UserError
from flax_ner.finetuning.tagging import Tagging
from flax_ner.finetuning.task_data import TaskData, read_task_data
from flax_ner.fit import fit
from flax_ner.model.bert import BertConfig
from flax_ner.model.decoding import Decoder
from flax_ner.model.tagging_model import abstract_params, apply, init_params
from flax_ner.text.encoding import NO_LABEL, UNLABELLED
from flax_ner.text.examples import Entity, Example
from flax_ner.text.labels import LabelSet
from flax_ner.text.vocab import SPECIAL_TOKENS, build_vocab, write_vocab
from flax_ner.training.loss import add_distillation, make_loss, teacher_divergence
from flax_ner.training.mesh import make_mesh
from flax_ner.weights.model_dir import ModelDir, load_model, save_model
from tests.weights.helpers import assert_same

LABELS = LabelSet(["name", "place"])
SMALL = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 16,
}


def teacher(
    path: Path, texts: list[str], labels: LabelSet = LABELS, head: str = "softmax", **fields: Any
) -> ModelDir:
    """Save a model with random weights, large enough that probabilities differ between tokens."""
    vocab = fields.pop("vocab", None) or build_vocab(texts)
    config = BertConfig(
        vocab_size=len(vocab), num_labels=len(labels), initializer_range=0.5, head=head, **SMALL
    )
    params = init_params(config, jax.random.key(1))
    if head == "crf":
        params["head"]["transitions"] = jax.random.normal(jax.random.key(2), (len(labels),) * 2)
    model = ModelDir(config, labels, vocab, fields.pop("max_length", 32), params, **fields)
    save_model(path, model)
    return model


def configuration(folder: Path, train: list[Example], **changes: Any) -> ConfigDict:
    """Return the configuration of a small student of `folder/teacher`, trained on these examples."""
    write_cluener(folder / "train.json", train)
    config = demo.get_config()
    config.update_from_flattened_dict(
        {f"model.{name}": value for name, value in SMALL.items()}
        | {
            "data.format": "auto",
            "data.train": str(folder / "train.json"),
            "data.dev": str(folder / "train.json"),
            "data.max_length": 24,
            "data.scheme": "bio",
            "distill.teacher": str(folder / "teacher"),
        }
        | {name.replace("__", "."): value for name, value in changes.items()}
    )
    check_config(config)
    return config


def labelled_by_teacher(config: ConfigDict) -> TaskData:
    task = read_task_data(config)
    assert task.distillation is not None
    mesh = make_mesh(2, 2, config.data.batch_size)
    compute_teacher_probs(task.distillation, task.batcher, config, mesh, Console(file=StringIO()))
    return task


def expected(task: TaskData, path: Path, texts: list[str], temperature: float) -> np.ndarray:
    """Return the teacher's probabilities of each token, by looking up each word of each text."""
    tagger, rows = load(path), []
    zeros = np.zeros(len(tagger.labels), np.float32)
    for text, words in zip(texts, tagger.predict_word_proba(texts), strict=True):
        spans = zip(words.start.tolist(), words.end.tolist(), strict=True)
        powers = words.table ** (1 / temperature)
        probs = dict(zip(spans, powers / powers.sum(-1, keepdims=True), strict=True))
        tokens = task.tokenizer.tokenize([text])
        for first, start, end in zip(tokens.first, tokens.start, tokens.end, strict=True):
            rows.append(probs.get((start, end), zeros) if first else zeros)
    return np.array(rows)


def inner(task: TaskData) -> np.ndarray:
    """Return a mask of the tokens that are neither [CLS] nor [SEP]."""
    ends = np.cumsum(task.batcher.tokens.lengths)
    inside = np.ones(ends[-1], bool)
    inside[ends - task.batcher.tokens.lengths] = inside[ends - 1] = False
    return inside


LONG = [
    Example("甲在乙。" * 3, (Entity("name", 0, 1), Entity("place", 2, 3))),
    Example(
        "丙到丁，" * 20, (Entity("name", 40, 41), Entity("place", 42, 43))
    ),  # longer than max_length
    Example("", ()),
    Example("丁", (Entity("name", 0, 1),)),
]


@pytest.mark.parametrize("head", ["softmax", "crf"])
def test_probs_go_to_their_tokens_also_where_texts_are_cut(tmp_path: Path, head: str) -> None:
    more = ["戊与甲" * 15, "乙\t己"]
    (tmp_path / "more.txt").write_text("\n".join(more), "utf-8")
    texts = [*(example.text for example in LONG), *more]
    # The teacher splits long texts at other positions than the student.
    teacher(tmp_path / "teacher", texts, head=head, max_length=17)
    changes = {"distill__temperature": 1.5, "distill__texts": str(tmp_path / "more.txt")}
    task = labelled_by_teacher(configuration(tmp_path, LONG, data__batch_size=4, **changes))
    tokens, inside = task.batcher.tokens, inner(task)
    assert tokens.teacher is not None and len(tokens.lengths) > len(texts) + 3
    wanted = expected(task, tmp_path / "teacher", texts, 1.5)
    assert wanted.std(0).min() > 0.01  # otherwise the comparison would be trivial
    np.testing.assert_allclose(tokens.teacher[inside], wanted, atol=1e-3)
    assert not tokens.teacher[~inside].any()
    labelled = sum(len(example.text) for example in LONG)
    assert (tokens.labels[inside][:labelled] != NO_LABEL).all()
    assert (tokens.labels[inside][labelled:] == UNLABELLED).all()
    assert (tokens.labels[-2:] == UNLABELLED).all()  # the last [SEP] too
    batches = task.batcher.epoch(0).shapes[0]
    assert batches.teacher is not None
    assert (batches.teacher > 0).any(-1).sum() == inside.sum()


def test_probs_go_to_the_first_pieces_of_words(tmp_path: Path) -> None:
    rows = [
        Example("Annson met Bobsen in Dale.", (Entity("name", 0, 6), Entity("place", 21, 25))),
        Example("Who is Cleo?" * 4, (Entity("name", 7, 11),)),
    ]
    letters = [*"abcdefghijklmnopqrstuvwxyz.?", *(f"##{x}" for x in "abcdefghijklmnopqrstuvwxyz")]
    write_vocab(tmp_path / "vocab.txt", [*SPECIAL_TOKENS, *letters, "ann", "##son", "cleo"])
    teacher(
        tmp_path / "teacher", [], vocab=[*SPECIAL_TOKENS, *letters, "met", "##sen", "dale"],
        tokenizer="wordpiece",
    )  # fmt: skip
    words = {
        "tokenizer__kind": "wordpiece",
        "tokenizer__vocab": str(tmp_path / "vocab.txt"),
        "distill__temperature": 1.0,
    }
    task = labelled_by_teacher(configuration(tmp_path, rows, **words))
    tokens, inside = task.batcher.tokens, inner(task)
    assert tokens.teacher is not None
    wanted = expected(task, tmp_path / "teacher", [row.text for row in rows], 1.0)
    np.testing.assert_allclose(tokens.teacher[inside], wanted, atol=1e-3)
    np.testing.assert_array_equal(tokens.teacher[inside].any(-1), tokens.labels[inside] != NO_LABEL)
    assert (tokens.labels[inside] == NO_LABEL).any()


def test_a_teacher_with_another_tokenizer_labels_the_shared_words(tmp_path: Path) -> None:
    rows = [Example("甲在乙OK啊", (Entity("name", 0, 1), Entity("place", 2, 3)))]
    texts = [row.text for row in rows]
    teacher(tmp_path / "teacher", texts, tokenizer="wordpiece")
    task = labelled_by_teacher(configuration(tmp_path, rows))
    assert task.batcher.tokens.teacher is not None
    taught = task.batcher.tokens.teacher[inner(task)].any(-1)
    assert taught.tolist() == [True, True, True, False, False, True]
    assert any("2 of 6 words are not words of the teacher" in note for note in task.notes)
    shutil.rmtree(tmp_path / "teacher")
    english = [Example("Ann met Bob", (Entity("name", 0, 3), Entity("place", 8, 11)))]
    teacher(tmp_path / "teacher", ["annmetbob"], tokenizer="wordpiece")
    with pytest.raises(UserError, match=r"0 of the student's 11 words.*tokenizer\.kind=wordpiece"):
        read_task_data(configuration(tmp_path, english))


def test_the_tags_of_the_teacher_may_have_another_order(tmp_path: Path) -> None:
    texts = [example.text for example in LONG]
    names = LABELS.names
    order = [0, *range(len(names) - 1, 0, -1)]
    teacher(tmp_path / "teacher", texts, LabelSet.from_names([names[i] for i in order]))
    task = labelled_by_teacher(configuration(tmp_path, LONG))
    assert task.labels.names == names and task.batcher.tokens.teacher is not None
    wanted = expected(task, tmp_path / "teacher", texts, 2.0)[:, order]
    np.testing.assert_allclose(task.batcher.tokens.teacher[inner(task)], wanted, atol=1e-3)


def test_the_divergence_of_a_student_equal_to_its_teacher_is_zero(tmp_path: Path) -> None:
    short = [example for example in LONG if len(example.text) < 20]
    model = teacher(tmp_path / "teacher", [example.text for example in short])
    changes = {"data__batch_size": 4, "init_from": str(tmp_path / "teacher")}
    changes["model__max_position_embeddings"] = 512
    task = labelled_by_teacher(configuration(tmp_path, short, **changes))
    rows = jax.tree.map(lambda x: jnp.array(x[0]), task.batcher.epoch(0).shapes[0])
    logits = apply(task.model, model.params, rows.input_ids, rows.segment_ids, rows.positions)
    divergence = teacher_divergence(rows.teacher, logits, 2.0)
    assert float(jnp.abs(divergence).max()) < 1e-5
    other = teacher_divergence(rows.teacher, logits[..., ::-1], 2.0)
    assert float(other.max()) > 0.1


def test_with_weight_0_no_teacher_is_loaded(tmp_path: Path) -> None:
    config = configuration(tmp_path, LONG, distill__weight=0.0)
    task = read_task_data(config)
    assert task.distillation is None and task.batcher.tokens.teacher is None
    loss_of = make_loss(config.loss)
    assert add_distillation(loss_of, config.distill) is loss_of


def test_an_unsuitable_teacher_is_rejected(tmp_path: Path) -> None:
    texts = [example.text for example in LONG]

    def assert_rejected(pattern: str, **changes: Any) -> None:
        with pytest.raises(UserError, match=pattern):
            read_task_data(configuration(tmp_path, LONG, **changes))

    assert_rejected(r"distill\.teacher: no file or directory")
    model = teacher(tmp_path / "teacher", texts, LabelSet(["name", "town"]))
    assert_rejected(r"""bio of name, town; .*bio of name, place.*categories="\('name', 'town'\)""")
    assert_rejected(r"has 5 tags, bio of .*the student has 9, bioes of", data__scheme="bioes")
    encoder = {"encoder": model.params["encoder"]}
    save_model(tmp_path / "encoder", replace(model, labels=None, params=encoder))
    assert_rejected("an encoder without a head", distill__teacher=str(tmp_path / "encoder"))
    assert_rejected(r"model\.head: 'global_pointer' .* cannot learn", model__head="global_pointer")
    teacher(tmp_path / "good", texts)
    good = {"distill__teacher": str(tmp_path / "good")}
    assert_rejected(r"distill\.texts: no file", **good, distill__texts=str(tmp_path / "none.txt"))


def test_probable_mistakes_in_distill_texts_give_notes(tmp_path: Path) -> None:
    texts = [example.text for example in LONG]
    teacher(tmp_path / "teacher", texts)
    notes = read_task_data(
        configuration(tmp_path, LONG, distill__texts=str(tmp_path / "train.json"))
    ).notes
    assert any("3 texts have entities, which are ignored" in note for note in notes)
    assert any("4 texts are also in data.dev" in note for note in notes)
    assert any("on 8 texts, 4 of them unlabelled" in note for note in notes)


def test_the_student_has_a_quarter_of_the_parameters_of_cluener_scratch() -> None:
    sizes = []
    for config in (student.get_config(), cluener_scratch.get_config()):
        params = abstract_params(BertConfig(2900, 41, **with_fallbacks(config).model))
        sizes.append(sum(x.size for x in jax.tree.leaves(params)))
    assert sizes[0] < sizes[1] / 4


@pytest.mark.slow
def test_a_run_with_a_crf_learns_from_the_marginals(tmp_path: Path) -> None:
    (tmp_path / "more.txt").write_text("戊与甲" * 5, "utf-8")
    teacher(tmp_path / "teacher", [example.text for example in LONG])
    changes = {
        "model__head": "crf", "model__hidden_dropout_prob": 0.0, "model__classifier_dropout": 0.0,
        "model__attention_probs_dropout_prob": 0.0, "distill__texts": str(tmp_path / "more.txt"),
    }  # fmt: skip
    config = configuration(tmp_path, LONG, **changes)
    task = Tagging(config)
    task.setup(tmp_path, make_mesh(2, 2, config.data.batch_size), Console(file=StringIO()))
    rows = jax.tree.map(
        lambda x: x[0], task.batches(0, np.arange(config.data.batch_size)).shapes[0]
    )
    model = read_task_data(config).model
    params = init_params(model, jax.random.key(0))
    task_loss, _ = task.gradients({"params": params, "step": jnp.int32(0)}, rows)
    logits = apply(model, params, rows.input_ids, rows.segment_ids, rows.positions)
    decoder = Decoder("crf", LABELS.allowed_transitions(), LABELS.outside)
    loss = make_loss(config.loss, decoder)
    by_chain, by_tag = (
        float(add_distillation(loss, config.distill, reader)(logits, rows, params["head"]))
        for reader in (decoder, None)
    )
    assert float(task_loss) == pytest.approx(by_chain, rel=1e-4)
    assert abs(by_tag - by_chain) > 0.01 * by_chain


@pytest.mark.slow
def test_a_resumed_distillation_run_is_bit_identical(tmp_path: Path) -> None:
    train = synthetic("train", 60)
    labels = LabelSet(sorted({e.type for row in train for e in row.entities or ()}))
    teacher(tmp_path / "teacher", [row.text for row in train], labels)
    more = tmp_path / "more.txt"
    more.write_text("\n".join(row.text for row in synthetic("train", 90, seed=1)), "utf-8")
    steps = {"train__steps": 6, "checkpoint__every": 2, "mesh__data": 1, "data__max_length": 64}

    def run(name: str, **changes: Any) -> Any:
        fit(configuration(tmp_path, train, **steps, **changes), tmp_path / name)
        return load_model(tmp_path / name / "last").params

    taught = {"distill__texts": str(more)}
    whole = run("run", **taught)
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "6")
    assert_same(run("run", **taught), whole)
    other = load_model(tmp_path / "teacher")
    other.params = jax.tree.map(lambda x: 2 * x, other.params)
    save_model(tmp_path / "teacher", other)
    with pytest.raises(UserError, match=r"started with other inputs: distill\.teacher\. Restore"):
        run("run", **taught)
    plain = run("plain", distill__teacher="")
    assert_same(run("weightless", distill__weight=0.0), plain)
    assert (whole["head"]["classifier"]["kernel"] != plain["head"]["classifier"]["kernel"]).any()
