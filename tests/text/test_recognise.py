"""The format of a file, by its content alone."""

from pathlib import Path

import pytest

from flax_ner.errors import UserError
from flax_ner.text.formats import read_examples
from flax_ner.text.recognise import recognise

FILES = {
    "CLUENER": ('{"text": "ab", "label": {"x": {"a": [[0, 0]]}}}', "cluener"),
    "texts": ('{"text": "ab"}\n{"id": 1, "text": "c"}', "cluener"),
    "texts and then labels": ('{"text": "ab"}\n{"text": "c", "label": [[0, 1, "x"]]}', "doccano"),
    "a broken line first": ('{"text": "ab", \n{"text": "c", "label": []}', "doccano"),
    "doccano": ('{"text": "ab", "label": [[0, 1, "x"]]}', "doccano"),
    "doccano, relations": ('{"text": "ab", "entities": [], "relations": []}', "doccano"),
    "Label Studio": ('[{"id": 1, "data": {"text": "a"}, "annotations": []}]', "label_studio"),
    "JSON-MIN": ('[{"text": "a", "label": [{"start": 0, "end": 1, "labels": ["x"]}]}]', "label_studio"),
    "tokens": ('{"tokens": ["a"], "ner_tags": ["O"]}', "tokens"),
    "tokens, array": ('[\n{"tokens": ["a"],\n"ner_tags": ["O"]}]', "tokens"),
    "columns": ("EU B-ORG\nrejects O\n", "conll"),
    "columns, tabs": ("EU\tN\tB-ORG\nrejects\tV\tO\n", "conll"),
    "columns, comments": ("# id = 1\n# text = EU\nEU B-ORG\n", "conll"),
    "columns, a document": ("-DOCSTART- -X- O\n\nEU N B-ORG\n", "conll"),
    "columns that begin as JSON does": ("{ O\n[ O\n甲 B-x\n", "conll"),
    "columns, a broken line first": ("EU\nrejects O\nGerman B-MISC\n", "conll"),
    "brat": ("T1\tORG 0 4\tSony\n", "brat"),
    "text": ("王建国在东海市工作。\n第二行。", None),
    "text that begins as JSON does": ("[1] 王建国\n{name}在东海市工作。\n第三行。", None),
    "nothing": ("", None),
}  # fmt: skip


@pytest.mark.parametrize(("data", "expected"), FILES.values(), ids=FILES)
@pytest.mark.parametrize("name", ["data.json", "data.txt", "data"])
def test_a_file_is_recognised_whatever_its_name(
    tmp_path: Path, data: str, expected: str | None, name: str
) -> None:
    path = tmp_path / name
    path.write_text(data, "utf-8")
    assert recognise(path) == expected


def test_a_folder_of_documents_and_a_text_beside_its_annotations_are_brats(tmp_path: Path) -> None:
    assert recognise(tmp_path) is None
    (tmp_path / "a.txt").write_text("Sony")
    assert recognise(tmp_path) == "brat" and recognise(tmp_path / "a.txt") is None
    (tmp_path / "a.ann").write_text("")
    assert recognise(tmp_path / "a.txt") == "brat"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("", r"data:? ?.*holds no examples\. One JSON object a line"),
        ("no example", r"data:1: not JSON"),
        ('[{"data": {"text": "a"}},\n{]', r"data:2: not JSON"),
        ("EU\nrejects O\nGerman O\n", r"data:1: one column, 'EU'"),
    ],
)
def test_what_is_of_no_format_is_refused_by_line(tmp_path: Path, data: str, message: str) -> None:
    path = tmp_path / "data"
    path.write_text(data)
    with pytest.raises(UserError, match=message):
        read_examples(str(path), "auto")


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no documents"):
        read_examples(str(tmp_path), "auto")
