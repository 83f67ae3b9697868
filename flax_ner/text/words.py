"""Words of a text, found as BERT finds them, for tokenizers whose tokens are not words or parts of one."""

import sys
from typing import NamedTuple
from unicodedata import category

import numpy as np

SPACE, ALONE, LETTER, MARK, UNSEEN = range(5)
# Scripts that are written without spaces between words: every character counts as a word.
UNSPACED = (
    (0x0E00, 0x0FFF),  # Thai, Lao, Tibetan
    (0x1000, 0x109F),  # Myanmar
    (0x1780, 0x17FF),  # Khmer
    (0x3005, 0x3007),  # ideographic iteration mark and zero
    (0x3040, 0x30FF),  # Hiragana, Katakana
    (0x31F0, 0x31FF),
    (0x3400, 0x4DBF),  # CJK
    (0x4E00, 0x9FFF),
    (0xF900, 0xFAFF),
    (0xFF66, 0xFF9D),  # halfwidth Katakana
    (0x20000, 0x3FFFF),
)
# By code point, filled as characters come up.
_KINDS = np.full(sys.maxunicode + 1, UNSEEN, np.uint8)


class Characters(NamedTuple):
    """What stands where in a text of n characters that ends in a space."""

    # All int64 [n].
    word: np.ndarray  # ascending: which word the character belongs to; a space is one by itself
    solid_from: np.ndarray  # the first character from here on that is no space; n - 1 if none
    solid_until: np.ndarray  # the last one up to here; -1 if there is none
    marks_end: np.ndarray  # the first character after this one that is no combining mark


def find_words(text: str) -> Characters:
    """Find the words of a text: at spaces, around punctuation, around characters of unspaced scripts.

    A combining mark belongs to the character that it stands on.

    Args:
        text: must end in a space.
    """
    kinds = _kinds_of(text)
    n = len(kinds)
    places = np.arange(n)
    base = np.maximum.accumulate(np.where(kinds == MARK, 0, places))  # what a mark stands on
    before = kinds[np.append(0, base)[:n]]  # the kind of the character before, but for marks
    begins = (kinds != MARK) & ((kinds != LETTER) | (before != LETTER))
    solid = kinds != SPACE
    solid_from = np.minimum.accumulate(np.where(solid, places, n - 1)[::-1])[::-1]
    solid_until = np.maximum.accumulate(np.where(solid, places, -1))
    bare = np.minimum.accumulate(np.where(kinds == MARK, n, places)[::-1])[::-1]
    return Characters(np.cumsum(begins), solid_from, solid_until, np.append(bare[1:], n))


def _kinds_of(text: str) -> np.ndarray:
    codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4")
    kinds = _KINDS[codes]
    if (kinds == UNSEEN).any():
        new = np.unique(codes[kinds == UNSEEN])
        _KINDS[new] = [_kind(chr(code)) for code in new.tolist()]
        kinds = _KINDS[codes]
    return kinds


def _kind(character: str) -> int:
    general = category(character)
    if character.isspace():
        return SPACE
    if general in ("Mn", "Me"):
        return MARK
    # ASCII symbols such as $ and + count as punctuation, as in BERT.
    symbol = character.isascii() and general[0] == "S"
    code = ord(character)
    unspaced = any(first <= code <= last for first, last in UNSPACED)
    return ALONE if general[0] == "P" or symbol or unspaced else LETTER
