"""The work directory of a run belongs to one configuration."""

import json
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from flax_ner.errors import UserError
from flax_ner.weights.names import flatten

# Settings that change how a run goes, not what comes out of it.
FREE = (
    "profile",
    "train.steps_per_dispatch",
    "train.tensorboard",
    "eval.batch_size",
    "checkpoint.keep",
)


def claim_workdir(workdir: Path, config: ConfigDict) -> None:
    """Make the directory and write `config.json`.

    Raises:
        UserError: a run of another configuration has checkpoints there; each difference is named.
            Or the directory cannot be made.
    """
    wanted = _fields(json.loads(config.to_json()))
    path = workdir / "config.json"
    if path.is_file() and any((workdir / "checkpoints").glob("*")):
        found = _fields(json.loads(path.read_text("utf-8")))
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
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        path.write_text(config.to_json(indent=1) + "\n", "utf-8")
    except OSError as error:
        raise UserError(f"--workdir: {workdir} cannot be written ({error.strerror}).") from None


def _fields(config: dict[str, Any]) -> dict[str, Any]:
    return {
        name: value for name, value in flatten(config, separator=".").items() if name not in FREE
    }
