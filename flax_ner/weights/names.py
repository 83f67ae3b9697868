"""Tensor names of PyTorch checkpoints and where each goes, as one table, both ways.

A PyTorch Linear keeps its weight as [out, in]; here a kernel is [in, out] with heads as axes of
their own, and query, key and value lie in one tensor.
"""

import math
import mmap
import re
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import numpy as np

from flax_ner.errors import UserError
from flax_ner.weights.families import FAMILIES, SUPPORTED, Family, Rule
from flax_ner.weights.mapped import release
from flax_ner.weights.report import Report, Used

# "{i}" is the layer.
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
# Parameters of the embeddings that only some families have.
OPTIONAL: list[Rule] = [
    ("embeddings.task_type_embeddings.weight", "embeddings/task_type", None),
    ("embeddings_project.weight", "embeddings/project/kernel", None),
    ("embeddings_project.bias", "embeddings/project/bias", None),
]
HEAD: list[Rule] = [
    ("weight", "classifier/kernel", None),
    ("bias", "classifier/bias", None),
]
# What a source may hold beyond that, and why it is left behind.
_SENTENCES = "head that scores whole sentences: tagging has no use for it"
IGNORED: list[tuple[str, str]] = [
    (
        r"^(cls\.predictions|lm_head)\.decoder\.(weight|bias)$|^generator_lm_head\.weight$",
        "taken as tied to the word embeddings and the bias",
    ),
    (r"(^|\.)pooler\.dense\.(weight|bias)$", "pooler: tagging has no use for it"),
    (
        r"^(cls\.(predictions|seq_relationship)|discriminator_predictions)\.",
        "pre-training heads: tagging has no use for them",
    ),
    (r"^qa_outputs\.", "question-answering head: tagging has no use for it"),
    (r"^classifier\.(dense|out_proj)\.", _SENTENCES),
    (r"(^|\.)embeddings\.(position_ids|token_type_ids)$", "buffer, not learnt"),
    (r"^(criterion|loss|loss_f\w+)\.", "weights of the loss: tagging has no use for them"),
]
NO_TAGGER = (r"^classifier\.", _SENTENCES)
_SCORES_TOKENS = r"^(cls\.predictions|lm_head|generator_predictions|generator_lm_head)\."
UNTIED = (_SCORES_TOKENS, "scores tokens by embeddings of its own: no place for them")
NOT_WHOLE = (_SCORES_TOKENS, "scores tokens: parts are missing, or do not fit the encoder")
# Parts of an encoder without its prefix; what is not of them is a head.
ENCODER_PART = re.compile(r"(embeddings|encoder|pooler|embeddings_project)\.")
# What holds a model, as PyTorch's data parallel, Lightning and torch.compile name it.
WRAPPER = re.compile(r"(?:(?:module|model|_orig_mod)\.)+")
# Old files call the LayerNorm parameters gamma and beta.
OLD_NAMES = {".LayerNorm.gamma": ".LayerNorm.weight", ".LayerNorm.beta": ".LayerNorm.bias"}
WORD = "embeddings.word_embeddings.weight"
FLOATING = "fV"  # kinds of dtype; V: bfloat16
BLOCK = 16  # float32 of a cache line: transposing in blocks of so many rows is twice as fast


@dataclass(frozen=True)
class Layout:
    """A family of files.

    Attributes:
        name: what people call it.
        encoder: what names of the encoder begin with.
        head: what names of the tag scores begin with; None where the family has none.
        hidden_act: what its models run with where no `config.json` says so.
        mark: what some name begins with, besides.
        model_type: a key of `FAMILIES`.
    """

    name: str
    encoder: str
    head: str | None
    hidden_act: str
    mark: str = ""
    model_type: str = "bert"

    @property
    def family(self) -> Family:
        """The family of `model_type`."""
        return FAMILIES[self.model_type]


# The first that fits is taken.
MMOCR = Layout("MMOCR trained checkpoint", "encoder.bert.", "decoder.classifier.", "gelu_new")
TAGGER = Layout(
    "Hugging Face BertForTokenClassification", "bert.", "classifier.", "gelu", "classifier.weight"
)
PRETRAIN = Layout("Hugging Face BertForPreTraining", "bert.", None, "gelu_new", "cls.seq_relation")
MASKED = Layout(
    "Hugging Face BertForMaskedLM, or MMOCR pre-trained encoder",
    "bert.",
    None,
    "gelu_new",
    "cls.predictions.",
)
ENCODER_ONLY = Layout("Hugging Face BertModel", "", None, "gelu")
LAYOUTS = [
    MMOCR,
    TAGGER,
    PRETRAIN,
    MASKED,
    Layout("MMOCR pre-trained encoder", "bert.", None, "gelu_new"),
    Layout(f"{TAGGER.name}, without prefix", "", "classifier.", "gelu", "classifier.weight"),
    ENCODER_ONLY,
]
# Of each family a tagger, an encoder that guesses hidden tokens, and one without a head: what exports have.
HUGGING_FACE = {"bert": (TAGGER, MASKED, ENCODER_ONLY)}


def _add_layouts(model_type: str, family: Family) -> None:
    """Add the layouts of a family other than BERT, all with the same activation where nothing states it."""
    name, begin = f"Hugging Face {family.name}", family.encoder
    tagger = Layout(
        f"{name}ForTokenClassification", begin, TAGGER.head, "gelu", TAGGER.mark, model_type
    )
    masked = Layout(f"{name}ForMaskedLM", begin, None, "gelu", family.token_bias, model_type)
    other = Layout(f"{name}Model with another head", begin, None, "gelu", "", model_type)
    encoder = Layout(f"{name}Model", "", None, "gelu", "", model_type)
    HUGGING_FACE[model_type] = (tagger, masked, encoder)
    LAYOUTS.extend([tagger, masked, other, encoder])


for _type, _family in FAMILIES.items():
    if _type not in HUGGING_FACE:
        _add_layouts(_type, _family)

# Relatives of BERT: by `model_type` and by their tensors' names, and why they do not fit.
RELATIVES = [
    ("albert", r"^albert\.|albert_layer_groups", "ALBERT: its layers share one set of weights"),
    ("distilbert", r"^distilbert\.|transformer\.layer\.", "DistilBERT: it has no token types"),
    ("deberta", r"^deberta\.|rel_embeddings", "DeBERTa: its positions are relative"),
    ("deberta-v2", r"^deberta\.", "DeBERTa: its positions are relative"),
    ("nezha", r"^nezha\.", "NEZHA: its positions are relative"),
    ("roformer", r"^roformer\.|embed_positions", "RoFormer: its positions are rotary"),
    ("megatron-bert", r"encoder\.layer\.\d+\.attention\.ln\.", "Megatron-BERT: LayerNorm comes first"),
    ("mobilebert", r"^mobilebert\.|bottleneck", "MobileBERT: its layers have bottlenecks"),
    ("xlnet", r"^transformer\.mask_emb", "XLNet: it is another architecture"),
    ("modernbert", r"(^|\.)embeddings\.tok_embeddings", "ModernBERT: it is another architecture"),
    ("bert", r"distance_embedding", "BERT with relative positions"),
]  # fmt: skip
# Families that need their `config.json`: by their tensors' names.
WITH_CONFIG = [
    ("RoBERTa or XLM-RoBERTa", r"^roberta\.|^lm_head\."),
    ("ELECTRA", r"^electra\.|^discriminator_|^generator_|(^|\.)embeddings_project\."),
    ("ERNIE", r"^ernie\.|task_type_embeddings"),
]


def current_names(names: Iterable[str], path: str) -> dict[str, str]:
    """Each name as PyTorch models have it today, with the one in the file.

    LayerNorm's gamma and beta become weight and bias. The names of what wraps the model (`WRAPPER`) go.
    """
    names = list(names)
    words = (match for name in names if name.endswith(WORD) and (match := WRAPPER.match(name)))
    wrapper = min((match[0] for match in words), default="", key=len)
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


def recognise(names: Iterable[str], path: str, model_type: str | None = None) -> Layout:
    """The layout of a file, from the (current) names in it.

    Args:
        names: of its tensors.
        path: of the file, for messages.
        model_type: as its `config.json` states it, a key of `FAMILIES`. None: not stated, so it must be BERT.

    Raises:
        UserError: a relative of BERT, named with the reason, or nothing known.
    """
    names = set(names)
    refuse_relative(names, path)
    if model_type is None:
        _refuse_without_config(names, path)
    layouts = [layout for layout in LAYOUTS if layout.model_type == (model_type or "bert")]
    for layout in layouts:
        marked = any(name.startswith(layout.mark) for name in names)
        if layout.encoder + WORD in names and marked:
            return layout
    expected = ", ".join(dict.fromkeys(layout.encoder + WORD for layout in layouts))
    raise UserError(
        f"{path}: no known layout. Its tensors begin with {', '.join(sorted(names)[:3]) or 'nothing'}; "
        f"a model of model_type {model_type or 'bert'} has one of {expected}."
    )


def _refuse_without_config(names: Iterable[str], path: str) -> None:
    """Raise `UserError` for tensors of a family that is known by its `config.json` alone."""
    for family, pattern in WITH_CONFIG:
        found = sorted(name for name in names if re.search(pattern, name))
        if found:
            raise UserError(
                f"{path}: {found[0]} belongs to {family}, and no config.json states its model_type. Put the "
                "config.json of the weights beside them, or name it: --config of convert/torch_to_flax.py."
            )


def refuse_relative(names: Iterable[str], path: str) -> None:
    """Raise `UserError` for tensors of a model that is like BERT and is none."""
    for _, pattern, reason in RELATIVES:
        found = sorted(name for name in names if re.search(pattern, name))
        if found:
            raise UserError(
                f"{path}: {found[0]} belongs to {reason}. Only {SUPPORTED} can be converted, with a softmax "
                "head for tagging or without."
            )


def heads_of(names: Iterable[str], layout: Layout) -> tuple[list[str], list[str]]:
    """Return the (current) names outside the encoder: of the head that can be read, and of any other head."""
    head = layout.head or ""
    readable = {head + source for source, _, _ in HEAD} if head else set()
    known = {source for source, _, _ in layout.family.masked_lm}
    outside = [
        name
        for name in sorted(names)
        if not (name.startswith(layout.encoder) if layout.encoder else ENCODER_PART.match(name))
        and name not in known
        and not any(re.search(rule, name) for rule, _ in IGNORED)
    ]
    return (
        [name for name in outside if name in readable],
        [name for name in outside if name not in readable],
    )


def refuse_model_type(model_type: str, path: str) -> None:
    """Raise `UserError` for the `model_type` of a `config.json` that is not in `FAMILIES`."""
    if model_type not in FAMILIES:
        reasons = {name: reason for name, _, reason in RELATIVES}
        reason = reasons.get(model_type, "it is another architecture")
        raise UserError(
            f"{path}: model_type is {model_type!r} ({reason}). Only {SUPPORTED} can be converted."
        )


def read_shape(tensors: Mapping[str, np.ndarray], layout: Layout, path: str) -> dict[str, int]:
    """The fields of a `config.json` that the shapes tell (all but the number of heads).

    Args:
        tensors: by their current names.
    """

    def shape(name: str, rank: int = 2) -> tuple[int, ...]:
        if name not in tensors:
            raise UserError(f"{path}: lacks {name}; the file is incomplete.")
        if tensors[name].ndim != rank:
            raise UserError(f"{path}: {name} has the shape {list(tensors[name].shape)}.")
        return tensors[name].shape

    encoder = layout.encoder
    vocab_size, width = shape(encoder + WORD)
    layer = re.compile(re.escape(encoder) + r"encoder\.layer\.(\d+)\.")
    layers = {match[1] for name in tensors if (match := layer.match(name))}
    if layers != {str(i) for i in range(len(layers))}:
        raise UserError(
            f"{path}: has the layers {', '.join(sorted(layers)[:20])}, not 0, 1, 2, ...; it is incomplete."
        )
    inner, hidden_size = shape(encoder + "encoder.layer.0.intermediate.dense.weight")
    projected = layout.model_type == "electra"
    fields = {
        "vocab_size": vocab_size,
        "hidden_size": hidden_size if projected else width,
        "num_hidden_layers": len(layers),
        "intermediate_size": inner,
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


def plan(
    tensors: Mapping[str, np.ndarray],
    layout: Layout,
    abstract: Mapping[str, Any],
    ignored: Iterable[tuple[str, str]] = (),
) -> Report:
    """What becomes of every tensor, from names and shapes alone; nothing is read.

    Every source tensor is used, ignored by a named rule, or a fault; every target tensor is filled,
    left to be freshly initialised (the head, where the layout has none), or a fault.

    Args:
        tensors: the source's, by their current names.
        layout: as `recognise` found it.
        abstract: the parameters to fill, with shapes in place of arrays: `abstract_params`, and perhaps
            those of "masked_lm".
        ignored: rules besides `IGNORED`.
    """
    report = Report(layout.name)
    targets = flatten(abstract)
    left = dict(tensors)
    ruled = set()
    for name, target, slot in rules(layout, targets):
        ruled.add(target)
        tensor = left.pop(name, None)
        if tensor is None:
            report.faults.append(f"missing: {name}, for {target}")
            continue
        wanted = _torch_shape(targets[target].shape, target, slot)
        if tensor.shape != wanted:
            report.faults.append(
                f"misshapen: {name} is {list(tensor.shape)}, the model needs {list(wanted)}"
            )
        elif tensor.dtype.kind not in FLOATING:
            report.faults.append(
                f"unusable: {name} holds {tensor.dtype}, weights are floating point"
            )
        else:
            report.used.append(Used(name, target, slot, tensor.shape, tensor.dtype))
    for target in sorted(set(targets) - ruled):
        if target.startswith("head/") and layout.head is None:
            report.fresh.append((target, "no head for tagging is taken from the source"))
        else:
            report.faults.append(f"no rule fills {target}")
    for name in left:
        reason = next((why for rule, why in [*ignored, *IGNORED] if re.search(rule, name)), None)
        if reason is None:
            report.faults.append(f"unknown: {name} is not part of the model and no rule ignores it")
        else:
            report.ignored.append((name, reason))
    return report


def can_score_tokens(
    tensors: Mapping[str, np.ndarray], layout: Layout, head: Mapping[str, Any]
) -> bool:
    """Whether there is all that `head`, `MaskedLMHead` in shapes, needs."""
    targets = flatten(head)
    return all(
        name in tensors
        and tensors[name].shape == _torch_shape(targets[target].shape, target)
        and tensors[name].dtype.kind in FLOATING
        for name, target, _ in layout.family.masked_lm
    )


def fill(report: Report, tensors: Mapping[str, np.ndarray], abstract: Mapping[str, Any]) -> Any:
    """Parameters, float32, from the tensors as planned; those the report calls fresh are left out."""
    targets = flatten(abstract)
    filled = _allocate({used.target: targets[used.target].shape for used in report.used})

    def copy(used: Used) -> None:
        view = _torch_view(filled[used.target], used.target, used.slot)
        tensor = tensors[used.source]
        step = BLOCK if view.ndim == 2 else max(len(tensor), 1)
        with np.errstate(over="ignore"):  # it is an error below
            for row in range(0, len(tensor), step):
                view[row : row + step] = tensor[row : row + step]
        if tensor.dtype == np.float64 and not np.isfinite(view).all():
            raise UserError(f"{used.source}: holds numbers that are not finite as float32.")
        release(tensor)

    with ThreadPoolExecutor() as pool:  # NumPy copies without holding the interpreter
        list(pool.map(copy, report.used))
    return unflatten(filled)


def to_torch(params: Mapping[str, Any], layout: Layout) -> dict[str, np.ndarray]:
    """The tensors that PyTorch names and shapes so, as views of the parameters; `fill` backwards."""
    arrays = {target: np.asarray(array) for target, array in flatten(params).items()}
    return {
        name: _torch_view(arrays[target], target, slot)
        for name, target, slot in rules(layout, arrays)
    }


def rules(layout: Layout, targets: Iterable[str]) -> Iterator[Rule]:
    """Source name, target path and slot for every source tensor that a model with `targets` needs."""
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


def _torch_view(array: np.ndarray, target: str, slot: int | None) -> np.ndarray:
    """The part of a target that one source tensor fills, as PyTorch shapes it; a view."""
    if slot is not None:  # query, key and value share [D, 3, N, H] and [3, N, H]
        array = array[:, slot] if target.endswith("kernel") else array[slot]
    shape = _torch_shape(array.shape, target)
    return array.reshape(shape[::-1]).T if target.endswith("kernel") else array.reshape(shape)


def _torch_shape(shape: tuple[int, ...], target: str, slot: int | None = None) -> tuple[int, ...]:
    """The shape in which PyTorch keeps (a part of) a target."""
    if slot is not None:
        shape = shape[:1] + shape[2:] if target.endswith("kernel") else shape[1:]
    if target.endswith("out/kernel") and len(shape) == 3:  # [N, H, D]
        return (shape[2], shape[0] * shape[1])
    if target.endswith("kernel"):  # [D, outputs...]
        return (math.prod(shape[1:]), shape[0])
    if target.endswith("bias"):
        return (math.prod(shape),)
    return shape


def _allocate(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """Float32 arrays of these shapes, side by side in one piece of memory, not yet written to.

    Each begins at a multiple of 64 bytes, so that jax on a CPU takes it over without copying it. The
    memory is an anonymous map: NumPy's own comes in huge pages, which a virtual machine may have to
    fetch from its host, and that took longer than the whole copying.
    """
    lengths = [-(-math.prod(shape) // 16) * 16 for shape in shapes.values()]
    room = np.frombuffer(
        mmap.mmap(-1, 4 * max(sum(lengths), 1), access=mmap.ACCESS_COPY), np.float32
    )
    begins = [0, *accumulate(lengths)]
    return {
        target: room[begin : begin + math.prod(shape)].reshape(shape)
        for (target, shape), begin in zip(shapes.items(), begins, strict=False)
    }
