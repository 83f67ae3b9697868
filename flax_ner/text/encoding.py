"""Labelled texts to tokens, and a label for each word."""

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from flax_ner.errors import UserError
from flax_ner.text.examples import Entity, Example
from flax_ner.text.labels import LabelSet, SpanLabels, check_span
from flax_ner.text.overlaps import drop_overlaps, overlaps
from flax_ner.text.tokenizer import Tokenizer, Tokens

WHOLE, CUT, NO_WORD = range(3)  # how an entity lies on words
NO_LABEL = -1  # of a token that goes on with a word: it counts in no loss
UNLABELLED = -2  # of a token that has a label which nobody knows
PUNCTUATION = "。！？；，、.!?;,\n"  # behind which a long text may well be cut


class TokenSet(NamedTuple):
    """Many encoded texts end to end, [CLS] and [SEP] included."""

    ids: np.ndarray  # int32 [sum of lengths]
    labels: np.ndarray  # int32 [sum of lengths], or [sum of lengths, K] (`encode_examples`)
    lengths: np.ndarray  # int64 [texts, or pieces of them]
    # float16 [sum of lengths, C], what a teacher takes each tag for; zeros where it says nothing
    teacher: np.ndarray | None = None


def encode_examples(
    examples: Sequence[Example],
    tokenizer: Tokenizer,
    label_set: LabelSet,
    max_length: int,
    overwrite: bool = False,
    dropped: list[str] | None = None,
    tokens: Tokens | None = None,
) -> TokenSet:
    """Tokens and labels of all examples.

    A word has its label on its first token, the others have `NO_LABEL`. With `SpanLabels` a token has K
    labels, a number for each entity that begins with it and 0 for the rest, K being as many as begin with
    any. An entity that begins or ends inside a word takes all of it. Of entities that then overlap the longest
    is labelled (`drop_overlaps`), with `SpanLabels` all are. A text of more than `max_length - 2`
    tokens is cut: never inside an entity, behind punctuation where the second half of a piece has any,
    else between words.

    Args:
        examples: whose entities are known.
        tokenizer: text to tokens.
        label_set: entities to labels.
        max_length: tokens of a piece at most, [CLS] and [SEP] included.
        overwrite: let a later entity overwrite an earlier one that it overlaps, as MMOCR does. The labels may
            then be a path that no CRF allows.
        dropped: takes a line with file and line number for each entity that is not labelled.
        tokens: what `tokenizer.tokenize` returns for the texts, if the caller has it already.

    Raises:
        UserError: with file and line, for an unlabelled example, an unknown category or a bad span.
    """
    if not examples:
        raise UserError("data: there are no examples.")
    for example in examples:
        if example.entities is None:
            raise UserError(
                f"{example.source}: has no label. Training and scoring need labelled data."
            )
    if tokens is None:
        tokens = tokenizer.tokenize([example.text for example in examples])
    spans, _ = _word_spans(examples, tokens)
    if isinstance(label_set, SpanLabels):
        labels = _span_labels(examples, tokens, spans, label_set)
    else:
        if not overwrite:
            spans = _without_overlaps(examples, spans, dropped)
        labels = _token_labels(examples, tokens, spans, label_set)
    places = _pieces(examples, tokens, spans, max_length - 2)
    ids, token, lengths = tokenizer.frame(tokens, *places)
    padded = np.concatenate([labels, np.zeros_like(labels, shape=(1, *labels.shape[1:]))])
    framed = padded.take(token, 0, mode="clip")
    ends = np.cumsum(lengths)
    framed[ends - lengths] = framed[ends - 1] = label_set.outside  # [CLS] and [SEP]
    return TokenSet(ids, framed, lengths)


def spans_in_words(
    spans: np.ndarray, start: np.ndarray, end: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The words [first, stop) that share characters with spans.

    Args:
        spans: int [E, 2], characters [start, end).
        start, end: int [words], the characters of each word, ascending.

    Returns:
        Two int [E]; equal where no word does.
    """
    first = np.searchsorted(end, spans[:, 0], "right")
    stop = np.searchsorted(start, spans[:, 1], "left")
    return first, np.maximum(first, stop)


class _WordSpan(NamedTuple):
    """An entity in words; it begins as any entity does."""

    type: str
    start: int  # words [start, end) of the text
    end: int
    entity: Entity


def not_whole_words(examples: Sequence[Example], tokens: Tokens, label_set: LabelSet) -> list[str]:
    """Describe the entities that the words of a text cannot express: how many, and where the first is.

    Args:
        examples: whose entities are known.
        tokens: of their texts.
        label_set: what the entities are encoded to.
    """
    spans, exact = _word_spans(examples, tokens)
    entities = [(example, e) for example in examples for e in example.entities or ()]
    odd = [pair for pair, kind in zip(entities, exact.tolist(), strict=True) if kind == CUT]
    none = [pair for pair, kind in zip(entities, exact.tolist(), strict=True) if kind == NO_WORD]
    told = [
        _told(odd, "begin or end inside a word, all of which counts as theirs"),
        _told(none, "have no word in them and are left out"),
    ]
    together = sum(map(overlaps, spans)) - sum(overlaps(e.entities or ()) for e in examples)
    if together > 0 and not isinstance(label_set, SpanLabels):
        told.append(
            f"entities that share a word with another entity, so only one of them is labelled: {together}"
        )
    return [text for text in told if text]


def cut_share(examples: Sequence[Example], tokens: Tokens) -> float:
    """Return the share of entities that begin or end inside a word, 0 without entities.

    Args:
        examples: whose entities are known.
        tokens: of their texts.
    """
    _, kinds = _word_spans(examples, tokens)
    return float((kinds == CUT).mean()) if len(kinds) else 0.0


def _word_spans(
    examples: Sequence[Example], tokens: Tokens
) -> tuple[list[list[_WordSpan]], np.ndarray]:
    """The entities of each example, [start, end) in words, without those that no word is part of; and of all
    entities whether they are whole words, int [E]: `WHOLE`, `CUT` or `NO_WORD`.

    Raises:
        UserError: with file and line, for a bad span.
    """
    for example in examples:
        for entity in example.entities or ():
            try:
                check_span(*entity[:3], len(example.text))
            except UserError as error:
                raise UserError(f"{example.source}: {error}") from None
    # All texts as one, with a character between them, so that one search finds all.
    sizes = np.array([len(example.text) + 1 for example in examples])
    shift = np.cumsum(sizes) - sizes
    owner = np.repeat(np.arange(len(examples)), tokens.lengths)[tokens.first]  # [words]
    start = tokens.start[tokens.first] + shift[owner]
    end = tokens.end[tokens.first] + shift[owner]
    words_before = np.searchsorted(owner, np.arange(len(examples)))

    entities = [(i, e) for i, example in enumerate(examples) for e in example.entities or ()]
    at = np.array([i for i, _ in entities], np.int64)
    places = np.array([e[1:3] for _, e in entities], np.int64).reshape(-1, 2) + shift[at, None]
    first, stop = spans_in_words(places, start, end)
    kind = np.where(stop > first, WHOLE, NO_WORD)
    held = kind == WHOLE
    kind[held] = np.where(
        (start[first[held]] == places[held, 0]) & (end[stop[held] - 1] == places[held, 1]),
        WHOLE,
        CUT,
    )
    first, stop = first - words_before[at], stop - words_before[at]
    found: list[list[_WordSpan]] = [[] for _ in examples]
    for (i, entity), a, b in zip(entities, first.tolist(), stop.tolist(), strict=True):
        if a < b:
            found[i].append(_WordSpan(entity[0], a, b, entity))
    return found, kind


def _told(entities: list[tuple[Example, Entity]], what: str) -> str:
    if not entities:
        return ""
    example, entity = entities[0]
    surface = example.text[entity[1] : entity[2]]
    return f"entities that {what}: {len(entities)} (first: {example.source} {surface!r})"


def _without_overlaps(
    examples: Sequence[Example], spans: list[list[_WordSpan]], dropped: list[str] | None
) -> list[list[_WordSpan]]:
    """Return the entities that are labelled, and add a line to `dropped` for each other one."""
    kept = []
    for example, row in zip(examples, spans, strict=True):
        whole = drop_overlaps(row)[0]
        kept.append(whole)
        if dropped is None or len(whole) == len(row):
            continue
        order = sorted(range(len(whole)), key=lambda k: whole[k].start)
        starts, ends = [whole[k].start for k in order], [whole[k].end for k in order]
        labelled = {span.entity[:3] for span in whole}
        for span in row:
            if span.entity[:3] not in labelled:
                other = whole[
                    min(order[bisect_right(ends, span.start) : bisect_left(starts, span.end)])
                ]
                dropped.append(
                    f"{example.source}: {_shown(example, span.entity)} overlaps {_shown(example, other.entity)}"
                )
    return kept


def _shown(example: Example, entity: Entity) -> str:
    category, start, end = entity[:3]
    return f"{category} {example.text[start:end]!r} [{start}, {end})"


def check_paths(tokens: TokenSet, label_set: LabelSet) -> None:
    """Raise `UserError` if a text has a tag sequence that a CRF over these tags does not allow."""
    labelled = tokens.labels >= 0
    tags = tokens.labels[labelled]
    text = np.repeat(np.arange(len(tokens.lengths)), tokens.lengths)[labelled]
    legal = label_set.legal_steps()[tags[:-1], tags[1:]] | (text[1:] != text[:-1])
    if not legal.all():
        place = int(np.flatnonzero(~legal)[0])
        before, after = (label_set.names[tags[i]] for i in (place, place + 1))
        raise UserError(
            f"model.head: 'crf' cannot learn from data.train, in which {after} follows {before}: the tags "
            f"{', '.join(label_set.names)} forbid it. Set data.scheme and data.categories for a head with all "
            "tags, or model.head=softmax."
        )


def _token_labels(
    examples: Sequence[Example],
    tokens: Tokens,
    spans: list[list[_WordSpan]],
    label_set: LabelSet,
) -> np.ndarray:
    """A label for each token, int32 [M]."""
    words = np.append(0, np.cumsum(tokens.first))[np.append(0, np.cumsum(tokens.lengths))].tolist()
    # One place before all words and one behind, for `mark` has those of [CLS] and [SEP].
    labels = np.full(words[-1] + 2, label_set.outside, np.int32)
    for i, example in enumerate(examples):
        if spans[i]:
            try:
                label_set.mark(labels[words[i] : words[i + 1] + 2], spans[i])
            except UserError as error:
                raise UserError(f"{example.source}: {error}") from None
    every = np.full(len(tokens.ids), NO_LABEL, np.int32)
    every[tokens.first] = labels[1:-1]
    return every


def _span_labels(
    examples: Sequence[Example],
    tokens: Tokens,
    spans: list[list[_WordSpan]],
    label_set: SpanLabels,
) -> np.ndarray:
    """The entities that begin with each token, int32 [M, K]."""
    first = np.flatnonzero(tokens.first)  # of each word
    texts = np.append(0, np.cumsum(tokens.lengths))
    words = np.searchsorted(first, texts).tolist()
    begins, numbers = list[int](), list[int]()
    for i, example in enumerate(examples):
        try:
            for category, a, b in dict.fromkeys(span[:3] for span in spans[i]):
                begin, last = first[words[i] + a], first[words[i] + b - 1]
                begins.append(begin)
                numbers.append(label_set.number(category, last - begin + 1))
        except UserError as error:
            raise UserError(f"{example.source}: {error}") from None
    order = np.argsort(begins, kind="stable")
    begin = np.array(begins, np.int64)[order]
    column = np.arange(len(begin)) - np.searchsorted(begin, begin)
    labels = np.zeros((len(tokens.ids), max(column.max(initial=0) + 1, 1)), np.int32)
    labels[begin, column] = np.array(numbers, np.int32)[order]
    labels[~tokens.first] = NO_LABEL
    return labels


def _pieces(
    examples: Sequence[Example],
    tokens: Tokens,
    spans: list[list[_WordSpan]],
    size: int,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Which text each piece is of, and its tokens [start, stop) there; int64 [pieces] each."""
    pieces, begin = list[tuple[int, int, int]](), 0
    for i, length in enumerate(tokens.lengths.tolist()):
        stops = [length]
        if length > size:
            here = slice(begin, begin + length)
            columns = (tokens.first[here], tokens.start[here], tokens.end[here])
            stops = _cut(examples[i], *columns, spans[i], size)
        pieces += [(i, start, stop) for start, stop in pairwise([0, *stops])]
        begin += length
    text, start, stop = np.array(pieces, np.int64).T
    return text, start, stop


def _cut(
    example: Example,
    first: np.ndarray,
    start: np.ndarray,
    end: np.ndarray,
    spans: list[_WordSpan],
    size: int,
) -> list[int]:
    """Where the pieces of a text end, counted in tokens.

    Args:
        example: whose text it is.
        first, start, end: of its tokens, as in `Tokens`.
        spans: its entities, in words.
        size: tokens of a piece at most.
    """
    length = len(first)
    word = np.append(np.flatnonzero(first), length)  # their first tokens
    inside = np.zeros(length + 1, bool)  # a cut in front of this token would divide an entity
    for span in spans:
        inside[word[span.start] + 1 : word[span.end]] = True
    stops, begin = list[int](), 0
    while begin + size < length:
        cuts = begin + 1 + np.flatnonzero(~inside[begin + 1 : begin + size + 1])
        if not len(cuts):
            raise UserError(
                f"{example.source}: an entity at {start[begin]} is longer than {size} tokens, by itself or "
                "with others that are labelled and overlap it. Raise data.max_length or correct the data."
            )
        whole = cuts[first[cuts]]  # of a word of more than `size` pieces there is none
        good = [
            cut
            for cut in whole.tolist()
            if cut - begin > size // 2 and example.text[end[cut - 1] - 1] in PUNCTUATION
        ]
        begin = int((good or whole.tolist() or cuts.tolist())[-1])
        stops.append(begin)
    return [*stops, length]
