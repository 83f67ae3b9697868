"""The names of tags: prefixes of BIO, BIOES, BMES and BILOU, and the names of special outputs."""

import re
from collections.abc import Sequence

# What the prefix of a tag means.
OUTSIDE, BEGIN, INSIDE, END, SINGLE = range(5)
# The prefixes of BIO, BIOES, BMES and BILOU tags.
PREFIXES = {
    "B": BEGIN, "I": INSIDE, "M": INSIDE, "E": END, "L": END, "S": SINGLE, "U": SINGLE,
}  # fmt: skip
# A single letter at either end of a name, as in "b-PER", "W-PER" or "PER_B", is a prefix or suffix of an
# unsupported scheme and not part of a category name.
PREFIX_LIKE = re.compile(r"^[A-Za-z][\W_]|[\W_][A-Za-z]$")
# Outputs that some heads have for padding and special tokens. They are read as O.
SPECIAL_TAGS = {"X", "[START]", "[END]", "[PAD]", "[CLS]", "[SEP]", "<PAD>", "<START>", "<STOP>"}


def is_io(names: Sequence[str]) -> bool:
    """Return whether a head has one output per category, such as "PER" or "I-PER"."""
    tags = [name for name in names if name != "O" and name not in SPECIAL_TAGS]
    no_prefixes = not any(PREFIX_LIKE.search(name) for name in tags)
    all_inside = all(name.startswith("I-") and name != "I-" for name in tags)
    return "O" in names and bool(tags) and (no_prefixes or all_inside)


def add_inside_prefix(names: Sequence[str]) -> list[str]:
    """Return the names of `io` tags as "I-NAME"."""
    unchanged = [name == "O" or name in SPECIAL_TAGS or name.startswith("I-") for name in names]
    return [name if keep else f"I-{name}" for name, keep in zip(names, unchanged, strict=True)]


def find_problem(names: list[str], tags: list[tuple[int, str]], io: bool) -> str | None:
    """Return why the names of a head's outputs are not a label set, or None if they are."""
    for name in names:
        prefix, _, category = name.partition("-")
        if (
            name != "O"
            and name not in SPECIAL_TAGS
            and not (io or (prefix in PREFIXES and category))
        ):
            return f"{name!r} is not a tag"
    if "O" not in names:
        return "O is missing"
    if not tags:
        return "no tag has a category"
    if len(set(names)) < len(names) or len(set(tags)) < len(tags):
        return "two names mean the same tag"
    for _, category in tags:
        if not io and (BEGIN, category) not in tags:
            return f"B-{category} is missing"
    return None
