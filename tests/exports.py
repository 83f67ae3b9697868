"""Small taggers with random weights, one per encoder family, for tests of exports."""

from dataclasses import replace
from typing import Any

import jax

from flax_ner.model.bert import BertConfig
from flax_ner.model.tagging_model import init_params
from flax_ner.text.labels import LabelSet
from flax_ner.text.tokenizer import CharTokenizer, Tokenizer, WordPieceTokenizer
from flax_ner.text.vocab import SPECIAL_TOKENS
from flax_ner.weights.model_dir import ModelDir
from tests.subwords import TEXTS, bpe_tokenizer, unigram_tokenizer

LABELS = LabelSet(["name", "place"], "bioes")
HEADS = ("softmax", "softmax_constrained", "crf")
SHAPE: dict[str, Any] = {
    "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24,
    "max_position_embeddings": 40, "num_labels": len(LABELS),
}  # fmt: skip
OFFSET = {"position_offset": 2, "type_vocab_size": 1, "layer_norm_eps": 1e-5}


def char_tokenizer() -> Tokenizer:
    return CharTokenizer([*SPECIAL_TOKENS, *sorted({c for text in TEXTS for c in text.lower()})])


def wordpiece_tokenizer() -> Tokenizer:
    tokens = sorted({c for text in TEXTS for c in text.lower() if not c.isspace()})
    pieces = [f"##{token}" for token in tokens if token.isascii()]
    return WordPieceTokenizer([*SPECIAL_TOKENS, *tokens, *pieces])


FAMILIES: dict[str, tuple[Any, dict[str, Any]]] = {
    "bert": (char_tokenizer, {"hidden_act": "gelu_new"}),
    "bert, gelu": (wordpiece_tokenizer, {}),
    "roberta": (bpe_tokenizer, OFFSET | {"model_type": "roberta"}),
    "xlm-roberta": (unigram_tokenizer, OFFSET | {"model_type": "xlm-roberta"}),
    "camembert": (unigram_tokenizer, OFFSET | {"model_type": "camembert"}),
    "electra": (wordpiece_tokenizer, {"model_type": "electra", "embedding_size": 8}),
    "ernie": (
        wordpiece_tokenizer,
        {"model_type": "ernie", "task_type_vocab_size": 3, "hidden_act": "relu"},
    ),
}


def random_model(family: str = "bert", head: str = "crf", max_length: int = 40) -> ModelDir:
    """Return a tagger in which no tensor has its initial value, and which predicts every tag."""
    make, fields = FAMILIES[family]
    made = make()
    config = replace(BertConfig(len(made.tokens), **SHAPE), head=head, **fields)
    params = init_params(config, jax.random.key(0))
    keys = iter(jax.random.split(jax.random.key(1), 100))

    def perturb(path: Any, x: jax.Array) -> jax.Array:
        # A small bias, as it is the same for all tokens.
        size = 0.1 if path[-1].key == "bias" else 0.5
        return x + size * jax.random.normal(next(keys), x.shape)

    params = jax.tree.map_with_path(perturb, params)
    return ModelDir(
        config, LABELS, made.tokens, max_length, params, made.lower_case, made.kind,
        made.definition,
    )  # fmt: skip
