"""Text to token ids and character offsets, on the `tokenizers` library."""

import json
import re
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import (
    Encoding,
    Regex,
    Tokenizer,
    models,
    normalizers,
    pre_tokenizers,
    processors,
)

from flax_ner.errors import UserError

SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
_SURROGATES = re.compile("[\ud800-\udfff]")


class CharTokenizer:
    """One token a character, [CLS] in front and [SEP] behind.

    Each character is lower-cased on its own, so that offsets stay true: "İ".lower() is two
    characters. What the vocabulary lacks (also a space) is [UNK].
    Source: MMOCR 0.6.3, ner_convertor.py; differs: it lower-cases the whole text first, which
    shifts every label behind an "İ".

    Args:
        vocab: a `vocab.txt` (one token a line, the line number is the id) or the tokens themselves.
        lower_case: whether upper-case characters are read as their lower-case form.
    """

    def __init__(self, vocab: str | Path | Sequence[str], lower_case: bool = True):
        self.tokens = read_vocab(vocab) if isinstance(vocab, str | Path) else list(vocab)
        self.lower_case = lower_case
        named = vocab if isinstance(vocab, str | Path) else "the vocabulary given"
        ids = token_ids(self.tokens, f"tokenizer.vocab: {named}")
        self.unknown_id, self.cls_id, self.sep_id = (ids[t] for t in ("[UNK]", "[CLS]", "[SEP]"))
        self._id_of = np.full(sys.maxunicode + 1, -1, np.int32)  # by code point; -1: not asked yet
        self._backend = Tokenizer(models.WordLevel(ids, "[UNK]"))
        if lower_case:
            # "İ" alone would become two characters, so two tokens; U+FFFF is in no vocabulary.
            one_to_one = normalizers.Replace("İ", "\uffff")
            self._backend.normalizer = normalizers.Sequence([one_to_one, normalizers.Lowercase()])
        self._backend.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
        self._backend.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]",
            special_tokens=[("[CLS]", ids["[CLS]"]), ("[SEP]", ids["[SEP]"])],
        )

    def save(self, path: str | Path) -> None:
        """Write a `tokenizer.json`, which gives the `tokenizers` library this tokenizer."""
        self._backend.save(str(path))

    def encode(self, text: str) -> Encoding:
        """Encode one text; `.ids` with [CLS] and [SEP], `.offsets` [start, end) a token, theirs (0, 0)."""
        return self.encode_batch([text])[0]

    def encode_batch(self, texts: Sequence[str]) -> list[Encoding]:
        """Encode many texts, on all cores."""
        # The library takes UTF-8, which has no lone surrogates; they are unknown characters anyway.
        clean = [text if text.isascii() else _SURROGATES.sub("\ufffd", text) for text in texts]
        encodings: list[Encoding] = self._backend.encode_batch(clean, is_pretokenized=False)
        return encodings

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

    def encode_ids(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """The ids of many texts end to end, [CLS] and [SEP] included, and nothing else of `encode_batch`.

        Returns:
            ids int32 [sum of lengths] and lengths int64 [texts].
        """
        lengths = np.array([len(text) + 2 for text in texts], np.int64)
        stops = np.cumsum(lengths)
        ids = np.empty(lengths.sum(), np.int32)
        inside = np.ones(len(ids), bool)
        for places, special in ((stops - lengths, self.cls_id), (stops - 1, self.sep_id)):
            ids[places], inside[places] = special, False
        ids[inside] = self.character_ids("".join(texts))
        return ids, lengths


def token_ids(tokens: Sequence[str], source: str) -> dict[str, int]:
    """The id of each token.

    Raises:
        UserError: a special token is missing or one is there twice; begins with `source`.
    """
    ids = {token: i for i, token in enumerate(tokens)}
    missing = [token for token in SPECIAL_TOKENS[:4] if token not in ids]
    if missing:
        raise UserError(f"{source} lacks {', '.join(missing)}. A BERT vocab.txt has them.")
    if len(ids) < len(tokens):
        twice = next(token for i, token in enumerate(tokens) if ids[token] != i)
        raise UserError(f"{source} has {twice!r} twice. A token has one line.")
    return ids


def read_vocab(path: str | Path) -> list[str]:
    """Read the tokens by id of a BERT `vocab.txt` (one a line) or of a `tokenizer.json`."""
    path = Path(path)
    if path.suffix == ".json":
        return read_tokenizer_json(path)[0]
    if not path.is_file():
        raise UserError(
            f"tokenizer.vocab: no file {str(path)!r}. Give the vocab.txt that belongs to the weights; "
            "for Chinese BERT it is published with bert-base-chinese, 21,128 lines."
        )
    try:
        return path.read_text(encoding="utf-8-sig").removesuffix("\n").split("\n")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path}: not UTF-8 ({error.reason} at byte {error.start}). Save the file as UTF-8."
        ) from None


def read_tokenizer_json(path: str | Path) -> tuple[list[str], bool, bool]:
    """Read a `tokenizer.json` of a BERT, which is the `tokenizers` library's format.

    Returns:
        Tokens by id, whether text is lower-cased, and whether words are cut into pieces (False: every
        character is looked up).

    Raises:
        UserError: a damaged file, or another kind of vocabulary, by name.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(
            f"{path}: no such file. Give the tokenizer.json or vocab.txt of the weights."
        )
    try:
        row = json.loads(path.read_text("utf-8"))
        kind, ids = row["model"].get("type"), row["model"]["vocab"]
        added = {token["content"]: token["id"] for token in row.get("added_tokens") or ()}
        lower_case = _lowers(row.get("normalizer"))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise UserError(f"{path}: not a tokenizer.json, or a damaged one.") from None
    if kind not in ("WordPiece", "WordLevel", None):  # old files do not say
        raise UserError(
            f"{path}: its vocabulary is of {kind}, not BERT's. Only models that read characters or "
            "WordPieces can be converted."
        )
    if not isinstance(ids, dict):
        raise UserError(f"{path}: its vocabulary is not a table of tokens and ids.")
    tokens = {i: token for token, i in (ids | added).items()}
    whole = all(type(i) is int for i in tokens)
    if not whole or sorted(tokens) != list(range(len(tokens))):
        raise UserError(f"{path}: its ids are not 0, 1, 2, ... without a gap.")
    return [tokens[i] for i in range(len(tokens))], lower_case, kind != "WordLevel"


def _lowers(normalizer: Any) -> bool:
    if not normalizer:
        return False
    if normalizer["type"] == "Sequence":
        return any(_lowers(part) for part in normalizer["normalizers"])
    return normalizer["type"] == "Lowercase" or normalizer.get("lowercase") is True


def write_vocab(path: str | Path, tokens: Sequence[str]) -> None:
    """Write a `vocab.txt`.

    Raises:
        UserError: a token has a line break in it.
    """
    broken = next((token for token in tokens if "\n" in token or "\r" in token), None)
    if broken is not None:
        raise UserError(
            f"{path}: the token {broken!r} has a line break, which vocab.txt cannot hold."
        )
    Path(path).write_text("\n".join(tokens) + "\n", encoding="utf-8", newline="\n")


def build_vocab(texts: Iterable[str], min_count: int = 1) -> list[str]:
    """Special tokens, then every lower-cased character that occurs `min_count` times, most frequent first."""
    counts = Counter(character.lower() for text in texts for character in text)
    kept = [
        c
        for c, n in counts.items()
        if n >= min_count and len(c) == 1 and not c.isspace() and not _SURROGATES.match(c)
    ]
    return [*SPECIAL_TOKENS, *sorted(kept, key=lambda c: (-counts[c], c))]
