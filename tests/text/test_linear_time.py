"""Work on a text with many entities grows with their number, not with its square.

Each case takes less than two seconds. With an algorithm of quadratic time it takes a minute or more.
"""

import json
import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from flax_ner.errors import UserError
from flax_ner.text.analysis import pair_up
from flax_ner.text.audit import audit
from flax_ner.text.cluener import read_cluener
from flax_ner.text.encoding import encode_examples
from flax_ner.text.examples import Entity, Example
from flax_ner.text.files import Losses, parse
from flax_ner.text.labels import LabelSet
from flax_ner.text.report import marked
from flax_ner.text.tagged import tags_of, tokenised
from flax_ner.text.tokenizer import CharTokenizer
from flax_ner.text.vocab import SPECIAL_TOKENS

LIMIT = 15  # seconds of processor time


@contextmanager
def time_limit() -> Iterator[None]:
    start = time.process_time()
    yield
    assert time.process_time() - start < LIMIT


def entity_every_three(count: int) -> list[Entity]:
    """Entities of two characters, with one character between them."""
    return [Entity("ab"[i % 2], 3 * i, 3 * i + 2) for i in range(count)]


def around_all(count: int) -> list[Entity]:
    return [Entity("c", 0, 3 * count), *entity_every_three(count)]


def around_each(count: int) -> list[Entity]:
    """As `entity_every_three`, each in a longer one."""
    return [
        e
        for i in range(count)
        for e in (Entity("c", 3 * i, 3 * i + 3), Entity("a", 3 * i, 3 * i + 2))
    ]


SHAPES = [entity_every_three, around_all, around_each]


@pytest.mark.parametrize("shape", SHAPES)
def test_pairing_takes_linear_time(shape: Callable[[int], list[Entity]]) -> None:
    gold = shape(16_000)
    # Every third prediction is too short, and every third has another type.
    predicted = [
        (e, e._replace(end=e.end - 1), e._replace(type="d"))[i % 3] for i, e in enumerate(gold)
    ]
    with time_limit():
        assert len(pair_up(gold, predicted)) == len(gold)
        assert len(pair_up(gold, [])) == len(gold)


@pytest.mark.parametrize("shape", SHAPES)
def test_tagging_tokens_takes_linear_time(shape: Callable[[int], list[Entity]]) -> None:
    entities = shape(20_000)
    text = "甲乙 " * 20_000
    with time_limit():
        spans = tokenised(text, entities, characters=True)
        tags = tags_of(Example(text, tuple(entities)), spans, "BIO", Losses())
    assert len(tags) == 40_000 and tags[0][0] == "B" and tags[-1][0] == "I"


def test_marking_entities_takes_linear_time() -> None:
    text = "甲乙丙" * 100_000
    with time_limit():
        pieces = marked(text, around_each(100_000))
    assert len(pieces) == 100_000


def test_listing_dropped_overlaps_takes_linear_time() -> None:
    text = "甲乙丙" * 30_000
    dropped = list[str]()
    tokenizer = CharTokenizer([*SPECIAL_TOKENS, *"甲乙丙"])
    example = Example(text, tuple(around_each(30_000)), "file:1")
    with time_limit():
        encode_examples([example], tokenizer, LabelSet(["a", "c"]), 128, dropped=dropped)
    assert len(dropped) == 30_000
    assert dropped[-1] == "file:1: a '甲乙' [89997, 89999) overlaps c '甲乙丙' [89997, 90000)"


def test_errors_about_repetition_take_linear_time(tmp_path: Path) -> None:
    surfaces = {chr(0x4E00 + i): [[i, i]] for i in range(20_000)}
    text = "".join(surfaces)
    surfaces[text[-1]] *= 2
    file = tmp_path / "train.json"
    file.write_text(json.dumps({"text": text, "label": {"a": surfaces}}), "utf-8")
    fields = [f'"{i}": 0' for i in range(60_000)]
    with time_limit():
        with pytest.raises(UserError, match="is there twice"):
            read_cluener(file)
        with pytest.raises(UserError, match="'59999' is there twice"):
            parse("{" + ", ".join([*fields, fields[-1]]) + "}", "file:1")


def test_overlaps_with_one_long_entity_share_its_text() -> None:
    entities = around_all(4000)
    text = "甲乙丙" * 4000
    tracemalloc.start()
    findings = audit({"file": [Example(text, tuple(entities), "file:1")]}).findings
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert [len(finding.cases) for finding in findings if finding.kind == "overlap"] == [4000]
    assert peak < 20e6  # bytes; a copy of the text in each case takes 96 MB
