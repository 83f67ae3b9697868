"""Statistics of data sets and the findings of an audit."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flax_ner.data.cluener import read_cluener
from flax_ner.data_quality.audit import (
    Audit,
    EntityCounts,
    LengthSummary,
    audit,
    compute_statistics,
)
from flax_ner.data_quality.findings import FINDING_TITLES, Case
from flax_ner.text.examples import Entity, Example
from flax_ner.text.overlaps import count_overlaps
from tests.text.helpers import examples as random_examples


def example(text: str, *entities: tuple[str, int, int], source: str = "a:1") -> Example:
    return Example(text, tuple(Entity(*entity) for entity in entities), source)


def cases(report: Audit, kind: str) -> list[Case]:
    assert kind in FINDING_TITLES
    return [case for finding in report.findings if finding.kind == kind for case in finding.cases]


def test_statistics_count_texts_entities_and_lengths() -> None:
    data = [
        example("上海到上海的王", ("address", 0, 2), ("address", 3, 5), ("name", 6, 7)),
        example("无人"),
        Example("", None),
        example("abcd", ("name", 0, 3), ("name", 2, 4)),
    ]
    statistics = compute_statistics("data.json", data)
    assert (statistics.name, statistics.texts, statistics.labelled, statistics.without_entities) == (
        "data.json", 4, 3, 1,
    )  # fmt: skip
    assert (statistics.distinct, statistics.mentions) == (4, 5)
    assert (statistics.one_character, statistics.overlapping) == (1, 1)
    assert statistics.by_type == {"address": EntityCounts(1, 2), "name": EntityCounts(3, 3)}
    assert statistics.characters == 13
    assert statistics.text_lengths == LengthSummary(0, 3.0, 3.25, pytest.approx(6.55), 7)
    assert statistics.entity_lengths == LengthSummary(1, 2.0, 2.0, pytest.approx(2.8), 3)


def test_an_empty_data_set_has_zero_statistics_and_no_findings() -> None:
    statistics = compute_statistics("none", [])
    assert (
        statistics.text_lengths == statistics.entity_lengths == LengthSummary(0, 0.0, 0.0, 0.0, 0)
    )
    assert audit({"none": []}).findings == audit({}).findings == []


def test_repeated_texts_within_and_across_files() -> None:
    files = {
        "a": [
            example("甲乙", ("x", 0, 1)),
            example("甲乙", ("x", 0, 1), source="a:2"),
            example("丙", ("x", 0, 1), source="a:3"),
            example("", source="a:4"),
            example("", source="a:5"),
        ],
        "b": [
            Example("甲乙", None, "b:1"),
            example("丙", ("y", 0, 1), source="b:2"),
            example("丁", source="b:3"),
        ],
    }
    report = audit(files)
    (twice,) = cases(report, "duplicate_text")
    assert twice.description == "2 times" and [p.source for p in twice.locations] == ["a:1", "a:2"]
    differing, alike = cases(report, "shared_text")
    assert (differing.description, differing.count) == ("in 2 files, labelled differently", 2)
    assert [location.source for location in differing.locations] == ["a:3", "b:2"]
    # An unlabelled text is not labelled differently. One line of each file comes first.
    assert (alike.description, alike.count) == ("in 2 files", 3)
    assert [location.source for location in alike.locations] == ["a:1", "b:1", "a:2"]


def test_labels_in_another_order_are_equal() -> None:
    one, two = ("x", 0, 1), ("y", 1, 2)
    report = audit({"a": [example("ab", one, two), example("ab", two, one)]})
    assert cases(report, "duplicate_text")[0].description == "2 times"


def test_overlap_cases_name_both_entities() -> None:
    data = [example("abcdef", ("y", 2, 3), ("x", 0, 4), ("z", 3, 6), ("w", 4, 5))]
    overlap_cases = cases(audit({"a": data}), "overlap")
    assert [case.description for case in overlap_cases] == [
        "y in x 'abcd'",
        "z in x 'abcd'",
        "w in z 'def'",
    ]
    assert [location.type for location in overlap_cases[1].locations] == ["x", "z"]


@given(st.lists(random_examples(st.sampled_from("甲乙")), max_size=5), st.data())
def test_there_are_as_many_overlap_cases_as_counted(
    data: list[Example], more: st.DataObject
) -> None:
    crossed = []
    for row in data:
        spans = st.tuples(st.integers(0, 9), st.integers(1, 9))
        extra = more.draw(st.lists(spans, max_size=3)) if len(row.text) > 20 else []
        entities = (*(row.entities or ()), *(Entity("x", a, a + n) for a, n in extra))
        crossed.append(Example(row.text, entities, row.source))
    report = audit({"a": crossed})
    expected = sum(count_overlaps(row.entities or ()) for row in crossed)
    assert len(cases(report, "overlap")) == report.files[0].overlapping == expected


def test_entities_with_wrong_edges_or_one_character() -> None:
    text = "读《围城》，再 见"
    data = [example(text, ("book", 1, 4), ("book", 4, 6), ("name", 6, 8), ("name", 8, 9))]
    report = audit({"a": data})
    assert [c.description for c in cases(report, "unbalanced")] == [
        "《 is never closed",
        "》 is never opened",
    ]
    assert [c.description for c in cases(report, "edge_punctuation")] == ["ends with '，'"]
    assert [c.description for c in cases(report, "edge_space")] == ["ends with ' '"]
    assert [c.locations[0].start for c in cases(report, "one_character")] == [8]


def test_empty_long_and_unlabelled_texts() -> None:
    data = [example("长" * 20), example("短" * 19), example(" \u3000"), Example("?", None, "a:4")]
    report = audit({"a": data, "unlabelled": [Example("!", None, "b:1")]}, ["a:5: not JSON"], 20)
    assert [case.description for case in cases(report, "long_text")] == ["20 characters"]
    assert [case.locations[0].text for case in cases(report, "empty_text")] == [" \u3000"]
    # A file without any label is unlabelled on purpose.
    assert [case.locations[0].source for case in cases(report, "unlabelled_text")] == ["a:4"]
    assert report.errors == ["a:5: not JSON"]


def test_findings_are_in_the_order_of_their_titles() -> None:
    data = [example("a", ("x", 0, 1)), example("a", ("y", 0, 1)), example("")]
    kinds = [finding.kind for finding in audit({"a": data}).findings]
    assert kinds == ["duplicate_text", "two_categories", "one_character", "empty_text"]


@pytest.fixture(scope="module")
def report(cluener: Path) -> Audit:
    return audit({name: read_cluener(cluener / name) for name in ("train.json", "dev.json")})


def test_cluener_statistics_match_the_published_counts(report: Audit) -> None:
    train, dev = report.files
    assert (train.texts, train.distinct, train.mentions) == (10748, 23338, 23972)
    assert (train.one_character, train.overlapping, train.text_lengths.longest) == (22, 2, 50)
    assert (dev.texts, dev.distinct, dev.mentions) == (1343, 2982, 3072)
    assert (dev.one_character, dev.overlapping, dev.text_lengths.longest) == (0, 0, 50)
    assert len(train.by_type) == len(dev.by_type) == 10


def test_cluener_findings(report: Audit) -> None:
    counts = {finding.kind: len(finding.cases) for finding in report.findings}
    assert counts == {
        "two_categories": 479,
        "labelled_and_not": 976,
        "overlap": 2,
        "unbalanced": 377,
        "edge_punctuation": 63,
        "one_character": 22,
    }
    first = cases(report, "two_categories")[0]
    assert first.description == "'《红楼梦》': game 21, book 17"


def test_categories_missing_from_a_file_are_reported_rarest_first() -> None:
    train = [Example("甲乙", (Entity("name", 0, 1), Entity("address", 1, 2)), "train:1")]
    dev = [Example("丙丁", (Entity("nmae", 0, 1), Entity("name", 1, 2)), "dev:1")]
    unlabelled = [Example("戊", None, "unlabelled:1")]
    train += [Example("己", (Entity("address", 0, 1),), "train:2")]
    findings = audit({"train": train, "dev": dev, "unlabelled": unlabelled}).findings
    (cases,) = (f.cases for f in findings if f.kind == "category_in_one_file")
    assert [(case.description, case.count) for case in cases] == [
        ("'nmae', not in train; it may be a misspelling of 'name'", 1),
        ("'address', not in dev", 2),
    ]
    assert cases[0].locations[0].source == "dev:1"
    assert not [f for f in audit({"train": train}).findings if f.kind == "category_in_one_file"]
