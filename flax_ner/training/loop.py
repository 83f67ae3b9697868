"""The training loop, from a configuration to scored models in a work directory."""

import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict
from rich.console import Console

from flax_ner.config import check_config, config_warnings
from flax_ner.errors import UserError
from flax_ner.memory import explain_jax_errors, shortage_told
from flax_ner.model.tagger import Params
from flax_ner.next_steps import print_next
from flax_ner.text.batches import Batches
from flax_ner.text.metrics import Scores
from flax_ner.training.checkpoint import Checkpoints
from flax_ner.training.gradients import State
from flax_ner.training.hosts import (
    check_alike,
    everywhere,
    fail_together,
    from_first,
    is_first,
    join,
)
from flax_ner.training.interruption import DeferredSignals, Interrupted
from flax_ner.training.job import Content, Figures, Job, folder_of
from flax_ner.training.log import MetricsFile, RunLog, progress_bar
from flax_ner.training.masked_lm import MaskedLM
from flax_ner.training.mesh import (
    bytes_a_device,
    make_mesh,
    own_rows,
    put_epoch,
    state_shardings,
    take_whole,
)
from flax_ner.training.nonfinite import NotFinite, explain
from flax_ner.training.optimizer import make_optimizer, make_schedule, of_each_model
from flax_ner.training.random_keys import init_key
from flax_ner.training.seeds import SeveralSeeds
from flax_ner.training.step import Metrics, RunSteps, init_state, make_step, run_steps, used_params
from flax_ner.training.tagging import Tagging
from flax_ner.training.task import total_steps
from flax_ner.training.workdir import claimed, fill_from_record, has_checkpoints, saved_format
from flax_ner.weights.model_dir import save_model, storage_path

CHECK_AFTER = 0.2  # share of all steps, after warm-up, by which the loss should have fallen

JOBS: dict[str, Callable[[ConfigDict], Job]] = {
    "tagging": lambda config: (SeveralSeeds if config.train.seeds > 1 else Tagging)(config),
    "masked_lm": MaskedLM,
}


@fail_together()
def fit(config: ConfigDict, workdir: str | Path) -> Scores | Figures:
    """Train, or go on where an interrupted run in the same work directory stopped.

    Leaves in `workdir`: `config.json`, `inputs.json`, `metrics.jsonl`, `checkpoints/`, and the model
    directories `best` (on dev: by F1, of `masked_lm` by accuracy) and `last`. With
    `config.mesh.distributed` every process of the run calls this. Only process 0 writes and prints. An
    error in any process ends all.
    With `config.train.seeds` of several models each has such directories in `seed_N`, and `best` and
    `last` are their ensembles.

    Returns:
        The scores of `best` on dev.

    Raises:
        UserError: anything that a user can mend.
        Interrupted: by SIGTERM, SIGINT or `train.max_seconds`, which end the run behind the dispatch it is at.
    """
    check_config(config)
    with explain_jax_errors():
        return _fit(config, workdir)


def _fit(config: ConfigDict, workdir: str | Path) -> Scores | Figures:
    if config.mesh.distributed or jax.distributed.is_initialized():
        join()
    workdir = storage_path(workdir)  # once: a link that is changed later does not divide the run
    # Paths are printed as they are: rich would read [name] as markup and :name: as an emoji.
    console = Console(quiet=not is_first(), markup=False, emoji=False)
    config = fill_from_record(config, workdir)
    job = everywhere(partial(JOBS[config.task], config))
    config = job.config
    job.notes += config_warnings(config)
    inputs = _digests(config, job)
    if jax.process_count() > 1:
        config_json = config.to_json(sort_keys=True).encode()
        check_alike({"config": hashlib.sha256(config_json).hexdigest(), **inputs})
    mesh = make_mesh(config.mesh.data, config.mesh.fsdp, config.data.batch_size)
    if has_checkpoints(workdir) and saved_format(workdir) == 0:
        job.notes.append(
            "An earlier version of flax_ner began this run. It resumes with other dropout masks from here on."
        )
    with claimed(workdir, config, inputs):
        job.prepare(workdir, mesh, console)  # a signal ends that at once: there is no state to save
        with DeferredSignals(config.train.max_seconds) as signals:
            with shortage_told(_smaller(config)):
                _train(config, workdir, job, mesh, signals, console)
            scores = job.report(workdir, console)
            if is_first():
                print_next(console, job.next_commands(workdir))
            return scores


def _train(
    config: ConfigDict,
    workdir: Path,
    job: Job,
    mesh: Mesh,
    signals: DeferredSignals,
    console: Console,
) -> None:
    per_epoch, per_portion = job.steps_per_epoch, job.steps_per_portion
    total = total_steps(config, per_epoch)
    schedule = make_schedule(config.optimizer, total, per_epoch)
    optimizer = make_optimizer(config.optimizer, schedule)
    if len(job.seeds) > 1:
        optimizer = of_each_model(optimizer)
    make_state = partial(init_state, optimizer, ema=config.train.ema > 0)
    shapes = jax.eval_shape(make_state, job.abstract())
    shardings = state_shardings(mesh, shapes)
    running = _describe(config, shapes["params"], len(job.seeds), mesh)
    job.notes.append(f"Training {running}.")
    if mesh.size > 1:
        size = bytes_a_device(shapes, shardings)
        job.notes.append(
            f"{mesh.size} devices, mesh.data x mesh.fsdp = {mesh.shape['data']} x {mesh.shape['fsdp']}; "
            f"parameters and optimizer state: {size / 1e6:.1f} MB a device."
        )
    step = make_step(
        job.gradients, optimizer, schedule, config.train.skip_nonfinite, config.train.ema
    )
    run = run_steps(step, shardings)
    if config.profile and is_first():
        run = _profiled(run, workdir / "profile", console)

    with ExitStack() as stack:
        checkpoints = stack.enter_context(
            Checkpoints(workdir / "checkpoints", config.checkpoint.keep)
        )
        # Inside of it: after an error its exit waits for writing that the other processes take part in.
        stack.enter_context(fail_together())
        for note in (*job.notes, *checkpoints.notes):
            console.print(note, highlight=False)
        state = checkpoints.restore(shapes, shardings)
        if state is None:
            first_state = jax.jit(make_state, out_shardings=shardings)
            state = first_state(job.initial(init_key(config.seed), shardings["params"]))
        job.release()
        done = begin = int(state["step"])
        if done:
            more = f"Going on at step {done} of {total}." if done < total else "All steps are done."
            console.print(more, highlight=False)
        file, tensorboard = workdir if is_first() else None, config.train.tensorboard
        metrics = everywhere(lambda: MetricsFile(file, done, tensorboard, job.best_by))
        stack.enter_context(metrics)
        progress = stack.enter_context(progress_bar(console=console))
        rate = job.units_per_step, job.unit
        check_at = round((config.optimizer.warmup + CHECK_AFTER) * total)
        baseline = job.baseline if done < check_at else None  # it was compared before
        steps = done, total, per_epoch
        log = RunLog(metrics, progress, steps, rate, running, baseline, check_at)
        evaluate = job.evaluator(mesh)
        every = config.checkpoint.every
        rows = own_rows(mesh, config.data.batch_size)
        upcoming = job.batches(done // per_portion, rows)
        try:
            while done < total:
                portion, batches = done // per_portion, upcoming
                arrays = list[Any]()  # room for the next portion's
                arrays = [
                    put_epoch(mesh, config.data.batch_size, shape) for shape in batches.shapes
                ]
                for shape, first, count in _stretches(
                    batches.order, portion * per_portion, done, total, config
                ):
                    state, figures = run(state, arrays[shape], first, count, done)
                    done += count
                    log.train(done, count, figures)
                    if done % per_portion == 0 or done == total:
                        break  # scored first, so that whoever goes on need not
                    asked = signals.received()
                    if asked or (every and done % every == 0):
                        log.flush()  # a checkpoint stands behind all that led to it
                        metrics.sync()
                        checkpoints.save(done, state)
                    if asked:
                        checkpoints.wait()  # a state that cannot be written is no state saved
                        raise Interrupted(asked, done, total)
                if done < total:  # the device is still at work on what it was given last
                    upcoming = job.batches(portion + 1, rows)
                log.flush()
                if (portion + 1) % config.eval.every == 0 or done == total:
                    best = from_first(lambda: [metrics.best(seed) for seed in job.seeds])
                    of_dev = evaluate(used_params(state))
                    log.dev(done, job.seeds, of_dev, job.dev_size)
                    better = [i for i, x in enumerate(of_dev) if x[job.best_by] > best[i]]
                    _save(workdir, "best", job, mesh, state, better)
                asked = signals.received()
                if asked or not every or done % every == 0 or done == total:
                    metrics.sync()
                    checkpoints.save(done, state)
                if asked and done < total:
                    checkpoints.wait()
                    raise Interrupted(asked, done, total)
                log.resume_clock()
        except NotFinite as error:
            epoch, place = divmod(error.step, per_epoch)
            where = f"step {error.step + 1} (epoch {epoch + 1}, batch {place + 1} of {per_epoch})"
            metrics.sync()
            _save_before(error, where, checkpoints, state)
            shape, index = _place(batches.order, error.step - portion * per_portion)
            why = explain(job.gradients, mesh, state, arrays[shape], index)
            raise UserError(
                f"{where}: {why}. The state before it is saved. The same command with "
                "--config.train.skip_nonfinite=True leaves such steps out; a lower "
                "optimizer.learning_rate or optimizer.clip_norm in another work directory may avoid them."
            ) from None
        checkpoints.wait()
    epochs = [f"{metrics.best_epoch(seed):g}" for seed in job.seeds]
    if all(metrics.best(seed) > 0 for seed in job.seeds):
        told = f"The best scores on dev were those of epoch {', '.join(epochs)}."
        console.print(told, highlight=False)
    if metrics.skipped():
        console.print(f"{metrics.skipped()} steps were skipped: loss or gradients not finite.")
    if config.profile and not (workdir / "profile").exists():
        why = "every dispatch compiled. Lower train.steps_per_dispatch"
        if begin == total:
            why = "no step was left to trace. Set a new --workdir"
        console.print(f"No trace: {why}.")
    _save(workdir, "last", job, mesh, state, range(len(job.seeds)))


def _save_before(error: NotFinite, where: str, checkpoints: Checkpoints, state: State) -> None:
    try:
        checkpoints.save(error.step, state)
        checkpoints.wait()
    except UserError as fault:
        raise UserError(f"{where}: loss or gradients are not finite. And {fault}") from fault


def _save(
    workdir: Path, name: str, job: Job, mesh: Mesh, state: State, models: Sequence[int]
) -> None:
    """Write model directories of this name of some of the models."""
    if not models:
        return
    params = take_whole(mesh, used_params(state))
    for i in models:
        path = folder_of(workdir, job.seeds[i]) / name
        from_first(partial(save_model, path, job.saved(params, i)))


def _profiled(run: RunSteps, folder: Path, console: Console) -> RunSteps:
    """`run`, which leaves a trace in `folder` of its first call that need not compile."""
    compiled: set[tuple[int, ...]] = set()
    traced = False

    def profiled(
        state: State, batches: Batches, first: int, count: int, begin: int
    ) -> tuple[State, Metrics]:
        nonlocal traced
        if traced or batches.input_ids.shape not in compiled:
            compiled.add(batches.input_ids.shape)
            return run(state, batches, first, count, begin)
        traced = True
        with jax.profiler.trace(str(folder), create_perfetto_trace=True):
            done = jax.block_until_ready(run(state, batches, first, count, begin))
        console.print(
            f"Trace of {count} steps under {folder}: open its perfetto_trace.json.gz in ui.perfetto.dev.",
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


def _digests(config: ConfigDict, job: Job) -> dict[str, str]:
    """SHA-256 of all that the job was made of, under the name of the setting it comes from."""
    origins = {"tokenizer.vocab": config.tokenizer.vocab, "init_from": config.init_from}
    origin = next((name for name, given in origins.items() if given), "data.train")
    parts = {f"the vocabulary of {origin}": job.tokenizer.identity(), **job.parts()}
    return {name: _sha256(content) for name, content in parts.items()}


def _sha256(content: Content) -> str:
    digest = hashlib.sha256()
    for chunk in [content] if isinstance(content, bytes) else content:
        digest.update(chunk)
    return digest.hexdigest()


def _smaller(config: ConfigDict) -> str:
    """What makes training take less memory, the best first."""
    ways = [f"a smaller data.batch_size (now {config.data.batch_size})"]
    if not config.model.remat:
        ways.insert(0, "model.remat=True, which takes a third more time")
    if config.model.compute_dtype == "float32":
        ways.append("model.compute_dtype=bfloat16")
    ways.append("more devices with mesh.fsdp")
    return f"What helps: {'; '.join(ways)}."


def _place(order: np.ndarray, step: int) -> tuple[int, int]:
    """The shape of a step's batch, and its number among those of that shape."""
    shape = int(order[step])
    return shape, int((order[:step] == shape).sum())


def _stretches(
    order: np.ndarray, begin: int, done: int, total: int, config: ConfigDict
) -> Iterator[tuple[int, int, int]]:
    """What is left of a portion as stretches of one dispatch each: shape, first batch of it, count.

    A stretch ends where the shape changes, where a checkpoint is due and after `steps_per_dispatch`.

    Args:
        order: shape of each step of the portion.
        begin: the step before the portion's first.
        done, total: steps done, and to do.
    """
    index = np.zeros_like(order)
    for shape in np.unique(order):
        index[order == shape] = np.arange((order == shape).sum())
    every, most = config.checkpoint.every or total, config.train.steps_per_dispatch
    left = range(done, min(begin + len(order), total))
    for (shape, *_), steps in groupby(
        left, lambda i: (int(order[i - begin]), i // every, i // most)
    ):
        stretch = list(steps)
        yield shape, int(index[stretch[0] - begin]), len(stretch)
