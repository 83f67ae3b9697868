"""Vocabularies: tokens by id, as BERT's files hold them."""

import json
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from flax_ner.errors import UserError
from flax_ner.text.utf8 import read_text

SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
SURROGATES = re.compile("[\ud800-\udfff]")


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
            f"vocabulary: no file {str(path)!r}. Give the vocab.txt or tokenizer.json that was saved with the "
            "weights; that of bert-base-chinese has 21,128 lines."
        )
    text = read_text(path).removeprefix("\ufeff")
    # A lone \r ends a line too, as it does for other readers of a vocab.txt: ids count these lines.
    return re.sub("\r\n?", "\n", text).removesuffix("\n").split("\n")


class TokenizerJson(NamedTuple):
    """What a `tokenizer.json` says."""

    tokens: list[str]  # by id
    lower_case: bool
    # Which kind of tokenizer reads text as it does: `char`, `wordpiece` where it is BERT's own, else `subword`.
    kind: str
    definition: str  # its content, for `subword`; otherwise empty


def read_tokenizer_json(path: str | Path) -> TokenizerJson:
    """Read a `tokenizer.json`, which is the `tokenizers` library's format.

    Raises:
        UserError: a damaged file, or a kind of vocabulary that cannot be read, by name.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(
            f"{path}: no such file. Give the tokenizer.json or vocab.txt of the weights."
        )
    try:
        text = path.read_text("utf-8")
    except (OSError, ValueError):
        raise UserError(f"{path}: not a tokenizer.json, or a damaged one.") from None
    return parse_tokenizer_json(text, str(path))


def parse_tokenizer_json(text: str, source: str) -> TokenizerJson:
    """As `read_tokenizer_json`, from the content of the file; errors begin with `source`."""
    try:
        row = json.loads(text)
        model, ids = row["model"].get("type"), row["model"]["vocab"]
        if model == "Unigram":
            ids = {piece: i for i, (piece, _) in enumerate(ids)}
        added = {token["content"]: token["id"] for token in row.get("added_tokens") or ()}
        lower_case = _lowers(row.get("normalizer"))
        plain = model in ("WordPiece", None) and isinstance(ids, dict) and _is_berts(row)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise UserError(f"{source}: not a tokenizer.json, or a damaged one.") from None
    if model not in ("WordPiece", "WordLevel", "Unigram", "BPE", None):  # old files do not say
        raise UserError(
            f"{source}: its vocabulary is of {model}. Only characters, WordPieces, BPE and Unigram can be read."
        )
    if not isinstance(ids, dict):
        raise UserError(f"{source}: its vocabulary is not a table of tokens and ids.")
    tokens = {i: token for token, i in (ids | added).items()}
    whole = all(type(i) is int for i in tokens)
    if not whole or sorted(tokens) != list(range(len(tokens))):
        raise UserError(f"{source}: its ids are not 0, 1, 2, ... without a gap.")
    by_id = [tokens[i] for i in range(len(tokens))]
    kind = "char" if model == "WordLevel" else "wordpiece" if plain else "subword"
    return TokenizerJson(by_id, lower_case, kind, text if kind == "subword" else "")


def _lowers(normalizer: Any) -> bool:
    if not normalizer:
        return False
    if normalizer["type"] == "Sequence":
        return any(_lowers(part) for part in normalizer["normalizers"])
    return normalizer["type"] == "Lowercase" or normalizer.get("lowercase") is True


def _is_berts(row: dict[str, Any]) -> bool:
    """Whether a `tokenizer.json` of WordPieces finds words, cuts them and marks texts as BERT's does."""
    normalizers = _parts(row.get("normalizer"), "normalizers")
    if [part["type"] for part in normalizers] != ["BertNormalizer"]:
        return False
    (normalizer,) = normalizers
    stated = normalizer | {"tokenize_chinese_chars": normalizer.get("handle_chinese_chars")}
    if stated.get("clean_text") is False or unlike_bert(stated, stated.get("lowercase")):
        return False
    words = _parts(row.get("pre_tokenizer"), "pretokenizers")
    model = row["model"]
    special = model["vocab"].keys() | {t["content"] for t in row.get("added_tokens") or ()}
    return (
        [part["type"] for part in words] == ["BertPreTokenizer"]
        and model.get("continuing_subword_prefix", "##") == "##"
        and model.get("unk_token", "[UNK]") == "[UNK]"
        and model.get("max_input_chars_per_word", 100) == 100
        and special.issuperset(SPECIAL_TOKENS[:4])
    )


def adds_prefix_space(definition: str, default: bool) -> bool:
    """Whether byte-level BPE puts a space before each text; `default` for other tokenizers."""
    for part in _parts(json.loads(definition).get("pre_tokenizer"), "pretokenizers"):
        if part["type"] == "ByteLevel":
            return part.get("add_prefix_space") is True
    return default


def _parts(part: Any, name: str) -> list[dict[str, Any]]:
    """A part of a `tokenizer.json`, or those that a sequence is of."""
    if not part:
        return []
    if part.get("type") == "Sequence":
        return [inner for outer in part[name] for inner in _parts(outer, name)]
    return [part]


def unlike_bert(stated: dict[str, Any], lower_case: bool | None) -> str:
    """What a tokenizer of words does otherwise than BERT's, by the names of a `tokenizer_config.json`."""
    odd, accents = [], stated.get("strip_accents")
    if accents is not None and accents != lower_case:
        odd.append("takes accents off" if accents else "keeps accents")
    if stated.get("tokenize_chinese_chars") is False:
        odd.append("does not cut between Chinese characters")
    for name, usual in (
        ("do_basic_tokenize", True),
        ("word_tokenizer_type", "basic"),
        ("subword_tokenizer_type", "wordpiece"),
    ):
        if stated.get(name, usual) not in (usual, None):
            odd.append(f"has {name} {stated[name]!r}")
    return " and ".join(odd)


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
    return vocab_of(Counter(character.lower() for text in texts for character in text), min_count)


def vocab_of(counts: Counter[str], min_count: int = 1) -> list[str]:
    """As `build_vocab`, of lower-cased characters that are counted already."""
    kept = [
        c
        for c, n in counts.items()
        if n >= min_count and len(c) == 1 and not c.isspace() and not SURROGATES.match(c)
    ]
    return [*SPECIAL_TOKENS, *sorted(kept, key=lambda c: (-counts[c], c))]
