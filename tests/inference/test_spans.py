"""A tagger with a span head: nested entities, in packed rows, windows and words of several tokens."""

import itertools
import json
import math
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest

from flax_ner import Tagger, load
from flax_ner.config import default_config
from flax_ner.config_checks import check_config
from flax_ner.errors import UserError
from flax_ner.fit import fit
from flax_ner.inference.label_errors import find_label_errors
from flax_ner.inference.spans import choose_disjoint
from flax_ner.inference.windows import windows
from flax_ner.model.tagging_model import init_params
from flax_ner.text.encoding import NO_LABEL, encode_examples
from flax_ner.text.examples import Entity, Example
from flax_ner.text.labels import LabelSet, SpanLabels
from flax_ner.text.overlaps import count_overlaps
from flax_ner.text.tokenizer import CharTokenizer, WordPieceTokenizer
from flax_ner.weights.export import export
from flax_ner.weights.model_dir import ModelDir, save_model
from tests.inference.helpers import CONFIG, VOCAB

LABELS = SpanLabels(["name", "place"])
PIECES = [*VOCAB, "##b", "##i"]
TEXTS = ["b", "obi", "iib中", "", "bobi b", "ibb i", "中 bi", "bi" * 20]


def model(seed: int = 0) -> ModelDir:
    """Return a model with random weights, large enough that some spans score above 0."""
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


def expected_entities(tagger: Tagger, text: str) -> list[Entity]:
    """Return all spans that score above 0, from the logits of the text alone in a row."""
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
def test_exactly_the_spans_with_a_score_above_zero_are_predicted(words: bool) -> None:
    tagger = tagger_of(model(), words)
    predicted = tagger(TEXTS)
    expected = [expected_entities(tagger, text) for text in TEXTS]
    assert [[e[:4] for e in row] for row in predicted] == [[e[:4] for e in row] for row in expected]
    for one, other in zip(itertools.chain(*predicted), itertools.chain(*expected), strict=True):
        assert one.score == pytest.approx(other.score, rel=1e-4)
    nested = [
        (a, b)
        for row in predicted
        for a, b in itertools.permutations(row, 2)
        if a.start <= b.start and b.end <= a.end
    ]
    assert len(nested) > 5
    assert tagger(TEXTS, threshold=0.6) == [[e for e in row if e.score >= 0.6] for row in predicted]


def test_without_nesting_the_best_disjoint_spans_are_predicted() -> None:
    nested = tagger_of(model())
    flat = Tagger(
        nested.config, nested.params, nested.tokenizer, SpanLabels(LABELS.categories, False), 64, 4
    )
    overlapping = 0
    for all_spans, chosen in zip(nested(TEXTS), flat(TEXTS), strict=True):
        overlapping += count_overlaps(all_spans)
        assert not count_overlaps(chosen) and set(chosen) <= set(all_spans)
        # The logit of the probability is the score of the span.
        score = {e: math.log(e.score / (1 - e.score)) for e in all_spans}
        best = max(
            sum(score[e] for e in some)
            for size in range(5)
            for some in itertools.combinations(all_spans, size)
            if not count_overlaps(some)
        )
        assert len(chosen) < 5
        assert sum(score[e] for e in chosen) == pytest.approx(best, rel=1e-6)
    assert overlapping > 5


def test_disjoint_spans_are_chosen_per_text() -> None:
    random = np.random.default_rng(0)
    for _ in range(100):
        text = np.sort(random.integers(0, 3, 8))
        start = random.integers(0, 6, 8)
        end, score = start + random.integers(1, 5, 8), random.random(8)
        order = np.lexsort((start, text))
        start, end, score = start[order], end[order], score[order]
        spans = list(zip(text.tolist(), start.tolist(), end.tolist(), strict=True))
        valid = [
            kept
            for kept in itertools.product([False, True], repeat=8)
            if not any(
                one[0] == other[0] and one[1] < other[2] and other[1] < one[2]
                for one, other in itertools.combinations(itertools.compress(spans, kept), 2)
            )
        ]
        best = max(valid, key=lambda kept: score[list(kept)].sum())
        assert choose_disjoint(text, start, end, score).tolist() == list(best)
    empty = np.zeros(0, np.int64)
    assert choose_disjoint(empty, empty, empty, empty).tolist() == []


def test_lines_of_a_long_text_are_tagged_like_each_alone() -> None:
    made = model()
    whole, short = tagger_of(made, words=False), tagger_of(made, words=False, max_length=42)
    random = np.random.default_rng(0)
    lines = ["".join(random.choice(list("bio中 "), 35)) for _ in range(30)]
    predicted = short("\n".join(lines))
    assert [e.text for e in predicted] == [e.text for row in whole(lines) for e in row]
    assert all("\n".join(lines)[e.start : e.end] == e.text for e in predicted)


@pytest.mark.parametrize("seed", range(3))
def test_windows_predict_each_span_once_and_miss_no_short_span(seed: int) -> None:
    tagger = tagger_of(model(seed), words=False, max_length=22)
    text = "bio中ibbi中o" * 8
    predicted = tagger(text)
    assert predicted and len({e[:3] for e in predicted}) == len(predicted)
    # Each window predicts the same spans as its text alone. A span in two windows is predicted by one.
    per_window = []
    for window in windows(len(text), 20):
        own = tagger(text[window.start : window.stop])
        per_window.append({(e.type, e.start + window.start, e.end + window.start) for e in own})
    assert {e[:3] for e in predicted} <= set.union(*per_window)
    for one, other in itertools.pairwise(per_window):
        assert {e for e in one & other if e[2] - e[1] <= 5} <= {e[:3] for e in predicted}


def test_texts_without_tokens_have_no_spans() -> None:
    tagger = tagger_of(model())
    assert tagger([""]) == tagger([" "]) == [[]]
    assert tagger(["b"] * 1024 + [""])[-1] == []


def test_a_saved_and_loaded_model_gives_the_same_entities(tmp_path: Path) -> None:
    save_model(tmp_path / "model", model())
    tagger = load(tmp_path / "model")
    assert tagger(TEXTS) == tagger_of(model())(TEXTS)
    assert isinstance(tagger.labels, SpanLabels)


def test_options_for_tags_are_errors_for_a_span_head(tmp_path: Path) -> None:
    tagger = tagger_of(model())
    with pytest.raises(UserError, match=r"'lenient' decodes tags, but .* Choose strict"):
        tagger(TEXTS, "lenient")
    with pytest.raises(UserError, match="global_pointer has no tag probabilities"):
        tagger.predict_proba("bib")
    with pytest.raises(UserError, match="global_pointer"):
        find_label_errors(tagger, [Example("bib", (Entity("name", 0, 2),))])
    for layout in ("hf", "mmocr"):
        with pytest.raises(
            UserError,
            match=r"does not support model\.head global_pointer, because it cannot hold span scores",
        ):
            export(model(), tmp_path / "out", layout)
    for name, value in (("train.r_drop", 1.0), ("loss.name", "focal"), ("eval.scoring", "mmocr")):
        config = default_config()
        config.model.head = "global_pointer"
        config.update_from_flattened_dict({name: value})
        with pytest.raises(UserError, match=f"{name}: .*global_pointer"):
            check_config(config)


def test_a_token_has_a_label_for_each_entity_that_starts_with_it() -> None:
    text = "bib ib"
    entities = [("name", 0, 3), ("place", 0, 6), ("name", 4, 6), ("name", 0, 3)]
    examples = [Example(text, tuple(Entity(*e) for e in entities)), Example("o", ())]
    chars = encode_examples(examples, CharTokenizer(VOCAB), LABELS, 64)
    assert chars.labels.shape == (8 + 3, 2)
    assert chars.labels[1].tolist() == [
        LABELS.encode_span("name", 3),
        LABELS.encode_span("place", 6),
    ]
    assert chars.labels[5].tolist() == [LABELS.encode_span("name", 2), 0]
    assert not np.delete(chars.labels, [1, 5], 0).any()
    words = encode_examples(examples, WordPieceTokenizer(PIECES), LABELS, 64)  # b ##i ##b i ##b
    assert words.labels[:, 0].tolist() == [
        0, LABELS.encode_span("name", 1), NO_LABEL, NO_LABEL,
        LABELS.encode_span("name", 1), NO_LABEL, 0, 0, 0, 0,
    ]  # fmt: skip
    assert words.labels[1, 1] == LABELS.encode_span("place", 4)
    with pytest.raises(UserError, match="category 'book' is not among name, place"):
        LABELS.encode_span("book", 1)
    assert LabelSet.from_json(LABELS.to_json()).to_json() == LABELS.to_json()


def nested_examples() -> list[str]:
    """Return sentences with a school named after a city; both are labelled."""
    lines = []
    for i, (city, verb) in enumerate(itertools.product(["北京", "南京", "上海"], ["在", "去"])):
        text = f"{'我们他'[i % 3]}{verb}{city}大学了"
        label = {"school": {f"{city}大学": [[2, 5]]}, "city": {city: [[2, 3]]}}
        lines.append(json.dumps({"text": text, "label": label}, ensure_ascii=False))
    return lines * 10


@pytest.mark.slow
def test_nested_entities_are_learned_and_predicted(tmp_path: Path) -> None:
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
    (predicted,) = load(tmp_path / "run" / "best")(["我去南京大学了"])
    assert [e[:4] for e in predicted] == [("city", 2, 4, "南京"), ("school", 2, 6, "南京大学")]
