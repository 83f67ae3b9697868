"""What a configuration asks for: data, tokenizer, labels, model, and the parameters to begin with."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import jax
from ml_collections import ConfigDict

from flax_ner.errors import UserError
from flax_ner.model.bert import BertConfig
from flax_ner.model.tagger import Params, init_params
from flax_ner.text.batches import Batcher, encode_examples
from flax_ner.text.examples import Example
from flax_ner.text.formats import read_examples
from flax_ner.text.labels import LabelSet, overlaps
from flax_ner.text.tokenizer import CharTokenizer, build_vocab, read_vocab
from flax_ner.weights.convert import convert
from flax_ner.weights.model_dir import ModelDir, load_model

# Fields of `BertConfig` in which a model and its weights must agree, whatever the shapes allow.
SHAPE = (
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "hidden_act",
    "max_position_embeddings",
    "type_vocab_size",
    "layer_norm_eps",
)


@dataclass
class Task:
    """Everything that training needs and that no device holds."""

    batcher: Batcher
    dev: list[Example]
    tokenizer: CharTokenizer
    labels: LabelSet
    model: BertConfig
    max_length: int  # tokens of the rows that the model will be used with
    source: ModelDir | None  # where `init_from` leads
    notes: list[str]  # what a user should know before training starts


def make_task(config: ConfigDict) -> Task:
    """Read and check all that `config` names.

    Raises:
        UserError: what is missing or does not fit, and which field says so.
    """
    train = read_examples(config.data.train, config.data.format, "data.train")
    dev = read_examples(config.data.dev, config.data.format, "data.dev")
    source, notes = _read_source(config)
    tokenizer = _make_tokenizer(config, source, train)
    labels = _make_labels(config, source, train)
    model = BertConfig(vocab_size=len(tokenizer.tokens), num_labels=len(labels), **config.model)
    if source is not None:
        _check_source(config, source, model)
        if not _has_head_for(source, labels):
            notes.append("The head is freshly initialised: init_from has none for these labels.")
    tokens = encode_examples(train, tokenizer, labels, config.data.max_length)
    data = config.data
    batcher = Batcher(tokens, data.batching, data.batch_size, data.max_length, config.seed)
    overlapping = sum(overlaps(example.entities or ()) for example in train)
    split = len(tokens.lengths) - len(train)
    notes.append(
        f"{len(train)} sentences to train on, {len(dev)} to score; {len(labels)} tags ({labels.scheme}), "
        f"{len(tokenizer.tokens)} tokens; {batcher.steps_per_epoch} steps an epoch."
    )
    if overlapping:
        notes.append(
            f"{overlapping} overlapping entities in data.train: the later one overwrites the earlier."
        )
    if split:
        notes.append(
            f"Texts over {data.max_length - 2} characters were split, {split} cuts, none inside an entity."
        )
    # Positions that were never trained are of no use, so a model from nothing reads no longer rows.
    max_length = data.max_length if source else int(tokens.lengths.max())
    return Task(batcher, dev, tokenizer, labels, model, max_length, source, notes)


def initial_params(task: Task, key: jax.Array) -> Params:
    """Fresh parameters, or those of the source with a fresh head where it has none that fits."""
    if task.source is None:
        return init_params(task.model, key)
    params = dict(task.source.params)
    if not _has_head_for(task.source, task.labels):
        params["head"] = init_params(task.model, key)["head"]
    return params


def _read_source(config: ConfigDict) -> tuple[ModelDir | None, list[str]]:
    path = Path(config.init_from)
    if not config.init_from:
        return None, []
    if path.is_dir():
        return load_model(path), []
    if not path.is_file():
        raise UserError(
            f"init_from: no file or directory {config.init_from!r}. Give MMOCR's bert_pretrain.pth (or another "
            "BERT in that layout), a model directory made by convert/torch_to_flax.py, or set "
            "init_from to '' to train from nothing."
        )
    if not config.tokenizer.vocab:
        raise UserError(
            f"tokenizer.vocab: is empty, but {config.init_from} brings no vocabulary. "
            "Set it to the vocab.txt that belongs to the weights."
        )
    source, report = convert(
        path,
        config.tokenizer.vocab,
        config={
            name: config.model[name]
            for name in ("num_attention_heads", "hidden_act", "layer_norm_eps")
        },
    )
    note = (
        f"{path}: {report.layout}, {len(report.used)} tensors used, {len(report.ignored)} ignored "
        "(convert/torch_to_flax.py lists them)."
    )
    return source, [note]


def _make_tokenizer(
    config: ConfigDict, source: ModelDir | None, train: list[Example]
) -> CharTokenizer:
    if config.tokenizer.vocab:
        tokens = read_vocab(config.tokenizer.vocab)
        if source is not None and tokens != source.vocab:
            raise UserError(
                f"tokenizer.vocab: {config.tokenizer.vocab} ({len(tokens)} tokens) is not the vocabulary "
                f"of {config.init_from} ({len(source.vocab)} tokens). Leave the field empty."
            )
        return CharTokenizer(config.tokenizer.vocab)
    if source is not None:
        return CharTokenizer(source.vocab)
    return CharTokenizer(
        build_vocab((example.text for example in train), config.tokenizer.min_count)
    )


def _make_labels(config: ConfigDict, source: ModelDir | None, train: list[Example]) -> LabelSet:
    found = sorted({entity.type for example in train for entity in example.entities or ()})
    categories = tuple(config.data.categories)
    known = source.labels.categories if source and source.labels else ()
    if not categories and found and set(found) <= set(known):
        categories = known
    if not categories and not found:
        raise UserError(
            f"data.train: {config.data.train} has no entity. Training needs labelled data."
        )
    return LabelSet(categories or found, config.data.scheme)


def _has_head_for(source: ModelDir, labels: LabelSet) -> bool:
    return source.labels is not None and source.labels.names == labels.names


def _check_source(config: ConfigDict, source: ModelDir, model: BertConfig) -> None:
    faults = [
        f"model.{name} is {getattr(model, name)}, the weights have {getattr(source.config, name)}"
        for name in SHAPE
        if getattr(model, name) != getattr(source.config, name)
    ]
    if faults:
        raise UserError(
            f"init_from: {config.init_from} does not fit the model: {'; '.join(faults)}."
        )


def trained_model(task: Task, params: Params) -> ModelDir:
    """The model directory of this task with these parameters."""
    config = dataclasses.replace(task.model, scan_layers=False)
    return ModelDir(config, task.labels, task.tokenizer.tokens, task.max_length, params)
