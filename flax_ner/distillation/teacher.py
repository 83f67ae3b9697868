"""Distillation: train on the tag probabilities of a larger tagger, also on unlabelled texts.

The teacher runs once, before training. Its probabilities are a column of the `TokenSet` and, like labels, part
of the batches. A training step therefore costs the same as without a teacher.

Source: Hinton, Vinyals and Dean 2015, arXiv 1503.02531.
"""

import hashlib
import shlex
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from ml_collections import ConfigDict
from rich.console import Console

from flax_ner.data.files import ReadOptions
from flax_ner.data.formats import read_texts
from flax_ner.errors import UserError
from flax_ner.inference.tagger import Tagger
from flax_ner.model.tagging_model import cast_kernels
from flax_ner.text.batches import Batcher
from flax_ner.text.encoding import NO_LABEL, UNLABELLED, TokenSet, encode_examples
from flax_ner.text.examples import Example
from flax_ner.text.labels import LabelSet, SpanLabels
from flax_ner.text.tokenizer import Tokenizer, Tokens
from flax_ner.training.log import progress_bar
from flax_ner.training.mesh import BATCH_AXES, shard_from_host
from flax_ner.weights.model_dir import ModelDir
from flax_ner.weights.open_model import open_model

MIN_SHARED_WORDS = 0.5  # fraction of the student's words that must also be words of the teacher
PROGRESS_EVERY = 64  # texts between updates of the progress bar


@dataclass
class DistillationData:
    """A teacher, the texts that it labels, and how its words and tags map to the student's."""

    teacher: ModelDir
    labels: LabelSet  # the teacher's
    texts: list[str]
    tokens: Tokens  # the texts, tokenized by the teacher's tokenizer
    token_index: np.ndarray  # int64 [words of the teacher], index of the student's token; -1: none
    tags: np.ndarray  # int64 [C], index of the teacher's tag for each tag of the student


def distillation_fingerprint(data: DistillationData | None) -> bytes:
    """Return a digest of what the teacher's probabilities depend on, except its parameters; b"" if None."""
    if data is None:
        return b""
    model, config = data.teacher, data.teacher.config
    digest = hashlib.sha256()
    for text in data.texts:
        digest.update(repr(text).encode())
    inputs: tuple[Any, ...] = (
        data.labels.names, model.vocab, model.tokenizer, model.lower_case, model.max_length,
    )  # fmt: skip
    if model.definition:  # conditional, to keep the digests of earlier versions
        inputs += (model.definition,)
    # Listed by name, so that a field added in a later version does not change the digest.
    computation = (
        config.head, config.ensemble, config.num_attention_heads, config.hidden_act,
        config.layer_norm_eps, config.compute_dtype,
    )  # fmt: skip
    digest.update(repr((inputs, computation)).encode())
    return digest.digest()


def prepare_distillation(
    config: ConfigDict,
    train: Sequence[Example],
    dev: Sequence[Example],
    tokens: TokenSet,
    train_tokens: Tokens,
    tokenizer: Tokenizer,
    labels: LabelSet,
    skipped: list[str] | None,
    notes: list[str],
) -> tuple[TokenSet, DistillationData]:
    """Load the teacher, read `config.distill.texts`, and align the words of teacher and student.

    Args:
        config: configuration of the run.
        train: the training examples.
        dev: the dev examples.
        tokens: the encoded training examples.
        train_tokens: the texts of `train`, tokenized by the student's tokenizer.
        tokenizer: the student's tokenizer.
        labels: the student's labels.
        skipped: see `read_examples`.
        notes: notes for the user are appended.

    Returns:
        The tokens to train on, and the data for the teacher. Unlabelled texts follow the labelled ones; their
        words have the label `UNLABELLED`.

    Raises:
        UserError: the teacher does not exist or cannot tag, its tags or words differ from the student's, or
            the texts cannot be read.
    """
    options = config.distill
    teacher, report = open_model(options.teacher, "distill.teacher")
    notes += [f"{options.teacher}: {note}" for note in (report.notes if report else ())]
    if teacher.labels is None:
        raise UserError(
            f"distill.teacher: {options.teacher} is an encoder without a head and cannot tag. Fine-tune it "
            f"first: python -m flax_ner train --config cluener --workdir DIR --init-from {options.teacher}"
        )
    if isinstance(teacher.labels, SpanLabels):
        raise UserError(
            f"distill.teacher: {options.teacher} has the head global_pointer, which predicts spans, not tags. "
            "Choose a teacher with another head, or train on the entities that it predicts "
            "(docs/distillation.md)."
        )
    tags = _match_tags(teacher.labels, labels, options.teacher)
    texts, first_tokens = [example.text for example in train], _first_tokens(tokens)
    if options.texts:
        unlabelled = _read_unlabelled(
            options.texts, dev, skipped, notes, ReadOptions(config.data.encoding)
        )
        more_tokens = tokenizer.tokenize([example.text for example in unlabelled])
        more = encode_examples(
            unlabelled, tokenizer, labels, config.data.max_length, tokens=more_tokens
        )
        first_tokens = np.append(first_tokens, len(tokens.ids) + _first_tokens(more))
        more = more._replace(labels=np.where(more.labels == NO_LABEL, NO_LABEL, UNLABELLED))
        tokens = TokenSet(*map(np.concatenate, zip(tokens[:3], more[:3], strict=True)))
        texts += [example.text for example in unlabelled]
        train_tokens = Tokens(*map(np.concatenate, zip(train_tokens, more_tokens, strict=True)))
    sizes = np.fromiter(map(len, texts), np.int64, len(texts))
    teacher_tokens = train_tokens
    if (teacher.tokenizer, teacher.lower_case, teacher.vocab, teacher.definition) != (
        tokenizer.kind,
        tokenizer.lower_case,
        tokenizer.tokens,
        tokenizer.definition,
    ):
        teacher_tokens = teacher.build_tokenizer().tokenize(texts)
    student_word = _align_words(train_tokens, teacher_tokens, sizes)
    shared, words = int((student_word >= 0).sum()), len(first_tokens)
    if shared < words * MIN_SHARED_WORDS:
        remedy = f"--config.tokenizer.kind={teacher.tokenizer} makes them the same."
        if tokenizer.kind == teacher.tokenizer:
            remedy = "Start the student from weights with the teacher's tokenizer.json."
        raise UserError(
            f"distill.teacher: {options.teacher} tokenizes as {teacher.tokenizer}, the student as "
            f"{tokenizer.kind}: only {shared} of the student's {words} words are words of the teacher. {remedy}"
        )
    if shared < words:
        notes.append(
            f"{words - shared} of {words} words are not words of the teacher ({teacher.tokenizer}). They are "
            "learned from the labels only."
        )
    notes.append(
        f"Distillation from {options.teacher}: weight {options.weight:g}, temperature "
        f"{options.temperature:g}, on {len(texts)} texts, {len(texts) - len(train)} of them unlabelled."
    )
    # Index -1, of words that only the teacher has, selects the appended -1.
    return tokens, DistillationData(
        teacher,
        teacher.labels,
        texts,
        teacher_tokens,
        np.append(first_tokens, -1)[student_word],
        tags,
    )


def compute_teacher_probs(
    data: DistillationData, batcher: Batcher, config: ConfigDict, mesh: Mesh, console: Console
) -> None:
    """Compute the teacher's probabilities of all texts on the mesh, and add them to the batcher's tokens.

    They are at the temperature of the configuration, float16; for a head `crf` they are marginals. With several
    processes, all must call this, and each gets all probabilities.

    Args:
        data: the teacher and its texts.
        batcher: its `tokens` get the column `teacher`, float16 [tokens, C].
        config: configuration of the run.
        mesh: the mesh of the run.
        console: shows the progress.
    """
    model, options = data.teacher, config.distill
    count = len(data.tags)
    size = len(batcher.tokens.ids) * count * np.dtype(np.float16).itemsize
    console.print(
        f"{options.teacher} tags {len(data.texts)} texts. Its probabilities take {size / 1e6:.1f} MB. The "
        "batches of an epoch take at least as much again, on the host and on the devices.",
        highlight=False,
    )
    replicated = NamedSharding(mesh, P())
    params = cast_kernels(model.config, model.params)
    tagger = Tagger(
        model.config,
        shard_from_host(params, jax.tree.map(lambda _: replicated, params)),
        model.build_tokenizer(),
        data.labels,
        model.max_length,
        config.eval.batch_size,
        NamedSharding(mesh, P(BATCH_AXES)),
    )
    table = np.zeros((len(batcher.tokens.ids), count), np.float16)
    begin, start = 0, time.monotonic()
    with progress_bar(console) as progress:
        bar = progress.add_task("teacher", total=len(data.texts), rate="")
        for done, words in enumerate(tagger.predict_word_proba(data.texts, data.tokens), 1):
            index = data.token_index[begin : begin + len(words.table)]
            begin += len(words.table)
            shared = index >= 0
            probs = apply_temperature(words.table[shared], options.temperature)
            table[index[shared]] = probs[:, data.tags]
            if done % PROGRESS_EVERY == 0 or done == len(data.texts):
                progress.update(
                    bar,
                    completed=done,
                    rate=f"{done / (time.monotonic() - start):.0f} texts/s",
                    refresh=not progress.live.auto_refresh,
                )
    batcher.tokens = batcher.tokens._replace(teacher=table)


def apply_temperature(table: np.ndarray, temperature: float) -> np.ndarray:
    """Return probabilities at a temperature: their logarithms divided by it, normalised again.

    For the probabilities of a softmax, this is the softmax of the logits divided by the temperature.

    Args:
        table: probabilities, float32 [W, C].
        temperature: above 0.
    """
    if temperature == 1:
        return table
    powers = table ** np.float32(1 / temperature)
    return powers / powers.sum(-1, keepdims=True)


def _read_unlabelled(
    source: str,
    dev: Sequence[Example],
    skipped: list[str] | None,
    notes: list[str],
    how: ReadOptions,
) -> list[Example]:
    """Return the examples of `config.distill.texts` without their entities."""
    read = read_texts(source, "distill.texts", skipped, notes, how)
    labelled = sum(bool(example.entities) for example in read)
    if labelled:
        notes.append(f"distill.texts: {labelled} texts have entities, which are ignored.")
    shared = len({example.text for example in dev} & {example.text for example in read})
    if shared:
        notes.append(
            f"distill.texts: {shared} texts are also in data.dev, so the dev scores may overestimate the "
            "quality on other texts."
        )
    return [replace(example, entities=()) for example in read]


def _match_tags(teacher: LabelSet, student: LabelSet, name: str) -> np.ndarray:
    """Return the index of the teacher's tag for each tag of the student, int64 [C]."""
    teacher_tags, student_tags = teacher.standard_names(), student.standard_names()
    if set(teacher_tags) != set(student_tags):
        raise UserError(
            f"distill.teacher: {name} has {len(teacher)} tags, {teacher.scheme} of "
            f"{', '.join(teacher.categories)}; the student has {len(student)}, {student.scheme} of "
            f"{', '.join(student.categories)}. They must be the same. Set "
            f"--config.data.scheme={teacher.scheme} "
            f"--config.data.categories={_quoted(str(teacher.categories))} for the same tags."
        )
    return np.array([teacher_tags.index(tag) for tag in student_tags])


def _quoted(value: str) -> str:
    """Quote a value for the shell; with double quotes if no character is special within them."""
    return shlex.quote(value) if set(value) & set('"$`\\!') else f'"{value}"'


def _first_tokens(tokens: TokenSet) -> np.ndarray:
    """Return the index of each word's first token, int64 [words]. These tokens must have labels."""
    first = tokens.labels != NO_LABEL
    ends = np.cumsum(tokens.lengths)
    first[ends - tokens.lengths] = first[ends - 1] = False  # [CLS] and [SEP]
    return np.flatnonzero(first)


def _align_words(student: Tokens, teacher: Tokens, sizes: np.ndarray) -> np.ndarray:
    """Return the index of the student's word with the same span as each word of the teacher.

    Args:
        student: tokens of the texts.
        teacher: tokens of the same texts.
        sizes: length of each text in characters, int64 [texts].

    Returns:
        int64 [words of the teacher]; -1: the student has no such word.
    """
    shift = np.cumsum(sizes + 1) - sizes  # offset of each text if all were joined by one character

    def spans(tokens: Tokens) -> tuple[np.ndarray, np.ndarray]:
        first = tokens.first
        offset = shift[np.repeat(np.arange(len(sizes)), tokens.lengths)[first]]
        return tokens.start[first] + offset, tokens.end[first] + offset

    (start, end), (teacher_start, teacher_end) = spans(student), spans(teacher)
    word = np.searchsorted(start, teacher_start)
    start, end = np.append(start, -1), np.append(end, -1)  # searchsorted may return len(start)
    return np.where((start[word] == teacher_start) & (end[word] == teacher_end), word, -1)
