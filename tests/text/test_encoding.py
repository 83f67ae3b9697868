"""Labelled texts to tokens: no character and no entity is lost, and none is divided."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flax_ner.errors import UserError
from flax_ner.text.cluener import read_cluener
from flax_ner.text.encoding import NO_LABEL, check_paths, encode_examples, not_whole_words
from flax_ner.text.examples import Entity, Example
from flax_ner.text.labels import LabelSet
from flax_ner.text.tokenizer import CharTokenizer, Tokenizer, WordPieceTokenizer
from flax_ner.text.vocab import SPECIAL_TOKENS
from tests.text.helpers import CATEGORIES, examples

CHARACTERS = CharTokenizer([*SPECIAL_TOKENS, *"abcdefghijklmnopq，。\n"])
PIECES = WordPieceTokenizer([*SPECIAL_TOKENS, *"abc中国，.", "##b", "##c", "ab"])
LABELS = LabelSet(["x", "y"], "bio")
ALL = LabelSet(CATEGORIES, "bioes")


def not_whole(rows: list[Example], tokenizer: Tokenizer) -> list[str]:
    return not_whole_words(rows, tokenizer.tokenize([row.text for row in rows]), LABELS)


def pieces(
    example: Example, size: int, tokenizer: Tokenizer = CHARACTERS, labels: LabelSet = ALL
) -> list[tuple[str, list[tuple[str, int, int]]]]:
    """The text of each piece, by its tokens, and its entities, by its labels."""
    tokens = encode_examples([example], tokenizer, labels, size + 2)
    found = []
    for stop, length in zip(np.cumsum(tokens.lengths), tokens.lengths, strict=True):
        ids, tags = tokens.ids[stop - length : stop], tokens.labels[stop - length : stop]
        assert (ids[0], ids[-1]) == (tokenizer.cls_id, tokenizer.sep_id)
        assert tags[0] == tags[-1] == labels.outside
        words = tags != NO_LABEL
        (entities,) = labels.decode(tags[words][None], np.ones((1, words.sum())))
        found.append(("".join(tokenizer.tokens[i] for i in ids[1:-1]), entities))
    return found


def test_encoded_examples_lie_end_to_end() -> None:
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
            r"file\.json:7: an entity at 4 is longer than 8 tokens.*data\.max_length",
        ),
    ],
)  # fmt: skip
@pytest.mark.parametrize("tokenizer", [CHARACTERS, PIECES], ids=lambda t: t.kind)
def test_a_bad_example_is_named_by_file_and_line(
    example: Example, message: str, tokenizer: Tokenizer
) -> None:
    if tokenizer is PIECES:  # as many words as there are characters
        example = Example("中" * len(example.text), example.entities, example.source)
    with pytest.raises(UserError, match=message):
        encode_examples([example], tokenizer, LABELS, 10)


@settings(max_examples=100, deadline=None)
@given(examples(st.sampled_from("ab，。\n"), longest=6), st.integers(6, 20))
def test_splitting_loses_no_character_and_no_entity(example: Example, size: int) -> None:
    found, place = [], 0
    for text, entities in pieces(example, size):
        assert 0 < len(text) <= size or not example.text
        found += [(kind, start + place, end + place) for kind, start, end in entities]
        place += len(text)
    assert "".join(text for text, _ in pieces(example, size)) == example.text
    assert found == [entity[:3] for entity in example.entities or ()]


def test_a_text_that_fits_stays_whole() -> None:
    assert pieces(Example("abcd", (Entity("book", 1, 2),)), 4) == [("abcd", [("book", 1, 2)])]


def test_pieces_end_behind_punctuation_in_their_second_half() -> None:
    texts = [text for text, _ in pieces(Example("a，bcd，ef，gh，ijklmnopq", ()), 8)]
    assert texts == ["a，bcd，", "ef，gh，", "ijklmnop", "q"]


def test_punctuation_in_an_entity_is_no_place_to_cut() -> None:
    title = Entity("book", 3, 7, "d，ef")
    found = pieces(Example("abcd，efgh", (title,)), 6)
    assert found == [("abc", []), ("d，efgh", [("book", 0, 4)])]


def test_overlapping_entities_are_labelled_or_dropped_as_a_whole() -> None:
    entities = (Entity("book", 2, 5, "cde"), Entity("game", 4, 7, "efg"))
    dropped: list[str] = []
    tokens = encode_examples(
        [Example("abcdefgh", entities, "f:1")], CHARACTERS, ALL, 8, dropped=dropped
    )
    assert dropped == ["f:1: game 'efg' [4, 7) overlaps book 'cde' [2, 5)"]
    assert tokens.lengths.tolist() == [8, 4]  # the dropped entity does not move the cut
    names = [ALL.names[tag] for tag in tokens.labels]
    assert names == ["O", "O", "O", "B-book", "I-book", "E-book", "O", "O", *"OOOO"]
    check_paths(tokens, ALL)


def test_entities_that_overwrite_each_other_are_kept_in_one_piece() -> None:
    entities = (Entity("book", 2, 5, "cde"), Entity("game", 4, 7, "efg"))
    rows = [Example("abcdefgh", entities)]
    tokens = encode_examples(rows, CHARACTERS, ALL, 8, overwrite=True)
    assert tokens.lengths.tolist() == [4, 8]
    with pytest.raises(UserError, match="B-game follows I-book"):
        check_paths(tokens, ALL)


def test_entities_that_share_a_word_are_labelled_or_dropped_as_a_whole() -> None:
    row = Example("abab 中国", (Entity("x", 0, 2), Entity("y", 2, 4), Entity("x", 5, 7)), "f:1")
    dropped: list[str] = []
    tokens = encode_examples([row], PIECES, LABELS, 20, dropped=dropped)
    assert dropped == ["f:1: y 'ab' [2, 4) overlaps x 'ab' [0, 2)"]
    check_paths(tokens, LABELS)
    same = Example("abab", (Entity("x", 0, 2), Entity("x", 2, 4), Entity("x", 0, 2)), "f:1")
    dropped = []
    encode_examples([same], PIECES, LABELS, 20, dropped=dropped)
    assert dropped == ["f:1: x 'ab' [2, 4) overlaps x 'ab' [0, 2)"]


def test_a_word_has_one_label_on_its_first_piece() -> None:
    example = Example("abc, 中国 ac", (Entity("x", 0, 3), Entity("y", 5, 10)), "f:1")
    tokens = encode_examples([example], PIECES, LABELS, 20)
    spelled = [PIECES.tokens[i] for i in tokens.ids]
    assert spelled == ["[CLS]", "ab", "##c", "[UNK]", "中", "国", "a", "##c", "[SEP]"]
    names = [LABELS.names[i] if i != NO_LABEL else "-" for i in tokens.labels]
    assert names == ["O", "B-x", "-", "O", "B-y", "I-y", "I-y", "-", "O"]
    assert not not_whole([example], PIECES)


def test_entities_that_are_no_whole_words_are_told() -> None:
    odd = (Entity("x", 1, 3), Entity("y", 6, 7), Entity("x", 7, 8))
    rows = [Example("abc 中  ", (Entity("x", 4, 5),), "f:1"), Example("abcab . ", odd, "f:2")]
    tokens = encode_examples(rows, PIECES, LABELS, 20)
    assert [LABELS.names[i] for i in tokens.labels[tokens.labels != NO_LABEL]] == [
        "O", "O", "B-x", "O", "O", "B-x", "B-y", "O",
    ]  # fmt: skip
    assert not_whole(rows, PIECES) == [
        "entities that begin or end inside a word, all of which counts as theirs: 1 (first: f:2 'bc')",
        "entities that have no word in them and are left out: 1 (first: f:2 ' ')",
    ]
    assert not not_whole(rows, CHARACTERS)


def test_entities_in_one_word_are_told() -> None:
    row = Example("abab 中国", (Entity("x", 0, 2), Entity("y", 2, 4), Entity("x", 5, 7)), "f:1")
    assert not_whole([row], PIECES)[1:] == [
        "entities that share a word with another entity, so only one of them is labelled: 1"
    ]
    across = Example("中国", (Entity("x", 0, 2), Entity("y", 1, 2)), "f:1")  # in the data already
    assert not not_whole([across], PIECES)


WORDS = st.lists(
    st.sampled_from(["abc", "ab", "cab", "中", "国", "，", ".", " ", "  "]), max_size=40
)


@settings(max_examples=200, deadline=None)
@given(WORDS, st.integers(4, 12), st.data())
def test_no_word_is_divided(words: list[str], size: int, data: st.DataObject) -> None:
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
    # A word of more pieces than fit is the only one that may be cut.
    if (
        len(text)
        and max(map(len, text.replace("，", " ").replace(".", " ").split() or [""])) <= size
    ):
        assert (cut.labels[stops[:-1]] != NO_LABEL).all()


def test_a_word_that_is_longer_than_a_row_is_cut() -> None:
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
