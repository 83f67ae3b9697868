"""What a run reports while it goes: metrics.jsonl, TensorBoard where asked for, a progress bar."""

import json
import os
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import mean
from typing import Any, Self

from rich.console import Console, RenderableType
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
)
from rich.table import Column
from rich.text import Text

from flax_ner.durable import write_text
from flax_ner.errors import UserError, need
from flax_ner.training.job import Baseline
from flax_ner.training.nonfinite import NotFinite

NO_BETTER = 0.9  # share of the baseline's loss above which nothing has been learned
SHOWN = {"f1": "F1"}  # figures that are not shown by the name they have in the file


class MetricsFile:
    """`workdir/metrics.jsonl`, one object a line.

    Args:
        workdir: of the run; None: of a process that does not write.
        step: where training goes on; lines of later steps, of an interrupted run, are dropped.
        tensorboard: also write event files.
        best_by: the figure of dev that says which of two models is better.
    """

    def __init__(self, workdir: Path | None, step: int, tensorboard: bool, best_by: str = "f1"):
        self._best_by = best_by
        self.rows: list[dict[str, Any]] = []
        self._file, self._events = None, None
        if workdir is None:
            return
        path = workdir / "metrics.jsonl"
        # A line that has no end was cut off by whatever stopped the run.
        lines = path.read_text("utf-8").split("\n")[:-1] if path.exists() else []
        rows = [_parse(line, f"{path}:{number}", best_by) for number, line in enumerate(lines, 1)]
        self.rows = [row for row in rows if row["step"] <= step]
        write_text(path, "".join(json.dumps(row) + "\n" for row in self.rows))
        self._events = _event_writer(workdir, step) if tensorboard else None
        self._file = path.open("a", encoding="utf-8")

    def write(self, row: dict[str, Any]) -> None:
        """Append a line; `row` has at least `step` and `split`."""
        self.rows.append(row)
        if self._file is not None:
            self._file.write(json.dumps(row) + "\n")
            self._file.flush()
        if self._events is not None:
            split = f"{row['split']}/seed_{row['seed']}" if "seed" in row else row["split"]
            for name, value in row.items():
                if name not in ("step", "split", "seed") and value is not None:
                    self._events.add_scalar(f"{split}/{name}", value, row["step"])

    def sync(self) -> None:
        """Force the lines so far to disk: before a checkpoint from which a run resumes behind them."""
        if self._file is not None:
            os.fsync(self._file.fileno())

    def best(self, seed: int | None = None) -> float:
        """The best figure on dev so far, -1 before the first; of several models, of that of a seed."""
        return max((row[self._best_by] for row in self._dev(seed)), default=-1.0)

    def best_epoch(self, seed: int | None = None) -> float:
        """The epoch behind which dev had it first, 0 before the first."""
        best = self.best(seed)
        return next((row["epoch"] for row in self._dev(seed) if row[self._best_by] == best), 0.0)

    def _dev(self, seed: int | None) -> list[dict[str, Any]]:
        return [row for row in self.rows if row["split"] == "dev" and row.get("seed") == seed]

    def skipped(self) -> int:
        """How many steps were left out so far."""
        return sum(row.get("skipped", 0) for row in self.rows)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        if self._file is not None:
            self._file.close()
        if self._events is not None:
            self._events.close()


class RunLog:
    """Writes lines and moves the progress bar, one dispatch late so that the host never waits for the device.

    Args:
        metrics: the file.
        progress: the bar.
        steps: done so far, in all, an epoch.
        units_per_step: for the rate, with the name of the unit.
        running: the model and the devices, shown above the bar.
        baseline: the loss of a model that does not read the text; None if unknown.
        check_at: the step from which the loss should be lower than that.
    """

    def __init__(
        self,
        metrics: MetricsFile,
        progress: Progress,
        steps: tuple[int, int, int],
        units_per_step: tuple[float, str],
        running: str,
        baseline: Baseline | None = None,
        check_at: int = 0,
    ):
        done, self._total, self._per_epoch = steps
        self._baseline, self._check_at = baseline, check_at
        self._metrics, self._progress = metrics, progress
        self._per_step, self._unit = units_per_step
        self._running = running
        self._before = float(metrics.rows[-1]["seconds"]) if metrics.rows else 0.0
        self._bar = progress.add_task(
            self._title(done),
            total=self._total,
            completed=done,
            rate="compiling" if done < self._total else "",
            before=self._before,
        )
        self._start = self._last = time.monotonic()
        self._pending: tuple[int, int, dict[str, Any]] | None = None

    def train(self, step: int, count: int, figures: dict[str, Any]) -> None:
        """Take the figures of `count` steps that end at `step`, arrays that may not be there yet."""
        self.flush()
        self._pending = (step, count, figures)

    def flush(self) -> None:
        """Write what `train` still holds back.

        Raises:
            NotFinite: it did not come to its end.
        """
        if self._pending is None:
            return
        step, count, figures = self._pending
        self._pending = None
        reached, updates = int(figures["step"]), int(figures["updates"])
        done = reached - (step - count)
        if done > 0:
            self._write(reached, done, updates, figures)
        if reached < step:
            raise NotFinite(reached)

    def _write(self, step: int, count: int, updates: int, figures: dict[str, Any]) -> None:
        row = self._row(step, "train")
        for name in ("loss", "grad_norm", "learning_rate"):
            row[name] = float(figures[name]) if updates else None
        if updates < count:
            row["skipped"] = count - updates
        now = time.monotonic()
        rate = self._per_step * count / (now - self._last)
        self._last = now
        self._metrics.write(row | {self._rate: rate, "seconds": self._seconds()})
        loss = f"{row['loss']:.3f}" if updates else "not finite"
        self._progress.update(
            self._bar,
            completed=step,
            description=self._title(step),
            rate=f"{rate:.0f} {self._unit}/s, loss {loss}",
            refresh=not self._progress.live.auto_refresh,
        )
        if updates and step >= self._check_at:
            self._compare(step, row["loss"])

    def _compare(self, step: int, loss: float) -> None:
        """Say once if the loss is no better than the baseline."""
        baseline, self._baseline = self._baseline, None
        if baseline is not None and loss > NO_BETTER * baseline.loss:
            self._progress.console.print(
                f"Step {step}: the loss is {loss:.3f}. A model that does not read the text, but knows "
                f"{baseline.known}, has {baseline.loss:.3f}. If F1 stays 0, stop the run and train with "
                f"{baseline.remedy} in a new --workdir.",
                highlight=False,
            )

    def dev(
        self,
        step: int,
        seeds: Sequence[int | None],
        figures: Sequence[dict[str, float]],
        size: int,
    ) -> None:
        """Write a line of figures of each model; dev, of `size` units, was looked at since the last `flush`.

        Shown are, of several, the means and how far the highest and the lowest lie apart.
        """
        rate = size * len(seeds) / (time.monotonic() - self._last)
        for seed, own in zip(seeds, figures, strict=True):
            row = self._row(step, "dev") | ({} if seed is None else {"seed": seed}) | own
            self._metrics.write(row | {self._rate: rate, "seconds": self._seconds()})
        told = ", ".join(
            f"{SHOWN.get(name, name)} {_summary([own[name] for own in figures])}"
            for name in figures[0]
        )
        self._progress.console.print(
            f"epoch {self._row(step, 'dev')['epoch']:g}, step {step}: dev {told}, "
            f"elapsed {_clock(self._seconds())}",
            highlight=False,
        )

    def resume_clock(self) -> None:
        """Training goes on from here: what lay between does not count for its rate."""
        self._last = time.monotonic()

    @property
    def _rate(self) -> str:
        return f"{self._unit}_per_second"

    def _title(self, step: int) -> str:
        epochs = -(-self._total // self._per_epoch)
        return f"epoch {min(step // self._per_epoch + 1, epochs)}/{epochs}, {self._running}"

    def _row(self, step: int, split: str) -> dict[str, Any]:
        return {"step": step, "epoch": round(step / self._per_epoch, 4), "split": split}

    def _seconds(self) -> float:
        return round(self._before + time.monotonic() - self._start, 2)


def _summary(values: Sequence[float]) -> str:
    if len(values) == 1:
        return f"{values[0]:.4f}"
    return f"{mean(values):.4f} ({min(values):.4f} to {max(values):.4f})"


class _Times(ProgressColumn):
    """Elapsed time, with that of an interrupted run in the field `before`, and an estimate of what is left."""

    def render(self, task: Task) -> Text:
        elapsed = (task.finished_time if task.finished else task.elapsed) or 0.0
        remaining = "-:--" if task.time_remaining is None else _clock(task.time_remaining)
        return Text(
            f"elapsed {_clock(task.fields.get('before', 0.0) + elapsed)}, remaining {remaining}"
        )


class _Bar(Progress):
    """A bar below a line of its own for the description, which would leave no room for the bar."""

    def get_renderables(self) -> Iterable[RenderableType]:
        yield from (Text(task.description) for task in self.tasks)
        yield self.make_tasks_table(self.tasks)


def progress_bar(console: Console) -> Progress:
    """Return a bar over steps with epoch, model, devices, rate, loss, elapsed and remaining time.

    In a notebook it is drawn only when it moves: what is printed while rich's own thread draws goes
    into the bar and is gone with its next state.
    """
    columns = (
        BarColumn(bar_width=None, table_column=Column(ratio=1)),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        _Times(Column(no_wrap=True)),
    )
    # An hour of steps: a dispatch of a large model takes longer than rich's 30 seconds.
    return _Bar(
        *columns,
        console=console,
        auto_refresh=not console.is_jupyter,
        expand=True,
        speed_estimate_period=3600,
    )


def _clock(seconds: float) -> str:
    """Return a time as 0:05 or 1:00:05."""
    minutes, second = divmod(int(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"


def _parse(line: str, source: str, best_by: str) -> dict[str, Any]:
    try:
        row: dict[str, Any] = json.loads(line)
        row["step"], row["seconds"], row[best_by if row["split"] == "dev" else "split"]
        return row
    except (ValueError, TypeError, KeyError):
        raise UserError(
            f"{source}: not a line of metrics. Mend or delete it; whoever goes on needs those before."
        ) from None


def _event_writer(workdir: Path, step: int) -> Any:
    tensorboard = need("tensorboardX", "train.tensorboard", "tensorboardX")
    return tensorboard.SummaryWriter(str(workdir / "tensorboard"), purge_step=step + 1)
