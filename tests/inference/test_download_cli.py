"""python -m flax_ner data download."""

from pathlib import Path

import pytest

from flax_ner.inference.cli import main
from flax_ner.text.cluener_archive import SPLITS
from tests.local_server import NOWHERE
from tests.text.file_server import FileServer
from tests.text.test_cluener_archive import archive


def test_cluener_is_fetched_and_then_is_there(
    cluener: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    members = {name: (cluener / name).read_text("utf-8") for name in ("train.json", "dev.json")}
    members["test.json"] = '{"text": "王"}\n' * 1345
    command = ["data", "download", "cluener", "--to", str(tmp_path / "c")]
    with FileServer(archive(members)) as server:
        main([*command, "--url", server.url])
        lines = capsys.readouterr().out.splitlines()
        assert lines == [f"{tmp_path / 'c' / name}: {counts}" for name, counts in SPLITS.items()]
        main([*command, "--url", server.url])
        assert capsys.readouterr().out.splitlines() == [f"{tmp_path / 'c'}: all there", *lines]
        assert len(server.requests) == 1


def test_a_failure_is_one_message(tmp_path: Path) -> None:
    command = ["data", "download", "cluener", "--to", str(tmp_path / "c"), "--url", NOWHERE]
    with pytest.raises(SystemExit, match=r"^flax_ner: http://127\.0\.0\.1:1: cannot be reached"):
        main(command)


def test_other_names_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["data", "download", "msra"])
    assert "invalid choice: 'msra'" in capsys.readouterr().err
