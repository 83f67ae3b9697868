"""Metrics of a run: metrics.jsonl, optional TensorBoard files, and the progress bar."""

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
from flax_ner.errors import UserError, import_optional
from flax_ner.training.nonfinite import NonFiniteError
from flax_ner.training.task import Baseline

NOT_LEARNED = 0.9  # warn if the loss is above this fraction of the baseline's
DISPLAY_NAMES = {"f1": "F1"}  # of metrics that are printed under another name than in the file


class MetricsFile:
    """The file `workdir/metrics.jsonl`, one JSON object per line.

    Args:
        workdir: work directory of the run; None in a process that does not write.
        step: step from which training resumes. Lines of later steps are dropped.
        tensorboard: whether to write TensorBoard event files, too.
        best_by: the dev metric that selects the best model; higher is better.

    Raises:
        UserError: the file has an invalid line, or tensorboardX is not installed.
    """

    def __init__(self, workdir: Path | None, step: int, tensorboard: bool, best_by: str = "f1"):
        self._best_by = best_by
        self.rows: list[dict[str, Any]] = []
        self._file, self._events = None, None
        if workdir is None:
            return
        path = workdir / "metrics.jsonl"
        # A line without a line break is incomplete: the run was killed while it wrote.
        lines = path.read_text("utf-8").split("\n")[:-1] if path.exists() else []
        rows = [_parse(line, f"{path}:{number}", best_by) for number, line in enumerate(lines, 1)]
        self.rows = [row for row in rows if row["step"] <= step]
        write_text(path, "".join(json.dumps(row) + "\n" for row in self.rows))
        self._events = _event_writer(workdir, step) if tensorboard else None
        self._file = path.open("a", encoding="utf-8")

    def write(self, row: dict[str, Any]) -> None:
        """Append a line. `row` must have `step` and `split`."""
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
        """Force all lines to disk. Needed before a checkpoint, because a resumed run does not repeat them."""
        if self._file is not None:
            os.fsync(self._file.fileno())

    def best(self, seed: int | None = None) -> float:
        """Return the best dev metric so far, -1 if there is none.

        `seed` selects the model if several are trained.
        """
        return max((row[self._best_by] for row in self._dev(seed)), default=-1.0)

    def best_epoch(self, seed: int | None = None) -> float:
        """Return the epoch after which `best` was first reached, 0 if there is none.

        `seed` selects the model if several are trained.
        """
        best = self.best(seed)
        return next((row["epoch"] for row in self._dev(seed) if row[self._best_by] == best), 0.0)

    def _dev(self, seed: int | None) -> list[dict[str, Any]]:
        return [row for row in self.rows if row["split"] == "dev" and row.get("seed") == seed]

    def skipped(self) -> int:
        """Return the number of skipped steps so far."""
        return sum(row.get("skipped", 0) for row in self.rows)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        if self._file is not None:
            self._file.close()
        if self._events is not None:
            self._events.close()


class RunLog:
    """Write metrics and update the progress bar, one dispatch late so that the host never waits for the device.

    Args:
        metrics_file: receives the lines.
        progress: the progress bar.
        done: number of steps done.
        total: number of steps of the run.
        per_epoch: number of steps per epoch.
        units_per_step: units per step, for the throughput.
        unit: what the throughput counts, e.g. "sentences".
        description: model and devices, shown above the bar.
        baseline: the loss of a model that does not read the text; None if unknown.
        check_at: the step from which the loss should be below the baseline.
    """

    def __init__(
        self,
        metrics_file: MetricsFile,
        progress: Progress,
        done: int,
        total: int,
        per_epoch: int,
        units_per_step: float,
        unit: str,
        description: str,
        baseline: Baseline | None = None,
        check_at: int = 0,
    ):
        self._total, self._per_epoch = total, per_epoch
        self._baseline, self._check_at = baseline, check_at
        self._metrics_file, self._progress = metrics_file, progress
        self._units_per_step, self._unit = units_per_step, unit
        self._description = description
        rows = metrics_file.rows
        self._previous_seconds = float(rows[-1]["seconds"]) if rows else 0.0  # before resuming
        self._bar = progress.add_task(
            self._title(done),
            total=self._total,
            completed=done,
            rate="compiling" if done < self._total else "",
            previous_seconds=self._previous_seconds,
        )
        self._start = self._last = time.monotonic()
        self._pending: tuple[int, int, dict[str, Any]] | None = None

    def train(self, step: int, count: int, metrics: dict[str, Any]) -> None:
        """Log a dispatch of `count` steps that ends at `step`. Its metrics may still be computing.

        Raises:
            NonFiniteError: see `flush`; it belongs to the dispatch before this one.
        """
        self.flush()
        self._pending = (step, count, metrics)

    def flush(self) -> None:
        """Write the metrics of the last dispatch.

        Raises:
            NonFiniteError: the dispatch stopped at a step whose loss or gradients are not finite.
        """
        if self._pending is None:
            return
        step, count, metrics = self._pending
        self._pending = None
        reached, updates = int(metrics["step"]), int(metrics["updates"])
        done = reached - (step - count)
        if done > 0:
            self._write(reached, done, updates, metrics)
        if reached < step:
            raise NonFiniteError(reached)

    def _write(self, step: int, count: int, updates: int, metrics: dict[str, Any]) -> None:
        row = self._row(step, "train")
        for name in ("loss", "grad_norm", "learning_rate"):
            row[name] = float(metrics[name]) if updates else None
        if updates < count:
            row["skipped"] = count - updates
        now = time.monotonic()
        rate = self._units_per_step * count / (now - self._last)
        self._last = now
        self._metrics_file.write(row | {self._rate: rate, "seconds": self._seconds()})
        loss = f"{row['loss']:.3f}" if updates else "not finite"
        self._progress.update(
            self._bar,
            completed=step,
            description=self._title(step),
            rate=f"{rate:.0f} {self._unit}/s, loss {loss}",
            refresh=not self._progress.live.auto_refresh,
        )
        if updates and step >= self._check_at:
            self._check_baseline(step, row["loss"])

    def _check_baseline(self, step: int, loss: float) -> None:
        """Warn once if the loss is not clearly below the baseline."""
        baseline, self._baseline = self._baseline, None
        if baseline is not None and loss > NOT_LEARNED * baseline.loss:
            self._progress.console.print(
                f"Step {step}: the loss is {loss:.3f}. A model that does not read the text and only knows "
                f"{baseline.known} reaches {baseline.loss:.3f}. If F1 stays 0, stop the run and train with "
                f"{baseline.remedy} in a new --workdir.",
                highlight=False,
            )

    def dev(
        self,
        step: int,
        seeds: Sequence[int | None],
        metrics: Sequence[dict[str, float]],
        size: int,
    ) -> None:
        """Write the dev metrics of each model, and print them; for several models, the mean and the range.

        Args:
            step: number of steps done.
            seeds: one per model.
            metrics: one dict per model.
            size: sentences or tokens in dev. The throughput counts time from the last `flush`.
        """
        rate = size * len(seeds) / (time.monotonic() - self._last)
        for seed, own in zip(seeds, metrics, strict=True):
            row = self._row(step, "dev") | ({} if seed is None else {"seed": seed}) | own
            self._metrics_file.write(row | {self._rate: rate, "seconds": self._seconds()})
        summary = ", ".join(
            f"{DISPLAY_NAMES.get(name, name)} {_format_values([own[name] for own in metrics])}"
            for name in metrics[0]
        )
        self._progress.console.print(
            f"epoch {self._row(step, 'dev')['epoch']:g}, step {step}: dev {summary}, "
            f"elapsed {_clock(self._seconds())}",
            highlight=False,
        )

    def resume_clock(self) -> None:
        """Restart the clock of the throughput after an evaluation or a checkpoint."""
        self._last = time.monotonic()

    @property
    def _rate(self) -> str:
        return f"{self._unit}_per_second"

    def _title(self, step: int) -> str:
        epochs = -(-self._total // self._per_epoch)
        return f"epoch {min(step // self._per_epoch + 1, epochs)}/{epochs}, {self._description}"

    def _row(self, step: int, split: str) -> dict[str, Any]:
        return {"step": step, "epoch": round(step / self._per_epoch, 4), "split": split}

    def _seconds(self) -> float:
        return round(self._previous_seconds + time.monotonic() - self._start, 2)


def _format_values(values: Sequence[float]) -> str:
    if len(values) == 1:
        return f"{values[0]:.4f}"
    return f"{mean(values):.4f} ({min(values):.4f} to {max(values):.4f})"


class _TimesColumn(ProgressColumn):
    """Elapsed and remaining time. The field `previous_seconds` is the elapsed time before resuming."""

    def render(self, task: Task) -> Text:
        elapsed = (task.finished_time if task.finished else task.elapsed) or 0.0
        remaining = "-:--" if task.time_remaining is None else _clock(task.time_remaining)
        return Text(
            f"elapsed {_clock(task.fields.get('previous_seconds', 0.0) + elapsed)}, remaining {remaining}"
        )


class _ProgressBar(Progress):
    """A progress bar with its description on a separate line; one line would be too narrow for both."""

    def get_renderables(self) -> Iterable[RenderableType]:
        yield from (Text(task.description) for task in self.tasks)
        yield self.make_tasks_table(self.tasks)


def progress_bar(console: Console) -> Progress:
    """Return a progress bar over steps with epoch, model, devices, throughput, loss and times.

    In a notebook it is drawn only when it is updated. Text that is printed while rich's refresh thread draws
    would be overwritten by the bar.
    """
    columns = (
        BarColumn(bar_width=None, table_column=Column(ratio=1)),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        _TimesColumn(Column(no_wrap=True)),
    )
    # One hour: a dispatch of a large model can take longer than the default of 30 seconds.
    return _ProgressBar(
        *columns,
        console=console,
        auto_refresh=not console.is_jupyter,
        expand=True,
        speed_estimate_period=3600,
    )


def _clock(seconds: float) -> str:
    """Format seconds as 0:05 or 1:00:05."""
    minutes, second = divmod(int(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"


def _parse(line: str, source: str, best_by: str) -> dict[str, Any]:
    try:
        row: dict[str, Any] = json.loads(line)
        numbers = ["step", "seconds", *([best_by] if row["split"] == "dev" else [])]
        if not all(isinstance(row[name], int | float) for name in numbers):
            raise TypeError
        return row
    except (ValueError, TypeError, KeyError):
        raise UserError(
            f"{source}: not a line of metrics. Fix or delete this line to resume the run."
        ) from None


def _event_writer(workdir: Path, step: int) -> Any:
    tensorboard = import_optional("tensorboardX", "train.tensorboard", "tensorboardX")
    return tensorboard.SummaryWriter(str(workdir / "tensorboard"), purge_step=step + 1)
