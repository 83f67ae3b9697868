"""Text to subwords as a `tokenizer.json` says, for encoders whose tokenizer is not BERT's."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import AddedToken, decoders, models, pre_tokenizers, processors
from tokenizers import Tokenizer as Backend

from flax_ner.errors import UserError
from flax_ner.text.tokenizer import Tokenizer, Tokens, chunk_texts
from flax_ner.text.vocab import parse_tokenizer_json
from flax_ner.text.words import Characters, find_words

# Special tokens of RoBERTa, by role, where nothing names others.
ROBERTA_TOKENS = {"cls": "<s>", "pad": "<pad>", "sep": "</s>", "unk": "<unk>", "mask": "<mask>"}


class SubwordTokenizer(Tokenizer):
    """Tokenize text as a `tokenizer.json` says: byte-level BPE (RoBERTa), Unigram (XLM-R) or any other.

    Words are found in the text, as BERT finds them: they end at spaces, each punctuation character is a word,
    and so is each character of a script that is written without spaces, as Chinese is. A subword that reaches
    over several of them makes them one word. Spaces are no part of a word, and combining marks belong to the
    character that they stand on. Literal special tokens in a text are special tokens, as in transformers.

    Attributes:
        byte_level: whether tokens are spelled in bytes.

    Args:
        definition: content of the `tokenizer.json`.
        source: what errors begin with.

    Raises:
        UserError: the library cannot read it, or it does not put one special token before a text and one
            behind.
    """

    kind = "subword"

    def __init__(self, definition: str, source: str = "tokenizer.json"):
        read = parse_tokenizer_json(definition, source)
        self.tokens, self.lower_case, self.definition = read.tokens, read.lower_case, definition
        try:
            self._backend = Backend.from_str(definition)
        except Exception as error:  # the library raises nothing more precise
            raise UserError(
                f"{source}: the installed version of tokenizers cannot read it ({error}). Save it again with "
                "AutoTokenizer.from_pretrained(folder).save_pretrained(folder), or install another version."
            ) from None
        self._backend.no_truncation()  # some are saved with them
        self._backend.no_padding()
        ends = self._backend.encode("").ids
        if len(ends) != 2:
            raise UserError(
                f"{source}: puts {len(ends)} special tokens around a text. Only tokenizers that put one before "
                "it and one behind, as those of BERT and RoBERTa, can be used."
            )
        row = json.loads(definition)
        self.special = dict(zip(("cls", "sep"), ends, strict=True)) | _special_ids(row)
        # The library's name of what spells tokens in bytes, wherever it stands.
        self.byte_level = '"ByteLevel"' in json.dumps(
            [row.get(part) for part in ("pre_tokenizer", "decoder")]
        )
        # Whether each token stands for spaces alone; -1: not asked yet.
        self._blank = np.full(len(self.tokens), -1, np.int8)

    def tokenize(self, texts: Sequence[str]) -> Tokens:
        """The tokens of many texts."""
        parts = [self._tokenize(part) for part in chunk_texts(texts)]
        return Tokens(*map(np.concatenate, zip(*parts, strict=True)))

    def _tokenize(self, texts: Sequence[str]) -> Tokens:
        encodings = self.encode_batch(texts)
        ids = np.array([i for e in encodings for i in e.ids[1:-1]], np.int32)
        offsets = np.array([place for e in encodings for place in e.offsets[1:-1]], np.int64)
        lengths = np.array([len(encoding) - 2 for encoding in encodings], np.int64)
        # All texts as one, with a space behind each.
        sizes = np.fromiter(map(len, texts), np.int64, len(texts)) + 1
        shift = np.repeat(np.cumsum(sizes) - sizes, lengths)
        start, end = offsets.reshape(-1, 2).T + shift
        characters = find_words("".join(f"{text} " for text in texts))
        first, start, end = _words_of(start, end, self._are_blank(ids), characters, shift)
        start, end = ((places - shift).astype(np.int32) for places in (start, end))
        return Tokens(ids, lengths, first, start, end)

    def _are_blank(self, ids: np.ndarray) -> np.ndarray:
        """Whether each token stands for spaces alone, bool [M], whatever its offsets say."""
        new = np.unique(ids[self._blank[ids] < 0]).tolist()
        decoded = self._backend.decode_batch([[i] for i in new], skip_special_tokens=False)
        self._blank[new] = [not text.replace("\u2581", " ").strip() for text in decoded]
        return self._blank[ids] == 1


def _words_of(
    start: np.ndarray, end: np.ndarray, blank: np.ndarray, characters: Characters, shift: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Find the words that tokens make.

    Args:
        start, end: int64 [M], the characters of each token; tokens may overlap, and spaces may belong to them.
        blank: bool [M], whether a token stands for spaces alone.
        characters: of all texts together.
        shift: int64 [M], where the text of each token begins.

    Returns:
        The columns `first`, `start` and `end` of `Tokens`, over all texts together.
    """
    # Spaces in front of a token and behind it are no part of it, and some tokens are nothing else.
    start, last = characters.solid_from[start], characters.solid_until[np.maximum(end - 1, 0)]
    solid = (start <= last) & ~blank
    # A word begins with a token that lies in a later word of the text than all tokens before it.
    reached = np.maximum.accumulate(np.where(solid, last, -1))
    before = np.append(-1, reached)[: len(start)]
    first = solid & ((before < 0) | (characters.word[start] > characters.word[before]))
    words = np.flatnonzero(first)
    last_tokens = np.append(words[1:], len(start))[: len(words)] - 1
    ends = characters.marks_end[reached[last_tokens]]
    # A token of spaces is in a word if the next other token goes on with it, else between words.
    places = np.where(solid, np.arange(len(start)), len(start))
    following = np.minimum.accumulate(places[::-1])[::-1]
    inside = solid | ~np.append(first, True)[following]
    word = (np.cumsum(first) - 1)[inside]
    own_start = np.maximum(before + 1, shift)
    own_end = own_start.copy()
    own_start[inside], own_end[inside] = start[words][word], ends[word]
    return first, own_start, own_end


def _special_ids(row: dict[str, Any]) -> dict[str, int]:
    """Return the ids of a `tokenizer.json`'s special tokens that do not stand around a text, by role."""
    special = [token for token in row.get("added_tokens") or () if token.get("special")]
    found = dict[str, int]()
    for role in ("pad", "unk", "mask"):  # only their names tell what they are for
        ids = [token["id"] for token in special if role in token["content"].lower()]
        found |= {role: ids[0]} if ids else {}
    if row["model"].get("unk_id") is not None:
        found["unk"] = row["model"]["unk_id"]
    return found


def roberta_definition(
    vocab: Path,
    merges: Path,
    named: Mapping[str, str],
    added: Sequence[str] = (),
    add_prefix_space: bool = False,
) -> str:
    """Return the `tokenizer.json` of a byte-level BPE that is stored in two files, as RoBERTa's.

    Source: transformers 4, RobertaConverter.

    Args:
        vocab: a `vocab.json`, ids by token.
        merges: its `merges.txt`.
        named: special tokens by role, where they are not RoBERTa's.
        added: further tokens, whose ids follow those of `vocab`.
        add_prefix_space: whether a text is read as if it began with a space.

    Raises:
        UserError: the files are damaged, or a special token is missing.
    """
    try:
        backend = Backend(models.BPE.from_file(str(vocab), str(merges)))
    except Exception as error:  # the library raises nothing more precise
        raise UserError(f"{vocab}: cannot be read together with {merges.name} ({error}).") from None
    special = {**ROBERTA_TOKENS, **named}
    ids = {role: backend.token_to_id(token) for role, token in special.items()}
    if missing := [special[role] for role, i in ids.items() if i is None]:
        raise UserError(
            f"{vocab}: lacks the special tokens {', '.join(missing)}. Put a tokenizer.json beside it."
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
