"""Division into parts: shares, categories, copies of a text, seeds."""

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flax_ner.data.splitting import split_examples
from flax_ner.data.synthetic import synthetic
from flax_ner.text.examples import Entity, Example


def categories(examples: list[Example]) -> Counter[str]:
    return Counter(entity.type for example in examples for entity in example.entities or ())


def test_every_category_has_about_the_same_share_in_each_part() -> None:
    examples = synthetic("train", 2000)
    shares = (0.8, 0.1, 0.1)
    parts = split_examples(examples, shares)
    total = categories(examples)
    for part, share in zip(parts, shares, strict=True):
        assert len(part) == pytest.approx(share * 2000, abs=25)
        for category, count in categories(part).items():
            assert count == pytest.approx(share * total[category], rel=0.1, abs=3), category


@settings(max_examples=100, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from("abcdefgh"), st.sampled_from(["x", "y", None])), max_size=40
    ),
    st.integers(2, 5),
    st.integers(0, 9),
)
def test_every_example_is_in_one_part_and_every_text_too(
    rows: list[tuple[str, str | None]], count: int, seed: int
) -> None:
    examples = [
        Example(text, (Entity(category, 0, 1),) if category else (), f"file:{i}")
        for i, (text, category) in enumerate(rows)
    ]
    parts = split_examples(examples, [1 / count] * count, seed)
    assert sorted(e.source for part in parts for e in part) == sorted(e.source for e in examples)
    texts = [{e.text for e in part} for part in parts]
    assert sum(map(len, texts)) == len(set().union(*texts))
    assert parts == split_examples(examples, [1 / count] * count, seed)


def test_the_seed_changes_the_parts() -> None:
    examples = synthetic("train", 100)
    assert split_examples(examples, (0.5, 0.5), 0) != split_examples(examples, (0.5, 0.5), 1)
