"""The commands `python -m flax_ner data check` and `data stats`."""

import json
from pathlib import Path

import pytest

from flax_ner.cli.main import main
from flax_ner.data.cluener import write_cluener
from flax_ner.text.examples import Entity, Example
from flax_ner.weights.model_dir import ModelDir, save_model
from tests.inference.helpers import CONFIG, LABELS, VOCAB, hand_made_params

GOOD = '{"text": "彭小军在台湾", "label": {"name": {"彭小军": [[0, 2]]}, "address": {"台湾": [[4, 5]]}}}'


def write(path: Path, *lines: str) -> str:
    path.write_text("\n".join(lines) + "\n", "utf-8")
    return str(path)


def test_data_without_mistakes_has_no_findings(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["data", "check", write(tmp_path / "a.json", GOOD)])
    assert capsys.readouterr().out.endswith("errors: 0, warnings: 0\n")


def test_warnings_do_not_change_the_exit_status(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = [write(tmp_path / name, GOOD) for name in ("a.json", "b.json")]
    main(["data", "check", *files])
    out = capsys.readouterr().out
    assert "shared_text (1): texts in more" in out and "errors: 0, warnings: 1" in out
    assert all(f"{file}:1: 彭小军在台湾" in out for file in files)


def test_every_unreadable_line_is_an_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shifted = GOOD.replace("[0, 2]", "[1, 3]")
    data = write(tmp_path / "a.json", "{", GOOD, shifted, '{"label": {}}')
    with pytest.raises(SystemExit) as exit_info:
        main(["data", "check", data])
    assert exit_info.value.code == 1
    out = capsys.readouterr().out
    assert all(f"{data}:{line}: " in out for line in (1, 3, 4)) and f"{data}:2: " not in out
    assert "but the text has '小军在' there" in out and "errors: 3, warnings: 0" in out


def test_a_file_without_a_readable_line_is_listed_by_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad, empty = write(tmp_path / "bad.json", *['{"text":'] * 3), write(tmp_path / "empty.json")
    (tmp_path / "wide.json").write_text(GOOD, "utf-16")
    out = tmp_path / "out.json"
    with pytest.raises(SystemExit):
        main(["data", "check", bad, empty, str(tmp_path / "wide.json"), "--json", str(out)])
    assert "errors: 5" in capsys.readouterr().out
    errors = json.loads(out.read_text())["errors"]
    assert [error.partition(": ")[0] for error in errors] == [
        *(f"{bad}:{line}" for line in (1, 2, 3)), empty, str(tmp_path / "wide.json"),
    ]  # fmt: skip


def test_invalid_arguments_are_errors(tmp_path: Path) -> None:
    data = write(tmp_path / "a.json", GOOD)
    for arguments, message in (
        ([data, str(tmp_path / "b.json")], "DATA: no file"),
        ([data, str(tmp_path / "." / "a.json")], r"is the same file as .*\. Give each file once\."),
        ([data, "--html", str(tmp_path / "no" / "o.html")], "--html: no folder"),
        ([data, "--json", data], r"--json: '.*' belongs to the input '.*a\.json'"),
        ([data, "--html", data, "--force"], "--html: .* belongs to the input"),
        ([data, "--json", str(tmp_path)], "--json: .* is a folder"),
        ([data, "--json", write(tmp_path / "o.json", "x")], r"--json: .* exists\. .* with --force"),
        (
            [data, "--json", str(tmp_path / "new"), "--html", str(tmp_path / "." / "new")],
            "--html: .* is the file of --json",
        ),
        ([data, "--show", "-1"], "--show: -1, but it must be at least 0"),
        ([data, "--long", "0"], "--long: 0, but it must be at least 1"),
    ):
        with pytest.raises(SystemExit, match=message):
            main(["data", "check", *arguments])


def test_json_and_html_reports_are_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "a.json"
    write_cluener(data, [Example("a\ud800<b>", (Entity("x", 1, 2),)), Example("", ())])
    out, page = tmp_path / "o.json", tmp_path / "o.html"
    for command in ("check", "stats"):
        force = ["--force"] if command == "stats" else []
        main(["data", command, str(data), "--json", str(out), "--html", str(page), *force])
        row = json.loads(out.read_text("utf-8"))
        assert row["files"][0]["texts"] == 2 and row["files"][0]["distinct"] == 1
        assert "<table>" in page.read_text("utf-8")
        if command == "check":
            kinds = [finding["kind"] for finding in row["findings"]]
            assert kinds == ["one_character", "empty_text"]
            assert row["findings"][0]["cases"][0]["places"][0]["text"] == "a\ud800<b>"
            assert "\\ud800" in page.read_text("utf-8") and "<b>x" not in page.read_text("utf-8")
    assert "entities, mentions" in capsys.readouterr().out


def test_stats_stops_at_an_unreadable_line(tmp_path: Path) -> None:
    data = write(tmp_path / "a.json", GOOD, "{")
    with pytest.raises(SystemExit, match=r"a\.json:2: not JSON"):
        main(["data", "stats", data])


def test_a_model_adds_the_labels_it_disagrees_with(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_model(tmp_path / "model", ModelDir(CONFIG, LABELS, VOCAB, 64, hand_made_params()))
    data = tmp_path / "a.json"
    write_cluener(data, [Example("obi中oo", (Entity("name", 4, 6),))])
    out = tmp_path / "o.json"
    main(["data", "check", str(data), "--model", str(tmp_path / "model"), "--json", str(out)])
    findings = {f["kind"]: f["cases"] for f in json.loads(out.read_text("utf-8"))["findings"]}
    assert list(findings) == ["unlikely_entity", "missing_entity"]
    (missing,) = findings["missing_entity"]
    assert missing["probability"] > 0.5 and missing["places"][0]["start"] == 1
    assert "the model predicts no entity here" in capsys.readouterr().out


def test_check_of_cluener_has_the_published_counts(
    cluener: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = [str(cluener / name) for name in ("train.json", "dev.json")]
    out = tmp_path / "o.json"
    main(["data", "check", *files, "--show", "1", "--json", str(out)])
    rows = json.loads(out.read_text("utf-8"))["files"]
    assert [(r["distinct"], r["mentions"]) for r in rows] == [(23338, 23972), (2982, 3072)]
    assert "errors: 0, warnings: 1,919" in capsys.readouterr().out
