"""Reading and writing in all formats: round trips, warnings, damaged data."""

import json
import re
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from flax_ner.data import json_rows
from flax_ner.data.cluener import read_cluener
from flax_ner.data.formats import (
    WRITERS,
    read_examples,
    read_texts,
    stream_examples,
    write_examples,
)
from flax_ner.data.synthetic import synthetic
from flax_ner.data.tagged import SCHEMES
from flax_ner.errors import UserError
from flax_ner.text.examples import Entity, Example
from tests.data.test_cluener import BAD, GOOD, VALUES, write
from tests.text.helpers import examples


def test_missing_file_error_names_the_field(tmp_path: Path) -> None:
    for path in (tmp_path / "nowhere.json", tmp_path):
        with pytest.raises(
            UserError, match=f"data.dev: no file '{re.escape(str(path))}'. Give a file in one of"
        ):
            read_examples(str(path), "cluener", "data.dev")


def test_read_examples_reads_the_named_format(tmp_path: Path) -> None:
    path = write(tmp_path, GOOD)
    assert read_examples(str(path), "cluener") == read_cluener(path)
    with pytest.raises(UserError, match=r"data\.format: 'xml' .*auto, cluener, conll"):
        read_examples(str(path), "xml")


def test_notes_count_texts_without_labels_or_characters(tmp_path: Path) -> None:
    path = tmp_path / "data.json"
    rows = [{"text": " ", "label": {}}, {"text": "b"}, {"text": ""}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    notes: list[str] = []
    assert len(list(stream_examples(str(path), "cluener", "data", notes=notes))) == 3
    assert notes == [
        f"data: {path} is read as CLUENER JSON lines.",
        f"data: texts without labels: 2 (first: {path}:2)",
        f"data: texts without characters: 2 (first: {path}:1)",
        f"data: no text in {path} has an entity.",
    ]


def test_a_json_array_is_parsed_once_to_detect_it_and_once_to_read_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, parsed = tmp_path / "data.json", []
    rows = [{"text": "ab", "label": [[0, 1, "name"]]}] * 3
    path.write_text(json.dumps(rows, indent=1))
    parse = json_rows._parse_values
    monkeypatch.setattr(
        json_rows, "_parse_values", lambda *arguments: parsed.append(1) or parse(*arguments)
    )
    assert len(read_examples(str(path), "auto")) == 3
    assert len(parsed) == 2


@pytest.mark.parametrize("data_format", ["cluener", "doccano", "prodigy"])
def test_streamed_examples_are_not_kept(data_format: str, tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    write_examples(path, synthetic("train", 2_000), data_format)
    peaks = []
    for read in (stream_examples, read_examples):
        tracemalloc.start()
        assert sum(1 for _ in read(str(path), data_format)) == 2_000
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[0] < 400_000 < 1_000_000 < peaks[1]


@pytest.mark.parametrize("source", ["train", "4000", "train many", "train 4 5", ""])
def test_synthetic_source_needs_split_and_number(source: str) -> None:
    with pytest.raises(UserError, match=rf"data\.train: '{source}' is not a synthetic data set"):
        read_examples(source, "synthetic", "data.train")


LINE_BREAKS = str.maketrans("\r\n", "  ")
WRITABLE = list(WRITERS)
MIXED = (
    st.sampled_from("中国，aZ9_- \"\\\t\n\r\x85\u2028\u3000\0'#O😀\ufeff\ud800éक") | st.characters()
)


def representable(example: Example, data_format: str) -> Example | None:
    """Return the part of an example that a format can represent; None if the format leaves it out."""
    text, trimmed = example.text, ""  # `trimmed`: characters cut off the edges of entities
    if data_format in ("conll", "brat"):
        text = re.sub("[\ud800-\udfff]", "\ufffd", text)
    if data_format == "conll":
        text = text.translate(LINE_BREAKS)
        if example.entities is None or not text.strip():
            return None
    if data_format in ("conll", "tokens"):
        trimmed = "".join(c for c in set(text) if c.isspace())
    if data_format == "brat":
        trimmed = "\r\n"
    if example.entities is None:
        return Example(text, None)
    kept = []
    for entity in example.entities:
        surface = text[entity.start : entity.end]
        start = entity.start + len(surface) - len(surface.lstrip(trimmed) if trimmed else surface)
        end = entity.end - len(surface) + len(surface.rstrip(trimmed) if trimmed else surface)
        if start < end:
            kept.append(Entity(entity.type, start, end, text[start:end]))
    return Example(text, tuple(kept))


@pytest.mark.parametrize("data_format", WRITABLE)
@settings(max_examples=80, deadline=None)
@given(rows=st.lists(examples(MIXED), min_size=1, max_size=3), unlabelled=st.booleans())
def test_round_trip_loses_only_what_the_warnings_say(
    tmp_path_factory: pytest.TempPathFactory,
    data_format: str,
    rows: list[Example],
    unlabelled: bool,
) -> None:
    # JSON joins the halves of a surrogate pair to one character.
    assume(not any(re.search("[\ud800-\udbff][\udc00-\udfff]", row.text) for row in rows))
    rows = [*rows, Example("x", ()), *([Example("unlabelled", None)] * unlabelled)]
    path = tmp_path_factory.mktemp("round_trip") / "data"
    warnings = write_examples(path, rows, data_format)
    read = read_examples(str(path), data_format)
    expected = [row for row in (representable(row, data_format) for row in rows) if row]
    lossless = len(expected) == len(rows)
    for row, again in zip(expected, read, strict=True):
        assert again.text == row.text
        assert (again.entities is None) == (row.entities is None)
        assert sorted(again.entities or ()) == sorted(row.entities or ())
    if lossless:
        lossless = all(
            row.text == again.text and sorted(row.entities or ()) == sorted(again.entities or ())
            for row, again in zip(rows, read, strict=True)
        )
    assert lossless == (not warnings)


@pytest.mark.parametrize("scheme", SCHEMES)
@settings(max_examples=40, deadline=None)
@given(rows=st.lists(examples(st.sampled_from("中国 ab-é,")), min_size=1, max_size=3))
def test_columns_round_trip_in_every_scheme(
    tmp_path_factory: pytest.TempPathFactory, scheme: str, rows: list[Example]
) -> None:
    path = tmp_path_factory.mktemp("scheme") / "data"
    rows = [*rows, Example("x", ())]
    write_examples(path, rows, "conll", scheme)
    read = read_examples(str(path), "auto")
    expected = [row for row in (representable(row, "conll") for row in rows) if row]
    assert [(e.text, e.entities) for e in read] == [(e.text, e.entities) for e in expected]


def test_cluener_round_trip_in_every_format(cluener: Path, tmp_path: Path) -> None:
    rows = read_cluener(cluener / "dev.json")
    for name in WRITABLE:
        assert write_examples(tmp_path / name, rows, name) == []
        notes: list[str] = []
        again = read_examples(str(tmp_path / name), "auto", notes=notes)
        assert len(notes) == 1 and " is read as " in notes[0]
        assert [e.text for e in again] == [e.text for e in rows]
        pairs = [
            (sorted(a.entities or ()), sorted(b.entities or ()))
            for a, b in zip(again, rows, strict=True)
        ]
        assert all(a == b for a, b in pairs)


def test_scores_and_duplicates_are_counted(tmp_path: Path) -> None:
    example = Example("ab", (Entity("x", 0, 1, "a", 0.5), Entity("x", 0, 1, "a")), "in:7")
    warnings = write_examples(tmp_path / "out", [example], "doccano")
    assert warnings == [
        "scores of entities, left out: 1 (first: in:7)",
        "duplicate entities, kept once: 1 (first: in:7)",
    ]


def test_failed_write_leaves_target_unchanged(tmp_path: Path) -> None:
    path = tmp_path / "out"
    path.write_text("before")
    bad = [Example("ab", (Entity("x", 0, 1),)), Example("ab", (Entity("x", 1, 3),), "in:2")]
    with pytest.raises(UserError, match=r"in:2: x has the span \[1, 3\) in a text of 2"):
        write_examples(path, bad, "cluener")
    clashing = [Example("ab", (Entity("x y", 0, 1), Entity("x_y", 1, 2)))]
    for name in ("conll", "brat"):
        with pytest.raises(UserError, match="'x y', 'x_y' would all be written as x_y"):
            write_examples(tmp_path / f"{name}2", clashing, name)
    assert path.read_text() == "before" and list(tmp_path.iterdir()) == [path]
    with pytest.raises(UserError, match="already exists"):
        write_examples(tmp_path, bad[:1], "brat")
    with pytest.raises(UserError, match=r"the folder .* does not exist"):
        write_examples(tmp_path / "no" / "out", bad[:1], "cluener")
    with pytest.raises(UserError, match=r"'synthetic' cannot be written\. Choose one of cluener"):
        write_examples(path, bad[:1], "synthetic")


def test_unknown_fields_are_counted(tmp_path: Path) -> None:
    path, notes = write(tmp_path, '{"id": 1, "text": "a", "label": {}}\n' * 2), list[str]()
    read_examples(str(path), "cluener", "data.dev", notes=notes)
    assert notes == [
        f"data.dev: {path} is read as CLUENER JSON lines.",
        f"data.dev: field 'id', left out: 2 (first: {path}:1)",
        f"data.dev: no text in {path} has an entity.",
    ]


@pytest.mark.parametrize("line", [line for line, _ in BAD.values()])
def test_cluener_errors_are_the_same_with_detected_format(tmp_path: Path, line: str) -> None:
    path = write(tmp_path, f"{GOOD}\n{line}\n{GOOD}\n")
    with pytest.raises(UserError) as expected:
        read_examples(str(path), "cluener")
    with pytest.raises(UserError) as detected:
        read_examples(str(path), "auto")
    assert str(detected.value) == str(expected.value)


ROWS: list[Any] = [
    {"text": "ab", "label": [[0, 1, "x"]], "id": 1},
    {"text": "ab", "entities": [{"label": "x", "start_offset": 0, "end_offset": 1}]},
    {"data": {"text": "a😀b"}, "annotations": [
        {"result": [{"type": "labels", "value": {"start": 0, "end": 1, "labels": ["x"], "text": "a"}}]}]},
    {"tokens": ["a", "b"], "ner_tags": ["B-x", "I-x"], "text": "a b"},
]  # fmt: skip


@st.composite
def damaged(draw: st.DrawFn, value: Any) -> Any:
    """Draw a JSON value in which one element is replaced by a random value."""
    if not isinstance(value, dict | list) or not value or draw(st.integers(0, 2)) == 0:
        return draw(VALUES)
    keys = list(value) if isinstance(value, dict) else range(len(value))
    key = draw(st.sampled_from(keys))
    items = dict(value) if isinstance(value, dict) else dict(enumerate(value))
    items[key] = draw(damaged(items[key]))
    return items if isinstance(value, dict) else list(items.values())


@settings(max_examples=400, deadline=None)
@given(st.data(), st.sampled_from(ROWS), st.booleans())
def test_damaged_row_is_read_or_reported_with_its_source(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, row: Any, array: bool
) -> None:
    path = tmp_path_factory.getbasetemp() / "damaged.json"
    rows = [row, data.draw(damaged(row)), row]
    lines = [json.dumps(value) for value in rows]
    path.write_text(f"[{','.join(lines)}]" if array else "\n".join(lines))
    skipped: list[str] = []
    read = read_examples(str(path), "auto", skipped=skipped)
    assert 2 <= len(read) == 3 - len(skipped)
    assert all(re.match(rf"{re.escape(str(path))}:( row | task |)2: ", error) for error in skipped)
    for example in read:
        assert all(example.text[e.start : e.end] == e.text for e in example.entities or ())


@pytest.mark.parametrize("data_format", WRITABLE)
def test_byte_order_mark_at_the_start_of_a_text_is_kept(tmp_path: Path, data_format: str) -> None:
    row = Example("\ufeff中国", (Entity("x", 1, 3, "中国"),))
    assert write_examples(tmp_path / "out", [row], data_format) == []
    (again,) = read_examples(str(tmp_path / "out"), "auto")
    assert (again.text, again.entities) == (row.text, row.entities)


def test_reads_texts_from_plain_text_or_data(tmp_path: Path) -> None:
    path = tmp_path / "texts.txt"
    path.write_bytes("甲 乙\r\n\n 丙\n".encode())
    assert read_texts(str(path)) == [
        Example("甲 乙", None, f"{path}:1"), Example(" 丙", None, f"{path}:3"),
    ]  # fmt: skip
    rows = tmp_path / "texts.json"
    rows.write_text('{"id": 0, "text": "甲"}\n', "utf-8")
    notes: list[str] = []
    assert [e.text for e in read_texts(str(rows), "distill.texts", notes=notes)] == ["甲"]
    assert f"distill.texts: field 'id', left out: 1 (first: {rows}:1)" in notes


def test_unreadable_texts_raise(tmp_path: Path) -> None:
    path = tmp_path / "texts.txt"
    with pytest.raises(UserError, match=r"distill\.texts: no file '.*texts\.txt'"):
        read_texts(str(path), "distill.texts")
    path.write_bytes("甲\n".encode() + b"\xff\n")
    with pytest.raises(UserError, match=r"texts\.txt:2: not UTF-8"):
        read_texts(str(path))
    skipped: list[str] = []
    assert len(read_texts(str(path), skipped=skipped)) == len(skipped) == 1
    path.write_text("\n")
    with pytest.raises(UserError, match=r"contains no examples\. Expected one text per line"):
        read_texts(str(path))
