"""Garbage is collected seldom."""

import gc
from collections.abc import Iterator

import pytest

from flax_ner.garbage import no_collections
from flax_ner.text.encoding import encode_examples
from flax_ner.text.examples import Entity, Example
from flax_ner.text.labels import LabelSet
from flax_ner.text.tokenizer import CharTokenizer
from flax_ner.text.vocab import build_vocab


@pytest.fixture
def collections() -> Iterator[list[str]]:
    """Return a list that receives an element when a collection starts."""
    seen: list[str] = []

    def on_collection(phase: str, info: dict[str, int]) -> None:
        if phase == "start":
            seen.append(phase)

    gc.callbacks.append(on_collection)
    yield seen
    gc.callbacks.remove(on_collection)


def test_encoding_collects_no_garbage(collections: list[str]) -> None:
    text = "浙商银行企业信贷部叶老桂"
    examples = [Example(text, (Entity("company", 0, 4), Entity("name", 9, 12)))] * 2000
    tokenizer, labels = CharTokenizer(build_vocab([text])), LabelSet(["company", "name"], "bio")
    collections.clear()
    encode_examples(examples, tokenizer, labels, 128)
    assert len(collections) <= 1  # when they are enabled again


def test_an_error_enables_collections_again() -> None:
    with pytest.raises(KeyError), no_collections():
        assert not gc.isenabled()
        raise KeyError
    assert gc.isenabled()


def test_disabled_collections_stay_disabled() -> None:
    gc.disable()
    try:
        with no_collections():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()
