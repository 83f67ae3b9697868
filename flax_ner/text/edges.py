"""Signs that an entity begins or ends at the wrong character. Each gives a description, or ""."""

import unicodedata
from collections.abc import Callable

# Full-width and half-width are one kind: texts mix them within a pair.
PAIRS = {
    "》": "《", "〉": "〈", "」": "「", "』": "『", "】": "【", "〕": "〔", "”": "“", "’": "‘",
    "）": "(", ")": "(", "］": "[", "]": "[", "｝": "{", "}": "{",
}  # fmt: skip
OPENING = {"（": "(", "［": "[", "｛": "{"} | {mark: mark for mark in PAIRS.values()}
ALIKE = '"＂'  # the same mark opens and closes
# Punctuation by Unicode, yet part of names: "*ST金泰", "C#", "AT&T", "100%".
IN_NAMES = set("#%&@*＃％＆＠＊")


def unbalanced(surface: str) -> str:
    """The first bracket or quote whose other half is missing; an apostrophe within a word is none."""
    waiting = list[tuple[str, int]]()
    for i, mark in enumerate(surface):
        if mark in OPENING:
            waiting.append((OPENING[mark], i))
        elif mark in ALIKE:
            if waiting and waiting[-1][0] == mark:
                waiting.pop()
            else:
                waiting.append((mark, i))
        elif mark in PAIRS and not _apostrophe(surface, i):
            if not waiting or waiting[-1][0] != PAIRS[mark]:
                return f"{mark} closes nothing"
            waiting.pop()
    return f"{surface[waiting[0][1]]} stays open" if waiting else ""


def edge_space(surface: str) -> str:
    """A space, control or format character at either end."""
    return _edges(surface, _is_space)


def edge_punctuation(surface: str) -> str:
    """Punctuation at either end, other than brackets and quotes, and marks that names have."""
    return _edges(surface, _is_punctuation)


def _edges(surface: str, wrong: Callable[[str], bool]) -> str:
    begins, ends = wrong(surface[0]), wrong(surface[-1])
    if len(surface) == 1 or not (begins or ends):
        return "is nothing else" if begins else ""
    told = [f"begins with {surface[0]!r}"] * begins + [f"ends with {surface[-1]!r}"] * ends
    return ", ".join(told)


def _is_space(character: str) -> bool:
    return character.isspace() or unicodedata.category(character) in ("Cc", "Cf")


def _is_punctuation(character: str) -> bool:
    paired = character in PAIRS or character in OPENING or character in ALIKE
    return not (paired or character in IN_NAMES) and unicodedata.category(character)[0] == "P"


def _apostrophe(surface: str, i: int) -> bool:
    return surface[i] == "’" and surface[i - 1 : i].isalnum() and surface[i + 1 : i + 2].isalnum()
