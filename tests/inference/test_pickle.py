"""Pickled and copied taggers predict the same, also in other processes."""

import copy
import multiprocessing
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from flax_ner import Entity, Tagger, load
from flax_ner.errors import UserError
from flax_ner.inference import tagger as tagger_module
from flax_ner.model.tagging_model import cast_kernels, init_params
from flax_ner.text.labels import LabelSet
from flax_ner.text.tokenizer import CharTokenizer, Tokenizer, WordPieceTokenizer
from flax_ner.weights.model_dir import ModelDir, save_model
from tests.inference.helpers import CONFIG, LABELS, VOCAB, hand_made_params, hand_made_tagger
from tests.subwords import TEXTS, bpe_tokenizer

COPIES: dict[str, Callable[[Any], Any]] = {
    "pickle": lambda value: pickle.loads(pickle.dumps(value)),
    "deepcopy": copy.deepcopy,
}
each_copy = pytest.mark.parametrize("duplicate", COPIES.values(), ids=COPIES)


def random_tagger(tokenizer: Tokenizer, head: str, compute_dtype: str = "float32") -> Tagger:
    labels = LabelSet(["name", "place"], "bioes")
    config = replace(
        CONFIG, vocab_size=len(tokenizer.tokens), num_labels=len(labels), head=head,
        compute_dtype=compute_dtype,
    )  # fmt: skip
    params = init_params(config, jax.random.key(0))
    params["encoder"]["embeddings"]["word"] *= 50
    params["head"]["classifier"]["kernel"] *= 50  # confident, so that there are entities
    return Tagger(config, cast_kernels(config, params), tokenizer, labels, 32, 4)


@each_copy
@pytest.mark.parametrize(
    ("tokenizer", "head", "compute_dtype"),
    [
        (CharTokenizer(VOCAB), "softmax", "float32"),
        (CharTokenizer(VOCAB, lower_case=False), "crf", "bfloat16"),
        (WordPieceTokenizer([*VOCAB, "##b", "##i"]), "softmax_constrained", "float32"),
        (bpe_tokenizer(), "crf", "float32"),
    ],
    ids=["softmax", "crf in bfloat16", "wordpiece", "subword"],
)
def test_a_copy_gives_identical_entities_and_scores(
    duplicate: Callable[[Tagger], Tagger], tokenizer: Tokenizer, head: str, compute_dtype: str
) -> None:
    tagger = random_tagger(tokenizer, head, compute_dtype)
    texts = [*TEXTS, "", "obiBI 中b" * 20]
    expected = tagger(texts)  # compiled before the copy, so the copy must not hold what is compiled
    made = duplicate(tagger)
    assert made(texts) == expected and sum(map(len, expected)) > 3
    assert (made.max_length, made.batch_size) == (32, 4)
    for one, other in zip(
        jax.tree.leaves(made.params), jax.tree.leaves(tagger.params), strict=True
    ):
        assert isinstance(one, jax.Array) and one.dtype == other.dtype
        np.testing.assert_array_equal(one, other)


def test_a_deep_copy_does_not_share_its_parameters() -> None:
    tagger = hand_made_tagger()
    made = copy.deepcopy(tagger)
    made.params["head"]["classifier"]["kernel"] *= 0
    assert tagger("b") and not made("b")


def test_a_pickle_is_little_larger_than_the_parameters() -> None:
    tagger = hand_made_tagger()
    tagger("b")
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(tagger.params))
    assert len(pickle.dumps(tagger)) < size + 10_000


def test_a_copy_remembers_where_the_model_was_loaded_from(tmp_path: Path) -> None:
    save_model(tmp_path / "m", ModelDir(CONFIG, LABELS, VOCAB, 64, hand_made_params()))
    tagger = load(tmp_path / "m")
    assert repr(pickle.loads(pickle.dumps(tagger))) == repr(tagger)
    assert str(tmp_path / "m") in repr(tagger)


@each_copy
def test_a_tagger_with_a_sharding_is_not_copied(duplicate: Callable[[Tagger], Tagger]) -> None:
    mesh = jax.make_mesh((2,), ("data",), (AxisType.Auto,), devices=jax.devices()[:2])
    sharding = NamedSharding(mesh, P("data"))
    tagger = Tagger(CONFIG, hand_made_params(), CharTokenizer(VOCAB), LABELS, 64, sharding=sharding)
    with pytest.raises(UserError, match=r"a Tagger with a sharding cannot be pickled.*Pickle one"):
        duplicate(tagger)


def test_cloudpickle_and_a_spawned_process_get_the_same_tagger() -> None:
    cloudpickle = pytest.importorskip("cloudpickle")
    tagger = hand_made_tagger()
    assert pickle.loads(cloudpickle.dumps(tagger))("obib") == tagger("obib")
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(_tag, (tagger, "obib")) == tagger("obib")


def _tag(tagger: Tagger, text: str) -> list[Entity]:
    return tagger(text)


def test_a_fork_of_a_process_without_a_tagger_can_load_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tagger_module, "_jax_process", None)
    with pytest.raises(UserError, match="no file or directory"):
        load("nothing")
    monkeypatch.setattr(tagger_module.os, "getpid", lambda: -1)  # as in a fork
    assert hand_made_tagger()("b")


def test_a_forked_process_reports_an_error_instead_of_hanging(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tagger = hand_made_tagger()
    ids = np.zeros((1, 3), np.int32)
    monkeypatch.setattr(tagger_module.os, "getpid", lambda: -1)  # as in a fork
    calls: list[Callable[[], object]] = [
        lambda: tagger("b"), tagger.compile, lambda: load("model"), hand_made_tagger,
        lambda: tagger.logits(ids, ids),
    ]  # fmt: skip
    for call in calls:
        with pytest.raises(UserError, match=r'forked from .*\.set_start_method\("spawn"\)\.$'):
            call()
