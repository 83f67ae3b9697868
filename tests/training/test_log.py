"""metrics.jsonl of runs that were interrupted."""

import json
import sys
from pathlib import Path

import pytest
from rich.console import Console

from flax_ner.errors import UserError
from flax_ner.training.log import MetricsFile, progress_bar


def write_lines(workdir: Path, *lines: str) -> None:
    (workdir / "metrics.jsonl").write_text("\n".join(lines), "utf-8")


def test_lines_behind_the_last_checkpoint_are_dropped(tmp_path: Path) -> None:
    rows = [
        {"step": step, "split": "dev", "f1": step / 10, "seconds": 1.0} for step in (1, 2, 3, 4)
    ]
    write_lines(tmp_path, *map(json.dumps, rows), "")
    with MetricsFile(tmp_path, 2, tensorboard=False) as metrics:
        assert metrics.best() == 0.2
        metrics.write({"step": 3, "split": "train"})
    kept = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [(row["step"], row["split"]) for row in kept] == [(1, "dev"), (2, "dev"), (3, "train")]


def test_a_line_cut_off_by_a_kill_is_dropped(tmp_path: Path) -> None:
    write_lines(tmp_path, '{"step": 1, "split": "train", "seconds": 1}', '{"step": 2, "spl')
    with MetricsFile(tmp_path, 9, tensorboard=False) as metrics:
        assert [row["step"] for row in metrics.rows] == [1]
        assert metrics.best() == -1


def test_a_line_that_is_not_json_is_named(tmp_path: Path) -> None:
    write_lines(tmp_path, '{"step": 1, "split": "train", "seconds": 1}', '{"step": 2, "spl', "")
    with pytest.raises(UserError, match=r"metrics.jsonl:2: not a line of metrics"):
        MetricsFile(tmp_path, 9, tensorboard=False)


def test_tensorboard_files_are_written_where_asked_for(tmp_path: Path) -> None:
    pytest.importorskip("tensorboardX")
    with MetricsFile(tmp_path, 0, tensorboard=True) as metrics:
        metrics.write({"step": 1, "split": "train", "loss": 0.5})
    (events,) = (tmp_path / "tensorboard").iterdir()
    assert b"train/loss" in events.read_bytes()


def test_in_a_notebook_no_other_thread_draws_the_bar() -> None:
    """What one prints while the other draws would go into the bar and be gone with its next state."""
    assert progress_bar(Console(force_terminal=True)).live.auto_refresh
    assert not progress_bar(Console(force_jupyter=True)).live.auto_refresh


def test_what_event_files_need_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(UserError, match=r"^train\.tensorboard: needs tensorboardX\. Run pip"):
        MetricsFile(tmp_path, 0, tensorboard=True)
