"""Tensor names of PyTorch checkpoints and where each goes, as one table.

A PyTorch Linear keeps its weight as [out, in]; here a kernel is [in, out] with heads as axes of
their own, and query, key and value lie in one tensor.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from flax_ner.errors import UserError

# Source name, target path, slot among query, key, value. "{i}" is the layer.
ENCODER: list[tuple[str, str, int | None]] = [
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
HEAD: list[tuple[str, str, int | None]] = [
    ("classifier.weight", "classifier/kernel", None),
    ("classifier.bias", "classifier/bias", None),
]
# What a source may hold beyond that, and why it is left behind.
IGNORED: list[tuple[str, str]] = [
    (r"(^|\.)pooler\.dense\.(weight|bias)$", "pooler: tagging has no use for it"),
    (r"^cls\.", "pre-training heads: tagging has no use for them"),
    (r"(^|\.)embeddings\.position_ids$", "buffer: 0, 1, 2, ..."),
]
# Old files call the LayerNorm parameters gamma and beta.
OLD_NAMES = {".LayerNorm.gamma": ".LayerNorm.weight", ".LayerNorm.beta": ".LayerNorm.bias"}


@dataclass(frozen=True)
class Layout:
    """Where a family of files keeps encoder and head; `head=None` where it has none for tagging."""

    name: str
    encoder: str
    head: str | None
    hidden_act: str


LAYOUTS = [
    Layout("MMOCR trained checkpoint", "encoder.bert.", "decoder.", "gelu_new"),
    Layout("MMOCR pre-trained encoder", "bert.", None, "gelu_new"),
]


@dataclass
class Report:
    """What became of every tensor of a conversion."""

    layout: str
    used: list[tuple[str, str, tuple[int, ...]]] = field(default_factory=list)
    ignored: list[tuple[str, str]] = field(default_factory=list)
    fresh: list[tuple[str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        lines = [f"Source layout: {self.layout}", *self.notes]
        lines += [f"{len(self.used)} source tensors used:"]
        lines += [f"  {source} -> {target} {list(shape)}" for source, target, shape in self.used]
        lines += [f"{len(self.ignored)} source tensors ignored:"]
        lines += [f"  {source}: {reason}" for source, reason in self.ignored]
        lines += [f"{len(self.fresh)} target tensors freshly initialised:"]
        lines += [f"  {target}: {reason}" for target, reason in self.fresh]
        return "\n".join(lines)


def recognise(state_dict: Mapping[str, Any], path: str) -> Layout:
    """The layout of a file, from the names in it."""
    names = {_current_name(name) for name in state_dict}
    for layout in LAYOUTS:
        if f"{layout.encoder}embeddings.word_embeddings.weight" in names:
            return layout
    expected = " or ".join(
        f"{layout.encoder}embeddings.word_embeddings.weight" for layout in LAYOUTS
    )
    raise UserError(
        f"{path}: no known layout. Its tensors begin with {', '.join(sorted(names)[:3])}; "
        f"a BERT of MMOCR has {expected}."
    )


def read_shape(state_dict: Mapping[str, np.ndarray], layout: Layout, path: str) -> dict[str, int]:
    """The fields of `BertConfig` that the tensors' shapes tell (all but the number of heads)."""
    tensors = {_current_name(name): tensor for name, tensor in state_dict.items()}

    def shape(name: str) -> tuple[int, ...]:
        if layout.encoder + name not in tensors:
            raise UserError(f"{path}: lacks {layout.encoder + name}; the file is incomplete.")
        return tensors[layout.encoder + name].shape

    vocab_size, hidden_size = shape("embeddings.word_embeddings.weight")
    layer = re.compile(re.escape(layout.encoder) + r"encoder\.layer\.(\d+)\.")
    layers = {int(match[1]) for name in tensors if (match := layer.match(name))}
    fields = {
        "vocab_size": vocab_size,
        "hidden_size": hidden_size,
        "num_hidden_layers": max(layers, default=-1) + 1,
        "intermediate_size": shape("encoder.layer.0.intermediate.dense.weight")[0],
        "max_position_embeddings": shape("embeddings.position_embeddings.weight")[0],
        "type_vocab_size": shape("embeddings.token_type_embeddings.weight")[0],
    }
    if layout.head is not None and f"{layout.head}classifier.bias" in tensors:
        fields["num_labels"] = tensors[f"{layout.head}classifier.bias"].shape[0]
    return fields


def to_params(
    state_dict: Mapping[str, np.ndarray], layout: Layout, abstract: Mapping[str, Any], path: str
) -> tuple[dict[str, Any], Report]:
    """Map a state dict to parameters, float32.

    Every source tensor is used, ignored by a named rule, or an error; every target tensor is filled,
    left to be freshly initialised (the head, where the layout has none), or an error.

    Args:
        state_dict: names to arrays.
        layout: as `recognise` found it.
        abstract: `abstract_params` of the model to fill.
        path: of the source, for messages.

    Returns:
        The parameters, without those listed under `Report.fresh`, and the report.

    Raises:
        UserError: all faults together.
    """
    report, faults = Report(layout.name), []
    targets = flatten(abstract)
    sources = {_current_name(name): (name, tensor) for name, tensor in state_dict.items()}
    if len(sources) < len(state_dict):
        faults.append("some LayerNorm tensors are there under the old and the new name")
    filled: dict[str, np.ndarray] = {}
    ruled = set()
    for current, target, slot in rules(layout, targets):
        ruled.add(target)
        if current not in sources:
            faults.append(f"missing: {current}, for {target}")
            continue
        name, tensor = sources.pop(current)
        shape = targets[target].shape
        array = filled.setdefault(target, np.empty(shape, np.float32))
        view = _view(array, target, slot)
        wanted = _torch_shape(view.shape, target)
        if tensor.shape != wanted:
            faults.append(
                f"misshapen: {name} is {list(tensor.shape)}, the model needs {list(wanted)}"
            )
            continue
        view[...] = (tensor.T if target.endswith("kernel") else tensor).reshape(view.shape)
        report.used.append((name, target, tensor.shape))
    for target in sorted(set(targets) - ruled):
        if target.startswith("head/") and layout.head is None:
            report.fresh.append((target, "the source has no head for tagging"))
        else:
            faults.append(f"no rule fills {target}")
    for current, (name, _) in sources.items():
        reason = next((reason for pattern, reason in IGNORED if re.search(pattern, current)), None)
        if reason is None:
            faults.append(f"unknown: {name} is not part of the model and no rule ignores it")
        else:
            report.ignored.append((name, reason))
    if faults:
        raise UserError(f"{path}: cannot be converted ({layout.name}):\n  " + "\n  ".join(faults))
    return unflatten(filled), report


def rules(layout: Layout, targets: Mapping[str, Any]) -> Iterator[tuple[str, str, int | None]]:
    """Source name, target path and slot for every source tensor that a model with `targets` needs."""
    layers = sorted(
        {int(target.split("/")[2]) for target in targets if target.startswith("encoder/layers/")}
    )
    for source, target, slot in ENCODER:
        for i in layers if "{i}" in source else [0]:
            yield layout.encoder + source.format(i=i), "encoder/" + target.format(i=i), slot
    if layout.head is not None and any(target.startswith("head/") for target in targets):
        for source, target, slot in HEAD:
            yield layout.head + source, "head/" + target, slot


def flatten(tree: Mapping[str, Any], separator: str = "/") -> dict[str, Any]:
    """Nested dictionaries to one with paths like "encoder/embeddings/word"."""
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        if isinstance(value, Mapping):
            inner = flatten(value, separator)
            flat |= {f"{name}{separator}{path}": leaf for path, leaf in inner.items()}
        else:
            flat[name] = value
    return flat


def unflatten(flat: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of `flatten`."""
    tree: dict[str, Any] = {}
    for path, value in flat.items():
        *parents, name = path.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[name] = value
    return tree


def _current_name(name: str) -> str:
    for old, new in OLD_NAMES.items():
        name = name.replace(old, new)
    return name


def _view(array: np.ndarray, target: str, slot: int | None) -> np.ndarray:
    """The part of a target that one source tensor fills: query, key and value share [D, 3, N, H]."""
    if slot is None:
        return array
    return array[:, slot] if target.endswith("kernel") else array[slot]


def _torch_shape(shape: tuple[int, ...], target: str) -> tuple[int, ...]:
    """The shape PyTorch keeps a tensor of this (part of a) target in."""
    if target.endswith("out/kernel") and len(shape) == 3:  # [N, H, D]
        return (shape[2], shape[0] * shape[1])
    if target.endswith("kernel"):  # [D, outputs...]
        return (int(np.prod(shape[1:])), shape[0])
    if target.endswith("bias"):
        return (int(np.prod(shape)),)
    return shape
