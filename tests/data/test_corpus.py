"""Tokenization of plain text into files: ids, reuse of existing files, compressed and invalid text."""

import gzip
import json
import lzma
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flax_ner.data import corpus
from flax_ner.data.corpus import (
    check_text_file,
    count_characters,
    make_corpus,
    open_corpus,
    read_documents,
    token_counts,
)
from flax_ner.data.files import ConversionWarnings
from flax_ner.data.synthetic import synthetic
from flax_ner.errors import UserError
from flax_ner.text.tokenizer import CharTokenizer, Tokenizer, WordPieceTokenizer
from flax_ner.text.vocab import SPECIAL_TOKENS, build_vocab, vocab_from_counts

TEXTS = [example.text for example in synthetic("train", 40)]
VOCAB = build_vocab(TEXTS, 2)


def write(path: Path, texts: list[str]) -> Path:
    path.write_text("".join(f"{text}\n" for text in texts), "utf-8")
    return path


def documents(*arguments: Any) -> list[str]:
    return [text for texts in read_documents(*arguments) for text in texts]


@pytest.mark.parametrize("tokenizer", [CharTokenizer(VOCAB), WordPieceTokenizer(VOCAB)])
def test_ids_equal_tokenizer_output(
    tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(corpus, "BLOCK_SIZE", 300)  # a few lines at a time
    path = write(tmp_path / "text.txt", TEXTS)
    row = make_corpus(tmp_path / "made", path, "data.train", tokenizer, skip=False)
    made = open_corpus(tmp_path / "made")
    expected = [tokenizer.encode(text).ids[1:-1] for text in TEXTS]
    flat = [i for ids in expected for i in ids]
    assert made.ids.tolist() == flat
    assert made.lengths.tolist() == list(map(len, expected))
    assert isinstance(made.ids, np.memmap) and made.ids.dtype == np.uint16
    assert row["documents"] == len(TEXTS) and row["tokens"] == len(made.ids)
    assert row["unknown"] == sum(ids.count(tokenizer.unknown_id) for ids in expected) > 0
    counts = token_counts(made, len(VOCAB))
    assert counts.tolist() == np.bincount(flat, minlength=len(VOCAB)).tolist()


def test_large_vocabulary_uses_uint32(tmp_path: Path) -> None:
    tokens = [*SPECIAL_TOKENS, *map(chr, range(0x20000, 0x20000 + 2**16))]
    path = write(tmp_path / "text.txt", [tokens[-1]])
    make_corpus(tmp_path / "made", path, "data.train", CharTokenizer(tokens), skip=False)
    assert open_corpus(tmp_path / "made").ids.tolist() == [len(tokens) - 1]


def test_corpus_is_made_again_only_after_a_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = list[Path]()
    real = corpus._write_ids
    monkeypatch.setattr(corpus, "_write_ids", lambda *args: calls.append(args[1]) or real(*args))
    folder, path = tmp_path / "made", write(tmp_path / "text.txt", TEXTS)

    def count_after_make(tokenizer: Tokenizer | None = None) -> int:
        make_corpus(folder, path, "data.train", tokenizer or CharTokenizer(VOCAB), skip=False)
        return len(calls)

    assert count_after_make() == count_after_make() == 1
    assert count_after_make(CharTokenizer(VOCAB, lower_case=False)) == 2
    assert count_after_make(CharTokenizer([*VOCAB, "A"])) == 3
    assert count_after_make() == 4
    write(path, TEXTS[::-1])  # the same size
    assert count_after_make() == count_after_make() == 5
    (folder / "made_of.json").unlink()  # written last, so a killed process leaves none
    assert count_after_make() == count_after_make() == 6
    with (folder / "ids.bin").open("ab") as file:
        file.write(b"xx")
    assert count_after_make() == count_after_make() == 7
    (folder / "made_of.json").write_text("[")
    assert count_after_make() == 8


@pytest.mark.parametrize("opened", [lzma.open, gzip.open])
def test_reads_compressed_text_and_reports_damage(opened: Any, tmp_path: Path) -> None:
    path = tmp_path / "text"
    with opened(path, "wb") as file:
        file.write("\n".join(TEXTS).encode())
    assert documents(path) == TEXTS
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=r"text: is damaged or truncated"):
        list(read_documents(path))


def test_lines_left_out_are_reported(tmp_path: Path) -> None:
    path, warnings, skipped = tmp_path / "text.txt", ConversionWarnings(), list[str]()
    path.write_bytes("\ufeff一\n\n二\r\n".encode() + b"\xff\n \n" + "三".encode())
    with pytest.raises(UserError, match=r"text.txt:4: not UTF-8"):
        list(read_documents(path))
    assert documents(path, skipped, warnings) == ["一", "二", "三"]
    assert skipped[0].startswith(f"{path}:4: not UTF-8") and len(skipped) == 1
    assert warnings.lines() == [f"blank lines, left out: 2 (first: {path}:2)"]
    row = make_corpus(tmp_path / "made", path, "data.train", CharTokenizer(VOCAB), skip=True)
    assert row["skipped"] == skipped
    assert any("blank lines, left out: 2" in note for note in row["notes"])
    again = make_corpus(tmp_path / "made", path, "data.train", CharTokenizer(VOCAB), skip=True)
    assert json.dumps(again) == json.dumps(row)  # reported again, although not read again


def test_missing_empty_and_undecodable_text_raises(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^data\.train: no file 'none\.txt'\. Give plain text"):
        check_text_file("none.txt", "data.train")
    with pytest.raises(UserError, match=r"^data\.dev: no file"):
        check_text_file(str(tmp_path), "data.dev")
    empty = write(tmp_path / "empty.txt", [])
    with pytest.raises(UserError, match=r"^data\.dev: .*empty\.txt is empty"):
        check_text_file(str(empty), "data.dev")
    blank = write(tmp_path / "blank.txt", ["", " "])
    with pytest.raises(UserError, match=r"^data\.dev: .*blank\.txt has no text"):
        make_corpus(tmp_path / "made", blank, "data.dev", CharTokenizer(VOCAB), skip=False)
    wide = tmp_path / "wide.txt"
    wide.write_text("一", "utf-16")
    with pytest.raises(UserError, match=r"wide\.txt: is UTF-16"):
        list(read_documents(wide))


def test_vocabulary_from_counts_equals_vocabulary_from_texts(tmp_path: Path) -> None:
    texts = [*TEXTS, "Aa bİ"]
    counts = count_characters(write(tmp_path / "text.txt", texts))
    for min_count in (1, 3):
        assert vocab_from_counts(counts, min_count) == build_vocab(texts, min_count)
