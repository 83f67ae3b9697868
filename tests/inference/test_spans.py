"""A tagger of spans: entities that lie in one another, in rows, windows and words of several tokens."""

import itertools
import json
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest

from flax_ner import Tagger, load
from flax_ner.config import check_config, default_config
from flax_ner.errors import UserError
from flax_ner.inference.suspects import suspects
from flax_ner.inference.windows import windows
from flax_ner.model.tagger import init_params
from flax_ner.text.encoding import NO_LABEL, encode_examples
from flax_ner.text.examples import Entity, Example
from flax_ner.text.labels import LabelSet, SpanLabels
from flax_ner.text.tokenizer import CharTokenizer, WordPieceTokenizer
from flax_ner.training.loop import fit
from flax_ner.weights.export import export
from flax_ner.weights.model_dir import ModelDir, save_model
from tests.inference.helpers import CONFIG, VOCAB

LABELS = SpanLabels(["name", "place"])
PIECES = [*VOCAB, "##b", "##i"]
TEXTS = ["b", "obi", "iib中", "", "bobi b", "ibb i", "中 bi", "bi" * 20]


def model(seed: int = 0) -> ModelDir:
    """Random weights, large enough for some spans to score above 0."""
    config = replace(CONFIG, head="global_pointer", vocab_size=len(PIECES), num_labels=2)
    params = init_params(config, jax.random.key(seed))
    params["encoder"]["embeddings"]["word"] *= 50
    for part in params["head"].values():
        part["kernel"] = jax.random.normal(jax.random.key(seed), part["kernel"].shape) / 3
    params["head"]["edges"]["bias"] *= 0
    return ModelDir(config, LABELS, PIECES, 64, params, True, "wordpiece")


def tagger_of(made: ModelDir, words: bool = True, max_length: int = 64) -> Tagger:
    tokenizer = (WordPieceTokenizer if words else CharTokenizer)(made.vocab)
    return Tagger(made.config, made.params, tokenizer, LABELS, max_length, 4)


def by_hand(tagger: Tagger, text: str) -> list[Entity]:
    """All spans that score above 0, from the scores of the text alone in a row."""
    tokens = tagger.tokenizer.tokenize([text])
    ids = np.array([tagger.tokenizer.encode(text).ids])
    table = np.asarray(tagger.logits(ids, np.ones_like(ids)), np.float64)[0, :, 1:-1, 1:-1]
    words = np.flatnonzero(tokens.first)
    made = []
    for first, last in itertools.combinations_with_replacement(words.tolist(), 2):
        for kind, name in enumerate(LABELS.categories):
            if table[kind, first, last] > 0:
                a, b = int(tokens.start[first]), int(tokens.end[last])
                p = 1 / (1 + np.exp(-table[kind, first, last]))
                made.append((a, b, kind, Entity(name, a, b, text[a:b], p)))
    return [entity for *_, entity in sorted(made, key=lambda x: x[:3])]


@pytest.mark.parametrize("words", [True, False], ids=["words", "characters"])
def test_every_span_above_zero_is_found_and_no_other(words: bool) -> None:
    tagger = tagger_of(model(), words)
    found = tagger(TEXTS)
    expected = [by_hand(tagger, text) for text in TEXTS]
    assert [[e[:4] for e in row] for row in found] == [[e[:4] for e in row] for row in expected]
    for one, other in zip(itertools.chain(*found), itertools.chain(*expected), strict=True):
        assert one.score == pytest.approx(other.score, rel=1e-4)
    nested = [
        (a, b)
        for row in found
        for a, b in itertools.permutations(row, 2)
        if a.start <= b.start and b.end <= a.end
    ]
    assert len(nested) > 5
    assert tagger(TEXTS, threshold=0.6) == [[e for e in row if e.score >= 0.6] for row in found]


def test_lines_of_a_long_text_are_read_as_if_alone() -> None:
    made = model()
    whole, short = tagger_of(made, words=False), tagger_of(made, words=False, max_length=42)
    random = np.random.default_rng(0)
    lines = ["".join(random.choice(list("bio中 "), 35)) for _ in range(30)]
    found = short("\n".join(lines))
    assert [e.text for e in found] == [e.text for row in whole(lines) for e in row]
    assert all("\n".join(lines)[e.start : e.end] == e.text for e in found)


@pytest.mark.parametrize("seed", range(3))
def test_windows_give_each_span_once_and_lose_none_of_few_tokens(seed: int) -> None:
    tagger = tagger_of(model(seed), words=False, max_length=22)
    text = "bio中ibbi中o" * 8
    found = tagger(text)
    assert found and len({e[:3] for e in found}) == len(found)
    # What each window finds is what it finds alone; a span that two of them hold is found by either.
    each = []
    for window in windows(len(text), 20):
        own = tagger(text[window.start : window.stop])
        each.append({(e.type, e.start + window.start, e.end + window.start) for e in own})
    assert {e[:3] for e in found} <= set.union(*each)
    for one, other in itertools.pairwise(each):
        assert {e for e in one & other if e[2] - e[1] <= 5} <= {e[:3] for e in found}


def test_texts_without_tokens_have_no_spans() -> None:
    tagger = tagger_of(model())
    assert tagger([""]) == tagger([" "]) == [[]]
    assert tagger(["b"] * 1024 + [""])[-1] == []


def test_a_directory_gives_the_same(tmp_path: Path) -> None:
    save_model(tmp_path / "model", model())
    tagger = load(tmp_path / "model")
    assert tagger(TEXTS) == tagger_of(model())(TEXTS)
    assert isinstance(tagger.labels, SpanLabels)


def test_what_is_about_tags_is_refused(tmp_path: Path) -> None:
    tagger = tagger_of(model())
    with pytest.raises(UserError, match=r"'lenient' is a way to read tags, and .* Choose strict"):
        tagger(TEXTS, "lenient")
    with pytest.raises(UserError, match="global_pointer has no probabilities of tags"):
        tagger.explain("bib")
    with pytest.raises(UserError, match="global_pointer"):
        suspects(tagger, [Example("bib", (Entity("name", 0, 2),))])
    for layout in ("hf", "mmocr"):
        with pytest.raises(UserError, match=r"no place for the spans of model\.head global_poi"):
            export(model(), tmp_path / "out", layout)
    for name, value in (("train.r_drop", 1.0), ("loss.name", "focal"), ("eval.scoring", "mmocr")):
        config = default_config()
        config.model.head = "global_pointer"
        config.update_from_flattened_dict({name: value})
        with pytest.raises(UserError, match=f"{name}: .*global_pointer"):
            check_config(config)


def test_a_token_has_a_label_for_each_entity_that_begins_with_it() -> None:
    text = "bib ib"
    entities = [("name", 0, 3), ("place", 0, 6), ("name", 4, 6), ("name", 0, 3)]
    examples = [Example(text, tuple(Entity(*e) for e in entities)), Example("o", ())]
    chars = encode_examples(examples, CharTokenizer(VOCAB), LABELS, 64)
    assert chars.labels.shape == (8 + 3, 2)
    assert chars.labels[1].tolist() == [LABELS.number("name", 3), LABELS.number("place", 6)]
    assert chars.labels[5].tolist() == [LABELS.number("name", 2), 0]
    assert not np.delete(chars.labels, [1, 5], 0).any()
    words = encode_examples(examples, WordPieceTokenizer(PIECES), LABELS, 64)  # b ##i ##b i ##b
    assert words.labels[:, 0].tolist() == [
        0, LABELS.number("name", 1), NO_LABEL, NO_LABEL, LABELS.number("name", 1), NO_LABEL, 0, 0, 0, 0,
    ]  # fmt: skip
    assert words.labels[1, 1] == LABELS.number("place", 4)
    with pytest.raises(UserError, match="category 'book' is not among name, place"):
        LABELS.number("book", 1)
    assert LabelSet.from_json(LABELS.to_json()).to_json() == LABELS.to_json()


def nested_examples() -> list[str]:
    """Sentences of a school named after a city, of which the data have both."""
    lines = []
    for i, (city, verb) in enumerate(itertools.product(["北京", "南京", "上海"], ["在", "去"])):
        text = f"{'我们他'[i % 3]}{verb}{city}大学了"
        label = {"school": {f"{city}大学": [[2, 5]]}, "city": {city: [[2, 3]]}}
        lines.append(json.dumps({"text": text, "label": label}, ensure_ascii=False))
    return lines * 10


@pytest.mark.slow
def test_entities_in_one_another_are_learnt_and_come_back(tmp_path: Path) -> None:
    (tmp_path / "data.json").write_text("\n".join(nested_examples()), "utf-8")
    config = default_config()
    config.model.update(
        hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=32, head="global_pointer", hidden_dropout_prob=0.0,
    )  # fmt: skip
    config.data.update(max_length=32, batch_size=8, train=str(tmp_path / "data.json"))
    config.data.dev = config.data.train
    config.mesh.data = 1
    config.train.epochs, config.eval.every, config.optimizer.learning_rate = 40, 40, 1e-2
    assert fit(config, tmp_path / "run").f1 == 1.0
    (found,) = load(tmp_path / "run" / "best")(["我去南京大学了"])
    assert [e[:4] for e in found] == [("city", 2, 4, "南京"), ("school", 2, 6, "南京大学")]
