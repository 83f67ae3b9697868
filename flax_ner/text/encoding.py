"""Encode labelled texts: token ids and a label for each token."""

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from flax_ner.errors import UserError
from flax_ner.garbage import no_collections
from flax_ner.text.examples import Entity, Example
from flax_ner.text.labels import LabelSet, SpanLabels, check_span
from flax_ner.text.overlaps import count_overlaps, drop_overlaps
from flax_ner.text.tokenizer import Tokenizer, Tokens

# How the boundaries of an entity align with those of words. `NO_WORD`: it covers only spaces and the like.
ALIGNED, MISALIGNED, NO_WORD = range(3)
NO_LABEL = -1  # label of a token that continues a word; every loss ignores it
UNLABELLED = -2  # label of a word's first token in an unlabelled text; only distillation uses it
PUNCTUATION = "。！？；，、.!?;,\n"  # preferred places to split a long text: after one of these


class TokenSet(NamedTuple):
    """Encoded texts, concatenated. Each sequence includes [CLS] and [SEP]."""

    ids: np.ndarray  # int32 [sum of lengths]
    labels: np.ndarray  # int32 [sum of lengths], or [sum of lengths, K] (see `encode_examples`)
    lengths: np.ndarray  # int64 [sequences]; a long text has several sequences
    # float16 [sum of lengths, C], the teacher's tag probabilities; zeros where it has none.
    teacher: np.ndarray | None = None


@no_collections()
def encode_examples(
    examples: Sequence[Example],
    tokenizer: Tokenizer,
    label_set: LabelSet,
    max_length: int,
    overwrite: bool = False,
    dropped: list[str] | None = None,
    tokens: Tokens | None = None,
) -> TokenSet:
    """Return the tokens and labels of labelled examples.

    With tags, the first token of each word has the word's tag and its other tokens have `NO_LABEL`. With
    `SpanLabels` each token has K labels: one number for each entity that starts there, padded with 0. K is the
    largest number of entities that start at one token.

    An entity that starts or ends inside a word is extended to the whole word. If entities then overlap, only
    the longest is tagged (`drop_overlaps`); with `SpanLabels` all are labelled.

    A text of more than `max_length - 2` tokens is split into pieces. A piece never ends inside an entity. It
    ends after the last punctuation in its second half, or otherwise between words.

    Args:
        examples: labelled texts.
        tokenizer: converts text to tokens.
        label_set: converts entities to labels.
        max_length: maximum sequence length in tokens, [CLS] and [SEP] included.
        overwrite: let a later entity overwrite an earlier one that it overlaps, as MMOCR does. The tag
            sequence may then be one that a CRF does not allow.
        dropped: receives one line, with file and line number, for each entity that is not labelled.
        tokens: the result of `tokenizer.tokenize` for the texts, if the caller has it.

    Raises:
        UserError: an example is not labelled, a category is unknown or a span is invalid. The message names
            file and line.
    """
    if not examples:
        raise UserError("data: there are no examples. Give a file with at least one labelled text.")
    for example in examples:
        if example.entities is None:
            raise UserError(
                f"{example.source}: has no label. Training and scoring need labelled data: "
                "delete the row, or give it an empty label if it has no entities."
            )
    if tokens is None:
        tokens = tokenizer.tokenize([example.text for example in examples])
    spans, _ = _align_to_words(examples, tokens)
    if isinstance(label_set, SpanLabels):
        labels = _span_labels(examples, tokens, spans, label_set)
    else:
        if not overwrite:
            spans = _remove_overlaps(examples, spans, dropped)
        labels = _tag_labels(examples, tokens, spans, label_set)
    pieces = _split_for_training(examples, tokens, spans, max_length - 2)
    ids, source, lengths = tokenizer.add_special_tokens(tokens, *pieces)
    # `source` of a special token can point past the end, so there must be a row to take.
    padded = np.concatenate([labels, np.zeros_like(labels, shape=(1, *labels.shape[1:]))])
    piece_labels = padded.take(source, 0, mode="clip")
    ends = np.cumsum(lengths)
    piece_labels[ends - lengths] = piece_labels[ends - 1] = label_set.outside  # [CLS] and [SEP]
    return TokenSet(ids, piece_labels, lengths)


def align_spans_to_words(
    spans: np.ndarray, start: np.ndarray, end: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the words that overlap each span of characters.

    Args:
        spans: int [E, 2], characters [start, end).
        start: int [words], first character of each word, ascending.
        end: int [words], end of each word, exclusive, ascending.

    Returns:
        Word indices [first, stop) of each span, two int [E]. They are equal if no word overlaps the span.
    """
    first = np.searchsorted(end, spans[:, 0], "right")
    stop = np.searchsorted(start, spans[:, 1], "left")
    return first, np.maximum(first, stop)


class _WordSpan(NamedTuple):
    """An entity with word indices as offsets. Starts with (type, start, end), as any entity does."""

    type: str
    start: int  # index of a word in its text
    end: int  # exclusive
    entity: Entity


def describe_misaligned_entities(
    examples: Sequence[Example], tokens: Tokens, label_set: LabelSet
) -> list[str]:
    """Return notes on the entities that word labels cannot represent: how many, and the first one.

    Args:
        examples: labelled texts.
        tokens: their tokens.
        label_set: the labels that the entities are encoded to.
    """
    spans, alignment = _align_to_words(examples, tokens)
    entities = [(example, e) for example in examples for e in example.entities or ()]
    pairs = list(zip(entities, alignment.tolist(), strict=True))
    misaligned = [entity for entity, kind in pairs if kind == MISALIGNED]
    without_word = [entity for entity, kind in pairs if kind == NO_WORD]
    notes = [
        _count_note(misaligned, "start or end inside a word and are extended to the whole word"),
        _count_note(without_word, "contain no word and are ignored"),
    ]
    added_overlaps = sum(map(count_overlaps, spans)) - sum(
        count_overlaps(e.entities or ()) for e in examples
    )
    if added_overlaps > 0 and not isinstance(label_set, SpanLabels):
        notes.append(
            f"entities that share a word with another entity, so that only one is labelled: {added_overlaps}"
        )
    return [note for note in notes if note]


def misaligned_fraction(examples: Sequence[Example], tokens: Tokens) -> float:
    """Return the fraction of entities that start or end inside a word, 0 if there are no entities.

    Args:
        examples: labelled texts.
        tokens: their tokens.
    """
    _, alignment = _align_to_words(examples, tokens)
    return float((alignment == MISALIGNED).mean()) if len(alignment) else 0.0


@no_collections()
def _align_to_words(
    examples: Sequence[Example], tokens: Tokens
) -> tuple[list[list[_WordSpan]], np.ndarray]:
    """Convert the character offsets of entities to word indices.

    Returns:
        The entities of each example, without those that contain no word; and for every entity `ALIGNED`,
        `MISALIGNED` or `NO_WORD`, int [E].

    Raises:
        UserError: a span is invalid. The message names file and line.
    """
    for example in examples:
        for entity in example.entities or ():
            try:
                check_span(*entity[:3], len(example.text))
            except UserError as error:
                raise UserError(f"{example.source}: {error}") from None
    # Treat all texts as one, with a character between them, so that one search covers all entities.
    sizes = np.array([len(example.text) + 1 for example in examples])
    shift = np.cumsum(sizes) - sizes
    word_text = np.repeat(np.arange(len(examples)), tokens.lengths)[tokens.first]  # [words]
    start = tokens.start[tokens.first] + shift[word_text]
    end = tokens.end[tokens.first] + shift[word_text]
    first_word = np.searchsorted(word_text, np.arange(len(examples)))  # of each text

    rows = [example.entities or () for example in examples]
    entities = [entity for row in rows for entity in row]
    text = np.repeat(np.arange(len(examples)), [len(row) for row in rows])
    offsets = np.array([(e[1], e[2]) for e in entities], np.int64).reshape(-1, 2)
    offsets += shift[text, None]
    first, stop = align_spans_to_words(offsets, start, end)
    alignment = np.where(stop > first, ALIGNED, NO_WORD)
    has_word = alignment == ALIGNED
    alignment[has_word] = np.where(
        (start[first[has_word]] == offsets[has_word, 0])
        & (end[stop[has_word] - 1] == offsets[has_word, 1]),
        ALIGNED,
        MISALIGNED,
    )
    first, stop = first - first_word[text], stop - first_word[text]
    spans: list[list[_WordSpan]] = [[] for _ in examples]
    columns = (text.tolist(), first.tolist(), stop.tolist())
    for entity, i, a, b in zip(entities, *columns, strict=True):
        if a < b:
            spans[i].append(_WordSpan(entity[0], a, b, entity))
    return spans, alignment


def _count_note(entities: list[tuple[Example, Entity]], what: str) -> str:
    if not entities:
        return ""
    example, entity = entities[0]
    surface = example.text[entity[1] : entity[2]]
    return f"entities that {what}: {len(entities)} (first: {example.source} {surface!r})"


def _remove_overlaps(
    examples: Sequence[Example], spans: list[list[_WordSpan]], dropped: list[str] | None
) -> list[list[_WordSpan]]:
    """Return the entities to label, and append a line to `dropped` for each entity removed."""
    kept = []
    for example, row in zip(examples, spans, strict=True):
        kept_row = drop_overlaps(row)[0]
        kept.append(kept_row)
        if dropped is None or len(kept_row) == len(row):
            continue
        # Sorted, so that a binary search finds the kept entities that a removed one overlaps.
        order = sorted(range(len(kept_row)), key=lambda k: kept_row[k].start)
        starts, ends = [kept_row[k].start for k in order], [kept_row[k].end for k in order]
        labelled = {span.entity[:3] for span in kept_row}
        for span in row:
            if span.entity[:3] not in labelled:
                overlapping = order[bisect_right(ends, span.start) : bisect_left(starts, span.end)]
                other = kept_row[min(overlapping)]
                dropped.append(
                    f"{example.source}: {_describe(example, span.entity)} overlaps "
                    f"{_describe(example, other.entity)}"
                )
    return kept


def _describe(example: Example, entity: Entity) -> str:
    category, start, end = entity[:3]
    return f"{category} {example.text[start:end]!r} [{start}, {end})"


def check_tag_transitions(tokens: TokenSet, label_set: LabelSet) -> None:
    """Raise `UserError` if a text has a tag sequence that a CRF over these tags does not allow."""
    labelled = tokens.labels >= 0
    tags = tokens.labels[labelled]
    text = np.repeat(np.arange(len(tokens.lengths)), tokens.lengths)[labelled]
    allowed = label_set.allowed_transitions()[tags[:-1], tags[1:]] | (text[1:] != text[:-1])
    if not allowed.all():
        first = int(np.flatnonzero(~allowed)[0])
        before, after = (label_set.names[tags[i]] for i in (first, first + 1))
        raise UserError(
            f"model.head: 'crf' cannot be trained on data.train, where {after} follows {before}: the tags "
            f"{', '.join(label_set.names)} do not allow it. Set data.scheme and data.categories to train a "
            "head with all tags, or set model.head=softmax."
        )


def _tag_labels(
    examples: Sequence[Example],
    tokens: Tokens,
    spans: list[list[_WordSpan]],
    label_set: LabelSet,
) -> np.ndarray:
    """Return the tag of each token, int32 [M]."""
    first_word = np.append(0, np.cumsum(tokens.first))[np.append(0, np.cumsum(tokens.lengths))]
    words = first_word.tolist()
    # `write_tags` expects a position for [CLS] and one for [SEP], so pad the tags of all words on both sides.
    labels = np.full(words[-1] + 2, label_set.outside, np.int32)
    for i, example in enumerate(examples):
        if spans[i]:
            try:
                label_set.write_tags(labels[words[i] : words[i + 1] + 2], spans[i])
            except UserError as error:
                raise UserError(f"{example.source}: {error}") from None
    token_labels = np.full(len(tokens.ids), NO_LABEL, np.int32)
    token_labels[tokens.first] = labels[1:-1]
    return token_labels


def _span_labels(
    examples: Sequence[Example],
    tokens: Tokens,
    spans: list[list[_WordSpan]],
    label_set: SpanLabels,
) -> np.ndarray:
    """Return the labels of the entities that start at each token, int32 [M, K]."""
    first_token = np.flatnonzero(tokens.first)  # of each word
    text_starts = np.append(0, np.cumsum(tokens.lengths))
    words = np.searchsorted(first_token, text_starts).tolist()
    starts, numbers = list[int](), list[int]()
    for i, example in enumerate(examples):
        try:
            for category, a, b in dict.fromkeys(span[:3] for span in spans[i]):
                start, last = first_token[words[i] + a], first_token[words[i] + b - 1]
                starts.append(start)
                numbers.append(label_set.encode_span(category, last - start + 1))
        except UserError as error:
            raise UserError(f"{example.source}: {error}") from None
    order = np.argsort(starts, kind="stable")
    token = np.array(starts, np.int64)[order]
    column = np.arange(len(token)) - np.searchsorted(token, token)
    labels = np.zeros((len(tokens.ids), max(column.max(initial=0) + 1, 1)), np.int32)
    labels[token, column] = np.array(numbers, np.int32)[order]
    labels[~tokens.first] = NO_LABEL
    return labels


def _split_for_training(
    examples: Sequence[Example],
    tokens: Tokens,
    spans: list[list[_WordSpan]],
    size: int,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Split texts into pieces of at most `size` tokens, none of which ends inside an entity.

    Prediction splits texts with `inference.windows.split_into_windows`, whose windows may overlap.

    Returns:
        Text index, first token and end token (exclusive, both within the text) of each piece; int64 [pieces].
    """
    pieces, offset = list[tuple[int, int, int]](), 0
    for i, length in enumerate(tokens.lengths.tolist()):
        ends = [length]
        if length > size:
            own = slice(offset, offset + length)
            columns = (tokens.first[own], tokens.start[own], tokens.end[own])
            ends = _piece_ends(examples[i], *columns, spans[i], size)
        pieces += [(i, start, end) for start, end in pairwise([0, *ends])]
        offset += length
    text, start, end = np.array(pieces, np.int64).T
    return text, start, end


def _piece_ends(
    example: Example,
    first: np.ndarray,
    start: np.ndarray,
    end: np.ndarray,
    spans: list[_WordSpan],
    size: int,
) -> list[int]:
    """Return the token index at which each piece of a text ends, exclusive.

    Args:
        example: the text.
        first, start, end: columns of its `Tokens`.
        spans: its entities.
        size: maximum number of tokens in a piece.

    Raises:
        UserError: an entity is longer than a piece. The message names file and line.
    """
    length = len(first)
    first_token = np.append(np.flatnonzero(first), length)  # of each word
    inside = np.zeros(length + 1, bool)  # whether a split before this token divides an entity
    for span in spans:
        inside[first_token[span.start] + 1 : first_token[span.end]] = True
    ends, begin = list[int](), 0
    while begin + size < length:
        candidates = begin + 1 + np.flatnonzero(~inside[begin + 1 : begin + size + 1])
        if not len(candidates):
            raise UserError(
                f"{example.source}: the entity at {start[begin]} is longer than {size} tokens, alone or "
                "together with entities that overlap it. Raise data.max_length or correct the data."
            )
        # Empty if a single word has more than `size` tokens.
        between_words = candidates[first[candidates]].tolist()
        after_punctuation = [
            cut
            for cut in between_words
            if cut - begin > size // 2 and example.text[end[cut - 1] - 1] in PUNCTUATION
        ]
        begin = int((after_punctuation or between_words or candidates.tolist())[-1])
        ends.append(begin)
    return [*ends, length]
