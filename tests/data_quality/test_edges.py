"""Signs that an entity starts or ends at the wrong character."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flax_ner.data_quality.edges import (
    CLOSING,
    OPENING,
    describe_edge_punctuation,
    describe_edge_space,
    describe_unbalanced,
)


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
        "'abc'",
        "«abc»",
        "‹a›",
        "〖a〗",
        "„abc“",
        "„abc”",
        "‚a‘",
        '"中＂',
        "Let's",
    ],
)
def test_balanced_marks_have_no_problem(surface: str) -> None:
    assert describe_unbalanced(surface) == ""
    assert describe_edge_punctuation(surface) == ""


@pytest.mark.parametrize(
    "surface, expected",
    [
        ("《围城", "《 is never closed"),
        ("围城》", "》 is never opened"),
        ("北京）（上海", "） is never opened"),
        ("（北京", "（ is never closed"),
        ("[a)", ") is never opened"),
        ('"星际', '" is never closed'),
        ("‘星际", "‘ is never closed"),
        ("星际’", "’ is never opened"),
        ("《a》《b", "《 is never closed"),
        ("》", "》 is never opened"),
        ("《（a》）", "》 closes （"),
        ("'90s", "' is never closed"),
        ("abc»", "» is never opened"),
        ("“abc", "“ is never closed"),
    ],
)
def test_an_unmatched_mark_is_described(surface: str, expected: str) -> None:
    assert describe_unbalanced(surface) == expected


MARKS = sorted({*CLOSING, *OPENING, '"', "中", "a"})


@given(st.text(MARKS, max_size=12))
def test_an_enclosing_pair_changes_nothing(inner: str) -> None:
    if not describe_unbalanced(inner):
        assert not describe_unbalanced(f"《{inner}》") and not describe_unbalanced(f"{inner}[]")
        assert describe_unbalanced(f"「{inner}") == "「 is never closed"
        assert describe_unbalanced(f"{inner}」") == "」 is never opened"


@pytest.mark.parametrize(
    "surface, expected",
    [
        (" 北京", "starts with ' '"),
        ("北京\u3000", "ends with '\\u3000'"),
        ("\u200b北京\n", "starts with '\\u200b', ends with '\\n'"),
        (" ", "is only ' '"),
        ("北 京", ""),
    ],
)
def test_spaces_and_invisible_characters_at_the_edges(surface: str, expected: str) -> None:
    assert describe_edge_space(surface) == expected


@pytest.mark.parametrize(
    "surface, expected",
    [
        ("、星际2", "starts with '、'"),
        ("保罗·", "ends with '·'"),
        ("，", "is only '，'"),
        ("《围城》", ""),
        ("*ST金泰", ""),
        ("C#", ""),
        ("保罗·艾伦", ""),
        ("'90s", 'starts with "\'"'),
        ("'abc'", ""),
    ],
)
def test_punctuation_at_the_edges(surface: str, expected: str) -> None:
    assert describe_edge_punctuation(surface) == expected
