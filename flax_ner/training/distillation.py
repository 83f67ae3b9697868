"""Learning from a teacher: a larger tagger's probabilities beside the labels, and on texts without any.

The teacher is asked once, before training. Its answers are a column of the `TokenSet` and go into
batches as labels do, so that a step costs what it costs without.

Source: Hinton, Vinyals and Dean 2015, arXiv 1503.02531.
"""

import hashlib
import shlex
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.scipy.special import xlogy
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from ml_collections import ConfigDict
from rich.console import Console

from flax_ner.errors import UserError
from flax_ner.inference.tagger import Tagger
from flax_ner.model.crf import IMPOSSIBLE, chain
from flax_ner.model.decoding import Decoder
from flax_ner.model.tagger import Params, cast_kernels
from flax_ner.text.batches import Batcher
from flax_ner.text.encoding import NO_LABEL, UNLABELLED, TokenSet, encode_examples
from flax_ner.text.examples import Example
from flax_ner.text.formats import read_texts
from flax_ner.text.labels import LabelSet, SpanLabels
from flax_ner.text.tokenizer import Tokenizer, Tokens
from flax_ner.training.gradients import Loss, counted, has_label
from flax_ner.training.log import progress_bar
from flax_ner.training.mesh import BATCH, put_whole
from flax_ner.weights.convert import open_model
from flax_ner.weights.model_dir import ModelDir

LEAST_SHARED = 0.5  # share of the student's words that the teacher must have too
DRAWN = 64  # texts, behind which the bar moves
TEACHER_READS = "the texts and tokens of distill.teacher"  # name of `fingerprint` in inputs.json


@dataclass
class Lesson:
    """What a teacher is to be asked, and where its answers go."""

    teacher: ModelDir
    labels: LabelSet  # the teacher's
    texts: list[str]
    tokens: Tokens  # of the texts, by the teacher's tokenizer
    places: np.ndarray  # int64 [words of the teacher], the student's token of each; -1: it has none
    tags: np.ndarray  # int64 [C], the teacher's tag of each of the student's


def fingerprint(lesson: Lesson | None) -> bytes:
    """Return a digest of all but the parameters that decides what a teacher answers; b"" without one."""
    if lesson is None:
        return b""
    model, config = lesson.teacher, lesson.teacher.config
    digest = hashlib.sha256()
    for text in lesson.texts:
        digest.update(repr(text).encode())
    reads: tuple[Any, ...] = (
        lesson.labels.names, model.vocab, model.tokenizer, model.lower_case, model.max_length,
    )  # fmt: skip
    if model.definition:  # so that other digests are those of earlier versions
        reads += (model.definition,)
    # By name: a field that a later version adds must not change the digest.
    computes = (
        config.head, config.ensemble, config.num_attention_heads, config.hidden_act,
        config.layer_norm_eps, config.compute_dtype,
    )  # fmt: skip
    digest.update(repr((reads, computes)).encode())
    return digest.digest()


def has_teacher(options: ConfigDict) -> bool:
    """Whether `config.distill` asks for one; what has no weight is not asked."""
    return bool(options.teacher) and options.weight > 0


def make_lesson(
    config: ConfigDict,
    train: Sequence[Example],
    dev: Sequence[Example],
    tokens: TokenSet,
    train_tokens: Tokens,
    tokenizer: Tokenizer,
    labels: LabelSet,
    skipped: list[str] | None,
    notes: list[str],
) -> tuple[TokenSet, Lesson]:
    """Open the teacher, read `config.distill.texts`, and find the words that both models know.

    Args:
        config: of the run.
        train: the labelled examples.
        dev: those that training is scored on.
        tokens: of `train`, encoded.
        train_tokens: of the texts of `train`, by the student's tokenizer.
        tokenizer, labels: the student's.
        skipped: as in `read_examples`.
        notes: takes what a user should know.

    Returns:
        The tokens to train on, those of texts without labels behind the others, with `UNLABELLED` words;
        and what the teacher is to be asked about them.

    Raises:
        UserError: there is no such teacher, it cannot tag or has other tags than the student, it reads
            other words, or the texts cannot be read.
    """
    options = config.distill
    teacher, report = open_model(options.teacher, "distill.teacher")
    notes += [f"{options.teacher}: {note}" for note in (report.notes if report else ())]
    if teacher.labels is None:
        raise UserError(
            f"distill.teacher: {options.teacher} is an encoder without a head, and cannot tag. Fine-tune it "
            f"first: python train.py --config configs/cluener.py --workdir DIR "
            f"--config.init_from={options.teacher}"
        )
    if isinstance(teacher.labels, SpanLabels):
        raise UserError(
            f"distill.teacher: {options.teacher} has the head global_pointer, which gives spans and no tags. "
            "Take a teacher with another head."
        )
    tags = _same_tags(teacher.labels, labels, options.teacher)
    texts, places = [example.text for example in train], _word_places(tokens)
    if options.texts:
        bare = _read_bare(options.texts, dev, skipped, notes)
        bare_tokens = tokenizer.tokenize([example.text for example in bare])
        more = encode_examples(bare, tokenizer, labels, config.data.max_length, tokens=bare_tokens)
        places = np.append(places, len(tokens.ids) + _word_places(more))
        more = more._replace(labels=np.where(more.labels == NO_LABEL, NO_LABEL, UNLABELLED))
        tokens = TokenSet(*map(np.concatenate, zip(tokens[:3], more[:3], strict=True)))
        texts += [example.text for example in bare]
        train_tokens = Tokens(*map(np.concatenate, zip(train_tokens, bare_tokens, strict=True)))
    sizes = np.fromiter(map(len, texts), np.int64, len(texts))
    theirs = train_tokens
    if (teacher.tokenizer, teacher.lower_case, teacher.vocab, teacher.definition) != (
        tokenizer.kind,
        tokenizer.lower_case,
        tokenizer.tokens,
        tokenizer.definition,
    ):
        theirs = teacher.build_tokenizer().tokenize(texts)
    same = _same_words(train_tokens, theirs, sizes)
    known = int((same >= 0).sum())
    if known < len(places) * LEAST_SHARED:
        remedy = f"--config.tokenizer.kind={teacher.tokenizer} reads them alike."
        if tokenizer.kind == teacher.tokenizer:
            remedy = "Start the student from weights with the teacher's tokenizer.json."
        raise UserError(
            f"distill.teacher: {options.teacher} reads words as {teacher.tokenizer}, the student as "
            f"{tokenizer.kind}: {known} of the student's {len(places)} words are words of the teacher. {remedy}"
        )
    if known < len(places):
        notes.append(
            f"{len(places) - known} of {len(places)} words are no words of the teacher ({teacher.tokenizer}): "
            "there only the labels count."
        )
    notes.append(
        f"{options.teacher} teaches: {options.weight:g} of the loss, at temperature {options.temperature:g}, "
        f"on {len(texts)} texts, {len(texts) - len(train)} of them without labels."
    )
    # The last place is taken by words that are nowhere, and is nowhere too.
    return tokens, Lesson(teacher, teacher.labels, texts, theirs, np.append(places, -1)[same], tags)


def ask_teacher(
    lesson: Lesson, batcher: Batcher, config: ConfigDict, mesh: Mesh, console: Console
) -> None:
    """Let the teacher tag all texts, on all devices of the mesh, and give its answers to the batcher.

    The answers are probabilities at the temperature, those of a head `crf` its marginals; in float16.
    Of several processes each must ask, and has all answers.
    """
    model, options = lesson.teacher, config.distill
    count = len(lesson.tags)
    size = len(batcher.tokens.ids) * count * np.dtype(np.float16).itemsize
    console.print(
        f"{options.teacher} tags {len(lesson.texts)} texts. Its answers take {size / 1e6:.1f} MB, and the "
        "batches of an epoch at least as much again, here and on the devices.",
        highlight=False,
    )
    whole = NamedSharding(mesh, P())
    params = cast_kernels(model.config, model.params)
    tagger = Tagger(
        model.config,
        put_whole(params, jax.tree.map(lambda _: whole, params)),
        model.build_tokenizer(),
        lesson.labels,
        model.max_length,
        config.eval.batch_size,
        NamedSharding(mesh, P(BATCH)),
    )
    table = np.zeros((len(batcher.tokens.ids), count), np.float16)
    begin, start = 0, time.monotonic()
    with progress_bar(console) as progress:
        bar = progress.add_task("teacher", total=len(lesson.texts), rate="")
        for done, words in enumerate(tagger.explain_words(lesson.texts, lesson.tokens), 1):
            places = lesson.places[begin : begin + len(words.table)]
            begin += len(words.table)
            here = places >= 0
            table[places[here]] = soften(words.table[here], options.temperature)[:, lesson.tags]
            if done % DRAWN == 0 or done == len(lesson.texts):
                progress.update(
                    bar,
                    completed=done,
                    rate=f"{done / (time.monotonic() - start):.0f} texts/s",
                    refresh=not progress.live.auto_refresh,
                )
    batcher.tokens = batcher.tokens._replace(teacher=table)


def soften(table: np.ndarray, temperature: float) -> np.ndarray:
    """Probabilities float32 [W, C] at a temperature: as if their logarithms had been divided by it.

    Of a softmax that is the softmax of the logits divided by it.
    """
    if temperature == 1:
        return table
    powers = table ** np.float32(1 / temperature)
    return powers / powers.sum(-1, keepdims=True)


def distilled(loss_of: Loss, options: ConfigDict, decoder: Decoder | None = None) -> Loss:
    """A loss with a teacher's share, or without a teacher that itself.

    For each token (1 - weight) times the loss of its label and weight temperature^2 KL(teacher ||
    student), both at the temperature; then the mean over tokens with a label or an answer. A token
    without label has the second part alone, one without answer the first. Of a student's chain the
    second part compares marginals.

    Args:
        loss_of: of the labels, a mean over the tokens that have one.
        options: `config.distill`.
        decoder: of the student; needed where its head is `crf`.
    """
    if not has_teacher(options):
        return loss_of
    weight, temperature = options.weight, options.temperature

    def both(logits: Array, batch: Any, head: Params) -> Array:
        labelled = ((batch.segment_ids > 0) & has_label(batch)).sum().astype(jnp.float32)
        count = jnp.maximum(counted(batch).sum(), 1).astype(jnp.float32)
        own = loss_of(logits, batch, head) * (labelled / count)
        scores = logits
        if decoder is not None and decoder.head == "crf":
            chains = chain(batch.segment_ids, batch.positions, batch.labels != NO_LABEL)
            scores = decoder.log_marginals(head, logits, chains)
        apart = divergence_from(batch.teacher, scores, temperature).sum() / count
        return (1 - weight) * own + weight * temperature**2 * apart

    return both


def divergence_from(teacher: Array, logits: Array, temperature: float) -> Array:
    """KL(teacher || student) of every token, float32 [B, T], over the tags that the student can choose.

    It counts by the share of the teacher's answer that they have: of the rest nothing can be learnt.

    Args:
        teacher: its probabilities at the temperature, float16 [B, T, C]; where they are zeros, the
            divergence is 0.
        logits: the student's, or logarithms of its probabilities, float32 [B, T, C].
        temperature: by which the logits are divided.
    """
    whole = teacher.astype(logits.dtype)
    p = jnp.where(logits > IMPOSSIBLE / 2, whole, 0)
    total, possible = whole.sum(-1), p.sum(-1)  # float16 rounds each by itself
    p /= jnp.where(possible > 0, possible, 1)[..., None]
    apart = (xlogy(p, p) - p * jax.nn.log_softmax(logits / temperature)).sum(-1)
    return apart * possible / jnp.where(total > 0, total, 1)


def _read_bare(
    source: str, dev: Sequence[Example], skipped: list[str] | None, notes: list[str]
) -> list[Example]:
    """The texts of `config.distill.texts`, as if nothing were in them."""
    read = read_texts(source, "distill.texts", skipped, notes)
    labelled = sum(bool(example.entities) for example in read)
    if labelled:
        notes.append(f"distill.texts: {labelled} texts have entities, which are left out.")
    shared = len({example.text for example in dev} & {example.text for example in read})
    if shared:
        notes.append(
            f"distill.texts: {shared} of its texts are in data.dev too, whose scores then say less about "
            "other texts."
        )
    return [replace(example, entities=()) for example in read]


def _same_tags(teacher: LabelSet, student: LabelSet, name: str) -> np.ndarray:
    """The teacher's tag of each of the student's, int64 [C]."""
    theirs, own = teacher.standard_names(), student.standard_names()
    if set(theirs) != set(own):
        raise UserError(
            f"distill.teacher: {name} has {len(teacher)} tags, {teacher.scheme} of "
            f"{', '.join(teacher.categories)}; the student has {len(student)}, {student.scheme} of "
            f"{', '.join(student.categories)}. They must be the same: --config.data.scheme={teacher.scheme} "
            f"--config.data.categories={_quoted(str(teacher.categories))} gives the student those of the "
            "teacher."
        )
    return np.array([theirs.index(tag) for tag in own])


def _quoted(value: str) -> str:
    """Return a value as a shell takes it, in double quotes where these change nothing in it."""
    return shlex.quote(value) if set(value) & set('"$`\\!') else f'"{value}"'


def _word_places(tokens: TokenSet) -> np.ndarray:
    """The first token of each word, in the order of the texts, int64 [words]; all must have labels."""
    first = tokens.labels != NO_LABEL
    ends = np.cumsum(tokens.lengths)
    first[ends - tokens.lengths] = first[ends - 1] = False  # [CLS] and [SEP]
    return np.flatnonzero(first)


def _same_words(student: Tokens, teacher: Tokens, sizes: np.ndarray) -> np.ndarray:
    """The student's word of the same characters as each of the teacher's, int64; -1: there is none.

    Args:
        student, teacher: tokens of the same texts.
        sizes: int64 [texts], their characters.
    """
    shift = np.cumsum(sizes + 1) - sizes  # all texts as one, with a character between them

    def spans(tokens: Tokens) -> tuple[np.ndarray, np.ndarray]:
        first = tokens.first
        of = shift[np.repeat(np.arange(len(sizes)), tokens.lengths)[first]]
        return tokens.start[first] + of, tokens.end[first] + of

    (start, end), (begins, stops) = spans(student), spans(teacher)
    place = np.searchsorted(start, begins)
    start, end = np.append(start, -1), np.append(end, -1)  # behind the last there is none
    return np.where((start[place] == begins) & (end[place] == stops), place, -1)
