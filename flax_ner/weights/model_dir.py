"""Save and load model directories, which hold everything that a model needs.

config.json     {"format": version of this layout, "model": fields of BertConfig, "max_length": tokens,
                "tokenizer": {"kind": "char", "wordpiece" or "subword", "lower_case": true}}
labels.json     scheme and categories; missing if the model is an encoder without a head
vocab.txt       one token per line
tokenizer.json  replaces vocab.txt if the tokenizer is "subword"; read by the `tokenizers` library
params/         float32 arrays, written by Orbax
checksums.json  SHA-256 of each of these files; missing in directories of older versions
"""

import dataclasses
import glob
import json
import os
import shutil
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import jax

from flax_ner import durable
from flax_ner.errors import UserError, error_summary
from flax_ner.model.bert import BertConfig
from flax_ner.model.mlm_head import abstract_masked_lm_head
from flax_ner.model.tagging_model import (
    Params,
    abstract_params,
    cast_kernels,
    unstack_layers,
)
from flax_ner.text.labels import LabelSet
from flax_ner.text.subword import SubwordTokenizer
from flax_ner.text.tokenizer import CharTokenizer, Tokenizer
from flax_ner.text.tokenizer_kinds import TOKENIZERS, build_tokenizer
from flax_ner.text.vocab import read_tokenizer_json, read_vocab, write_vocab
from flax_ner.weights.params_reader import READ_ERRORS, read_params, stored_arrays

# Version of the layout. Directories without a version have version 0. Version 1 only adds the number. Version 2
# adds encoders other than BERT, and tokenizer.json.
FORMAT = 2
RESTORE_HINT = "Restore it from a copy, or convert or train again into another directory."
T = TypeVar("T")
SMALL_FILES = ("config.json", "labels.json", "vocab.txt", "tokenizer.json")
# What `config.json` is in a model directory, in an export whose `config.json` is that of transformers.
EXPORT_CONFIG = "flax_ner.json"


@dataclass
class ModelDir:
    """Content of a model directory.

    If `labels` is None, the model is an encoder: `params` has no "head", but may have "masked_lm", the
    parameters of `MaskedLMHead`.
    """

    config: BertConfig
    labels: LabelSet | None
    vocab: list[str]
    max_length: int  # tokens per row, as in training
    params: Params
    lower_case: bool = True
    tokenizer: str = CharTokenizer.kind  # a key of TOKENIZERS
    definition: str = ""  # content of tokenizer.json, if the tokenizer is "subword"

    def build_tokenizer(self) -> Tokenizer:
        """Return the tokenizer of this model."""
        return build_tokenizer(self.tokenizer, self.vocab, self.lower_case, self.definition)


def save_model(path: str | Path, model: ModelDir) -> None:
    """Write a model directory. Replace an existing one only after the new one is on disk.

    At every moment either the old or the new directory can be loaded, even after a crash or a power failure. If
    `path` is a symbolic link, the link stays and its target is replaced.

    Layers are always stored separately, and `scan_layers` and `remat` are not stored.

    Raises:
        UserError: `path` exists and is not a model directory, it cannot be written, or `storage_path` refuses
            it. What was there before stays.
    """
    path = storage_path(path)
    check_replaceable(path)
    try:
        durable.makedirs_synced(path.parent)
        new = durable.staging_path(path)
        _write(new, model)
        durable.write_checksums(new)
        durable.replace_folder(new, path)
    except (ValueError, OSError, jax.errors.JaxRuntimeError) as error:
        _remove_persistently(path.with_name(f".{path.name}.writing"))
        raise UserError(
            f"{path}: cannot be written ({error_summary(error)}). What was there before is unchanged."
        ) from error


def check_replaceable(path: Path) -> None:
    """Raise `UserError` if a path exists and is not a model directory, an export or an empty folder."""
    if not path.exists() or is_model_dir(path) or is_export(path):
        return
    if not path.is_dir() or any(path.iterdir()):
        raise UserError(
            f"{path}: exists and is not a model directory. Name another path; nothing was overwritten."
        )


def _remove_persistently(folder: Path) -> None:
    """Remove what a failed Orbax write left. Its pending writes may still create files, so check repeatedly."""
    checks_passed = 0
    for _ in range(50):
        checks_passed = 0 if folder.exists() else checks_passed + 1
        if checks_passed == 3:
            return
        shutil.rmtree(folder, ignore_errors=True)
        time.sleep(0.1)


def metadata_row(model: ModelDir) -> dict[str, Any]:
    """Return the content of a model's `config.json`."""
    return {
        "format": FORMAT,
        "model": dataclasses.replace(model.config, scan_layers=False, remat=False).to_json(),
        "tokenizer": {"kind": model.tokenizer, "lower_case": model.lower_case},
        "max_length": model.max_length,
    }


def _write(folder: Path, model: ModelDir) -> None:
    folder.mkdir()
    write_json(folder / "config.json", metadata_row(model))
    if model.labels is not None:
        write_json(folder / "labels.json", model.labels.to_json())
    if model.definition:
        (folder / "tokenizer.json").write_text(model.definition, "utf-8", newline="")
    else:
        write_vocab(folder / "vocab.txt", model.vocab)
    from flax_ner.weights.params_writer import write_params  # imports Orbax, slow to import

    write_params(folder / "params", unstack_layers(model.params))


def storage_path(path: str | Path) -> Path:
    """Return a path that Orbax can write to: absolute, without `..` and symbolic links.

    Raises:
        UserError: the path has a wildcard character. Orbax finds its own files by a pattern, and silently skips
            those that the pattern does not match.
    """
    real = os.path.realpath(path)
    if glob.escape(real) != real:
        raise UserError(
            f"{real}: models and checkpoints cannot be written to a path with [, * or ?. Name another path."
        )
    return Path(real)


def load_model(
    path: str | Path, for_inference: bool = False, compute_dtype: str | None = None
) -> ModelDir:
    """Load a model directory, with parameters on the default device.

    Args:
        path: the directory.
        for_inference: whether to read kernels in the compute dtype, see `cast_kernels`. This is faster than to
            cast them later.
        compute_dtype: replaces the compute dtype of training.

    Raises:
        UserError: the path is not a model directory, or a file is missing or damaged.
    """
    return _read_consistently(path, partial(_load, for_inference, compute_dtype))


def _load(for_inference: bool, compute_dtype: str | None, path: Path) -> ModelDir:
    model = _read_small_files(path)
    if compute_dtype:
        model.config = dataclasses.replace(model.config, compute_dtype=compute_dtype)
    with ThreadPoolExecutor(1) as thread:  # hashing does not hold the lock of the interpreter
        checked = thread.submit(check_files, path)
        abstract = abstract_params(model.config)
    checked.result()
    try:
        if model.labels is None:
            del abstract["head"]
            if any(name.startswith("masked_lm.") for name in stored_arrays(path / "params")):
                abstract["masked_lm"] = abstract_masked_lm_head(model.config)
        if for_inference:
            abstract = jax.eval_shape(partial(cast_kernels, model.config), abstract)
        params = read_params(path / "params", abstract)
    except READ_ERRORS as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise UserError(
            f"{path}: params/ is damaged, or does not match config.json and labels.json "
            f"({reason[:200]}). {RESTORE_HINT}"
        ) from None
    model.params = jax.device_put(params, jax.local_devices()[0])
    return model


def read_metadata(path: str | Path) -> ModelDir:
    """Load a model directory without its parameters.

    Raises:
        UserError: as for `load_model`.
    """
    return _read_consistently(path, _read_small_files)


def _read_consistently(path: str | Path, read: Callable[[Path], T]) -> T:
    """Return `read(path)`; read again if another process replaced the directory meanwhile."""
    path = Path(path)

    def version() -> bytes | None:
        file = durable.current_version(path) / durable.CHECKSUMS
        return file.read_bytes() if file.is_file() else None

    while True:
        before = version()
        try:
            result = read(durable.current_version(path))
        except (OSError, ValueError):
            if version() == before:
                raise
        else:
            if version() == before:
                return result


def check_files(path: Path, small: bool = False) -> None:
    """Compare the files of a model directory with its checksums, if it has any.

    Args:
        path: the directory.
        small: check only the small files, not the parameters.

    Raises:
        UserError: a file was changed, removed or added.
    """
    if not (path / durable.CHECKSUMS).is_file():
        return
    damage = durable.find_checksum_error(path, SMALL_FILES if small else None)
    if damage is None:
        files = [path / name for name in SMALL_FILES]
        if not small:
            files += (path / "params").rglob("*")
        present = {
            x.relative_to(path).as_posix() for x in files if x.is_file() and x.name[0] != "."
        }
        added = sorted(present - durable.read_checksums(path).keys())
        damage = f"{added[0]} was added later" if added else None
    if damage is not None:
        raise UserError(
            f"{path}: {damage}. {RESTORE_HINT} If you made this change, delete {durable.CHECKSUMS}."
        )


def _read_small_files(path: Path) -> ModelDir:
    if (path / EXPORT_CONFIG).exists():
        raise UserError(
            f"{path}: is an ONNX or StableHLO export, which has no parameters for JAX. Name the model "
            "directory that it was exported from."
        )
    for name in ("config.json", _vocab_file(path), "params"):
        if not (path / name).exists():
            raise UserError(
                f"{path}: not a model directory, it has no {name}. Training writes model directories to "
                "WORKDIR/best and WORKDIR/last; convert/torch_to_flax.py creates one from a PyTorch file."
            )
    check_files(path, small=True)
    return read_description(path, "config.json")


def _vocab_file(path: Path) -> str:
    subword = (path / "tokenizer.json").exists() and not (path / "vocab.txt").exists()
    return "tokenizer.json" if subword else "vocab.txt"


def read_description(path: Path, config_file: str) -> ModelDir:
    """Read what a folder says about its model: configuration, labels and vocabulary, without parameters.

    Args:
        path: a model directory or an export.
        config_file: name of the file with `metadata_row`.

    Raises:
        UserError: a file is damaged, or the files do not match.
    """
    vocab_file, labels = _vocab_file(path), None
    subword = vocab_file == "tokenizer.json"
    try:
        row = json.loads((path / config_file).read_text("utf-8"))
        version = row.get("format", 0)
        if type(version) is not int or version < 0:
            raise ValueError(f"format {version!r} is unknown")
        if version > FORMAT:
            raise UserError(
                f"{path}: was written by a later version of flax_ner (format {version}; this version reads "
                f"formats up to {FORMAT}). Upgrade flax_ner to read it."
            )
        config, max_length = BertConfig(**row["model"]), int(row["max_length"])
        lower_case = row["tokenizer"].get("lower_case", True)  # missing in format 0
        kind, extra = row["tokenizer"]["kind"], row["tokenizer"].keys() - {"kind", "lower_case"}
        known = kind in TOKENIZERS and subword == (kind == SubwordTokenizer.kind)
        if not known or extra or type(lower_case) is not bool:
            raise ValueError(f"tokenizer {row['tokenizer']} is unknown")
        if (path / "labels.json").exists():
            labels = _read_labels(path / "labels.json")
    except UserError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{path}: {config_file} or labels.json is damaged, or has another version ({error}). {RESTORE_HINT}"
        ) from None
    if subword:
        vocab, _, _, definition = read_tokenizer_json(path / vocab_file)
    else:
        vocab, definition = read_vocab(path / vocab_file), ""
    for file, entries, expected in (
        (vocab_file, len(vocab), config.vocab_size),
        ("labels.json", len(labels) if labels else config.num_labels, config.num_labels),
    ):
        if entries != expected:
            raise UserError(
                f"{path}: {file} has {entries} entries, but {config_file} says {expected}. One was changed. "
                f"{RESTORE_HINT}"
            )
    return ModelDir(config, labels, vocab, max_length, {}, lower_case, kind, definition)


def _read_labels(path: Path) -> LabelSet:
    try:
        return LabelSet.from_json(json.loads(path.read_text("utf-8")))
    except UserError as error:
        raise UserError(f"{path}: {error} {RESTORE_HINT}") from None


def is_model_dir(path: Path) -> bool:
    """Return whether `path` is a model directory, complete or not."""
    path = durable.current_version(path)
    return (path / "config.json").is_file() and (path / "params").is_dir()


def is_export(path: Path) -> bool:
    """Return whether a path is a folder with an ONNX or StableHLO program of this project."""
    return (path / EXPORT_CONFIG).is_file()


def write_json(path: Path, row: dict[str, Any]) -> None:
    """Write an indented JSON object."""
    path.write_text(json.dumps(row, ensure_ascii=False, indent=1) + "\n", "utf-8", newline="\n")
