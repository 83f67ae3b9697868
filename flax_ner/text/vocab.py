"""Read, write and build vocabularies: lists of tokens whose index is the id."""

import json
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from flax_ner.errors import UserError
from flax_ner.text.utf8 import SURROGATES, read_text

SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
USE_ORIGINAL = "Use the tokenizer.json that was saved with the weights."


def map_tokens_to_ids(tokens: Sequence[str], source: str) -> dict[str, int]:
    """Return the id of each token.

    Raises:
        UserError: a special token is missing, or a token occurs twice. The message starts with `source`.
    """
    ids = {token: i for i, token in enumerate(tokens)}
    missing = [token for token in SPECIAL_TOKENS[:4] if token not in ids]
    if missing:
        raise UserError(f"{source} lacks {', '.join(missing)}. Give the vocab.txt of a BERT model.")
    if len(ids) < len(tokens):
        duplicate = next(token for i, token in enumerate(tokens) if ids[token] != i)
        raise UserError(f"{source} has {duplicate!r} twice. Each token must occur once.")
    return ids


def read_vocab(path: str | Path) -> list[str]:
    """Return the tokens of a `vocab.txt` (one per line) or a `tokenizer.json`, in the order of their ids.

    Raises:
        UserError: there is no such file, or it is damaged.
    """
    path = Path(path)
    if path.suffix == ".json":
        return read_tokenizer_json(path)[0]
    if not path.is_file():
        raise UserError(
            f"vocabulary: no file {str(path)!r}. Give the vocab.txt or tokenizer.json that was saved with the "
            "weights. The vocab.txt of bert-base-chinese has 21,128 lines."
        )
    text = read_text(path).removeprefix("\ufeff")
    # A lone \r also ends a line, as in other readers of vocab.txt. Ids are line numbers, so both must agree.
    return re.sub("\r\n?", "\n", text).removesuffix("\n").split("\n")


class TokenizerJson(NamedTuple):
    """The parts of a `tokenizer.json` that decide how to tokenize text."""

    tokens: list[str]  # in the order of their ids
    lower_case: bool
    kind: str  # `char`, `wordpiece` if it tokenizes exactly as BERT does, otherwise `subword`
    definition: str  # content of the file for `subword`, otherwise empty


def read_tokenizer_json(path: str | Path) -> TokenizerJson:
    """Read a `tokenizer.json`, the file format of the `tokenizers` library.

    Raises:
        UserError: there is no such file, it is damaged, or its model is not supported.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(
            f"{path}: no such file. Give the tokenizer.json or vocab.txt of the weights."
        )
    try:
        text = path.read_text("utf-8")
    except (OSError, ValueError):
        raise UserError(f"{path}: is not a tokenizer.json, or is damaged. {USE_ORIGINAL}") from None
    return parse_tokenizer_json(text, str(path))


def parse_tokenizer_json(text: str, source: str) -> TokenizerJson:
    """Parse the content of a `tokenizer.json`. Error messages start with `source`."""
    try:
        row = json.loads(text)
        model, ids = row["model"].get("type"), row["model"]["vocab"]
        if model == "Unigram":
            ids = {piece: i for i, (piece, _) in enumerate(ids)}
        added = {token["content"]: token["id"] for token in row.get("added_tokens") or ()}
        lower_case = _lower_cases(row.get("normalizer"))
        bert = model in ("WordPiece", None) and isinstance(ids, dict) and _tokenizes_as_bert(row)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise UserError(
            f"{source}: is not a tokenizer.json, or is damaged. {USE_ORIGINAL}"
        ) from None
    if model not in ("WordPiece", "WordLevel", "Unigram", "BPE", None):  # old files lack the type
        raise UserError(
            f"{source}: the model {model} is not supported. Use WordLevel, WordPiece, BPE or Unigram."
        )
    if not isinstance(ids, dict):
        raise UserError(f"{source}: its vocabulary does not map tokens to ids. {USE_ORIGINAL}")
    tokens = {i: token for token, i in (ids | added).items()}
    integers = all(type(i) is int for i in tokens)
    if not integers or sorted(tokens) != list(range(len(tokens))):
        raise UserError(f"{source}: its ids are not 0, 1, 2, ... without gaps. {USE_ORIGINAL}")
    by_id = [tokens[i] for i in range(len(tokens))]
    kind = "char" if model == "WordLevel" else "wordpiece" if bert else "subword"
    return TokenizerJson(by_id, lower_case, kind, text if kind == "subword" else "")


def _lower_cases(normalizer: Any) -> bool:
    if not normalizer:
        return False
    if normalizer["type"] == "Sequence":
        return any(_lower_cases(part) for part in normalizer["normalizers"])
    return normalizer["type"] == "Lowercase" or normalizer.get("lowercase") is True


def _tokenizes_as_bert(row: dict[str, Any]) -> bool:
    """Return whether a `tokenizer.json` with a WordPiece model tokenizes exactly as BERT does."""
    normalizers = _components(row.get("normalizer"), "normalizers")
    if [part["type"] for part in normalizers] != ["BertNormalizer"]:
        return False
    (normalizer,) = normalizers
    settings = normalizer | {"tokenize_chinese_chars": normalizer.get("handle_chinese_chars")}
    if settings.get("clean_text") is False or describe_bert_differences(
        settings, settings.get("lowercase")
    ):
        return False
    pre_tokenizers = _components(row.get("pre_tokenizer"), "pretokenizers")
    model = row["model"]
    special = model["vocab"].keys() | {t["content"] for t in row.get("added_tokens") or ()}
    return (
        [part["type"] for part in pre_tokenizers] == ["BertPreTokenizer"]
        and model.get("continuing_subword_prefix", "##") == "##"
        and model.get("unk_token", "[UNK]") == "[UNK]"
        and model.get("max_input_chars_per_word", 100) == 100
        and special.issuperset(SPECIAL_TOKENS[:4])
    )


def adds_prefix_space(definition: str, default: bool) -> bool:
    """Return whether a byte-level BPE adds a space before each text; `default` for other tokenizers."""
    for part in _components(json.loads(definition).get("pre_tokenizer"), "pretokenizers"):
        if part["type"] == "ByteLevel":
            return part.get("add_prefix_space") is True
    return default


def _components(component: Any, name: str) -> list[dict[str, Any]]:
    """Return the components of a possibly nested Sequence in a `tokenizer.json`.

    Args:
        component: a normalizer or pre-tokenizer, or None.
        name: key of the list in a Sequence.
    """
    if not component:
        return []
    if component.get("type") == "Sequence":
        return [inner for outer in component[name] for inner in _components(outer, name)]
    return [component]


def describe_bert_differences(settings: dict[str, Any], lower_case: bool | None) -> str:
    """Describe how a WordPiece tokenizer differs from BERT's; "" if it does not.

    Args:
        settings: settings of the tokenizer, with the names of a `tokenizer_config.json`.
        lower_case: whether it lower-cases text.
    """
    differences, accents = [], settings.get("strip_accents")
    if accents is not None and accents != lower_case:
        differences.append("strips accents" if accents else "keeps accents")
    if settings.get("tokenize_chinese_chars") is False:
        differences.append("does not split between Chinese characters")
    for name, default in (
        ("do_basic_tokenize", True),
        ("word_tokenizer_type", "basic"),
        ("subword_tokenizer_type", "wordpiece"),
    ):
        if settings.get(name, default) not in (default, None):
            differences.append(f"has {name} {settings[name]!r}")
    return " and ".join(differences)


def write_vocab(path: str | Path, tokens: Sequence[str]) -> None:
    """Write a `vocab.txt`.

    Raises:
        UserError: a token contains a line break.
    """
    multiline = next((token for token in tokens if "\n" in token or "\r" in token), None)
    if multiline is not None:
        raise UserError(
            f"{path}: the token {multiline!r} contains a line break, which a vocab.txt cannot store. Remove it."
        )
    Path(path).write_text("\n".join(tokens) + "\n", encoding="utf-8", newline="\n")


def build_vocab(texts: Iterable[str], min_count: int = 1) -> list[str]:
    """Build a vocabulary of lower-cased characters: the special tokens, then the most frequent first.

    Args:
        texts: the training texts.
        min_count: minimum number of occurrences of a character.
    """
    characters, lowered = Counter[str](), Counter[str]()
    for text in texts:
        characters.update(text)
    for character, n in characters.items():  # lower-case each character only once
        lowered[character.lower()] += n
    return vocab_from_counts(lowered, min_count)


def vocab_from_counts(counts: Counter[str], min_count: int = 1) -> list[str]:
    """Build a vocabulary as `build_vocab` does, from the counts of lower-cased characters."""
    kept = [
        c
        for c, n in counts.items()
        if n >= min_count and len(c) == 1 and not c.isspace() and not SURROGATES.match(c)
    ]
    return [*SPECIAL_TOKENS, *sorted(kept, key=lambda c: (-counts[c], c))]
