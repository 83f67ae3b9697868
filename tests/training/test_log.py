"""metrics.jsonl of interrupted runs, TensorBoard files and the progress bar."""

import json
import sys
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console
from rich.progress import Progress

from flax_ner.errors import UserError
from flax_ner.training.log import MetricsFile, RunLog, progress_bar


def write_lines(workdir: Path, *lines: str) -> None:
    (workdir / "metrics.jsonl").write_text("\n".join(lines), "utf-8")


def test_lines_after_the_last_checkpoint_are_dropped(tmp_path: Path) -> None:
    rows = [
        {"step": step, "split": "dev", "f1": step / 10, "seconds": 1.0} for step in (1, 2, 3, 4)
    ]
    write_lines(tmp_path, *map(json.dumps, rows), "")
    with MetricsFile(tmp_path, 2, tensorboard=False) as metrics:
        assert metrics.best() == 0.2
        metrics.write({"step": 3, "split": "train"})
    kept = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [(row["step"], row["split"]) for row in kept] == [(1, "dev"), (2, "dev"), (3, "train")]


def test_an_incomplete_last_line_is_dropped(tmp_path: Path) -> None:
    write_lines(tmp_path, '{"step": 1, "split": "train", "seconds": 1}', '{"step": 2, "spl')
    with MetricsFile(tmp_path, 9, tensorboard=False) as metrics:
        assert [row["step"] for row in metrics.rows] == [1]
        assert metrics.best() == -1


@pytest.mark.parametrize(
    "line",
    [
        '{"step": 2, "spl',
        "3",
        '{"step": "a", "split": "train", "seconds": 1}',
        '{"step": 2, "split": "train", "seconds": null}',
        '{"step": 2, "split": "dev", "seconds": 1, "f1": "high"}',
    ],
)
def test_an_invalid_line_is_reported_with_its_number(tmp_path: Path, line: str) -> None:
    write_lines(tmp_path, '{"step": 1, "split": "train", "seconds": 1}', line, "")
    with pytest.raises(UserError, match=r"metrics.jsonl:2: not a line of metrics"):
        MetricsFile(tmp_path, 9, tensorboard=False)


def test_tensorboard_files_are_written_if_requested(tmp_path: Path) -> None:
    pytest.importorskip("tensorboardX")
    with MetricsFile(tmp_path, 0, tensorboard=True) as metrics:
        metrics.write({"step": 1, "split": "train", "loss": 0.5})
    (events,) = (tmp_path / "tensorboard").iterdir()
    assert b"train/loss" in events.read_bytes()


def test_the_bar_has_no_refresh_thread_in_a_notebook() -> None:
    """Text that is printed while that thread draws would be overwritten by the bar."""
    assert progress_bar(Console(force_terminal=True)).live.auto_refresh
    assert not progress_bar(Console(force_jupyter=True)).live.auto_refresh


def test_a_missing_tensorboardx_is_reported(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(UserError, match=r"^train\.tensorboard: needs tensorboardX\. Run pip"):
        MetricsFile(tmp_path, 0, tensorboard=True)


@pytest.mark.parametrize("steps", [(0, 30, 10), (10, 25, 10)])
def test_the_bar_shows_epoch_model_devices_and_times_in_80_columns(
    tmp_path: Path, steps: tuple[int, int, int]
) -> None:
    done, total, per_epoch = steps
    before = 3725.0 if done else 0.0  # seconds of the interrupted part of the run
    if done:
        row = {"step": done, "split": "train", "seconds": before}
        write_lines(tmp_path, json.dumps(row), "")
    console = Console(file=StringIO(), width=80)
    with MetricsFile(tmp_path, done, tensorboard=False) as metrics, progress_bar(console) as bar:
        description = "12 layers x 768, 102.3M parameters, on 2 CPU devices"
        log = RunLog(
            metrics,
            bar,
            done=done,
            total=total,
            per_epoch=per_epoch,
            units_per_step=1000.0,
            unit="sentences",
            description=description,
        )
        metrics_row = {
            "step": 15,
            "updates": 15 - done,
            "loss": 1.5,
            "grad_norm": 1,
            "learning_rate": 1,
        }
        log.train(15, 15 - done, metrics_row)
        log.flush()
        title, line = (str(line).rstrip() for line in render(console, bar))
        assert title == f"epoch 2/3, {description}"
        assert line.endswith("remaining -:--") and f"15/{total}" in line
        assert ("elapsed 1:02:05" if done else "elapsed 0:0") in line
        log.train(total, total - 15, metrics_row | {"step": total, "updates": total - 15})
        log.flush()
        title, line = (str(line).rstrip() for line in render(console, bar))
        assert title == f"epoch 3/3, {description}" and line.endswith("remaining 0:00")


def render(console: Console, bar: Progress) -> list[str]:
    with console.capture() as captured:
        console.print(*bar.get_renderables(), sep="")
    return captured.get().splitlines()
