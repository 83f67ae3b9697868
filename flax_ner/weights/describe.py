"""Describe a weights file without loading its tensors."""

import math
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jax import ShapeDtypeStruct

from flax_ner.durable import current_version
from flax_ner.errors import UserError
from flax_ner.model.bert import BertConfig
from flax_ner.text.labels import SpanLabels
from flax_ner.text.subword import SubwordTokenizer
from flax_ner.weights.conversion_report import table
from flax_ner.weights.convert import check_vocab, plan_conversion
from flax_ner.weights.head_labels import make_labels
from flax_ner.weights.hub import resolve
from flax_ner.weights.model_dir import RESTORE_HINT, check_files, read_metadata
from flax_ner.weights.open_model import is_native
from flax_ner.weights.params_reader import READ_ERRORS, stored_arrays
from flax_ner.weights.source import Source, open_source


def describe(path: str | Path, field: str) -> tuple[str, list[str]]:
    """Describe what weights hold and what model they convert to.

    Args:
        path: a model directory, a file or folder of PyTorch weights, or a repository on the hub.
        field: option or argument that holds `path`, for messages.

    Returns:
        The description, and the problems that prevent using the weights as a model.

    Raises:
        UserError: the file cannot be read.
    """
    local = resolve(path, field)
    if is_native(local):
        return _describe_model_dir(local), []
    source = open_source(local)
    lines = [source.path, f"Tensors: {_count_numbers(source.tensors)}", _files_line(source)]
    try:
        plan = plan_conversion(source)
    except UserError as error:
        return "\n".join([*lines, *_tensor_table(source.tensors)]), [str(error)]
    lines += [_model_line(plan.config, plan.num_outputs), str(plan.report)]
    problems = [f"{source.path}: {problem}" for problem in plan.report.errors]
    try:
        check_vocab(source, plan)
        if source.kind == SubwordTokenizer.kind:
            SubwordTokenizer(source.definition, str(source.vocab_path))
    except UserError as error:
        problems.append(str(error))
    try:
        labels = make_labels(source, plan.num_outputs, plan.layout, None)
        if labels is not None:
            lines.append(f"Labels: {', '.join(labels.names)}.")
    except UserError as error:
        problems.append(str(error))
    return "\n".join(lines), problems


def _describe_model_dir(path: Path) -> str:
    metadata, files = read_metadata(path), current_version(path)
    check_files(files)
    try:
        stored = stored_arrays(files / "params")
    except READ_ERRORS:
        raise UserError(f"{path}: params/ is missing or damaged. {RESTORE_HINT}") from None
    arrays = {
        name.replace(".", "/"): ShapeDtypeStruct(array.shape, array.dtype.numpy_dtype)
        for name, array in stored.items()
    }
    labels = "no head"
    if metadata.labels is not None:
        kind = f"{metadata.labels.scheme} tags"
        if isinstance(metadata.labels, SpanLabels):
            kind = "spans, also nested ones," if metadata.labels.nested else "spans"
        labels = f"{kind} of {len(metadata.labels.categories)}"
    if metadata.labels is not None and metadata.config.head != "softmax":
        labels += f", {metadata.config.head}"
    if metadata.config.ensemble > 1:
        labels += f", an ensemble of {metadata.config.ensemble} models"
    return "\n".join(
        [
            f"{path}: a model directory",
            f"Parameters: {_count_numbers(arrays)}",
            _model_line(metadata.config, len(metadata.labels) if metadata.labels else None),
            f"Labels: {labels}. Vocabulary: {len(metadata.vocab)} tokens, "
            f"{'' if metadata.lower_case else 'not '}lower-cased, {metadata.tokenizer}. "
            f"Rows of {metadata.max_length} tokens.",
            *_tensor_table(arrays),
        ]
    )


def _model_line(config: BertConfig, num_outputs: int | None) -> str:
    return (
        f"Model: {config.model_type}, {config.num_hidden_layers} layers of width {config.hidden_size}, "
        f"{config.num_attention_heads} heads, MLP {config.intermediate_size} {config.hidden_act}, "
        f"{config.max_position_embeddings} positions, vocabulary of {config.vocab_size}, "
        + (f"{num_outputs} outputs." if num_outputs else "no head for tagging.")
    )


def _files_line(source: Source) -> str:
    vocab = "none" if source.vocab is None else f"{source.vocab_path}, {len(source.vocab)} tokens"
    case = "lower-cased" if source.lower_case else "not lower-cased"
    tokenization = {
        "char": "split into characters",
        "wordpiece": "split into WordPieces",
        "subword": "split by its tokenizer.json",
    }[source.kind]
    return (
        f"Configuration: {source.config_path or 'none'}. Vocabulary: {vocab}; text is {case} and "
        f"{tokenization}."
    )


def _count_numbers(arrays: Mapping[str, Any]) -> str:
    numbers: Counter[str] = Counter()
    for array in arrays.values():
        numbers[str(array.dtype)] += math.prod(array.shape)
    counts = ", ".join(f"{count:,} {dtype}" for dtype, count in numbers.most_common())
    return f"{len(arrays)} with {counts or 'nothing'}"


def _tensor_table(arrays: Mapping[str, Any]) -> list[str]:
    return table((name, f"{array.dtype} {list(array.shape)}") for name, array in arrays.items())
