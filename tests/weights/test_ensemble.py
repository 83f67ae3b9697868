"""Ensembles and averaged parameters."""

from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest

from flax_ner import load
from flax_ner.cli.main import main
from flax_ner.errors import UserError
from flax_ner.model.bert import BertConfig
from flax_ner.model.tagging_model import init_params
from flax_ner.text.labels import LabelSet, SpanLabels
from flax_ner.text.vocab import SPECIAL_TOKENS
from flax_ner.weights.describe import describe
from flax_ner.weights.ensemble import combine
from flax_ner.weights.export import export
from flax_ner.weights.model_dir import ModelDir, save_model

VOCAB = [*SPECIAL_TOKENS, *"abc中"]
TEXTS = ["abc中", "中a", "cab" * 10]
IDS = np.arange(24).reshape(2, 12) % len(VOCAB)


def model(seed: int, head: str = "softmax") -> ModelDir:
    labels = (SpanLabels if head == "global_pointer" else LabelSet)(["x", "y"])
    config = BertConfig(
        len(VOCAB), len(labels), 16, 1, 2, 16, max_position_embeddings=64, head=head
    )
    params = init_params(config, jax.random.key(seed))
    params["encoder"] = jax.tree.map(lambda x: 8 * x, params["encoder"])
    if head == "crf":
        shape = params["head"]["transitions"].shape
        params["head"]["transitions"] = jax.random.normal(jax.random.key(seed), shape)
    if head == "global_pointer":
        params["head"]["edges"]["bias"] *= 0  # predict about half of the spans
    return ModelDir(config, labels, VOCAB, 64, params)


def written(folder: Path, models: list[ModelDir]) -> list[str]:
    for i, member in enumerate(models):
        save_model(folder / str(i), member)
    return [str(folder / str(i)) for i in range(len(models))]


@pytest.mark.slow
@pytest.mark.every_python
@pytest.mark.parametrize("head", ["softmax", "softmax_constrained", "crf", "global_pointer"])
def test_ensemble_scores_are_the_mean(head: str, tmp_path: Path) -> None:
    paths = written(tmp_path, [model(seed, head) for seed in range(3)])
    main(["ensemble", str(tmp_path / "all"), *paths])
    tagger, members = load(tmp_path / "all"), [load(path) for path in paths]
    mask = np.ones_like(IDS)
    expected = np.mean([member.logits(IDS, mask) for member in members], 0)
    np.testing.assert_allclose(tagger.logits(IDS, mask), expected, atol=1e-4, rtol=1e-4)
    entities = tagger(TEXTS)
    assert any(entities) and entities != members[0](TEXTS)
    assert "an ensemble of 3 models" in describe(tmp_path / "all", "FILE")[0]


@pytest.mark.slow
def test_an_ensemble_of_identical_models_equals_the_model(tmp_path: Path) -> None:
    for head in ("softmax", "crf", "global_pointer"):
        single = model(1, head)
        save_model(tmp_path / head, single)
        save_model(tmp_path / "twice", combine([single, single], ["a", "b"]))
        one, twice = load(tmp_path / head)(TEXTS), load(tmp_path / "twice")(TEXTS)
        assert any(one)
        assert [[e[:4] for e in row] for row in one] == [[e[:4] for e in row] for row in twice]
        scores = [[e.score for row in entities for e in row] for entities in (one, twice)]
        assert scores[0] == pytest.approx(scores[1], rel=1e-4)


def test_averaged_parameters_are_the_mean(tmp_path: Path) -> None:
    models = [model(0), model(1)]
    paths = written(tmp_path, models)
    main(["ensemble", str(tmp_path / "mean"), *paths, "--average-parameters"])
    tagger = load(tmp_path / "mean")
    assert tagger.config == models[0].config
    expected = jax.tree.map(lambda x, y: (x + y) / 2, *(m.params for m in models))
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-6), tagger.params, expected)


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    paths = written(tmp_path, [model(0), model(1)])
    before = load(paths[0]).params
    with pytest.raises(
        SystemExit, match=r"0: exists, and nothing was overwritten\. .* OUT, which comes first\."
    ):
        main(["ensemble", *paths])
    jax.tree.map(np.testing.assert_array_equal, load(paths[0]).params, before)


def test_models_that_cannot_be_combined_are_refused(tmp_path: Path) -> None:
    one = model(0)
    other_labels = LabelSet(["x", "z"])
    for other, error in (
        (replace(one, labels=other_labels), "b: the labels differ from a"),
        (replace(one, vocab=[*VOCAB[:-1], "国"]), "b: the vocabulary or tokenizer differs from a"),
        (replace(one, lower_case=False), "the vocabulary or tokenizer differs"),
        (model(0, "crf"), "the shape or head differs"),
        (replace(one, labels=None), "b: is an encoder without a head"),
        (combine([one, one], ["a", "a"]), "b: is an ensemble"),
    ):
        with pytest.raises(UserError, match=error):
            combine([one, other], ["a", "b"])
    pointer = model(0, "global_pointer")
    flat = replace(pointer, labels=SpanLabels(["x", "y"], nested=False))
    with pytest.raises(UserError, match=r"b: the setting data\.nested differs from a"):
        combine([pointer, flat], ["a", "b"])
    with pytest.raises(UserError, match="needs at least two models"):
        combine([one], ["a"])
    # Fields that matter only in training may differ.
    other = replace(one.config, hidden_dropout_prob=0.5, initializer_range=0.1)
    other = replace(other, compute_dtype="bfloat16")
    both = combine([replace(one, config=other), one], ["a", "b"])
    assert (both.config.ensemble, both.config.compute_dtype) == (2, "float32")
    with pytest.raises(UserError, match="does not support an ensemble of 2 models"):
        export(combine([one, one], ["a", "b"]), tmp_path / "out", "hf")
