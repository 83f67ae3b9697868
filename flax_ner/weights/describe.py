"""What a file, folder or repository of weights holds and would become, without reading the weights."""

import math
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flax_ner.durable import current
from flax_ner.errors import UserError
from flax_ner.model.bert import BertConfig
from flax_ner.text.labels import SpanLabels
from flax_ner.text.subword import SubwordTokenizer
from flax_ner.weights.convert import is_ours, make_labels, make_plan, make_vocab
from flax_ner.weights.hub import resolve
from flax_ner.weights.model_dir import REMAKE, check_files, read_card, stored_shapes
from flax_ner.weights.names import flatten
from flax_ner.weights.report import table
from flax_ner.weights.source import Source, open_source


def describe(path: str | Path, field: str) -> tuple[str, list[str]]:
    """Describe weights.

    Args:
        path: a model directory, a file or folder of PyTorch weights, or a repository on the hub.
        field: what the user calls `path`, for messages.

    Returns:
        The description, and what stands in the way of using it as a model.

    Raises:
        UserError: there is nothing to describe.
    """
    found = resolve(path, field)
    if is_ours(found):
        return _describe_model_dir(found), []
    source = open_source(found)
    lines = [source.path, f"Tensors: {_count(source.tensors)}", _companions(source)]
    try:
        planned = make_plan(source)
    except UserError as error:
        return "\n".join([*lines, *_tensor_table(source.tensors)]), [str(error)]
    lines += [_model_line(planned.config, planned.outputs), str(planned.report)]
    faults = [f"{source.path}: {fault}" for fault in planned.report.faults]
    try:
        make_vocab(source, planned)
        if source.kind == SubwordTokenizer.kind:
            SubwordTokenizer(source.definition, str(source.vocab_path))
    except UserError as error:
        faults.append(str(error))
    try:
        labels = make_labels(source, planned, None)
        if labels is not None:
            lines.append(f"Labels: {', '.join(labels.names)}.")
    except UserError as error:
        faults.append(str(error))
    return "\n".join(lines), faults


def _describe_model_dir(path: Path) -> str:
    card, files = read_card(path), current(path)
    check_files(files)
    arrays = flatten(stored_shapes(files / "params"))
    if not arrays:
        raise UserError(f"{path}: its params are missing or damaged. {REMAKE}")
    labels = "no head"
    if card.labels is not None:
        kind = "spans" if isinstance(card.labels, SpanLabels) else f"{card.labels.scheme} tags"
        labels = f"{kind} of {len(card.labels.categories)}"
    if card.labels is not None and card.config.head != "softmax":
        labels += f", {card.config.head}"
    if card.config.ensemble > 1:
        labels += f", an ensemble of {card.config.ensemble} models"
    return "\n".join(
        [
            f"{path}: a model directory",
            f"Parameters: {_count(arrays)}",
            _model_line(card.config, len(card.labels) if card.labels else None),
            f"Labels: {labels}. Vocabulary: {len(card.vocab)} tokens, "
            f"{'' if card.lower_case else 'not '}lower-cased, {card.tokenizer}. "
            f"Rows of {card.max_length} tokens.",
            *_tensor_table(arrays),
        ]
    )


def _model_line(config: BertConfig, outputs: int | None) -> str:
    return (
        f"Model: {config.model_type}, {config.num_hidden_layers} layers of width {config.hidden_size}, "
        f"{config.num_attention_heads} heads, MLP {config.intermediate_size} {config.hidden_act}, "
        f"{config.max_position_embeddings} positions, vocabulary of {config.vocab_size}, "
        + (f"{outputs} outputs." if outputs else "no head for tagging.")
    )


def _companions(source: Source) -> str:
    vocab = "none" if source.vocab is None else f"{source.vocab_path}, {len(source.vocab)} tokens"
    case = "lower-cased" if source.lower_case else "not lower-cased"
    cut = {
        "char": "read one token a character",
        "wordpiece": "cut into WordPieces",
        "subword": "cut as its tokenizer.json says",
    }[source.kind]
    return f"Configuration: {source.config_path or 'none'}. Vocabulary: {vocab}; text is {case} and {cut}."


def _count(arrays: Mapping[str, Any]) -> str:
    numbers: Counter[str] = Counter()
    for array in arrays.values():
        numbers[str(array.dtype)] += math.prod(array.shape)
    kinds = ", ".join(f"{count:,} {dtype}" for dtype, count in numbers.most_common())
    return f"{len(arrays)} with {kinds or 'nothing'}"


def _tensor_table(arrays: Mapping[str, Any]) -> list[str]:
    return table((name, f"{array.dtype} {list(array.shape)}") for name, array in arrays.items())
