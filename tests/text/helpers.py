"""Strategies and random data that several tests of `flax_ner.text` share."""

import numpy as np
from hypothesis import strategies as st

from flax_ner.text.examples import Entity, Example
from flax_ner.text.labels import LabelSet

CATEGORIES = (
    "address", "book", "company", "game", "government",
    "movie", "name", "organization", "position", "scene",
)  # fmt: skip


@st.composite
def entities(
    draw: st.DrawFn, length: int, shortest: int = 1, longest: int = 8
) -> list[tuple[str, int, int]]:
    """Entities of a text of `length` characters, in order, touching at most."""
    gaps, sizes = st.integers(0, 4), st.integers(shortest, longest)
    found, place = [], 0
    for gap, size, kind in draw(st.lists(st.tuples(gaps, sizes, st.sampled_from(CATEGORIES)))):
        if place + gap + size <= length:
            found.append((kind, place + gap, place + gap + size))
            place += gap + size
    return found


@st.composite
def examples(draw: st.DrawFn, alphabet: st.SearchStrategy[str], longest: int = 8) -> Example:
    """A text of up to 60 characters with entities of up to `longest`."""
    length = draw(st.integers(0, 60))
    text = "".join(draw(st.lists(alphabet, min_size=length, max_size=length)))
    found = draw(entities(length, longest=longest))
    return Example(text, tuple(Entity(t, s, e, text[s:e]) for t, s, e in found), "file:1")


def random_tags(labels: LabelSet, rows: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Tags drawn evenly, valid or not, and a mask of lengths from 3 ([CLS], a character, [SEP])."""
    random = np.random.default_rng(seed)
    mask = np.arange(16) < random.integers(3, 17, (rows, 1))
    return random.integers(0, len(labels), (rows, 16)), mask


def tag_names(labels: LabelSet, tags: np.ndarray, mask: np.ndarray) -> list[list[str]]:
    """Names of the tags between [CLS] and [SEP], as seqeval takes them."""
    return [
        [labels.names[tag] for tag in row[1 : inside.sum() - 1]]
        for row, inside in zip(tags, mask, strict=True)
    ]
