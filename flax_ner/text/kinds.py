"""The kinds of tokenizers, by name."""

from collections.abc import Sequence

from flax_ner.text.subword import SubwordTokenizer
from flax_ner.text.tokenizer import CharTokenizer, Tokenizer, WordPieceTokenizer

TOKENIZERS: dict[str, type[Tokenizer]] = {
    tokenizer.kind: tokenizer for tokenizer in (CharTokenizer, WordPieceTokenizer, SubwordTokenizer)
}


def build_tokenizer(
    kind: str, vocab: Sequence[str], lower_case: bool, definition: str = ""
) -> Tokenizer:
    """Return a tokenizer of a kind in `TOKENIZERS`.

    Args:
        kind: of the tokenizer.
        vocab: tokens by id; with `lower_case` it defines `char` and `wordpiece`.
        lower_case: whether text is lower-cased.
        definition: content of a `tokenizer.json`, which alone defines `subword`.
    """
    if kind == SubwordTokenizer.kind:
        return SubwordTokenizer(definition)
    made = WordPieceTokenizer if kind == WordPieceTokenizer.kind else CharTokenizer
    return made(vocab, lower_case)
