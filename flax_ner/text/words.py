"""Find the words of a text, for tokenizers whose tokens do not align with words.

The rules are those of BERT's tokenizer, with more scripts in which every character is a word (`UNSPACED`).
"""

import sys
from typing import NamedTuple
from unicodedata import category

import numpy as np

# Character classes. A `STANDALONE` character, such as punctuation or a Chinese character, is a word of its own.
SPACE, STANDALONE, LETTER, MARK, UNSEEN = range(5)
# Scripts that are written without spaces between words: every character is a word.
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
# Class of each code point, filled in as characters are seen.
_CLASSES = np.full(sys.maxunicode + 1, UNSEEN, np.uint8)


class CharacterWords(NamedTuple):
    """The words of a text of n characters. Each array is int64 [n].

    Attributes:
        word: number of the character's word, ascending. Each space has a number of its own.
        next_nonspace: index of the next character that is not a space, this one included; n - 1 if there is
            none.
        previous_nonspace: index of the previous character that is not a space, this one included; -1 if there
            is none.
        marks_end: index of the next character after this one that is not a combining mark; n if there is none.
    """

    word: np.ndarray
    next_nonspace: np.ndarray
    previous_nonspace: np.ndarray
    marks_end: np.ndarray


def find_words(text: str) -> CharacterWords:
    """Find the words of a text. They end at spaces, punctuation and characters of unspaced scripts.

    A combining mark belongs to the character before it.

    Args:
        text: a text that ends in a space, so that an index after its last character is valid.
    """
    classes = _classes_of(text)
    n = len(classes)
    positions = np.arange(n)
    base = np.maximum.accumulate(
        np.where(classes == MARK, 0, positions)
    )  # base character of a mark
    previous = classes[np.append(0, base)[:n]]  # class of the previous character, marks skipped
    starts_word = (classes != MARK) & ((classes != LETTER) | (previous != LETTER))
    nonspace = classes != SPACE
    next_nonspace = np.minimum.accumulate(np.where(nonspace, positions, n - 1)[::-1])[::-1]
    previous_nonspace = np.maximum.accumulate(np.where(nonspace, positions, -1))
    next_base = np.minimum.accumulate(np.where(classes == MARK, n, positions)[::-1])[::-1]
    return CharacterWords(
        np.cumsum(starts_word), next_nonspace, previous_nonspace, np.append(next_base[1:], n)
    )


def is_unspaced(character: str) -> bool:
    """Return whether a character belongs to a script that is written without spaces between words."""
    code = ord(character)
    return any(first <= code <= last for first, last in UNSPACED)


def _classes_of(text: str) -> np.ndarray:
    codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4")
    classes = _CLASSES[codes]
    if (classes == UNSEEN).any():
        new = np.unique(codes[classes == UNSEEN])
        _CLASSES[new] = [_class_of(chr(code)) for code in new.tolist()]
        classes = _CLASSES[codes]
    return classes


def _class_of(character: str) -> int:
    general = category(character)
    if character.isspace():
        return SPACE
    if general in ("Mn", "Me"):
        return MARK
    # ASCII symbols such as $ and + count as punctuation, as in BERT.
    ascii_symbol = character.isascii() and general[0] == "S"
    return STANDALONE if general[0] == "P" or ascii_symbol or is_unspaced(character) else LETTER
