"""Prepare texts for the model, and read its outputs as entities or tag probabilities per text."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from flax_ner.inference.spans import choose_disjoint, extract_spans
from flax_ner.inference.windows import split_into_windows
from flax_ner.text.examples import Entity
from flax_ner.text.labels import LabelSet, SpanLabels
from flax_ner.text.tokenizer import Tokenizer, Tokens


class Words(NamedTuple):
    """Tag probabilities of the words of a text. With a character tokenizer every character is a word."""

    table: np.ndarray  # float32 [W, C], probability of every tag
    start: np.ndarray  # int32 [W], characters [start, end) of the text
    end: np.ndarray  # int32 [W]
    tag: np.ndarray  # int32 [W], the predicted tag


class PendingBatch(NamedTuple):
    """Texts whose outputs are being computed. Arrays have an element per token of all windows, in order."""

    texts: Sequence[str]
    text: np.ndarray  # int, index of the token's text
    start: np.ndarray  # int, characters [start, end) of the token's word
    end: np.ndarray
    kept: np.ndarray  # bool, whether the token is in the kept range of its window
    tagged: np.ndarray  # bool, whether the token's tag is read: a kept word start or line break
    line_break: np.ndarray  # bool, whether the token is the [SEP] that stands for a line break
    final_sep: np.ndarray  # bool, whether the token is the [SEP] at the end of the text
    # One element per batch: `source` and `target` of the `rows.Batch`, and the output of the model.
    outputs: list[tuple[np.ndarray, np.ndarray, Any]]


def prepare_inputs(
    texts: Sequence[str], tokens: Tokens, tokenizer: Tokenizer, size: int
) -> tuple[PendingBatch, np.ndarray, np.ndarray, np.ndarray]:
    """Split texts into windows and add [CLS] and [SEP] to each.

    Args:
        texts: the texts.
        tokens: output of the tokenizer for these texts.
        tokenizer: adds the special tokens.
        size: maximum number of tokens per window, without [CLS] and [SEP].

    Returns:
        The pending batch, still without outputs, and the arguments of `rows.pack_batches`: token ids
        int32 [M], word starts bool [M], and lengths int [windows].
    """
    windows = split_into_windows(texts, tokens, size)
    ids, token, lengths = tokenizer.add_special_tokens(
        tokens, windows.text, windows.start, windows.stop
    )
    text = np.repeat(windows.text, lengths)
    start, end, word_start = (
        np.append(column, column.dtype.type(0)).take(token, mode="clip")
        for column in (tokens.start, tokens.end, tokens.first)
    )
    # A word's tag is read from its first token, in the window that keeps the token.
    index = token - (np.cumsum(tokens.lengths) - tokens.lengths)[text]  # within the text
    kept = index >= np.repeat(windows.keep_start, lengths)
    kept &= index < np.repeat(windows.keep_stop, lengths)
    # A line break between windows is represented by the [SEP] before it, and its tag is O. Some
    # tokenizers do not make it a word.
    line_break = (index == np.repeat(windows.stop, lengths)) & np.repeat(
        windows.line_break, lengths
    )
    line_break &= word_start
    # MMOCR: the tag of a text's final [SEP] is read too, as if it were a character.
    final_sep = index == tokens.lengths[text]
    text_lengths = np.fromiter(map(len, texts), np.int32, len(texts))
    start[final_sep] = text_lengths[text[final_sep]]
    end[final_sep] = text_lengths[text[final_sep]] + 1
    tagged = (kept & word_start) | line_break
    return (
        PendingBatch(texts, text, start, end, kept, tagged, line_break, final_sep, []),
        ids,
        word_start,
        lengths,
    )


def collect_entities(
    pending: PendingBatch, labels: LabelSet, convention: str
) -> list[list[Entity]]:
    """Wait for the outputs of `forward.predict` and return the entities of each text.

    Args:
        pending: the texts and their outputs.
        labels: labels of the model.
        convention: see `LabelSet.decode`.
    """
    labels.check(convention)
    if isinstance(labels, SpanLabels):
        columns = _read_spans(pending, labels.nested)
    else:
        columns = _read_tags(pending, labels, convention)
    entities: list[list[Entity]] = [[] for _ in pending.texts]
    for i, category, start, end, score in zip(*(x.tolist() for x in columns), strict=True):
        surface = pending.texts[i][start:end]
        entities[i].append(Entity(labels.categories[category], start, end, surface, score))
    return entities


def collect_words(pending: PendingBatch, labels: LabelSet) -> list[Words]:
    """Wait for the outputs of `forward.predict_proba` and return the words of each text."""
    probs = np.zeros((len(pending.tagged), len(labels)), np.float32)
    tag = np.zeros(len(pending.tagged), np.int32)
    for source, target, (batch_probs, batch_tags) in pending.outputs:
        probs[source] = np.asarray(batch_probs).reshape(-1, len(labels))[target]
        tag[source] = np.asarray(batch_tags).ravel()[target]
    probs[pending.line_break] = np.eye(len(labels))[labels.outside]
    tag[pending.line_break] = labels.outside
    # The tagged tokens are every word of each text once, in order.
    cuts = np.searchsorted(pending.text[pending.tagged], np.arange(1, len(pending.texts)))
    columns = (np.split(x[pending.tagged], cuts) for x in (probs, pending.start, pending.end, tag))
    return [Words(*text) for text in zip(*columns, strict=True)]


def collect_log_probs(pending: PendingBatch) -> list[tuple[float, int]]:
    """Wait for the outputs of `forward.predict`.

    Returns:
        For each text, the log of the probability of all its predicted tags together, and its number of
        words.
    """
    log_p, log_step = np.zeros((2, len(pending.tagged)), np.float64)
    for source, target, decoded in pending.outputs:
        log_p[source], log_step[source] = (np.asarray(x).ravel()[target] for x in decoded[1:])
    read = pending.tagged & ~pending.line_break
    row, log_p, log_step = pending.text[read], log_p[read], log_step[read]
    words = np.bincount(row, minlength=len(pending.texts))
    total = np.bincount(row, log_step, minlength=len(pending.texts))
    first = (np.cumsum(words) - words)[words > 0]
    total[words > 0] += log_p[first] - log_step[first]
    return list(zip(total.tolist(), words.tolist(), strict=True))


def _read_spans(pending: PendingBatch, nested: bool) -> tuple[np.ndarray, ...]:
    """Return text index, category id, first character, end and score of each entity, all [E].

    The score is the sigmoid of the span's score. Unless `nested`, no entities overlap.
    """
    batches = [extract_spans(*batch) for batch in pending.outputs]
    if not batches:  # no text has a token
        return (np.zeros(0, np.int64),) * 5
    first, last, category, scores = (np.concatenate(x) for x in zip(*batches, strict=True))
    # Two overlapping windows may both predict a span. The window that keeps its middle decides.
    kept = pending.kept[(first + last) // 2]
    first, last, category, scores = (x[kept] for x in (first, last, category, scores))
    columns = pending.text[first], category, pending.start[first], pending.end[last], scores
    order = np.lexsort((category, columns[3], columns[2], columns[0]))
    text, category, start, end, scores = (x[order] for x in columns)
    columns = text, category, start, end, 1 / (1 + np.exp(-scores, dtype=np.float64))
    if nested:
        return columns
    chosen = choose_disjoint(text, start, end, scores)
    return tuple(x[chosen] for x in columns)


def _read_tags(pending: PendingBatch, labels: LabelSet, convention: str) -> tuple[np.ndarray, ...]:
    """Return the same columns as `_read_spans`, from predicted tags."""
    tag = np.zeros(len(pending.tagged), np.int32)
    log_p, log_step = np.zeros((2, len(pending.tagged)), np.float32)
    for source, target, decoded in pending.outputs:
        tag[source], log_p[source], log_step[source] = (
            np.asarray(x).ravel()[target] for x in decoded
        )
    tag[pending.line_break] = labels.outside
    read = pending.tagged | pending.final_sep if convention == "mmocr" else pending.tagged
    row, tag, log_p, log_step = (x[read] for x in (pending.text, tag, log_p, log_step))
    # Index of each text's first word.
    row_start = np.searchsorted(row, np.arange(len(pending.texts)))
    spans = labels.spans(tag, row, np.arange(len(row)) - row_start[row], convention)

    # log p(span) = log p(first tag) + the sum of log p(tag | previous tag) of the other tags
    first, stop = row_start[spans.row] + spans.start, row_start[spans.row] + spans.end
    total = np.cumsum(log_step, dtype=np.float64)
    scores = np.exp(log_p[first] + total[stop - 1] - total[first])
    start, end = pending.start[read][first], pending.end[read][stop - 1]
    return spans.row, spans.category_id, start, end, scores
