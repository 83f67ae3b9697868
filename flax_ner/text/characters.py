"""A vocabulary of subwords read by characters: which of its rows belongs to which character."""

import sys
from collections import Counter
from collections.abc import Collection, Container, Iterable, Sequence
from unicodedata import decomposition, normalize

from flax_ner.text.tokenizer import CharTokenizer

METASPACE = "\u2581"  # what SentencePiece writes for a space
SHOWN = 5  # unknown characters that a note names


def rows_of_characters(
    tokens: Sequence[str], special: Collection[int], byte_level: bool
) -> tuple[dict[str, int], int]:
    """Find the row of each character in a vocabulary of subwords.

    It is that of the token `x`, else that of `x` with a space before it, else that of the first character of
    its NFKC form. Spaces and the control characters of ASCII have none.

    Args:
        tokens: by id.
        special: ids that stand for no text.
        byte_level: whether tokens are spelled in bytes, as those of RoBERTa.

    Returns:
        The rows, those of tokens ascending, then those by NFKC in the order of their characters; and how many
        are of tokens.
    """
    space = " " if byte_level else METASPACE
    alone, after_space = dict[str, int](), dict[str, int]()
    for i, token in enumerate(tokens):
        text = _decode_bytes(token) if byte_level else token
        if i in special:
            continue
        if len(text) == 1:
            alone.setdefault(text, i)
        elif len(text) == 2 and text[0] == space:
            after_space.setdefault(text[1], i)
    found = after_space | alone
    direct = {
        x: found[x]
        for x in sorted(found, key=found.__getitem__)
        if x != METASPACE and not x.isspace() and not (x.isascii() and not x.isprintable())
    }
    rows = dict(direct)
    for x in map(chr, range(sys.maxunicode + 1)):
        if x not in direct and decomposition(x) and (first := normalize("NFKC", x)[0]) in direct:
            rows[x] = direct[first]
    return rows, len(direct)


def count_unknown(known: Container[str], texts: Iterable[str]) -> tuple[Counter[str], int]:
    """Return how often each character occurs that is not known, and the number of all; spaces do not count."""
    counts = Counter[str]()
    for text in texts:
        counts.update(text)
    counts = Counter({x: n for x, n in counts.items() if not x.isspace()})
    return Counter({x: n for x, n in counts.items() if x not in known}), counts.total()


def describe_coverage(tokenizer: CharTokenizer, texts: Sequence[str], name: str) -> str:
    """Return what share of the characters of texts a vocabulary has, for the user.

    Args:
        tokenizer: with the vocabulary.
        texts: whose characters count, but for spaces.
        name: of the texts.
    """
    characters = sorted(set().union(*texts))
    ids = tokenizer.character_ids("".join(characters)).tolist()
    known = {x for x, i in zip(characters, ids, strict=True) if i != tokenizer.unknown_id}
    unknown, total = count_unknown(known, texts)
    note = f"The vocabulary has {1 - unknown.total() / max(total, 1):.2%} of the {total} characters of {name}"
    if not unknown:
        return f"{note}."
    most = sorted(unknown, key=lambda x: (-unknown[x], x))[:SHOWN]
    shown = ", ".join(f"{x!r} {unknown[x]}" for x in most)
    return (
        f"{note}. The others are read as [UNK]: {len(unknown)} different ones, most often {shown}."
    )


def _decode_bytes(token: str) -> str:
    """Return the text of a token that is spelled in bytes; an empty string if it is no whole text."""
    try:
        return bytes(_BYTES[x] for x in token).decode("utf-8")
    except (KeyError, UnicodeDecodeError):
        return ""


def _byte_letters() -> dict[str, int]:
    """Return the byte that each letter of byte-level BPE stands for.

    Source: GPT-2, encoder.py: printable bytes of Latin-1 are themselves, the others follow from U+0100.
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(b): b for b in printable} | {chr(0x100 + i): b for i, b in enumerate(others)}


_BYTES = _byte_letters()
