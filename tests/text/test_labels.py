"""Encode entities as tags and decode them under every convention."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from seqeval.metrics.sequence_labeling import get_entities
from seqeval.scheme import IOB2, IOBES, Entities

from flax_ner.data.cluener import read_cluener
from flax_ner.errors import UserError
from flax_ner.text.labels import LabelSet, SpanLabels
from flax_ner.text.overlaps import count_overlaps, drop_overlaps
from tests.text.helpers import CATEGORIES, entities, random_tags, tag_names

EntityList = list[tuple[str, int, int]]
LENGTH = 30


def decode_names(labels: LabelSet, names: str, convention: str) -> EntityList:
    """Decode one row of tag names, [CLS] and [SEP] included."""
    tags = np.array([[labels.names.index(name) for name in names.split()]])
    return labels.decode(tags, np.ones(tags.shape), convention)[0]


def round_trip(labels: LabelSet, gold: EntityList, convention: str) -> EntityList:
    tags = labels.encode(gold, LENGTH)[None]
    return labels.decode(tags, np.ones(tags.shape), convention)[0]


def test_encode_equals_the_reference(golden: Path, cluener: Path) -> None:
    labels = LabelSet.mmocr(CATEGORIES)
    examples = read_cluener(cluener / "dev.json")
    rows = np.zeros((len(examples), 128), np.int32)
    for row, example in zip(rows, examples, strict=True):
        row[: len(example.text) + 2] = labels.encode(example.entities or (), len(example.text))
    assert rows.shape == (1343, 128)
    np.testing.assert_array_equal(rows, np.load(golden / "convertor_dev.npz")["labels"])


def test_mmocr_decoding_equals_the_reference(golden: Path) -> None:
    arrays = np.load(golden / "decode.npz")
    predicted = LabelSet.mmocr(CATEGORIES).decode(arrays["tags"], arrays["attention_mask"], "mmocr")
    expected = json.loads((golden / "decode.json").read_text("utf-8"))["entities"]
    assert len(predicted) == 400
    assert predicted == [
        [(t, s, e + 1) for t, s, e in row] for row in expected
    ]  # the reference has inclusive ends


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


# --- Heads from other frameworks: tags in any order, any of the usual prefixes --------------------


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


@settings(max_examples=50, deadline=None)
@given(st.permutations(LabelSet(CATEGORIES, "bioes").names), st.integers(0, 2**32 - 1))
def test_the_order_of_tags_does_not_change_the_entities(names: list[str], seed: int) -> None:
    one, other = LabelSet(CATEGORIES, "bioes"), LabelSet.from_names(names)
    tags = np.random.default_rng(seed).integers(0, len(names), (20, LENGTH))
    same = np.array([names.index(name) for name in one.names])[tags]
    mask = np.ones(tags.shape)
    for convention in ("strict", "lenient"):
        assert one.decode(tags, mask, convention) == other.decode(same, mask, convention)


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
