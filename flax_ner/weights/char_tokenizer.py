"""Change the tokenizer of a model, for example from subwords to characters."""

import json
from dataclasses import replace

import numpy as np

from flax_ner.errors import UserError
from flax_ner.text.character_rows import find_character_rows
from flax_ner.text.subword import SubwordTokenizer
from flax_ner.text.vocab import SPECIAL_TOKENS
from flax_ner.weights.model_dir import ModelDir


def with_tokenizer(model: ModelDir, kind: str, field: str) -> tuple[ModelDir, list[str]]:
    """Return a model with another kind of tokenizer, and notes for the user.

    Args:
        model: a model with the tokenizer of its weights.
        kind: a key of `TOKENIZERS`; "" keeps the tokenizer.
        field: option or config field that holds `kind`, for messages.

    Raises:
        UserError: the vocabulary does not fit that tokenizer.
    """
    if kind in ("", model.tokenizer):
        return model, []
    if kind == SubwordTokenizer.kind:
        raise UserError(
            f"{field}: 'subword' needs a tokenizer.json that is not BERT's WordPiece, and these weights have "
            f"none. Choose {model.tokenizer}, as in training, or omit it."
        )
    if _has_wordpieces(model) and set(SPECIAL_TOKENS[:4]) <= set(model.vocab):
        notes = []
        if kind == "wordpiece":  # the model had "subword"
            notes.append(
                "Tokenizer: BERT's tokenizer replaces the tokenizer.json of these weights, which differs from "
                "it. Some text is tokenized differently than in training."
            )
        return replace(model, tokenizer=kind, definition=""), notes
    if kind == "char":
        return convert_to_characters(model)
    raise UserError(
        f"{field}: {kind!r} needs the vocabulary of a BERT, but these weights have other subwords. "
        "Choose subword, as in training, or char."
    )


def _has_wordpieces(model: ModelDir) -> bool:
    """Return whether the vocabulary has BERT's form, in which a character is its own token."""
    if not model.definition:
        return True
    return json.loads(model.definition)["model"].get("type", "WordPiece") == "WordPiece"


def convert_to_characters(model: ModelDir) -> tuple[ModelDir, list[str]]:
    """Convert a model with the tokenizer `subword` to one token per character.

    The new vocabulary has BERT's form. Of the embedding it keeps the rows of special tokens and of characters
    (`find_character_rows`). A character that NFKC normalises to another one gets a copy of that one's row. The
    model_type becomes bert if the position offset was the only difference.

    Returns:
        The model, and a note for the user.

    Raises:
        UserError: a special token is missing.
    """
    tokenizer = model.build_tokenizer()
    if not isinstance(tokenizer, SubwordTokenizer):
        raise TypeError(f"model: the tokenizer is {model.tokenizer}, not subword.")
    special = {token: tokenizer.special.get(token[1:-1].lower()) for token in SPECIAL_TOKENS}
    missing = [token for token in SPECIAL_TOKENS[:4] if special[token] is None]
    if missing:
        raise UserError(
            f"tokenizer.kind: 'char' needs {', '.join(missing)}, which the tokenizer.json of these weights "
            "does not have. Choose subword."
        )
    rows, tokens = find_character_rows(
        tokenizer.tokens, tokenizer.special.values(), tokenizer.byte_level
    )
    kept = {token: row for token, row in special.items() if row is not None}
    count = len(kept) + len(rows)
    note = (
        f"Tokenizer: text is read one token per character. Of {model.config.vocab_size} embedding rows, those "
        f"of {len(kept)} special tokens and {tokens} characters are kept. {len(rows) - tokens} characters that "
        "NFKC normalises get copies. The vocabulary becomes a vocab.txt like BERT's, in exports too."
    )
    kept |= rows
    index, config = np.fromiter(kept.values(), np.int64, count), model.config
    embeddings = dict(model.params["encoder"]["embeddings"])
    embeddings["word"] = np.asarray(embeddings["word"])[index]
    embeddings["position"] = np.asarray(embeddings["position"])[config.position_offset :]
    params = model.params | {"encoder": model.params["encoder"] | {"embeddings": embeddings}}
    if "masked_lm" in params:
        bias = np.asarray(params["masked_lm"]["bias"])[index]
        params["masked_lm"] = params["masked_lm"] | {"bias": bias}
    # RoBERTa without a position offset is a BERT.
    model_type = "bert" if config.position_offset else config.model_type
    config = replace(config, vocab_size=count, model_type=model_type, position_offset=0)
    converted = replace(
        model, config=config, vocab=list(kept), params=params, tokenizer="char", definition=""
    )
    return converted, [note]
