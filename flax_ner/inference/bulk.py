"""Many files of texts, tagged by workers on one machine or on a Ray cluster: python -m flax_ner bulk.

Every input file is a shard and becomes one output file of the same name. A worker writes it under
another name and renames it when it is whole, so a job that was killed goes on with what is missing.
"""

import json
import logging
import os
import socket
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
from filelock import FileLock, Timeout

import flax_ner
from flax_ner.compilation import keep_compiled_programs
from flax_ner.errors import UserError, need, reason
from flax_ner.inference.shards import PART, RAY, SUFFIXES, Counts, tag_shard
from flax_ner.inference.tagger import load
from flax_ner.memory import explain_jax_errors

DEATHS = 3  # of workers at a shard, before it counts as the reason
SHOWN = 20  # faults


class _Worker:
    """A model in a process of its own, to which Ray hands one shard after another."""

    def __init__(self, job: dict[str, Any], cores: int):
        keep_compiled_programs()
        self._text_field, self._tagger, self._fault = job["text_field"], None, ""
        with warnings.catch_warnings(record=True) as notes:
            try:
                if cores:
                    with explain_jax_errors():
                        _share_cores(cores)
                if job["version"] != flax_ner.__version__:
                    raise UserError(
                        f"a worker has flax_ner {flax_ner.__version__}, the job {job['version']}. "
                        "Install the same on every machine."
                    )
                self._tagger = load(job["model"], job["compute_dtype"])
            except (UserError, OSError) as error:
                self._fault = str(error)
        self._notes = [str(note.message) for note in notes if note.category is UserWarning]

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[Any]]:
        """Tag one shard. What the user has to mend is part of the answer: Ray would wrap an exception."""
        begin, fault, counts = time.time(), self._fault, Counts(0, 0)
        if self._tagger is not None:
            source, target = (Path(str(batch[name][0])) for name in ("source", "target"))
            try:
                # Ray hands a dead worker's shard to another one for ever. Each leaves a file behind.
                left = sum(_is_part(file, target) for file in target.parent.iterdir())
                if left >= DEATHS:
                    raise UserError(
                        f"{source}: {left} workers died at it. See Ray's logs for the reason, mostly memory; "
                        "the same command tries it again."
                    )
                counts = tag_shard(self._tagger, source, target, self._text_field)
            except UserError as error:
                fault = str(error)
            except OSError as error:  # a full disk
                fault = f"{source}: {error}"
        row = {**counts._asdict(), "begin": begin, "fault": fault, "notes": "\n".join(self._notes)}
        return {name: [value] for name, value in row.items()}


def _is_part(file: Path, target: Path) -> bool:
    return file.suffix == PART and file.name.startswith(f".{target.name}.")


def _share_cores(count: int) -> None:
    """Let XLA have so many threads: as many as there are cores for the thread that makes its client."""
    if not hasattr(os, "sched_setaffinity"):  # Linux has it
        return
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(cores)[:count])
    jax.devices()
    for thread in os.listdir("/proc/self/task"):  # which cores they are is the system's choice
        os.sched_setaffinity(int(thread), cores)


def run(
    model: str,
    source: str,
    out: str,
    workers: int | None = None,
    address: str | None = None,
    text_field: str = "text",
    compute_dtype: str | None = None,
) -> str:
    """Tag the shards that are not finished, and say in a line what was done.

    Args:
        model: as `load` takes it; a path must be there on every machine of a cluster, as `source`
            and `out` must.
        source: a file, or a folder whose *.jsonl and *.parquet files are the shards.
        out: folder for the tagged shards and for `job.json`, which says whose they are.
        workers: processes, each with a model: by default one for each GPU, without GPUs one for
            each machine. They share the cores of their machine.
        address: of a Ray cluster; None starts one on this machine, for the time of the job.
        text_field, compute_dtype: as in `tag_shard` and `load`.

    Raises:
        UserError: all faulty shards together, once the others are finished; or before anything
            starts, what is wrong with an argument, or another job's files in `out`.
    """
    if workers is not None and workers < 1:
        raise UserError(f"--workers {workers}: at least one has to do the work.")
    shards, folder = _shards(Path(source)), Path(os.path.realpath(out))
    if folder == shards[0].parent:
        raise UserError(f"OUT: {out} is the folder of the shards. Name another.")
    model = os.path.realpath(model) if Path(model).exists() else model
    job = {
        "model": model, "input": str(shards[0].parent), "text_field": text_field,
        "compute_dtype": compute_dtype, "version": flax_ner.__version__,
    }  # fmt: skip
    texts = entities = 0
    begin, faults = time.time(), dict[str, None]()  # a dict, as all workers may have the same one
    with _claimed(folder, job):
        todo = [shard for shard in shards if not _finished(shard, folder / shard.name)]
        for done, row in enumerate(_answers(todo, folder, job, workers, address), 1):
            begin = row["begin"] if done == 1 else min(begin, row["begin"])
            texts, entities = texts + row["texts"], entities + row["entities"]
            if row["fault"]:
                faults[row["fault"]] = None
            for note in row["notes"].splitlines():
                warnings.warn(note, stacklevel=2)
            end = "\r" if sys.stderr.isatty() and done < len(todo) else "\n"
            print(f"{done} of {len(todo)} shards, {texts:,} texts", end=end, file=sys.stderr)
        rate = texts / (time.time() - begin)
    if faults:
        more = f"\n  and {len(faults) - SHOWN} more" * (len(faults) > SHOWN)
        raise UserError("\n  ".join([*faults][:SHOWN]) + more)
    return (
        f"{len(todo)} shards tagged, {len(shards) - len(todo)} were: {texts:,} texts, "
        f"{entities:,} entities, {rate:,.1f} texts a second."
    )


def _answers(
    todo: list[Path], folder: Path, job: dict[str, Any], workers: int | None, address: str | None
) -> Iterator[dict[str, Any]]:
    """What the workers say of each shard, as soon as they do."""
    if not todo:
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # what matters comes as an exception
    ray, data = (need(name, "bulk", RAY) for name in ("ray", "ray.data"))
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    data.DataContext.get_current().enable_progress_bars = False
    # Without an address Ray would join a cluster that runs here. Only paths go through its store.
    here = {"include_dashboard": False, "object_store_memory": 1 << 27}
    options = {"log_to_driver": False, "logging_level": logging.ERROR, **({} if address else here)}
    try:
        host, colon, port = (address or "").removeprefix("ray://").rpartition(":")
        if colon:  # Ray itself would try for a quarter of an hour
            socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
        ray.init(address or "local", **options)
    except (OSError, ValueError) as error:  # OSError: ConnectionError, too
        if address is None:
            raise
        raise UserError(
            f"--address: no Ray cluster at {address!r} ({reason(error)}). Start one by ray start --head, and "
            "name its machine and port; if it wants a token, set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN."
        ) from None
    try:
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        size, each = places(nodes, workers)
        tasks = [{"source": str(shard), "target": str(folder / shard.name)} for shard in todo]
        # A block for each, so that a shard goes to whichever worker has nothing to do.
        rows = data.from_items(tasks, override_num_blocks=len(tasks)).map_batches(
            _Worker,
            batch_size=1,
            compute=data.ActorPoolStrategy(
                size=min(size, len(tasks)), max_tasks_in_flight_per_actor=1
            ),
            fn_constructor_kwargs={"job": job, "cores": each.get("num_cpus", 0)},
            **each,
        )
        yield from rows.iter_rows()
    finally:
        ray.shutdown()


def places(nodes: list[dict[str, float]], workers: int | None) -> tuple[int, dict[str, int]]:
    """How many workers there are, and what of its machine each one takes.

    Args:
        nodes: what each machine of the cluster has, as `CPU` and `GPU`.
        workers: how many are wished for.

    Raises:
        UserError: more than there are GPUs; without GPUs, more than there are cores.
    """
    gpus, cores = ([int(node.get(kind, 0)) for node in nodes] for kind in ("GPU", "CPU"))
    if any(gpus):
        size, most, share = workers or sum(gpus), sum(gpus), {"num_gpus": 1}
    else:
        size, most = workers or sum(count > 0 for count in cores), sum(cores)
        # As many cores for each as still let all of them find a place.
        fits = [c for c in range(1, max(cores) + 1) if sum(count // c for count in cores) >= size]
        share = {"num_cpus": max(fits, default=0)}
    if size > most:
        kind = "GPUs" if any(gpus) else "cores"
        raise UserError(
            f"--workers {size}: there are {most} {kind}, and each worker needs one. Give at most {most}."
        )
    return size, share


def _shards(source: Path) -> list[Path]:
    """Absolute paths of the input files. A file that is a link keeps its own name."""
    if source.is_dir():
        files = sorted(Path(os.path.realpath(source)).iterdir())
    else:
        files = [Path(os.path.realpath(source.parent)) / source.name]
    files = [file for file in files if file.is_file() and file.name[0] not in "._"]
    shards = [file for file in files if file.suffix in SUFFIXES]
    if not shards:
        raise UserError(
            f"INPUT: {str(source)!r} is no *.jsonl or *.parquet file, nor a folder with such files."
        )
    if others := [file.name for file in files if file not in shards]:
        warnings.warn(f"no shards, and left alone: {', '.join(others)}", stacklevel=3)
    return shards


def _finished(shard: Path, target: Path) -> bool:
    """Whether it was tagged, and not changed afterwards."""
    return target.exists() and target.stat().st_mtime >= shard.stat().st_mtime


@contextmanager
def _claimed(folder: Path, job: dict[str, Any]) -> Iterator[None]:
    """Make the folder, keep other jobs out of it while this lasts, and write `job.json`."""
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / ".lock", timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise UserError(
            f"OUT: another job is writing to {folder}. Wait for its end, or name another folder."
        ) from None
    try:
        _check_same_job(folder, job)
        _sweep(folder)
        new = folder / f".job.json{PART}"
        new.write_text(json.dumps(job, indent=1, ensure_ascii=False) + "\n", "utf-8")
        new.replace(folder / "job.json")
        yield
    finally:
        _sweep(folder)
        lock.release()


def _sweep(folder: Path) -> None:
    """Remove what workers left that were killed."""
    for file in folder.glob(f".*{PART}"):
        file.unlink(missing_ok=True)


def _check_same_job(folder: Path, job: dict[str, Any]) -> None:
    path = folder / "job.json"
    if not any(file.name[0] != "." and file != path for file in folder.iterdir()):
        return
    try:
        found = json.loads(path.read_text("utf-8"))
        for name in ("model", "input"):  # earlier versions did not follow links
            if os.path.exists(found.get(name, "")):
                found[name] = os.path.realpath(found[name])
        differences = [
            f"{name} was {found.get(name)!r}, is {job.get(name)!r}"
            for name in sorted(found.keys() | job.keys())
            if found.get(name) != job.get(name)
        ]
    except FileNotFoundError:
        raise UserError(f"OUT: {folder} has files and no job.json. Name another folder.") from None
    except (ValueError, AttributeError, TypeError) as error:
        raise UserError(f"OUT: {path} is damaged ({error}). Name another folder.") from None
    if differences:
        raise UserError(
            f"OUT: {folder} has shards of another job: {'; '.join(differences)}. "
            "To resume that job repeat its command, with its version of flax_ner; or name another folder."
        )
