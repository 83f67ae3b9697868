"""Data sets of Hugging Face as Parquet and Arrow files, and splits on the hub."""

import json
from pathlib import Path
from typing import Any

import pytest

from flax_ner.data import tables
from flax_ner.data.detection import detect_format
from flax_ner.data.formats import read_examples
from flax_ner.errors import UserError

pyarrow = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")

NAMES = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]
ROWS = [
    {"tokens": ["林", "月", "在", "苏", "州"], "ner_tags": [1, 2, 0, 3, 4]},
    {"tokens": ["没", "有"], "ner_tags": [0, 0]},
]
EXPECTED = [("林月在苏州", [("PER", 0, 2), ("LOC", 3, 5)]), ("没有", [])]


def table(rows: list[dict[str, Any]], names: list[str] | None = None) -> Any:
    made = pyarrow.Table.from_pylist(rows)
    if names:
        feature = {"feature": {"names": names, "_type": "ClassLabel"}, "_type": "List"}
        info = {"info": {"features": {"ner_tags": feature}}}
        made = made.replace_schema_metadata({b"huggingface": json.dumps(info).encode()})
    return made


def spans(path: str, **options: Any) -> list[tuple[str, list[tuple[str, int, int]]]]:
    return [
        (e.text, [x[:3] for x in e.entities or ()]) for e in read_examples(path, "auto", **options)
    ]


def test_parquet_has_the_names_in_its_schema(tmp_path: Path) -> None:
    path = tmp_path / "train.parquet"
    parquet.write_table(table(ROWS, NAMES), path)
    notes: list[str] = []
    assert detect_format(path) == "table" and spans(str(path), notes=notes) == EXPECTED
    assert "Parquet, tokens and ner_tags, characters, BIO" in notes[0]


def test_a_folder_of_save_to_disk_has_several_files(tmp_path: Path) -> None:
    for i, row in enumerate(ROWS):
        part = table([row], NAMES)
        path = tmp_path / f"data-0000{i}-of-00002.arrow"
        with (
            pyarrow.OSFile(str(path), "wb") as sink,
            pyarrow.ipc.new_stream(sink, part.schema) as out,
        ):
            out.write_table(part)
    assert spans(str(tmp_path)) == EXPECTED


def test_rows_with_spans_are_read(tmp_path: Path) -> None:
    rows = [{"text": "林月在苏州", "entities": [{"start": 0, "end": 2, "label": "PER"}]}]
    parquet.write_table(table(rows), tmp_path / "a.parquet")
    assert spans(str(tmp_path / "a.parquet")) == [("林月在苏州", [("PER", 0, 2)])]


def test_the_rows_decide_the_form_together(tmp_path: Path) -> None:
    rows = [
        {"tokens": ["林", "月"], "ner": [], "text": "林月"},
        {"tokens": ["林", "月"], "ner": [{"start": 0, "end": 2, "label": "PER"}], "text": "林月"},
    ]
    parquet.write_table(table(rows), tmp_path / "A.PARQUET")
    assert spans(str(tmp_path / "A.PARQUET")) == [("林月", []), ("林月", [("PER", 0, 2)])]


def test_errors_name_the_file_and_the_row(tmp_path: Path) -> None:
    path = tmp_path / "train.parquet"
    path.write_bytes(b"PAR1 and nothing else")
    with pytest.raises(UserError, match=r"train\.parquet: not a parquet file .*Download it again"):
        read_examples(str(path), "auto")
    parquet.write_table(table(ROWS), path)
    with pytest.raises(UserError, match=r"train\.parquet: row 1: .*dataset_info\.json"):
        read_examples(str(path), "auto")
    parquet.write_table(table([{"tokens": ["a"], "ner_tags": [9]}], NAMES), path)
    with pytest.raises(UserError, match=r"train\.parquet: row 1: 9 is not a tag number"):
        read_examples(str(path), "auto")


def test_a_split_of_the_hub_is_downloaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "0000.parquet"
    parquet.write_table(table(ROWS, NAMES), path)
    listed = {
        None: ["README.md", "data.py"],
        tables.PARQUET_BRANCH: ["default/train/0000.parquet", "default/test/0000.parquet"],
        "v1": ["data/validation-00000-of-00001.parquet"],
    }
    asked: list[tuple[str, str | None]] = []

    class Api:
        def list_repo_files(self, name: str, repo_type: str, revision: str | None) -> list[str]:
            assert (name, repo_type) == ("owner/name", "dataset")
            return listed[revision]

    def download(name: str, file: str, repo_type: str, revision: str | None) -> str:
        asked.append((file, revision))
        return str(path)

    monkeypatch.setattr("huggingface_hub.HfApi", Api)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    assert spans("hub:owner/name:train") == EXPECTED
    assert spans("hub:owner/name@v1:validation") == EXPECTED
    assert asked == [
        ("default/train/0000.parquet", tables.PARQUET_BRANCH),
        ("data/validation-00000-of-00001.parquet", "v1"),
    ]
    with pytest.raises(UserError, match="no Parquet files of a split 'dev'"):
        spans("hub:owner/name:dev")
    listed["v2"] = [
        f"{c}/{s}/0000.parquet" for c in ("de", "zh") for s in ("train", "partial-train")
    ]
    with pytest.raises(UserError, match=r"configurations de, zh\. .* hub:owner/name@v2:de/train\."):
        spans("hub:owner/name@v2:train")
    assert spans("hub:owner/name@v2:zh/train") == EXPECTED
    assert asked[2:] == [("zh/train/0000.parquet", "v2")]
    with pytest.raises(UserError, match="does not have the form hub:owner/name"):
        spans("hub:name:dev")
