"""Label sets: tag names, and entities encoded as tags."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flax_ner.data.cluener import read_cluener
from flax_ner.errors import UserError
from flax_ner.text.labels import LabelSet, SpanLabels
from flax_ner.text.overlaps import count_overlaps, drop_overlaps
from tests.text.helpers import CATEGORIES, LENGTH, EntityList, decode_names, entities, round_trip


def test_encode_equals_the_reference(golden: Path, cluener: Path) -> None:
    labels = LabelSet.mmocr(CATEGORIES)
    examples = read_cluener(cluener / "dev.json")
    rows = np.zeros((len(examples), 128), np.int32)
    for row, example in zip(rows, examples, strict=True):
        row[: len(example.text) + 2] = labels.encode(example.entities or (), len(example.text))
    assert rows.shape == (1343, 128)
    np.testing.assert_array_equal(rows, np.load(golden / "convertor_dev.npz")["labels"])


def test_mmocr_tag_names_equal_those_of_its_checkpoints(golden: Path) -> None:
    names = json.loads((golden / "config.json").read_text("utf-8"))["id2label"]
    assert LabelSet.mmocr(CATEGORIES).names == [names[str(i)] for i in range(24)]


def test_tag_names_of_the_other_schemes() -> None:
    assert LabelSet(["a", "b"]).names == ["O", "B-a", "B-b", "I-a", "I-b"]
    assert LabelSet(["a"], "bioes").names == ["O", "B-a", "I-a", "E-a", "S-a"]


@pytest.mark.parametrize("convention", ["strict", "lenient"])
@pytest.mark.parametrize("scheme", ["bio", "bioes", "mmocr"])
@settings(max_examples=50, deadline=None)
@given(gold=entities(LENGTH))
def test_decode_is_the_inverse_of_encode(scheme: str, convention: str, gold: EntityList) -> None:
    assert round_trip(LabelSet(CATEGORIES, scheme), gold, convention) == gold


@pytest.mark.parametrize(
    ("entities", "kept"),
    [
        ([("a", 0, 4), ("b", 2, 5)], "B-a I-a I-a I-a O"),
        ([("b", 3, 5), ("a", 0, 4)], "B-a I-a I-a I-a O"),
        ([("a", 0, 2), ("b", 1, 3)], "B-a I-a O O O"),  # equally long: the first wins
        ([("b", 1, 3), ("a", 0, 2)], "O B-b I-b O O"),
        ([("a", 0, 2), ("a", 1, 4), ("b", 3, 5)], "O B-a I-a I-a O"),
        ([("a", 1, 2), ("b", 0, 5)], "B-b I-b I-b I-b I-b"),  # nested
        ([("a", 0, 2), ("a", 0, 2), ("b", 2, 3)], "B-a I-a B-b O O"),  # duplicate
    ],
)
def test_encode_keeps_or_drops_overlapping_entities_entirely(
    entities: list[tuple[str, int, int]], kept: str
) -> None:
    labels = LabelSet(["a", "b"])
    names = [labels.names[tag] for tag in labels.encode(entities, 5)]
    assert " ".join(names[1:-1]) == kept


def test_under_mmocr_a_later_entity_overwrites() -> None:
    labels = LabelSet.mmocr(["a", "b"])
    names = [labels.names[tag] for tag in labels.encode([("a", 0, 4), ("b", 1, 3)], 5)]
    assert names == ["O", "B-a", "B-b", "I-b", "I-a", "O", "O"]


ENTITIES = st.lists(
    st.tuples(st.sampled_from("ab"), st.integers(0, 9), st.integers(1, 4)).map(
        lambda e: (e[0], e[1], min(e[1] + e[2], 10))
    ),
    max_size=8,
)


# Prefixes of BIO and BIOES heads, and of heads that lack S- or E- tags.
PREFIX_SETS = ["B I", "B I E S", "B I E", "B I S"]


@pytest.mark.parametrize("prefixes", PREFIX_SETS)
@given(entities=ENTITIES)
def test_encode_produces_allowed_transitions_and_keeps_entities(
    prefixes: str, entities: list[tuple[str, int, int]]
) -> None:
    names = ["O", *(f"{prefix}-{category}" for category in "ab" for prefix in prefixes.split())]
    labels = LabelSet.from_names(names)
    tags = labels.encode(entities, 10)
    assert labels.allowed_transitions()[tags[:-1], tags[1:]].all()
    kept, dropped = drop_overlaps(entities)
    assert count_overlaps(kept) == 0
    assert {*kept, *dropped} == {*entities}
    for _, start, end in dropped:  # dropped in favour of one at least as long
        assert any(a < end and start < b and b - a >= end - start for _, a, b in kept)
    (decoded,) = labels.decode(tags[None], np.ones((1, 12)))
    assert decoded == sorted(kept, key=lambda e: e[1])


def test_encode_accepts_anything_that_starts_with_type_start_end() -> None:
    labels = LabelSet(["a"])
    expected = labels.encode([("a", 1, 3)], 4)
    assert expected.dtype == np.int32
    np.testing.assert_array_equal(labels.encode([["a", 1, 3, "text", 0.5]], 4), expected)


@pytest.mark.parametrize(
    ("entity", "message"),
    [
        (("c", 0, 1), "category 'c' is not among a, b"),
        (("a", 2, 2), r"a has the span \[2, 2\) in a text of 5"),
        (("a", 3, 2), r"a has the span \[3, 2\)"),
        (("a", -1, 2), r"a has the span \[-1, 2\)"),
        (("a", 4, 6), r"a has the span \[4, 6\)"),
    ],
)
def test_an_invalid_entity_raises(entity: tuple[str, int, int], message: str) -> None:
    with pytest.raises(UserError, match=message):
        LabelSet(["a", "b"]).encode([entity], 5)


def test_unknown_names_raise_with_the_choices() -> None:
    with pytest.raises(UserError, match=r"data\.scheme: 'bilou' .*bio, bioes, io, mmocr"):
        LabelSet(["a"], "bilou")
    with pytest.raises(UserError, match=r"convention: 'exact' .*strict, lenient, mmocr"):
        LabelSet(["a"]).decode(np.zeros((1, 2), int), np.ones((1, 2)), "exact")


@pytest.mark.parametrize("categories", [[], ["a", "b", "a"]])
def test_categories_must_be_distinct_and_not_empty(categories: list[str]) -> None:
    with pytest.raises(UserError, match=r"data\.categories"):
        LabelSet(categories)


@pytest.mark.parametrize("scheme", ["bio", "bioes", "mmocr"])
def test_a_label_set_survives_json(scheme: str) -> None:
    labels = LabelSet(["b", "a-c", "人名"], scheme)
    again = LabelSet.from_json(json.loads(json.dumps(labels.to_json())))
    assert (again.scheme, again.categories) == (scheme, labels.categories)
    assert again.names == labels.names
    assert len(again) == len(labels.names)


@st.composite
def foreign_names(draw: st.DrawFn) -> list[str]:
    """Tag names of a head from another framework, in any order."""
    letters = draw(st.sampled_from(["BI", "BIES", "BMES", "BILU"]))
    names = ["O", *(f"{letter}-{category}" for letter in letters for category in CATEGORIES)]
    unused = draw(st.sets(st.sampled_from(["X", "[PAD]", "[START]"])))
    return draw(st.permutations([*names, *unused]))


@pytest.mark.parametrize("convention", ["strict", "lenient"])
@settings(max_examples=50, deadline=None)
@given(names=foreign_names(), gold=entities(LENGTH))
def test_any_order_of_tags_encodes_and_decodes(
    convention: str, names: list[str], gold: EntityList
) -> None:
    labels = LabelSet.from_names(names)
    assert labels.names == names and set(labels.categories) == set(CATEGORIES)
    assert labels.scheme == ("bio" if len(names) < 2 * len(CATEGORIES) + 5 else "bioes")
    assert round_trip(labels, gold, convention) == gold
    assert LabelSet.from_json(json.loads(json.dumps(labels.to_json()))).names == names


@pytest.mark.parametrize("scheme", ["bio", "bioes", "mmocr"])
def test_from_names_recognises_the_built_in_schemes(scheme: str) -> None:
    labels = LabelSet(["b", "a-c", "人名"], scheme)
    again = LabelSet.from_names(labels.names)
    assert again.to_json() == labels.to_json()


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ("", "O is missing"),
        ("B-a I-a", "O is missing"),
        ("O", "no tag has a category"),
        ("O X [START]", "no tag has a category"),
        ("LABEL_0 LABEL_1", "'LABEL_0' is not a tag"),
        ("PER LOC", "'PER' is not a tag"),
        ("O PER B-LOC I-LOC", "'PER' is not a tag"),
        ("O B-", "'B-' is not a tag"),
        ("O Q-a", "'Q-a' is not a tag"),
        ("O b-a i-a", "'b-a' is not a tag"),
        ("O a_B a_I", "'a_B' is not a tag"),
        ("O PER LOC PER", "two names mean the same tag"),
        ("O PER I-PER", "'PER' is not a tag"),
        ("O B-a I-a I-b", "B-b is missing"),
        ("O B-a B-a", "two names mean the same tag"),
        ("O B-a I-a M-a", "two names mean the same tag"),
        ("O O B-a", "two names mean the same tag"),
    ],
)
def test_names_that_are_not_tags_raise(names: str, message: str) -> None:
    with pytest.raises(UserError, match=f"^labels .*: {message}. Give one name per output: O and"):
        LabelSet.from_names(names.split())


@given(gold=ENTITIES)
def test_bio_names_keep_the_entities_of_well_formed_sequences(
    gold: list[tuple[str, int, int]],
) -> None:
    labels = LabelSet(["a", "b"], "bioes")
    kept = sorted(drop_overlaps(gold)[0], key=lambda e: e[1])
    names = [labels.bio_names()[tag] for tag in labels.encode(kept, 10)]
    assert decode_names(LabelSet(["a", "b"]), " ".join(names), "strict") == kept


def test_span_labels_have_no_names_of_tags() -> None:
    labels = SpanLabels(["a", "b"])
    for names in (labels.bio_names, labels.standard_names):
        with pytest.raises(UserError, match="has no tags"):
            names()


@pytest.mark.parametrize("nested", [True, False])
def test_span_labels_keep_whether_entities_may_be_nested(nested: bool) -> None:
    row = SpanLabels(["a", "b"], nested).to_json()
    read = LabelSet.from_json(row)
    assert isinstance(read, SpanLabels) and read.nested is nested and read.to_json() == row
    # Files of earlier versions do not say it. Their models predict nested entities.
    del row["nested"]
    earlier = LabelSet.from_json(row)
    assert isinstance(earlier, SpanLabels) and earlier.nested
    with pytest.raises(UserError, match=r"nested is 'no'\. Expected true or false"):
        LabelSet.from_json(row | {"nested": "no"})


@pytest.mark.parametrize(
    "row", [{}, [], {"scheme": "bio"}, {"categories": ["a"]}, {"scheme": "span"}, None]
)
def test_an_incomplete_object_is_reported(row: Any) -> None:
    with pytest.raises(UserError, match=r'^labels: expected \{"names"'):
        LabelSet.from_json(row)


def test_io_tag_names() -> None:
    assert LabelSet(["a", "b"], "io").names == ["O", "I-a", "I-b"]


def test_an_entity_that_the_tags_cannot_encode_raises() -> None:
    labels = LabelSet.from_names(["O", "B-a", "S-a"])
    assert labels.decode([[0, 1, 2, 0]], [[1] * 4])[0] == [("a", 1, 2)]
    with pytest.raises(UserError, match=r"^labels O, B-a, S-a: cannot encode every entity\."):
        labels.encode([("a", 1, 4)], 4)


@pytest.mark.parametrize("convention", ["strict", "lenient"])
@pytest.mark.parametrize("letters", ["BI", "BIS", "BIE", "BIES"])
@settings(max_examples=50, deadline=None)
@given(gold=entities(LENGTH))
def test_heads_without_end_or_single_tags_round_trip(
    letters: str, convention: str, gold: EntityList
) -> None:
    """Without E- tags an entity ends at its last I-, without S- tags at a lone B-."""
    names = ["O", *(f"{letter}-{category}" for letter in letters for category in CATEGORIES)]
    assert round_trip(LabelSet.from_names(names), gold, convention) == gold


def test_an_empty_category_raises() -> None:
    with pytest.raises(UserError, match="distinct and not empty"):
        LabelSet(["a", ""])
