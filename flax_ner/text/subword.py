"""Tokenize text as a `tokenizer.json` defines it, for encoders whose tokenizer is not BERT's."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import AddedToken, decoders, models, pre_tokenizers, processors
from tokenizers import Tokenizer as Backend

from flax_ner.errors import UserError
from flax_ner.text.tokenizer import Tokenizer, Tokens, group_texts
from flax_ner.text.vocab import parse_tokenizer_json
from flax_ner.text.words import CharacterWords, find_words

# RoBERTa's special tokens by role, used unless the configuration names others.
ROBERTA_TOKENS = {"cls": "<s>", "pad": "<pad>", "sep": "</s>", "unk": "<unk>", "mask": "<mask>"}


class SubwordTokenizer(Tokenizer):
    """Tokenize text as a `tokenizer.json` defines it, e.g. byte-level BPE (RoBERTa) or Unigram (XLM-R).

    Labels belong to words, and subwords need not align with words. Words are therefore found in the text, as
    BERT finds them: they end at spaces; each punctuation character and each character of an unspaced script,
    such as Chinese, is a word. A subword that spans several of these words merges them. Spaces belong to no
    word, and combining marks belong to the character before them.

    Special tokens written out in a text are read as special tokens, as in transformers.

    Example:
        >>> tokenizer = SubwordTokenizer(Path("xlm-roberta-base/tokenizer.json").read_text("utf-8"))

    Attributes:
        byte_level: whether tokens are written in the byte alphabet of GPT-2.

    Args:
        definition: content of the `tokenizer.json`.
        source: name of the file, for error messages.

    Raises:
        UserError: the library cannot read the definition, or it does not add exactly one special token before
            and one after a text.
    """

    kind = "subword"

    def __init__(self, definition: str, source: str = "tokenizer.json"):
        parsed = parse_tokenizer_json(definition, source)
        self.tokens, self.lower_case, self.definition = parsed.tokens, parsed.lower_case, definition
        try:
            self._backend = Backend.from_str(definition)
        except Exception as error:  # the library raises nothing more specific
            raise UserError(
                f"{source}: the installed version of tokenizers cannot read it ({error}). Save it again with "
                "AutoTokenizer.from_pretrained(folder).save_pretrained(folder), or install another version."
            ) from None
        # Files may be saved with truncation and padding enabled.
        self._backend.no_truncation()
        self._backend.no_padding()
        cls_sep = self._backend.encode("").ids
        if len(cls_sep) != 2:
            raise UserError(
                f"{source}: adds {len(cls_sep)} special tokens to a text. Use a tokenizer that adds one before "
                "and one after it, such as that of BERT or RoBERTa."
            )
        row = json.loads(definition)
        self.special = dict(zip(("cls", "sep"), cls_sep, strict=True)) | _special_ids(row)
        # ByteLevel can be nested in a Sequence, so search the text.
        self.byte_level = '"ByteLevel"' in json.dumps(
            [row.get(part) for part in ("pre_tokenizer", "decoder")]
        )
        # Whether each token stands only for spaces; -1: not computed yet.
        self._blank = np.full(len(self.tokens), -1, np.int8)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.definition,)

    def tokenize(self, texts: Sequence[str]) -> Tokens:
        groups = [self._tokenize_group(group) for group in group_texts(texts)]
        return Tokens(*map(np.concatenate, zip(*groups, strict=True)))

    def _tokenize_group(self, texts: Sequence[str]) -> Tokens:
        encodings = self.encode_batch(texts)
        ids = np.array([i for e in encodings for i in e.ids[1:-1]], np.int32)
        offsets = np.array([span for e in encodings for span in e.offsets[1:-1]], np.int64)
        lengths = np.array([len(encoding) - 2 for encoding in encodings], np.int64)
        # Treat all texts as one, with a space after each.
        sizes = np.fromiter(map(len, texts), np.int64, len(texts)) + 1
        shift = np.repeat(np.cumsum(sizes) - sizes, lengths)
        start, end = offsets.reshape(-1, 2).T + shift
        words = find_words("".join(f"{text} " for text in texts))
        first, start, end = _assign_words(start, end, self._are_blank(ids), words, shift)
        start, end = ((positions - shift).astype(np.int32) for positions in (start, end))
        return Tokens(ids, lengths, first, start, end)

    def _are_blank(self, ids: np.ndarray) -> np.ndarray:
        """Return whether each token stands only for spaces, bool [M]. Offsets do not tell this reliably."""
        new = np.unique(ids[self._blank[ids] < 0]).tolist()
        decoded = self._backend.decode_batch([[i] for i in new], skip_special_tokens=False)
        self._blank[new] = [not text.replace("\u2581", " ").strip() for text in decoded]
        return self._blank[ids] == 1


def _assign_words(
    start: np.ndarray,
    end: np.ndarray,
    blank: np.ndarray,
    words: CharacterWords,
    shift: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Assign tokens to words.

    Args:
        start, end: int64 [M], characters of each token; tokens may overlap and include spaces.
        blank: bool [M], whether a token stands only for spaces.
        words: words of the concatenated texts.
        shift: int64 [M], where the text of each token starts in the concatenated texts.

    Returns:
        The columns `first`, `start` and `end` of `Tokens`, with offsets into the concatenated texts.
    """
    # Strip spaces from both ends of each token. Nothing is left of some tokens.
    start, last = words.next_nonspace[start], words.previous_nonspace[np.maximum(end - 1, 0)]
    solid = (start <= last) & ~blank
    # A token starts a word if it is in a later word of the text than all tokens before it.
    reached = np.maximum.accumulate(np.where(solid, last, -1))
    before = np.append(-1, reached)[: len(start)]
    first = solid & ((before < 0) | (words.word[start] > words.word[before]))
    first_tokens = np.flatnonzero(first)
    last_tokens = np.append(first_tokens[1:], len(start))[: len(first_tokens)] - 1
    word_ends = words.marks_end[reached[last_tokens]]
    # A blank token belongs to a word if the next solid token continues the word. Otherwise it belongs to none.
    solid_index = np.where(solid, np.arange(len(start)), len(start))
    following = np.minimum.accumulate(solid_index[::-1])[::-1]
    in_word = solid | ~np.append(first, True)[following]
    word = (np.cumsum(first) - 1)[in_word]
    word_start = np.maximum(before + 1, shift)
    word_end = word_start.copy()
    word_start[in_word], word_end[in_word] = start[first_tokens][word], word_ends[word]
    return first, word_start, word_end


def _special_ids(row: dict[str, Any]) -> dict[str, int]:
    """Return the ids of the `pad`, `unk` and `mask` tokens of a `tokenizer.json`, as far as it has them."""
    special = [token for token in row.get("added_tokens") or () if token.get("special")]
    ids = dict[str, int]()
    for role in ("pad", "unk", "mask"):  # a tokenizer.json does not state roles, so go by the name
        matches = [token["id"] for token in special if role in token["content"].lower()]
        ids |= {role: matches[0]} if matches else {}
    if row["model"].get("unk_id") is not None:
        ids["unk"] = row["model"]["unk_id"]
    return ids


def roberta_definition(
    vocab: Path,
    merges: Path,
    named: Mapping[str, str],
    added: Sequence[str] = (),
    add_prefix_space: bool = False,
) -> str:
    """Return the `tokenizer.json` of a byte-level BPE that is stored as `vocab.json` and `merges.txt`.

    Source: transformers 4, RobertaConverter.

    Args:
        vocab: path of the `vocab.json`, which maps tokens to ids.
        merges: path of the `merges.txt`.
        named: special tokens by role that differ from RoBERTa's.
        added: additional tokens; their ids follow those of `vocab`.
        add_prefix_space: whether to add a space before each text.

    Raises:
        UserError: the files are damaged, or a special token is missing.
    """
    try:
        backend = Backend(models.BPE.from_file(str(vocab), str(merges)))
    except Exception as error:  # the library raises nothing more specific
        raise UserError(
            f"{vocab}: cannot be read together with {merges.name} ({error}). Put a tokenizer.json next to it."
        ) from None
    special = {**ROBERTA_TOKENS, **named}
    ids = {role: backend.token_to_id(token) for role, token in special.items()}
    if missing := [special[role] for role, i in ids.items() if i is None]:
        raise UserError(
            f"{vocab}: lacks the special tokens {', '.join(missing)}. Put a tokenizer.json next to it."
        )
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=add_prefix_space)
    backend.decoder = decoders.ByteLevel()
    cls, sep = ((special[role], ids[role] or 0) for role in ("cls", "sep"))
    backend.post_processor = processors.RobertaProcessing(
        sep, cls, add_prefix_space=add_prefix_space
    )
    backend.add_tokens(list(added))
    backend.add_special_tokens(
        [AddedToken(token, lstrip=role == "mask") for role, token in special.items()]
    )
    return str(backend.to_str())
