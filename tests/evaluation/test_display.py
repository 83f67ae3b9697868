"""Scores and tagged sentences as tables, text and JSON."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from flax_ner.evaluation.display import (
    EntitySegment,
    flat_segments,
    highlight,
    nested_segments,
    score_json,
    score_table,
)
from flax_ner.evaluation.metrics import score
from flax_ner.text.examples import Entity

SCORES = score(
    [[("b", 0, 2), ("a", 3, 4)], [("a", 0, 1)]],
    [[("b", 0, 2), ("a", 3, 5)], [("a", 0, 1), ("c", 2, 3)]],
)


def test_highlight_brackets_and_names_each_entity() -> None:
    entities = [Entity("name", 4, 7), Entity("address", 1, 3)]  # any order
    text = highlight("在上海的彭小军", entities, ["address", "name"])
    assert text.plain == "在[上海 address]的[彭小军 name]"
    assert {text.plain[span.start : span.end]: span.style for span in text.spans} == {
        "[上海 address]": "green",
        "[彭小军 name]": "cyan",
    }


def test_highlight_shows_the_rest_of_a_crossing_entity() -> None:
    entities = [Entity("x", 0, 3), Entity("y", 2, 5), Entity("y", 1, 2)]
    assert highlight("abcdef", entities, ["x", "y"]).plain == "[a[b y]c x][de y]f"


def test_highlight_shows_nested_entities() -> None:
    entities = [Entity("x", 1, 3), Entity("y", 1, 5), Entity("x", 3, 5), Entity("x", 5, 6)]
    text = highlight("在北京大学a", entities, ["x", "y"])
    assert text.plain == "在[[北京 x][大学 x] y][a x]"
    assert ("[[北京 x][大学 x] y]", "cyan") in {
        (text.plain[span.start : span.end], span.style) for span in text.spans
    }
    crossed = [Entity("x", 0, 10), Entity("y", 5, 15), Entity("x", 6, 8), Entity("y", 6, 7)]
    shown = highlight("0123456789abcdef", crossed, ["x", "y"]).plain
    assert shown == "[012345[[6 y]7 x]89 x][abcde y]f"
    assert list(flat_segments("在北京大学", entities[:3])) == [("在", None), ("北京大学", "y")]


def test_highlight_without_entities_is_the_text() -> None:
    assert highlight("[bold]浙商", [], []).plain == "[bold]浙商"
    assert highlight("", [], []).plain == ""


def test_colours_repeat_after_the_last_one() -> None:
    categories = [f"c{i}" for i in range(7)]
    first, last = (highlight("a", [Entity(c, 0, 1)], categories) for c in ("c0", "c6"))
    assert first.spans[0].style == last.spans[0].style


def test_score_json_has_all_fields() -> None:
    row = json.loads(json.dumps(score_json(SCORES)))
    assert list(row) == ["all", "by_type"]
    assert list(row["by_type"]) == ["a", "b", "c"]
    names = ("precision", "recall", "f1", "gold", "predicted", "correct")
    assert row["all"] == pytest.approx(
        dict(zip(names, (1 / 2, 2 / 3, 4 / 7, 3, 4, 2), strict=True))
    )
    assert row["by_type"]["a"] == pytest.approx(
        dict(zip(names, (0.5, 0.5, 0.5, 2, 2, 1), strict=True))
    )
    assert {row["by_type"]["c"][name] for name in names[:3]} == {0}


def test_score_json_separates_the_total_from_a_category_called_all() -> None:
    scores = score([[("all", 0, 1), ("x", 1, 2)]], [[("all", 0, 1)]])
    assert score_json(scores)["all"]["gold"] == 2


def test_score_table_has_a_row_per_category_and_one_for_all() -> None:
    console = Console(width=100)
    with console.capture() as capture:
        console.print(score_table(SCORES, title="dev, strict"))
    printed = capture.get()
    assert "dev, strict" in printed
    lines = [cells(line) for line in printed.splitlines()]
    assert ["a", "0.5000", "0.5000", "0.5000", "2", "2", "1"] in lines
    assert ["c", "0.0000", "0.0000", "0.0000", "0", "1", "0"] in lines
    assert ["all", "0.5000", "0.6667", "0.5714", "3", "4", "2"] in lines


def cells(line: str) -> list[str]:
    return line.replace("│", " ").split()


def nested_segments_by_copying(text: str, entities: list[Entity]) -> list[str | EntitySegment]:
    """Return what `nested_segments` must return; copies the list of entities after each nested one."""

    def split(position: int, end: int, own: list[Entity]) -> list[str | EntitySegment]:
        segments, i = list[str | EntitySegment](), 0
        while i < len(own):
            entity, i = own[i], i + 1
            start = max(entity.start, position)
            if start >= entity.end:
                continue
            stop = i
            while stop < len(own) and own[stop].start < entity.end:
                stop += 1
            nested = [e for e in own[i:stop] if e.end <= entity.end]
            if nested:
                crossing = [e for e in own[i:stop] if e.end > entity.end]
                own, i = [*crossing, *own[stop:]], 0
            segments += [text[position:start]] if position < start else []
            segments.append(EntitySegment(entity, split(start, entity.end, nested)))
            position = entity.end
        return segments + ([text[position:end]] if position < end else [])

    return split(0, len(text), sorted(entities, key=lambda e: (e.start, -e.end)))


SPANS = st.tuples(st.sampled_from("ab"), st.integers(0, 9), st.integers(1, 6))


@settings(max_examples=300, deadline=None)
@given(st.lists(SPANS, max_size=12))
def test_nested_segments_equals_copying(spans: list[tuple[str, int, int]]) -> None:
    text = "abcdefghijklmno"
    entities = [Entity(category, start, start + size) for category, start, size in spans]
    assert nested_segments(text, entities) == nested_segments_by_copying(text, entities)
