"""A PyTorch file to a model, with vocabulary and labels."""

import json
from pathlib import Path
from typing import Any

from flax_ner.errors import UserError
from flax_ner.model.bert import BertConfig
from flax_ner.model.tagger import abstract_params
from flax_ner.text.labels import LabelSet
from flax_ner.text.tokenizer import read_vocab
from flax_ner.weights.model_dir import ModelDir
from flax_ner.weights.names import Report, read_shape, recognise, to_params
from flax_ner.weights.torch_files import read_state_dict

# What the tensors cannot tell.
UNTOLD = ("num_attention_heads", "hidden_act", "layer_norm_eps")
HEAD_DIM = 64  # the width of a head in every BERT that Google released
CLUENER = (
    "address", "book", "company", "game", "government",
    "movie", "name", "organization", "position", "scene",
)  # fmt: skip


def convert(
    source: str | Path,
    vocab: str | Path,
    labels: LabelSet | None = None,
    config: dict[str, object] | None = None,
) -> tuple[ModelDir, Report]:
    """Convert an MMOCR file: a pre-trained encoder or a trained tagger.

    Args:
        source: the .pth file.
        vocab: its vocab.txt.
        labels: of its head. None: MMOCR's tags over the CLUENER categories where the file has a
            head of that many outputs.
        config: fields by the names of a Hugging Face `config.json` that the tensors cannot tell
            (heads, activation, LayerNorm eps); shapes stated there must agree with the tensors.

    Raises:
        UserError: what is wrong with which file; for tensors, all faults together.
    """
    source = str(source)
    state_dict = read_state_dict(source)
    layout = recognise(state_dict, source)
    shape = read_shape(state_dict, layout, source)
    tokens = read_vocab(vocab)
    if len(tokens) != shape["vocab_size"]:
        raise UserError(
            f"{vocab}: {len(tokens)} tokens, but {source} has embeddings for {shape['vocab_size']}. "
            "Give the vocab.txt that belongs to the weights."
        )
    outputs = shape.pop("num_labels", None)
    if outputs is None:
        labels = None  # an encoder; the head comes with fine-tuning
    elif labels is None:
        labels = LabelSet.mmocr(CLUENER)
    if labels is not None and len(labels) != outputs:
        raise UserError(
            f"{source}: its head has {outputs} outputs, but the labels are {len(labels)} "
            f"({labels.scheme} over {', '.join(labels.categories)}). "
            "Convert it with convert/torch_to_flax.py --labels FILE."
        )

    known = dict(config or {})
    for name, value in shape.items():
        if known.get(name, value) != value:
            raise UserError(
                f"config: {name} is {known[name]}, but the tensors of {source} say {value}."
            )
    notes = []
    if "num_attention_heads" not in known:
        if shape["hidden_size"] % HEAD_DIM:
            raise UserError(
                f"{source}: its width {shape['hidden_size']} does not divide by {HEAD_DIM}, so the number "
                "of heads must be told: give a config.json with num_attention_heads."
            )
        known["num_attention_heads"] = shape["hidden_size"] // HEAD_DIM
        notes.append(
            f"Attention heads: {known['num_attention_heads']}, by the convention of {HEAD_DIM} wide heads."
        )
    if "hidden_act" not in known:
        known["hidden_act"] = layout.hidden_act
        notes.append(f"Activation: {layout.hidden_act}, as MMOCR runs it.")
    fields: dict[str, Any] = shape | {name: known[name] for name in UNTOLD if name in known}
    bert = BertConfig(**fields, num_labels=outputs or 1)
    params, report = to_params(state_dict, layout, abstract_params(bert), source)
    report.notes += notes
    return ModelDir(bert, labels, tokens, bert.max_position_embeddings, params), report


def beside(source: str | Path, name: str) -> Path | None:
    """A file of that name in the folder of `source`, if there is one."""
    path = Path(source).with_name(name)
    return path if path.is_file() else None


def read_labels(path: str | Path) -> LabelSet:
    """Read a label set: a `labels.json` of a model directory, or MMOCR's categories, one a line."""
    path = Path(path)
    if not path.is_file():
        raise UserError(f"--labels: no file {str(path)!r}.")
    text = path.read_text("utf-8")
    if path.suffix != ".json":
        return LabelSet.mmocr([line.strip() for line in text.splitlines() if line.strip()])
    try:
        return LabelSet.from_json(json.loads(text))
    except (ValueError, KeyError, TypeError):
        raise UserError(f'{path}: expected {{"scheme": "bio", "categories": [...]}}.') from None


def read_config(path: str | Path) -> dict[str, object]:
    """Read a Hugging Face `config.json`."""
    path = Path(path)
    if not path.is_file():
        raise UserError(f"--config: no file {str(path)!r}.")
    try:
        row = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise UserError(f"{path}: not JSON ({error}).") from None
    if not isinstance(row, dict):
        raise UserError(f"{path}: not a JSON object.")
    return row
