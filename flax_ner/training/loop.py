"""The training loop: from a configuration to scored models in a work directory."""

import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from itertools import groupby
from pathlib import Path

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict
from rich.console import Console

from flax_ner.config_checks import check_config, config_warnings
from flax_ner.errors import UserError
from flax_ner.evaluation.metrics import Scores
from flax_ner.memory import explain_jax_errors, explain_out_of_memory
from flax_ner.model.tagging_model import Params
from flax_ner.next_steps import print_next
from flax_ner.text.batches import Batches, Epoch
from flax_ner.training.checkpoint import Checkpoints
from flax_ner.training.hosts import (
    check_same_on_all_hosts,
    fail_together,
    initialize_hosts,
    is_primary,
    run_on_all_hosts,
    run_on_primary,
)
from flax_ner.training.interruption import DeferredSignals, Interrupted
from flax_ner.training.log import MetricsFile, RunLog, progress_bar
from flax_ner.training.loss import State
from flax_ner.training.mesh import (
    bytes_per_device,
    gather_to_hosts,
    make_mesh,
    process_local_rows,
    put_epoch,
    state_shardings,
)
from flax_ner.training.nonfinite import NonFiniteError, explain_nonfinite
from flax_ner.training.optimizer import make_optimizer, make_schedule, vmap_optimizer
from flax_ner.training.random_keys import init_key
from flax_ner.training.step import (
    RunSteps,
    StepMetrics,
    init_state,
    make_run_steps,
    make_step,
    used_params,
)
from flax_ner.training.task import Content, Evaluate, Metrics, TrainingTask, model_folder
from flax_ner.training.workdir import (
    fill_from_saved_config,
    has_checkpoints,
    lock_workdir,
    saved_config_format,
    total_steps,
)
from flax_ner.weights.model_dir import save_model, storage_path

CHECK_AFTER = 0.2  # Compare the loss with the baseline this fraction of all steps after warm-up.


@fail_together()
def run_training(
    config: ConfigDict, workdir: str | Path, make_task: Callable[[ConfigDict], TrainingTask]
) -> Scores | Metrics:
    """Train a task from a configuration, or resume the run in the same work directory.

    With `config.mesh.distributed` every process of the run calls this. Only process 0 writes and prints. An
    error in one process ends all.

    Args:
        config: a configuration with the settings of `default_config`.
        workdir: work directory of the run, see `fit`.
        make_task: reads the data and makes the task of a configuration.

    Returns:
        The dev scores of the model in `best`.

    Raises:
        UserError: a setting or an input is invalid, differs from the run to resume, or something that the user
            can fix fails during training.
        Interrupted: a signal or the time limit stopped the run, and its state is saved.
    """
    check_config(config)
    with explain_jax_errors():
        if config.mesh.distributed or jax.distributed.is_initialized():
            initialize_hosts()
        # Resolve links once, so that a later change of a link cannot split the run.
        workdir = storage_path(workdir)
        # No markup: rich would read [name] in a path as a style and :name: as an emoji.
        console = Console(quiet=not is_primary(), markup=False, emoji=False)
        config = fill_from_saved_config(config, workdir)
        task = run_on_all_hosts(partial(make_task, config))
        config = task.config
        task.notes += config_warnings(config)
        inputs = _digests(config, task)
        if jax.process_count() > 1:
            config_json = config.to_json(sort_keys=True).encode()
            check_same_on_all_hosts({"config": hashlib.sha256(config_json).hexdigest(), **inputs})
        mesh = make_mesh(config.mesh.data, config.mesh.fsdp, config.data.batch_size)
        if has_checkpoints(workdir) and saved_config_format(workdir) == 0:
            task.notes.append(
                "An earlier version of flax_ner started this run. From here on its dropout masks are different."
            )
        with lock_workdir(workdir, config, inputs):
            task.setup(workdir, mesh, console)  # a signal ends this at once: no state to save yet
            with DeferredSignals(config.train.max_seconds) as signals:
                with explain_out_of_memory(_how_to_use_less_memory(config, mesh)):
                    _Run(config, workdir, task, mesh, signals, console).train()
                scores = task.report(workdir, console)
                if is_primary():
                    print_next(console, task.next_commands(workdir))
                return scores


class _Run:
    """One training run. `train` is the loop; the other methods are its steps, in the order of their use."""

    def __init__(
        self,
        config: ConfigDict,
        workdir: Path,
        task: TrainingTask,
        mesh: Mesh,
        signals: DeferredSignals,
        console: Console,
    ):
        self.config, self.workdir, self.task = config, workdir, task
        self.mesh, self.signals, self.console = mesh, signals, console
        self.per_epoch, self.per_chunk = task.steps_per_epoch, task.steps_per_chunk
        self.total = total_steps(config, self.per_epoch)

    def train(self) -> None:
        """Train until the last step. Save the best model on dev as `best` and the final one as `last`."""
        task, total = self.task, self.total
        self._build_step()
        with ExitStack() as stack:
            self.checkpoints = stack.enter_context(
                Checkpoints(self.workdir / "checkpoints", self.config.checkpoint.keep)
            )
            # Enter after `Checkpoints`, so that `fail_together` exits first: after an error, closing the
            # checkpoints would wait for writes that the other processes take part in.
            stack.enter_context(fail_together())
            for note in (*task.notes, *self.checkpoints.notes):
                self.console.print(note, highlight=False)
            self.state = self._initial_state()
            self.done = begin = int(self.state["step"])
            if begin:
                resumes = f"Resuming at step {begin} of {total}."
                self.console.print(
                    resumes if begin < total else "All steps are done.", highlight=False
                )
            self._open_log(stack)
            evaluate = task.evaluator(self.mesh)
            rows = process_local_rows(self.mesh, self.config.data.batch_size)
            upcoming = task.batches(begin // self.per_chunk, rows)
            while self.done < total:
                chunk, batches = self.done // self.per_chunk, upcoming
                try:
                    self._train_chunk(chunk, batches)
                    if self.done < total:  # the device is still computing the last dispatch
                        upcoming = task.batches(chunk + 1, rows)
                    self.log.flush()
                except NonFiniteError as error:
                    raise self._nonfinite_error(error, chunk, batches) from None
                if (chunk + 1) % self.config.eval.every == 0 or self.done == total:
                    self._evaluate(evaluate)
                self._checkpoint(end_of_chunk=True)
                self.log.resume_clock()
            self.checkpoints.wait()
        self._print_summary(begin)
        self._save_models("last", range(len(task.seeds)))

    def _build_step(self) -> None:
        """Build the step and the functions that initialise its state."""
        config, task, mesh = self.config, self.task, self.mesh
        schedule = make_schedule(config.optimizer, self.total, self.per_epoch)
        optimizer = make_optimizer(config.optimizer, schedule)
        if len(task.seeds) > 1:
            optimizer = vmap_optimizer(optimizer)
        self.make_state = partial(init_state, optimizer, ema=config.train.ema > 0)
        self.shapes = jax.eval_shape(self.make_state, task.abstract())
        self.shardings = state_shardings(mesh, self.shapes)
        self.description = _describe(config, self.shapes["params"], len(task.seeds), mesh)
        task.notes.append(f"Training {self.description}.")
        if mesh.size > 1:
            size = bytes_per_device(self.shapes, self.shardings)
            task.notes.append(
                f"{mesh.size} devices, mesh.data x mesh.fsdp = {mesh.shape['data']} x {mesh.shape['fsdp']}; "
                f"parameters and optimizer state: {size / 1e6:.1f} MB per device."
            )
        step = make_step(
            task.gradients, optimizer, schedule, config.train.skip_nonfinite, config.train.ema
        )
        self.run_steps = make_run_steps(step, self.shardings)
        if config.profile and is_primary():
            self.run_steps = _profiled(self.run_steps, self.workdir / "profile", self.console)

    def _initial_state(self) -> State:
        """Return the state of the newest checkpoint, or a fresh one."""
        state = self.checkpoints.restore(self.shapes, self.shardings)
        if state is None:
            make_state = jax.jit(self.make_state, out_shardings=self.shardings)
            params = self.task.initial(init_key(self.config.seed), self.shardings["params"])
            state = make_state(params)
        self.task.release()
        return state

    def _open_log(self, stack: ExitStack) -> None:
        """Open `metrics.jsonl` and the progress bar."""
        done = self.done
        config, task = self.config, self.task
        file, tensorboard = self.workdir if is_primary() else None, config.train.tensorboard
        self.metrics = run_on_all_hosts(lambda: MetricsFile(file, done, tensorboard, task.best_by))
        stack.enter_context(self.metrics)
        progress = stack.enter_context(progress_bar(console=self.console))
        check_at = round((config.optimizer.warmup + CHECK_AFTER) * self.total)
        self.log = RunLog(
            self.metrics,
            progress,
            done=done,
            total=self.total,
            per_epoch=self.per_epoch,
            units_per_step=task.units_per_step,
            unit=task.unit,
            description=self.description,
            # A run that resumes after `check_at` was compared with the baseline before it stopped.
            baseline=task.baseline if done < check_at else None,
            check_at=check_at,
        )

    def _train_chunk(self, chunk: int, batches: Epoch) -> None:
        """Train on the remaining steps of a chunk, with checkpoints where they are due."""
        size, first_step = self.config.data.batch_size, chunk * self.per_chunk
        arrays = [put_epoch(self.mesh, size, shape) for shape in batches.shapes]
        for shape, first, count in _dispatches(
            batches.order, first_step, self.done, self.total, self.config
        ):
            self.state, metrics = self.run_steps(self.state, arrays[shape], first, count, self.done)
            self.done += count
            self.log.train(self.done, count, metrics)
            if self.done % self.per_chunk and self.done < self.total:
                self._checkpoint()

    def _evaluate(self, evaluate: Evaluate) -> None:
        """Evaluate on dev, and save the models that improved as `best`."""
        task = self.task
        best = run_on_primary(lambda: [self.metrics.best(seed) for seed in task.seeds])
        scores = evaluate(used_params(self.state))
        self.log.dev(self.done, task.seeds, scores, task.dev_size)
        better = [i for i, own in enumerate(scores) if own[task.best_by] > best[i]]
        self._save_models("best", better)

    def _checkpoint(self, end_of_chunk: bool = False) -> None:
        """Save the state if a checkpoint is due or a signal asks to stop.

        At the end of a chunk dev is evaluated before this, so that a resumed run does not evaluate again.

        Raises:
            Interrupted: a signal asked to stop, and steps are left.
        """
        done, every = self.done, self.config.checkpoint.every
        cause = self.signals.received()
        due = done % every == 0 if every else end_of_chunk
        if cause or due or done == self.total:
            self.log.flush()  # A resumed run does not repeat these steps, so write their metrics first.
            self.metrics.sync()
            self.checkpoints.save(done, self.state)
        if cause and done < self.total:
            self.checkpoints.wait()  # Report a failed write instead of claiming that the state is saved.
            raise Interrupted(cause, done, self.total)

    def _nonfinite_error(self, error: NonFiniteError, chunk: int, batches: Epoch) -> UserError:
        """Save the state before a step whose loss or gradients are not finite; return the error to raise."""
        epoch, batch = divmod(error.step, self.per_epoch)
        where = f"step {error.step + 1} (epoch {epoch + 1}, batch {batch + 1} of {self.per_epoch})"
        self.metrics.sync()
        try:
            self.checkpoints.save(error.step, self.state)
            self.checkpoints.wait()
        except UserError as failure:
            return UserError(f"{where}: loss or gradients are not finite. {failure}")
        shape, index = _position(batches.order, error.step - chunk * self.per_chunk)
        rows = put_epoch(self.mesh, self.config.data.batch_size, batches.shapes[shape])
        why = explain_nonfinite(self.task.gradients, self.mesh, self.state, rows, index)
        return UserError(
            f"{where}: {why}. The state before this step is saved. Repeat the command with "
            "--config.train.skip_nonfinite=True to skip such steps, or train with a lower "
            "optimizer.learning_rate or optimizer.clip_norm in another work directory."
        )

    def _save_models(self, name: str, models: Sequence[int]) -> None:
        """Write the model directories `name` of some of the models."""
        if not models:
            return
        params = gather_to_hosts(self.mesh, used_params(self.state))
        for i in models:
            path = model_folder(self.workdir, self.task.seeds[i]) / name
            run_on_primary(partial(save_model, path, self.task.saved(params, i)))

    def _print_summary(self, begin: int) -> None:
        """Print the best epochs, the skipped steps, and why there is no profile."""
        metrics, seeds = self.metrics, self.task.seeds
        if all(metrics.best(seed) > 0 for seed in seeds):
            epochs = ", ".join(f"{metrics.best_epoch(seed):g}" for seed in seeds)
            self.console.print(f"Best dev scores: epoch {epochs}.", highlight=False)
        if metrics.skipped():
            self.console.print(
                f"{metrics.skipped()} steps were skipped: loss or gradients not finite."
            )
        if self.config.profile and not (self.workdir / "profile").exists():
            why = "every dispatch was compiled. Lower train.steps_per_dispatch and set a new --workdir"
            if begin == self.total:
                why = "no step was left. Set a new --workdir"
            self.console.print(f"No profile: {why}.")


def _profiled(run: RunSteps, folder: Path, console: Console) -> RunSteps:
    """Return `run` that profiles the first dispatch that is already compiled, into `folder`."""
    compiled: set[tuple[int, ...]] = set()
    traced = False

    def profiled(
        state: State, batches: Batches, first: int, count: int, begin: int
    ) -> tuple[State, StepMetrics]:
        nonlocal traced
        if traced or batches.input_ids.shape not in compiled:
            compiled.add(batches.input_ids.shape)
            return run(state, batches, first, count, begin)
        traced = True
        with jax.profiler.trace(str(folder), create_perfetto_trace=True):
            done = jax.block_until_ready(run(state, batches, first, count, begin))
        console.print(
            f"Profile of {count} steps in {folder}: open its perfetto_trace.json.gz in ui.perfetto.dev.",
            highlight=False,
        )
        return done

    return profiled


def _describe(config: ConfigDict, params: Params, models: int, mesh: Mesh) -> str:
    """Return the size of the model and the devices, e.g. "2 layers x 128, 0.8M parameters, on 1 CPU device"."""
    size = sum(math.prod(x.shape) for x in jax.tree.leaves(params)) / models
    shape = f"{config.model.num_hidden_layers} layers x {config.model.hidden_size}"
    count = f"{models} models of " if models > 1 else ""
    kind = mesh.devices.flat[0].device_kind.replace("cpu", "CPU")
    plural = "s" if mesh.size > 1 else ""
    return f"{count}{shape}, {size / 1e6:.1f}M parameters, on {mesh.size} {kind} device{plural}"


def _digests(config: ConfigDict, task: TrainingTask) -> dict[str, str]:
    """Return the SHA-256 of each input, keyed by the setting that names it."""
    origins = {"tokenizer.vocab": config.tokenizer.vocab, "init_from": config.init_from}
    origin = next((name for name, given in origins.items() if given), "data.train")
    fingerprints = {
        f"the vocabulary of {origin}": task.tokenizer.fingerprint(),
        **task.fingerprints(),
    }
    return {name: _sha256(content) for name, content in fingerprints.items()}


def _sha256(content: Content) -> str:
    digest = hashlib.sha256()
    for block in [content] if isinstance(content, bytes) else content:
        digest.update(block)
    return digest.hexdigest()


def _how_to_use_less_memory(config: ConfigDict, mesh: Mesh) -> str:
    """Return advice on how to train with less memory. The options that keep the result come first."""
    options = []
    rows, micro_batches = config.data.batch_size, config.train.gradient_accumulation_steps
    # Each micro-batch needs rows of every device.
    more = [n for n in range(micro_batches + 1, rows + 1) if rows % n == 0 == rows // n % mesh.size]
    if more:
        now = f" (now {micro_batches})" if micro_batches > 1 else ""
        options.append(
            f"train.gradient_accumulation_steps={more[0]}{now}, which gives the same result up to rounding"
        )
    on_cpu = mesh.devices.flat[0].platform == "cpu"
    if not config.model.remat:
        scan = " and model.scan_layers=True" if on_cpu and not config.model.scan_layers else ""
        options.append(f"model.remat=True{scan}, which takes a third longer")
    elif on_cpu and not config.model.scan_layers:
        options.append("model.scan_layers=True, without which model.remat saves nothing on a CPU")
    if rows > mesh.size:
        options.append(f"a smaller data.batch_size (now {rows})")
    if config.model.compute_dtype == "float32":
        options.append("model.compute_dtype=bfloat16")
    options.append("more devices with mesh.fsdp")
    return f"To use less memory, set {'; '.join(options)}."


def _position(order: np.ndarray, step: int) -> tuple[int, int]:
    """Return the shape of a step's batch, and its index among the batches of that shape."""
    shape = int(order[step])
    return shape, int((order[:step] == shape).sum())


def _dispatches(
    order: np.ndarray, begin: int, done: int, total: int, config: ConfigDict
) -> Iterator[tuple[int, int, int]]:
    """Yield the remaining dispatches of a chunk: shape, index of the first batch of that shape, count.

    A dispatch ends where the shape changes, where a checkpoint is due and after `steps_per_dispatch`.

    Args:
        order: shape of each step of the chunk.
        begin: step number of the chunk's first batch.
        done, total: steps done, and steps of the run.
    """
    index = np.zeros_like(order)
    for shape in np.unique(order):
        index[order == shape] = np.arange((order == shape).sum())
    every, most = config.checkpoint.every or total, config.train.steps_per_dispatch
    remaining = range(done, min(begin + len(order), total))
    for (shape, *_), group in groupby(
        remaining, lambda i: (int(order[i - begin]), i // every, i // most)
    ):
        steps = list(group)
        yield shape, int(index[steps[0] - begin]), len(steps)
