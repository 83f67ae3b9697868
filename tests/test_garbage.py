"""Garbage is collected seldom."""

import gc
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from flax_ner.garbage import THRESHOLD, no_collections
from flax_ner.huge_pages import REQUEST, VARIABLE
from flax_ner.text.encoding import encode_examples
from flax_ner.text.examples import Entity, Example
from flax_ner.text.labels import LabelSet
from flax_ner.text.tokenizer import CharTokenizer
from flax_ner.text.vocab import build_vocab

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def collections() -> Iterator[list[str]]:
    """Return a list that receives an element when a collection starts."""
    seen: list[str] = []

    def on_collection(phase: str, info: dict[str, int]) -> None:
        if phase == "start":
            seen.append(phase)

    thresholds = gc.get_threshold()
    gc.set_threshold(700, 10, 10)  # Python's default
    gc.callbacks.append(on_collection)
    yield seen
    gc.callbacks.remove(on_collection)
    gc.set_threshold(*thresholds)


def test_encoding_collects_no_garbage(collections: list[str]) -> None:
    text = "浙商银行企业信贷部叶老桂"
    examples = [Example(text, (Entity("company", 0, 4), Entity("name", 9, 12)))] * 2000
    tokenizer, labels = CharTokenizer(build_vocab([text])), LabelSet(["company", "name"], "bio")
    collections.clear()
    encode_examples(examples, tokenizer, labels, 128)
    assert len(collections) <= 1  # when they are enabled again


@pytest.mark.parametrize("entry", ["train.py", "flax_ner/__main__.py"])
def test_commands_collect_garbage_seldom(entry: str) -> None:
    code = (
        "import atexit, gc, runpy, sys\n"
        "atexit.register(lambda: print(gc.get_threshold()[0]))\n"
        f"sys.argv = [{entry!r}, '--help']\n"
        f"runpy.run_path({entry!r}, run_name='__main__')\n"
    )
    command = [sys.executable, "-c", code]
    environment = os.environ | {VARIABLE: REQUEST}  # otherwise the process starts again
    printed = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    ).stdout
    assert printed.splitlines()[-1] == str(THRESHOLD)


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
