"""The table of formats in docs/your_data.md: every example is read, and every format is in the table."""

import re
from pathlib import Path

import pytest

from flax_ner.data.detection import detect_format
from flax_ner.data.formats import READERS, read_examples

ROOT = Path(__file__).resolve().parents[2]
ROW = re.compile(r"^\| (.+) \| `(\w+)` \| (.+) \|$", re.MULTILINE)
FILES_ONLY = ("table", "brat")  # a line of text cannot show them


def rows(page: str) -> list[tuple[str, str, str]]:
    return ROW.findall((ROOT / "docs" / page).read_text("utf-8"))


@pytest.mark.parametrize("page", ["your_data.md", "your_data.zh.md"])
def test_every_example_is_read(tmp_path: Path, page: str) -> None:
    table = rows(page)
    assert {name for _, name, _ in table} == set(READERS)
    for title, name, example in table:
        if name in FILES_ONLY:
            continue
        path = tmp_path / "data"
        path.write_text("\n".join(re.findall(r"`([^`]+)`(?:<br>|$|[,，])", example)), "utf-8")
        assert detect_format(path) == name, title
        (row,) = read_examples(str(path), "auto")
        assert row.text == "彭小军在台湾", title
        assert [entity[:3] for entity in row.entities or ()] == [("name", 0, 3)], title
