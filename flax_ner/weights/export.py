"""Export a model for PyTorch: a folder for Hugging Face transformers, or a .pth file for MMOCR."""

import os
from pathlib import Path
from typing import Any

import numpy as np

from flax_ner import durable
from flax_ner.errors import UserError
from flax_ner.text.vocab import write_vocab
from flax_ner.weights.families import FAMILIES
from flax_ner.weights.layouts import HF_LAYOUTS, MMOCR, PRETRAINING, Layout
from flax_ner.weights.model_dir import ModelDir, write_json
from flax_ner.weights.safetensors_files import write_safetensors
from flax_ner.weights.tensor_copy import to_torch
from flax_ner.weights.torch_writer import write_torch_file

EXPORT_LAYOUTS = ("hf", "mmocr")
LABELS = ("bio",)
# Tags as trained, beside a model whose labels were renamed; `torch_to_flax.py --labels` reads it.
TRAINED_TAGS = "tags.txt"
# `BertConfig` fields that a Hugging Face config.json does not have.
NATIVE_FIELDS = (
    "num_labels",
    "head",
    "word_dropout_prob",
    "compute_dtype",
    "attention",
    "scan_layers",
    "remat",
    "ensemble",
    "position_offset",
    "embedding_size",
    "task_type_vocab_size",
)


def export(
    model: ModelDir,
    out: str | Path,
    layout: str,
    labels: str | None = None,
    option: str = "--layout",
) -> str:
    """Export a model for PyTorch, in float32.

    `hf` creates a folder with `config.json`, `model.safetensors`, `tokenizer.json`, `tokenizer_config.json`
    and, unless the tokenizer is `subword`, `vocab.txt`. The model keeps its family. transformers loads a tagger
    with AutoModelForTokenClassification, an encoder with AutoModel, an encoder with a masked language modelling
    head with AutoModelForMaskedLM, and the tokenizer with AutoTokenizer.

    `mmocr` creates a .pth file with MMOCR's tensor names. It holds tensors only, and no masked language
    modelling head.

    Args:
        model: the model to export.
        out: folder (`hf`) or file (`mmocr`) to create.
        layout: `hf` or `mmocr`.
        labels: `bio` renames the tags of `hf` so that transformers' pipeline groups them
            (`LabelSet.bio_names`); the weights stay the same. None keeps the names.
        option: the command's option that names the layout, for messages.

    Returns:
        A message that says what was written.

    Raises:
        UserError: `out` exists, or the layout does not support the model or the labels.
    """
    out = check_new(out)
    if model.config.ensemble > 1:
        raise UserError(
            f"{option} {layout}: does not support an ensemble of {model.config.ensemble} models. Export one of "
            "them, or distil them into one model."
        )
    missing = {"crf": "the transitions", "global_pointer": "span scores"}.get(model.config.head)
    if model.labels is not None and missing:
        distil = {"crf": ", or distil this model into it: --config.distill.teacher=MODEL"}
        raise UserError(
            f"{option} {layout}: does not support model.head {model.config.head}, because it cannot hold "
            f"{missing}. To export, train a model with --config.model.head=softmax"
            f"{distil.get(model.config.head, '')}."
        )
    if labels is not None and (layout != "hf" or model.labels is None):
        raise UserError(
            f"--labels {labels}: does not apply to {option} {layout}"
            f"{'' if model.labels else ' of an encoder without a head'}. Omit --labels."
        )
    if layout == "mmocr" and model.labels is not None and model.labels.scheme != "mmocr":
        raise UserError(
            f"{option} mmocr: this model's tags are {model.labels.scheme}, but MMOCR's head also has outputs "
            f"for X, [START] and [END]. Export it with {option} hf, or train with --config.data.scheme=mmocr."
        )
    if layout == "mmocr" and model.config.model_type != "bert":
        raise UserError(
            f"{option} mmocr: supports only BERT, but this model has model_type {model.config.model_type}. "
            f"Export it with {option} hf."
        )
    durable.makedirs_synced(out.parent)
    new = durable.staging_path(out)  # so that `out` is never incomplete
    message = (
        _write_mmocr(model, new) if layout == "mmocr" else _write_hugging_face(model, new, labels)
    )
    durable.replace_folder(new, out)
    if model.labels is not None and model.config.head == "softmax_constrained":
        message += (
            " Constrained decoding is not exported: there, each token gets its most probable tag."
        )
    return f"{message} Written: {out}"


def check_new(out: str | Path) -> Path:
    """Return the path of an export that does not exist yet, and raise `UserError` if it does."""
    out = Path(os.path.realpath(out))  # the target of a link, even if it does not exist yet
    if out.exists():
        raise UserError(f"{out}: already exists. Name another path; nothing was overwritten.")
    return out


def write_hugging_face_files(model: ModelDir, folder: Path, labels: str | None = None) -> str:
    """Create a folder with the configuration and the tokenizer as transformers reads them.

    Args:
        model: the model.
        folder: folder to create.
        labels: see `export`.

    Returns:
        The name of the architecture in transformers.
    """
    config, tokenizer = model.config, model.build_tokenizer()
    suffix = ("ForTokenClassification", "ForMaskedLM", "Model")[_kind(model)]
    architecture = FAMILIES[config.model_type].name + suffix
    row: dict[str, Any] = {
        "architectures": [architecture],
        **config.to_json(),
        "position_embedding_type": "absolute",
        "pad_token_id": tokenizer.special.get("pad", 0),
        "torch_dtype": "float32",
    }
    for name in NATIVE_FIELDS:
        del row[name]
    if config.position_offset:
        row["max_position_embeddings"] += config.position_offset
        # RoBERTa counts positions from the padding id.
        row["pad_token_id"] = config.position_offset - 1
    if config.model_type == "electra":
        row["embedding_size"] = config.embedding_width
    if config.task_type_vocab_size:
        row |= {"use_task_id": True, "task_type_vocab_size": config.task_type_vocab_size}
    if model.labels is not None:
        names = model.labels.bio_names() if labels == "bio" else model.labels.names
        row["id2label"] = {str(i): name for i, name in enumerate(names)}
        row["label2id"] = {name: names.index(name) for name in names}
    special = {f"{role}_token": model.vocab[i] for role, i in tokenizer.special.items()}
    tokenizer_config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "do_lower_case": model.lower_case,
        "model_max_length": model.max_length,
        **special,
    }
    folder.mkdir()
    write_json(folder / "config.json", row)
    write_json(folder / "tokenizer_config.json", tokenizer_config)
    if model.definition:
        (folder / "tokenizer.json").write_text(model.definition, "utf-8", newline="")
    else:
        write_vocab(folder / "vocab.txt", model.vocab)
        tokenizer.save(folder / "tokenizer.json")
    return architecture


def _kind(model: ModelDir) -> int:
    """Return the index of the model's class: tagger, masked language model or encoder."""
    return 0 if model.labels is not None else 1 if "masked_lm" in model.params else 2


def _write_hugging_face(model: ModelDir, folder: Path, labels: str | None) -> str:
    architecture = write_hugging_face_files(model, folder, labels)
    tensors = to_torch(model.params, HF_LAYOUTS[model.config.model_type][_kind(model)])
    write_safetensors(folder / "model.safetensors", tensors)
    message = f"Hugging Face {architecture}: {len(tensors)} tensors."
    if model.labels is None:
        return message
    if labels == "bio":
        (folder / TRAINED_TAGS).write_text("\n".join(model.labels.names) + "\n", "utf-8")
        # "first" splits words only at spaces, so text without spaces needs "simple".
        strategy = "simple" if model.tokenizer == "char" else "first"
        return (
            f"{message} The labels are BIO; {TRAINED_TAGS} has the tags as trained. For entities use "
            f'pipeline(..., aggregation_strategy="{strategy}").'
            + (' For text without spaces, use "simple".' if model.tokenizer == "subword" else "")
        )
    # Without B- and I- the pipeline groups neighbouring equal tags, which is what `io` means.
    if model.labels.scheme != "io" and any(
        name.startswith(("B-", "I-")) and name != own
        for name, own in zip(model.labels.bio_names(), model.labels.names, strict=True)
    ):
        message += (
            " Warning: transformers' pipeline groups only B- and I- tags, so it splits the entities of these "
            "labels. For the pipeline, export with --labels bio."
        )
    return message


def _write_mmocr(model: ModelDir, path: Path) -> str:
    layout = MMOCR if model.labels is not None else PRETRAINING
    params = {name: tree for name, tree in model.params.items() if name != "masked_lm"}
    tensors = _with_pooler(to_torch(params, layout), layout, model.config.hidden_size)
    write_torch_file(path, tensors)
    lines = [
        f"{layout.name if model.labels else 'MMOCR pre-trained encoder'}: {len(tensors)} tensors, "
        "of which two are zero: the pooler, which MMOCR's tagger does not use.",
    ]
    config = model.config
    if (config.type_vocab_size, config.layer_norm_eps) != (2, 1e-12):
        lines.append(
            "MMOCR's BERT has 2 token types and a LayerNorm epsilon of 1e-12, but this model has "
            f"{config.type_vocab_size} and {config.layer_norm_eps:g}: set type_vocab_size and "
            "layer_norm_eps in MMOCR's configuration."
        )
    if model.config.hidden_act != "gelu_new":
        lines.append(
            f"MMOCR uses gelu_new, but this model was trained with {model.config.hidden_act}."
        )
    if model.tokenizer != "char":
        lines.append(
            f"MMOCR reads one token per character, but this model uses the tokenizer {model.tokenizer}."
        )
    if model.labels is not None:
        lines.append(f"Categories, in order: {', '.join(model.labels.categories)}.")
    return "\n".join(lines)


def _with_pooler(
    tensors: dict[str, np.ndarray], layout: Layout, width: int
) -> dict[str, np.ndarray]:
    """Return the tensors with a zero pooler after the encoder, in PyTorch's order."""
    head = {name: tensor for name, tensor in tensors.items() if not name.startswith(layout.encoder)}
    encoder = {name: tensor for name, tensor in tensors.items() if name not in head}
    pooler = {
        f"{layout.encoder}pooler.dense.weight": np.zeros((width, width), np.float32),
        f"{layout.encoder}pooler.dense.bias": np.zeros(width, np.float32),
    }
    return encoder | pooler | head
