"""Detection of the format from the content of a file."""

from pathlib import Path

import pytest

from flax_ner.data.detection import detect_format
from flax_ner.data.formats import read_examples
from flax_ner.errors import UserError
from flax_ner.text.utf8 import encoding_remedy

FILES = {
    "CLUENER": ('{"text": "ab", "label": {"x": {"a": [[0, 0]]}}}', "cluener"),
    "texts": ('{"text": "ab"}\n{"id": 1, "text": "c"}', "cluener"),
    "texts and then labels": ('{"text": "ab"}\n{"text": "c", "label": [[0, 1, "x"]]}', "doccano"),
    "a broken line first": ('{"text": "ab", \n{"text": "c", "label": []}', "doccano"),
    "doccano": ('{"text": "ab", "label": [[0, 1, "x"]]}', "doccano"),
    "doccano, relations": ('{"text": "ab", "entities": [], "relations": []}', "doccano"),
    "Label Studio": ('[{"id": 1, "data": {"text": "a"}, "annotations": []}]', "label_studio"),
    "Prodigy": ('{"text": "a", "spans": [{"start": 0, "end": 1, "label": "x"}], "answer": "accept"}',
                "prodigy"),
    "CMeEE": ('[{"text": "a", "entities": [{"start_idx": 0, "end_idx": 0, "type": "x", "entity": "a"}]}]',
              "cmeee"),
    "spaCy": ('[["a", {"entities": [[0, 1, "x"]]}]]', "spacy"),
    "a header": ("word,tag\nEU,B-ORG\n", "conll"),
    "categories": ("EU ORG\nrejects O\nGerman O\ncall O\n", "conll"),
    "JSON-MIN": ('[{"text": "a", "label": [{"start": 0, "end": 1, "labels": ["x"]}]}]', "label_studio"),
    "tokens": ('{"tokens": ["a"], "ner_tags": ["O"]}', "tokens"),
    "tokens, array": ('[\n{"tokens": ["a"],\n"ner_tags": ["O"]}]', "tokens"),
    "columns": ("EU B-ORG\nrejects O\n", "conll"),
    "columns, tabs": ("EU\tN\tB-ORG\nrejects\tV\tO\n", "conll"),
    "columns, comments": ("# id = 1\n# text = EU\nEU B-ORG\n", "conll"),
    "columns, a document": ("-DOCSTART- -X- O\n\nEU N B-ORG\n", "conll"),
    "columns that start like JSON": ("{ O\n[ O\n甲 B-x\n", "conll"),
    "columns, a broken line first": ("EU\nrejects O\nGerman B-MISC\n", "conll"),
    "brat": ("T1\tORG 0 4\tSony\n", "brat"),
    "text": ("王建国在东海市工作。\n第二行。", None),
    "text that starts like JSON": ("[1] 王建国\n{name}在东海市工作。\n第三行。", None),
    "empty": ("", None),
}  # fmt: skip


@pytest.mark.parametrize(("data", "expected"), FILES.values(), ids=FILES)
@pytest.mark.parametrize("name", ["data.json", "data.txt", "data"])
def test_detects_format_independent_of_file_name(
    tmp_path: Path, data: str, expected: str | None, name: str
) -> None:
    path = tmp_path / name
    path.write_text(data, "utf-8")
    assert detect_format(path) == expected


def test_detects_brat_folder_and_text_with_annotations(tmp_path: Path) -> None:
    assert detect_format(tmp_path) is None
    (tmp_path / "a.txt").write_text("Sony")
    assert detect_format(tmp_path) == "brat" and detect_format(tmp_path / "a.txt") is None
    (tmp_path / "a.ann").write_text("")
    assert detect_format(tmp_path / "a.txt") == "brat"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("", r"data: contains no examples\. The file is empty"),
        ("no example", r"data: its format is unknown\. It starts with 'no example'"),
        ('{"id": 3, "score": 1}', r"data: its format is unknown\. It starts with fields id, score"),
        ('[{"data": {"text": "a"}},\n{]', r"data:2: not JSON"),
        ("EU\nrejects O\nGerman O\n", r"data:1: only one column, 'EU'"),
    ],
)
def test_unknown_format_error_names_line(tmp_path: Path, data: str, message: str) -> None:
    path = tmp_path / "data"
    path.write_text(data)
    with pytest.raises(UserError, match=message):
        read_examples(str(path), "auto")


def test_empty_folder_raises(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="contains no documents"):
        read_examples(str(tmp_path), "auto")


@pytest.mark.parametrize(
    ("text", "encoding", "command"),
    [
        ("Müller schläft", "cp1252", "iconv -f CP1252"),
        ("L’été à Genève : « ça va » – déjà créée", "cp1252", "iconv -f CP1252"),
        ("¿Qué? ¡Sí, niño!", "cp1252", "iconv -f CP1252"),
        ("He said “it’s”", "cp1252", "iconv -f CP1252"),
        ('{"text": "王建國在東海市工作，國內銀行。"}', "big5", "iconv -f BIG5"),
        ("東京都の山田太郎はソニーで働く。", "shift_jis", "iconv -f BIG5"),
        ("ソニー アップル グーグル", "shift_jis", "iconv -f BIG5"),
        ("Иван работает в Москве", "cp1251", "iconv -f BIG5"),
        ("王建国在东海市工作。", "gb18030", "iconv -f GB18030"),
    ],
)
def test_remedy_names_the_encoding(text: str, encoding: str, command: str) -> None:
    assert command in encoding_remedy(text.encode(encoding), "data")
