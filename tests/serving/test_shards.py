"""Tagging one shard: every row appears once and unchanged, and no file is ever incomplete."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from flax_ner import Tagger
from flax_ner.errors import UserError
from flax_ner.serving.shards import tag_shard
from tests.inference.helpers import hand_made_tagger


@pytest.fixture(scope="module")
def tagger() -> Tagger:
    return hand_made_tagger()


def write(path: Path, *lines: str) -> Path:
    path.write_bytes("".join(lines).encode())
    return path


def parquet() -> Any:
    reason = "Parquet needs pyarrow, which the extra `ray` installs"
    pytest.importorskip("pyarrow", reason=reason)
    return pytest.importorskip("pyarrow.parquet", reason=reason)


def test_json_rows_keep_every_character_of_their_fields(tagger: Tagger, tmp_path: Path) -> None:
    source = write(
        tmp_path / "a.jsonl",
        '\ufeff{"id": 1, "text": "o中BIi İb", "x": {"y": [1.50, 1E5, 12345678901234567890123]}}\n',
        '\n  \n{ "text" : "o", "z": "\\u4e2d\\ud800/" }\r\n',
        '{"text": ""}',  # no line break at the end
    )
    assert tag_shard(tagger, source, tmp_path / "out.jsonl") == (3, 2)
    first, second, third = (tmp_path / "out.jsonl").read_text("utf-8").splitlines()
    kept = '{"id": 1, "text": "o中BIi İb", "x": {"y": [1.50, 1E5, 12345678901234567890123]}'
    assert first.startswith(f'{kept}, "entities": [')
    assert second == '{ "text" : "o", "z": "\\u4e2d\\ud800/", "entities": []}'
    assert third == '{"text": "", "entities": []}'
    expected = [entity._asdict() for entity in tagger("o中BIi İb")]
    assert [(e["start"], e["end"], e["text"]) for e in expected] == [(2, 5, "BIi"), (7, 8, "b")]
    assert json.loads(first)["entities"] == expected


def test_a_lone_surrogate_in_an_entity_is_written_as_an_escape(
    tagger: Tagger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    surrogate = tagger("b")[0]._replace(text="\ud800")
    monkeypatch.setattr(Tagger, "stream", lambda self, texts: ([surrogate] for _ in texts))
    source = write(tmp_path / "a.jsonl", '{"text": "\\ud800"}\n')
    tag_shard(tagger, source, tmp_path / "out.jsonl")
    row = json.loads((tmp_path / "out.jsonl").read_bytes())
    assert row["text"] == row["entities"][0]["text"] == "\ud800"


def test_parquet_rows_keep_their_columns(tagger: Tagger, tmp_path: Path) -> None:
    pq = parquet()
    import pyarrow as pa

    texts = ["o中BIi İb", "", "b"] * 3000  # more than one batch of rows
    columns = {
        "n": pa.array(range(9000), pa.int16()),
        "text": pa.array(texts).dictionary_encode(),
        "when": pa.array([None, 5, 6] * 3000, pa.timestamp("ms", "UTC")),
        "list": pa.array([[1.5], None, []] * 3000),
    }
    table = pa.table(columns).replace_schema_metadata({"made by": "hand"})
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=2500)
    counts = tag_shard(tagger, tmp_path / "a.parquet", tmp_path / "out.parquet")
    assert counts == (9000, 3 * 3000)
    written = pq.read_table(tmp_path / "out.parquet")
    assert written.drop_columns("entities").equals(table)
    assert written.schema.metadata[b"made by"] == b"hand"
    entities = [[entity._asdict() for entity in row] for row in tagger(texts)]
    assert written["entities"].to_pylist() == entities


def test_empty_shards_stay_empty(tagger: Tagger, tmp_path: Path) -> None:
    assert tag_shard(tagger, write(tmp_path / "a.jsonl"), tmp_path / "out.jsonl") == (0, 0)
    assert (tmp_path / "out.jsonl").read_bytes() == b""


def test_empty_parquet_gets_the_column(tagger: Tagger, tmp_path: Path) -> None:
    pq = parquet()
    import pyarrow as pa

    pq.write_table(pa.table({"text": pa.array([], pa.string())}), tmp_path / "a.parquet")
    assert tag_shard(tagger, tmp_path / "a.parquet", tmp_path / "out.parquet") == (0, 0)
    assert pq.read_schema(tmp_path / "out.parquet").names == ["text", "entities"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"body": "b", "id": 1}', "no field 'text'. Choose the field with --text-field; there are: body, id"),
        ('{"text": null}', "'text' is null, but a text is a string"),
        ('{"text": ["b"]}', "'text' is list, but a text is a string"),
        ('{"text": "b", "entities": []}', "has a field 'entities' already. Rename or delete it"),
        ('["b"]', "not a JSON object"),
        ('{"text": "b"', "not JSON"),
        ('{"text": "b", "text": "o"}', "duplicate key 'text'"),
    ],
)  # fmt: skip
def test_a_bad_line_is_reported_and_no_file_is_left(
    tagger: Tagger, tmp_path: Path, line: str, message: str
) -> None:
    source = write(tmp_path / "a.jsonl", '{"text": "b"}\n\n', line + "\n")
    with pytest.raises(UserError) as error:
        tag_shard(tagger, source, tmp_path / "out.jsonl")
    assert str(error.value).startswith(f"{source}:3: ") and message in str(error.value)
    assert [path.name for path in tmp_path.iterdir()] == ["a.jsonl"]


def test_bytes_that_are_not_text_are_reported(tagger: Tagger, tmp_path: Path) -> None:
    source = tmp_path / "a.jsonl"
    for content, message in (
        (b'{"text": "b"}\n{"text": "\xff"}\n', r"a\.jsonl:2: not UTF-8"),
        (b"\x1f\x8b\x08", r"a\.jsonl: is compressed by gzip"),
    ):
        source.write_bytes(content)
        with pytest.raises(UserError, match=message):
            tag_shard(tagger, source, tmp_path / "out.jsonl")


def test_a_bad_parquet_row_is_reported(tagger: Tagger, tmp_path: Path) -> None:
    pq = parquet()
    import pyarrow as pa

    path, target = tmp_path / "a.parquet", tmp_path / "out.parquet"
    for table, message in (
        ({"text": ["b"] * 5000 + [None]}, r"a\.parquet: row 5001: 'text' is null"),
        ({"text": [1]}, r"a\.parquet: row 1: 'text' is int"),
        ({"body": ["b"]}, r"a\.parquet: no field 'text'.* there are: body"),
        ({"text": ["b"], "entities": [1]}, r"a\.parquet: has a field 'entities'"),
    ):
        pq.write_table(pa.table(table), path)
        with pytest.raises(UserError, match=message):
            tag_shard(tagger, path, target)
    content = path.read_bytes()
    for damaged in (b"", b"no Parquet", content[: len(content) // 2]):
        path.write_bytes(damaged)
        with pytest.raises(UserError, match=r"a\.parquet: cannot be read as Parquet"):
            tag_shard(tagger, path, target)
    assert [file.name for file in tmp_path.iterdir()] == ["a.parquet"]


def test_a_shard_appears_only_when_it_is_complete(
    tagger: Tagger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, target = write(tmp_path / "a.jsonl", '{"text": "b"}\n' * 3), tmp_path / "out.jsonl"
    target.write_text("previous")

    def stream(self: Tagger, texts: Iterator[str]) -> Iterator[list[Any]]:
        for count, _ in enumerate(texts):
            assert target.read_text() == "previous"
            if count == 2:
                raise KeyboardInterrupt
            yield []

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Tagger, "stream", stream)
        tag_shard(tagger, source, target)
    assert target.read_text() == "previous"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.jsonl", "out.jsonl"]
    assert tag_shard(tagger, source, target) == (3, 3)


def test_memory_does_not_grow_with_the_shard(
    tagger: Tagger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, held = 0, []

    def rows(path: Path) -> Iterator[tuple[str, str, dict[str, Any]]]:
        nonlocal read
        for read in range(1, 10_001):
            yield f"{path}:{read}", '{"text": "o"}', {"text": "o"}

    def stream(self: Tagger, texts: Iterator[str]) -> Iterator[list[Any]]:
        for given, _ in enumerate(texts):
            held.append(read - given)
            yield []

    monkeypatch.setattr("flax_ner.serving.shards.read_rows", rows)
    monkeypatch.setattr(Tagger, "stream", stream)
    assert tag_shard(tagger, tmp_path / "a.jsonl", tmp_path / "out.jsonl") == (10_000, 0)
    assert max(held) == 1
