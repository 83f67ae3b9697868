"""Find surfaces that are labelled inconsistently."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from flax_ner.data_quality.consistency import (
    find_category_conflicts,
    find_similar_categories,
    find_unlabelled_surfaces,
)
from flax_ner.data_quality.findings import MAX_LOCATIONS
from flax_ner.text.examples import Entity, Example
from tests.text.helpers import examples as random_examples


def example(text: str, *entities: tuple[str, int, int], line: int = 1) -> Example:
    return Example(text, tuple(Entity(*entity) for entity in entities), f"file:{line}")


def test_a_surface_with_two_categories_is_a_conflict() -> None:
    data = [example("上海队", ("address", 0, 2), line=i) for i in range(7)]
    data += [example("去上海", ("scene", 1, 3), line=8), example("北京", ("address", 0, 2))]
    (case,) = find_category_conflicts(data)
    assert (case.description, case.count) == ("'上海': address 7, scene 1", 8)
    assert len(case.locations) == MAX_LOCATIONS
    # Locations alternate, so that the rare category is shown.
    assert [location.type for location in case.locations[:3]] == ["address", "scene", "address"]
    assert case.locations[1] == ("file:8", "去上海", 1, 3, "scene")


def test_surfaces_with_more_minority_labels_come_first() -> None:
    data = [example("ab", ("x", 0, 1), ("x", 1, 2)) for _ in range(5)]
    data += [example("ab", ("y", 0, 1), ("y", 1, 2)), example("b", ("y", 0, 1))]
    assert [case.description[:3] for case in find_category_conflicts(data)] == ["'b'", "'a'"]


def test_categories_that_differ_only_in_case_or_space_are_found() -> None:
    data = [example("ab", ("name", 0, 1), ("x", 1, 2), line=i) for i in range(6)]
    data += [example("ab", ("name ", 0, 1), line=7), example("ab", ("Name", 0, 1), line=8)]
    (case,) = find_similar_categories(data)
    assert (case.description, case.count) == ("'name' 6, 'name ' 1, 'Name' 1", 8)
    assert [location.type for location in case.locations[:3]] == ["name", "name ", "Name"]


def test_a_surface_that_is_unlabelled_elsewhere_is_found() -> None:
    data = [
        example("上海在东", ("address", 0, 2)),
        example("从上海到上海，上海", ("address", 1, 3), line=2),
        Example("上海", None, "file:3"),  # not labelled, so nothing is missing
    ]
    (case,) = find_unlabelled_surfaces(data)
    assert (case.description, case.count) == ("'上海': address 2, unlabelled 2", 4)
    assert case.locations[0] == ("file:2", "从上海到上海，上海", 4, 6, "")
    assert case.locations[1].type == "address"


def test_surfaces_within_entities_or_longer_surfaces_are_skipped() -> None:
    data = [
        example("北京", ("address", 0, 2)),
        example("北京大学", ("organization", 0, 4)),  # inside an entity
        example("到北京大学", line=3),  # the longest surface counts
        example("东北京", ("name", 1, 2)),  # overlaps an entity
    ]
    (case,) = find_unlabelled_surfaces(data)
    assert case.description == "'北京大学': organization 1, unlabelled 1"


def test_latin_surfaces_only_match_whole_words() -> None:
    data = [example("AC", ("name", 0, 2)), example("ACE"), example("MAC")]
    assert find_unlabelled_surfaces(data) == []
    assert len(find_unlabelled_surfaces([*data, example("在AC米兰")])) == 1


def test_only_scripts_with_spaces_have_whole_words() -> None:
    thai = [example("ไทย", ("place", 0, 3)), example("ประเทศไทยสวย")]  # written without spaces
    assert len(find_unlabelled_surfaces(thai)) == 1
    korean = [example("서울", ("place", 0, 2)), example("남서울대")]  # another word
    assert find_unlabelled_surfaces(korean) == []
    assert len(find_unlabelled_surfaces([*korean, example("서울 시")])) == 1
    hindi = [example("राम", ("name", 0, 3)), example("रामायण")]  # ends before a vowel sign
    assert find_unlabelled_surfaces(hindi) == []


def test_one_character_surfaces_are_skipped() -> None:
    assert find_unlabelled_surfaces([example("中", ("address", 0, 1)), example("中")]) == []


@given(st.lists(random_examples(st.sampled_from("甲乙ab")), max_size=8))
def test_results_equal_a_search_by_character(data: list[Example]) -> None:
    labelled = Counter(
        (e.type, row.text[e.start : e.end]) for row in data for e in row.entities or ()
    )
    by_surface: dict[str, list[int]] = {}
    for (_, surface), count in labelled.items():
        by_surface.setdefault(surface, []).append(count)
    expected = {repr(s): sum(counts) for s, counts in by_surface.items() if len(counts) > 1}
    assert {c.description.split(":")[0]: c.count for c in find_category_conflicts(data)} == expected

    known, unlabelled = {s for s in by_surface if len(s) > 1}, Counter[str]()
    for row in data:
        covered = {i for e in row.entities or () for i in range(e.start, e.end)}
        start = 0
        while start < len(row.text):
            for end in range(len(row.text), start + 1, -1):
                edges = (row.text[max(start - 1, 0) : start + 1], row.text[end - 1 : end + 1])
                cuts_word = any(len(edge) == 2 and edge.isascii() for edge in edges)
                free = covered.isdisjoint(range(start, end))
                if row.text[start:end] in known and free and not cuts_word:
                    unlabelled[row.text[start:end]] += 1
                    start = end
                    break
            else:
                start += 1
    counts = {
        c.description.split(":")[0]: int(c.description.split()[-1])
        for c in find_unlabelled_surfaces(data)
    }
    assert counts == {repr(surface): count for surface, count in unlabelled.items()}
