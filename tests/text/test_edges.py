"""Signs that an entity begins or ends at the wrong character."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flax_ner.text.edges import OPENING, PAIRS, edge_punctuation, edge_space, unbalanced


@pytest.mark.parametrize(
    "surface",
    [
        "围城",
        "《围城》",
        "(A)B",
        "（半角)",
        "“a”‘b’",
        '"星际"',
        "Let’s",
        "《(a)[b]》「」",
        "＂中＂",
    ],
)
def test_whole_pairs_are_no_fault(surface: str) -> None:
    assert unbalanced(surface) == ""


@pytest.mark.parametrize(
    "surface, told",
    [
        ("《围城", "《 stays open"),
        ("围城》", "》 closes nothing"),
        ("北京）（上海", "） closes nothing"),
        ("（北京", "（ stays open"),
        ("[a)", ") closes nothing"),
        ('"星际', '" stays open'),
        ("‘星际", "‘ stays open"),
        ("星际’", "’ closes nothing"),
        ("《a》《b", "《 stays open"),
        ("》", "》 closes nothing"),
    ],
)
def test_half_a_pair_is_told(surface: str, told: str) -> None:
    assert unbalanced(surface) == told


MARKS = sorted({*PAIRS, *OPENING, '"', "中", "a"})


@given(st.text(MARKS, max_size=12))
def test_a_pair_around_anything_changes_nothing(inner: str) -> None:
    if not unbalanced(inner):
        assert not unbalanced(f"《{inner}》") and not unbalanced(f"{inner}[]")
        assert unbalanced(f"「{inner}") == "「 stays open"
        assert unbalanced(f"{inner}」") == "」 closes nothing"


@pytest.mark.parametrize(
    "surface, told",
    [
        (" 北京", "begins with ' '"),
        ("北京\u3000", "ends with '\\u3000'"),
        ("\u200b北京\n", "begins with '\\u200b', ends with '\\n'"),
        (" ", "is nothing else"),
        ("北 京", ""),
    ],
)
def test_spaces_and_invisible_characters_at_the_edges(surface: str, told: str) -> None:
    assert edge_space(surface) == told


@pytest.mark.parametrize(
    "surface, told",
    [
        ("、星际2", "begins with '、'"),
        ("保罗·", "ends with '·'"),
        ("，", "is nothing else"),
        ("《围城》", ""),
        ("*ST金泰", ""),
        ("C#", ""),
        ("保罗·艾伦", ""),
    ],
)
def test_punctuation_at_the_edges(surface: str, told: str) -> None:
    assert edge_punctuation(surface) == told
