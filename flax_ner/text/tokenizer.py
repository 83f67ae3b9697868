"""Text to token ids and character offsets, on the `tokenizers` library."""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path

from tokenizers import Encoding, Regex, Tokenizer, models, pre_tokenizers, processors

from flax_ner.errors import UserError

SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
_SURROGATES = re.compile("[\ud800-\udfff]")


class CharTokenizer:
    """One token a character, lower-cased, [CLS] in front and [SEP] behind.

    Each character is lower-cased on its own, so that offsets stay true: "İ".lower() is two
    characters. What the vocabulary lacks (also a space) is [UNK].
    Source: MMOCR 0.6.3, ner_convertor.py; differs: it lower-cases the whole text first, which
    shifts every label behind an "İ".

    Args:
        vocab: a `vocab.txt` (one token a line, the line number is the id) or the tokens themselves.
    """

    def __init__(self, vocab: str | Path | Sequence[str]):
        self.tokens = read_vocab(vocab) if isinstance(vocab, str | Path) else list(vocab)
        ids = {token: i for i, token in enumerate(self.tokens)}
        missing = [token for token in SPECIAL_TOKENS[:4] if token not in ids]
        if missing:
            raise UserError(
                f"tokenizer.vocab: {'the tokens given' if not isinstance(vocab, str | Path) else vocab}"
                f" lacks {', '.join(missing)}. A BERT vocab.txt has them."
            )
        self.unknown_id = ids["[UNK]"]
        # Upper-case characters stand in the table beside their lower-case form: the library's own
        # Lowercase would make two tokens of "İ".
        table = {token: i for token, i in ids.items() if len(token) == 1 and token.lower() == token}
        table |= {upper: ids[lower] for upper, lower in _lower_case().items() if lower in ids}
        self._backend = Tokenizer(models.WordLevel(table | {"[UNK]": self.unknown_id}, "[UNK]"))
        self._backend.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
        self._backend.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]",
            special_tokens=[("[CLS]", ids["[CLS]"]), ("[SEP]", ids["[SEP]"])],
        )

    def encode(self, text: str) -> Encoding:
        """Encode one text; `.ids` with [CLS] and [SEP], `.offsets` [start, end) a token, theirs (0, 0)."""
        return self.encode_batch([text])[0]

    def encode_batch(self, texts: Sequence[str]) -> list[Encoding]:
        """Encode many texts, on all cores."""
        # The library takes UTF-8, which has no lone surrogates; they are unknown characters anyway.
        clean = [text if text.isascii() else _SURROGATES.sub("\ufffd", text) for text in texts]
        encodings: list[Encoding] = self._backend.encode_batch(clean, is_pretokenized=False)
        return encodings


def read_vocab(path: str | Path) -> list[str]:
    """Read a BERT `vocab.txt`: one token a line, the line number is the id."""
    path = Path(path)
    if not path.is_file():
        raise UserError(
            f"tokenizer.vocab: no file {str(path)!r}. Give the vocab.txt that belongs to the weights; "
            "for Chinese BERT it is published with bert-base-chinese, 21,128 lines."
        )
    try:
        return path.read_text(encoding="utf-8-sig").removesuffix("\n").split("\n")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path}: not UTF-8 ({error.reason} at byte {error.start}). Save the file as UTF-8."
        ) from None


def write_vocab(path: str | Path, tokens: Sequence[str]) -> None:
    """Write a `vocab.txt`."""
    Path(path).write_text("\n".join(tokens) + "\n", encoding="utf-8", newline="\n")


def build_vocab(texts: Iterable[str], min_count: int = 1) -> list[str]:
    """Special tokens, then every lower-cased character that occurs `min_count` times, most frequent first."""
    counts = Counter(character.lower() for text in texts for character in text)
    kept = [
        c
        for c, n in counts.items()
        if n >= min_count and len(c) == 1 and not c.isspace() and not _SURROGATES.match(c)
    ]
    return [*SPECIAL_TOKENS, *sorted(kept, key=lambda c: (-counts[c], c))]


@cache
def _lower_case() -> dict[str, str]:
    """Every character that lower-casing changes into one other character."""
    pairs = ((character, character.lower()) for character in map(chr, range(0x20000)))
    return {upper: lower for upper, lower in pairs if upper != lower and len(lower) == 1}
