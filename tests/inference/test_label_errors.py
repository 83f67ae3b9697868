"""Find label errors with a hand-made model whose predictions are known."""

import time
from dataclasses import replace

import jax
import numpy as np
import pytest

from flax_ner import Tagger
from flax_ner.data_quality.findings import Case
from flax_ner.errors import UserError
from flax_ner.inference.label_errors import LabelScorer, _overlapping_entities, find_label_errors
from flax_ner.inference.pending import Words
from flax_ner.model.tagging_model import init_params
from flax_ner.text.examples import Entity, Example
from flax_ner.text.labels import LabelSet
from flax_ner.text.tokenizer import CharTokenizer, WordPieceTokenizer
from tests.inference.helpers import CONFIG, LABELS, VOCAB, hand_made_tagger


def example(text: str, *spans: tuple[int, int], line: int = 1) -> Example:
    return Example(text, tuple(Entity("name", a, b, text[a:b]) for a, b in spans), f"file:{line}")


def cases_by_kind(*examples: Example) -> dict[str, list[Case]]:
    return {f.kind: f.cases for f in find_label_errors(hand_made_tagger(), examples)}


def test_labels_that_the_model_predicts_give_no_finding() -> None:
    rows = [example("obiio", (1, 4)), example("o"), example(""), Example("bbb", None, "file:4")]
    assert cases_by_kind(*rows) == {}
    assert cases_by_kind() == {}


def test_a_labelled_entity_that_the_model_rejects_is_unlikely() -> None:
    cases = cases_by_kind(example("bioo", (0, 2), (2, 4), line=7))
    ((case,),) = cases.values()
    assert list(cases) == ["unlikely_entity"]
    assert case.description == "the model predicts no entity here"
    assert case.locations == (("file:7", "bioo", 2, 4, "name"),)
    assert case.probability is not None and case.probability < 0.1


def test_a_predicted_entity_without_a_label_is_missing() -> None:
    cases = cases_by_kind(example("obio", line=3))
    ((case,),) = cases.values()
    assert list(cases) == ["missing_entity"]
    assert case.description == "the data has no entity here"
    assert case.locations == (("file:3", "obio", 1, 3, "name"),)
    assert case.probability is not None and case.probability > 0.5


def test_a_wrong_end_is_unlikely_even_if_each_tag_is_likely() -> None:
    cases = cases_by_kind(example("biio", (0, 2)))
    assert cases["unlikely_entity"][0].description == "the model predicts name 'bii'"
    assert cases["missing_entity"][0].description == "the data has name 'bi'"


def test_overlapping_entities_are_listed_in_linear_time() -> None:
    count = 20_000  # comparing all pairs takes a minute
    gold = [Entity("name", 3 * i, 3 * i + 1) for i in range(count)]
    predicted = [Entity("name", 3 * i, 3 * i + 2) for i in range(count)]
    start = time.process_time()
    all_text = Entity("all", 0, 3 * count)
    by_gold, by_predicted = _overlapping_entities([all_text, *gold], predicted)
    assert time.process_time() - start < 15
    assert by_gold == [predicted, *([e] for e in predicted)]
    assert by_predicted == [[all_text, e] for e in gold]


def test_cases_are_sorted_by_probability_over_all_batches() -> None:
    # More rows than a batch holds, and one that needs windows.
    rows = [example("oib" * n, (1, 2), line=n) for n in (1, 5, 40, 2, 9)] * 60
    cases = cases_by_kind(*rows)
    assert len(cases["unlikely_entity"]) == len(rows)
    assert len(cases["missing_entity"]) == sum(len(row.text) // 3 for row in rows)
    low = [case.probability or 0 for case in cases["unlikely_entity"]]
    high = [case.probability or 0 for case in cases["missing_entity"]]
    assert low == sorted(low) and high == sorted(high, reverse=True)


def test_an_unknown_category_is_an_error_with_its_line() -> None:
    row = Example("bio", (Entity("book", 0, 2),), "file:12")
    with pytest.raises(UserError, match=r"file:12: .*'book', only name\."):
        cases_by_kind(example("b"), row)


@pytest.mark.parametrize("head", ["softmax", "softmax_constrained", "crf"])
def test_predictions_are_those_of_the_tagger(head: str) -> None:
    """Holds too where the best tag sequence differs from the most probable tag of each character."""
    config = replace(CONFIG, head=head)
    params = init_params(config, jax.random.key(0))
    params["encoder"]["embeddings"]["word"] *= 50
    kernel = params["head"]["classifier"]["kernel"]
    params["head"]["classifier"]["kernel"] = jax.random.normal(jax.random.key(0), kernel.shape)
    if head == "crf":
        params["head"]["transitions"] = jax.random.normal(jax.random.key(1), (3, 3))
    tagger = Tagger(config, params, CharTokenizer(VOCAB), LABELS, 16, 4)
    random = np.random.default_rng(0)
    texts = ["".join(random.choice(list("bio中\n"), 30)) for _ in range(60)]
    by_argmax = list[list[tuple[int, int]]]()
    predicted = [[e[1:3] for e in row] for row in tagger(texts)]
    for table in tagger.predict_proba_each(texts):
        index = np.arange(len(table))
        spans = LABELS.spans(table.argmax(-1), np.zeros_like(index), index, "strict")
        by_argmax.append(list(zip(spans.start.tolist(), spans.end.tolist(), strict=True)))
    assert (predicted == by_argmax) == (head == "softmax")

    findings = find_label_errors(
        tagger, [Example(text, (Entity("name", 0, 30),), text) for text in texts]
    )
    cases = {f.kind: f.cases for f in findings}
    assert len(cases["unlikely_entity"]) == len(texts)
    descriptions = {case.locations[0].source: case.description for case in cases["unlikely_entity"]}
    for text, entities in zip(texts, tagger(texts), strict=True):
        listed = ", ".join(f"name {entity.text!r}" for entity in entities)
        assert descriptions[text] == f"the model predicts {listed or 'no entity here'}"
    missing = {
        (case.locations[0].source, *case.locations[0][2:4]) for case in cases["missing_entity"]
    }
    assert missing <= {(t, *span) for t, row in zip(texts, predicted, strict=True) for span in row}


def character_words(table: np.ndarray) -> Words:
    """Return the words of a text in which every character is a word."""
    start = np.arange(len(table))
    return Words(table, start, start + 1, table.argmax(-1))


def test_the_probability_is_the_minimum_over_tags() -> None:
    scorer = LabelScorer(LabelSet(["name"], "bio"))  # O, B-name, I-name
    table = np.array([[0.1, 0.8, 0.1], [0.1, 0.3, 0.6], [0.7, 0.1, 0.2]], np.float32)
    words = character_words(table)
    assert scorer.probability(words, Entity("name", 0, 2)) == pytest.approx(0.6)
    assert scorer.probability(words, Entity("name", 0, 1)) == pytest.approx(
        0.4
    )  # 1 - P(next tag is I-name)
    assert scorer.probability(words, Entity("name", 1, 3)) == pytest.approx(0.2)
    assert scorer.predicted_entities(words) == [Entity("name", 0, 2)]


def test_an_entity_within_words_gets_the_probability_of_the_words() -> None:
    scorer = LabelScorer(LabelSet(["name"], "bio"))  # O, B-name, I-name
    table = np.array([[0.1, 0.8, 0.1], [0.1, 0.3, 0.6], [0.7, 0.1, 0.2]], np.float32)
    words = Words(table, np.array([1, 5, 9]), np.array([4, 8, 12]), table.argmax(-1))
    assert scorer.predicted_entities(words) == [Entity("name", 1, 8)]
    assert scorer.probability(words, Entity("name", 1, 8)) == pytest.approx(0.6)
    assert scorer.probability(words, Entity("name", 2, 6)) == pytest.approx(0.6)
    assert scorer.probability(words, Entity("name", 8, 9)) == 0.0  # a space


def test_an_entity_within_a_predicted_word_is_not_a_missing_entity() -> None:
    tagger = hand_made_tagger()
    tagger.tokenizer = WordPieceTokenizer([*VOCAB, "##o"])
    row = Example("o bo b", (Entity("name", 2, 3), Entity("name", 5, 6)), "file:1")
    assert [e.text for e in tagger(row.text)] == ["bo", "b"]
    assert not find_label_errors(tagger, [row])


def test_with_end_tags_the_next_word_does_not_change_the_probability() -> None:
    labels = LabelSet(["name"], "bioes")
    table = np.full((3, len(labels)), 0.1, np.float32)
    table[0, labels.names.index("B-name")] = 0.9
    table[1, labels.names.index("E-name")] = 0.8
    table[2, labels.names.index("I-name")] = 1.0
    assert LabelScorer(labels).probability(
        character_words(table), Entity("name", 0, 2)
    ) == pytest.approx(0.8)
