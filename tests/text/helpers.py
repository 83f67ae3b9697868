"""Strategies, random data and round trips for the tests of `flax_ner.text`."""

import numpy as np
from hypothesis import strategies as st

from flax_ner.text.examples import Entity, Example
from flax_ner.text.labels import LabelSet

CATEGORIES = (
    "address", "book", "company", "game", "government",
    "movie", "name", "organization", "position", "scene",
)  # fmt: skip
EntityList = list[tuple[str, int, int]]
LENGTH = 30  # of the texts of `round_trip`


@st.composite
def entities(draw: st.DrawFn, length: int, shortest: int = 1, longest: int = 8) -> EntityList:
    """Draw sorted entities of a text of `length` characters. They may be adjacent but do not overlap."""
    gaps, sizes = st.integers(0, 4), st.integers(shortest, longest)
    drawn, position = [], 0
    for gap, size, kind in draw(st.lists(st.tuples(gaps, sizes, st.sampled_from(CATEGORIES)))):
        if position + gap + size <= length:
            drawn.append((kind, position + gap, position + gap + size))
            position += gap + size
    return drawn


@st.composite
def examples(draw: st.DrawFn, alphabet: st.SearchStrategy[str], longest: int = 8) -> Example:
    """Draw a text of up to 60 characters with entities of up to `longest` characters."""
    length = draw(st.integers(0, 60))
    text = "".join(draw(st.lists(alphabet, min_size=length, max_size=length)))
    drawn = draw(entities(length, longest=longest))
    return Example(text, tuple(Entity(t, s, e, text[s:e]) for t, s, e in drawn), "file:1")


def random_tags(labels: LabelSet, rows: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return uniformly random tags, well-formed or not, and a mask of rows of 3 or more tokens."""
    random = np.random.default_rng(seed)
    mask = np.arange(16) < random.integers(3, 17, (rows, 1))
    return random.integers(0, len(labels), (rows, 16)), mask


def tag_names(labels: LabelSet, tags: np.ndarray, mask: np.ndarray) -> list[list[str]]:
    """Return the names of the tags between [CLS] and [SEP], the input format of seqeval."""
    return [
        [labels.names[tag] for tag in row[1 : inside.sum() - 1]]
        for row, inside in zip(tags, mask, strict=True)
    ]


def decode_names(labels: LabelSet, names: str, convention: str) -> EntityList:
    """Decode one row of tag names, [CLS] and [SEP] included."""
    tags = np.array([[labels.names.index(name) for name in names.split()]])
    return labels.decode(tags, np.ones(tags.shape), convention)[0]


def round_trip(labels: LabelSet, gold: EntityList, convention: str) -> EntityList:
    """Encode the entities of a text of `LENGTH` characters and decode their tags."""
    tags = labels.encode(gold, LENGTH)[None]
    return labels.decode(tags, np.ones(tags.shape), convention)[0]
