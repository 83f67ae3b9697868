"""The character tokenizer and vocabularies."""

import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from flax_ner.data.cluener import read_cluener
from flax_ner.errors import UserError
from flax_ner.text.tokenizer import CharTokenizer
from flax_ner.text.tokenizer_kinds import build_tokenizer
from flax_ner.text.vocab import (
    SPECIAL_TOKENS,
    build_vocab,
    read_tokenizer_json,
    read_vocab,
    write_vocab,
)

SMALL = CharTokenizer([*SPECIAL_TOKENS, *"abcls中国，[]", "##b", "上海"])
UNKNOWN, CLS, SEP = 1, 2, 3
# All of Unicode including lone surrogates; difficult characters are drawn often.
UNICODE = st.characters(exclude_categories=())
DIFFICULT = st.sampled_from("aZİßẞΣς\0\n\r \ud83d\ude00👨\u200d👩\ufe0f\u0301")
ANY_TEXT = st.lists(UNICODE | DIFFICULT, max_size=30).map("".join)


def ids(text: str) -> list[int]:
    return SMALL.encode(text).ids[1:-1]


def test_ids_equal_the_reference(golden: Path, cluener: Path) -> None:
    tokenizer = CharTokenizer(cluener / "vocab.txt")
    texts = [example.text for example in read_cluener(cluener / "dev.json")]
    padded = np.full((len(texts), 128), 0)
    for row, encoding in zip(padded, tokenizer.encode_batch(texts), strict=True):
        row[: len(encoding.ids)] = encoding.ids
    assert padded.shape == (1343, 128)
    np.testing.assert_array_equal(padded, np.load(golden / "convertor_dev.npz")["input_ids"])


@settings(max_examples=100, deadline=None)
@given(ANY_TEXT)
@example("İstanbul")
@example("\n\na\r\r\n\n  b")
@example("\ud83d\ude00 as two halves and 😀 as one")
@example("👨\u200d👩\u200d👧 é e\u0301\r\n\0")
def test_every_character_is_one_token_with_its_own_offsets(text: str) -> None:
    encoding = SMALL.encode(text)
    offsets = [(i, i + 1) for i in range(len(text))]
    assert encoding.offsets == [(0, 0), *offsets, (0, 0)]
    assert encoding.ids == [CLS, *(i for c in text for i in ids(c)), SEP]
    assert len(encoding.ids) == len(text) + 2


@settings(max_examples=30, deadline=None)
@given(st.lists(ANY_TEXT, max_size=5))
def test_encode_batch_equals_encode(texts: list[str]) -> None:
    batch = SMALL.encode_batch(texts)
    assert [encoding.ids for encoding in batch] == [SMALL.encode(text).ids for text in texts]


@settings(max_examples=100, deadline=None)
@given(st.lists(ANY_TEXT, max_size=5), st.booleans())
@example(["a\ud83d", "\ude00b"], True)
@example(["", ""], True)
def test_tokenize_equals_encode_batch(texts: list[str], lower_case: bool) -> None:
    tokenizer = CharTokenizer([*SPECIAL_TOKENS, *"aAß中Σσς\ufffd\uffff"], lower_case)
    tokens = tokenizer.tokenize(texts)
    expected = [encoding.ids[1:-1] for encoding in tokenizer.encode_batch(texts)]
    assert tokens.lengths.tolist() == [len(row) for row in expected]
    assert tokens.ids.tolist() == [i for row in expected for i in row]
    assert tokens.start.tolist() == [i for text in texts for i in range(len(text))]
    assert (tokens.end == tokens.start + 1).all() and tokens.first.all()
    index = np.arange(len(texts))
    pieces = tokenizer.add_special_tokens(tokens, index, np.zeros_like(index), tokens.lengths)
    whole = [i for encoding in tokenizer.encode_batch(texts) for i in encoding.ids]
    assert pieces.ids.tolist() == whole and (pieces.lengths == tokens.lengths + 2).all()


def test_upper_case_characters_map_to_their_lower_case() -> None:
    changed = [c for c in map(chr, range(sys.maxunicode + 1)) if c.lower() != c]
    upper = [c for c in changed if len(c.lower()) == 1]
    vocab = [*SPECIAL_TOKENS, *sorted({c.lower() for c in upper})]
    expected = [vocab.index(c.lower()) for c in upper]
    assert len(upper) > 1000
    assert CharTokenizer(vocab).encode("".join(upper)).ids[1:-1] == expected
    assert sorted(set(changed) - set(upper)) == ["İ"]


@settings(max_examples=50, deadline=None)
@given(ANY_TEXT)
def test_without_lower_case_every_character_maps_to_itself(text: str) -> None:
    vocab = [*SPECIAL_TOKENS, *"aAbBİ中"]
    encoding = CharTokenizer(vocab, lower_case=False).encode(text)
    assert encoding.ids[1:-1] == [vocab.index(c) if c in vocab else UNKNOWN for c in text]
    assert encoding.offsets[1:-1] == [(i, i + 1) for i in range(len(text))]


@pytest.mark.parametrize("lower_case", [True, False])
def test_the_tokenizers_library_loads_a_saved_tokenizer(tmp_path: Path, lower_case: bool) -> None:
    path = tmp_path / "tokenizer.json"
    vocab = [*SPECIAL_TOKENS, *"aAbcls中国，[]", "##b", "上海"]
    tokenizer = CharTokenizer(vocab, lower_case)
    tokenizer.save(path)
    assert read_tokenizer_json(path) == (vocab, lower_case, "char", "")
    loaded = Tokenizer.from_file(str(path))
    for text in ("aAB [CLS] 中国İ", "", "\n\0", "上海##b"):
        expected = tokenizer.encode(text)
        actual = loaded.encode(text)
        assert (actual.ids, actual.offsets) == (expected.ids, expected.offsets)


def test_upper_case_vocabulary_entries_are_never_used() -> None:
    tokenizer = CharTokenizer([*SPECIAL_TOKENS, "A", "b", "B"])
    assert tokenizer.encode("AaBb").ids[1:-1] == [UNKNOWN, UNKNOWN, 6, 6]


@pytest.mark.parametrize("text", [" ", "\n", "\0", "z", "İ", "海", "\ud800", "\u200d", "\ufffd"])
def test_characters_missing_from_the_vocabulary_are_unknown(text: str) -> None:
    assert ids(f"a{text}中") == [ids("a")[0], UNKNOWN, ids("中")[0]]


def test_special_tokens_and_pieces_in_a_text_are_ordinary_characters() -> None:
    assert ids("[CLS]") == [SMALL.tokens.index(c) for c in "[cls]"]
    assert ids("[UNK]")[1:-1] == [UNKNOWN] * 3
    assert ids("##b") == [UNKNOWN, UNKNOWN, SMALL.tokens.index("b")]
    assert ids("上海") == [UNKNOWN, UNKNOWN]


def test_an_empty_text_has_only_cls_and_sep() -> None:
    assert SMALL.encode("").ids == [CLS, SEP]
    assert SMALL.encode("").offsets == [(0, 0), (0, 0)]


def test_special_ids_come_from_the_vocabulary() -> None:
    tokenizer = CharTokenizer(["a", "[SEP]", "[CLS]", "[UNK]", "[PAD]"])
    assert tokenizer.unknown_id == 3
    assert tokenizer.encode("ab").ids == [2, 0, 3, 1]


def test_duplicate_and_multiline_tokens_raise(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"the given vocabulary has 'a' twice"):
        CharTokenizer([*SPECIAL_TOKENS, "a", "b", "a"])
    for token in ("\n", "a\r"):
        with pytest.raises(UserError, match=r"vocab\.txt: the token .* contains a line break"):
            write_vocab(tmp_path / "vocab.txt", [*SPECIAL_TOKENS, token])


def test_a_missing_vocabulary_raises(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"vocabulary: no file .*nowhere\.txt"):
        CharTokenizer(tmp_path / "nowhere.txt")


def test_missing_special_tokens_raise(tmp_path: Path) -> None:
    path = tmp_path / "vocab.txt"
    path.write_text("[PAD]\n[CLS]\na\n")
    with pytest.raises(UserError, match=r"vocab\.txt lacks \[UNK\], \[SEP\]"):
        CharTokenizer(path)
    with pytest.raises(UserError, match=r"the given vocabulary lacks \[PAD\]"):
        CharTokenizer(["[UNK]", "[CLS]", "[SEP]"])


def test_a_vocabulary_that_is_not_utf8_raises(tmp_path: Path) -> None:
    path = tmp_path / "vocab.txt"
    path.write_bytes("[PAD]\n中\n".encode("gb18030"))
    with pytest.raises(UserError, match=r"vocab\.txt: not UTF-8"):
        read_vocab(path)


def test_line_numbers_of_a_vocabulary_file_are_ids(tmp_path: Path) -> None:
    path = tmp_path / "vocab.txt"
    path.write_bytes("[PAD]\r\n\r\n中\u2028\r\n国".encode())
    assert read_vocab(path) == ["[PAD]", "", "中\u2028", "国"]


@settings(max_examples=30, deadline=None)
@given(st.lists(st.text(max_size=20), max_size=5))
def test_read_vocab_inverts_write_vocab(
    tmp_path_factory: pytest.TempPathFactory, texts: list[str]
) -> None:
    path = tmp_path_factory.getbasetemp() / "saved_vocab.txt"
    tokens = build_vocab(texts)
    write_vocab(path, tokens)
    assert read_vocab(path) == CharTokenizer(path).tokens == tokens
    assert path.read_bytes().endswith(b"\n")


@settings(max_examples=50, deadline=None)
@given(st.lists(ANY_TEXT, max_size=5), st.integers(1, 3))
def test_build_vocab_keeps_only_frequent_characters(texts: list[str], min_count: int) -> None:
    vocab = build_vocab(texts, min_count)
    assert vocab[:5] == list(SPECIAL_TOKENS)
    assert len(set(vocab)) == len(vocab)
    counts = Counter(character.lower() for text in texts for character in text)
    kept = {c for c, n in counts.items() if n >= min_count and len(c) == 1 and not c.isspace()}
    assert set(vocab[5:]) == {c for c in kept if not "\ud800" <= c <= "\udfff"}
    assert [counts[c] for c in vocab[5:]] == sorted((counts[c] for c in vocab[5:]), reverse=True)
    assert CharTokenizer(vocab).encode("".join(vocab[5:])).ids[1:-1] == list(range(5, len(vocab)))


def test_build_vocab_does_not_depend_on_the_order_of_texts() -> None:
    expected = [*SPECIAL_TOKENS, "b", "a", "c"]
    assert build_vocab(["ba", "Bc"]) == build_vocab(["cB", "ab"]) == expected


@pytest.mark.slow
@pytest.mark.parametrize("lower_case", [True, False])
def test_character_ids_equal_encode(lower_case: bool) -> None:
    vocab = [*SPECIAL_TOKENS, *"abßσςéi中😀", "\ufffd", "\ufffe", "\u0307"]
    tokenizer = CharTokenizer(vocab, lower_case)
    all_characters = "".join(map(chr, range(sys.maxunicode + 1)))
    for text in ("", "ΑΣ ẞ\ud83d\ude00İ\n", all_characters, "ab" + all_characters[::-1]):
        assert tokenizer.character_ids(text).tolist() == tokenizer.encode(text).ids[1:-1]


def test_an_unknown_kind_raises() -> None:
    with pytest.raises(ValueError, match=r"'bpe' is unknown\. Choose one of char, wordpiece"):
        build_tokenizer("bpe", ["[PAD]", "[UNK]", "[CLS]", "[SEP]"], lower_case=True)
