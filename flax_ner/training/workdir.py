"""The work directory of a run belongs to one configuration, and to one process at a time."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from ml_collections import ConfigDict

import flax_ner
from flax_ner.config import (
    ENCODER_FIELDS,
    FALLBACKS,
    WITHOUT_LABELS,
    default_config,
    is_unset,
    with_fallbacks,
)
from flax_ner.durable import make_folder, write_text
from flax_ner.errors import UserError
from flax_ner.training.distillation import TEACHER_READS
from flax_ner.training.hosts import from_first, is_first
from flax_ner.weights.names import flatten

# Version of config.json. Raise it when a setting that stays changes its meaning; a new setting needs no new
# version, but an entry in OLD_DEFAULTS if its default is not what was done before. Files without a version
# have version 0. Since version 1 dropout and masks are drawn from other keys, and of overlapping entities the
# longest is learned. Since version 2 the weights decide settings that are not set; before, all were set.
FORMAT = 2
WEIGHTS_DECIDE = 2

# Value that older versions used for a setting that they did not have, if it is not the default.
OLD_DEFAULTS: dict[str, Any] = {"train.standardise": False}

# Settings that may be left open, and are decided when training starts.
OPEN = (*FALLBACKS, *WITHOUT_LABELS, "tokenizer.kind", "tokenizer.lower_case")

# Settings that may change whenever a run is started again. They do not decide its result.
OPERATIONAL = (
    "profile",
    "train.steps_per_dispatch",
    "train.max_seconds",
    "train.tensorboard",
    "train.skip_nonfinite",  # a run that stopped at such a step can resume without it
    "eval.batch_size",  # with a teacher: the same but for rounding
    "checkpoint.every",
    "checkpoint.keep",
    "mesh.data",  # sums are taken in another order: the same but for rounding
    "mesh.fsdp",
    "mesh.distributed",
)

# Settings that say where an input is. Its content decides the result: a run can resume with another path if
# inputs.json has this digest, and the digest is the same.
INPUTS = {
    "init_from": "init_from",
    "tokenizer.vocab": "vocabulary",
    "data.train": "data.train",
    "data.dev": "data.dev",
    "data.format": "data.train",
    "distill.teacher": TEACHER_READS,
    "distill.texts": TEACHER_READS,
}


@contextmanager
def claimed(workdir: Path, config: ConfigDict, inputs: Mapping[str, str]) -> Iterator[None]:
    """Make the directory, keep other runs out of it while this lasts, and write `config.json`.

    `inputs` are digests of what the run is made of, by setting; `inputs.json` keeps those it began with.
    A run that has checkpoints there may have other `OPERATIONAL` settings and its inputs at other paths.
    Settings missing from an older config.json come from `OLD_DEFAULTS`, then from the defaults. Missing
    digests are not compared.

    Raises:
        UserError: a run of another configuration or with other inputs has checkpoints there; each
            difference is named. Or a later version of flax_ner saved it, another run is using the
            directory, or it cannot be made.
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


def saved_format(workdir: Path) -> int:
    """Return the version of the `config.json` of a run, 0 for one without, `FORMAT` if there is no file."""
    saved = _read(workdir / "config.json")
    version = FORMAT if saved is None else saved.get("format", 0)
    return version if type(version) is int else FORMAT  # `_differences` refuses it


def has_checkpoints(workdir: Path) -> bool:
    """Whether a run has begun there and can go on."""
    return any(folder.name.isdecimal() for folder in (workdir / "checkpoints").glob("*"))


def fill_from_record(config: ConfigDict, workdir: Path) -> ConfigDict:
    """Return the configuration of a run that is resumed; `config` itself if there is none.

    Settings that are not set have the values that the run began with: new rules, or another number of
    devices, might choose others. What the weights decide is filled in for a run of an earlier version only.
    """
    if not has_checkpoints(workdir):
        return config
    earlier = saved_format(workdir) < WEIGHTS_DECIDE
    names = set(OPEN if earlier else WITHOUT_LABELS)
    if config.init_from:
        names -= {f"model.{name}" for name in ENCODER_FIELDS}  # the weights have them
    recorded = flatten(_read(workdir / "config.json") or {}, separator=".")
    missing = {
        name: recorded[name]
        for name in sorted(names)
        if is_unset(config, name) and recorded.get(name) is not None
    }
    if earlier:
        missing |= {name: recorded.get(name, value) for name, value in OLD_DEFAULTS.items()}
    if not missing:
        return config
    filled = ConfigDict(config.to_dict())
    filled.update_from_flattened_dict(missing)
    return filled


def _claim(workdir: Path, lock: FileLock, config: ConfigDict, inputs: Mapping[str, str]) -> None:
    try:
        make_folder(workdir)
        lock.acquire()
        settings = json.loads(config.to_json())
        begun = has_checkpoints(workdir)
        if begun:
            _check_same_run(workdir, settings, inputs)
        version = {"format": FORMAT, "flax_ner": flax_ner.__version__}
        write_text(workdir / "config.json", json.dumps(version | settings, indent=1) + "\n")
        if not (begun and (workdir / "inputs.json").exists()):
            write_text(workdir / "inputs.json", json.dumps(inputs, indent=1) + "\n")
    except Timeout:
        raise UserError(
            f"--workdir: another run is using {workdir}. Wait for its end, or name another directory."
        ) from None
    except OSError as error:
        raise UserError(f"--workdir: {workdir} cannot be written ({error.strerror}).") from None


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


def _check_same_run(workdir: Path, settings: dict[str, Any], inputs: Mapping[str, str]) -> None:
    """Raise `UserError` where the run that has checkpoints there is another one."""
    began, now = _by_kind(_read(workdir / "inputs.json") or {}), _by_kind(inputs)
    unlike = _differences(workdir, settings)
    moved = {name: told for name, told in unlike.items() if INPUTS.get(name) in began}
    others = [told for name, told in unlike.items() if name not in (*moved, *OPERATIONAL)]
    if others:
        raise UserError(
            f"--workdir: {workdir} has a run of another configuration: {'; '.join(others)}. "
            "Repeat the command of that run to resume it, or name another directory."
        )
    changed = [kind for kind in now if kind in began and now[kind][1] != began[kind][1]]
    if "init_from" in changed and "init_from" not in moved:
        changed.remove("init_from")  # the checkpoints have what it gave; it may be newer
    if changed:
        names = [now[kind][0] for kind in changed]
        paths = [told for name, told in moved.items() if INPUTS[name] in changed]
        told = ", ".join(names) + (f" ({'; '.join(paths)})" if paths else "")
        if changed == ["data.train"] and saved_format(workdir) == 0:
            raise UserError(
                f"--workdir: the labels of {told} differ from those the run in {workdir} began with. If the "
                "data changed, restore them. If entities overlap, this version learns different ones: resume "
                "with the version that began the run, or name another directory."
            )
        raise UserError(
            f"--workdir: the run in {workdir} began with something else: {told}. "
            "Put back what was there to resume it, or name another directory."
        )


def _by_kind(inputs: Mapping[str, Any]) -> dict[str, tuple[str, Any]]:
    """Return name and digest of each input; the vocabulary is one kind, whichever input it is from."""
    return {
        "vocabulary" if name.startswith("the vocabulary of ") else name: (name, digest)
        for name, digest in inputs.items()
    }


def _differences(workdir: Path, settings: dict[str, Any]) -> dict[str, str]:
    """Return by name what differs between `settings` and those that the run there began with.

    Raises:
        UserError: this version cannot read those, or does not know one of them.
    """
    path = workdir / "config.json"
    saved = _read(path)
    if saved is None:
        return {}
    version, writer = saved.pop("format", 0), saved.pop("flax_ner", None)
    written = f"{path} was written by {f'flax_ner {writer}' if writer else 'an earlier flax_ner'}"
    this = f"flax_ner {flax_ner.__version__}"
    instead = "Resume the run with that version, or name another directory."
    if type(version) is not int or version > FORMAT:
        raise UserError(
            f"--workdir: {written} in format {version}, and {this} reads formats up to {FORMAT}. {instead}"
        )
    found, now = flatten(saved, separator="."), flatten(settings, separator=".")
    if unknown := sorted(found.keys() - now.keys()):
        raise UserError(
            f"--workdir: {written}, and {this} does not know its settings {', '.join(unknown)}. {instead}"
        )
    defaults = flatten(json.loads(with_fallbacks(default_config()).to_json()), separator=".")
    found = defaults | OLD_DEFAULTS | found
    return {
        name: f"{name} was {found[name]!r}, is {value!r}"
        for name, value in sorted(now.items())
        if found[name] != value
    }
