"""Find signs that an entity starts or ends at the wrong character.

Each function returns a description of the problem, or "" if there is none.
"""

import unicodedata
from collections.abc import Callable

# Closing mark -> opening mark. Full-width and half-width forms are equal, because texts mix them in a pair.
CLOSING = {
    "》": "《", "〉": "〈", "」": "「", "』": "『", "】": "【", "〕": "〔", "”": "“", "’": "‘",
    "）": "(", ")": "(", "］": "[", "]": "[", "｝": "{", "}": "{",
}  # fmt: skip
OPENING = {"（": "(", "［": "[", "｛": "{"} | {mark: mark for mark in CLOSING.values()}
SYMMETRIC_QUOTES = '"＂'  # the same mark opens and closes
# Unicode counts these as punctuation, but names contain them: "*ST金泰", "C#", "AT&T", "100%".
NAME_PUNCTUATION = set("#%&@*＃％＆＠＊")


def describe_unbalanced(surface: str) -> str:
    """Describe the first bracket or quote without a partner; an apostrophe in a word is not a quote."""
    open_marks = list[tuple[str, int]]()
    for i, mark in enumerate(surface):
        if mark in OPENING:
            open_marks.append((OPENING[mark], i))
        elif mark in SYMMETRIC_QUOTES:
            if open_marks and open_marks[-1][0] == mark:
                open_marks.pop()
            else:
                open_marks.append((mark, i))
        elif mark in CLOSING and not _is_apostrophe(surface, i):
            if not open_marks or open_marks[-1][0] != CLOSING[mark]:
                return f"{mark} is never opened"
            open_marks.pop()
    return f"{surface[open_marks[0][1]]} is never closed" if open_marks else ""


def describe_edge_space(surface: str) -> str:
    """Describe a space, control or format character at either end."""
    return _describe_edges(surface, _is_space)


def describe_edge_punctuation(surface: str) -> str:
    """Describe punctuation at either end; brackets, quotes and `NAME_PUNCTUATION` are allowed."""
    return _describe_edges(surface, _is_punctuation)


def _describe_edges(surface: str, is_wrong: Callable[[str], bool]) -> str:
    first, last = is_wrong(surface[0]), is_wrong(surface[-1])
    if len(surface) == 1 or not (first or last):
        return f"is only {surface!r}" if first else ""
    problems = [f"starts with {surface[0]!r}"] * first + [f"ends with {surface[-1]!r}"] * last
    return ", ".join(problems)


def _is_space(character: str) -> bool:
    return character.isspace() or unicodedata.category(character) in ("Cc", "Cf")


def _is_punctuation(character: str) -> bool:
    paired = character in CLOSING or character in OPENING or character in SYMMETRIC_QUOTES
    allowed = paired or character in NAME_PUNCTUATION
    return not allowed and unicodedata.category(character)[0] == "P"


def _is_apostrophe(surface: str, i: int) -> bool:
    return surface[i] == "’" and surface[i - 1 : i].isalnum() and surface[i + 1 : i + 2].isalnum()
