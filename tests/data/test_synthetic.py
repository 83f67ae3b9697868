"""The synthetic data set: correct labels, and a dev set that shares nothing with train."""

import re
import time
from collections import Counter
from itertools import pairwise

import pytest

from flax_ner.data.synthetic import PATTERNS, synthetic
from flax_ner.errors import UserError
from flax_ner.text.examples import Entity, Example
from tests.text.helpers import CATEGORIES

COUNT = 10_000  # enough for nearly every name to occur
SPLITS = ("train", "dev")


@pytest.fixture(scope="module")
def splits() -> dict[str, list[Example]]:
    return {split: synthetic(split, COUNT) for split in SPLITS}


def mentions(examples: list[Example]) -> list[Entity]:
    return [entity for example in examples for entity in example.entities or ()]


@pytest.mark.parametrize("split", SPLITS)
def test_spans_match_surfaces_and_do_not_overlap(
    splits: dict[str, list[Example]], split: str
) -> None:
    for example in splits[split]:
        assert example.entities is not None, example
        for entity in example.entities:
            assert entity.text and example.text[entity.start : entity.end] == entity.text, example
        assert all(a.end <= b.start for a, b in pairwise(example.entities)), example


@pytest.mark.parametrize("split", SPLITS)
def test_texts_are_short_and_without_placeholders(
    splits: dict[str, list[Example]], split: str
) -> None:
    for example in splits[split]:
        assert 0 < len(example.text) <= 50, example
        assert not set("{}*| \n") & set(example.text), example


@pytest.mark.parametrize("split", SPLITS)
def test_quotation_marks_enclose_exactly_the_titles(
    splits: dict[str, list[Example]], split: str
) -> None:
    for example in splits[split]:
        titles = [e.text for e in example.entities or () if e.type in ("book", "movie", "game")]
        assert titles == re.findall("《[^《》]+》", example.text), example


def test_sources_are_numbered_from_one() -> None:
    assert [example.source for example in synthetic("dev", 3)] == [
        "synthetic-dev:1",
        "synthetic-dev:2",
        "synthetic-dev:3",
    ]


def test_sentences_depend_only_on_the_arguments() -> None:
    examples = synthetic("train", 200, seed=3)
    assert examples == synthetic("train", 200, seed=3)
    assert examples[:50] == synthetic("train", 50, seed=3)
    assert examples != synthetic("train", 200, seed=4)
    # Documented results of the demo depend on the same sentences on every machine.
    assert synthetic("train", 1)[0].text == "梁明既喜欢读《海岸时代》，也喜欢玩《神秘的火焰》。"
    assert synthetic("dev", 1)[0].text == "公司正在招聘第一教授，月薪2000元。"


@pytest.mark.parametrize("split", SPLITS)
def test_every_category_is_frequent_and_has_many_names(
    splits: dict[str, list[Example]], split: str
) -> None:
    entities = mentions(splits[split])
    counts = Counter(entity.type for entity in entities)
    assert set(counts) == set(CATEGORIES)
    assert min(counts.values()) > 0.04 * len(entities)
    assert max(counts.values()) < 0.30 * len(entities)
    names = Counter(category for category, _ in {(entity.type, entity.text) for entity in entities})
    assert min(names.values()) >= 60


@pytest.mark.parametrize("split", SPLITS)
def test_number_of_entities_per_sentence(splits: dict[str, list[Example]], split: str) -> None:
    sizes = Counter(len(example.entities or ()) for example in splits[split])
    assert max(sizes) <= 5
    # The same share in dev and train: assigning sentences to splits must not remove those without names.
    assert 0.09 < sizes[0] / COUNT < 0.13
    assert 1.5 < sum(size * times for size, times in sizes.items()) / COUNT < 2.5


@pytest.mark.parametrize("split", SPLITS)
def test_every_pattern_occurs(splits: dict[str, list[Example]], split: str) -> None:
    patterns = PATTERNS.split()
    assert len(patterns) == len(set(patterns)) >= 60
    texts = "\n".join(example.text for example in splits[split])
    for pattern in patterns:
        literals = map(re.escape, re.split(r"\{\w+\}", pattern))
        assert re.search(rf"^{'.+'.join(literals)}$", texts, re.MULTILINE), pattern


@pytest.mark.parametrize("seed", [0, 1])
def test_dev_shares_no_name_and_no_sentence_with_train(
    splits: dict[str, list[Example]], seed: int
) -> None:
    train, dev = splits["train"], synthetic("dev", COUNT, seed)
    # Compared across categories, because titles of books, movies and games are the same names.
    assert not {e.text for e in mentions(train)} & {e.text for e in mentions(dev)}
    assert not {example.text for example in train} & {example.text for example in dev}


def test_dev_has_name_parts_unseen_in_train(splits: dict[str, list[Example]]) -> None:
    train_text = "".join(example.text for example in splits["train"])
    for category in CATEGORIES:
        names = {e.text for e in mentions(splits["dev"]) if e.type == category}
        pairs = {name: {a + b for a, b in pairwise(name)} for name in names}
        unseen = [name for name in names if any(pair not in train_text for pair in pairs[name])]
        assert len(unseen) > 0.2 * len(names), category


def test_nearly_all_characters_of_dev_occur_in_train(splits: dict[str, list[Example]]) -> None:
    known = Counter("".join(example.text for example in splits["train"]))
    text = "".join(example.text for example in splits["dev"])
    # Several times, because the vocabulary has no characters rarer than `tokenizer.min_count`.
    assert sum(known[character] >= 5 for character in text) >= 0.99 * len(text)


def test_context_determines_the_category_of_a_title() -> None:
    """No two patterns differ only in the category of a title."""
    title_patterns = [p for p in PATTERNS.split() if re.search(r"\{(book|movie|game)\}", p)]
    counts = Counter(
        re.sub(r"\{(book|movie|game)\}", "{title}", pattern) for pattern in title_patterns
    )
    assert len(title_patterns) >= 15 and max(counts.values()) == 1


def test_generates_ten_thousand_sentences_in_a_second() -> None:
    times = []
    for _ in range(3):  # best of three, because other processes share the machine
        start = time.process_time()
        synthetic("train", COUNT)
        times.append(time.process_time() - start)
    assert min(times) < 1


@pytest.mark.parametrize("split", ["test", "", "Train"])
def test_unknown_split_raises(split: str) -> None:
    message = rf"^split: '{split}' is unknown\. Choose one of train, dev\.$"
    with pytest.raises(UserError, match=message) as error:
        synthetic(split, 1)
    assert isinstance(error.value, ValueError)


@pytest.mark.parametrize("count", [0, -5])
def test_count_below_one_raises(count: int) -> None:
    with pytest.raises(ValueError, match=rf"^count: must be at least 1, but is {count}\.$"):
        synthetic("train", count)
