"""The tokenizer classes by name, and a function that builds one."""

from collections.abc import Sequence

from flax_ner.text.subword import SubwordTokenizer
from flax_ner.text.tokenizer import CharTokenizer, Tokenizer, WordPieceTokenizer

TOKENIZERS: dict[str, type[Tokenizer]] = {
    tokenizer.kind: tokenizer for tokenizer in (CharTokenizer, WordPieceTokenizer, SubwordTokenizer)
}


def build_tokenizer(
    kind: str, vocab: Sequence[str], lower_case: bool, definition: str = ""
) -> Tokenizer:
    """Return a tokenizer.

    Args:
        kind: a key of `TOKENIZERS`.
        vocab: tokens in the order of their ids; ignored for `subword`.
        lower_case: whether to lower-case text; ignored for `subword`.
        definition: content of a `tokenizer.json`; used only for `subword`.

    Raises:
        ValueError: the kind is unknown.
        UserError: the vocabulary or the definition is invalid.
    """
    if kind == SubwordTokenizer.kind:
        return SubwordTokenizer(definition)
    if kind == WordPieceTokenizer.kind:
        return WordPieceTokenizer(vocab, lower_case)
    if kind == CharTokenizer.kind:
        return CharTokenizer(vocab, lower_case)
    raise ValueError(f"kind: {kind!r} is unknown. Choose one of {', '.join(TOKENIZERS)}.")
