"""Map tensor names between PyTorch checkpoints and this package, by one table for both directions.

PyTorch stores a linear layer's weight as [out, in]. Here a kernel is [in, out], attention heads have an axis
of their own, and query, key and value share one tensor.
"""

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
from flax.traverse_util import flatten_dict

from flax_ner.errors import UserError
from flax_ner.weights.conversion_report import Report, UsedTensor
from flax_ner.weights.families import Rule
from flax_ner.weights.layouts import WORD_EMBEDDINGS, Layout

# (source name, target path, slot); "{i}" is the layer index.
ENCODER: list[Rule] = [
    ("embeddings.word_embeddings.weight", "embeddings/word", None),
    ("embeddings.position_embeddings.weight", "embeddings/position", None),
    ("embeddings.token_type_embeddings.weight", "embeddings/token_type", None),
    ("embeddings.LayerNorm.weight", "embeddings/norm/scale", None),
    ("embeddings.LayerNorm.bias", "embeddings/norm/bias", None),
    ("encoder.layer.{i}.attention.self.query.weight", "layers/{i}/attention/qkv/kernel", 0),
    ("encoder.layer.{i}.attention.self.query.bias", "layers/{i}/attention/qkv/bias", 0),
    ("encoder.layer.{i}.attention.self.key.weight", "layers/{i}/attention/qkv/kernel", 1),
    ("encoder.layer.{i}.attention.self.key.bias", "layers/{i}/attention/qkv/bias", 1),
    ("encoder.layer.{i}.attention.self.value.weight", "layers/{i}/attention/qkv/kernel", 2),
    ("encoder.layer.{i}.attention.self.value.bias", "layers/{i}/attention/qkv/bias", 2),
    ("encoder.layer.{i}.attention.output.dense.weight", "layers/{i}/attention/out/kernel", None),
    ("encoder.layer.{i}.attention.output.dense.bias", "layers/{i}/attention/out/bias", None),
    (
        "encoder.layer.{i}.attention.output.LayerNorm.weight",
        "layers/{i}/attention_norm/scale",
        None,
    ),
    ("encoder.layer.{i}.attention.output.LayerNorm.bias", "layers/{i}/attention_norm/bias", None),
    ("encoder.layer.{i}.intermediate.dense.weight", "layers/{i}/mlp_in/kernel", None),
    ("encoder.layer.{i}.intermediate.dense.bias", "layers/{i}/mlp_in/bias", None),
    ("encoder.layer.{i}.output.dense.weight", "layers/{i}/mlp_out/kernel", None),
    ("encoder.layer.{i}.output.dense.bias", "layers/{i}/mlp_out/bias", None),
    ("encoder.layer.{i}.output.LayerNorm.weight", "layers/{i}/mlp_norm/scale", None),
    ("encoder.layer.{i}.output.LayerNorm.bias", "layers/{i}/mlp_norm/bias", None),
]
# Embedding parameters that only some families have.
OPTIONAL: list[Rule] = [
    ("embeddings.task_type_embeddings.weight", "embeddings/task_type", None),
    ("embeddings_project.weight", "embeddings/project/kernel", None),
    ("embeddings_project.bias", "embeddings/project/bias", None),
]
HEAD: list[Rule] = [
    ("weight", "classifier/kernel", None),
    ("bias", "classifier/bias", None),
]
_SEQUENCE_HEAD = "head for whole sentences: not used for tagging"
# Other tensors that a source may hold, as (pattern, reason). They are ignored.
IGNORED: list[tuple[str, str]] = [
    (
        r"^(cls\.predictions|lm_head)\.decoder\.(weight|bias)$|^generator_lm_head\.weight$",
        "tied to the word embeddings and the bias",
    ),
    (r"(^|\.)pooler\.dense\.(weight|bias)$", "pooler: not used for tagging"),
    (
        r"^(cls\.(predictions|seq_relationship)|discriminator_predictions)\.",
        "pre-training heads: not used for tagging",
    ),
    (r"^qa_outputs\.", "question-answering head: not used for tagging"),
    (r"^classifier\.(dense|out_proj)\.", _SEQUENCE_HEAD),
    (r"(^|\.)embeddings\.(position_ids|token_type_ids)$", "buffer, not a parameter"),
    (r"^(criterion|loss|loss_f\w+)\.", "weights of the loss: not used for tagging"),
]
SEQUENCE_HEAD = (r"^classifier\.", _SEQUENCE_HEAD)
_LM_HEAD = r"^(cls\.predictions|lm_head|generator_predictions|generator_lm_head)\."
UNTIED_LM_HEAD = (_LM_HEAD, "masked language modelling head with untied embeddings: not supported")
INCOMPLETE_LM_HEAD = (
    _LM_HEAD,
    "masked language modelling head: incomplete, or does not fit the encoder",
)
# Names of encoder tensors without a prefix. Other names belong to a head.
ENCODER_NAME = re.compile(r"(embeddings|encoder|pooler|embeddings_project)\.")
# Prefixes that PyTorch's DataParallel, Lightning and torch.compile put before the names of a model.
WRAPPER = re.compile(r"(?:(?:module|model|_orig_mod)\.)+")
# Old files call the LayerNorm parameters gamma and beta.
OLD_NAMES = {".LayerNorm.gamma": ".LayerNorm.weight", ".LayerNorm.beta": ".LayerNorm.bias"}
FLOATING_KINDS = "fV"  # `np.dtype.kind`; V is bfloat16


def current_names(names: Iterable[str], path: str) -> dict[str, str]:
    """Return a dictionary from the current PyTorch name of each tensor to its name in the file.

    LayerNorm's gamma and beta become weight and bias. Prefixes of wrappers (`WRAPPER`) are removed.

    Args:
        names: names of the tensors in the file.
        path: path of the file, for messages.

    Raises:
        UserError: two names in the file have the same current name.
    """
    names = list(names)
    embeddings = (name for name in names if name.endswith(WORD_EMBEDDINGS))
    prefixes = (match[0] for name in embeddings if (match := WRAPPER.match(name)))
    wrapper = min(prefixes, default="", key=len)
    current: dict[str, str] = {}
    for original in names:
        name = original.removeprefix(wrapper)
        for old, new in OLD_NAMES.items():
            name = name.replace(old, new)
        if name in current:
            raise UserError(
                f"{path}: {current[name]} and {original} are two names of one tensor. Keep one of them."
            )
        current[name] = original
    return current


def split_head_names(names: Iterable[str], layout: Layout) -> tuple[list[str], list[str]]:
    """Return the tensors of a supported head, and those of unsupported heads.

    Args:
        names: current names (`current_names`) of all tensors.
        layout: layout of the file, see `detect_layout`.
    """
    head = layout.head or ""
    readable = {head + source for source, _, _ in HEAD} if head else set()
    known = {source for source, _, _ in layout.family.masked_lm}
    outside = [
        name
        for name in sorted(names)
        if not (name.startswith(layout.encoder) if layout.encoder else ENCODER_NAME.match(name))
        and name not in known
        and not any(re.search(rule, name) for rule, _ in IGNORED)
    ]
    return (
        [name for name in outside if name in readable],
        [name for name in outside if name not in readable],
    )


def infer_shape(tensors: Mapping[str, np.ndarray], layout: Layout, path: str) -> dict[str, int]:
    """Return the fields of a `config.json` that follow from tensor shapes.

    These are all fields but those that `convert.CONFIG_ONLY_FIELDS` lists.

    Args:
        tensors: tensors by their current names.
        layout: layout of the file, see `detect_layout`.
        path: path of the file, for messages.

    Raises:
        UserError: a tensor is missing or has the wrong rank, or layers are missing.
    """

    def shape(name: str, rank: int = 2) -> tuple[int, ...]:
        if name not in tensors:
            raise UserError(f"{path}: {name} is missing. The file is incomplete.")
        if tensors[name].ndim != rank:
            raise UserError(
                f"{path}: {name} has shape {list(tensors[name].shape)}, expected rank {rank}. Use the "
                "weights as the framework saved them."
            )
        return tensors[name].shape

    encoder = layout.encoder
    vocab_size, width = shape(encoder + WORD_EMBEDDINGS)
    layer = re.compile(re.escape(encoder) + r"encoder\.layer\.(\d+)\.")
    layers = {match[1] for name in tensors if (match := layer.match(name))}
    if layers != {str(i) for i in range(len(layers))}:
        raise UserError(
            f"{path}: layers are {', '.join(sorted(layers)[:20])}, not 0, 1, 2, ... The file is incomplete."
        )
    intermediate_size, hidden_size = shape(encoder + "encoder.layer.0.intermediate.dense.weight")
    projected = layout.model_type == "electra"
    fields = {
        "vocab_size": vocab_size,
        "hidden_size": hidden_size if projected else width,
        "num_hidden_layers": len(layers),
        "intermediate_size": intermediate_size,
        "max_position_embeddings": shape(encoder + "embeddings.position_embeddings.weight")[0],
        "type_vocab_size": shape(encoder + "embeddings.token_type_embeddings.weight")[0],
    }
    if projected:
        fields["embedding_size"] = width
    task_types = encoder + "embeddings.task_type_embeddings.weight"
    if layout.model_type == "ernie" and task_types in tensors:
        fields["task_type_vocab_size"] = shape(task_types)[0]
    if layout.head is not None and layout.head + "weight" in tensors:
        fields["num_labels"] = shape(layout.head + "weight")[0]
    return fields


def match_tensors(
    tensors: Mapping[str, np.ndarray],
    layout: Layout,
    abstract: Mapping[str, Any],
    ignored: Iterable[tuple[str, str]] = (),
) -> Report:
    """Match source tensors to parameters by name and shape, without reading them.

    Every source tensor is used, ignored by a rule, or an error. Every parameter is filled, freshly initialised
    (a head that the layout does not have), or an error.

    Args:
        tensors: tensors of the source by their current names.
        layout: layout of the file, see `detect_layout`.
        abstract: parameters to fill, with shapes instead of arrays: `abstract_params`, optionally with
            "masked_lm".
        ignored: further rules like `IGNORED`.

    Returns:
        What happens to each tensor, and all errors.
    """
    report = Report(layout.name)
    targets = flatten_dict(abstract, sep="/")
    unmatched = dict(tensors)
    matched_targets = set()
    for name, target, slot in expand_rules(layout, targets):
        matched_targets.add(target)
        tensor = unmatched.pop(name, None)
        if tensor is None:
            report.errors.append(f"missing: {name}, for {target}")
            continue
        expected = torch_shape(targets[target].shape, target, slot)
        if tensor.shape != expected:
            report.errors.append(
                f"wrong shape: {name} is {list(tensor.shape)}, the model needs {list(expected)}"
            )
        elif tensor.dtype.kind not in FLOATING_KINDS:
            report.errors.append(f"wrong dtype: {name} is {tensor.dtype}, expected floating point")
        else:
            report.used.append(UsedTensor(name, target, slot, tensor.shape, tensor.dtype))
    for target in sorted(set(targets) - matched_targets):
        if target.startswith("head/") and layout.head is None:
            report.fresh.append((target, "the source has no head for tagging, or it is not used"))
        else:
            report.errors.append(f"no rule fills {target}")
    for name in unmatched:
        reason = next((why for rule, why in [*ignored, *IGNORED] if re.search(rule, name)), None)
        if reason is None:
            report.errors.append(f"unknown: {name} is not part of the model and no rule ignores it")
        else:
            report.ignored.append((name, reason))
    return report


def has_masked_lm_head(
    tensors: Mapping[str, np.ndarray], layout: Layout, head: Mapping[str, Any]
) -> bool:
    """Return whether the tensors fill `head`, the shapes of the parameters of `MaskedLMHead`."""
    targets = flatten_dict(head, sep="/")
    return all(
        name in tensors
        and tensors[name].shape == torch_shape(targets[target].shape, target)
        and tensors[name].dtype.kind in FLOATING_KINDS
        for name, target, _ in layout.family.masked_lm
    )


def expand_rules(layout: Layout, targets: Iterable[str]) -> Iterator[Rule]:
    """Yield source name, target path and slot of every source tensor that a model with `targets` needs."""
    targets = list(targets)
    layers = sorted(
        {int(target.split("/")[2]) for target in targets if target.startswith("encoder/layers/")}
    )
    embeddings = [rule for rule in ENCODER if "{i}" not in rule[0]]
    optional = [rule for rule in OPTIONAL if "encoder/" + rule[1] in targets]
    for source, target, slot in [*embeddings, *optional]:
        yield layout.encoder + source, "encoder/" + target, slot
    for i in layers:
        for source, target, slot in ENCODER[len(embeddings) :]:
            yield layout.encoder + source.format(i=i), "encoder/" + target.format(i=i), slot
    if layout.head is not None and any(target.startswith("head/") for target in targets):
        for source, target, slot in HEAD:
            yield layout.head + source, "head/" + target, slot
    if any(target.startswith("masked_lm/") for target in targets):
        for source, target, slot in layout.family.masked_lm:
            yield source, "masked_lm/" + target, slot


def torch_shape(shape: tuple[int, ...], target: str, slot: int | None = None) -> tuple[int, ...]:
    """Return PyTorch's shape of a target, or of one slot of it."""
    if slot is not None:
        shape = shape[:1] + shape[2:] if target.endswith("kernel") else shape[1:]
    if target.endswith("out/kernel") and len(shape) == 3:  # [N, H, D]
        return (shape[2], shape[0] * shape[1])
    if target.endswith("kernel"):  # [D, outputs...]
        return (math.prod(shape[1:]), shape[0])
    if target.endswith("bias"):
        return (math.prod(shape),)
    return shape
