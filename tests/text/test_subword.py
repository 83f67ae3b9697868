"""The subword tokenizer: words and their offsets."""

import json
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as Backend
from tokenizers import models

from flax_ner.errors import UserError
from flax_ner.text.encoding import NO_LABEL, encode_examples
from flax_ner.text.examples import Entity, Example
from flax_ner.text.labels import LabelSet
from flax_ner.text.subword import SubwordTokenizer
from flax_ner.text.tokenizer import Tokens
from tests.conftest import SHARED
from tests.subwords import bpe_tokenizer, unigram_tokenizer

XLMR = SHARED / "models/xlmr-tokenizer/tokenizer.json"
ANY_TEXT = st.text(
    st.characters() | st.sampled_from("ab ,.\n\t中国，。é\u0301\u200d\u3000½Ⅶﬁ①ガｶﾞ한😀\u00ad"),
    max_size=25,
)
LABELS = LabelSet(["x", "y"])


@lru_cache
def xlmr() -> SubwordTokenizer:
    if not XLMR.is_file():
        pytest.skip(f"no {XLMR}; FLAX_NER_SHARED names the folder that holds models")
    return SubwordTokenizer(XLMR.read_text("utf-8"))


TOKENIZERS = {"bpe": bpe_tokenizer, "unigram": unigram_tokenizer, "xlmr": xlmr}


def words(tokens: Tokens, text: str) -> list[str]:
    """Return the words of one text as written in it."""
    spans = zip(tokens.start[tokens.first], tokens.end[tokens.first], strict=True)
    return [text[start:end] for start, end in spans]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        (" \n\u3000", []),
        ("hello London, world's", ["hello", "London", ",", "world", "'s"]),
        ("  a\n\nb\tc ", ["a", "b", "c"]),
        (
            "国内银行2008年",
            ["国", "内", "银行", "2008", "年"],
        ),  # one token has bytes of both 银 and 行
        ("a中b", ["a", "中", "b"]),
        ("吗😀é", ["吗", "😀é"]),  # several byte tokens each
        ("e\u0301a e\u0301", ["e\u0301a", "e\u0301"]),
        ("a\u00a0\u3000b", ["a", "b"]),
        ("x\ud800y", ["x\ud800y"]),
    ],
)
def test_bpe_words_exclude_spaces_and_merge_where_a_token_crosses(
    text: str, expected: list[str]
) -> None:
    assert words(bpe_tokenizer().tokenize([text]), text) == expected


@pytest.mark.slow
@pytest.mark.every_python
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("中国人民", ["中国人民"]),  # one subword
        ("王建国在东海市工作。", ["王", "建", "国", "在", "东", "海", "市", "工作", "。"]),
        (" 中国  a", ["中国", "a"]),
        ("London, world's U.S.", ["London", ",", "world", "'", "s", "U", ".", "S", "."]),
        ("①⑩½", ["①⑩½"]),  # the NFKC forms 110 and 1⁄2 share tokens
        ("ＡＢＣ，你好", ["ＡＢＣ", "，", "你好"]),
        ("…x", ["…", "x"]),
        ("e\u0301a ﬁne", ["e\u0301a", "ﬁne"]),
        ("\ufdfa abc", ["\ufdfa", "abc"]),  # one character whose NFKC form has four words
        ("สวัสดีครับ", ["สวัส", "ดี", "ครับ"]),
        ("x\x00y\x07z", ["x\x00y\x07z"]),
    ],
)
def test_words_of_the_xlmr_vocabulary(text: str, expected: list[str]) -> None:
    assert words(xlmr().tokenize([text]), text) == expected


@pytest.mark.parametrize("name", TOKENIZERS)
@settings(max_examples=150)
@given(st.lists(ANY_TEXT, max_size=4))
@example(["ab", "", "b", " ", "中"])
@example(["\u0301a", " \u0301", "▁ ▁a", "<s></s>"])
def test_words_of_many_texts_are_sorted_and_do_not_overlap(name: str, texts: list[str]) -> None:
    tokenizer = TOKENIZERS[name]()
    tokens = tokenizer.tokenize(texts)
    encodings = tokenizer.encode_batch(texts)
    assert tokens.ids.tolist() == [i for e in encodings for i in e.ids[1:-1]]
    assert tokens.lengths.tolist() == [len(e.ids) - 2 for e in encodings]
    stop = 0
    for text, length in zip(texts, tokens.lengths.tolist(), strict=True):
        own = slice(stop, stop + length)
        stop += length
        first, start, end = tokens.first[own], tokens.start[own], tokens.end[own]
        assert (np.diff(start) >= 0).all() and ((start >= 0) & (end <= len(text))).all()
        starts, ends = start[first], end[first]
        assert (starts < ends).all() and (starts[1:] >= ends[:-1]).all()
        for a, b in zip(starts, ends, strict=True):
            assert not text[a].isspace() and not text[b - 1].isspace()
        word = np.cumsum(first) - 1
        blank = start == end  # belongs to no word
        assert not first[blank].any() and (word[~blank] >= 0).all()
        assert (start[~blank] == starts[word[~blank]]).all()
        assert (end[~blank] == ends[word[~blank]]).all()
        alone = tokenizer.tokenize([text])
        assert words(alone, text) == [text[a:b] for a, b in zip(starts, ends, strict=True)]


@settings(max_examples=150)
@given(ANY_TEXT)
def test_bpe_words_cover_every_character_but_spaces(text: str) -> None:
    tokenizer = bpe_tokenizer()
    tokens = tokenizer.tokenize([text])
    covered = {i for a, b in zip(tokens.start, tokens.end, strict=True) for i in range(a, b)}
    # A space inside a subword belongs to its word.
    assert {i for i, c in enumerate(text) if not c.isspace()} <= covered


@pytest.mark.parametrize("name", TOKENIZERS)
@settings(max_examples=150)
@given(ANY_TEXT, st.data())
def test_entities_survive_encoding_and_decoding(name: str, text: str, data: st.DataObject) -> None:
    tokenizer = TOKENIZERS[name]()
    tokens = tokenizer.tokenize([text])
    starts, ends = tokens.start[tokens.first], tokens.end[tokens.first]
    cuts = sorted(data.draw(st.sets(st.integers(0, len(starts)), max_size=6)))
    gold = [
        Entity(data.draw(st.sampled_from("xy")), int(starts[a]), int(ends[b - 1]), "")
        for a, b in pairwise(cuts)
    ]
    encoded = encode_examples([Example(text, tuple(gold), "file:1")], tokenizer, LABELS, 500)
    tags = encoded.labels[encoded.labels != NO_LABEL]
    assert encoded.ids.tolist() == tokenizer.encode(text).ids and len(tags) == len(starts) + 2
    (decoded,) = LABELS.decode(tags[None], np.ones((1, len(tags)), int))
    assert [(kind, starts[a], ends[b - 1]) for kind, a, b in decoded] == [e[:3] for e in gold]


@pytest.mark.parametrize("size", [1, 5, 100])
def test_tokenizing_in_groups_changes_nothing(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    texts = ["", "国内银行, London", "中", "", "a b", " iPhone7 ", "b", ""]
    whole = unigram_tokenizer().tokenize(texts)
    monkeypatch.setattr("flax_ner.text.tokenizer.GROUP_CHARACTERS", size)
    for column, expected in zip(unigram_tokenizer().tokenize(texts), whole, strict=True):
        assert column.dtype == expected.dtype and column.tolist() == expected.tolist()
    assert unigram_tokenizer().tokenize([]).lengths.tolist() == []


def test_special_tokens_come_from_the_tokenizer_json() -> None:
    for tokenizer in (bpe_tokenizer(), unigram_tokenizer(), xlmr()):
        names = {role: tokenizer.tokens[i] for role, i in tokenizer.special.items()}
        assert names == {
            "cls": "<s>", "sep": "</s>", "pad": "<pad>", "unk": "<unk>", "mask": "<mask>",
        }  # fmt: skip
        assert tokenizer.encode("").ids == [tokenizer.cls_id, tokenizer.sep_id] == [0, 2]
        assert tokenizer.unknown_id == 3 and not tokenizer.lower_case


def test_saved_truncation_and_padding_are_disabled(tmp_path: Path) -> None:
    backend = Backend.from_str(bpe_tokenizer().definition)
    backend.enable_truncation(4)
    backend.enable_padding(length=8)
    tokenizer = SubwordTokenizer(backend.to_str())
    text = "国内银行现在走的是台湾"
    assert tokenizer.encode(text).ids == bpe_tokenizer().encode(text).ids
    tokenizer.save(tmp_path / "tokenizer.json")
    assert SubwordTokenizer((tmp_path / "tokenizer.json").read_text()).encode("").ids == [0, 2]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"post_processor": None}, "adds 0 special tokens to a text"),
        ({"version": "9.0"}, "the installed version of tokenizers cannot read it"),
        ({"pre_tokenizer": {"type": "Future"}}, "the installed version of tokenizers cannot read"),
        ({"model": {"type": "BPE", "vocab": {"a": 9}}}, "its ids are not 0, 1, 2"),
    ],
)
def test_an_unusable_definition_raises(change: dict[str, Any], message: str) -> None:
    definition = json.dumps(json.loads(bpe_tokenizer().definition) | change)
    with pytest.raises(UserError, match=f"^tokenizer.json: {message}"):
        SubwordTokenizer(definition)


def test_a_vocabulary_without_unk_token_has_no_unknown_id() -> None:
    row = json.loads(bpe_tokenizer().definition)
    row["added_tokens"] = [
        t for t in row["added_tokens"] if t["content"] not in ("<unk>", "<mask>")
    ]
    tokenizer = SubwordTokenizer(json.dumps(row))
    assert tokenizer.unknown_id == -1 and "mask" not in tokenizer.special
    assert isinstance(tokenizer._backend.model, models.BPE)
