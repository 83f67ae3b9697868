"""Tag many files with several workers, on one machine or on a Ray cluster: python -m flax_ner bulk.

Every input file is a shard and becomes one output file with the same name. A worker writes to a temporary
name and renames the file when it is complete, so a job that was killed resumes with the missing shards.
"""

import hashlib
import json
import logging
import os
import socket
import sys
import time
import warnings
from collections.abc import Generator, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import jax

import flax_ner
from flax_ner.compilation import keep_compiled_programs
from flax_ner.durable import CHECKSUMS, lock_folder, write_text
from flax_ner.errors import UserError, error_summary, import_optional
from flax_ner.inference.tagger import load
from flax_ner.memory import explain_jax_errors
from flax_ner.serving.shards import (
    PART_SUFFIX,
    RAY_REQUIREMENT,
    SHARD_SUFFIXES,
    ShardCounts,
    tag_shard,
)

MAX_WORKER_DEATHS = 3  # Give up on a shard after this many workers died while tagging it.
MAX_ERRORS_SHOWN = 20
# Without GPUs, the default workers are as large as possible while using at least this fraction of all cores.
MIN_CORES_USED = 0.9


class _Worker:
    """A process with its own copy of the model. Ray passes it one shard after another."""

    def __init__(self, job: dict[str, Any], cores: int):
        keep_compiled_programs()
        self._text_field, self._tagger, self._error = job["text_field"], None, ""
        with warnings.catch_warnings(record=True) as notes:
            try:
                if job["version"] != flax_ner.__version__:
                    raise UserError(
                        f"a worker has flax_ner {flax_ner.__version__}, but the job has {job['version']}. "
                        "Install the same version on every machine."
                    )
                if job["model_sha256"] != _model_digest(Path(job["model"])):
                    raise UserError(
                        f"{job['model']}: a worker has other files there than the job. Copy the model to every "
                        "machine."
                    )
                with _limit_cores(cores), explain_jax_errors():
                    jax.devices()
                    self._tagger = load(job["model"], job["compute_dtype"])
            except (UserError, OSError) as error:
                self._error = str(error)
        self._notes = [str(note.message) for note in notes if note.category is UserWarning]

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[Any]]:
        """Tag one shard and return its counts, or the error message for the user.

        Errors are returned because Ray would wrap an exception in its own.
        """
        start, message, counts = time.time(), self._error, ShardCounts(0, 0)
        if self._tagger is not None:
            source, target = (Path(str(batch[name][0])) for name in ("source", "target"))
            try:
                # Ray retries the shard of a dead worker forever. Each dead worker leaves a part file.
                deaths = sum(_is_part_file(file, target) for file in target.parent.iterdir())
                if deaths >= MAX_WORKER_DEATHS:
                    raise UserError(
                        f"{source}: {deaths} workers died while tagging this shard, probably out of memory. "
                        "See Ray's logs for the reason. Run the same command to try again."
                    )
                counts = tag_shard(self._tagger, source, target, self._text_field)
            except UserError as error:
                message = str(error)
            except OSError as error:  # a full disk
                message = f"{source}: {error}"
        row = {
            **counts._asdict(), "start": start, "error": message, "notes": "\n".join(self._notes),
        }  # fmt: skip
        return {name: [value] for name, value in row.items()}


def _is_part_file(file: Path, target: Path) -> bool:
    return file.suffix == PART_SUFFIX and file.name.startswith(f".{target.name}.")


@contextmanager
def _limit_cores(count: int) -> Iterator[None]:
    """Limit XLA and onnxruntime to `count` threads, or not at all if it is 0.

    They start as many threads as there are cores for the thread that starts them. Afterwards all threads may
    run on any core again.
    """
    if not count or not hasattr(os, "sched_setaffinity"):  # only Linux has it
        yield
        return
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(cores)[:count])
    try:
        yield
    finally:
        for thread in os.listdir("/proc/self/task"):
            os.sched_setaffinity(int(thread), cores)


def tag_files(
    model: str,
    source: str,
    out: str,
    workers: int | None = None,
    address: str | None = None,
    text_field: str = "text",
    compute_dtype: str | None = None,
) -> str:
    """Tag all shards that are not finished yet.

    Args:
        model: see `load`. On a cluster, the paths `model`, `source` and `out` must exist on every machine.
        source: a file, or a folder whose *.jsonl and *.parquet files are the shards. In a folder, names that
            start with "." or "_" are ignored.
        out: folder for the tagged shards and for `job.json`, which records the job they belong to.
        workers: number of processes, each with its own copy of the model. Defaults to one per GPU. Without
            GPUs, all workers have the same number of cores, and the default is one per machine if the machines
            are equal, otherwise as few as use 90% of the cores.
        address: address of a Ray cluster. None starts Ray on this machine for the duration of the job.
        text_field: see `tag_shard`.
        compute_dtype: see `load`.

    Returns:
        One line that summarises what was done, for the user.

    Raises:
        UserError: an argument is invalid, there is no Ray cluster at `address`, Ray is not installed, or `out`
            holds another job's files or another job is writing there (raised before any work). A shard failed
            (raised after the other shards are finished, with the errors of all failed shards).
    """
    if workers is not None and workers < 1:
        raise UserError(f"--workers {workers}: must be at least 1.")
    shards, folder = _list_shards(Path(source)), Path(os.path.realpath(out))
    if folder == shards[0].parent:
        raise UserError(f"OUT: {out} is the folder of the shards. Name another folder.")
    model = os.path.realpath(model) if Path(model).exists() else model
    job = {
        "model": model, "model_sha256": _model_digest(Path(model)),
        "input": str(shards[0].parent), "text_field": text_field, "compute_dtype": compute_dtype,
        "version": flax_ner.__version__,
    }  # fmt: skip
    texts = entities = failed = 0
    start = time.time()
    errors = dict[str, None]()  # an ordered set: all workers may report the same error
    with _lock_output(folder, job), ExitStack() as stack:
        todo = [shard for shard in shards if not _is_finished(shard, folder / shard.name)]
        # Closed, so that no worker is left when part files are removed.
        rows = stack.enter_context(closing(_run_workers(todo, folder, job, workers, address)))
        for done, row in enumerate(rows, 1):
            start = row["start"] if done == 1 else min(start, row["start"])
            texts, entities = texts + row["texts"], entities + row["entities"]
            if row["error"]:
                errors[row["error"]] = None
                failed += 1
            for note in row["notes"].splitlines():
                warnings.warn(note, stacklevel=2)
            end = "\r" if sys.stderr.isatty() and done < len(todo) else "\n"
            progress = f"{done - failed} of {len(todo)} shards tagged, {texts:,} texts"
            progress += f", {failed} shards failed" if failed else ""
            print(progress, end=end, file=sys.stderr)
        rate = texts / (time.time() - start)
    if errors:
        hidden = len(errors) - MAX_ERRORS_SHOWN
        lines = [*errors][:MAX_ERRORS_SHOWN] + ([f"and {hidden} more"] if hidden > 0 else [])
        if failed < len(shards):
            lines.append(
                f"Shards that failed: {failed}, tagged: {len(shards) - failed}. After you have corrected the "
                "rows, the same command tags only those that failed."
            )
        raise UserError("\n  ".join(lines))
    return (
        f"{len(todo)} shards tagged, {len(shards) - len(todo)} already done: {texts:,} texts, "
        f"{entities:,} entities, {rate:,.1f} texts per second."
    )


def _run_workers(
    todo: list[Path], folder: Path, job: dict[str, Any], workers: int | None, address: str | None
) -> Generator[dict[str, Any], None, None]:
    """Start Ray and yield the result of each shard as soon as it is finished, see `_Worker`."""
    if not todo:
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Errors that matter are raised as exceptions.
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    ray, data = (import_optional(name, "bulk", RAY_REQUIREMENT) for name in ("ray", "ray.data"))
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    data.DataContext.get_current().enable_progress_bars = False
    # The object store may be small, as only paths pass through it.
    local = {"include_dashboard": False, "object_store_memory": 1 << 27}
    options = {"log_to_driver": False, "logging_level": logging.ERROR, **({} if address else local)}
    try:
        host, colon, port = (address or "").removeprefix("ray://").rpartition(":")
        if colon:  # fail fast: Ray itself retries for 15 minutes
            socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
        # "local" always starts a new cluster; without it Ray joins one that runs on this machine.
        ray.init(address or "local", **options)
    except (OSError, ValueError) as error:  # ConnectionError is an OSError
        if address is None:
            raise
        raise UserError(
            f"--address: no Ray cluster at {address!r} ({error_summary(error)}). Start one with ray start "
            "--head and give its host:port. If it requires a token, set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN."
        ) from None
    try:
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        count, resources = plan_workers(nodes, workers)
        tasks = [{"source": str(shard), "target": str(folder / shard.name)} for shard in todo]
        # One block per shard, so that each shard goes to the next idle worker.
        rows = data.from_items(tasks, override_num_blocks=len(tasks)).map_batches(
            _Worker,
            batch_size=1,
            compute=data.ActorPoolStrategy(
                size=min(count, len(tasks)), max_tasks_in_flight_per_actor=1
            ),
            fn_constructor_kwargs={"job": job, "cores": resources.get("num_cpus", 0)},
            **resources,
        )
        yield from rows.iter_rows()
    finally:
        ray.shutdown()


def plan_workers(nodes: list[dict[str, float]], workers: int | None) -> tuple[int, dict[str, int]]:
    """Choose the number of workers and the resources of each.

    Args:
        nodes: the resources `CPU` and `GPU` of each machine of the cluster.
        workers: the requested number of workers, or None for the default.

    Returns:
        The number of workers, and Ray's resource options for each: `num_gpus` or `num_cpus`.

    Raises:
        UserError: `workers` exceeds the number of GPUs or, without GPUs, of cores.
    """
    gpus, cores = ([int(node.get(name, 0)) for node in nodes] for name in ("GPU", "CPU"))
    if any(gpus):
        count, available, resources = workers or sum(gpus), sum(gpus), {"num_gpus": 1}
    else:
        available = sum(cores)
        # Number of workers of each size that fit on the machines.
        fitting = {c: sum(n // c for n in cores) for c in range(1, max(cores) + 1)}
        if workers is None:
            fits = [c for c, n in fitting.items() if c * n >= MIN_CORES_USED * available]
        else:
            fits = [c for c, n in fitting.items() if n >= workers]
        size = max(fits, default=0)
        count, resources = workers or fitting.get(size, 0), {"num_cpus": size}
    if count > available:
        name = "GPUs" if any(gpus) else "cores"
        raise UserError(
            f"--workers {count}: there are {available} {name}, and each worker needs one. Use at most "
            f"{available}."
        )
    return count, resources


def _list_shards(source: Path) -> list[Path]:
    """Return absolute paths of the input files. A file that is a symbolic link keeps its own name."""
    if source.is_dir():
        files = sorted(Path(os.path.realpath(source)).iterdir())
    else:
        files = [Path(os.path.realpath(source.parent)) / source.name]
    files = [file for file in files if file.is_file()]
    shards = [file for file in files if file.suffix in SHARD_SUFFIXES]
    if source.is_dir():
        # Other programs give such names to files that are hidden or hold no data, e.g. Spark's _SUCCESS.
        special = {file for file in files if file.name[0] in "._"}
        files = [file for file in files if file not in special or file in shards]
        shards = [file for file in shards if file not in special]
    if not shards:
        raise UserError(
            f"INPUT: {str(source)!r} is not a *.jsonl or *.parquet file, nor a folder with such files. For a "
            "text file with one text per line, use python -m flax_ner predict."
        )
    if others := [file.name for file in files if file not in shards]:
        warnings.warn(f"ignored files that are not shards: {', '.join(others)}", stacklevel=3)
    return shards


def _is_finished(shard: Path, target: Path) -> bool:
    """Return whether a shard has been tagged since it was last modified."""
    return target.exists() and target.stat().st_mtime >= shard.stat().st_mtime


def _model_digest(path: Path) -> str:
    """Return a SHA-256 of the model's files; "" for a model on the hub.

    Of a weights file, the configuration and vocabulary beside it count as well.
    """
    if not path.exists():
        return ""
    if (path / CHECKSUMS).is_file():
        files = [path / CHECKSUMS]
    elif path.is_file():
        files = [path, *path.parent.glob("*.json"), *path.parent.glob("*.txt")]
    else:
        files = [file for file in path.rglob("*") if file.is_file() and file.name[0] != "."]
    digest = hashlib.sha256()
    for file in sorted(set(files)):
        with open(file, "rb") as content:
            digest.update(hashlib.file_digest(content, "sha256").digest() + file.name.encode())
    return digest.hexdigest()


@contextmanager
def _lock_output(folder: Path, job: dict[str, Any]) -> Iterator[None]:
    """Create the output folder, lock it against other jobs, and write `job.json`."""
    busy = f"OUT: another job is writing to {folder}. Wait until it ends, or name another folder."
    with lock_folder(folder, busy):
        _check_same_job(folder, job)
        _remove_part_files(folder)
        try:
            write_text(folder / "job.json", json.dumps(job, indent=1, ensure_ascii=False) + "\n")
            yield
        finally:
            _remove_part_files(folder)


def _remove_part_files(folder: Path) -> None:
    """Remove the unfinished files of workers that were killed."""
    for file in folder.glob(f".*{PART_SUFFIX}"):
        file.unlink(missing_ok=True)


def _check_same_job(folder: Path, job: dict[str, Any]) -> None:
    """Raise `UserError` if the folder holds the files of a different job."""
    path = folder / "job.json"
    if not any(file.name[0] != "." and file != path for file in folder.iterdir()):
        return
    try:
        previous = json.loads(path.read_text("utf-8"))
        for name in ("model", "input"):  # earlier versions did not resolve symbolic links
            if os.path.exists(previous.get(name, "")):
                previous[name] = os.path.realpath(previous[name])
        sha256 = previous.setdefault(
            "model_sha256", job["model_sha256"]
        )  # missing in earlier versions
        replaced = previous["model"] == job["model"] and sha256 != job["model_sha256"]
        differences = [
            f"{name} was {previous.get(name)!r}, is {job.get(name)!r}"
            for name in sorted(previous.keys() | job.keys())
            if previous.get(name) != job.get(name)
        ]
    except FileNotFoundError:
        raise UserError(f"OUT: {folder} has files but no job.json. Name another folder.") from None
    except (ValueError, AttributeError, TypeError, KeyError) as error:
        raise UserError(f"OUT: {path} is damaged ({error}). Name another folder.") from None
    if replaced:
        raise UserError(
            f"OUT: {folder} has shards of another model: the files of {job['model']} have changed. Restore "
            "them, or name another folder."
        )
    if differences:
        raise UserError(
            f"OUT: {folder} has shards of another job: {'; '.join(differences)}. To resume that job, run its "
            "command with its version of flax_ner. Otherwise name another folder."
        )
