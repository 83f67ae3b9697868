"""Tokenizers: convert text to token ids and character offsets. Built on the `tokenizers` library."""

import sys
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from unicodedata import category

import numpy as np
from tokenizers import Encoding, Regex, models, normalizers, pre_tokenizers, processors
from tokenizers import Tokenizer as Backend

from flax_ner.arguments import check_instance, check_strings, check_text
from flax_ner.text.utf8 import SURROGATES
from flax_ner.text.vocab import SPECIAL_TOKENS, map_tokens_to_ids, read_vocab

# Characters tokenized at a time. The library needs 200 bytes per token until its result is converted.
GROUP_CHARACTERS = 1_000_000


class Tokens(NamedTuple):
    """The tokens of many texts, concatenated, without [CLS] and [SEP].

    A word is the unit that has one tag: a character, or a word that is divided into WordPieces or other
    subwords. A subword that stands only for spaces belongs to no word: its `first` is False, and its `start`
    and `end` are equal.
    """

    ids: np.ndarray  # int32 [M]
    lengths: np.ndarray  # int64 [texts], number of tokens
    first: np.ndarray  # bool [M], whether the token is the first of its word
    start: np.ndarray  # int32 [M], first character of the token's word in its text
    end: np.ndarray  # int32 [M], end of that word, exclusive


def split_tokens(tokens: Tokens, size: int) -> Iterator[Tokens]:
    """Yield the tokens of `size` texts at a time."""
    begin = 0
    for first in range(0, len(tokens.lengths), size):
        lengths = tokens.lengths[first : first + size]
        own = slice(begin, begin + int(lengths.sum()))
        begin = own.stop
        yield Tokens(tokens.ids[own], lengths, *(column[own] for column in tokens[2:]))


class PieceTokens(NamedTuple):
    """Pieces of texts, concatenated, each with its [CLS] and [SEP]."""

    ids: np.ndarray  # int32 [N]
    # Index into `Tokens` of each token. [CLS] has the index before its piece and [SEP] the index after it;
    # these can belong to another text or be out of range.
    source: np.ndarray  # int64 [N]
    lengths: np.ndarray  # int64 [pieces]


class Tokenizer(ABC):
    """Base class of the tokenizers.

    Offsets count characters of the text as the caller wrote it, whatever the tokenizer normalises.

    Example:
        >>> tokenizer = CharTokenizer("bert-base-chinese/vocab.txt")
        >>> encoding = tokenizer.encode("中国")
        >>> encoding.tokens
        ['[CLS]', '中', '国', '[SEP]']
        >>> encoding.offsets
        [(0, 0), (0, 1), (1, 2), (0, 0)]

    Attributes:
        kind: name of the class in `tokenizer.kind` and in `TOKENIZERS`.
        tokens: vocabulary, in the order of the ids.
        lower_case: whether text is lower-cased.
        definition: content of the `tokenizer.json` that defines the tokenizer. Empty if `kind`, `tokens` and
            `lower_case` define it.
        special: ids of the special tokens by role: `cls` and `sep`, and optionally `pad`, `unk` and `mask`.
            The documentation calls them [CLS], [SEP] and so on, whatever their names in the vocabulary are.
    """

    kind: str
    tokens: list[str]
    lower_case: bool
    definition: str = ""
    special: dict[str, int]
    _backend: Backend

    @property
    def cls_id(self) -> int:
        """Id of the special token before a text."""
        return self.special["cls"]

    @property
    def sep_id(self) -> int:
        """Id of the special token after a text."""
        return self.special["sep"]

    @property
    def unknown_id(self) -> int:
        """Id of the unknown token; -1 if the tokenizer has none."""
        return self.special.get("unk", -1)

    @abstractmethod
    def tokenize(self, texts: Sequence[str]) -> Tokens:
        """Return the tokens of many texts, with the words they belong to."""

    def fingerprint(self) -> bytes:
        """Return everything that determines how text is tokenized, as input of a hash."""
        return repr((self.kind, self.lower_case, self.tokens)).encode() + self.definition.encode()

    def save(self, path: str | Path) -> None:
        """Write a `tokenizer.json` from which the `tokenizers` library loads this tokenizer."""
        self._backend.save(str(path))

    def encode(self, text: str) -> Encoding:
        """Encode one text.

        Returns:
            An encoding with `.ids`, which include [CLS] and [SEP], and `.offsets`, characters [start, end) of
            each token; those of [CLS] and [SEP] are (0, 0).
        """
        return self.encode_batch([check_text(text, "text")])[0]

    def encode_batch(self, texts: Sequence[str]) -> list[Encoding]:
        """Encode many texts, on all CPU cores."""
        # The library takes UTF-8, which cannot hold lone surrogates. They are unknown characters anyway.
        clean = [text if text.isascii() else SURROGATES.sub("\ufffd", text) for text in texts]
        encodings: list[Encoding] = self._backend.encode_batch(clean, is_pretokenized=False)
        return encodings

    def add_special_tokens(
        self, tokens: Tokens, text: np.ndarray, start: np.ndarray, stop: np.ndarray
    ) -> PieceTokens:
        """Return pieces of texts with [CLS] and [SEP] added to each.

        Args:
            tokens: tokens of the texts.
            text: int [pieces], text of each piece.
            start: int [pieces], first token of each piece within its text.
            stop: int [pieces], end of each piece within its text, exclusive.
        """
        lengths = stop - start + 2
        ends = np.cumsum(lengths)
        begins = ends - lengths
        before = (np.cumsum(tokens.lengths) - tokens.lengths)[text] + start - 1
        source = np.repeat(before - begins, lengths) + np.arange(lengths.sum())
        ids = np.append(tokens.ids, np.int32(0)).take(source, mode="clip")
        ids[begins], ids[ends - 1] = self.cls_id, self.sep_id
        return PieceTokens(ids, source, lengths)


class VocabTokenizer(Tokenizer):
    """Base class of the tokenizers that a BERT vocabulary defines.

    Args:
        vocab: path of a `vocab.txt` (one token per line; the line number is the id), or the tokens themselves.
        lower_case: whether to lower-case text.

    Raises:
        UserError: the file cannot be read, or the vocabulary lacks a special token or has a duplicate.
    """

    def __init__(self, vocab: str | Path | Sequence[str], lower_case: bool = True):
        check_instance(lower_case, "lower_case", bool)
        self.tokens = (
            read_vocab(vocab)
            if isinstance(vocab, str | Path)
            else check_strings(vocab, "vocab", "tokens")
        )
        self.lower_case = lower_case
        source = vocab if isinstance(vocab, str | Path) else "the given vocabulary"
        ids = map_tokens_to_ids(self.tokens, f"tokenizer.vocab: {source}")
        self.special = {t[1:-1].lower(): ids[t] for t in SPECIAL_TOKENS if t in ids}
        self._backend = self._make_backend(ids)
        self._backend.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]",
            special_tokens=[("[CLS]", ids["[CLS]"]), ("[SEP]", ids["[SEP]"])],
        )

    def __reduce__(self) -> tuple[Any, ...]:
        # Not the table of a CharTokenizer, which takes megabytes, and nothing of the library.
        return type(self), (self.tokens, self.lower_case)

    @abstractmethod
    def _make_backend(self, ids: dict[str, int]) -> Backend:
        """Return the library's tokenizer for a vocabulary, without a post-processor."""


class CharTokenizer(VocabTokenizer):
    """Tokenize text into characters: every character is one token.

    Each character is lower-cased on its own, so that token i is character i: "İ".lower() has two characters.
    Characters that the vocabulary lacks, among them the space, become [UNK].

    Source: MMOCR 0.6.3, ner_convertor.py; differs: MMOCR lower-cases the whole text first, which shifts every
    label after an "İ".

    Example:
        >>> tokenizer = CharTokenizer("bert-base-chinese/vocab.txt")
        >>> tokenizer.encode("A股").tokens
        ['[CLS]', 'a', '股', '[SEP]']
    """

    kind = "char"

    def _make_backend(self, ids: dict[str, int]) -> Backend:
        self._id_of = np.full(
            sys.maxunicode + 1, -1, np.int32
        )  # by code point; -1: not looked up yet
        backend = Backend(models.WordLevel(ids, "[UNK]"))
        if self.lower_case:
            # "İ" would become two characters and so two tokens. Map it to U+FFFF, which no vocabulary has.
            one_to_one = normalizers.Replace("İ", "\uffff")
            backend.normalizer = normalizers.Sequence([one_to_one, normalizers.Lowercase()])
        backend.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
        return backend

    def character_ids(self, text: str) -> np.ndarray:
        """Return the id of each character, int32 [len(text)]: those of `encode` without [CLS] and [SEP].

        The id of a character does not depend on its context, so each one is looked up only once.
        """
        codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4")
        ids = self._id_of[codes]
        if len(ids) and ids.min() < 0:
            # `bincount`, because `np.unique` would sort all characters of a corpus, which takes seconds.
            new = np.flatnonzero(np.bincount(codes[ids < 0]))
            self._id_of[new] = self.encode("".join(map(chr, new.tolist()))).ids[1:-1]
            ids = self._id_of[codes]
        return ids

    def tokenize(self, texts: Sequence[str]) -> Tokens:
        """Return the tokens of many texts; every character is a word."""
        ids = self.character_ids("".join(texts))
        lengths = np.fromiter(map(len, texts), np.int64, len(texts))
        text_start = np.repeat(np.cumsum(lengths) - lengths, lengths)
        start = (np.arange(len(ids)) - text_start).astype(np.int32)
        return Tokens(ids, lengths, np.ones(len(ids), bool), start, start + 1)


class WordPieceTokenizer(VocabTokenizer):
    """Tokenize text as BERT does: into words, and each word into the longest WordPieces of the vocabulary.

    Words end at spaces and punctuation. A Chinese character is a word of its own. `lower_case` also strips
    accents. Spaces and control characters belong to no token; a combining mark belongs to the word before it.

    Source: google-research/bert, tokenization.py, as implemented in `tokenizers`; differs: [CLS], [MASK] and so
    on in a text are ordinary text.

    Example:
        >>> tokenizer = WordPieceTokenizer("bert-base-chinese/vocab.txt")
        >>> tokenizer.encode("iPhone12中国").tokens
        ['[CLS]', 'iphone', '##12', '中', '国', '[SEP]']
    """

    kind = "wordpiece"

    def _make_backend(self, ids: dict[str, int]) -> Backend:
        pieces = models.WordPiece(ids, unk_token="[UNK]", max_input_chars_per_word=100)
        backend = Backend(pieces)
        backend.normalizer = normalizers.BertNormalizer(lowercase=self.lower_case)
        backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        return backend

    def tokenize(self, texts: Sequence[str]) -> Tokens:
        groups = [self._tokenize_group(group) for group in group_texts(texts)]
        return Tokens(*map(np.concatenate, zip(*groups, strict=True)))

    def _tokenize_group(self, texts: Sequence[str]) -> Tokens:
        ids, words, token_offsets = list[int](), list[int | None](), list[tuple[int, int]]()
        encodings = self.encode_batch(texts)
        for encoding in encodings:
            ids += encoding.ids[1:-1]
            words += encoding.word_ids[1:-1]
            token_offsets += encoding.offsets[1:-1]
        lengths = np.array([len(encoding) - 2 for encoding in encodings], np.int64)
        first = np.ones(len(ids), bool)
        first[1:] = np.diff(np.array(words, np.int64)) != 0
        # Word numbers restart in each text, so two texts of one word each need a boundary.
        first[(np.cumsum(lengths) - lengths)[lengths > 0]] = True
        last = np.append(first[1:], True)[: len(first)]
        offsets = np.array(token_offsets, np.int32).reshape(-1, 2)
        start, end = offsets[first, 0], offsets[last, 1]
        _extend_over_marks(texts, lengths, first, start, end)
        word = np.cumsum(first) - 1
        return Tokens(np.array(ids, np.int32), lengths, first, start[word], end[word])


def group_texts(texts: Sequence[str]) -> Iterator[Sequence[str]]:
    """Yield the texts in groups of about `GROUP_CHARACTERS` characters, at least one group."""
    ends = np.cumsum([0, *map(len, texts)])
    first = 0
    while first == 0 or first < len(texts):
        stop = max(int(np.searchsorted(ends, ends[first] + GROUP_CHARACTERS)), first + 1)
        yield texts[first:stop]
        first = stop


def _extend_over_marks(
    texts: Sequence[str], lengths: np.ndarray, first: np.ndarray, start: np.ndarray, end: np.ndarray
) -> None:
    """Move the end of each word, int32 [words], past the combining marks that follow it, in place."""
    words = np.append(0, np.cumsum(first))[np.append(0, np.cumsum(lengths))]
    for text, begin, stop in zip(texts, words[:-1].tolist(), words[1:].tolist(), strict=True):
        if text.isascii() or not any(category(character) == "Mn" for character in set(text)):
            continue
        for i in range(begin, stop):
            limit = start[i + 1] if i + 1 < stop else len(text)
            while end[i] < limit and category(text[end[i]]) == "Mn":
                end[i] += 1
