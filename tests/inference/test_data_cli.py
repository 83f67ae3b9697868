"""`python -m flax_ner data convert`, and the formats that evaluate and predict take."""

import json
from pathlib import Path

import pytest

from flax_ner.inference import cli
from flax_ner.text.examples import Entity, Example
from flax_ner.text.formats import read_examples, write_examples

COLUMNS = "-DOCSTART- O\n\nEU B-ORG\nrejects O\n\nGerman B-MISC\n"


def test_convert_says_what_it_read_and_what_is_lost(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, target = tmp_path / "in.conll", tmp_path / "out.json"
    source.write_text(COLUMNS)
    cli.main(["data", "convert", str(source), str(target)])
    assert capsys.readouterr().out.splitlines() == [
        f"IN: {source} is read as CoNLL columns of words, BIO.",
        f"IN: boundaries of documents (-DOCSTART-): 1 (first: {source}:1)",
        f"2 texts with 2 entities read, written to {target} as cluener; 0 kinds of losses in writing.",
    ]
    rows = [json.loads(line) for line in target.read_text().splitlines()]
    assert rows[0] == {"text": "EU rejects", "label": {"ORG": {"EU": [[0, 1]]}}}
    assert [path.name for path in tmp_path.iterdir() if path not in (source, target)] == []


def test_convert_writes_the_scheme_asked_for_and_counts_losses(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [Example("浙商银行", (Entity("a", 0, 2), Entity("b", 1, 4), Entity("c", 3, 4)))]
    write_examples(tmp_path / "in", rows, "doccano")
    command = ["data", "convert", str(tmp_path / "in"), str(tmp_path / "out")]
    cli.main([*command, "--from", "doccano", "--to", "conll", "--scheme", "BMES"])
    assert (tmp_path / "out").read_text("utf-8") == "浙 B-a\n商 E-a\n银 O\n行 S-c\n\n"
    out = capsys.readouterr().out.splitlines()
    assert out[0].startswith("OUT: entities that overlap an earlier one, left out: 1 (first: ")
    assert out[1].endswith("as conll; 1 kinds of losses in writing.")


def test_convert_stops_at_a_fault_or_skips_and_lists_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, target = tmp_path / "in", tmp_path / "out"
    source.write_text("EU B-ORG\n\nrejects\n\ncall O\n\nit O\n")
    with pytest.raises(SystemExit, match=r"flax_ner: .*in:3: one column, 'rejects'"):
        cli.main(["data", "convert", str(source), str(target)])
    assert not target.exists()
    cli.main(["data", "convert", str(source), str(target), "--skip"])
    assert f"left out: {source}:3: one column, 'rejects'" in capsys.readouterr().out
    assert [e.text for e in read_examples(str(target), "auto")] == ["EU", "call", "it"]


def test_texts_to_tag_come_from_any_format_and_text_files_stay_one_a_line(tmp_path: Path) -> None:
    rows = [Example("浙商银行", ()), Example("来了", (Entity("x", 0, 1),))]
    for name in ("cluener", "conll", "doccano", "label_studio", "tokens", "brat"):
        write_examples(tmp_path / name, rows, name)
        assert list(cli._texts(str(tmp_path / name))) == ["浙商银行", "来了"]
    text = tmp_path / "lines.txt"
    text.write_text("第一\n[第二]\n", "utf-8")
    for _ in range(2):
        assert list(cli._texts(str(text))) == ["第一", "[第二]"]
        (tmp_path / "lines.ann").write_text("T1\tx 0 1\t第\n", "utf-8")
