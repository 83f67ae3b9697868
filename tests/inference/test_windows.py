"""Long texts split into windows."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flax_ner.inference.windows import split_into_windows, windows
from flax_ner.text.tokenizer import CharTokenizer, Tokenizer, WordPieceTokenizer
from flax_ner.text.vocab import SPECIAL_TOKENS


@given(st.integers(0, 5000), st.integers(1, 200))
def test_windows_cover_a_text_without_gap_or_overlap(length: int, size: int) -> None:
    position = 0
    for window in windows(length, size):
        assert window.keep_start == position
        assert 0 <= window.start <= window.keep_start <= window.keep_stop <= window.stop <= length
        assert window.stop - window.start <= size
        position = window.keep_stop
    assert position == length


@pytest.mark.parametrize(("length", "size"), [(1000, 126), (127, 126), (10_000, 50)])
def test_kept_tokens_are_away_from_the_edges_of_a_window(length: int, size: int) -> None:
    result = windows(length, size)
    assert len(result) <= length / (size * 0.7) + 1
    for window in result:
        assert window.keep_start == 0 or window.keep_start - window.start >= size // 8 - 1
        assert window.keep_stop == length or window.stop - window.keep_stop >= size // 8 - 1


VOCAB = [*SPECIAL_TOKENS, *"ab。！？》”《，", "##b", "##a"]
CHARACTERS, WORDS = CharTokenizer(VOCAB), WordPieceTokenizer(VOCAB)


def window_texts(text: str, size: int) -> list[str]:
    """Return the text of each window."""
    split = split_into_windows([text], CHARACTERS.tokenize([text]), size)
    return [text[a:b] for a, b in zip(split.start, split.stop, strict=True)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("aa。a\na", ["aa。a\na"]),  # it fits
        ("aaa\nbbbbb", ["aaa", "bbbbb"]),
        ("a\r\nbbbb", ["a", "", "bbbb"]),
        ("\na\n\nbbbb\n", ["", "a", "", "bbbb"]),
        ("aaa。bbbb！”a？", ["aaa。", "bbbb！”", "a？"]),
        ("《aa！b》。bbb", ["《aa！b》。", "bbb"]),
        ("a。\nbbb。！bb。", ["a。", "bbb。！", "bb。"]),
        ("a\nbbbbbbbb\na", ["a", "bbbbbb", "bbbbbb", "a"]),
    ],
)  # fmt: skip
def test_long_texts_are_split_into_lines_and_sentences(text: str, expected: list[str]) -> None:
    assert window_texts(text, 7 if "》" in text or len(text) == len("aa。a\na") else 6) == expected


TEXT = st.text(st.sampled_from("ab 。！\n\r《》”，"), max_size=80)


@settings(max_examples=300, deadline=None)
@given(st.lists(TEXT, max_size=5), st.integers(1, 30), st.sampled_from([CHARACTERS, WORDS]))
def test_every_token_is_kept_once_or_is_a_line_break(
    texts: list[str], size: int, tokenizer: Tokenizer
) -> None:
    tokens = tokenizer.tokenize(texts)
    split = split_into_windows(texts, tokens, size)
    assert (np.diff(split.text) >= 0).all() and (split.stop - split.start <= size).all()
    assert ((split.start <= split.keep_start) & (split.keep_stop <= split.stop)).all()
    stops = np.cumsum(tokens.lengths)
    for i, text in enumerate(texts):
        kept = list[int]()
        for window in np.flatnonzero(split.text == i):
            kept += range(split.keep_start[window], split.keep_stop[window])
            if split.line_break[window]:
                kept.append(split.stop[window])
                start = tokens.start[stops[i] - tokens.lengths[i] + split.stop[window]]
                assert text[start] in "\n\r" and tokens.lengths[i] > size
        assert kept == list(range(tokens.lengths[i]))


def test_many_texts_are_split_as_each_alone() -> None:
    texts = ["", "aaaa", "a\n" * 9, "b。" * 9, "", "ab" * 20, "b"]
    together = split_into_windows(texts, CHARACTERS.tokenize(texts), 8)
    alone = [split_into_windows([text], CHARACTERS.tokenize([text]), 8) for text in texts]
    for name in ("start", "stop", "keep_start", "keep_stop", "line_break"):
        expected = np.concatenate([getattr(split, name) for split in alone])
        np.testing.assert_array_equal(getattr(together, name), expected)
    assert together.text.tolist() == [i for i, split in enumerate(alone) for _ in split.text]
