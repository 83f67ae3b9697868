"""Models whose text is read otherwise than by the tokenizer of their weights."""

import json
from dataclasses import replace

import numpy as np

from flax_ner.errors import UserError
from flax_ner.text.characters import rows_of_characters
from flax_ner.text.subword import SubwordTokenizer
from flax_ner.text.vocab import SPECIAL_TOKENS
from flax_ner.weights.model_dir import ModelDir


def with_tokenizer(model: ModelDir, kind: str, field: str) -> tuple[ModelDir, list[str]]:
    """Return a model that reads text by another kind of tokenizer, and notes about it.

    Args:
        model: as its weights say.
        kind: a key of `TOKENIZERS`; empty: as it is.
        field: what the user calls `kind`, for messages.

    Raises:
        UserError: the vocabulary cannot be read that way.
    """
    if kind in ("", model.tokenizer):
        return model, []
    if kind == SubwordTokenizer.kind:
        raise UserError(
            f"{field}: 'subword' reads text as a tokenizer.json says, and these weights have none, or one of "
            f"BERT's WordPieces. Choose {model.tokenizer}, as they were trained, or leave it out."
        )
    if _has_wordpieces(model) and set(SPECIAL_TOKENS[:4]) <= set(model.vocab):
        notes = []
        if kind == "wordpiece":  # instead of subword
            notes.append(
                "Tokenizer: text is read as by BERT's tokenizer. The tokenizer.json of these weights differs "
                "from it, so some text is read otherwise than in their training."
            )
        return replace(model, tokenizer=kind, definition=""), notes
    if kind == "char":
        return read_by_characters(model)
    raise UserError(
        f"{field}: {kind!r} needs the vocabulary of a BERT, and that of these weights is of other subwords. "
        "Choose subword, as they were trained, or char."
    )


def _has_wordpieces(model: ModelDir) -> bool:
    """Whether a vocabulary is of BERT's form: characters are tokens as they are."""
    if not model.definition:
        return True
    return json.loads(model.definition)["model"].get("type", "WordPiece") == "WordPiece"


def read_by_characters(model: ModelDir) -> tuple[ModelDir, list[str]]:
    """Return a model of the kind `subword` that reads one token per character, and a note.

    Its vocabulary is one of BERT's form, with those rows of the embedding alone that are of characters
    (`rows_of_characters`). A character that NFKC writes otherwise gets a copy of a row. The model is then of
    model_type bert, unless its embeddings are of another form.

    Raises:
        UserError: a special token is missing.
    """
    tokenizer = model.build_tokenizer()
    if not isinstance(tokenizer, SubwordTokenizer):
        raise TypeError(f"model: its tokenizer is {model.tokenizer}, not subword.")
    special = {token: tokenizer.special.get(token[1:-1].lower()) for token in SPECIAL_TOKENS}
    missing = [token for token in SPECIAL_TOKENS[:4] if special[token] is None]
    if missing:
        raise UserError(
            f"tokenizer.kind: 'char' needs {', '.join(missing)}, for which the tokenizer.json of these weights "
            "has no special token. Choose subword."
        )
    rows, tokens = rows_of_characters(
        tokenizer.tokens, tokenizer.special.values(), tokenizer.byte_level
    )
    kept = {token: row for token, row in special.items() if row is not None}
    count = len(kept) + len(rows)
    note = (
        "Tokenizer: text is read by characters. Of the "
        f"{model.config.vocab_size} rows of the embedding those of {len(kept)} special tokens and {tokens} "
        f"characters are kept; {len(rows) - tokens} characters that NFKC writes otherwise get copies. The "
        "vocabulary becomes a vocab.txt as BERT's, in exports too."
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
    # Without the offset RoBERTa is a BERT.
    model_type = "bert" if config.position_offset else config.model_type
    config = replace(config, vocab_size=count, model_type=model_type, position_offset=0)
    read = replace(
        model, config=config, vocab=list(kept), params=params, tokenizer="char", definition=""
    )
    return read, [note]
