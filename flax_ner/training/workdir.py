"""The work directory of a run: lock it, and check that a resumed run has the same configuration and inputs."""

import json
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from flax.traverse_util import flatten_dict
from ml_collections import ConfigDict

import flax_ner
from flax_ner.config import (
    ENCODER_FIELDS,
    FALLBACKS,
    UNLABELLED_FALLBACKS,
    default_config,
    is_unset,
    with_fallbacks,
)
from flax_ner.durable import lock_folder, write_text
from flax_ner.errors import UserError
from flax_ner.training.hosts import is_primary, run_on_primary

# Version of config.json. Increase it if an existing setting changes its meaning. A new setting needs no new
# version, but an entry in OLD_DEFAULTS if its default changes what was done before.
# Version 0: files without a version.
# Version 1: dropout and masks use other random keys; the longest of overlapping entities is learned.
# Version 2: settings may be unset, and the weights determine them. Before, all were set.
# Version 3: an unset data.scheme follows from the tokenizer. Before, it was bio.
CONFIG_FORMAT = 3
UNSET_SETTINGS_FORMAT = 2
SCHEME_FROM_TOKENIZER_FORMAT = 3

# Values that older versions used for settings that they did not have, if different from the default.
OLD_DEFAULTS: dict[str, Any] = {"train.standardise": False}

# Old names of settings, and the current ones.
RENAMED_SETTINGS = {
    "optimizer.head_factor": "optimizer.head_lr_multiplier",
    "pretrain.portion": "pretrain.steps_per_chunk",
}

# Settings that may be unset and are resolved when training starts.
RESOLVED_SETTINGS = (*FALLBACKS, *UNLABELLED_FALLBACKS, "tokenizer.kind", "tokenizer.lower_case")

# Unset settings that a resumed run takes from its config.json, because another version or another number of
# devices may choose other values.
SIZE_SETTINGS = ("data.batch_size", "train.epochs", "optimizer.learning_rate")

# Settings that may change when a run is resumed, because they do not affect its result.
OPERATIONAL = (
    "profile",
    "train.steps_per_dispatch",
    "train.max_seconds",
    "train.tensorboard",
    "train.skip_nonfinite",  # resume a run that stopped at such a step
    "eval.batch_size",  # changes the teacher's probabilities up to rounding
    "checkpoint.every",
    "checkpoint.keep",
    "mesh.data",  # changes the order of sums: same result up to rounding
    "mesh.fsdp",
    "mesh.distributed",
)

TEACHER_INPUTS = "the texts and tokens of distill.teacher"  # its name in inputs.json

# Settings that name an input, and the name of its digest in inputs.json. Only the content affects the result:
# a run can resume with another path if the digest is the same.
INPUT_SETTINGS = {
    "init_from": "init_from",
    "tokenizer.vocab": "vocabulary",
    "data.train": "data.train",
    "data.dev": "data.dev",
    "data.format": "data.train",
    "distill.teacher": TEACHER_INPUTS,
    "distill.texts": TEACHER_INPUTS,
}


@contextmanager
def lock_workdir(workdir: Path, config: ConfigDict, inputs: Mapping[str, str]) -> Iterator[None]:
    """Create and lock the work directory, and write `config.json` and `inputs.json`.

    If a run has checkpoints there, it must have the same configuration and inputs. `OPERATIONAL` settings and
    the paths of inputs may differ. Settings that an older config.json lacks are taken from `OLD_DEFAULTS`,
    then from the defaults. Missing digests are not compared.

    Args:
        workdir: the work directory.
        config: configuration of the run.
        inputs: digests of everything that affects the result, by setting.

    Raises:
        UserError: a run with another configuration or other inputs has checkpoints there (the message names
            each difference), a later version of flax_ner wrote it, another run is using the directory, or
            the directory cannot be created.
    """
    with ExitStack() as stack:
        run_on_primary(partial(_lock_and_record, stack, workdir, config, inputs))
        yield


def write_item_list(items: list[str], what: str, path: Path, notes: list[str]) -> None:
    """Write items to a file, one per line, and add a note; `what` describes them."""
    if not is_primary():
        return
    path.unlink(missing_ok=True)
    if items:
        path.write_text("".join(f"{line}\n" for line in items), "utf-8", "backslashreplace")
        notes.append(f"{len(items)} {what}; {path} lists them.")


def saved_config_format(workdir: Path) -> int:
    """Return the format version of a run's `config.json`; `CONFIG_FORMAT` if there is no such file."""
    saved = _read_json(workdir / "config.json")
    version = CONFIG_FORMAT if saved is None else saved.get("format", 0)
    return version if type(version) is int else CONFIG_FORMAT  # `_differences` raises an error


def total_steps(config: ConfigDict, per_epoch: int) -> int:
    """Return the number of steps of a run."""
    return int(config.train.steps or config.train.epochs * per_epoch)


def has_checkpoints(workdir: Path) -> bool:
    """Return whether there is a run that can be resumed."""
    return any(folder.name.isdecimal() for folder in (workdir / "checkpoints").glob("*"))


def fill_from_saved_config(config: ConfigDict, workdir: Path) -> ConfigDict:
    """Return the configuration with unset settings filled in from the run to resume, if there is one.

    Without this, a newer version or another number of devices could choose other values. Settings that the
    weights or the tokenizer determine are filled in only for runs in earlier formats.
    """
    if not has_checkpoints(workdir):
        return config
    version = saved_config_format(workdir)
    earlier = version < UNSET_SETTINGS_FORMAT
    names = set(RESOLVED_SETTINGS if earlier else SIZE_SETTINGS)
    if config.init_from:
        names -= {f"model.{name}" for name in ENCODER_FIELDS}  # the weights have them
    recorded = renamed_settings(_read_json(workdir / "config.json") or {})
    names.add("data.nested")
    if not is_unset(config, "model.head") and config.model.head != recorded.get("model.head"):
        names.discard("data.nested")  # so that the error names the head
    # A run with global_pointer recorded bio, but its labels have no scheme: with bio set, they would not match
    # those of a global_pointer tagger in init_from.
    if version < SCHEME_FROM_TOKENIZER_FORMAT and recorded.get("model.head") != "global_pointer":
        names.add("data.scheme")
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


def _lock_and_record(
    stack: ExitStack, workdir: Path, config: ConfigDict, inputs: Mapping[str, str]
) -> None:
    """Lock the work directory until `stack` is closed, and write its two files."""
    busy = (
        f"--workdir: another run is using {workdir}. Wait until it ends, or name another directory."
    )
    try:
        stack.enter_context(lock_folder(workdir, busy))
        settings = json.loads(config.to_json())
        begun = has_checkpoints(workdir)
        if begun:
            _check_same_run(workdir, settings, inputs)
        # A resumed run keeps its format, which says how its unset settings were resolved. Only format 0 becomes
        # 1: from here on the run uses the random keys of format 1.
        saved_format = max(saved_config_format(workdir), 1) if begun else CONFIG_FORMAT
        version = {"format": saved_format, "flax_ner": flax_ner.__version__}
        write_text(workdir / "config.json", json.dumps(version | settings, indent=1) + "\n")
        if not (begun and (workdir / "inputs.json").exists()):
            write_text(workdir / "inputs.json", json.dumps(inputs, indent=1) + "\n")
    except OSError as error:
        raise UserError(f"--workdir: {workdir} cannot be written ({error.strerror}).") from None


def _read_json(path: Path) -> dict[str, Any] | None:
    """Return the JSON object in a file of a run with checkpoints; None if there is no such file."""
    if not path.is_file():
        return None
    try:
        row = json.loads(path.read_text("utf-8"))
        if not isinstance(row, dict):
            raise ValueError("not an object")
    except ValueError as error:
        raise UserError(
            f"--workdir: {path} is damaged ({error}). If the checkpoints in this folder belong to this "
            "configuration and data, delete the file; otherwise name another directory."
        ) from None
    return row


def renamed_settings(saved: dict[str, Any]) -> dict[str, Any]:
    """Return the settings of a `config.json` under their current names."""
    settings = {
        RENAMED_SETTINGS.get(name, name): value
        for name, value in flatten_dict(saved, sep=".").items()
    }
    # In earlier versions a global_pointer always predicted overlapping entities.
    if settings:
        settings.setdefault("data.nested", settings.get("model.head") == "global_pointer")
    return settings


def _check_same_run(workdir: Path, settings: dict[str, Any], inputs: Mapping[str, str]) -> None:
    """Raise `UserError` if the run in the work directory has another configuration or other inputs."""
    saved, current = _by_kind(_read_json(workdir / "inputs.json") or {}), _by_kind(inputs)
    differences = _differences(workdir, settings)
    input_changes = {
        name: text for name, text in differences.items() if INPUT_SETTINGS.get(name) in saved
    }
    forbidden_changes = [
        text for name, text in differences.items() if name not in (*input_changes, *OPERATIONAL)
    ]
    if forbidden_changes:
        raise UserError(
            f"--workdir: {workdir} has a run with another configuration: {'; '.join(forbidden_changes)}. "
            "Repeat the command of that run to resume it, or name another directory."
        )
    changed = [kind for kind in current if kind in saved and current[kind][1] != saved[kind][1]]
    # At the same path, init_from may change: only the first start uses its parameters.
    if "init_from" in changed and "init_from" not in input_changes:
        changed.remove("init_from")
    if changed:
        names = [current[kind][0] for kind in changed]
        paths = [text for name, text in input_changes.items() if INPUT_SETTINGS[name] in changed]
        details = ", ".join(names) + (f" ({'; '.join(paths)})" if paths else "")
        if changed == ["data.train"] and saved_config_format(workdir) == 0:
            raise UserError(
                f"--workdir: the labels of {details} differ from those that the run in {workdir} started "
                "with. If the data changed, restore them. If entities overlap, this version learns different "
                "ones: resume with the version that started the run, or name another directory."
            )
        raise UserError(
            f"--workdir: the run in {workdir} started with other inputs: {details}. "
            "Restore them to resume it, or name another directory."
        )


def _by_kind(inputs: Mapping[str, Any]) -> dict[str, tuple[str, Any]]:
    """Return name and digest of each input by kind. All vocabularies have the same kind."""
    return {
        "vocabulary" if name.startswith("the vocabulary of ") else name: (name, digest)
        for name, digest in inputs.items()
    }


def _differences(workdir: Path, settings: dict[str, Any]) -> dict[str, str]:
    """Return a description of each setting that differs from those of the run in the work directory.

    Raises:
        UserError: a later version of flax_ner wrote the run, or it has unknown settings.
    """
    path = workdir / "config.json"
    saved = _read_json(path)
    if saved is None:
        return {}
    version, writer = saved.pop("format", 0), saved.pop("flax_ner", None)
    written = f"{path} was written by {f'flax_ner {writer}' if writer else 'an earlier flax_ner'}"
    this = f"flax_ner {flax_ner.__version__}"
    advice = "Resume the run with that version, or name another directory."
    if type(version) is not int or version > CONFIG_FORMAT:
        raise UserError(
            f"--workdir: {written} in format {version}, and {this} supports formats up to "
            f"{CONFIG_FORMAT}. {advice}"
        )
    old, new = renamed_settings(saved), flatten_dict(settings, sep=".")
    if unknown := sorted(old.keys() - new.keys()):
        raise UserError(
            f"--workdir: {written}, and {this} does not have its settings {', '.join(unknown)}. {advice}"
        )
    defaults = flatten_dict(json.loads(with_fallbacks(default_config()).to_json()), sep=".")
    old = defaults | OLD_DEFAULTS | old
    return {
        name: f"{name} was {old[name]!r}, is {value!r}"
        for name, value in sorted(new.items())
        if old[name] != value
    }
