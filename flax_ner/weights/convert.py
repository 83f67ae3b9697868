"""Convert weights of PyTorch or Flax into a model with vocabulary and labels."""

import dataclasses
import math
import re
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np

from flax_ner.errors import UserError
from flax_ner.model.bert import BertConfig
from flax_ner.model.mlm_head import abstract_masked_lm_head
from flax_ner.model.tagging_model import Params, abstract_params
from flax_ner.text.labels import LabelSet
from flax_ner.text.vocab import map_tokens_to_ids
from flax_ner.weights.conversion_report import Report
from flax_ner.weights.head_labels import make_labels
from flax_ner.weights.layouts import (
    ENCODER_ONLY,
    MMOCR,
    WORD_EMBEDDINGS,
    Layout,
    detect_layout,
    refuse_model_type,
)
from flax_ner.weights.model_dir import ModelDir
from flax_ner.weights.names import (
    INCOMPLETE_LM_HEAD,
    SEQUENCE_HEAD,
    UNTIED_LM_HEAD,
    has_masked_lm_head,
    infer_shape,
    match_tensors,
    split_head_names,
)
from flax_ner.weights.source import Source
from flax_ner.weights.tensor_copy import fill

# Fields of a `config.json` that do not follow from tensor shapes.
CONFIG_ONLY_FIELDS: dict[str, type] = {
    "num_attention_heads": int,
    "hidden_act": str,
    "layer_norm_eps": float,
    "hidden_dropout_prob": float,
    "attention_probs_dropout_prob": float,
    "classifier_dropout": float,
    "initializer_range": float,
}
# Other names of supported activations in a `config.json`.
ACTIVATION_ALIASES = {"gelu_pytorch_tanh": "gelu_new", "gelu_python": "gelu"}
# Classes whose head for whole sentences has the same tensor name as a token classification head.
SEQUENCE_HEAD_CLASSES = ("ForSequenceClassification", "ForMultipleChoice")
# keep: fail if the head is unusable. try: drop it if unusable. drop: always drop it.
HeadPolicy = Literal["keep", "try", "drop"]
MAX_NAMED_TENSORS = 5  # of a head, in a message
DEFAULT_HEAD_DIM = 64  # head width of every BERT that Google released
# If at most this share of the embedding rows has no token, they are padding, e.g. to a multiple of 64. More
# means that the vocabulary belongs to another model.
MAX_SURPLUS_SHARE = 0.1


@dataclasses.dataclass
class ConversionPlan:
    """Result of planning a conversion; no tensor has been read yet."""

    config: BertConfig
    num_outputs: int | None  # of the head; None for an encoder without a head
    layout: Layout
    abstract: Params
    report: Report
    tensors: dict[str, np.ndarray]  # of the source, without surplus embedding rows


def convert(
    source: Source,
    labels: LabelSet | None = None,
    defaults: Mapping[str, Any] | None = None,
    head: HeadPolicy = "keep",
) -> tuple[ModelDir, Report]:
    """Convert weights to a model whose parameters are float32 NumPy arrays.

    Args:
        source: result of `open_source`.
        labels: labels of the head's outputs. None means those of `config.json`; without them, files of MMOCR
            get MMOCR's tags over the CLUENER categories.
        defaults: values for `CONFIG_ONLY_FIELDS` that `config.json` does not state.
        head: `keep` raises if the head is unknown or its outputs have no known labels. `try` drops such a head
            and adds a note. `drop` drops any head.

    Returns:
        The model, and the conversion report.

    Raises:
        UserError: a file is wrong or missing. Errors in tensors are reported together.
    """
    plan = plan_conversion(source, defaults, head)
    if plan.report.errors:
        errors = "\n  ".join(plan.report.errors)
        raise UserError(f"{source.path}: cannot be converted ({plan.layout.name}):\n  {errors}")
    vocab = check_vocab(source, plan)
    try:
        labels = make_labels(source, plan.num_outputs, plan.layout, labels)
    except UserError as error:
        if head != "try":
            raise
        labels = None
        plan.report.notes.append(f"The head is dropped. {error}")
    params = fill(plan.report, plan.tensors, plan.abstract)
    if labels is None:
        params.pop("head", None)
    positions = plan.config.max_position_embeddings
    max_length = min(source.max_length or positions, positions)
    # MMOCR always reads one token per character, whatever tokenizer files are beside its weights.
    mmocr = plan.layout.encoder == MMOCR.encoder
    kind, definition = ("char", "") if mmocr else (source.kind, source.definition)
    model = ModelDir(
        plan.config, labels, vocab, max_length, params, source.lower_case, kind, definition
    )
    return model, plan.report


def plan_conversion(
    source: Source, defaults: Mapping[str, Any] | None = None, head: HeadPolicy = "keep"
) -> ConversionPlan:
    """Plan a conversion from tensor names, shapes and `config.json`, without reading tensors.

    Args:
        source, defaults, head: see `convert`.

    Returns:
        The plan. Errors in single tensors are in its report.

    Raises:
        UserError: the model is not supported, or too much is missing to plan further.
    """
    stated, where = source.config or {}, str(source.config_path)
    _refuse_other_models(stated, where)
    layout = detect_layout(source.tensors, source.path, stated.get("model_type") or None)
    architectures = stated.get("architectures")
    architectures = architectures if isinstance(architectures, list) else []
    ignored = []
    if any(str(name).endswith(SEQUENCE_HEAD_CLASSES) for name in architectures):
        layout = dataclasses.replace(layout, name=f"Hugging Face {architectures[0]}", head=None)
        ignored = [SEQUENCE_HEAD]
    layout, unknown = _drop_unusable_head(source, layout, ignored, head)
    shape = infer_shape(source.tensors, layout, source.path)
    for name, value in shape.items():
        if name != "num_labels" and stated.get(name, value) != value:
            raise UserError(
                f"{where}: {name} is {stated[name]}, but it is {value} in the tensors of {source.path}. Use "
                "the config.json that was saved with these weights."
            )
    num_outputs = shape.pop("num_labels", None)
    family_fields = _family_fields(shape, layout, stated, where, source.path, ignored)
    tensors, surplus = _without_surplus_rows(source, layout, shape)
    known = {**(defaults or {}), **_read_config_only_fields(stated, where)}
    notes = _fill_defaults(known, shape["hidden_size"], layout, source)
    if surplus:
        notes.append(
            f"Vocabulary: {surplus} surplus embedding rows ignored ({shape['vocab_size']} tokens, "
            f"{shape['vocab_size'] + surplus} rows)."
        )
    if source.tokenizer_differences:
        notes.append(
            f"Tokenizer: the original {source.tokenizer_differences}, which is not supported. Such text is "
            "tokenized differently than in training."
        )
    try:
        fields: dict[str, Any] = {**shape, **family_fields, **known, "num_labels": num_outputs or 1}
        config = BertConfig(**fields)
    except UserError as error:
        raise UserError(f"{where if stated else source.path}: {error}") from None
    abstract = abstract_params(config)
    if layout.head is None:
        masked_lm = abstract_masked_lm_head(config)
        if stated.get("tie_word_embeddings") is False:
            ignored.append(UNTIED_LM_HEAD)
        elif has_masked_lm_head(tensors, layout, masked_lm):
            abstract["masked_lm"] = masked_lm
        else:
            ignored.append(INCOMPLETE_LM_HEAD)
    report = match_tensors(tensors, layout, abstract, ignored)
    report.notes = notes
    if unknown and head == "keep":
        report.errors.append(
            f"unknown head: {unknown}. Only a single linear layer named classifier is supported. To convert "
            "only the encoder, use convert/torch_to_flax.py --drop-head."
        )
    elif unknown and head == "try":
        notes.append(f"The head is dropped, because it is unknown: {unknown}.")
    return ConversionPlan(config, num_outputs, layout, abstract, report, tensors)


def _drop_unusable_head(
    source: Source, layout: Layout, ignored: list[tuple[str, str]], head: HeadPolicy
) -> tuple[Layout, str]:
    """Drop a head that is unknown (for example a CRF) or not wanted.

    Args:
        source: the weights to convert.
        layout: result of `detect_layout`.
        ignored: a rule is added for each tensor of a dropped head.
        head: see `convert`.

    Returns:
        The layout, and the names of an unknown head's tensors for messages; "" if the head is known.
    """
    readable, others = split_head_names(source.tensors, layout)
    others = [n for n in others if not any(re.search(rule, n) for rule, _ in ignored)]
    if not others and (head != "drop" or layout.head is None):
        return layout, ""
    ignored += [(f"^{re.escape(name)}$", "head: dropped") for name in (*readable, *others)]
    shown = ", ".join(others[:MAX_NAMED_TENSORS])
    if len(others) > MAX_NAMED_TENSORS:
        shown += f" and {len(others) - MAX_NAMED_TENSORS} more"
    name = layout.name if head == "keep" else f"{layout.name}, without the head"
    return dataclasses.replace(layout, name=name, head=None), shown


def _family_fields(
    shape: dict[str, int],
    layout: Layout,
    stated: dict[str, Any],
    where: str,
    path: str,
    ignored: list[tuple[str, str]],
) -> dict[str, Any]:
    """Return the fields of `BertConfig` in which families differ.

    Args:
        shape: result of `infer_shape`; converted in place from Hugging Face's definition to that of
            `BertConfig`, e.g. positions without the offset.
        layout: layout of the source.
        stated: its `config.json`.
        where: path of that `config.json`.
        path: path of the source.
        ignored: a rule is added for tensors that the model does not use.
    """
    fields: dict[str, Any] = {"model_type": layout.model_type}
    if layout.family.offset_positions:
        pad = stated.get("pad_token_id", 1)
        rows = shape["max_position_embeddings"]
        if type(pad) is not int or not 0 <= pad < rows - 1:
            raise UserError(
                f"{where}: pad_token_id is {pad!r}. Positions are counted from it, so it must be an integer "
                f"from 0 to {rows - 2}. Published models have 1."
            )
        fields["position_offset"] = pad + 1
        shape["max_position_embeddings"] -= pad + 1
    elif not stated.get("model_type") and layout is ENCODER_ONLY and shape["type_vocab_size"] == 1:
        raise UserError(
            f"{path}: has one token type, like RoBERTa, but no config.json states the model_type. Put the "
            "config.json beside the weights, or pass it to convert/torch_to_flax.py with --config."
        )
    if shape.get("embedding_size") == shape["hidden_size"]:
        shape["embedding_size"] = 0
    if layout.model_type == "ernie":
        has, uses = "task_type_vocab_size" in shape, bool(stated.get("use_task_id"))
        if uses and not has:
            raise UserError(
                f"{where}: use_task_id is true, but {path} has no task-type embeddings. Set it to false, or "
                "use weights that have them."
            )
        if has and not uses:
            del shape["task_type_vocab_size"]
            ignored.append((r"task_type_embeddings", "config.json does not set use_task_id"))
    return fields


def _without_surplus_rows(
    source: Source, layout: Layout, shape: dict[str, int]
) -> tuple[dict[str, np.ndarray], int]:
    """Drop embedding rows without a token, which pad an embedding to a round size.

    Args:
        source: the weights, and their vocabulary if there is one.
        layout: layout of the source.
        shape: result of `infer_shape`; `vocab_size` is set to the number of tokens.

    Returns:
        The tensors as views, and the number of dropped rows.
    """
    rows = shape["vocab_size"]
    surplus = rows - len(source.vocab) if source.vocab is not None else 0
    if not 0 < surplus <= rows * MAX_SURPLUS_SHARE:
        return source.tensors, 0
    shape["vocab_size"] = count = rows - surplus
    trimmed = {
        name: tensor[:count]
        for name, tensor in source.tensors.items()
        if name in (layout.encoder + WORD_EMBEDDINGS, layout.family.token_bias)
        and tensor.shape[:1] == (rows,)
    }
    return source.tensors | trimmed, surplus


def _fill_defaults(known: dict[str, Any], width: int, layout: Layout, source: Source) -> list[str]:
    """Add defaults to `known` for fields that `config.json` lacks, and return a note for each."""
    path, notes = source.path, []
    why = "no config.json" if source.config is None else "config.json does not say"
    if "num_attention_heads" not in known:
        heads, remainder = divmod(width, DEFAULT_HEAD_DIM)
        if remainder:
            raise UserError(
                f"{path}: hidden size {width} is not a multiple of {DEFAULT_HEAD_DIM}, so the number of "
                "attention heads is unknown. State num_attention_heads in a config.json, "
                "model.num_attention_heads in a training configuration, or --num-attention-heads of "
                "convert/torch_to_flax.py."
            )
        known["num_attention_heads"] = heads
        notes.append(
            f"Attention heads: {heads}, for the usual head width of {DEFAULT_HEAD_DIM} ({why})."
        )
    if "hidden_act" not in known:
        hugging_face = "model_type" in (source.config or {})
        act = "gelu" if hugging_face else layout.hidden_act
        known["hidden_act"] = act
        family = "MMOCR" if act == "gelu_new" else "Hugging Face"
        notes.append(f"Activation: {act}, as in {family} ({why}).")
    if "layer_norm_eps" not in known:
        known["layer_norm_eps"] = BertConfig.layer_norm_eps
        notes.append(f"LayerNorm eps: {BertConfig.layer_norm_eps}, as in BERT ({why}).")
    if "hidden_dropout_prob" in known:
        known.setdefault("classifier_dropout", known["hidden_dropout_prob"])
    return notes


def _refuse_other_models(stated: dict[str, Any], where: str) -> None:
    """Raise `UserError` if a `config.json` describes something else than a supported encoder."""
    refuse_model_type(str(stated.get("model_type") or "bert"), where)
    required = {
        "position_embedding_type": "absolute",
        "is_decoder": False,
        "add_cross_attention": False,
    }
    for name, value in required.items():
        if (stated.get(name) or value) != value:
            raise UserError(
                f"{where}: {name} is {stated[name]!r}. Only encoders with {name} {value!r} can be converted."
            )


def _read_config_only_fields(stated: dict[str, Any], where: str) -> dict[str, Any]:
    """Return the `CONFIG_ONLY_FIELDS` that a `config.json` states."""
    known: dict[str, Any] = {}
    for name, kind in CONFIG_ONLY_FIELDS.items():
        value = stated.get(name)
        if value is None:
            continue
        if kind is float and type(value) is int:
            value = float(value)
        if type(value) is not kind or value in (math.inf, -math.inf) or value != value:
            raise UserError(f"{where}: {name} is {value!r}, expected {kind.__name__}. Correct it.")
        known[name] = value
    if "hidden_act" in known:
        known["hidden_act"] = ACTIVATION_ALIASES.get(known["hidden_act"], known["hidden_act"])
    return known


def check_vocab(source: Source, plan: ConversionPlan) -> list[str]:
    """Check the source's vocabulary, and return its tokens in the order of their ids.

    Raises:
        UserError: there is no vocabulary, its size does not fit the embedding, or special tokens are missing.
    """
    size = plan.config.vocab_size
    if source.vocab is None:
        raise UserError(
            f"{source.path}: there is no vocab.txt or tokenizer.json beside it. Put one there, or pass it with "
            "--vocab (convert/torch_to_flax.py) or tokenizer.vocab (training). To create a tokenizer.json from "
            "a sentencepiece.bpe.model, use transformers (pip install transformers sentencepiece protobuf): "
            "AutoTokenizer.from_pretrained(MODEL).save_pretrained(FOLDER)."
        )
    count = len(source.vocab)
    if count != size:
        mismatch = (
            f"{source.vocab_path}: {count} tokens, but {source.path} has embeddings for {size}."
        )
        if count > size:
            raise UserError(
                f"{mismatch} If it belongs to other weights, use the vocabulary that was saved with these. If "
                f"tokens were appended after training, delete the last {count - size}."
            )
        raise UserError(
            f"{mismatch} More than {MAX_SURPLUS_SHARE:.0%} of the rows would be unused, so it probably belongs "
            "to other weights: use the vocabulary that was saved with these. If the embedding is padded, "
            f"append unused tokens until there are {size}: [padding1], [padding2], ..."
        )
    if source.kind != "subword":
        map_tokens_to_ids(source.vocab, str(source.vocab_path))
    return source.vocab
