"""Audit reports as text, JSON and HTML."""

import json
import re
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from flax_ner.data_quality.audit import Audit, audit
from flax_ner.data_quality.audit_html import audit_html, statistics_html
from flax_ner.data_quality.audit_report import (
    audit_json,
    audit_renderables,
    escape_invisible,
    make_excerpt,
)
from flax_ner.data_quality.findings import Case, Finding, Location
from flax_ner.text.examples import Entity, Example
from tests.text.helpers import examples as random_examples

HOSTILE = '<script>alert("x")</script>&[bold]\x1b[31m]\u202e\ud800$title{0}'


@pytest.fixture(scope="module")
def report() -> Audit:
    size = len(HOSTILE)
    rows = [
        Example(f"在{HOSTILE}里", (Entity(category, 1, 1 + size),), f"{HOSTILE}:{i}")
        for i, category in enumerate((HOSTILE, "name", "name", "name"))
    ]
    return audit({HOSTILE: rows}, [f"{HOSTILE}:9: not JSON"] * 3)


def printed(report: Audit, show: int = 10) -> str:
    console = Console(width=200, force_terminal=False, record=True)
    with console.capture() as capture:
        for part in audit_renderables(report, show):
            console.print(part, soft_wrap=True)
    return capture.get()


@pytest.mark.parametrize(
    "text, expected",
    [
        ("围城 a", "围城 a"),
        ("a\u3000b\n\x1b", "a\\u3000b\\n\\x1b"),
        ("\ud83d", "\\ud83d"),
        ("", ""),
    ],
)
def test_invisible_characters_are_escaped(text: str, expected: str) -> None:
    assert escape_invisible(text) == expected


def test_an_excerpt_shows_the_context_of_an_entity() -> None:
    text = "一二三四五六七八九十一二三四五"
    assert make_excerpt(Location("a:1", text, 0, 2)) == ("", "一二", "三四五六七八九十一二三四…")
    assert make_excerpt(Location("a:1", text, 13, 15)) == ("…二三四五六七八九十一二三", "四五", "")
    assert make_excerpt(Location("a:1", "甲" * 41)) == ("甲" * 40 + "…", "", "")
    long = make_excerpt(Location("a:1", "甲" * 500, 0, 500)).entity
    assert long == "甲" * 40 + "…" + "甲" * 40


def test_text_shows_at_most_the_requested_cases(report: Audit) -> None:
    text = printed(report, show=2)
    assert "errors (3): lines that cannot be read\n" in text
    assert text.count(":9: not JSON") == 2 and "\n  and 1 more\n" in text
    assert text.endswith("errors: 3, warnings: 2\n")
    assert (
        "duplicate_text (1): texts more than once in a file\n  4 times, labelled differently\n"
        in text
    )


def test_text_from_the_data_has_no_effect_on_a_terminal(report: Audit) -> None:
    text = printed(report)
    assert "[bold]\\x1b[31m]\\u202e\\ud800" in text
    assert not set(text) & {"\x1b", "\u202e", "\ud800"}


def test_json_has_every_case_with_its_locations(report: Audit) -> None:
    row = json.loads(json.dumps(audit_json(report)))
    assert row["errors"] == report.errors
    assert row["files"][0]["mentions"] == 4 and row["files"][0]["name"] == HOSTILE
    assert row["files"][0]["by_type"]["name"] == {"distinct": 3, "mentions": 3}
    kinds = [finding["kind"] for finding in row["findings"]]
    assert kinds == ["duplicate_text", "two_categories"]
    (case,) = row["findings"][1]["cases"]
    assert case["count"] == 4 and case["probability"] is None
    assert case["places"][0]["source"] == f"{HOSTILE}:1"
    assert case["places"][0]["text"][1 : case["places"][0]["end"]] == HOSTILE


class Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.open = list[str]()
        self.seen = set[str]()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.add(tag)
        if tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_is_well_formed_and_escapes_the_data(report: Audit) -> None:
    for page in (audit_html(report, 2), statistics_html(report.files)):
        tags = Tags()
        tags.feed(page)
        assert not tags.open and "script" not in tags.seen and {"table", "h1"} <= tags.seen
        assert "&lt;script&gt;" in page and "$title{0}" in page
        assert not set(page) & {"\x1b", "\u202e", "\ud800"}
        page.encode()
    page = audit_html(report, 2)
    assert page.count(":9: not JSON") == 2 and "and 1 more" in page and "<mark>" in page


def test_the_page_is_self_contained_and_fits_a_phone(report: Audit) -> None:
    page = audit_html(report, 10)
    assert not re.search(r"\b(src|href|url|import)\b\s*[=(]", page)
    assert "default-src 'none'" in page and 'name="viewport" content="width=device-width' in page


@given(st.lists(random_examples(st.characters()), max_size=4))
def test_any_data_can_be_shown(data: list[Example]) -> None:
    report = audit({"a": data, "b": data}, ["a:1: not JSON"])
    text, page = printed(report, 2), audit_html(report, 2)
    assert not set(text + page) & set(map(chr, {*range(10), *range(11, 32), 0x202E, 0xFEFF}))
    (text + page).encode()
    Tags().feed(page)
    json.dumps(audit_json(report))


def test_probabilities_are_shown() -> None:
    case = Case("the data has no entity here", (Location("a:1", "王在", 0, 1, "name"),), 1, 0.98765)
    report = Audit([], [], [Finding("missing_entity", [case])])
    assert "  0.9877  the data has no entity here\n    a:1: [王 name]在\n" in printed(report)
    assert "<b>0.9877</b> the data has no entity here" in audit_html(report, 1)
    assert audit_json(report)["findings"][0]["cases"][0]["probability"] == 0.98765
