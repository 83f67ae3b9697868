"""PyTorch weights to a model, with vocabulary and labels."""

import dataclasses
import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np

from flax_ner.errors import UserError
from flax_ner.model.bert import BertConfig
from flax_ner.model.masked_lm import abstract_masked_lm_head
from flax_ner.model.tagger import Params, abstract_params
from flax_ner.text.labels import LabelSet
from flax_ner.text.utf8 import read_text
from flax_ner.text.vocab import token_ids
from flax_ner.weights.hub import resolve
from flax_ner.weights.model_dir import ModelDir, is_model_dir, load_model
from flax_ner.weights.names import (
    ENCODER_ONLY,
    MMOCR,
    NO_TAGGER,
    NOT_WHOLE,
    UNTIED,
    WORD,
    Layout,
    can_score_tokens,
    fill,
    heads_of,
    plan,
    read_shape,
    recognise,
    refuse_model_type,
)
from flax_ner.weights.report import Report
from flax_ner.weights.source import SUFFIXES, Source, holds_weights, open_source

# What the tensors cannot tell, as a `config.json` names it.
UNTOLD: dict[str, type] = {
    "num_attention_heads": int,
    "hidden_act": str,
    "layer_norm_eps": float,
    "hidden_dropout_prob": float,
    "attention_probs_dropout_prob": float,
    "classifier_dropout": float,
    "initializer_range": float,
}
# Other names of the two activations.
ACTIVATIONS = {"gelu_pytorch_tanh": "gelu_new", "gelu_python": "gelu"}
# Heads that score whole sentences, by a tensor that a tagger's head has too.
SENTENCE_HEADS = ("ForSequenceClassification", "ForMultipleChoice")
# What becomes of a tagger's head: it must be usable; it is left out if it is not; it is left out.
Head = Literal["keep", "try", "drop"]
MOST_NAMED = 5  # tensors of a head that a message names
HEAD_DIM = 64  # the width of a head in every BERT that Google released
# Largest share of embedding rows without a token. Padding the embedding to a multiple of 64 or 128
# adds less; a vocabulary that leaves more rows unused belongs to another model.
MOST_SURPLUS = 0.1
CLUENER = (
    "address", "book", "company", "game", "government",
    "movie", "name", "organization", "position", "scene",
)  # fmt: skip


@dataclasses.dataclass
class Plan:
    """What a source would become; no tensor has been read yet."""

    config: BertConfig
    outputs: int | None  # of its head; None: an encoder
    layout: Layout
    abstract: Params
    report: Report
    tensors: dict[str, np.ndarray]  # the source's, without surplus embedding rows


def open_model(
    path: str | Path,
    field: str,
    vocab: str = "",
    defaults: Mapping[str, Any] | None = None,
    head: Head = "keep",
) -> tuple[ModelDir, Report | None]:
    """A model from wherever it is: a model directory, PyTorch weights, or either in a hub's repository.

    Args:
        path: directory, file, or repository id `owner/name[@revision]`.
        field: what the user calls `path`, for messages.
        vocab: for PyTorch weights, as in `open_source`.
        defaults, head: likewise, as in `convert`.

    Returns:
        The model, and of PyTorch weights the report of their conversion.
    """
    found = resolve(path, field)
    if is_ours(found):
        return load_model(found), None
    return convert(open_source(found, vocab or None), None, defaults, head)


def is_ours(path: Path) -> bool:
    """Whether to read a path as a model directory; a folder without any weights too, to say what it lacks."""
    return is_model_dir(path) or (path.is_dir() and not holds_weights(path))


def is_model(path: Path) -> bool:
    """Whether a path looks like a model: a model directory, or weights in a file or folder."""
    if path.is_dir():
        return is_model_dir(path) or holds_weights(path)
    return path.is_file() and path.suffix in SUFFIXES


def convert(
    source: Source,
    labels: LabelSet | None = None,
    defaults: Mapping[str, Any] | None = None,
    head: Head = "keep",
) -> tuple[ModelDir, Report]:
    """Convert weights; parameters come as NumPy arrays, float32.

    Args:
        source: as `open_source` gives it.
        labels: of its head. None: as its `config.json` names them, for MMOCR's files else its tags
            over the CLUENER categories.
        defaults: fields of `UNTOLD`, for where no `config.json` tells them.
        head: what becomes of it. `try` leaves it out, and notes that, if it is unknown or its outputs have no
            known meaning; `drop` leaves out any.

    Raises:
        UserError: what is wrong with which file; for tensors, all faults together.
    """
    planned = make_plan(source, defaults, head)
    if planned.report.faults:
        faults = "\n  ".join(planned.report.faults)
        raise UserError(f"{source.path}: cannot be converted ({planned.layout.name}):\n  {faults}")
    vocab = make_vocab(source, planned)
    try:
        labels = make_labels(source, planned, labels)
    except UserError as error:
        if head != "try":
            raise
        labels = None
        planned.report.notes.append(f"Its head is left out. {error}")
    params = fill(planned.report, planned.tensors, planned.abstract)
    if labels is None:
        params.pop("head", None)
    longest = planned.config.max_position_embeddings
    max_length = min(source.max_length or longest, longest)
    # MMOCR's files are of one token a character, whatever has been put beside them.
    mmocr = planned.layout.encoder == MMOCR.encoder
    kind, definition = ("char", "") if mmocr else (source.kind, source.definition)
    model = ModelDir(
        planned.config, labels, vocab, max_length, params, source.lower_case, kind, definition
    )
    return model, planned.report


def make_plan(
    source: Source, defaults: Mapping[str, Any] | None = None, head: Head = "keep"
) -> Plan:
    """What a source would become, from names, shapes and its `config.json` alone; faults are in the report.

    Args:
        source, defaults, head: as of `convert`.

    Raises:
        UserError: it is no BERT, or too much is missing to say more.
    """
    stated, where = source.config or {}, str(source.config_path)
    _refuse_other_models(stated, where)
    layout = recognise(source.tensors, source.path, stated.get("model_type") or None)
    architectures = stated.get("architectures")
    architectures = architectures if isinstance(architectures, list) else []
    ignored = []
    if any(str(name).endswith(SENTENCE_HEADS) for name in architectures):
        layout = dataclasses.replace(layout, name=f"Hugging Face {architectures[0]}", head=None)
        ignored = [NO_TAGGER]
    layout, unknown = _without_head(source, layout, ignored, head)
    shape = read_shape(source.tensors, layout, source.path)
    for name, value in shape.items():
        if name != "num_labels" and stated.get(name, value) != value:
            raise UserError(
                f"{where}: {name} is {stated[name]}, but the tensors of {source.path} say {value}."
            )
    outputs = shape.pop("num_labels", None)
    own = _fields_of_family(shape, layout, stated, where, source.path, ignored)
    tensors, surplus = _without_surplus_rows(source, layout, shape)
    known = {**(defaults or {}), **_untold(stated, where)}
    notes = _assume(known, shape["hidden_size"], layout, source)
    if surplus:
        notes.append(
            f"Vocabulary: {surplus} surplus embedding rows ignored ({shape['vocab_size']} tokens, "
            f"{shape['vocab_size'] + surplus} rows)."
        )
    if source.odd:
        notes.append(
            f"Tokenizer: its own {source.odd}, which this one does not: such text is read otherwise than in "
            "its training."
        )
    try:
        fields: dict[str, Any] = {**shape, **own, **known, "num_labels": outputs or 1}
        config = BertConfig(**fields)
    except UserError as error:
        raise UserError(f"{where if stated else source.path}: {error}") from None
    abstract = abstract_params(config)
    if layout.head is None:
        masked_lm = abstract_masked_lm_head(config)
        if stated.get("tie_word_embeddings") is False:
            ignored.append(UNTIED)
        elif can_score_tokens(tensors, layout, masked_lm):
            abstract["masked_lm"] = masked_lm
        else:
            ignored.append(NOT_WHOLE)
    report = plan(tensors, layout, abstract, ignored)
    report.notes = notes
    if unknown and head == "keep":
        report.faults.append(
            f"unknown head: {unknown}. Only one linear layer, called classifier, can be read. "
            "convert/torch_to_flax.py --drop-head takes the encoder alone."
        )
    elif unknown and head == "try":
        notes.append(f"Its head is left out, because it is unknown: {unknown}.")
    return Plan(config, outputs, layout, abstract, report, tensors)


def _without_head(
    source: Source, layout: Layout, ignored: list[tuple[str, str]], head: Head
) -> tuple[Layout, str]:
    """Leave out a head that is unknown, as one with a CRF, or that is not wanted.

    Args:
        source: with its tensors.
        layout: as `recognise` found it.
        ignored: takes a rule for each of the head's tensors.
        head: as of `convert`.

    Returns:
        The layout, and what to call an unknown head; "" without one.
    """
    readable, others = heads_of(source.tensors, layout)
    others = [n for n in others if not any(re.search(rule, n) for rule, _ in ignored)]
    if not others and (head != "drop" or layout.head is None):
        return layout, ""
    ignored += [(f"^{re.escape(name)}$", "head: left out") for name in (*readable, *others)]
    shown = ", ".join(others[:MOST_NAMED])
    if len(others) > MOST_NAMED:
        shown += f" and {len(others) - MOST_NAMED} more"
    name = layout.name if head == "keep" else f"{layout.name}, without its head"
    return dataclasses.replace(layout, name=name, head=None), shown


def _fields_of_family(
    shape: dict[str, int],
    layout: Layout,
    stated: dict[str, Any],
    where: str,
    path: str,
    ignored: list[tuple[str, str]],
) -> dict[str, Any]:
    """Return the fields of `BertConfig` in which families differ.

    Args:
        shape: as `read_shape` returns it; becomes what `BertConfig` means by these fields.
        layout: of the source.
        stated: its `config.json`.
        where: the path of that.
        path: of the source.
        ignored: takes a rule for tensors that the model does not use.
    """
    own: dict[str, Any] = {"model_type": layout.model_type}
    if layout.family.offset_positions:
        pad = stated.get("pad_token_id", 1)
        longest = shape["max_position_embeddings"]
        if type(pad) is not int or not 0 <= pad < longest - 1:
            raise UserError(
                f"{where}: pad_token_id is {pad!r}. Positions are counted from it, so it must be a number "
                f"below {longest - 1}; in published models it is 1."
            )
        own["position_offset"] = pad + 1
        shape["max_position_embeddings"] -= pad + 1
    elif not stated.get("model_type") and layout is ENCODER_ONLY and shape["type_vocab_size"] == 1:
        raise UserError(
            f"{path}: has one token type, as RoBERTa has, and no config.json states its model_type. Put the "
            "config.json of the weights beside them, or name it: --config of convert/torch_to_flax.py."
        )
    if shape.get("embedding_size") == shape["hidden_size"]:
        shape["embedding_size"] = 0
    if layout.model_type == "ernie":
        has, uses = "task_type_vocab_size" in shape, bool(stated.get("use_task_id"))
        if uses and not has:
            raise UserError(f"{where}: use_task_id is true, but {path} has no task types.")
        if has and not uses:
            del shape["task_type_vocab_size"]
            ignored.append((r"task_type_embeddings", "config.json does not set use_task_id"))
    return own


def _without_surplus_rows(
    source: Source, layout: Layout, shape: dict[str, int]
) -> tuple[dict[str, np.ndarray], int]:
    """Drop the embedding rows that no token uses, as a padded embedding has them.

    Args:
        source: with its vocabulary, if it has one.
        layout: of the source.
        shape: `vocab_size` becomes the number of tokens.

    Returns:
        The tensors as views, and the number of rows that were dropped.
    """
    rows = shape["vocab_size"]
    surplus = rows - len(source.vocab) if source.vocab is not None else 0
    if not 0 < surplus <= rows * MOST_SURPLUS:
        return source.tensors, 0
    shape["vocab_size"] = count = rows - surplus
    cut = {
        name: tensor[:count]
        for name, tensor in source.tensors.items()
        if name in (layout.encoder + WORD, layout.family.token_bias) and tensor.shape[:1] == (rows,)
    }
    return source.tensors | cut, surplus


def _assume(known: dict[str, Any], width: int, layout: Layout, source: Source) -> list[str]:
    """Complete what a `config.json` would have told; what was assumed, for the report."""
    path, notes = source.path, []
    why = "no config.json" if source.config is None else "config.json does not say"
    if "num_attention_heads" not in known:
        heads, left = divmod(width, HEAD_DIM)
        if left:
            raise UserError(
                f"{path}: its width {width} does not divide by {HEAD_DIM}, so the number of heads must be "
                "told: by a config.json with num_attention_heads, model.num_attention_heads of a training "
                "configuration, or --num-attention-heads of convert/torch_to_flax.py."
            )
        known["num_attention_heads"] = heads
        notes.append(
            f"Attention heads: {heads}, by the convention of {HEAD_DIM} wide heads ({why})."
        )
    if "hidden_act" not in known:
        theirs = "model_type" in (source.config or {})
        act = "gelu" if theirs else layout.hidden_act
        known["hidden_act"] = act
        family = "MMOCR" if act == "gelu_new" else "Hugging Face"
        notes.append(f"Activation: {act}, as {family} runs it ({why}).")
    if "layer_norm_eps" not in known:
        known["layer_norm_eps"] = BertConfig.layer_norm_eps
        notes.append(f"LayerNorm eps: {BertConfig.layer_norm_eps}, as every BERT has it ({why}).")
    if "hidden_dropout_prob" in known:
        known.setdefault("classifier_dropout", known["hidden_dropout_prob"])
    return notes


def _refuse_other_models(stated: dict[str, Any], where: str) -> None:
    """Raise `UserError` for a `config.json` of what is not a plain BERT encoder."""
    refuse_model_type(str(stated.get("model_type") or "bert"), where)
    plain = {
        "position_embedding_type": "absolute",
        "is_decoder": False,
        "add_cross_attention": False,
    }
    for name, value in plain.items():
        if (stated.get(name) or value) != value:
            raise UserError(
                f"{where}: {name} is {stated[name]!r}. Only encoders with {name} {value!r} can be converted."
            )


def _untold(stated: dict[str, Any], where: str) -> dict[str, Any]:
    """The fields of a `config.json` that `BertConfig` takes and no tensor tells."""
    known: dict[str, Any] = {}
    for name, kind in UNTOLD.items():
        value = stated.get(name)
        if value is None:
            continue
        if kind is float and type(value) is int:
            value = float(value)
        if type(value) is not kind or value in (math.inf, -math.inf) or value != value:
            raise UserError(f"{where}: {name} is {value!r}, expected {kind.__name__}.")
        known[name] = value
    if "hidden_act" in known:
        known["hidden_act"] = ACTIVATIONS.get(known["hidden_act"], known["hidden_act"])
    return known


def make_vocab(source: Source, planned: Plan) -> list[str]:
    """Return the source's tokens by id.

    Raises:
        UserError: there are none, they do not fit the embedding, or they are not those of a BERT.
    """
    size = planned.config.vocab_size
    if source.vocab is None:
        raise UserError(
            f"{source.path}: there is no vocab.txt or tokenizer.json beside it. Put it there, or name it: "
            "--vocab of convert/torch_to_flax.py, tokenizer.vocab of a training configuration. From a "
            "sentencepiece.bpe.model, transformers makes a tokenizer.json (pip install transformers "
            "sentencepiece protobuf): AutoTokenizer.from_pretrained(MODEL).save_pretrained(FOLDER)."
        )
    count = len(source.vocab)
    if count != size:
        unlike = (
            f"{source.vocab_path}: {count} tokens, but {source.path} has embeddings for {size}."
        )
        if count > size:
            raise UserError(
                f"{unlike} Either it belongs to other weights: give the vocabulary that was saved with these. "
                f"Or tokens were appended to it after training: delete the last {count - size}."
            )
        raise UserError(
            f"{unlike} More than {MOST_SURPLUS:.0%} of the rows would be unused, so it probably belongs to "
            "other weights: give the vocabulary that was saved with these. If the embedding is padded, "
            f"append unused tokens until there are {size}: [padding1], [padding2], ..."
        )
    if source.kind != "subword":
        token_ids(source.vocab, str(source.vocab_path))
    return source.vocab


def make_labels(source: Source, planned: Plan, labels: LabelSet | None) -> LabelSet | None:
    """What the outputs of the source's head mean; None for an encoder.

    Raises:
        UserError: nothing says it, or they are not as many as the outputs.
    """
    if planned.outputs is None:
        if labels is not None:
            raise UserError(
                f"--labels: {source.path} has no head for tagging, so there is nothing for them to name. Leave "
                "them out; the head comes with fine-tuning."
            )
        return None
    if labels is None:
        names = _id2label(source, planned.outputs)
        if names is not None:
            try:
                labels = LabelSet.from_names(names)
            except UserError as error:
                raise UserError(
                    f"{source.config_path}: {error} If they mean that all the same, convert it with "
                    "convert/torch_to_flax.py --labels FILE. --drop-head takes the encoder alone."
                ) from None
        elif planned.layout is MMOCR:
            labels = LabelSet.mmocr(CLUENER)
        else:
            raise UserError(
                f"{source.path}: its head has {planned.outputs} outputs, and no config.json beside it says in "
                "id2label what they mean. Convert it with convert/torch_to_flax.py --labels FILE."
            )
    if len(labels) != planned.outputs:
        raise UserError(
            f"{source.path}: its head has {planned.outputs} outputs, but the labels are {len(labels)} "
            f"({labels.scheme} over {', '.join(labels.categories)}). "
            "Convert it with convert/torch_to_flax.py --labels FILE."
        )
    return labels


def _id2label(source: Source, outputs: int) -> list[str] | None:
    """The names of a head's outputs; None where `config.json` has none of its own."""
    table = (source.config or {}).get("id2label")
    if table is None or table == {str(i): f"LABEL_{i}" for i in range(outputs)}:
        return None
    rows = table if isinstance(table, dict) else {}
    names = [name for i in range(outputs) if isinstance(name := rows.get(str(i)), str)]
    if not len(names) == len(rows) == outputs:
        raise UserError(
            f"{source.config_path}: its id2label does not name the {outputs} outputs of the head, 0, 1, 2, ... "
            "Correct it, or convert it with convert/torch_to_flax.py --labels FILE."
        )
    return names


def read_labels(path: str | Path) -> LabelSet:
    """Read a label set: a `labels.json` of a model directory, or one line an item.

    The items are the tags in the order of the outputs (O, B-name, ...), or MMOCR's categories.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"--labels: no file {str(path)!r}.")
    text = read_text(path).removeprefix("\ufeff")
    try:
        if path.suffix != ".json":
            lines = [line.strip() for line in text.split("\n") if line.strip()]
            return LabelSet.from_names(lines) if "O" in lines else LabelSet.mmocr(lines)
        return LabelSet.from_json(json.loads(text))
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise UserError(
            f'{path}: expected {{"scheme": "bio", "categories": [...]}}, or tags one a line.'
        ) from None
