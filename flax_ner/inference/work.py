"""Texts on their way through the model: how their tokens lie in pieces, and what its answers say of them."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from flax_ner.inference.spans import spans_of
from flax_ner.inference.windows import split
from flax_ner.text.examples import Entity
from flax_ner.text.labels import LabelSet, SpanLabels
from flax_ner.text.tokenizer import Tokenizer, Tokens


class Words(NamedTuple):
    """What a text's words are likely to be; with one token a character each is a word."""

    table: np.ndarray  # float32 [W, C], the probability of every tag
    start: np.ndarray  # int32 [W], characters [start, end) of the text
    end: np.ndarray  # int32 [W]
    tag: np.ndarray  # int32 [W], the tag that the tagger gives the word


class Work(NamedTuple):
    """Texts that the device is at. Arrays are over all tokens of all pieces, in the order of the texts."""

    texts: Sequence[str]
    text: np.ndarray  # whose token it is
    start: np.ndarray  # the characters [start, end) of its word
    end: np.ndarray
    inside: np.ndarray  # whether it is in the part of its window that counts
    kept: np.ndarray  # whether its tag counts
    breaks: np.ndarray  # whether it stands for a line break
    last: np.ndarray  # whether it is the [SEP] behind the text
    # Source and target of each batch (see `Batch`), and what the device makes of it.
    running: list[tuple[np.ndarray, np.ndarray, Any]]


def lay_out(
    texts: Sequence[str], tokens: Tokens, tokenizer: Tokenizer, size: int
) -> tuple[Work, np.ndarray, np.ndarray, np.ndarray]:
    """Cut texts, whose tokens are these, into pieces of at most `size` tokens between [CLS] and [SEP].

    Returns:
        The work, of which nothing is running yet; and what `rows.batches` takes: the tokens of all pieces
        end to end, int32 [M], whether a word begins with each, bool [M], and the tokens of each piece.
    """
    pieces = split(texts, tokens, size)
    ids, token, lengths = tokenizer.frame(tokens, pieces.text, pieces.start, pieces.stop)
    text = np.repeat(pieces.text, lengths)
    start, end, first = (
        np.append(column, column.dtype.type(0)).take(token, mode="clip")
        for column in (tokens.start, tokens.end, tokens.first)
    )
    # A word's tag is read from its first token, in one window.
    place = token - (np.cumsum(tokens.lengths) - tokens.lengths)[text]  # in its text
    inside = place >= np.repeat(pieces.keep_start, lengths)
    inside &= place < np.repeat(pieces.keep_stop, lengths)
    # A line break between pieces has the place of the [SEP] in front of it, and is outside. Not every
    # tokenizer makes it a word.
    breaks = (place == np.repeat(pieces.stop, lengths)) & np.repeat(pieces.line_break, lengths)
    breaks &= first
    # `mmocr` reads a text's last [SEP] too, as if it were a character.
    last = place == tokens.lengths[text]
    sizes = np.fromiter(map(len, texts), np.int32, len(texts))
    start[last], end[last] = sizes[text[last]], sizes[text[last]] + 1
    kept = (inside & first) | breaks
    return Work(texts, text, start, end, inside, kept, breaks, last, []), ids, first, lengths


def entities_of(work: Work, labels: LabelSet, convention: str) -> list[list[Entity]]:
    """Wait for the device and read what it found in each text, `convention` as of `LabelSet.decode`."""
    labels.check(convention)
    columns = _spans(work) if isinstance(labels, SpanLabels) else _tagged(work, labels, convention)
    found: list[list[Entity]] = [[] for _ in work.texts]
    for i, kind, a, b, p in zip(*(x.tolist() for x in columns), strict=True):
        found[i].append(Entity(labels.categories[kind], a, b, work.texts[i][a:b], p))
    return found


def words_of(work: Work, labels: LabelSet) -> list[Words]:
    """Wait for the device, which was asked for probabilities."""
    table = np.zeros((len(work.kept), len(labels)), np.float32)
    tag = np.zeros(len(work.kept), np.int32)
    for source, target, (probability, best) in work.running:
        table[source] = np.asarray(probability).reshape(-1, len(labels))[target]
        tag[source] = np.asarray(best).ravel()[target]
    table[work.breaks] = np.eye(len(labels))[labels.outside]
    tag[work.breaks] = labels.outside
    # What is kept is every word of each text once, in their order.
    cuts = np.searchsorted(work.text[work.kept], np.arange(1, len(work.texts)))
    columns = (np.split(x[work.kept], cuts) for x in (table, work.start, work.end, tag))
    return [Words(*text) for text in zip(*columns, strict=True)]


def _spans(work: Work) -> tuple[np.ndarray, ...]:
    """Text, category, first character, end and score of each entity, all [E]."""
    parts = [spans_of(*batch) for batch in work.running]
    if not parts:  # no text has a token
        return (np.zeros(0, np.int64),) * 5
    first, last, kind, scores = (np.concatenate(x) for x in zip(*parts, strict=True))
    # One that windows share has its middle in the part of one of them that counts.
    kept = work.inside[(first + last) // 2]
    first, last, kind, scores = (x[kept] for x in (first, last, kind, scores))
    columns = work.text[first], kind, work.start[first], work.end[last], scores
    order = np.lexsort((kind, columns[3], columns[2], columns[0]))
    return tuple(x[order] for x in columns)


def _tagged(work: Work, labels: LabelSet, convention: str) -> tuple[np.ndarray, ...]:
    """As `_spans`, from tags."""
    tag = np.zeros(len(work.kept), np.int32)
    log_p, log_step = np.zeros((2, len(work.kept)), np.float32)
    for source, target, outputs in work.running:
        tag[source], log_p[source], log_step[source] = (
            np.asarray(x).ravel()[target] for x in outputs
        )
    tag[work.breaks] = labels.outside
    kept = work.kept | work.last if convention == "mmocr" else work.kept
    row, tag, log_p, log_step = (x[kept] for x in (work.text, tag, log_p, log_step))
    before = np.searchsorted(row, np.arange(len(work.texts)))  # words of the texts before
    spans = labels.spans(tag, row, np.arange(len(row)) - before[row], convention)

    first, stop = before[spans.row] + spans.start, before[spans.row] + spans.end
    total = np.cumsum(log_step, dtype=np.float64)
    scores = np.exp(log_p[first] + total[stop - 1] - total[first])
    start, end = work.start[kept][first], work.end[kept][stop - 1]
    return spans.row, spans.type, start, end, scores
