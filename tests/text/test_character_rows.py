"""Characters map to rows of subword vocabularies."""

import numpy as np
import pytest

from flax_ner.text.character_rows import describe_coverage, find_character_rows
from flax_ner.text.subword import SubwordTokenizer
from flax_ner.text.tokenizer import CharTokenizer
from flax_ner.text.vocab import SPECIAL_TOKENS, read_vocab
from flax_ner.weights.safetensors_files import read_safetensors
from tests.conftest import SHARED
from tests.subwords import TEXTS, bpe_tokenizer

MODELS = SHARED / "models"


def test_a_row_comes_from_the_character_then_after_a_space_then_from_nfkc() -> None:
    tokens = ["<s>", "▁", "▁b", "ab", "a", "b", "▁中", "国", " ", "\n", "\x07", "▁c", "c", "°"]
    rows, count = find_character_rows(tokens, {0}, byte_level=False)
    assert {x: rows[x] for x in rows if x in "abc中国°"} == {
        "a": 4, "b": 5, "中": 6, "国": 7, "c": 12, "°": 13,
    }  # fmt: skip
    assert list(rows)[:count] == ["a", "b", "中", "国", "c", "°"]
    assert (rows["ａ"], rows["ⓑ"], rows["℃"], rows["㊥"]) == (4, 5, 13, 6)
    others = list(rows)[count:]
    assert others == sorted(others) and not {"x", "▁", " ", "\n", "\x07", "\u3000"} & rows.keys()


def test_byte_level_tokens_are_decoded() -> None:
    tokenizer = bpe_tokenizer()
    rows, count = find_character_rows(tokenizer.tokens, tokenizer.special.values(), byte_level=True)
    direct = list(rows)[:count]
    assert all(tokenizer.tokens[rows[x]] in (x, f"Ġ{x}") for x in direct if x.isascii())
    assert {"国", "a", "，"} <= set(direct)
    for x in "国，":
        (i,) = tokenizer.encode(x).ids[1:-1]
        assert rows[x] == i
    assert rows["Ａ"] == rows["A"] and " " not in rows and "é" not in direct


@pytest.mark.slow
@pytest.mark.every_python
def test_xlmr_rows_agree_with_a_published_character_vocabulary() -> None:
    path = MODELS / "xlmr-tokenizer" / "tokenizer.json"
    if not path.is_file():
        pytest.skip(f"no {path}; FLAX_NER_SHARED names the folder that holds models")
    tokenizer = SubwordTokenizer(path.read_text("utf-8"))
    rows, count = find_character_rows(
        tokenizer.tokens, tokenizer.special.values(), byte_level=False
    )
    theirs = read_vocab(MODELS / "e5-small-zh" / "vocab.txt")
    characters = theirs[len(SPECIAL_TOKENS) :]
    assert len(characters) == 9316
    # They kept fewer scripts. The characters they kept have rows here, in the same order.
    kept = set(characters)
    assert [x for x in rows if x in kept] == characters
    direct = set(list(rows)[:count])
    own = [x for x in characters if x in direct]
    assert characters[: len(own)] == own and len(own) == 8780
    # Characters have equal embeddings there if and only if they have the same row here.
    vectors = read_safetensors(MODELS / "e5-small-zh" / "model.safetensors")
    vectors = vectors["embeddings.word_embeddings.weight"][len(SPECIAL_TOKENS) :]
    _, groups = np.unique(vectors, axis=0, return_inverse=True)
    numbers = np.array([rows[x] for x in characters])
    for group in range(groups.max() + 1):
        assert len(set(numbers[groups == group])) == 1
    assert len(set(numbers)) == groups.max() + 1


def test_describe_coverage_reports_known_and_unknown_characters() -> None:
    tokenizer = CharTokenizer([*SPECIAL_TOKENS, *"abc"])
    note = describe_coverage(tokenizer, ["ab A c", "dde f", "\n"], "data.train")
    assert note == (
        "The vocabulary has 50.00% of the 8 characters of data.train. The others become [UNK]: "
        "3 distinct characters, most often 'd' 2, 'e' 1, 'f' 1."
    )
    assert (
        describe_coverage(tokenizer, ["ab A"], "x")
        == "The vocabulary has 100.00% of the 3 characters of x."
    )
    assert describe_coverage(tokenizer, TEXTS[:0], "x").startswith(
        "The vocabulary has 100.00% of the 0"
    )
