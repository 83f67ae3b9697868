"""The work directory of a run belongs to one configuration, and to one process at a time."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from ml_collections import ConfigDict

from flax_ner.errors import UserError
from flax_ner.training.hosts import from_first, is_first
from flax_ner.weights.names import flatten

# Settings that change how a run goes, not what comes out of it; but for one.
FREE = (
    "profile",
    "train.steps_per_dispatch",
    "train.max_seconds",
    "train.tensorboard",
    "train.skip_nonfinite",  # a run that stopped at such a step may go on without it
    "eval.batch_size",
    "checkpoint.keep",
    "mesh.data",  # sums come in another order: the same but for rounding
    "mesh.fsdp",
    "mesh.distributed",
)


@contextmanager
def claimed(workdir: Path, config: ConfigDict, inputs: Mapping[str, str]) -> Iterator[None]:
    """Make the directory, keep other runs out of it while this lasts, and write `config.json`.

    `inputs` are digests of what the run is made of, by setting; `inputs.json` keeps those it began with.

    Raises:
        UserError: a run of another configuration or with other inputs has checkpoints there; each
            difference is named. Or another run is using the directory, or it cannot be made.
    """
    lock = FileLock(workdir / ".lock", timeout=0)
    try:
        from_first(partial(_claim, workdir, lock, config, inputs))
        yield
    finally:
        lock.release()


def list_left_out(left_out: list[str], what: str, path: Path, notes: list[str]) -> None:
    """Write what training leaves out to a file, one per line, and add a note that says `what` it is."""
    if not is_first():
        return
    path.unlink(missing_ok=True)
    if left_out:
        path.write_text("".join(f"{line}\n" for line in left_out), "utf-8", "backslashreplace")
        notes.append(f"{len(left_out)} {what}; {path} lists them.")


def has_checkpoints(workdir: Path) -> bool:
    """Whether a run has begun there and can go on."""
    return any(folder.name.isdecimal() for folder in (workdir / "checkpoints").glob("*"))


def _claim(workdir: Path, lock: FileLock, config: ConfigDict, inputs: Mapping[str, str]) -> None:
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        lock.acquire()
        begun = has_checkpoints(workdir)
        if begun:
            _check_same_config(workdir, config)
            _check_same_inputs(workdir, inputs)
        _replace(workdir / "config.json", config.to_json(indent=1))
        if not (begun and (workdir / "inputs.json").exists()):
            _replace(workdir / "inputs.json", json.dumps(inputs, indent=1))
    except Timeout:
        raise UserError(
            f"--workdir: another run is using {workdir}. Wait for its end, or name another directory."
        ) from None
    except OSError as error:
        raise UserError(f"--workdir: {workdir} cannot be written ({error.strerror}).") from None


def _replace(path: Path, text: str) -> None:
    new = path.with_name(f".{path.name}.new")
    new.write_text(text + "\n", "utf-8")
    new.replace(path)


def _read(path: Path) -> dict[str, Any] | None:
    """What a run that has checkpoints began with; None: it did not say."""
    if not path.is_file():
        return None
    try:
        row = json.loads(path.read_text("utf-8"))
        if not isinstance(row, dict):
            raise ValueError("not an object")
    except ValueError as error:
        raise UserError(
            f"--workdir: {path} is damaged ({error}), so it is not known whether the checkpoints beside it "
            "are of this configuration and these data. Delete the file if they are, or name another directory."
        ) from None
    return row


def _check_same_config(workdir: Path, config: ConfigDict) -> None:
    began = _read(workdir / "config.json")
    if began is None:
        return
    found, wanted = _fields(began), _fields(json.loads(config.to_json()))
    differences = [
        f"{name} was {found.get(name)!r}, is {wanted.get(name)!r}"
        for name in sorted(found.keys() | wanted.keys())
        if found.get(name) != wanted.get(name)
    ]
    if differences:
        raise UserError(
            f"--workdir: {workdir} has a run of another configuration: {'; '.join(differences)}. "
            "Repeat the command of that run to go on with it, or name another directory."
        )


def _check_same_inputs(workdir: Path, inputs: Mapping[str, str]) -> None:
    began = _read(workdir / "inputs.json")
    if began is None:
        return
    # What `init_from` gave is in the checkpoints: it may be gone, or newer.
    changed = [name for name in inputs if name != "init_from" and inputs[name] != began.get(name)]
    if changed:
        raise UserError(
            f"--workdir: the run in {workdir} began with something else: {', '.join(changed)}. "
            "Put back what was there to go on with it, or name another directory."
        )


def _fields(config: dict[str, Any]) -> dict[str, Any]:
    return {
        name: value for name, value in flatten(config, separator=".").items() if name not in FREE
    }
