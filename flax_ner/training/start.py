"""Set up the start of a run: the weights of `init_from`, the tokenizer, the model, the initial parameters."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import replace

import jax
import numpy as np
from ml_collections import ConfigDict

from flax_ner.config import ENCODER_FIELDS
from flax_ner.errors import UserError
from flax_ner.model.bert import STACKED, BertConfig
from flax_ner.model.tagging_model import Params, stack_layers
from flax_ner.text.examples import Example
from flax_ner.text.subword import SubwordTokenizer
from flax_ner.text.tokenizer import CharTokenizer, Tokenizer
from flax_ner.text.tokenizer_kinds import build_tokenizer
from flax_ner.text.vocab import read_tokenizer_json, read_vocab
from flax_ner.training.decisions import choose_lower_case, choose_tokenizer_kind
from flax_ner.training.mesh import shard_from_host
from flax_ner.weights.char_tokenizer import with_tokenizer
from flax_ner.weights.convert import CONFIG_ONLY_FIELDS
from flax_ner.weights.model_dir import ModelDir
from flax_ner.weights.open_model import open_model


def read_source(config: ConfigDict) -> tuple[ModelDir | None, list[str]]:
    """Read the weights of `init_from`.

    Returns:
        The weights, or None if `init_from` is empty, and notes about them.

    Raises:
        UserError: the weights cannot be read, or are an ensemble.
    """
    if not config.init_from:
        return None, []
    settings = {name: config.model[name] for name in CONFIG_ONLY_FIELDS if name in ENCODER_FIELDS}
    defaults = {name: value for name, value in settings.items() if value is not None}
    source, report = open_model(
        config.init_from, "init_from", config.tokenizer.vocab, defaults, head="try"
    )
    if source.config.ensemble > 1:
        raise UserError(
            f"init_from: {config.init_from} is an ensemble of {source.config.ensemble} models. Name one of "
            "them, e.g. WORKDIR/seed_0/best."
        )
    if report is None:
        return source, []
    note = (
        f"{config.init_from}: {report.layout}, {len(report.used)} tensors used, {len(report.ignored)} "
        "ignored (python -m flax_ner inspect lists them)."
    )
    return source, [note, *report.notes]


def make_tokenizer(
    config: ConfigDict,
    source: ModelDir | None,
    make_vocab: Callable[[], list[str]],
    notes: list[str],
    train: Sequence[Example] = (),
) -> tuple[Tokenizer, ModelDir | None]:
    """Return the tokenizer of a configuration, and set `tokenizer.kind` and `tokenizer.lower_case` there.

    Args:
        config: configuration of the run; it is changed.
        source: weights of `init_from`, or None.
        make_vocab: builds a vocabulary from the text; called if there is no other.
        notes: notes about the choices are appended.
        train: labelled data, which the choice of the kind is based on.

    Returns:
        The tokenizer, and the source. If an encoder of subwords gets a character tokenizer, the source has
        another vocabulary and other embeddings.

    Raises:
        UserError: a vocabulary or tokenizer.json cannot be read, does not match the source or
            `tokenizer.kind`, or is missing; or `tokenizer.lower_case` contradicts the tokenizer.json.
    """
    options, lower_case, definition = config.tokenizer, True, ""
    if source is not None:
        source, lower_case = _with_chosen_kind(config, source, notes, train)
        tokens, definition = source.vocab, source.definition
    else:
        options.kind = options.kind or CharTokenizer.kind
        subword = options.kind == SubwordTokenizer.kind
        if not options.vocab and options.kind != CharTokenizer.kind:
            name = "tokenizer.json" if subword else "vocab.txt"
            raise UserError(
                f"tokenizer.kind: {options.kind} needs a vocabulary. Name its {name} in tokenizer.vocab, or "
                "set init_from to weights that have one."
            )
        if subword:
            tokens, definition = [], _read_definition(options.vocab)
        else:
            tokens = read_vocab(options.vocab) if options.vocab else make_vocab()
    tokenizer = build_tokenizer(
        options.kind,
        tokens,
        lower_case if options.lower_case is None else options.lower_case,
        definition,
    )
    if options.lower_case not in (None, tokenizer.lower_case):
        raise UserError(
            f"tokenizer.lower_case: {options.lower_case}, but the tokenizer.json of tokenizer.kind 'subword' "
            "determines it. Remove the setting."
        )
    options.lower_case = tokenizer.lower_case
    return tokenizer, source


def _with_chosen_kind(
    config: ConfigDict, source: ModelDir, notes: list[str], train: Sequence[Example]
) -> tuple[ModelDir, bool]:
    """Return the source with the chosen tokenizer, and whether to lower-case; set `config.tokenizer.kind`."""
    options = config.tokenizer
    if options.vocab and (tokens := read_vocab(options.vocab)) != source.vocab:
        raise UserError(
            f"tokenizer.vocab: {options.vocab} ({len(tokens)} tokens) is not the vocabulary "
            f"of {config.init_from} ({len(source.vocab)} tokens). Remove the setting."
        )
    own = source.tokenizer
    kind, kind_reason = choose_tokenizer_kind(source, train)
    # MMOCR's encoders were trained on WordPieces, although their kind is char.
    known_kind = source.labels or own != CharTokenizer.kind
    if known_kind and options.kind not in ("", own, kind):
        notes.append(
            f"{config.init_from} was trained with tokenizer.kind={own}, but this run uses {options.kind}, "
            "which splits letters and digits differently. To keep the original, set "
            f"--config.tokenizer.kind={own}."
        )
    if kind_reason and not options.kind:
        notes.append(f"tokenizer.kind: {kind}, {kind_reason}.")
    options.kind = options.kind or kind
    lower_case, case_reason = choose_lower_case(source)
    source, tokenizer_notes = with_tokenizer(source, options.kind, "tokenizer.kind")
    notes += tokenizer_notes
    if case_reason and options.lower_case is None and not source.definition:
        notes.append(f"tokenizer.lower_case: {lower_case}, {case_reason}.")
    return source, lower_case


def _read_definition(path: str) -> str:
    definition = read_tokenizer_json(path).definition
    if not definition:
        raise UserError(
            f"tokenizer.kind: 'subword', but {path} has BERT's WordPieces or characters. Remove "
            "tokenizer.kind, or choose wordpiece."
        )
    return definition


def make_bert_config(
    config: ConfigDict, source: ModelDir | None, vocab_size: int, num_labels: int
) -> BertConfig:
    """Return the shape of the model of a configuration whose settings are resolved.

    Args:
        config: configuration of the run.
        source: weights of the encoder, which determine its family; or None.
        vocab_size: number of tokens.
        num_labels: number of outputs of the head.
    """
    if source is None:
        return BertConfig(vocab_size, num_labels, **config.model)
    return replace(source.config, vocab_size=vocab_size, num_labels=num_labels, **config.model)


def make_initial_params(
    fresh: Callable[[jax.Array], Params],
    source: ModelDir | None,
    head: Params | None,
    key: jax.Array,
    shardings: Params,
) -> Params:
    """Return the initial parameters: the encoder of a source and a head, newly initialised where missing.

    Args:
        fresh: initialises all parameters from a key.
        source: weights of the encoder; None: initialise it.
        head: parameters of the head; None: initialise it.
        key: random key.
        shardings: shardings of the parameters.
    """
    if source is None:
        return jax.jit(fresh, out_shardings=shardings)(key)
    params = {"encoder": source.params["encoder"]}
    if STACKED in shardings["encoder"]["layers"]:
        params = stack_layers(params)
    params["head"] = head if head is not None else jax.jit(lambda key: fresh(key)["head"])(key)
    return shard_from_host(params, shardings)


def params_digest(model: ModelDir | None) -> bytes:
    """Return the SHA-256 digests of a model's arrays, one after the other; b"" without a model."""
    arrays = jax.tree.leaves(model.params) if model else []
    return b"".join(hashlib.sha256(array_bytes(np.asarray(x))).digest() for x in arrays)


def array_bytes(array: np.ndarray) -> memoryview:
    """Return the same bytes as `array.tobytes()`, without a copy if the array is contiguous."""
    # As uint8, because an array of bfloat16 has no memoryview.
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data
