"""brat standoff: folders and files, discontinuous entities, warnings and errors."""

import codecs
import re
from pathlib import Path

import pytest

from flax_ner.data.brat import read_brat
from flax_ner.data.files import ConversionWarnings, DataFile, ReadOptions
from flax_ner.data.formats import read_examples
from flax_ner.errors import UserError
from flax_ner.text.examples import Entity
from tests.data.reading import read_all

TEXT = "Sony and Ericsson\nin Sweden"
GOOD = "T1\tORG 0 4\tSony\n"
EXPECTED = (Entity("ORG", 0, 4, "Sony"),)


def document(
    folder: Path, ann: str | bytes | None, text: str | bytes = TEXT, name: str = "a"
) -> None:
    (folder / f"{name}.txt").write_bytes(text.encode() if isinstance(text, str) else text)
    if ann is not None:
        (folder / f"{name}.ann").write_bytes(ann.encode() if isinstance(ann, str) else ann)


def test_reads_folder_or_either_file_of_a_document(tmp_path: Path) -> None:
    document(tmp_path, GOOD)
    document(tmp_path, None, "unlabelled", "b")
    (tmp_path / "annotation.conf").write_text("[entities]")
    examples, description = read_all(read_brat, DataFile(tmp_path))
    assert description == "brat standoff"
    assert [(e.text, e.entities) for e in examples] == [(TEXT, EXPECTED), ("unlabelled", None)]
    assert [e.source for e in examples] == [f"{tmp_path}/a.txt", f"{tmp_path}/b.txt"]
    for name in ("a.txt", "a.ann"):
        assert read_all(read_brat, DataFile(tmp_path / name))[0] == examples[:1]


@pytest.mark.parametrize(
    ("ann", "expected", "warning"),
    [
        (GOOD.replace("\n", "\r\n") + "\n", EXPECTED, None),
        ("T1\tPLACE 9 17;18 20\tEricsson in\n", (Entity("PLACE", 9, 20, "Ericsson\nin"),), None),
        ("T1\tPLACE 9 20\tEricsson in\n", (Entity("PLACE", 9, 20, "Ericsson\nin"),), None),
        (GOOD + "T2\tORG 0 4;9 17\tSony Ericsson\n", EXPECTED, "discontinuous entities, left out"),
        (GOOD + "R1\tOrigin Arg1:T3 Arg2:T4\t\n", EXPECTED, "relations (R), left out"),
        (GOOD + "E1\tMERGE:T2 Org1:T1\n", EXPECTED, "events (E), left out"),
        (GOOD + "A1\tNegation E1\n", EXPECTED, "attributes (A), left out"),
        (GOOD + "N1\tReference T1 Wikipedia:1\tSony\n", EXPECTED, "normalisations (N), left out"),
        (GOOD + "#1\tAnnotatorNotes T1\ta note\n", EXPECTED, "notes (#), left out"),
        (GOOD + "*\tEquiv T1 T2\n", EXPECTED, "equivalences (*), left out"),
        (GOOD * 2, EXPECTED, "duplicate entities, kept once"),
        ("", (), None),
    ],
)
def test_annotations_are_read_or_counted_as_warnings(
    tmp_path: Path, ann: str, expected: tuple[Entity, ...], warning: str | None
) -> None:
    document(tmp_path, ann)
    warnings = ConversionWarnings()
    (example,), _ = read_all(read_brat, DataFile(tmp_path, warnings=warnings))
    assert example.entities == expected
    assert [line.split(":")[0] for line in warnings.lines()] == ([warning] if warning else [])


BAD = {
    "no annotation": ("Sony ORG 0 4", "'Sony ORG 0 4' is not an annotation"),
    "no surface": ("T1\tORG 0 4", "'T1\\tORG 0 4' is not an annotation"),
    "another surface": ("T1\tORG 1 5\tSony", "ORG 'Sony' at 1 5, but the text has 'ony ' there"),
    "after the end": ("T1\tORG 0 400\tSony", "ORG has the span [0, 400)"),
    "not UTF-8": ("T1\tORG 0 4\t索".encode("gb18030"), "not UTF-8"),
}


@pytest.mark.parametrize(("line", "message"), BAD.values(), ids=BAD)
def test_error_names_file_and_line_or_is_skipped(
    tmp_path: Path, line: str | bytes, message: str
) -> None:
    document(
        tmp_path, GOOD.encode() + (line if isinstance(line, bytes) else line.encode()), name="b"
    )
    document(tmp_path, GOOD)
    source = f"{tmp_path / 'b.ann'}:2: "
    with pytest.raises(UserError, match=f"^{re.escape(source + message)}"):
        read_all(read_brat, DataFile(tmp_path))
    skipped: list[str] = []
    examples, _ = read_all(read_brat, DataFile(tmp_path, skipped=skipped))
    assert [e.entities for e in examples] == [EXPECTED]
    assert len(skipped) == 1 and skipped[0].startswith(source)


def test_invalid_folders_and_files_raise(tmp_path: Path) -> None:
    with pytest.raises(
        UserError,
        match=r"contains no examples\. Expected pairs of files NAME\.txt and NAME\.ann\.",
    ):
        read_all(read_brat, DataFile(tmp_path))
    (tmp_path / "alone.ann").write_text(GOOD)
    with pytest.raises(UserError, match=r"alone\.ann: there is no alone\.txt beside it"):
        read_all(read_brat, DataFile(tmp_path))
    document(tmp_path, GOOD, codecs.BOM_UTF16_LE + TEXT.encode("utf-16-le"), "alone")
    with pytest.raises(UserError, match=r"alone\.txt: is UTF-16"):
        read_all(read_brat, DataFile(tmp_path))
    document(tmp_path, GOOD, "索尼".encode("gb18030"), "alone")
    with pytest.raises(UserError, match=r"alone\.txt: not UTF-8"):
        read_all(read_brat, DataFile(tmp_path))


@pytest.mark.parametrize("encoding", ["gb18030", "utf-16", "cp1252", "big5"])
@pytest.mark.parametrize("annotated", [True, False])
def test_documents_in_another_encoding_are_read_as_the_error_says(
    tmp_path: Path, encoding: str, annotated: bool
) -> None:
    text = "Müller schläft in Köln" if encoding == "cp1252" else "王建國在東海市工作，國內銀行。"
    if encoding == "gb18030":
        text = "王建国在东海市工作，国内银行。"
    ann = f"T1\tPER 0 3\t{text[:3]}\n".encode(encoding) if annotated else None
    document(tmp_path, ann, text.encode(encoding))
    with pytest.raises(UserError, match=r"a\.txt: ") as error:
        read_examples(str(tmp_path), "auto")
    option = re.search(r"--encoding (\S+) \(data\.encoding\)\.$", str(error.value))
    assert option and "iconv" not in str(error.value), str(error.value)
    (example,) = read_examples(str(tmp_path), "auto", options=ReadOptions(option[1]))
    assert example.text == text
    assert example.entities == ((Entity("PER", 0, 3, text[:3]),) if annotated else None)


@pytest.mark.parametrize(
    ("offsets", "warnings"),
    [("0 4", []), ("1 5", ["offsets that count the byte order mark, converted: 1"])],
)
def test_a_byte_order_mark_is_left_out(tmp_path: Path, offsets: str, warnings: list[str]) -> None:
    document(tmp_path, f"T1\tORG {offsets}\tSony\n", f"\ufeff{TEXT}")
    counts = ConversionWarnings()
    (example,), _ = read_all(read_brat, DataFile(tmp_path, warnings=counts))
    assert (example.text, example.entities) == (TEXT, EXPECTED)
    assert [line.partition(" (first")[0] for line in counts.lines()] == warnings


@pytest.mark.parametrize(
    ("text", "annotation"),
    [
        ("Hi\r\nthere\r\nJohn lives", "10 14\tJohn"),  # CR LF counts as one
        ("😀 John lives", "4 8\tJohn"),  # UTF-16 units
        ("John lives", "0 5\t\ufeffJohn"),  # the entity includes the mark
    ],
)
def test_a_byte_order_mark_counts_in_any_unit(tmp_path: Path, text: str, annotation: str) -> None:
    document(tmp_path, f"T1\tPER {annotation}\n", f"\ufeff{text}")
    (example,), _ = read_all(read_brat, DataFile(tmp_path))
    start = text.index("John")
    assert example.entities == (Entity("PER", start, start + 4, "John"),)


def test_columns_with_bad_line_ends_are_not_read_as_documents(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"Bob B-PER\rx O\r")
    with pytest.raises(UserError, match="its line ends are CR alone"):
        read_examples(str(tmp_path), "auto")
