"""Map characters to token ids of a subword vocabulary, so that a character tokenizer can use its embeddings."""

import sys
from collections import Counter
from collections.abc import Collection, Container, Iterable, Sequence
from unicodedata import decomposition, normalize

from flax_ner.text.tokenizer import CharTokenizer

METASPACE = "\u2581"  # how SentencePiece writes a space
MAX_LISTED = 5  # unknown characters listed in the coverage note


def find_character_rows(
    tokens: Sequence[str], special: Collection[int], byte_level: bool
) -> tuple[dict[str, int], int]:
    """Return the row of each character in a subword vocabulary.

    The row of a character x is the first that exists of:

    1. the id of the token "x",
    2. the id of the token "x" with a space before it,
    3. the row of the first character of the NFKC form of x.

    Spaces and ASCII control characters have no row.

    Args:
        tokens: vocabulary, in the order of the ids.
        special: ids of the special tokens.
        byte_level: whether tokens are written in the byte alphabet of GPT-2, as in RoBERTa.

    Returns:
        The row of each character, and the number of characters that have a token of their own. Those come
        first, in ascending order of their rows. The characters mapped by NFKC follow in code point order.
    """
    space = " " if byte_level else METASPACE
    plain, after_space = dict[str, int](), dict[str, int]()
    for i, token in enumerate(tokens):
        text = _decode_bytes(token) if byte_level else token
        if i in special:
            continue
        if len(text) == 1:
            plain.setdefault(text, i)
        elif len(text) == 2 and text[0] == space:
            after_space.setdefault(text[1], i)
    by_character = after_space | plain
    direct = {
        x: by_character[x]
        for x in sorted(by_character, key=by_character.__getitem__)
        if x != METASPACE and not x.isspace() and not (x.isascii() and not x.isprintable())
    }
    rows = dict(direct)
    for x in map(chr, range(sys.maxunicode + 1)):
        if x not in direct and decomposition(x) and (first := normalize("NFKC", x)[0]) in direct:
            rows[x] = direct[first]
    return rows, len(direct)


def count_unknown(known: Container[str], texts: Iterable[str]) -> tuple[Counter[str], int]:
    """Count the unknown characters of texts. Spaces do not count.

    Returns:
        The number of occurrences of each unknown character, and the number of all characters.
    """
    counts = Counter[str]()
    for text in texts:
        counts.update(text)
    counts = Counter({x: n for x, n in counts.items() if not x.isspace()})
    return Counter({x: n for x, n in counts.items() if x not in known}), counts.total()


def describe_coverage(tokenizer: CharTokenizer, texts: Sequence[str], name: str) -> str:
    """Return a note that says what percentage of the characters of texts is in the vocabulary.

    Args:
        tokenizer: tokenizer with the vocabulary.
        texts: texts to count; spaces do not count.
        name: name of the texts in the note, e.g. "data.train".
    """
    characters = sorted(set().union(*texts))
    ids = tokenizer.character_ids("".join(characters)).tolist()
    known = {x for x, i in zip(characters, ids, strict=True) if i != tokenizer.unknown_id}
    unknown, total = count_unknown(known, texts)
    known_fraction = 1 - unknown.total() / max(total, 1)
    note = f"The vocabulary has {known_fraction:.2%} of the {total} characters of {name}"
    if not unknown:
        return f"{note}."
    most_frequent = sorted(unknown, key=lambda x: (-unknown[x], x))[:MAX_LISTED]
    shown = ", ".join(f"{x!r} {unknown[x]}" for x in most_frequent)
    return (
        f"{note}. The others become [UNK]: {len(unknown)} distinct characters, most often {shown}."
    )


def _decode_bytes(token: str) -> str:
    """Return the text of a byte-level token, or "" if its bytes are not valid UTF-8."""
    try:
        return bytes(_BYTES[x] for x in token).decode("utf-8")
    except (KeyError, UnicodeDecodeError):
        return ""


def _byte_alphabet() -> dict[str, int]:
    """Return the byte of each character of the byte-level BPE alphabet.

    Printable bytes of Latin-1 map to themselves, the others to characters from U+0100 on.

    Source: GPT-2, encoder.py.
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(b): b for b in printable} | {chr(0x100 + i): b for i, b in enumerate(others)}


_BYTES = _byte_alphabet()
