"""`python -m flax_ner predict`: input formats, kept rows and output files."""

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flax_ner import Tagger
from flax_ner.data.formats import WRITERS, read_examples, read_texts, write_examples
from flax_ner.serving.shards import tag_shard
from flax_ner.text.examples import Entity, Example

AIRCRAFT = "他驾驶的是 B-52"  # looks like a token with its tag


def rows_of(out: str) -> list[dict[str, Any]]:
    assert out == "" or out.endswith("\n")
    return [json.loads(line) for line in out.split("\n")[:-1]]


def texts_of(out: str) -> list[str]:
    return [row["text"] for row in rows_of(out)]


@pytest.mark.parametrize("name", ["texts.txt", "texts", "texts.md", "texts.2024"])
@pytest.mark.parametrize("line", [AIRCRAFT, "EU B-ORG", "T1\tORG 0 2\tEU", '{"text": "EU"}', "# x"])
def test_predict_reads_a_text_file_as_plain_text_whatever_its_lines_look_like(
    predict: Callable[..., tuple[str, str]], tmp_path: Path, name: str, line: str
) -> None:
    path = tmp_path / name
    path.write_bytes(f"{line}\n\n{line}\n".encode())
    for arguments, stdin, name_shown in (
        ([path], b"", str(path)),
        (["-"], path.read_bytes(), "standard input"),
        ([], path.read_bytes(), "standard input"),
    ):
        out, err = predict(*arguments, "--threshold", "1", stdin=stdin)
        assert out == f"{line}\n\n{line}\n"
        assert f"flax_ner: {name_shown} is read as plain text, one text per line" in err
        out, _ = predict(*arguments, "--format", "jsonl", stdin=stdin)
        assert texts_of(out) == [line, "", line]
    assert "is read as" not in predict(path, "--input-format", "text")[1]


LINES = st.text(
    st.sampled_from("中b\t \r\n\x00\x0b\x0c\x1b\x1c\x85\u2028\u2029\ufeff😀") | st.characters(codec="utf-8")
)  # fmt: skip


@pytest.mark.slow
@pytest.mark.every_python
@settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(text=LINES, stdin=st.booleans())
def test_there_is_one_output_text_per_input_line(
    predict: Callable[..., tuple[str, str]], tmp_path: Path, text: str, stdin: bool
) -> None:
    data = text.encode()
    *ended, last = data.removeprefix(b"\xef\xbb\xbf").split(b"\n")
    lines = [line.removesuffix(b"\r").decode() for line in ended] + [last.decode()] * bool(last)
    path = tmp_path / "texts.txt"
    path.write_bytes(data)
    arguments = (["-"], data) if stdin else ([path], b"")
    out, _ = predict(*arguments[0], "--format", "jsonl", stdin=arguments[1])
    assert texts_of(out) == lines
    # The text output has one line per text too: at threshold 1 no brackets are added.
    out, _ = predict(*arguments[0], "--threshold", "1", stdin=arguments[1])
    shown = [re.sub("\r$", r"\\r", line) for line in lines]
    assert out == "".join(f"{line}\n" for line in shown)


def test_distillation_reads_the_same_texts(tmp_path: Path) -> None:
    path, notes = tmp_path / "texts.txt", list[str]()
    path.write_bytes(f"\ufeff{AIRCRAFT}\n\na\rb\r\r\n \n{AIRCRAFT}\r".encode())
    read = read_texts(str(path), "distill.texts", notes=notes)
    assert [example.text for example in read] == [AIRCRAFT, "a\rb\r", f"{AIRCRAFT}\r"]
    assert all(example.entities is None for example in read)
    assert notes == [
        f"distill.texts: {path} is read as plain text, one text per line.",
        f"distill.texts: blank lines, left out: 2 (first: {path}:2)",
    ]


EXAMPLES = [Example("ob中b", (Entity("name", 1, 2),)), Example("i中", ())]


@pytest.mark.parametrize(
    ("name", "data_format"),
    [
        ("a.json", "cluener"), ("a.JSON", "label_studio"), ("a.jsonl", "doccano"), ("a.ndjson", "tokens"),
        ("a.conll", "conll"), ("a.char.bmes", "conll"), ("a.bio", "conll"), ("a.bioes", "conll"),
        ("a", "brat"),
    ],
)  # fmt: skip
def test_the_file_name_chooses_the_format_unless_input_format_is_given(
    predict: Callable[..., tuple[str, str]], tmp_path: Path, name: str, data_format: str
) -> None:
    path = tmp_path / name
    write_examples(path, EXAMPLES, data_format)
    out, err = predict(path)
    assert out == "o[b name]中[b name]\ni中\n"
    assert re.match(r"flax_ner: .* is read as (JSON rows|[a-z_]+)", err)
    if path.is_dir():
        assert predict(path / "000001.ann")[0] == "o[b name]中[b name]\n"
        return
    lines = path.read_text("utf-8").split("\n")[:-1]
    assert texts_of(predict(path, "--input-format", "text", "--format", "jsonl")[0]) == lines
    other = path.rename(tmp_path / "a.txt")
    with_format = ("--input-format", data_format)
    assert predict(other, *with_format) == (out, "")
    assert predict("-", *with_format, stdin=other.read_bytes()) == (out, "")


def test_rows_keep_their_fields_as_in_bulk(
    predict: Callable[..., tuple[str, str]], tagger: Tagger, tmp_path: Path
) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(
        '\ufeff{"id": 1.50, "text": "obi", "big": 12345678901234567890123, "x": {"y": [1E5]}}\n'
        '\n{ "text" : "b", "label": [[0, 1, "name"]], "z": "\\u4e2d\\ud800/" }\r\n'
        '{"text": "b\\n\\u2028i", "label": {"name": {"b": [[0, 0]]}}}\n'
        '{"text": "", "label": "positive"}'.encode()
    )
    out, err = predict(path, "--format", "jsonl")
    assert "is read as JSON rows with the text in the field 'text'" in err
    tag_shard(tagger, path, tmp_path / "bulk.jsonl")
    assert out == (tmp_path / "bulk.jsonl").read_text("utf-8")
    assert out.startswith(
        '{"id": 1.50, "text": "obi", "big": 12345678901234567890123, "x": {"y": [1E5]}, '
    )
    assert rows_of(out)[0]["entities"][0]["text"] == "bi"
    again, _ = predict("-", "--format", "jsonl", "--input-format", "jsonl", stdin=path.read_bytes())
    assert again == out
    # A line break within a text does not end a line of output.
    assert predict(path)[0].split("\n")[2] == "[b name]\\n\u2028i"
    assert len(predict(path)[0].split("\n")) == 5


ARRAY = """[
  {"id": 1.50,
   "text": "ob"},
  {"text": "i\\n]", "id": {"a": [2, {"b": "]"}]}} ,{"text":"b"}
]
"""
STUDIO = [{"id": 7, "data": {"text": "ob"}, "annotations": []}, {"id": 8, "data": {"text": "i"}}]
TOKENS = [{"tokens": ["o", "b"], "ner_tags": ["O", "B-x"], "id": 3}, {"tokens": ["i"], "id": 4}]
OLD_DOCCANO = [{"data": "ob", "labels": [], "id": 1}, {"data": "i", "labels": [], "id": 2}]


@pytest.mark.parametrize("rows", [STUDIO, TOKENS, OLD_DOCCANO], ids=["studio", "tokens", "doccano"])
@pytest.mark.parametrize("array", [True, False], ids=["array", "lines"])
def test_rows_without_a_text_field_get_one(
    predict: Callable[..., tuple[str, str]], tmp_path: Path, rows: list[dict[str, Any]], array: bool
) -> None:
    path = tmp_path / "rows.json"
    path.write_text(
        json.dumps(rows, indent=2) if array else "\n".join(json.dumps(row) for row in rows)
    )
    written = rows_of(predict(path, "--format", "jsonl")[0])
    assert texts_of(predict(path, "--format", "jsonl")[0]) == ["ob", "i"]
    assert [len(row.pop("entities")) for row in written] == [1, 0]
    assert [{k: v for k, v in row.items() if k != "text"} for row in written] == rows


def test_elements_of_an_array_keep_their_notation(
    predict: Callable[..., tuple[str, str]], tmp_path: Path
) -> None:
    path = tmp_path / "rows.json"
    path.write_text(ARRAY)
    first, second, third, end = predict(path, "--format", "jsonl")[0].split("\n")
    assert first.startswith('{"id": 1.50,    "text": "ob", "entities": [{"type": "name"')
    assert second == '{"text": "i\\n]", "id": {"a": [2, {"b": "]"}]}, "entities": []}'
    assert third.startswith('{"text":"b", "entities": [') and end == ""
    path.write_text("[ ]")
    assert predict(path, "--format", "jsonl")[0] == ""
    path.write_text("")
    assert predict(path, "--format", "jsonl")[0] == ""


def test_text_field_names_the_field_to_tag(
    predict: Callable[..., tuple[str, str]], tmp_path: Path
) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"text": "o", "body": "ob"}\n{"body": "b", "tokens": []}\n')
    chosen = ("--text-field", "body")
    assert predict(path, *chosen)[0] == "o[b name]\n[b name]\n"
    written = rows_of(predict(path, *chosen, "--format", "jsonl")[0])
    assert [row["body"] for row in written] == ["ob", "b"] and written[0]["text"] == "o"
    stdin = path.read_bytes()
    out, _ = predict("-", *chosen, "--input-format", "jsonl", stdin=stdin)
    assert out == "o[b name]\n[b name]\n"
    for arguments in (
        ["-"],
        [path.rename(tmp_path / "rows.txt")],
        ["-", "--input-format", "conll"],
    ):
        with pytest.raises(SystemExit, match=r"--text-field: .* --input-format jsonl"):
            predict(*arguments, *chosen, stdin=stdin)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ('{"body": "b", "id": 1}', r"rows\.jsonl:2: no field 'text'\. Choose the field with --text-field"),
        ('{"text": 3}', r"rows\.jsonl:2: 'text' is int"),
        ('{"text": "b", "entities": []}', r"rows\.jsonl:2: has a field 'entities' already"),
        ('["b"]', r"rows\.jsonl:2: not a JSON object"),
        ("b", r"rows\.jsonl:2: not JSON"),
    ],
)  # fmt: skip
def test_a_row_that_cannot_be_tagged_is_reported_with_its_line(
    predict: Callable[..., tuple[str, str]], tmp_path: Path, row: str, message: str
) -> None:
    path, out = tmp_path / "rows.jsonl", tmp_path / "out.jsonl"
    path.write_text(f'{{"text": "b"}}\n{row}\n')
    with pytest.raises(SystemExit, match=message):
        predict(path, "--format", "jsonl", "--output", out)
    assert list(tmp_path.iterdir()) == [path]  # no unfinished output is left


def test_a_field_entities_is_allowed_if_rows_are_not_written(
    predict: Callable[..., tuple[str, str]], tmp_path: Path
) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(
        '{"text": "b", "entities": [{"label": "x", "start_offset": 0, "end_offset": 1}]}\n'
    )
    assert predict(path)[0] == "[b name]\n"
    assert rows_of(predict(path, "--format", "clue")[0])[0]["label"] == {"name": {"b": [[0, 0]]}}


def test_text_keeps_control_characters_and_is_not_read_as_markup(
    predict: Callable[..., tuple[str, str]], tmp_path: Path
) -> None:
    path = tmp_path / "texts.txt"
    path.write_bytes(b"\x07o\x08b\x0b\x0c\rb[bold]\x1b[0m\n")
    assert predict(path)[0] == "\x07o\x08[b name]\x0b\x0c\r[b name][[b name]old]\x1b[0m\n"


# --- Output ------------------------------------------------------------------------------------


@pytest.mark.parametrize("output_format", ["text", "jsonl", "clue"])
def test_output_file_equals_standard_output(
    predict: Callable[..., tuple[str, str]], tmp_path: Path, output_format: str
) -> None:
    path, out = tmp_path / "rows.jsonl", tmp_path / "out"
    path.write_text('{"text": "ob\\ud800b", "id": 1}\n')
    arguments = (path, "--format", output_format)
    expected, _ = predict(*arguments)
    printed, err = predict(*arguments, "--output", out)
    assert printed == "" and f"flax_ner: wrote {out}" in err
    assert out.read_bytes().decode() == expected.encode("utf-8", "backslashreplace").decode()


def test_output_replaces_other_files_only_with_force_and_never_the_input(
    predict: Callable[..., tuple[str, str]], tmp_path: Path
) -> None:
    path, out, link = tmp_path / "a.txt", tmp_path / "out.txt", tmp_path / "link.txt"
    path.write_text("b\n")
    link.symlink_to(path)
    for target in (path, link, tmp_path / ".." / tmp_path.name / "a.txt"):
        for force in ([], ["--force"]):
            with pytest.raises(SystemExit, match=r"--output: .* belongs to the input '.*a\.txt'"):
                predict(path, "--output", target, *force)
    out.write_text("precious")
    out.chmod(0o600)
    with pytest.raises(SystemExit, match=r"--output: .*out\.txt' exists\. .* with --force\.$"):
        predict(path, "--output", out)
    with pytest.raises(SystemExit, match=r"--output: no folder '.*none' to write to"):
        predict(path, "--output", tmp_path / "none" / "out.txt")
    assert (path.read_text(), out.read_text()) == ("b\n", "precious")
    path.write_bytes(b"b\n\xff\n")
    with pytest.raises(SystemExit, match=r"a\.txt:2: not UTF-8"):
        predict(path, "--output", out, "--force")
    assert out.read_text() == "precious"
    path.write_text("b\n")
    other = tmp_path / "other.txt"
    other.symlink_to(out)
    predict(path, "--output", other, "--force")  # the link stays a link
    assert other.is_symlink() and out.read_text() == "[b name]\n"
    assert sorted(file.name for file in tmp_path.iterdir()) == [
        "a.txt", "link.txt", "other.txt", "out.txt",
    ]  # fmt: skip


def test_output_may_be_a_pipe(predict: Callable[..., tuple[str, str]], tmp_path: Path) -> None:
    path, pipe = tmp_path / "a.txt", tmp_path / "pipe"
    path.write_text("b\n")
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        predict(path, "--output", pipe)
        assert os.read(reader, 100) == b"[b name]\n"
    finally:
        os.close(reader)
    assert pipe.is_fifo()


@pytest.mark.parametrize("data_format", [name for name in WRITERS if name not in ("conll", "brat")])
def test_predictions_are_written_in_a_data_format(
    predict: Callable[..., tuple[str, str]], tmp_path: Path, data_format: str
) -> None:
    texts = tmp_path / "texts.txt"
    texts.write_text("abi\naa\n")
    target = tmp_path / "out"
    printed, _ = predict(texts, "--format", data_format)
    predict(texts, "--format", data_format, "--output", target)
    assert target.read_text() == printed
    if data_format == "label_studio":
        (first, second) = json.loads(printed)
        (result,) = first["predictions"][0]["result"]
        assert result["value"] == {"start": 1, "end": 3, "text": "bi", "labels": ["name"]}
        assert 0 < result["score"] == first["predictions"][0]["score"] <= 1
        assert second["predictions"][0]["result"] == []
        return
    rows = read_examples(str(target), data_format)
    assert [(e.text, [x[1:3] for x in e.entities or ()]) for e in rows] == [
        ("abi", [(1, 3)]),
        ("aa", []),
    ]


def test_brat_needs_an_output(predict: Callable[..., tuple[str, str]], tmp_path: Path) -> None:
    (tmp_path / "texts.txt").write_text("abi\n")
    with pytest.raises(SystemExit, match="Name it with --output"):
        predict(tmp_path / "texts.txt", "--format", "brat")
    predict(tmp_path / "texts.txt", "--format", "brat", "--output", tmp_path / "out")
    assert (tmp_path / "out" / "000001.ann").read_text() == "T1\tname 1 3\tbi\n"


def test_texts_in_another_encoding_are_read(
    predict: Callable[..., tuple[str, str]], tmp_path: Path
) -> None:
    (tmp_path / "texts.txt").write_bytes("ab中\n".encode("gbk"))
    out, _ = predict(tmp_path / "texts.txt", "--encoding", "gbk", "--format", "jsonl")
    assert json.loads(out)["text"] == "ab中"
    out, _ = predict("-", "--encoding", "gbk", "--format", "jsonl", stdin="ab中\n".encode("gbk"))
    assert json.loads(out)["text"] == "ab中"
    with pytest.raises(SystemExit, match=r"texts\.txt: is not utf-16"):
        predict(tmp_path / "texts.txt", "--encoding", "utf-16")
