"""Encoding loses no character and no entity, and splits no entity."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flax_ner.data.cluener import read_cluener
from flax_ner.errors import UserError
from flax_ner.text.encoding import (
    NO_LABEL,
    check_tag_transitions,
    describe_misaligned_entities,
    encode_examples,
)
from flax_ner.text.examples import Entity, Example
from flax_ner.text.labels import LabelSet
from flax_ner.text.tokenizer import CharTokenizer, Tokenizer, WordPieceTokenizer
from flax_ner.text.vocab import SPECIAL_TOKENS
from tests.text.helpers import CATEGORIES, examples

CHARACTERS = CharTokenizer([*SPECIAL_TOKENS, *"abcdefghijklmnopq，。\n"])
PIECES = WordPieceTokenizer([*SPECIAL_TOKENS, *"abc中国，.", "##b", "##c", "ab"])
LABELS = LabelSet(["x", "y"], "bio")
ALL = LabelSet(CATEGORIES, "bioes")


def misaligned(rows: list[Example], tokenizer: Tokenizer) -> list[str]:
    return describe_misaligned_entities(
        rows, tokenizer.tokenize([row.text for row in rows]), LABELS
    )


def pieces(
    example: Example, size: int, tokenizer: Tokenizer = CHARACTERS, labels: LabelSet = ALL
) -> list[tuple[str, list[tuple[str, int, int]]]]:
    """Return the text of each piece, from its tokens, and its entities, from its labels."""
    tokens = encode_examples([example], tokenizer, labels, size + 2)
    result = []
    for stop, length in zip(np.cumsum(tokens.lengths), tokens.lengths, strict=True):
        ids, tags = tokens.ids[stop - length : stop], tokens.labels[stop - length : stop]
        assert (ids[0], ids[-1]) == (tokenizer.cls_id, tokenizer.sep_id)
        assert tags[0] == tags[-1] == labels.outside
        words = tags != NO_LABEL
        (entities,) = labels.decode(tags[words][None], np.ones((1, words.sum())))
        result.append(("".join(tokenizer.tokens[i] for i in ids[1:-1]), entities))
    return result


def test_encoded_examples_are_concatenated() -> None:
    tokens = encode_examples(
        [Example("ab", (Entity("x", 0, 2),)), Example("", ()), Example("a", ())],
        CHARACTERS, LABELS, 10,
    )  # fmt: skip
    assert tokens.ids.tolist() == [2, 5, 6, 3, 2, 3, 2, 5, 3]
    assert tokens.labels.tolist() == [0, 1, 3, 0, 0, 0, 0, 0, 0]
    assert tokens.lengths.tolist() == [4, 2, 3]


@pytest.mark.parametrize(
    ("example", "message"),
    [
        (Example("ab", None, "file.json:7"), r"file\.json:7: has no label"),
        (Example("a" * 30, None, "file.json:7"), r"file\.json:7: has no label"),
        (Example("ab", (Entity("z", 0, 1),), "file.json:7"), r"file\.json:7: category 'z'"),
        (Example("ab", (Entity("x", 1, 3),), "file.json:7"), r"file\.json:7: x has the span"),
        (Example("ab", (Entity("x", -1, 1),), "file.json:7"), r"file\.json:7: x has the span"),
        (Example("ab", (Entity("x", 1, 1),), "file.json:7"), r"file\.json:7: x has the span"),
        (
            Example("a" * 30, (Entity("x", 4, 20),), "file.json:7"),
            r"file\.json:7: the entity at 4 is longer than 8 tokens.*data\.max_length",
        ),
    ],
)  # fmt: skip
@pytest.mark.parametrize("tokenizer", [CHARACTERS, PIECES], ids=lambda t: t.kind)
def test_an_invalid_example_raises_with_file_and_line(
    example: Example, message: str, tokenizer: Tokenizer
) -> None:
    if tokenizer is PIECES:  # one word per character, as with CHARACTERS
        example = Example("中" * len(example.text), example.entities, example.source)
    with pytest.raises(UserError, match=message):
        encode_examples([example], tokenizer, LABELS, 10)


@settings(max_examples=100, deadline=None)
@given(examples(st.sampled_from("ab，。\n"), longest=6), st.integers(6, 20))
def test_splitting_loses_no_character_and_no_entity(example: Example, size: int) -> None:
    actual, offset = [], 0
    for text, entities in pieces(example, size):
        assert 0 < len(text) <= size or not example.text
        actual += [(kind, start + offset, end + offset) for kind, start, end in entities]
        offset += len(text)
    assert "".join(text for text, _ in pieces(example, size)) == example.text
    assert actual == [entity[:3] for entity in example.entities or ()]


def test_a_text_that_fits_is_not_split() -> None:
    assert pieces(Example("abcd", (Entity("book", 1, 2),)), 4) == [("abcd", [("book", 1, 2)])]


def test_pieces_end_after_punctuation_in_their_second_half() -> None:
    texts = [text for text, _ in pieces(Example("a，bcd，ef，gh，ijklmnopq", ()), 8)]
    assert texts == ["a，bcd，", "ef，gh，", "ijklmnop", "q"]


def test_a_text_is_not_split_at_punctuation_inside_an_entity() -> None:
    title = Entity("book", 3, 7, "d，ef")
    result = pieces(Example("abcd，efgh", (title,)), 6)
    assert result == [("abc", []), ("d，efgh", [("book", 0, 4)])]


def test_overlapping_entities_are_labelled_or_dropped_entirely() -> None:
    entities = (Entity("book", 2, 5, "cde"), Entity("game", 4, 7, "efg"))
    dropped: list[str] = []
    tokens = encode_examples(
        [Example("abcdefgh", entities, "f:1")], CHARACTERS, ALL, 8, dropped=dropped
    )
    assert dropped == ["f:1: game 'efg' [4, 7) overlaps book 'cde' [2, 5)"]
    assert tokens.lengths.tolist() == [8, 4]  # the dropped entity does not affect the split
    names = [ALL.names[tag] for tag in tokens.labels]
    assert names == ["O", "O", "O", "B-book", "I-book", "E-book", "O", "O", *"OOOO"]
    check_tag_transitions(tokens, ALL)


def test_entities_that_overwrite_each_other_stay_in_one_piece() -> None:
    entities = (Entity("book", 2, 5, "cde"), Entity("game", 4, 7, "efg"))
    rows = [Example("abcdefgh", entities)]
    tokens = encode_examples(rows, CHARACTERS, ALL, 8, overwrite=True)
    assert tokens.lengths.tolist() == [4, 8]
    with pytest.raises(UserError, match="B-game follows I-book"):
        check_tag_transitions(tokens, ALL)


def test_entities_that_share_a_word_are_labelled_or_dropped_entirely() -> None:
    row = Example("abab 中国", (Entity("x", 0, 2), Entity("y", 2, 4), Entity("x", 5, 7)), "f:1")
    dropped: list[str] = []
    tokens = encode_examples([row], PIECES, LABELS, 20, dropped=dropped)
    assert dropped == ["f:1: y 'ab' [2, 4) overlaps x 'ab' [0, 2)"]
    check_tag_transitions(tokens, LABELS)
    same = Example("abab", (Entity("x", 0, 2), Entity("x", 2, 4), Entity("x", 0, 2)), "f:1")
    dropped = []
    encode_examples([same], PIECES, LABELS, 20, dropped=dropped)
    assert dropped == ["f:1: x 'ab' [2, 4) overlaps x 'ab' [0, 2)"]


def test_only_the_first_token_of_a_word_is_labelled() -> None:
    example = Example("abc, 中国 ac", (Entity("x", 0, 3), Entity("y", 5, 10)), "f:1")
    tokens = encode_examples([example], PIECES, LABELS, 20)
    pieces = [PIECES.tokens[i] for i in tokens.ids]
    assert pieces == ["[CLS]", "ab", "##c", "[UNK]", "中", "国", "a", "##c", "[SEP]"]
    names = [LABELS.names[i] if i != NO_LABEL else "-" for i in tokens.labels]
    assert names == ["O", "B-x", "-", "O", "B-y", "I-y", "I-y", "-", "O"]
    assert not misaligned([example], PIECES)


def test_misaligned_entities_are_reported() -> None:
    partial = (Entity("x", 1, 3), Entity("y", 6, 7), Entity("x", 7, 8))
    rows = [Example("abc 中  ", (Entity("x", 4, 5),), "f:1"), Example("abcab . ", partial, "f:2")]
    tokens = encode_examples(rows, PIECES, LABELS, 20)
    assert [LABELS.names[i] for i in tokens.labels[tokens.labels != NO_LABEL]] == [
        "O", "O", "B-x", "O", "O", "B-x", "B-y", "O",
    ]  # fmt: skip
    assert misaligned(rows, PIECES) == [
        "entities that start or end inside a word and are extended to the whole word: 1 (first: f:2 'bc')",
        "entities that contain no word and are ignored: 1 (first: f:2 ' ')",
    ]
    assert not misaligned(rows, CHARACTERS)


def test_entities_that_share_a_word_are_reported() -> None:
    row = Example("abab 中国", (Entity("x", 0, 2), Entity("y", 2, 4), Entity("x", 5, 7)), "f:1")
    assert misaligned([row], PIECES)[1:] == [
        "entities that share a word with another entity, so that only one is labelled: 1"
    ]
    across = Example(
        "中国", (Entity("x", 0, 2), Entity("y", 1, 2)), "f:1"
    )  # they overlap in the data already
    assert not misaligned([across], PIECES)


WORDS = st.lists(
    st.sampled_from(["abc", "ab", "cab", "中", "国", "，", ".", " ", "  "]), max_size=40
)


@settings(max_examples=200, deadline=None)
@given(WORDS, st.integers(4, 12), st.data())
def test_no_word_is_split(words: list[str], size: int, data: st.DataObject) -> None:
    text = "".join(words)
    whole = encode_examples([Example(text, ())], PIECES, LABELS, 500)
    tokens = PIECES.tokenize([text])
    starts, ends = tokens.start[tokens.first], tokens.end[tokens.first]
    entities: tuple[Entity, ...] = ()
    if len(starts):
        a = data.draw(st.integers(0, len(starts) - 1))
        entities = (Entity("x", int(starts[a]), int(ends[a])),)
    cut = encode_examples([Example(text, entities)], PIECES, LABELS, size + 2)
    stops = np.cumsum(cut.lengths)
    inside = np.ones(len(cut.ids), bool)
    inside[stops - 1] = inside[stops - cut.lengths] = False
    assert cut.ids[inside].tolist() == whole.ids[1:-1].tolist()
    assert (cut.labels[inside] == NO_LABEL).tolist() == (~tokens.first).tolist()
    assert (cut.labels == 1).sum() == len(entities)
    # Only a word of more tokens than fit in a piece may be split.
    if (
        len(text)
        and max(map(len, text.replace("，", " ").replace(".", " ").split() or [""])) <= size
    ):
        assert (cut.labels[stops[:-1]] != NO_LABEL).all()


def test_a_word_longer_than_a_row_is_split() -> None:
    tokens = encode_examples([Example("abcbcbcbcbcb", ())], PIECES, LABELS, 6)
    assert tokens.lengths.tolist() == [6, 6, 5]


def test_encoding_equals_the_reference(golden: Path, cluener: Path) -> None:
    tokens = encode_examples(
        read_cluener(cluener / "dev.json"),
        CharTokenizer(cluener / "vocab.txt"), LabelSet.mmocr(CATEGORIES), 128,
    )  # fmt: skip
    arrays = np.load(golden / "convertor_dev.npz")
    inside = arrays["labels"] > 0
    np.testing.assert_array_equal(tokens.lengths, inside.sum(1))
    np.testing.assert_array_equal(tokens.ids, arrays["input_ids"][inside])
    np.testing.assert_array_equal(tokens.labels, arrays["labels"][inside])
