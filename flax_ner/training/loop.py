"""The training loop, from a configuration to scored models in a work directory."""

import hashlib
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from itertools import groupby
from pathlib import Path

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from ml_collections import ConfigDict
from rich.console import Console

from flax_ner.config import check_config
from flax_ner.errors import UserError
from flax_ner.inference.tagger import Tagger, load, make_decoder
from flax_ner.memory import shortage_told
from flax_ner.model.tagger import abstract_params
from flax_ner.text.batches import Batches
from flax_ner.text.metrics import Scores
from flax_ner.text.report import highlight, score_table
from flax_ner.training.checkpoint import Checkpoints
from flax_ner.training.distillation import ask_teacher, distilled
from flax_ner.training.gradients import State, Tricks, make_gradients, make_loss
from flax_ner.training.hosts import check_alike, everywhere, from_first, is_first, join
from flax_ner.training.interruption import DeferredSignals, Interrupted
from flax_ner.training.log import MetricsFile, RunLog, progress_bar
from flax_ner.training.mesh import (
    BATCH,
    bytes_a_device,
    make_mesh,
    own_rows,
    put_epoch,
    state_shardings,
    take_whole,
)
from flax_ner.training.nonfinite import NotFinite, explain
from flax_ner.training.optimizer import make_optimizer, make_schedule
from flax_ner.training.step import Metrics, RunSteps, init_state, make_step, run_steps, used_params
from flax_ner.training.task import Task, initial_params, make_task, trained_model
from flax_ner.training.workdir import claimed
from flax_ner.weights.model_dir import ModelDir, save_model

EXAMPLES = 6  # tagged sentences shown at the end


def fit(config: ConfigDict, workdir: str | Path) -> Scores:
    """Train, or go on where an interrupted run in the same work directory stopped.

    Leaves in `workdir`: `config.json`, `metrics.jsonl`, `checkpoints/`, and the model directories
    `best` (by F1 on dev) and `last`. With `config.mesh.distributed` every process of the run calls
    this; the first alone writes and speaks.

    Returns:
        The scores of `best` on dev.

    Raises:
        UserError: anything that a user can mend.
        Interrupted: by SIGTERM or SIGINT, which end the run behind the dispatch it is at.
    """
    check_config(config)
    if config.mesh.distributed:
        join()
    workdir, console = Path(workdir), Console(quiet=not is_first())
    task = everywhere(partial(make_task, config))
    if jax.process_count() > 1:
        check_alike(_parts(config, task))
    mesh = make_mesh(config.mesh.data, config.mesh.fsdp, config.data.batch_size)
    # What `init_from` decided stays decided, though another model may lie there when the run goes on.
    decided = ConfigDict(config.to_dict())
    decided.tokenizer.kind = task.tokenizer.kind
    decided.tokenizer.lower_case = task.tokenizer.lower_case
    with claimed(workdir, decided):
        if task.lesson is not None:  # a signal ends that at once: there is no state to save
            everywhere(partial(ask_teacher, task.lesson, task.batcher, config, mesh, console))
            task.lesson = None  # its weights are needed no more
        with DeferredSignals() as signals:
            everywhere(partial(_list_skipped, task, workdir / "skipped.txt"))
            with shortage_told(_smaller(config)):
                _train(config, workdir, task, mesh, signals, console)
            return _report(workdir, task, config, console)


def _train(
    config: ConfigDict,
    workdir: Path,
    task: Task,
    mesh: Mesh,
    signals: DeferredSignals,
    console: Console,
) -> None:
    per_epoch = task.batcher.steps_per_epoch
    total = config.train.steps or config.train.epochs * per_epoch
    schedule = make_schedule(config.optimizer, total, per_epoch)
    optimizer = make_optimizer(config.optimizer, schedule)
    make_state = partial(init_state, optimizer, ema=config.train.ema > 0)
    shapes = jax.eval_shape(make_state, abstract_params(task.model))
    shardings = state_shardings(mesh, shapes)
    loss_of = make_loss(config.loss, make_decoder(task.model, task.labels))
    loss_of = distilled(loss_of, config.distill)
    skip = config.train.skip_nonfinite
    if mesh.size > 1:
        size = bytes_a_device(shapes, shardings)
        task.notes.append(
            f"{mesh.size} devices, mesh.data x mesh.fsdp = {mesh.shape['data']} x {mesh.shape['fsdp']}; "
            f"parameters and optimizer state: {size / 1e6:.1f} MB a device."
        )
    tricks = Tricks(*(config.train[name] for name in Tricks._fields))
    step = make_step(
        task.model, loss_of, optimizer, schedule, config.seed, skip, tricks, config.train.ema
    )
    run = run_steps(step, shardings)
    if config.profile and is_first():
        run = _profiled(run, workdir / "profile", console)

    with ExitStack() as stack:
        checkpoints = stack.enter_context(
            Checkpoints(workdir / "checkpoints", config.checkpoint.keep)
        )
        for note in (*task.notes, *checkpoints.notes):
            console.print(note, highlight=False)
        state = checkpoints.restore(shapes, shardings)
        if state is None:
            first_state = jax.jit(make_state, out_shardings=shardings)
            key = jax.random.key(config.seed)
            state = first_state(initial_params(task, key, shardings["params"]))
        task.source = None  # its weights are in the state now; no second copy of them
        done = int(state["step"])
        if done:
            more = f"Going on at step {done} of {total}." if done < total else "All steps are done."
            console.print(more, highlight=False)
        metrics = everywhere(
            lambda: MetricsFile(workdir if is_first() else None, done, config.train.tensorboard)
        )
        stack.enter_context(metrics)
        progress = stack.enter_context(progress_bar(console=console))
        sentences_per_step = len(task.batcher.tokens.lengths) / per_epoch
        log = RunLog(metrics, progress, (done, total, per_epoch), sentences_per_step)
        tagger = Tagger(
            task.model,
            used_params(state),
            task.tokenizer,
            task.labels,
            task.max_length,
            config.eval.batch_size,
            NamedSharding(mesh, P(BATCH)),
        )
        every = config.checkpoint.every
        rows = own_rows(mesh, config.data.batch_size)
        upcoming = task.batcher.epoch(done // per_epoch, rows)
        try:
            while done < total:
                epoch, batches = done // per_epoch, upcoming
                arrays = list[Batches]()  # room for the next epoch's
                arrays = [
                    put_epoch(mesh, config.data.batch_size, shape) for shape in batches.shapes
                ]
                for shape, first, count in _stretches(
                    batches.order, epoch * per_epoch, done, total, config
                ):
                    state, figures = run(state, arrays[shape], first, count, done)
                    done += count
                    log.train(done, count, figures)
                    if done % per_epoch == 0 or done == total:
                        break  # scored first, so that whoever goes on need not
                    asked = signals.received()
                    if asked or (every and done % every == 0):
                        log.flush()  # a checkpoint stands behind all that led to it
                        checkpoints.save(done, state)
                    if asked:
                        checkpoints.wait()  # a state that cannot be written is no state saved
                        raise Interrupted(asked, done, total)
                if done < total:  # the device is still at work on what it was given last
                    upcoming = task.batcher.epoch(epoch + 1, rows)
                log.flush()
                if (epoch + 1) % config.eval.every == 0 or done == total:
                    best = from_first(metrics.best)
                    tagger.params = used_params(state)
                    scores = tagger.score(task.dev, config.eval.scoring)
                    log.dev(done, scores, len(task.dev))
                    if scores.f1 > best:
                        _save(workdir / "best", task, mesh, state)
                asked = signals.received()
                if asked or not every or done % every == 0 or done == total:
                    checkpoints.save(done, state)
                if asked and done < total:
                    checkpoints.wait()
                    raise Interrupted(asked, done, total)
                log.resume_clock()
        except NotFinite as error:
            place = error.step - epoch * per_epoch
            where = f"step {error.step + 1} (epoch {epoch + 1}, batch {place + 1} of {per_epoch})"
            _save_before(error, where, checkpoints, state)
            shape, index = _place(batches.order, place)
            gradients = make_gradients(task.model, loss_of, config.seed, tricks)
            why = explain(gradients, mesh, state, arrays[shape], index)
            raise UserError(
                f"{where}: {why}. The state before it is saved. The same command with "
                "--config.train.skip_nonfinite=True leaves such steps out; a lower "
                "optimizer.learning_rate or optimizer.clip_norm in another work directory may avoid them."
            ) from None
        checkpoints.wait()
    best_epoch = metrics.best_epoch()
    if best_epoch:
        console.print(
            f"The best scores on dev were those of epoch {best_epoch:g}.", highlight=False
        )
    if metrics.skipped():
        console.print(f"{metrics.skipped()} steps were skipped: loss or gradients not finite.")
    if config.profile and not (workdir / "profile").exists():
        console.print("No trace: every dispatch compiled. Lower train.steps_per_dispatch.")
    _save(workdir / "last", task, mesh, state)


def _save_before(error: NotFinite, where: str, checkpoints: Checkpoints, state: State) -> None:
    try:
        checkpoints.save(error.step, state)
        checkpoints.wait()
    except UserError as fault:
        raise UserError(f"{where}: loss or gradients are not finite. And {fault}") from fault


def _save(path: Path, task: Task, mesh: Mesh, state: State) -> None:
    params = take_whole(mesh, used_params(state))
    from_first(lambda: save_model(path, trained_model(task, params)))


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


def _parts(config: ConfigDict, task: Task) -> dict[str, bytes]:
    """What several processes must have alike, under the name of the setting it comes from."""
    source, tokenizer, tokens = task.source, task.tokenizer, task.batcher.tokens
    return {
        "config": config.to_json(sort_keys=True).encode(),
        "tokenizer": repr((tokenizer.kind, tokenizer.lower_case, tokenizer.tokens)).encode(),
        "data.categories": repr(task.labels.names).encode(),
        "data.train": b"".join(np.ascontiguousarray(column).tobytes() for column in tokens[:3]),
        "data.dev": repr([(e.text, e.entities) for e in task.dev]).encode(),
        "init_from": _digests(source),
        "distill.teacher": _digests(task.lesson.teacher if task.lesson else None),
    }


def _digests(model: ModelDir | None) -> bytes:
    arrays = jax.tree.leaves(model.params) if model else []
    return b"".join(hashlib.sha256(np.asarray(x).tobytes()).digest() for x in arrays)


def _smaller(config: ConfigDict) -> str:
    """What makes training take less memory, the best first."""
    ways = [f"a smaller data.batch_size (now {config.data.batch_size})"]
    if not config.model.remat:
        ways.insert(0, "model.remat=True, which takes a third more time")
    if config.model.compute_dtype == "float32":
        ways.append("model.compute_dtype=bfloat16")
    ways.append("more devices with mesh.fsdp")
    return f"What helps: {'; '.join(ways)}."


def _list_skipped(task: Task, path: Path) -> None:
    if not is_first():
        return
    path.unlink(missing_ok=True)
    if task.skipped:
        path.write_text(
            "".join(f"{fault}\n" for fault in task.skipped), "utf-8", "backslashreplace"
        )
        task.notes.append(f"{len(task.skipped)} lines of data were skipped; {path} lists them.")


def _place(order: np.ndarray, step: int) -> tuple[int, int]:
    """The shape of a step's batch, and its number among those of that shape."""
    shape = int(order[step])
    return shape, int((order[:step] == shape).sum())


def _stretches(
    order: np.ndarray, begin: int, done: int, total: int, config: ConfigDict
) -> Iterator[tuple[int, int, int]]:
    """What is left of an epoch as stretches of one dispatch each: shape, first batch of it, count.

    A stretch ends where the shape changes, where a checkpoint is due and after `steps_per_dispatch`.

    Args:
        order: shape of each step of the epoch.
        begin: the step before the epoch's first.
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


def _report(workdir: Path, task: Task, config: ConfigDict, console: Console) -> Scores:
    """Score the best model on dev as it lies on disk, and show what it finds."""
    tagger = load(workdir / "best")
    scores = tagger.score(task.dev, config.eval.scoring)
    console.print(
        score_table(scores, f"{workdir}/best on {config.data.dev}, {config.eval.scoring}")
    )
    if not scores.correct:
        console.print(
            "Nothing of dev was found. docs/faq.md says under 'F1 stays 0' what it may be.",
            highlight=False,
        )
    console.print("What it finds in the first sentences:", highlight=False)
    for example in task.dev[:EXAMPLES]:
        found = highlight(example.text, tagger(example.text), task.labels.categories)
        console.print(found, soft_wrap=True)
    return scores
