"""Tags decoded to entities under every convention."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from seqeval.metrics.sequence_labeling import get_entities
from seqeval.scheme import IOB2, IOBES, Entities

from flax_ner.text.labels import LabelSet
from tests.text.helpers import (
    CATEGORIES,
    LENGTH,
    EntityList,
    decode_names,
    entities,
    random_tags,
    round_trip,
    tag_names,
)


def test_mmocr_decoding_equals_the_reference(golden: Path) -> None:
    arrays = np.load(golden / "decode.npz")
    predicted = LabelSet.mmocr(CATEGORIES).decode(arrays["tags"], arrays["attention_mask"], "mmocr")
    expected = json.loads((golden / "decode.json").read_text("utf-8"))["entities"]
    assert len(predicted) == 400
    assert predicted == [
        [(t, s, e + 1) for t, s, e in row] for row in expected
    ]  # the reference has inclusive ends


@pytest.mark.parametrize("scheme", ["bio", "mmocr"])
@settings(max_examples=50, deadline=None)
@given(gold=entities(LENGTH))
def test_mmocr_decoding_loses_only_single_character_entities(scheme: str, gold: EntityList) -> None:
    kept = [(kind, start, end) for kind, start, end in gold if end - start > 1]
    assert round_trip(LabelSet(CATEGORIES, scheme), gold, "mmocr") == kept


@pytest.mark.parametrize("scheme", ["bio", "mmocr"])
@pytest.mark.parametrize(
    ("names", "mmocr", "strict", "lenient"),
    [
        pytest.param("O B-a O O", [], [("a", 0, 1)], [("a", 0, 1)], id="single character"),
        pytest.param(
            "O B-a I-b I-a O O", [("a", 0, 3)], [("a", 0, 1)],
            [("a", 0, 1), ("b", 1, 2), ("a", 2, 3)], id="I- of another type inside",
        ),
        pytest.param(
            "O B-a I-a I-b O O", [("a", 0, 2)], [("a", 0, 2)], [("a", 0, 2), ("b", 2, 3)],
            id="I- of another type after",
        ),
        pytest.param("O O B-a I-a", [("a", 1, 3)], *[[("a", 1, 2)]] * 2, id="[SEP] decoded"),
        pytest.param("O O O B-a", [], [], [], id="[SEP] alone"),
        pytest.param("O I-a I-a O O", [], [], [("a", 0, 2)], id="orphan I-"),
        pytest.param("B-a I-a I-a O", [], [], [("a", 0, 2)], id="B- at [CLS] is ignored"),
        pytest.param(
            "O B-a I-a B-a I-a O", *[[("a", 0, 2), ("a", 2, 4)]] * 3, id="B- starts a new entity",
        ),
    ],
)  # fmt: skip
def test_the_conventions_differ_as_documented(
    scheme: str, names: str, mmocr: EntityList, strict: EntityList, lenient: EntityList
) -> None:
    labels = LabelSet(["a", "b"], scheme)
    assert decode_names(labels, names, "mmocr") == mmocr
    assert decode_names(labels, names, "strict") == strict
    assert decode_names(labels, names, "lenient") == lenient


@pytest.mark.parametrize("tag", ["X", "[START]", "[END]"])
@pytest.mark.parametrize("convention", ["strict", "lenient", "mmocr"])
def test_special_tags_end_an_entity(tag: str, convention: str) -> None:
    labels = LabelSet.mmocr(["a"])
    assert decode_names(labels, f"O B-a I-a {tag} I-a O", convention)[:1] == [("a", 0, 2)]


@pytest.mark.parametrize("convention", ["strict", "lenient", "mmocr"])
@pytest.mark.parametrize("scheme", ["bio", "mmocr"])
def test_a_category_name_may_contain_hyphens(scheme: str, convention: str) -> None:
    # MMOCR truncates names at the second hyphen: all of these would be "a".
    gold = [("a-b", 0, 2), ("a-b-c", 2, 4), ("a", 5, 8), ("-", 8, 10)]
    labels = LabelSet(["a", "a-b", "a-b-c", "-"], scheme)
    assert round_trip(labels, gold, convention) == gold


@pytest.mark.parametrize("scheme", ["bio", "bioes"])
def test_lenient_equals_seqeval(scheme: str) -> None:
    labels = LabelSet(["a", "b"], scheme)
    tags, mask = random_tags(labels, 2000, seed=1)
    expected = [
        [(kind, start, last + 1) for kind, start, last in get_entities(row)]
        for row in tag_names(labels, tags, mask)
    ]
    assert labels.decode(tags, mask, "lenient") == expected


@pytest.mark.parametrize(("scheme", "oracle"), [("bio", IOB2), ("bioes", IOBES)])
def test_strict_equals_seqeval(scheme: str, oracle: type) -> None:
    labels = LabelSet(["a", "b"], scheme)
    tags, mask = random_tags(labels, 2000, seed=2)
    expected = [
        [(entity.tag, entity.start, entity.end) for entity in row]
        for row in Entities(tag_names(labels, tags, mask), oracle).entities
    ]
    assert labels.decode(tags, mask, "strict") == expected
    assert sum(end - start > 1 for row in expected for _, start, end in row) > 300


@pytest.mark.parametrize("convention", ["strict", "lenient", "mmocr"])
def test_decoding_rows_in_several_parts_changes_nothing(
    convention: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    labels = LabelSet(["a", "b"])
    tags, mask = random_tags(labels, 50, seed=3)
    whole = labels.decode_spans(tags, mask, convention)
    monkeypatch.setattr("flax_ner.text.labels.DECODE_ROWS", 7)
    for column, expected in zip(labels.decode_spans(tags, mask, convention), whole, strict=True):
        assert column.dtype == expected.dtype == np.int32
        np.testing.assert_array_equal(column, expected)


@pytest.mark.parametrize("convention", ["strict", "lenient", "mmocr"])
def test_rows_are_decoded_independently(convention: str) -> None:
    labels = LabelSet(["a", "b"])
    tags, mask = random_tags(labels, 50, seed=3)
    alone = [labels.decode(tags[i : i + 1], mask[i : i + 1], convention)[0] for i in range(50)]
    assert labels.decode(tags, mask, convention) == alone


@pytest.mark.parametrize("convention", ["strict", "lenient", "mmocr"])
def test_decoding_does_not_depend_on_the_memory_layout(convention: str) -> None:
    labels = LabelSet(["a", "b"])
    tags, mask = random_tags(labels, 50, seed=3)
    expected = labels.decode(tags, mask, convention)
    assert labels.decode(np.asfortranarray(tags), np.asfortranarray(mask), convention) == expected
    assert labels.decode(np.repeat(tags, 2, 1)[:, ::2], mask.astype(float), convention) == expected


@pytest.mark.parametrize("convention", ["strict", "lenient", "mmocr"])
def test_characters_left_out_count_as_outside(convention: str) -> None:
    labels = LabelSet(["a", "b"])
    tags, mask = random_tags(labels, 200, seed=4)
    row, position = np.nonzero((mask > 0) & (np.arange(mask.shape[1]) > 0))
    tag = tags[row, position]
    inside = tag != labels.outside
    whole = labels.spans(tag, row, position - 1, convention)
    kept = labels.spans(tag[inside], row[inside], position[inside] - 1, convention)
    for column, expected in zip(kept, whole, strict=True):
        np.testing.assert_array_equal(column, expected)


@pytest.mark.parametrize("convention", ["strict", "lenient", "mmocr"])
def test_empty_rows_have_no_entities(convention: str) -> None:
    labels = LabelSet(["a"])
    tags = np.full((3, 4), labels.names.index("B-a"))
    mask = np.array([[0, 0, 0, 0], [1, 0, 0, 0], [1, 1, 0, 0]])
    assert labels.decode(tags, mask, convention) == [[], [], []]
    assert labels.decode(tags[:0], mask[:0], convention) == []


def test_masked_tags_are_ignored() -> None:
    labels = LabelSet(["a"])
    tags = np.array([[0, 1, 2, 0, 2, 2], [0, 1, 2, 0, 1, 1]])
    mask = np.array([[1, 1, 1, 1, 0, 0]] * 2)
    for convention in ("strict", "lenient", "mmocr"):
        assert labels.decode(tags, mask, convention) == [[("a", 0, 2)]] * 2


def test_decode_spans_equals_decode() -> None:
    labels = LabelSet(["a", "b"])
    tags, mask = random_tags(labels, 20, seed=4)
    spans = labels.decode_spans(tags, mask)
    assert {array.dtype for array in spans} == {np.dtype(np.int32)}
    expected = [
        (row, labels.categories.index(kind), start, end)
        for row, decoded in enumerate(labels.decode(tags, mask))
        for kind, start, end in decoded
    ]
    assert np.stack(spans, 1).tolist() == [list(line) for line in expected]


@settings(max_examples=50, deadline=None)
@given(st.permutations(LabelSet(CATEGORIES, "bioes").names), st.integers(0, 2**32 - 1))
def test_the_order_of_tags_does_not_change_the_entities(names: list[str], seed: int) -> None:
    one, other = LabelSet(CATEGORIES, "bioes"), LabelSet.from_names(names)
    tags = np.random.default_rng(seed).integers(0, len(names), (20, LENGTH))
    same = np.array([names.index(name) for name in one.names])[tags]
    mask = np.ones(tags.shape)
    for convention in ("strict", "lenient"):
        assert one.decode(tags, mask, convention) == other.decode(same, mask, convention)


@pytest.mark.parametrize("names", ["O PER LOC", "O I-PER I-LOC", "LOC X O PER"])
@pytest.mark.parametrize("convention", ["strict", "lenient"])
def test_adjacent_io_tags_are_one_entity(names: str, convention: str) -> None:
    labels = LabelSet.from_names(names.split())
    assert (labels.scheme, sorted(labels.categories)) == ("io", ["LOC", "PER"])
    assert labels.names == names.split()  # unchanged, so that the head can be exported again
    assert LabelSet.from_json(labels.to_json()).names == labels.names
    assert labels.conventions() == ("strict", "lenient")
    apart = [("PER", 0, 2), ("LOC", 2, 3), ("PER", 4, 5), ("LOC", 5, 6)]
    assert round_trip(labels, apart, convention) == apart
    touching = [("PER", 0, 2), ("PER", 2, 3), ("LOC", 3, 4)]
    assert round_trip(labels, touching, convention) == [("PER", 0, 3), ("LOC", 3, 4)]
    kinds = [names.split().index(tag) for tag in names.split() if tag != "X"]
    assert labels.allowed_transitions()[np.ix_(kinds, kinds)].all()
    assert sorted(set(labels.bio_names())) == ["I-LOC", "I-PER", "O"]
