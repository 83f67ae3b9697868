"""The WordPiece tokenizer: words, their pieces and their offsets."""

import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

from flax_ner.text.tokenizer import WordPieceTokenizer
from flax_ner.text.vocab import SPECIAL_TOKENS, read_tokenizer_json

VOCAB = [*SPECIAL_TOKENS, *"abeiA中国，.[]", "cafe", "i", "##b", "##7", "iphone", "cls", "##é"]
VOCAB = list(dict.fromkeys(VOCAB))
IDS = {token: i for i, token in enumerate(VOCAB)}
LOWER = WordPieceTokenizer(VOCAB)
ANY_TEXT = st.text(st.characters() | st.sampled_from("ab 中国，.\u0301\u200d\u0000é"), max_size=30)


def words(text: str, tokenizer: WordPieceTokenizer = LOWER) -> list[tuple[str, list[str]]]:
    """Return each word as written in the text, and its pieces."""
    tokens = tokenizer.tokenize([text])
    result: list[tuple[str, list[str]]] = []
    for i, first, start, end in zip(
        tokens.ids, tokens.first, tokens.start, tokens.end, strict=True
    ):
        if first:
            result.append((text[start:end], []))
        result[-1][1].append(tokenizer.tokens[i])
    return result


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("iPhone7中国", [("iPhone7", ["iphone", "##7"]), ("中", ["中"]), ("国", ["国"])]),
        ("a，b.", [("a", ["a"]), ("，", ["，"]), ("b", ["b"]), (".", ["."])]),
        ("  CAFÉ\t", [("CAFÉ", ["cafe"])]),
        ("Cafe\u0301 a", [("Cafe\u0301", ["cafe"]), ("a", ["a"])]),
        ("e\u0301\u0301中", [("e\u0301\u0301", ["e"]), ("中", ["中"])]),
        ("\u0301a", [("a", ["a"])]),
        ("İ", [("İ", ["i"])]),
        ("a\u200db\x00", [("a\u200db", ["a", "##b"])]),
        ("zzb", [("zzb", ["[UNK]"])]),
        ("a" * 101, [("a" * 101, ["[UNK]"])]),
        ("[CLS]", [("[", ["["]), ("CLS", ["cls"]), ("]", ["]"])]),
        ("a\ud800b", [("a\ud800b", ["a", "##b"])]),
        ("", []),
        (" \t\n\u3000", []),
    ],
)  # fmt: skip
def test_words_and_pieces(text: str, expected: list[tuple[str, list[str]]]) -> None:
    assert words(text) == expected


def test_without_lower_case_accents_and_capitals_are_kept() -> None:
    tokenizer = WordPieceTokenizer(VOCAB, lower_case=False)
    assert words("A a aé", tokenizer) == [("A", ["A"]), ("a", ["a"]), ("aé", ["a", "##é"])]


@settings(max_examples=300, deadline=None)
@given(st.lists(ANY_TEXT, max_size=4), st.booleans())
@example(["ab", "", "b", " ", "中"], True)
def test_words_of_many_texts_are_sorted_and_do_not_overlap(
    texts: list[str], lower_case: bool
) -> None:
    tokenizer = WordPieceTokenizer(VOCAB, lower_case)
    tokens = tokenizer.tokenize(texts)
    encodings = tokenizer.encode_batch(texts)
    assert tokens.ids.tolist() == [i for e in encodings for i in e.ids[1:-1]]
    assert tokens.lengths.tolist() == [len(e.ids) - 2 for e in encodings]
    stop = 0
    for text, length in zip(texts, tokens.lengths.tolist(), strict=True):
        start, stop = stop, stop + length
        assert length == 0 or tokens.first[start]
        previous_end = 0
        for i in range(start, stop):
            if tokens.first[i]:
                assert previous_end <= tokens.start[i] < tokens.end[i] <= len(text)
                previous_end = tokens.end[i]
            else:
                assert (tokens.start[i], tokens.end[i]) == (
                    tokens.start[i - 1], tokens.end[i - 1],
                )  # fmt: skip


@pytest.mark.parametrize("size", [1, 3, 7, 100])
def test_tokenizing_in_groups_changes_nothing(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    texts = ["", "abcab", "中", "", "a b", "iPhone7 cafe", "b", ""]
    whole = LOWER.tokenize(texts)
    monkeypatch.setattr("flax_ner.text.tokenizer.GROUP_CHARACTERS", size)
    for column, expected in zip(LOWER.tokenize(texts), whole, strict=True):
        assert column.dtype == expected.dtype and column.tolist() == expected.tolist()
    assert LOWER.tokenize([]).lengths.tolist() == []


@pytest.mark.slow
def test_every_character_is_at_most_one_word() -> None:
    characters = [chr(code) for code in range(sys.maxunicode + 1)]
    tokens = LOWER.tokenize(characters)
    assert (tokens.start == 0).all() and (tokens.end == 1).all()
    assert tokens.first.sum() == (tokens.lengths > 0).sum()


@pytest.mark.parametrize("lower_case", [True, False])
def test_the_tokenizers_library_loads_a_saved_tokenizer(tmp_path: Path, lower_case: bool) -> None:
    path = tmp_path / "tokenizer.json"
    tokenizer = WordPieceTokenizer(VOCAB, lower_case)
    tokenizer.save(path)
    assert read_tokenizer_json(path) == (VOCAB, lower_case, "wordpiece", "")
    loaded = Tokenizer.from_file(str(path))
    for text in ("iPhone7中国 Café.", "", "\n\0"):
        expected, actual = tokenizer.encode(text), loaded.encode(text)
        assert (actual.ids, actual.offsets) == (expected.ids, expected.offsets)


@pytest.mark.parametrize(
    "change",
    [
        {"normalizer": normalizers.BertNormalizer(handle_chinese_chars=False)},
        {"normalizer": normalizers.BertNormalizer(strip_accents=False)},
        {"normalizer": normalizers.Sequence([normalizers.NFKC(), normalizers.BertNormalizer()])},
        {"pre_tokenizer": pre_tokenizers.Whitespace()},
        {"model": models.WordPiece({"[CLS]": 0}, unk_token="[UNK]")},
        {"model": models.WordPiece(IDS, unk_token="[UNK]", continuing_subword_prefix="@@")},
    ],
    ids=["Chinese", "accents", "NFKC", "words", "special tokens", "prefix"],
)
def test_a_tokenizer_that_differs_from_bert_has_the_kind_subword(
    tmp_path: Path, change: dict[str, Any]
) -> None:
    path = tmp_path / "tokenizer.json"
    backend = WordPieceTokenizer(VOCAB)._backend
    for part, value in change.items():
        setattr(backend, part, value)
    backend.save(str(path))
    read = read_tokenizer_json(path)
    assert (read.kind, read.definition) == ("subword", path.read_text("utf-8"))
