"""A BERT of a few numbers, as PyTorch would name and shape it."""

import numpy as np

from flax_ner.model.bert import BertConfig

CONFIG = BertConfig(
    vocab_size=11, num_labels=5, hidden_size=8, num_hidden_layers=2, num_attention_heads=2,
    intermediate_size=12, max_position_embeddings=6, hidden_act="gelu_new",
)  # fmt: skip
TRAINED, PRETRAINED = "encoder.bert.", "bert."  # what encoder names begin with in MMOCR's files

LAYER = {
    "attention.self.query.weight": (8, 8),
    "attention.self.query.bias": (8,),
    "attention.self.key.weight": (8, 8),
    "attention.self.key.bias": (8,),
    "attention.self.value.weight": (8, 8),
    "attention.self.value.bias": (8,),
    "attention.output.dense.weight": (8, 8),
    "attention.output.dense.bias": (8,),
    "attention.output.LayerNorm.weight": (8,),
    "attention.output.LayerNorm.bias": (8,),
    "intermediate.dense.weight": (12, 8),
    "intermediate.dense.bias": (12,),
    "output.dense.weight": (8, 12),
    "output.dense.bias": (8,),
    "output.LayerNorm.weight": (8,),
    "output.LayerNorm.bias": (8,),
}
ENCODER = {
    "embeddings.word_embeddings.weight": (11, 8),
    "embeddings.position_embeddings.weight": (6, 8),
    "embeddings.token_type_embeddings.weight": (2, 8),
    "embeddings.LayerNorm.weight": (8,),
    "embeddings.LayerNorm.bias": (8,),
    **{f"encoder.layer.{i}.{name}": shape for i in range(2) for name, shape in LAYER.items()},
}
HEAD = {"decoder.classifier.weight": (5, 8), "decoder.classifier.bias": (5,)}


def tiny_state_dict(prefix: str, old_names: bool = False) -> dict[str, np.ndarray]:
    """All that a model of `CONFIG` needs and nothing else, in small whole numbers."""
    shapes = {prefix + name: shape for name, shape in ENCODER.items()}
    if prefix == TRAINED:
        shapes |= HEAD
    random = np.random.default_rng(0)
    state = {
        name: random.integers(-9, 10, shape).astype(np.float32) for name, shape in shapes.items()
    }
    return {old_name(name) if old_names else name: array for name, array in state.items()}


def old_name(name: str) -> str:
    """What early PyTorch ports call a tensor."""
    name = name.replace("LayerNorm.weight", "LayerNorm.gamma")
    return name.replace("LayerNorm.bias", "LayerNorm.beta")
