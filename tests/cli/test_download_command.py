"""`python -m flax_ner data download`."""

from pathlib import Path

import pytest

from flax_ner.cli.main import main
from flax_ner.data.cluener_archive import CLUENER_SPLITS
from tests.data.file_server import FileServer
from tests.data.test_cluener_archive import archive
from tests.local_server import NOWHERE


def test_downloads_cluener_once(
    cluener: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    members = {name: (cluener / name).read_text("utf-8") for name in ("train.json", "dev.json")}
    members["test.json"] = '{"text": "王"}\n' * 1345
    command = ["data", "download", "cluener", "--to", str(tmp_path / "c")]
    with FileServer(archive(members)) as server:
        main([*command, "--url", server.url])
        lines = capsys.readouterr().out.splitlines()
        assert lines == [
            f"{tmp_path / 'c' / name}: {counts}" for name, counts in CLUENER_SPLITS.items()
        ]
        main([*command, "--url", server.url])
        assert capsys.readouterr().out.splitlines() == [
            f"{tmp_path / 'c'}: all files already exist",
            *lines,
        ]
        assert len(server.requests) == 1


def test_failure_exits_with_one_message(tmp_path: Path) -> None:
    command = ["data", "download", "cluener", "--to", str(tmp_path / "c"), "--url", NOWHERE]
    with pytest.raises(SystemExit, match=r"^flax_ner: http://127\.0\.0\.1:1: cannot be reached"):
        main(command)


def test_unknown_data_set_is_rejected(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["data", "download", "msra"])
    assert "invalid choice: 'msra'" in capsys.readouterr().err
