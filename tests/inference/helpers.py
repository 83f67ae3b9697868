"""A tagger with known predictions: its weights are set by hand, not trained."""

from functools import lru_cache

import jax
import jax.numpy as jnp

from flax_ner import Tagger
from flax_ner.model.bert import BertConfig
from flax_ner.model.tagging_model import Params, init_params
from flax_ner.text.labels import LabelSet
from flax_ner.text.tokenizer import CharTokenizer
from flax_ner.text.vocab import SPECIAL_TOKENS

# The tag depends only on the character: b is B-name, i is I-name, everything else is O.
VOCAB = [*SPECIAL_TOKENS, "b", "i", "o", "中"]
LABELS = LabelSet(["name"], "bio")  # O, B-name, I-name
CONFIG = BertConfig(
    vocab_size=len(VOCAB),
    num_labels=len(LABELS),
    hidden_size=8,
    num_hidden_layers=1,
    num_attention_heads=2,
    intermediate_size=8,
    max_position_embeddings=64,
)


@lru_cache
def hand_made_params() -> Params:
    params = jax.tree.map(jnp.zeros_like, init_params(CONFIG, jax.random.key(0)))
    # With LayerNorm scales of 1 and one-hot word vectors, the word vector reaches the head.
    for norm in (
        params["encoder"]["embeddings"]["norm"],
        params["encoder"]["layers"]["0"]["attention_norm"],
        params["encoder"]["layers"]["0"]["mlp_norm"],
    ):
        norm["scale"] = jnp.ones(8)
    word = jnp.zeros((len(VOCAB), 8)).at[jnp.arange(len(VOCAB)), 0].set(1.0)
    word = word.at[VOCAB.index("b")].set(0).at[VOCAB.index("b"), 1].set(1.0)
    word = word.at[VOCAB.index("i")].set(0).at[VOCAB.index("i"), 2].set(1.0)
    params["encoder"]["embeddings"]["word"] = word
    params["head"]["classifier"]["kernel"] = jnp.eye(8, 3)
    return params


def hand_made_tagger(max_length: int = 64, batch_size: int = 4) -> Tagger:
    """Return a tagger that predicts an entity for every "b" with the "i"s after it."""
    tokenizer = CharTokenizer(VOCAB)
    return Tagger(CONFIG, hand_made_params(), tokenizer, LABELS, max_length, batch_size)
