"""Labels that a model doubts, by a model whose answers are known."""

import time
from dataclasses import replace

import jax
import numpy as np
import pytest

from flax_ner import Tagger
from flax_ner.errors import UserError
from flax_ner.inference.suspects import Judge, _across, suspects
from flax_ner.inference.work import Words
from flax_ner.model.tagger import init_params
from flax_ner.text.examples import Entity, Example
from flax_ner.text.findings import Case
from flax_ner.text.labels import LabelSet
from flax_ner.text.tokenizer import CharTokenizer, WordPieceTokenizer
from tests.inference.helpers import CONFIG, LABELS, VOCAB, hand_made_tagger


def example(text: str, *spans: tuple[int, int], line: int = 1) -> Example:
    return Example(text, tuple(Entity("name", a, b, text[a:b]) for a, b in spans), f"file:{line}")


def doubts(*examples: Example) -> dict[str, list[Case]]:
    return {f.kind: f.cases for f in suspects(hand_made_tagger(), examples)}


def test_labels_as_the_model_has_them_raise_no_doubt() -> None:
    rows = [example("obiio", (1, 4)), example("o"), example(""), Example("bbb", None, "file:4")]
    assert doubts(*rows) == {}
    assert doubts() == {}


def test_an_entity_that_is_none_is_unlikely() -> None:
    found = doubts(example("bioo", (0, 2), (2, 4), line=7))
    ((case,),) = found.values()
    assert list(found) == ["unlikely_entity"]
    assert case.what == "the model predicts nothing there"
    assert case.places == (("file:7", "bioo", 2, 4, "name"),)
    assert case.probability is not None and case.probability < 0.1


def test_an_entity_without_a_label_is_missing() -> None:
    found = doubts(example("obio", line=3))
    ((case,),) = found.values()
    assert list(found) == ["missing_entity"]
    assert case.what == "the data have nothing there"
    assert case.places == (("file:3", "obio", 1, 3, "name"),)
    assert case.probability is not None and case.probability > 0.5


def test_a_wrong_end_is_doubted_though_each_tag_is_likely() -> None:
    found = doubts(example("biio", (0, 2)))
    assert found["unlikely_entity"][0].what == "the model predicts name 'bii'"
    assert found["missing_entity"][0].what == "the data have name 'bi'"


def test_what_shares_characters_is_listed_in_linear_time() -> None:
    count = 20_000  # comparing all takes a minute
    gold = [Entity("name", 3 * i, 3 * i + 1) for i in range(count)]
    found = [Entity("name", 3 * i, 3 * i + 2) for i in range(count)]
    start = time.process_time()
    of_gold, of_found = _across([Entity("all", 0, 3 * count), *gold], found)
    assert time.process_time() - start < 15
    assert of_gold == [found, *([e] for e in found)]
    assert of_found == [[Entity("all", 0, 3 * count), e] for e in gold]


def test_the_greatest_doubts_come_first_wherever_they_stand() -> None:
    # More rows than a batch holds, and one that goes through windows.
    rows = [example("oib" * n, (1, 2), line=n) for n in (1, 5, 40, 2, 9)] * 60
    found = doubts(*rows)
    assert len(found["unlikely_entity"]) == len(rows)
    assert len(found["missing_entity"]) == sum(len(row.text) // 3 for row in rows)
    low = [case.probability or 0 for case in found["unlikely_entity"]]
    high = [case.probability or 0 for case in found["missing_entity"]]
    assert low == sorted(low) and high == sorted(high, reverse=True)


def test_a_category_the_model_does_not_know_is_refused_by_line() -> None:
    row = Example("bio", (Entity("book", 0, 2),), "file:12")
    with pytest.raises(UserError, match=r"file:12: .*'book', only name\."):
        doubts(example("b"), row)


@pytest.mark.parametrize("head", ["softmax", "softmax_constrained", "crf"])
def test_the_model_finds_what_the_tagger_finds(head: str) -> None:
    """Also where the best path of tags is not the most probable tag of each character."""
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
    by_tag, found = list[list[tuple[int, int]]](), [[e[1:3] for e in row] for row in tagger(texts)]
    for table in tagger.explain_each(texts):
        place = np.arange(len(table))
        spans = LABELS.spans(table.argmax(-1), np.zeros_like(place), place, "strict")
        by_tag.append(list(zip(spans.start.tolist(), spans.end.tolist(), strict=True)))
    assert (found == by_tag) == (head == "softmax")

    findings = suspects(tagger, [Example(text, (Entity("name", 0, 30),), text) for text in texts])
    cases = {f.kind: f.cases for f in findings}
    assert len(cases["unlikely_entity"]) == len(texts)
    told = {case.places[0].source: case.what for case in cases["unlikely_entity"]}
    for text, entities in zip(texts, tagger(texts), strict=True):
        listed = ", ".join(f"name {entity.text!r}" for entity in entities)
        assert told[text] == f"the model predicts {listed or 'nothing there'}"
    missing = {(case.places[0].source, *case.places[0][2:4]) for case in cases["missing_entity"]}
    assert missing <= {(t, *span) for t, row in zip(texts, found, strict=True) for span in row}


def characters(table: np.ndarray) -> Words:
    """A text of which every character is a word."""
    place = np.arange(len(table))
    return Words(table, place, place + 1, table.argmax(-1))


def test_the_probability_is_that_of_the_least_likely_tag() -> None:
    judge = Judge(LabelSet(["name"], "bio"))  # O, B-name, I-name
    table = np.array([[0.1, 0.8, 0.1], [0.1, 0.3, 0.6], [0.7, 0.1, 0.2]], np.float32)
    words = characters(table)
    assert judge.probability(words, Entity("name", 0, 2)) == pytest.approx(0.6)
    assert judge.probability(words, Entity("name", 0, 1)) == pytest.approx(0.4)  # ends before I
    assert judge.probability(words, Entity("name", 1, 3)) == pytest.approx(0.2)
    assert judge.found(words) == [Entity("name", 0, 2)]


def test_entities_of_longer_words_are_judged_by_those() -> None:
    judge = Judge(LabelSet(["name"], "bio"))  # O, B-name, I-name
    table = np.array([[0.1, 0.8, 0.1], [0.1, 0.3, 0.6], [0.7, 0.1, 0.2]], np.float32)
    words = Words(table, np.array([1, 5, 9]), np.array([4, 8, 12]), table.argmax(-1))
    assert judge.found(words) == [Entity("name", 1, 8)]
    assert judge.probability(words, Entity("name", 1, 8)) == pytest.approx(0.6)
    assert judge.probability(words, Entity("name", 2, 6)) == pytest.approx(0.6)
    assert judge.probability(words, Entity("name", 8, 9)) == 0.0  # a space


def test_an_entity_within_a_word_is_not_missing_the_word() -> None:
    tagger = hand_made_tagger()
    tagger.tokenizer = WordPieceTokenizer([*VOCAB, "##o"])
    row = Example("o bo b", (Entity("name", 2, 3), Entity("name", 5, 6)), "file:1")
    assert [e.text for e in tagger(row.text)] == ["bo", "b"]
    assert not suspects(tagger, [row])


def test_where_ends_have_tags_what_follows_tells_nothing() -> None:
    labels = LabelSet(["name"], "bioes")
    table = np.full((3, len(labels)), 0.1, np.float32)
    table[0, labels.names.index("B-name")] = 0.9
    table[1, labels.names.index("E-name")] = 0.8
    table[2, labels.names.index("I-name")] = 1.0
    assert Judge(labels).probability(characters(table), Entity("name", 0, 2)) == pytest.approx(0.8)
