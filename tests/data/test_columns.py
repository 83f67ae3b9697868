"""CoNLL columns: tag schemes, joining of tokens, errors, warnings, and the Resume data set."""

import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flax_ner.data.columns import read_conll, write_conll
from flax_ner.data.files import ConversionWarnings, DataFile
from flax_ner.errors import UserError
from flax_ner.text.examples import Entity, Example
from tests.data.reading import read_all

GOOD = "EU B-ORG\nrejects O\nGerman B-MISC\nlamb I-MISC\n"


def read(folder: Path, data: str | bytes, skipped: list[str] | None = None) -> tuple[
    list[Example], str, list[str]
]:  # fmt: skip
    path = folder / "data.conll"
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    warnings = ConversionWarnings()
    examples, description = read_all(read_conll, DataFile(path, skipped=skipped, warnings=warnings))
    return examples, description, warnings.lines()


def spans(example: Example) -> list[tuple[str, str]]:
    return [(entity.type, entity.text) for entity in example.entities or ()]


@pytest.mark.parametrize(
    ("split", "sentences", "mentions"),
    [("train", 3821, 13438), ("dev", 463, 1497), ("test", 477, 1630)],
)
def test_resume_counts_equal_published_counts(
    resume: Path, tmp_path: Path, split: str, sentences: int, mentions: int
) -> None:
    warnings = ConversionWarnings()
    path = resume / f"{split}.char.bmes"
    examples, description = read_all(read_conll, DataFile(path, warnings=warnings))
    assert description == "CoNLL columns of characters, BMES"
    assert len(examples) == sentences
    assert sum(len(e.entities or ()) for e in examples) == mentions
    assert not any(" " in e.text for e in examples)
    if split == "train":  # sentence boundaries split two of its entities
        assert [line.split(": ")[1] for line in warnings.lines()] == ["2 (first", "11 (first"]
    else:
        assert warnings.lines() == []
        write_conll(tmp_path / "rewritten", examples, warnings, "BMES")
        rewritten = (tmp_path / "rewritten").read_text("utf-8")
        assert rewritten.split() == path.read_text("utf-8").split()


@pytest.mark.parametrize(
    ("tags", "scheme", "expected"),
    [
        ("B-x I-x O B-y B-y", "BIO", "x:0-2 y:3-4 y:4-5"),
        ("O I-x I-x B-x I-y", "IOB1", "x:1-3 x:3-4 y:4-5"),
        ("I-x I-x O I-y O", "IOB1", "x:0-2 y:3-4"),
        ("B-x I-x E-x S-y O", "BIOES", "x:0-3 y:3-4"),
        ("B-x M-x E-x S-y O", "BMES", "x:0-3 y:3-4"),
        ("B-x M-x E-x W-y O", "BMEWO", "x:0-3 y:3-4"),
        ("B-x I-x L-x U-y O", "BILOU", "x:0-3 y:3-4"),
        ("B-x I-x O S-y O", "BIOS", "x:0-2 y:3-4"),
        ("B-a-b I-a-b O O O", "BIO", "a-b:0-2"),
        ("O O O O O", "BIO", ""),
    ],
)
def test_detects_the_tag_scheme(tmp_path: Path, tags: str, scheme: str, expected: str) -> None:
    rows = "\n".join(f"{c} {tag}" for c, tag in zip("甲乙丙丁戊", tags.split(), strict=True))
    (example,), description, warnings = read(tmp_path, rows)
    assert description == f"CoNLL columns of characters, {scheme}" and warnings == []
    assert " ".join(f"{e.type}:{e.start}-{e.end}" for e in example.entities or ()) == expected


@pytest.mark.parametrize(
    ("tags", "expected", "warning"),
    [
        ("B-x M-x E-x B-y I-y", ["x甲乙丙", "y丁戊"],
         "tags that are not part of BIOES, read by their prefix: 1"),
        ("B-x O I-y I-y O", ["x甲", "y丙丁"], "I- tags that continue no entity, read as B-: 1"),
        ("B-x I-y O O O", ["x甲", "y乙"], "I- tags that continue no entity, read as B-: 1"),
        ("B-x M-x O S-y O", ["x甲乙", "y丁"], "entities without an end tag, kept: 1"),
        ("B-x E-x O M-y E-y", ["x甲乙"], "tags that continue no entity, read as O: 2"),
    ],
)  # fmt: skip
def test_invalid_tag_sequences_are_counted(
    tmp_path: Path, tags: str, expected: list[str], warning: str
) -> None:
    rows = "\n".join(f"{c} {tag}" for c, tag in zip("甲乙丙丁戊", tags.split(), strict=True))
    (example,), _, warnings = read(tmp_path, rows)
    assert [a + b for a, b in spans(example)] == expected
    assert warnings[0].startswith(f"{warning} (first: ")


@pytest.mark.parametrize(
    ("rows", "text"),
    [
        ("EU B-x\nrejects O\n. O", "EU rejects ."),
        ("中国 B-x\n人民 O\n， O\nNBA B-x\n好 O", "中国人民， NBA 好"),
        ("I O\na B-x", "Ia"),
        ("New York\tB-x\nCity\tI-x", "New York City"),
        ("a O\n  O\nb B-x", "a b"),
        ("a\tO\n \tO\nb\tB-x", "a b"),
        ("a O\n\u3000 O\nb B-x", "a\u3000b"),
        ("서울 B-x\n은 O", "서울 은"),
        ("# text = EU's, no\nEU B-x\n's O\n, O\nno O", "EU's, no"),
        ("# text =  a b \na O\nb O", " a b "),
        ("# O\n1 B-x", "#1"),
    ],
)
def test_joins_tokens(tmp_path: Path, rows: str, text: str) -> None:
    (example,), _, warnings = read(tmp_path, rows)
    assert example.text == text and warnings == []
    assert all(text[e.start : e.end] == e.text for e in example.entities or ())


def test_dropped_information_is_counted(tmp_path: Path) -> None:
    rows = f"-DOCSTART- -X- -X- O\r\n\r\n# id = 7\r\n{GOOD.replace(' ', ' N - ')}".replace(
        "\n", "\r\n"
    )
    path = tmp_path / "data.conll"
    (example,), description, warnings = read(tmp_path, rows)
    assert description == "CoNLL columns of words, BIO"
    assert spans(example) == [("ORG", "EU"), ("MISC", "German lamb")]
    assert example.source == f"{path}:4"
    assert warnings == [
        f"document boundaries (-DOCSTART-), left out: 1 (first: {path}:1)",
        f"comments, left out: 1 (first: {path}:3)",
        f"extra columns, left out (2 per token): 4 (first: {path}:4)",
    ]


BAD = {
    "one column": ("EU", 6, "only one column, 'EU'"),
    "no tag": ("EU ORG", 6, "'ORG' is not a tag"),
    "a tag without category": ("EU B-", 6, "'B-' is not a tag"),
    "no token": ("\tO", 6, "no token in column 1"),
    "more columns": ("New York B-x", 6, "3 columns, but the file has 2"),
    "another text": ("# text = UN\nEU B-x", 7, "the tokens do not match the text 'UN'"),
    "more text": ("# text = EU too\nEU B-x", 7, "the tokens do not match the text"),
    "a comment alone": ("# text = EU", 6, "a text without tokens"),
    "not UTF-8": ("甲 O".encode("gb18030"), 6, "not UTF-8"),
}


@pytest.mark.parametrize(("rows", "line", "message"), BAD.values(), ids=BAD)
def test_error_names_file_and_line_or_is_skipped(
    tmp_path: Path, rows: str | bytes, line: int, message: str
) -> None:
    bad = rows if isinstance(rows, bytes) else rows.encode()
    data = b"\n".join([GOOD.encode(), bad, b"", GOOD.encode(), GOOD.encode()])
    source = re.escape(f"{tmp_path / 'data.conll'}:{line}: ")
    with pytest.raises(UserError, match=f"^{source}{re.escape(message)}"):
        read(tmp_path, data)
    skipped: list[str] = []
    examples, _, _ = read(tmp_path, data, skipped)
    assert [e.text for e in examples] == ["EU rejects German lamb"] * 3
    assert len(skipped) == 1 and re.match(source, skipped[0])


def test_file_without_sentences_raises(tmp_path: Path) -> None:
    for data in ("", "\n \n", "-DOCSTART- O\n"):
        with pytest.raises(
            UserError, match=r"data\.conll: contains no examples\. Expected on each line a token"
        ):
            read(tmp_path, data)


def test_information_lost_in_writing_is_counted(tmp_path: Path) -> None:
    rows = [
        Example("ab cd", (Entity("x y", 0, 2), Entity("z", 1, 5)), "in:1"),
        Example("e\nf", (Entity("z", 1, 3), Entity("z", 1, 2)), "in:2"),
        Example("g", None, "in:3"),
        Example(" ", (), "in:4"),
    ]
    warnings = ConversionWarnings()
    write_conll(tmp_path / "out", rows, warnings)
    assert warnings.lines() == [
        "category 'x y', written as x_y: 1 (first: in:1)",
        "entities that overlap an earlier entity, left out: 1 (first: in:1)",
        "line breaks, written as spaces: 1 (first: in:2)",
        "entities with white space at the edges, trimmed: 1 (first: in:2)",
        "entities of white space only, left out: 1 (first: in:2)",
        "unlabelled texts, left out: 1 (first: in:3)",
        "texts without tokens, left out: 1 (first: in:4)",
    ]
    assert (tmp_path / "out").read_text() == (
        "# text = ab cd\na B-x_y\nb I-x_y\ncd O\n\ne O\nf B-z\n\n"
    )


def test_nothing_to_write_raises(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no text has both labels and tokens"):
        write_conll(tmp_path / "out", [Example("a", None)], ConversionWarnings())
    assert not (tmp_path / "out").exists()


def _is_sentence(block: str) -> bool:
    """Return whether a block has more than comments."""
    lines = [line for line in block.split("\n") if line]
    comment = re.compile(
        r"# (?!text = )(?!.*[ \t](O|[BIMELSUW]-.+)\r?$)(?!(O|[BIMELSUW]-.+)$).*", re.DOTALL
    )
    return not all(map(comment.fullmatch, lines))


LINES = st.sampled_from(["EU", "甲", "#", "# text = a", "", "-DOCSTART-", "\u3000"]).flatmap(
    lambda token: st.sampled_from(
        ["", " O", "\tB-x", " M-x", " N I-y", "  ", "\tE-x\r", " X", "\t"]
    ).map(lambda rest: token + rest)
)


@settings(max_examples=300, deadline=None)
@given(st.lists(LINES, max_size=12))
def test_every_sentence_is_read_or_reported_with_its_line(
    tmp_path_factory: pytest.TempPathFactory, lines: list[str]
) -> None:
    folder, skipped = tmp_path_factory.getbasetemp(), list[str]()
    lines = [*lines, *["", "b O"] * 13]  # so that the file has two columns
    blocks = re.split(r"(?:^|\n)(?:[ \t\r]*|-DOCSTART-[^\n]*)(?=\n|$)", "\n".join(lines))
    examples, _, _ = read(folder, "\n".join(lines), skipped)
    assert len(examples) + len(skipped) == sum(_is_sentence(block) for block in blocks)
    source = re.compile(rf"{re.escape(str(folder / 'data.conll'))}:[0-9]+")
    assert all(source.match(error) for error in skipped)
    for example in examples:
        assert source.fullmatch(example.source)
        assert all(example.text[e.start : e.end] == e.text for e in example.entities or ())
