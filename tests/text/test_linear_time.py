"""Processing a text with many entities takes linear time.

Each case takes less than two seconds. A quadratic algorithm takes a minute or more.
"""

import json
import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from flax_ner.data.cluener import read_cluener
from flax_ner.data.files import ConversionWarnings
from flax_ner.data.json_rows import parse_json
from flax_ner.data.tagged import tags_from_entities, token_spans
from flax_ner.data_quality.audit import audit
from flax_ner.errors import UserError
from flax_ner.evaluation.analysis import match_entities
from flax_ner.evaluation.display import nested_segments
from flax_ner.text.encoding import encode_examples
from flax_ner.text.examples import Entity, Example
from flax_ner.text.labels import LabelSet
from flax_ner.text.tokenizer import CharTokenizer
from flax_ner.text.utf8 import iterate_lines
from flax_ner.text.vocab import SPECIAL_TOKENS

MAX_SECONDS = 15  # of CPU time


@contextmanager
def time_limit() -> Iterator[None]:
    start = time.process_time()
    yield
    assert time.process_time() - start < MAX_SECONDS


def entity_every_three(count: int) -> list[Entity]:
    """Return entities of two characters with one character between them."""
    return [Entity("ab"[i % 2], 3 * i, 3 * i + 2) for i in range(count)]


def one_around_all(count: int) -> list[Entity]:
    """Return the entities of `entity_every_three` and one that contains all of them."""
    return [Entity("c", 0, 3 * count), *entity_every_three(count)]


def one_around_each(count: int) -> list[Entity]:
    """Return the entities of `entity_every_three`, each nested in a longer one."""
    return [
        e
        for i in range(count)
        for e in (Entity("c", 3 * i, 3 * i + 3), Entity("a", 3 * i, 3 * i + 2))
    ]


LAYOUTS = [entity_every_three, one_around_all, one_around_each]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_matching_entities_takes_linear_time(layout: Callable[[int], list[Entity]]) -> None:
    gold = layout(16_000)
    # Every third prediction is too short, and every third has another type.
    predicted = [
        (e, e._replace(end=e.end - 1), e._replace(type="d"))[i % 3] for i, e in enumerate(gold)
    ]
    with time_limit():
        assert len(match_entities(gold, predicted)) == len(gold)
        assert len(match_entities(gold, [])) == len(gold)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_tagging_tokens_takes_linear_time(layout: Callable[[int], list[Entity]]) -> None:
    entities = layout(20_000)
    text = "甲乙 " * 20_000
    with time_limit():
        spans = token_spans(text, entities, character_level=True)
        tags = tags_from_entities(
            Example(text, tuple(entities)), spans, "BIO", ConversionWarnings()
        )
    assert len(tags) == 40_000 and tags[0][0] == "B" and tags[-1][0] == "I"


@pytest.mark.slow
@pytest.mark.every_python
def test_nesting_entities_takes_linear_time() -> None:
    text = "甲乙丙" * 100_000
    with time_limit():
        segments = nested_segments(text, one_around_each(100_000))
    assert len(segments) == 100_000


def test_listing_dropped_overlaps_takes_linear_time() -> None:
    text = "甲乙丙" * 30_000
    dropped = list[str]()
    tokenizer = CharTokenizer([*SPECIAL_TOKENS, *"甲乙丙"])
    example = Example(text, tuple(one_around_each(30_000)), "file:1")
    with time_limit():
        encode_examples([example], tokenizer, LabelSet(["a", "c"]), 128, dropped=dropped)
    assert len(dropped) == 30_000
    assert dropped[-1] == "file:1: a '甲乙' [89997, 89999) overlaps c '甲乙丙' [89997, 90000)"


def test_reporting_duplicates_takes_linear_time(tmp_path: Path) -> None:
    surfaces = {chr(0x4E00 + i): [[i, i]] for i in range(20_000)}
    text = "".join(surfaces)
    surfaces[text[-1]] *= 2
    file = tmp_path / "train.json"
    file.write_text(json.dumps({"text": text, "label": {"a": surfaces}}), "utf-8")
    fields = [f'"{i}": 0' for i in range(60_000)]
    with time_limit():
        (example,) = read_cluener(file)
        assert len(example.entities or ()) == 20_000
        with pytest.raises(UserError, match="duplicate key '59999'"):
            parse_json("{" + ", ".join([*fields, fields[-1]]) + "}", "file:1")


def test_overlaps_with_one_long_entity_do_not_copy_its_text() -> None:
    entities = one_around_all(4000)
    text = "甲乙丙" * 4000
    tracemalloc.start()
    findings = audit({"file": [Example(text, tuple(entities), "file:1")]}).findings
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert [len(finding.cases) for finding in findings if finding.kind == "overlap"] == [4000]
    assert peak < 20e6  # bytes; copying the text into each case takes 96 MB


def test_lines_with_nul_characters(tmp_path: Path) -> None:
    path = tmp_path / "texts.txt"
    path.write_bytes(b"abc\0def\n" * 100_000)
    with time_limit():
        assert sum(1 for _ in iterate_lines(path)) == 100_000
