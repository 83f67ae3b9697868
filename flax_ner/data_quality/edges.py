"""Find signs that an entity starts or ends at the wrong character.

Each function returns a description of the problem, or "" if there is none.
"""

import unicodedata
from collections.abc import Callable

# Closing mark -> its opening marks. Both widths map to the half-width opening mark: texts mix ( with ）.
CLOSING = {
    "》": "《", "〉": "〈", "」": "「", "』": "『", "】": "【", "〕": "〔", "〗": "〖", "»": "«", "›": "‹",
    "”": "“„", "“": "„", "’": "‘‚", "‘": "‚",
    "）": "(", ")": "(", "］": "[", "]": "[", "｝": "{", "}": "{",
}  # fmt: skip
OPENING = {"（": "(", "［": "[", "｛": "{"} | {mark: mark for mark in "".join(CLOSING.values())}
# The same mark opens and closes. Both widths map to the half-width mark.
SYMMETRIC_QUOTES = {'"': '"', "＂": '"', "'": "'", "＇": "'"}
APOSTROPHES = "'＇"
# Unicode counts these as punctuation, but names contain them: "*ST金泰", "C#", "AT&T", "100%".
NAME_PUNCTUATION = set("#%&@*＃％＆＠＊")


def describe_unbalanced(surface: str) -> str:
    """Describe the first bracket or quote without a partner; an apostrophe in a word is not a quote."""
    open_marks = list[tuple[str, int]]()
    for i, mark in enumerate(surface):
        if _is_apostrophe(surface, i):
            continue
        last_open = open_marks[-1][0] if open_marks else None
        quote = SYMMETRIC_QUOTES.get(mark)
        closed_by_mark = quote or CLOSING.get(mark, "")
        if last_open and last_open in closed_by_mark:
            open_marks.pop()
        elif quote or mark in OPENING:
            open_marks.append((quote or OPENING[mark], i))
        elif closed_by_mark and any(opened in closed_by_mark for opened, _ in open_marks):
            return f"{mark} closes {surface[open_marks[-1][1]]}"
        elif closed_by_mark:
            return f"{mark} is never opened"
    return f"{surface[open_marks[0][1]]} is never closed" if open_marks else ""


def describe_edge_space(surface: str) -> str:
    """Describe a space, control or format character at either end."""
    return _describe_edges(surface, _is_space)


def describe_edge_punctuation(surface: str) -> str:
    """Describe punctuation at either end; brackets, quotes and `NAME_PUNCTUATION` are allowed.

    An apostrophe is allowed as a quote, so only if all marks have a partner.
    """
    unbalanced = describe_unbalanced(surface) != ""
    return _describe_edges(
        surface, lambda mark: _is_punctuation(mark) or (mark in APOSTROPHES and unbalanced)
    )


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
    between_letters = surface[i - 1 : i].isalnum() and surface[i + 1 : i + 2].isalnum()
    return surface[i] in "’'" and between_letters
