"""Text to token ids and the characters they stand for, on the `tokenizers` library."""

import sys
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple
from unicodedata import category

import numpy as np
from tokenizers import Encoding, Regex, models, normalizers, pre_tokenizers, processors
from tokenizers import Tokenizer as Backend

from flax_ner.arguments import check_instance, check_strings, check_text
from flax_ner.text.vocab import (
    SPECIAL_TOKENS,
    SURROGATES,
    read_vocab,
    token_ids,
)

CHUNK_CHARACTERS = 1_000_000  # characters whose encodings, of 200 bytes each, are there at a time


class Tokens(NamedTuple):
    """The tokens of many texts end to end, without [CLS] and [SEP].

    A word is what has one tag and is never divided: a character, or what is cut into WordPieces or other
    subwords. A subword that stands for spaces alone is part of no word: `first` is False, and `start` and
    `end` are equal.
    """

    ids: np.ndarray  # int32 [M]
    lengths: np.ndarray  # int64 [texts], tokens of each
    first: np.ndarray  # bool [M], whether a word begins with the token
    start: np.ndarray  # int32 [M], where the token's word begins in its text
    end: np.ndarray  # int32 [M], and ends, exclusive


def chunks_of(tokens: Tokens, size: int) -> Iterator[Tokens]:
    """Yield the tokens of the first `size` texts, of the next `size`, and so on."""
    begin = 0
    for first in range(0, len(tokens.lengths), size):
        lengths = tokens.lengths[first : first + size]
        here = slice(begin, begin + int(lengths.sum()))
        begin = here.stop
        yield Tokens(tokens.ids[here], lengths, *(column[here] for column in tokens[2:]))


class Framed(NamedTuple):
    """Pieces of texts end to end, each with [CLS] in front and [SEP] behind."""

    ids: np.ndarray  # int32 [N]
    # Which of all tokens it is; of [CLS] the one before the piece, of [SEP] the one behind: those may
    # be of another text, or nowhere.
    token: np.ndarray  # int64 [N]
    lengths: np.ndarray  # int64 [pieces]


class Tokenizer(ABC):
    """What the kinds of tokenizers share.

    Attributes:
        tokens: the vocabulary, by id.
        lower_case: whether upper-case characters are read as their lower-case form.
        definition: content of the `tokenizer.json` that says how text is read; empty where kind, vocabulary
            and `lower_case` do.
        special: ids of the special tokens, by role: cls and sep stand before and behind a text, and there may
            be pad, unk and mask. Elsewhere they are called [CLS], [SEP] and so on, whatever their names are.
    """

    kind: str
    tokens: list[str]
    lower_case: bool
    definition: str = ""
    special: dict[str, int]
    _backend: Backend

    @property
    def cls_id(self) -> int:
        """The id of what stands before a text."""
        return self.special["cls"]

    @property
    def sep_id(self) -> int:
        """The id of what stands behind a text."""
        return self.special["sep"]

    @property
    def unknown_id(self) -> int:
        """The id of what the vocabulary lacks; -1: it lacks nothing."""
        return self.special.get("unk", -1)

    @abstractmethod
    def tokenize(self, texts: Sequence[str]) -> Tokens:
        """The tokens of many texts."""

    def identity(self) -> bytes:
        """Return all that decides how text is read, for digests."""
        return repr((self.kind, self.lower_case, self.tokens)).encode() + self.definition.encode()

    def save(self, path: str | Path) -> None:
        """Write a `tokenizer.json`, which gives the `tokenizers` library this tokenizer."""
        self._backend.save(str(path))

    def encode(self, text: str) -> Encoding:
        """Encode one text; `.ids` with [CLS] and [SEP], `.offsets` [start, end) a token, theirs (0, 0)."""
        return self.encode_batch([check_text(text, "text")])[0]

    def encode_batch(self, texts: Sequence[str]) -> list[Encoding]:
        """Encode many texts, on all cores."""
        # The library takes UTF-8, which has no lone surrogates; they are unknown characters anyway.
        clean = [text if text.isascii() else SURROGATES.sub("\ufffd", text) for text in texts]
        encodings: list[Encoding] = self._backend.encode_batch(clean, is_pretokenized=False)
        return encodings

    def frame(
        self, tokens: Tokens, text: np.ndarray, start: np.ndarray, stop: np.ndarray
    ) -> Framed:
        """Put [CLS] and [SEP] around tokens [start, stop) of texts; all int [pieces]."""
        lengths = stop - start + 2
        ends = np.cumsum(lengths)
        begins = ends - lengths
        before = (np.cumsum(tokens.lengths) - tokens.lengths)[text] + start - 1
        token = np.repeat(before - begins, lengths) + np.arange(lengths.sum())
        ids = np.append(tokens.ids, np.int32(0)).take(token, mode="clip")
        ids[begins], ids[ends - 1] = self.cls_id, self.sep_id
        return Framed(ids, token, lengths)


class VocabTokenizer(Tokenizer):
    """A tokenizer that a vocabulary with BERT's special tokens defines.

    Args:
        vocab: a `vocab.txt` (one token a line, the line number is the id) or the tokens themselves.
        lower_case: whether upper-case characters are read as their lower-case form.
    """

    def __init__(self, vocab: str | Path | Sequence[str], lower_case: bool = True):
        check_instance(lower_case, "lower_case", bool)
        self.tokens = (
            read_vocab(vocab)
            if isinstance(vocab, str | Path)
            else check_strings(vocab, "vocab", "tokens")
        )
        self.lower_case = lower_case
        named = vocab if isinstance(vocab, str | Path) else "the vocabulary given"
        ids = token_ids(self.tokens, f"tokenizer.vocab: {named}")
        self.special = {t[1:-1].lower(): ids[t] for t in SPECIAL_TOKENS if t in ids}
        self._backend = self._make_backend(ids)
        self._backend.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]",
            special_tokens=[("[CLS]", ids["[CLS]"]), ("[SEP]", ids["[SEP]"])],
        )

    @abstractmethod
    def _make_backend(self, ids: dict[str, int]) -> Backend:
        """What cuts and looks up; `ids` is that of each token."""


class CharTokenizer(VocabTokenizer):
    """One token a character, [CLS] in front and [SEP] behind.

    Each character is lower-cased on its own, so that offsets stay true: "İ".lower() is two
    characters. What the vocabulary lacks (also a space) is [UNK].
    Source: MMOCR 0.6.3, ner_convertor.py; differs: it lower-cases the whole text first, which
    shifts every label behind an "İ".
    """

    kind = "char"

    def _make_backend(self, ids: dict[str, int]) -> Backend:
        self._id_of = np.full(sys.maxunicode + 1, -1, np.int32)  # by code point; -1: not asked yet
        backend = Backend(models.WordLevel(ids, "[UNK]"))
        if self.lower_case:
            # "İ" alone would become two characters, so two tokens; U+FFFF is in no vocabulary.
            one_to_one = normalizers.Replace("İ", "\uffff")
            backend.normalizer = normalizers.Sequence([one_to_one, normalizers.Lowercase()])
        backend.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
        return backend

    def character_ids(self, text: str) -> np.ndarray:
        """The ids that `encode` gives the characters, int32 [len(text)], without [CLS] and [SEP].

        A character's id is the same wherever it stands, so that each is looked up once.
        """
        codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4")
        ids = self._id_of[codes]
        if len(ids) and ids.min() < 0:
            new = np.flatnonzero(
                np.bincount(codes[ids < 0])
            )  # sorting all of a corpus takes seconds
            self._id_of[new] = self.encode("".join(map(chr, new.tolist()))).ids[1:-1]
            ids = self._id_of[codes]
        return ids

    def tokenize(self, texts: Sequence[str]) -> Tokens:
        """The tokens of many texts; every character is a word."""
        ids = self.character_ids("".join(texts))
        lengths = np.fromiter(map(len, texts), np.int64, len(texts))
        first = np.repeat(np.cumsum(lengths) - lengths, lengths)
        start = (np.arange(len(ids)) - first).astype(np.int32)
        return Tokens(ids, lengths, np.ones(len(ids), bool), start, start + 1)


class WordPieceTokenizer(VocabTokenizer):
    """BERT's own: words at spaces and punctuation, each cut into the longest pieces of the vocabulary.

    A Chinese character is a word of its own. With `lower_case` accents are taken off too. Spaces,
    control characters and the like are no part of any token; a combining mark belongs to the word
    that it stands on.
    Source: google-research/bert, tokenization.py, as `tokenizers` has it; literal [CLS], [MASK] and
    so on in a text are text.
    """

    kind = "wordpiece"

    def _make_backend(self, ids: dict[str, int]) -> Backend:
        pieces = models.WordPiece(ids, unk_token="[UNK]", max_input_chars_per_word=100)
        backend = Backend(pieces)
        backend.normalizer = normalizers.BertNormalizer(lowercase=self.lower_case)
        backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        return backend

    def tokenize(self, texts: Sequence[str]) -> Tokens:
        """The tokens of many texts."""
        parts = [self._tokenize(part) for part in chunk_texts(texts)]
        return Tokens(*map(np.concatenate, zip(*parts, strict=True)))

    def _tokenize(self, texts: Sequence[str]) -> Tokens:
        ids, words, offsets = list[int](), list[int | None](), list[tuple[int, int]]()
        encodings = self.encode_batch(texts)
        for encoding in encodings:
            ids += encoding.ids[1:-1]
            words += encoding.word_ids[1:-1]
            offsets += encoding.offsets[1:-1]
        lengths = np.array([len(encoding) - 2 for encoding in encodings], np.int64)
        first = np.ones(len(ids), bool)
        first[1:] = np.diff(np.array(words, np.int64)) != 0
        first[(np.cumsum(lengths) - lengths)[lengths > 0]] = True  # two texts of one word have two
        last = np.append(first[1:], True)[: len(first)]
        places = np.array(offsets, np.int32).reshape(-1, 2)
        start, end = places[first, 0], places[last, 1]
        _take_marks(texts, lengths, first, start, end)
        word = np.cumsum(first) - 1
        return Tokens(np.array(ids, np.int32), lengths, first, start[word], end[word])


def chunk_texts(texts: Sequence[str]) -> Iterator[Sequence[str]]:
    """The texts in groups of about `CHUNK_CHARACTERS` characters, at least one group."""
    ends = np.cumsum([0, *map(len, texts)])
    first = 0
    while first == 0 or first < len(texts):
        stop = max(int(np.searchsorted(ends, ends[first] + CHUNK_CHARACTERS)), first + 1)
        yield texts[first:stop]
        first = stop


def _take_marks(
    texts: Sequence[str], lengths: np.ndarray, first: np.ndarray, start: np.ndarray, end: np.ndarray
) -> None:
    """Move the ends of words, int32 [words], behind the combining marks that stand there."""
    words = np.append(0, np.cumsum(first))[np.append(0, np.cumsum(lengths))]
    for text, begin, stop in zip(texts, words[:-1].tolist(), words[1:].tolist(), strict=True):
        if text.isascii() or not any(category(character) == "Mn" for character in set(text)):
            continue
        for i in range(begin, stop):
            limit = start[i + 1] if i + 1 < stop else len(text)
            while end[i] < limit and category(text[end[i]]) == "Mn":
                end[i] += 1
