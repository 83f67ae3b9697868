"""What a configuration asks for: data, tokenizer, labels, model, and the parameters to begin with."""

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from flax_ner.config import ENCODER_FIELDS, check_config
from flax_ner.errors import UserError
from flax_ner.model.bert import STACKED, BertConfig
from flax_ner.model.tagger import Params, init_params, stack_layers
from flax_ner.text.batches import Batcher
from flax_ner.text.characters import describe_coverage
from flax_ner.text.encoding import check_paths, encode_examples, not_whole_words
from flax_ner.text.examples import Example
from flax_ner.text.formats import read_examples
from flax_ner.text.kinds import build_tokenizer
from flax_ner.text.labels import LabelSet, SpanLabels, misspelling_of
from flax_ner.text.overlaps import overlaps
from flax_ner.text.subword import SubwordTokenizer
from flax_ner.text.tokenizer import CharTokenizer, Tokenizer
from flax_ner.text.vocab import build_vocab, read_tokenizer_json, read_vocab
from flax_ner.training.decisions import choose_kind, choose_lower_case, decide
from flax_ner.training.distillation import Lesson, has_teacher, make_lesson
from flax_ner.training.hyperparameters import LEAST_STEPS, choose_training
from flax_ner.training.mesh import put_whole
from flax_ner.training.standardise import standardise_outputs
from flax_ner.weights.characters import with_tokenizer
from flax_ner.weights.convert import UNTOLD, open_model
from flax_ner.weights.model_dir import ModelDir

FEW = 2000  # sentences, below which a model from nothing wants other settings
FEW_STEPS = 320  # in all, below which pre-trained weights hardly learn new labels
MIN_STEPS = 500  # in all, below which a model from nothing hardly learns
ENOUGH_STEPS = 2000  # in all, with which it does, on a few hundred sentences too


@dataclass
class Task:
    """Everything that training needs and that no device holds."""

    config: ConfigDict  # with every setting decided
    batcher: Batcher
    dev: list[Example]
    tokenizer: Tokenizer
    labels: LabelSet
    model: BertConfig
    max_length: int  # tokens of the rows that the model will be used with
    source: ModelDir | None  # where `init_from` leads
    notes: list[str]  # what a user should know before training starts
    skipped: list[str]  # faults of the lines of data that were left out
    dropped: list[str]  # entities of data.train that overlap another one and are not learned
    fresh_head: bool = True  # not that of the source
    lesson: Lesson | None = None  # what to ask `distill.teacher`, until it has been asked


def make_task(config: ConfigDict) -> Task:
    """Read and check all that `config` names.

    Raises:
        UserError: what is missing or does not fit, and which field says so.
    """
    skipped: list[str] | None = [] if config.data.on_error == "skip" else None
    data_notes: list[str] = []
    train, dev = (
        read_examples(config.data[split], config.data.format, f"data.{split}", skipped, data_notes)
        for split in ("train", "dev")
    )
    for example in dev:
        if example.entities is None:
            raise UserError(
                f"data.dev: {example.source} has no label. Scoring needs labelled data; "
                "python -m flax_ner predict tags unlabelled texts."
            )
    source, source_notes = read_source(config)
    if source is not None:
        source.params.pop("masked_lm", None)
    found = sorted({entity.type for example in train for entity in example.entities or ()})
    config, decided_notes = decide(config, source, found)
    notes = [*data_notes, *source_notes, *decided_notes, *_warnings(config, train, dev)]
    min_count = config.tokenizer.min_count
    built = partial(build_vocab, (example.text for example in train), min_count)
    tokenizer, source = make_tokenizer(config, source, built, notes, train)
    labels = _make_labels(config, source, found)
    model = make_model(config, source, len(tokenizer.tokens), len(labels))
    if source is not None and not _has_head_for(source, labels, model):
        notes.append("The head is freshly initialised: init_from has none for these labels.")
    # MMOCR: entities overwrite one another. A CRF cannot learn from the tags that this can leave.
    overwrite = labels.scheme == "mmocr" and model.head != "crf"
    dropped: list[str] = []
    train_tokens = tokenizer.tokenize([example.text for example in train])
    tokens = encode_examples(
        train, tokenizer, labels, config.data.max_length, overwrite, dropped, train_tokens
    )
    if model.head == "crf":
        check_paths(tokens, labels)
    if isinstance(tokenizer, CharTokenizer) and (source is not None or config.tokenizer.vocab):
        notes.append(describe_coverage(tokenizer, [e.text for e in train], "data.train"))
    if tokenizer.kind != "char":
        dev_tokens = tokenizer.tokenize([example.text for example in dev])
        for name, examples, of in (
            ("data.train", train, train_tokens),
            ("data.dev", dev, dev_tokens),
        ):
            notes += [f"{name}: {told}." for told in not_whole_words(examples, of, labels)]
    split = len(tokens.lengths) - len(train)
    lesson = None
    if has_teacher(config.distill):
        tokens, lesson = make_lesson(
            config, train, dev, tokens, train_tokens, tokenizer, labels, skipped, notes
        )
    notes += choose_training(config, tokens, model.hidden_size)
    data = config.data
    batcher = Batcher(tokens, data.batching, data.batch_size, data.max_length, config.seed)
    unit = "categories" if isinstance(labels, SpanLabels) else "tags"
    notes.append(
        f"{len(train)} sentences to train on, {len(dev)} to score; {len(labels)} {unit} ({labels.scheme}), "
        f"{len(tokenizer.tokens)} tokens ({tokenizer.kind}); {batcher.steps_per_epoch} steps an epoch."
    )
    fresh_head = source is None or not _has_head_for(source, labels, model)
    notes += _little_training(config, len(train), batcher.steps_per_epoch, fresh_head)
    if overwrite and (overlapping := sum(overlaps(e.entities or ()) for e in train)):
        notes.append(
            f"{overlapping} entities of data.train overlap an earlier one and overwrite it, as in MMOCR."
        )
    if labels.scheme == "io" and (joined := _joined_by_io(train, tokenizer.kind)):
        notes.append(
            f"{joined} entities of data.train follow another one of their category, and tags of scheme io make "
            "them one. --config.data.scheme=bio keeps them apart, with a fresh head."
        )
    if split:
        notes.append(
            f"Texts over {data.max_length - 2} tokens were split, {split} cuts, none inside an entity."
        )
    # Positions that were never trained are of no use, so no row is longer than those seen.
    seen = int(tokens.lengths.max())
    max_length = min(data.max_length, max(source.max_length, seen)) if source else seen
    skipped = skipped or []
    return Task(
        config,
        batcher,
        dev,
        tokenizer,
        labels,
        model,
        max_length,
        source,
        notes,
        skipped,
        dropped,
        fresh_head,
        lesson,
    )


def _joined_by_io(train: list[Example], kind: str) -> int:
    """Return how many entities have no tag between themselves and one of their category before them."""
    count = 0
    for example in train:
        entities = sorted(example.entities or (), key=lambda entity: entity.start)
        for one, other in pairwise(entities):
            between = example.text[one.end : other.start]
            apart = between if kind == CharTokenizer.kind else between.strip()
            count += one.type == other.type and one.end <= other.start and not apart
    return count


def _warnings(config: ConfigDict, train: list[Example], dev: list[Example]) -> list[str]:
    """Return warnings about data that are probably a mistake."""
    warnings = []
    if config.data.train == config.data.dev:
        warnings.append("data.dev is data.train: its scores say nothing about other texts.")
    counts = Counter(entity.type for example in dev for entity in example.entities or ())
    known = {entity.type for example in train for entity in example.entities or ()}
    for category in sorted(counts.keys() - known - set(config.data.categories)):
        near = misspelling_of(category, known)
        hint = f" In data.dev it may be a misspelling of {near!r}." if near else ""
        warnings.append(
            f"data.dev has the category {category!r} ({counts[category]} entities), which data.train does not "
            f"have: it cannot be learned.{hint}"
        )
    return warnings


def total_steps(config: ConfigDict, per_epoch: int) -> int:
    """Return the number of steps of a run."""
    return int(config.train.steps or config.train.epochs * per_epoch)


def from_nothing_flags(config: ConfigDict, steps: int) -> list[str]:
    """Return the settings that a run of `steps` steps without `init_from` lacks for small data.

    They were chosen on CLUENER cut to 300 and 1,000 sentences; docs/faq.md has the figures.
    """
    wanted: dict[str, Any] = {}
    if config.model.head != "crf":
        wanted["model.head"] = "crf"
    if config.optimizer.learning_rate > 3e-4:
        wanted["optimizer.learning_rate"] = 3e-4
    if steps < ENOUGH_STEPS:
        devices = (config.mesh.data or jax.device_count() // config.mesh.fsdp) * config.mesh.fsdp
        wanted["data.batch_size"] = min(-(-2 // devices) * devices, config.data.batch_size)
        wanted["train.steps"] = ENOUGH_STEPS
    changed = ConfigDict(config.to_dict())
    changed.update_from_flattened_dict(wanted)
    try:
        check_config(changed)
    except UserError:  # they contradict a setting that was made on purpose
        return []
    return [
        f"--config.{name}={value:g}" if isinstance(value, float) else f"--config.{name}={value}"
        for name, value in wanted.items()
    ]


def _little_training(
    config: ConfigDict, sentences: int, per_epoch: int, fresh_head: bool
) -> list[str]:
    """Return what to change where a run is too short, or has little data and no pre-trained weights."""
    steps = total_steps(config, per_epoch)
    if config.init_from:
        if steps >= FEW_STEPS or not fresh_head:
            return []
        return [
            f"Only {steps} steps: the model will find little. Leave out train.epochs, train.steps and "
            f"data.batch_size, also in the configuration file, or set --config.train.steps={LEAST_STEPS[True]} "
            "in a new --workdir."
        ]
    if sentences < FEW and not has_teacher(config.distill):
        flags = from_nothing_flags(config, steps)
        instead = f", or train with {' '.join(flags)} in a new --workdir" if flags else ""
        return [
            f"Only {sentences} sentences and no pre-trained weights: the model will find little. Set init_from "
            f"to pre-trained weights{instead}. docs/faq.md#f1-stays-0-or-everything-is-o has figures."
        ]
    if steps < MIN_STEPS:
        more = f"train.epochs={-(-ENOUGH_STEPS // per_epoch)}"
        if config.train.steps:
            more = f"train.steps={ENOUGH_STEPS}"
        return [
            f"Only {steps} steps and no pre-trained weights: the model will find little. Set --config.{more} "
            f"in a new --workdir, or lower data.batch_size (now {config.data.batch_size})."
        ]
    return []


def initial_params(task: Task, key: jax.Array, shardings: Params) -> Params:
    """Fresh parameters, or those of the source with a fresh head where it has none that fits."""
    source, head = task.source, None
    if source is not None and _has_head_for(source, task.labels, task.model):
        head = source.params["head"]
    params = first_params(partial(init_params, task.model), source, head, key, shardings)
    if source is None or head is not None or not task.config.train.standardise:
        return params
    return standardise_outputs(task.model, params, task.batcher.tokens, shardings)


def first_params(
    fresh: Callable[[jax.Array], Params],
    source: ModelDir | None,
    head: Params | None,
    key: jax.Array,
    shardings: Params,
) -> Params:
    """Parameters to begin with, placed like this: a source's encoder and its `head`; `fresh` what is None."""
    if source is None:
        return jax.jit(fresh, out_shardings=shardings)(key)
    params = {"encoder": source.params["encoder"]}
    if STACKED in shardings["encoder"]["layers"]:
        params = stack_layers(params)
    params["head"] = head if head is not None else jax.jit(lambda key: fresh(key)["head"])(key)
    return put_whole(params, shardings)


def read_source(config: ConfigDict) -> tuple[ModelDir | None, list[str]]:
    """Where `init_from` leads, and notes about it."""
    if not config.init_from:
        return None, []
    told = {name: config.model[name] for name in UNTOLD if name in ENCODER_FIELDS}
    defaults = {name: value for name, value in told.items() if value is not None}
    source, report = open_model(
        config.init_from, "init_from", config.tokenizer.vocab, defaults, head="try"
    )
    if source.config.ensemble > 1:
        raise UserError(
            f"init_from: {config.init_from} is an ensemble of {source.config.ensemble} models. Name one of "
            "them, as WORKDIR/seed_0/best."
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
    built: Callable[[], list[str]],
    notes: list[str],
    train: Sequence[Example] = (),
) -> tuple[Tokenizer, ModelDir | None]:
    """Return the tokenizer that a configuration asks for, and set its kind and lower-casing there.

    Args:
        config: of the run.
        source: where `init_from` leads.
        built: makes a vocabulary of the text, where there is no other.
        notes: takes what was chosen, and why.
        train: labelled data, by which the kind is chosen for an encoder.

    Returns:
        The tokenizer, and the source as it reads text: subwords that are read by characters have another
        vocabulary.

    Raises:
        UserError: vocabulary and source do not fit, or there is no vocabulary.
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
                "weights that have one in init_from."
            )
        if subword:
            tokens, definition = [], _read_definition(options.vocab)
        else:
            tokens = read_vocab(options.vocab) if options.vocab else built()
    tokenizer = build_tokenizer(
        options.kind,
        tokens,
        lower_case if options.lower_case is None else options.lower_case,
        definition,
    )
    if options.lower_case not in (None, tokenizer.lower_case):
        raise UserError(
            f"tokenizer.lower_case: {options.lower_case}, but the tokenizer.json of tokenizer.kind 'subword' "
            "decides it. Leave the field out."
        )
    options.lower_case = tokenizer.lower_case
    return tokenizer, source


def _with_chosen_kind(
    config: ConfigDict, source: ModelDir, notes: list[str], train: Sequence[Example]
) -> tuple[ModelDir, bool]:
    """Return a source as it reads text, and whether it lower-cases; set `config.tokenizer.kind`."""
    options = config.tokenizer
    if options.vocab and (tokens := read_vocab(options.vocab)) != source.vocab:
        raise UserError(
            f"tokenizer.vocab: {options.vocab} ({len(tokens)} tokens) is not the vocabulary "
            f"of {config.init_from} ({len(source.vocab)} tokens). Leave the field empty."
        )
    own = source.tokenizer
    kind, why = choose_kind(source, train)
    trained = source.labels or own != CharTokenizer.kind  # MMOCR's encoders were on WordPieces
    if trained and options.kind not in ("", own, kind):
        notes.append(
            f"{config.init_from}: was trained on {own} tokens, and words of letters and numbers are read "
            f"as {options.kind} now. --config.tokenizer.kind={own} reads them as then."
        )
    if why and not options.kind:
        notes.append(f"tokenizer.kind: {kind}, {why}.")
    options.kind = options.kind or kind
    lower_case, cased = choose_lower_case(source)
    source, more = with_tokenizer(source, options.kind, "tokenizer.kind")
    notes += more
    if cased and options.lower_case is None and not source.definition:
        notes.append(f"tokenizer.lower_case: {lower_case}, {cased}.")
    return source, lower_case


def _read_definition(path: str) -> str:
    definition = read_tokenizer_json(path).definition
    if not definition:
        raise UserError(
            f"tokenizer.kind: 'subword', but {path} is of BERT's WordPieces or of characters. Leave "
            "tokenizer.kind out, or choose wordpiece."
        )
    return definition


def make_model(
    config: ConfigDict, source: ModelDir | None, vocab_size: int, num_labels: int
) -> BertConfig:
    """Return the model of a decided configuration; its encoder is that of the source."""
    if source is None:
        return BertConfig(vocab_size, num_labels, **config.model)
    return replace(source.config, vocab_size=vocab_size, num_labels=num_labels, **config.model)


def _make_labels(config: ConfigDict, source: ModelDir | None, found: list[str]) -> LabelSet:
    categories = tuple(config.data.categories)
    known = source.labels if source else None
    spans = config.model.head == "global_pointer"
    if known and not categories and found and set(found) <= set(known.categories):
        if known.scheme == (SpanLabels.scheme if spans else config.data.scheme):
            return known  # also where a head made elsewhere has its tags in another order
        if known.scheme != "io":  # such heads were left out before they could be read
            categories = known.categories
    if not categories and not found:
        raise UserError(
            f"data.train: {config.data.train} has no entity. Training needs labelled data."
        )
    if spans:
        return SpanLabels(categories or found)
    return LabelSet(categories or found, config.data.scheme)


def _has_head_for(source: ModelDir, labels: LabelSet, model: BertConfig) -> bool:
    own = ("crf", "global_pointer")  # what the others have they share
    alike = source.config.head == model.head or not {source.config.head, model.head} & {*own}
    return source.labels is not None and source.labels.names == labels.names and alike


def digest(model: ModelDir | None) -> bytes:
    """What several processes must have alike of a model."""
    arrays = jax.tree.leaves(model.params) if model else []
    return b"".join(hashlib.sha256(bytes_of(np.asarray(x))).digest() for x in arrays)


def bytes_of(array: np.ndarray) -> memoryview:
    """Return the bytes that `tobytes` does, without a copy where the array is contiguous."""
    # As uint8, because an array of bfloat16 gives no memoryview.
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data


def trained_model(task: Task, params: Params) -> ModelDir:
    """The model directory of this task with these parameters."""
    tokenizer = task.tokenizer
    return ModelDir(
        task.model,
        task.labels,
        tokenizer.tokens,
        task.max_length,
        params,
        tokenizer.lower_case,
        tokenizer.kind,
        tokenizer.definition,
    )
