"""A tiny BERT with PyTorch's names, shapes and files."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from flax.traverse_util import flatten_dict

from flax_ner.model.bert import BertConfig
from flax_ner.model.tagging_model import Params
from flax_ner.text.labels import LabelSet
from flax_ner.text.vocab import SPECIAL_TOKENS, write_vocab
from flax_ner.weights.safetensors_files import write_safetensors
from flax_ner.weights.torch_writer import write_torch_file

CONFIG = BertConfig(
    vocab_size=11, num_labels=5, hidden_size=8, num_hidden_layers=2, num_attention_heads=2,
    intermediate_size=12, max_position_embeddings=6, hidden_act="gelu_new",
)  # fmt: skip
VOCAB = [*SPECIAL_TOKENS, *"abcdef"]  # vocab_size of CONFIG
LABELS = LabelSet(["a", "b"])  # num_labels of CONFIG: five tags
TRAINED, PRETRAINED = "encoder.bert.", "bert."  # prefixes of encoder tensors in MMOCR's files

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
    """Return exactly the tensors that a model of `CONFIG` needs, filled with small integers."""
    shapes = {prefix + name: shape for name, shape in ENCODER.items()}
    if prefix == TRAINED:
        shapes |= HEAD
    random = np.random.default_rng(0)
    state = {
        name: random.integers(-9, 10, shape).astype(np.float32) for name, shape in shapes.items()
    }
    return {old_name(name) if old_names else name: array for name, array in state.items()}


def old_name(name: str) -> str:
    """Return the name of a tensor in early PyTorch ports."""
    name = name.replace("LayerNorm.weight", "LayerNorm.gamma")
    return name.replace("LayerNorm.bias", "LayerNorm.beta")


def tagger_state_dict() -> dict[str, np.ndarray]:
    """Return the trained model of `tiny_state_dict` as a Hugging Face BertForTokenClassification."""
    return {
        name.replace("encoder.bert.", "bert.").replace("decoder.", ""): tensor
        for name, tensor in tiny_state_dict(TRAINED).items()
    }


def tiny_config() -> dict[str, Any]:
    """Return `CONFIG` and `LABELS` as a Hugging Face config.json."""
    row = CONFIG.to_json()
    names = (
        "num_labels", "head", "compute_dtype", "attention", "scan_layers", "model_type",
        "position_offset", "embedding_size", "task_type_vocab_size",
    )  # fmt: skip
    id2label = {str(i): name for i, name in enumerate(LABELS.names)}
    return {k: v for k, v in row.items() if k not in names} | {"id2label": id2label}


def write_source(
    folder: Path,
    state: dict[str, np.ndarray],
    file: str = "model.safetensors",
    config: dict[str, Any] | None = None,
) -> Path:
    """Write weights with vocab.txt and config.json beside them; return the path of the weights."""
    folder.mkdir(parents=True, exist_ok=True)
    write = write_safetensors if file.endswith(".safetensors") else write_torch_file
    write(folder / file, state)
    write_vocab(folder / "vocab.txt", VOCAB)
    if config is not None:
        (folder / "config.json").write_text(json.dumps(config))
    return folder / file


def assert_same(one: Params, other: Params) -> None:
    """Assert equal paths, dtypes and bits of two parameter trees."""
    one, other = flatten_dict(one, sep="/"), flatten_dict(other, sep="/")
    assert set(one) == set(other)
    for path, array in one.items():
        np.testing.assert_array_equal(array, other[path], err_msg=path)
        assert array.dtype == other[path].dtype, path
