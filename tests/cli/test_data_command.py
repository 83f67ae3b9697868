"""`python -m flax_ner data convert`."""

import json
import os
import re
from pathlib import Path

import pytest

from flax_ner.cli import main as cli
from flax_ner.cli import select_command
from flax_ner.data.formats import read_examples, write_examples
from flax_ner.data.synthetic import synthetic
from flax_ner.inference import selection
from flax_ner.text.examples import Entity, Example

COLUMNS = "-DOCSTART- O\n\nEU B-ORG\nrejects O\n\nGerman B-MISC\n"


def test_convert_prints_detected_format_and_counts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, target = tmp_path / "in.conll", tmp_path / "out.json"
    source.write_text(COLUMNS)
    cli.main(["data", "convert", str(source), str(target)])
    assert capsys.readouterr().out.splitlines() == [
        f"IN: {source} is read as CoNLL columns of words, BIO.",
        f"IN: document boundaries (-DOCSTART-), left out: 1 (first: {source}:1)",
        f"Wrote {target} as cluener from 2 texts with 2 entities. Warnings: 0.",
    ]
    rows = [json.loads(line) for line in target.read_text().splitlines()]
    assert rows[0] == {"text": "EU rejects", "label": {"ORG": {"EU": [[0, 1]]}}}
    assert [path.name for path in tmp_path.iterdir() if path not in (source, target)] == []


def test_convert_writes_given_scheme_and_counts_lost_information(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [Example("浙商银行", (Entity("a", 0, 2), Entity("b", 1, 4), Entity("c", 3, 4)))]
    write_examples(tmp_path / "in", rows, "doccano")
    command = ["data", "convert", str(tmp_path / "in"), str(tmp_path / "out")]
    cli.main([*command, "--from", "doccano", "--to", "conll", "--scheme", "BMES"])
    assert (tmp_path / "out").read_text("utf-8") == "浙 B-a\n商 E-a\n银 O\n行 S-c\n\n"
    first, *out = capsys.readouterr().out.splitlines()
    assert first.endswith("is read as doccano JSONL, `end` exclusive.")
    assert out[0].startswith("OUT: entities that overlap an earlier entity, left out: 1 (first: ")
    assert out[1].endswith("as conll from 1 texts with 3 entities. Warnings: 1.")


def test_convert_stops_at_an_error_or_skips_and_lists_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, target = tmp_path / "in", tmp_path / "out"
    source.write_text("EU B-ORG\n\nrejects\n\ncall O\n\nit O\n")
    with pytest.raises(SystemExit, match=r"flax_ner: .*in:3: only one column, 'rejects'"):
        cli.main(["data", "convert", str(source), str(target)])
    assert not target.exists()
    cli.main(["data", "convert", str(source), str(target), "--skip"])
    out = capsys.readouterr().out
    assert f"left out: {source}:3: only one column, 'rejects'" in out
    assert f"IN: 1 unreadable records of {source} are left out, with their entities.\n" in out
    assert [e.text for e in read_examples(str(target), "auto")] == ["EU", "call", "it"]


@pytest.mark.parametrize("through", ["itself", "a dot", "a link", "a hard link", "a folder link"])
def test_convert_never_replaces_its_input(tmp_path: Path, through: str) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    source = folder / "in.json"
    source.write_text('{"text": "a", "id": 1}\n')
    target = {
        "itself": source,
        "a dot": folder / ".." / "folder" / "in.json",
        "a link": tmp_path / "link.json",
        "a hard link": tmp_path / "link.json",
        "a folder link": tmp_path / "linked" / "in.json",
    }[through]
    if through == "a link":
        target.symlink_to(source)
    elif through == "a hard link":
        target.hardlink_to(source)
    elif through == "a folder link":
        target.parent.symlink_to(folder)
    for force in ([], ["--force"]):
        for one, other in ((source, target), (target, source)):
            with pytest.raises(SystemExit, match=r"OUT: .* belongs to the input .*\. Name another"):
                cli.main(["data", "convert", str(one), str(other), "--to", "doccano", *force])
    assert source.read_text() == '{"text": "a", "id": 1}\n'


def test_convert_replaces_existing_file_only_with_force(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, target, folder = tmp_path / "in.json", tmp_path / "out.json", tmp_path / "docs"
    source.write_text('{"text": "a", "label": {}}\n')
    target.write_text("precious")
    command = ["data", "convert", str(source), str(target)]
    with pytest.raises(SystemExit, match=r"OUT: '.*out\.json' exists\. Name .* with --force\.$"):
        cli.main(command)
    assert target.read_text() == "precious"
    cli.main([*command, "--force"])
    assert target.read_text() == source.read_text()
    cli.main(["data", "convert", str(source), str(folder), "--to", "brat"])
    for name in (folder, folder / "000001.txt"):  # the folder, and a document in it that is read
        with pytest.raises(SystemExit, match=r"OUT: .*(is a folder|belongs to the input)"):
            cli.main(["data", "convert", str(folder), str(name), "--force"])
    with pytest.raises(SystemExit, match="belongs to the input"):
        cli.main(
            ["data", "convert", str(folder / "000001.ann"), str(folder / "000001.txt"), "--force"]
        )
    assert (folder / "000001.txt").read_text() == "a"
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(SystemExit, match="already exists"):  # not a regular file, like a device
        cli.main(["data", "convert", str(source), str(tmp_path / "pipe"), "--force"])
    assert (tmp_path / "pipe").is_fifo()


def run(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> str:
    cli.main(["data", *map(str, arguments)])
    return capsys.readouterr().out


def test_split_writes_parts_without_common_texts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = synthetic("train", 200)
    write_examples(tmp_path / "all.json", rows, "doccano")
    out = run(capsys, "split", tmp_path / "all.json", tmp_path / "parts", "--test", "0.2")
    assert "read as doccano JSONL" in out
    parts = {
        name: read_examples(str(tmp_path / "parts" / f"{name}.json"), "cluener")
        for name in ("train", "dev", "test")
    }
    assert sum(map(len, parts.values())) == 200 and 15 <= len(parts["dev"]) <= 25
    texts = [{example.text for example in part} for part in parts.values()]
    assert not texts[0] & texts[1] and not texts[0] & texts[2] and not texts[1] & texts[2]
    with pytest.raises(SystemExit, match=r"train\.json' exists"):
        cli.main(["data", "split", str(tmp_path / "all.json"), str(tmp_path / "parts")])


def test_split_never_replaces_its_input(tmp_path: Path) -> None:
    write_examples(tmp_path / "train.json", synthetic("train", 50), "cluener")
    before = (tmp_path / "train.json").read_bytes()
    with pytest.raises(SystemExit, match="belongs to the input"):
        cli.main(["data", "split", str(tmp_path / "train.json"), str(tmp_path), "--force"])
    assert (tmp_path / "train.json").read_bytes() == before


def test_split_writes_folds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_examples(tmp_path / "all.json", synthetic("train", 60), "cluener")
    run(capsys, "split", tmp_path / "all.json", tmp_path, "--folds", "3", "--to", "conll")
    dev = [read_examples(str(tmp_path / f"fold_{i}" / "dev.conll"), "conll") for i in (1, 2, 3)]
    train = read_examples(str(tmp_path / "fold_1" / "train.conll"), "conll")
    assert sum(map(len, dev)) == 60 and len(train) + len(dev[0]) == 60


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--dev", "1"], "--dev: 1.0, but it must be from 0 to below 1"),
        (["--dev", "0.5", "--test", "0.5"], "leave texts for train.json"),
        (["--folds", "1"], "--folds: 1, but it must be at least 2"),
        (["--folds", "9"], "would be empty"),
        (["--folds", "2", "--test", "0.1"], "--folds: leave out --dev and --test"),
    ],
)
def test_invalid_splits_are_refused_before_anything_is_written(
    tmp_path: Path, arguments: list[str], message: str
) -> None:
    write_examples(tmp_path / "all.json", synthetic("train", 4), "cluener")
    with pytest.raises(SystemExit, match=re.escape(message)):
        cli.main(["data", "split", str(tmp_path / "all.json"), str(tmp_path / "out"), *arguments])
    assert not (tmp_path / "out").exists()


def test_split_reports_the_parts_of_an_earlier_split(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_examples(tmp_path / "all.json", synthetic("train", 40), "cluener")
    command = ["split", tmp_path / "all.json", tmp_path / "parts"]
    assert "FOLDER" not in run(capsys, *command, "--test", "0.2")
    out = run(capsys, *command, "--force")
    assert (
        f"FOLDER: not parts of this split, and left there: {tmp_path}/parts/test.json. Delete"
        in out
    )
    with pytest.raises(SystemExit, match=r"FOLDER: .*all\.json is a file"):
        cli.main(["data", "split", str(tmp_path / "all.json"), str(tmp_path / "all.json")])


def test_merge_keeps_the_label_of_a_text_that_is_unlabelled_elsewhere(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_examples(tmp_path / "1.json", [Example("ab"), Example("c")], "cluener")
    write_examples(tmp_path / "2.json", [Example("ab", (Entity("x", 0, 1),))], "cluener")
    out = run(capsys, "merge", tmp_path / "1.json", tmp_path / "2.json", tmp_path / "out.json")
    assert "1 unlabelled texts occur again with a label, which is kept." in out
    merged = read_examples(str(tmp_path / "out.json"), "auto")
    assert [(e.text, e.entities) for e in merged] == [
        ("c", None), ("ab", (Entity("x", 0, 1, "a"),)),
    ]  # fmt: skip


def test_merge_writes_a_text_with_the_same_entities_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = [Example("ab", (Entity("x", 0, 1),)), Example("c", ())]
    second = [Example("ab", (Entity("x", 0, 1),)), Example("c", (Entity("y", 0, 1),))]
    write_examples(tmp_path / "1.json", first, "doccano")
    write_examples(tmp_path / "2.json", second, "cluener")
    out = run(capsys, "merge", tmp_path / "1.json", tmp_path / "2.json", tmp_path / "out.json")
    assert "1 texts occur again with the same entities, written once." in out
    assert "1 texts occur again with other entities, all written." in out
    merged = read_examples(str(tmp_path / "out.json"), "auto")
    assert [(e.text, e.entities) for e in merged] == [
        ("ab", (Entity("x", 0, 1, "a"),)), ("c", ()), ("c", (Entity("y", 0, 1, "c"),)),
    ]  # fmt: skip
    with pytest.raises(SystemExit, match="exists"):
        cli.main(["data", "merge", str(tmp_path / "1.json"), str(tmp_path / "out.json")])


def test_select_leaves_out_labelled_and_repeated_texts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(select_command, "load_tagger", lambda name: None)
    monkeypatch.setattr(selection, "select_texts", lambda tagger, texts, count: range(len(texts)))
    (tmp_path / "model").mkdir()
    pool = [Example("a", ()), Example("b"), Example("a"), Example("b"), Example("c")]
    write_examples(tmp_path / "pool.json", pool, "cluener")
    command = ["select", tmp_path / "model", tmp_path / "pool.json", tmp_path / "out.json"]
    out = run(capsys, *command)
    assert "FILE: 2 texts have labels and are left out." in out
    assert "FILE: 1 texts occur again and are left out." in out
    assert [e.text for e in read_examples(str(tmp_path / "out.json"), "auto")] == ["b", "c"]
    write_examples(tmp_path / "pool.json", pool[:1], "cluener")
    with pytest.raises(SystemExit, match=r"all texts in .* are labelled"):
        run(capsys, *command, "--force")
