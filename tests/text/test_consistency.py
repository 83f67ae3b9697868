"""Surfaces labelled one way here and another way there."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from flax_ner.text.consistency import category_conflicts, left_unlabelled
from flax_ner.text.examples import Entity, Example
from flax_ner.text.findings import PLACES
from tests.text.helpers import examples as random_examples


def example(text: str, *entities: tuple[str, int, int], line: int = 1) -> Example:
    return Example(text, tuple(Entity(*entity) for entity in entities), f"file:{line}")


def test_a_surface_with_two_categories() -> None:
    data = [example("上海队", ("address", 0, 2), line=i) for i in range(7)]
    data += [example("去上海", ("scene", 1, 3), line=8), example("北京", ("address", 0, 2))]
    (case,) = category_conflicts(data)
    assert (case.what, case.count) == ("'上海': address 7, scene 1", 8)
    assert len(case.places) == PLACES
    # They take turns, so that the rare category is seen.
    assert [place.type for place in case.places[:3]] == ["address", "scene", "address"]
    assert case.places[1] == ("file:8", "去上海", 1, 3, "scene")


def test_more_dissenting_labels_come_first() -> None:
    data = [example("ab", ("x", 0, 1), ("x", 1, 2)) for _ in range(5)]
    data += [example("ab", ("y", 0, 1), ("y", 1, 2)), example("b", ("y", 0, 1))]
    assert [case.what[:3] for case in category_conflicts(data)] == ["'b'", "'a'"]


def test_a_surface_that_is_left_unlabelled_elsewhere() -> None:
    data = [
        example("上海在东", ("address", 0, 2)),
        example("从上海到上海，上海", ("address", 1, 3), line=2),
        Example("上海", None, "file:3"),  # without a label nothing is left out
    ]
    (case,) = left_unlabelled(data)
    assert (case.what, case.count) == ("'上海': address 2, unlabelled 2", 4)
    assert case.places[0] == ("file:2", "从上海到上海，上海", 4, 6, "")
    assert case.places[1].type == "address"


def test_parts_of_entities_and_of_longer_surfaces_are_not_unlabelled() -> None:
    data = [
        example("北京", ("address", 0, 2)),
        example("北京大学", ("organization", 0, 4)),  # inside of an entity
        example("到北京大学", line=3),  # the longest counts
        example("东北京", ("name", 1, 2)),  # across an entity
    ]
    (case,) = left_unlabelled(data)
    assert case.what == "'北京大学': organization 1, unlabelled 1"


def test_letters_are_matched_as_whole_words_only() -> None:
    data = [example("AC", ("name", 0, 2)), example("ACE"), example("MAC")]
    assert left_unlabelled(data) == []
    assert len(left_unlabelled([*data, example("在AC米兰")])) == 1


def test_one_character_is_never_left_unlabelled() -> None:
    assert left_unlabelled([example("中", ("address", 0, 1)), example("中")]) == []


@given(st.lists(random_examples(st.sampled_from("甲乙ab")), max_size=8))
def test_they_agree_with_a_search_character_by_character(data: list[Example]) -> None:
    labelled = Counter(
        (e.type, row.text[e.start : e.end]) for row in data for e in row.entities or ()
    )
    by_surface: dict[str, list[int]] = {}
    for (_, surface), count in labelled.items():
        by_surface.setdefault(surface, []).append(count)
    expected = {repr(s): sum(counts) for s, counts in by_surface.items() if len(counts) > 1}
    assert {c.what.split(":")[0]: c.count for c in category_conflicts(data)} == expected

    known, bare = {s for s in by_surface if len(s) > 1}, Counter[str]()
    for row in data:
        covered = {i for e in row.entities or () for i in range(e.start, e.end)}
        place = 0
        while place < len(row.text):
            for end in range(len(row.text), place + 1, -1):
                edges = (row.text[max(place - 1, 0) : place + 1], row.text[end - 1 : end + 1])
                cut = any(len(edge) == 2 and edge.isascii() for edge in edges)
                free = covered.isdisjoint(range(place, end))
                if row.text[place:end] in known and free and not cut:
                    bare[row.text[place:end]] += 1
                    place = end
                    break
            else:
                place += 1
    found = {c.what.split(":")[0]: int(c.what.split()[-1]) for c in left_unlabelled(data)}
    assert found == {repr(surface): count for surface, count in bare.items()}
