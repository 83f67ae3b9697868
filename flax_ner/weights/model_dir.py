"""A model directory: everything that a model needs to run or to start from, and nothing else.

config.json   {"format": version of this layout, "model": fields of BertConfig, "max_length": tokens,
              "tokenizer": {"kind": "char", "wordpiece" or "subword", "lower_case": true}}
labels.json   scheme and categories; absent where the model is an encoder without a head
vocab.txt     one token a line
tokenizer.json  instead of it where the tokenizer is "subword": the `tokenizers` library's
params/       float32 arrays, written by Orbax
checksums.json  SHA-256 of each of these files; directories of older versions have none
"""

import dataclasses
import glob
import json
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import jax
import numpy as np
import orbax.checkpoint as ocp
import tensorstore as ts

from flax_ner import durable
from flax_ner.errors import UserError, reason
from flax_ner.model.bert import BertConfig
from flax_ner.model.masked_lm import abstract_masked_lm_head
from flax_ner.model.tagger import Params, abstract_params, unstack_layers
from flax_ner.text.kinds import TOKENIZERS, build_tokenizer
from flax_ner.text.labels import LabelSet
from flax_ner.text.subword import SubwordTokenizer
from flax_ner.text.tokenizer import CharTokenizer, Tokenizer
from flax_ner.text.vocab import read_tokenizer_json, read_vocab, write_vocab

# Version of the layout of a model directory. Directories without a version have version 0. Version 1 only
# adds the number. Version 2 adds encoders other than BERT and tokenizer.json.
FORMAT = 2
REMAKE = "Restore it from a copy, or convert or train again into another directory."
T = TypeVar("T")
SMALL_FILES = ("config.json", "labels.json", "vocab.txt", "tokenizer.json")


@dataclass
class ModelDir:
    """What a model directory holds.

    `labels=None`: an encoder, `params` has no "head", and perhaps "masked_lm", those of `MaskedLMHead`.
    """

    config: BertConfig
    labels: LabelSet | None
    vocab: list[str]
    max_length: int  # tokens of the rows it was trained on
    params: Params
    lower_case: bool = True
    tokenizer: str = CharTokenizer.kind  # a key of TOKENIZERS
    definition: str = ""  # of the tokenizer "subword": the content of its tokenizer.json

    def build_tokenizer(self) -> Tokenizer:
        """Return what reads text for this model."""
        return build_tokenizer(self.tokenizer, self.vocab, self.lower_case, self.definition)


def save_model(path: str | Path, model: ModelDir) -> None:
    """Write a model directory; an older one of that name is replaced once the new one is on disk.

    Where `path` is a symbolic link, the link stays and the directory that it leads to is replaced. At every
    moment the old or the new one can be loaded, whole, also after a crash or a power failure.

    Layers are always stored one by one: `scan_layers` and `remat` are matters of training.

    Raises:
        UserError: something that is not a model directory is there, or there is no writing; what is
            there stays. Or `storage_path` refuses the path.
    """
    path = storage_path(path)
    if path.exists() and not is_model_dir(path) and not (path.is_dir() and not any(path.iterdir())):
        raise UserError(
            f"{path}: exists and is not a model directory. Name another; nothing was overwritten."
        )
    try:
        durable.make_folder(path.parent)
        new = durable.new_folder_name(path)
        _write(new, model)
        durable.write_checksums(new)
        durable.replace_folder(new, path)
    except (ValueError, OSError, jax.errors.JaxRuntimeError) as error:
        _remove_for_good(path.with_name(f".{path.name}.writing"))
        raise UserError(
            f"{path}: cannot be written ({reason(error)}). What was there before is whole."
        ) from error


def _remove_for_good(folder: Path) -> None:
    """Remove what Orbax left of a write that failed; others that it had begun may make files there again."""
    gone = 0
    for _ in range(50):
        gone = 0 if folder.exists() else gone + 1
        if gone == 3:
            return
        shutil.rmtree(folder, ignore_errors=True)
        time.sleep(0.1)


def _write(folder: Path, model: ModelDir) -> None:
    folder.mkdir()
    row = {
        "format": FORMAT,
        "model": dataclasses.replace(model.config, scan_layers=False, remat=False).to_json(),
        "tokenizer": {"kind": model.tokenizer, "lower_case": model.lower_case},
        "max_length": model.max_length,
    }
    write_json(folder / "config.json", row)
    if model.labels is not None:
        write_json(folder / "labels.json", model.labels.to_json())
    if model.definition:
        (folder / "tokenizer.json").write_text(model.definition, "utf-8", newline="")
    else:
        write_vocab(folder / "vocab.txt", model.vocab)
    # Float32 hardly shrinks, and compressing it takes time and as much memory again.
    options = _alone()
    handler = tree_handler(use_compression=False, multiprocessing_options=options)
    with ocp.Checkpointer(handler, multiprocessing_options=options) as checkpointer:
        # Orbax would copy NumPy arrays first; jax on a CPU takes them over. Of several processes it
        # takes no others.
        alone = jax.process_count() == 1
        params = (jax.device_put if alone else jax.device_get)(unstack_layers(model.params))
        checkpointer.save(folder / "params", args=ocp.args.PyTreeSave(params))


def storage_path(path: str | Path) -> Path:
    """Return the path under which Orbax can write: absolute, without `..` and symbolic links.

    Raises:
        UserError: it has a character that stands for others in patterns of file names. Orbax looks for
            its own files by such a pattern, and what it cannot find it leaves out without an error.
    """
    real = os.path.realpath(path)
    if glob.escape(real) != real:
        raise UserError(
            f"{real}: models and checkpoints cannot be written to a path with [, * or ?. Name another path."
        )
    return Path(real)


def tree_handler(**options: Any) -> ocp.PyTreeCheckpointHandler:
    """Orbax's of trees of arrays, but each part of an array is written by one of the devices that have it.

    Orbax would let all of them write a piece, and for that compile a program for each shape and device.
    """
    registry = ocp.type_handlers.create_type_handler_registry(
        (np.ndarray, ocp.type_handlers.NumpyHandler()),
        (jax.Array, ocp.type_handlers.ArrayHandler(use_replica_parallel=False)),
    )
    return ocp.PyTreeCheckpointHandler(type_handler_registry=registry, **options)


def _alone() -> ocp.options.MultiprocessingOptions:
    """Of several processes each reads and writes for itself: Orbax would wait for the others."""
    me = jax.process_index()
    return ocp.options.MultiprocessingOptions(
        primary_host=me, active_processes={me}, barrier_sync_key_prefix=f"process_{me}"
    )


def load_model(path: str | Path) -> ModelDir:
    """Read a model directory; parameters come as arrays on the default device.

    Raises:
        UserError: it is not a model directory, or part of it is missing or damaged.
    """
    return _read_whole(path, _load)


def _load(path: Path) -> ModelDir:
    model = _read_small_files(path)
    check_files(path)
    abstract = abstract_params(model.config)
    params = Path(os.path.realpath(path)) / "params"
    if model.labels is None:
        del abstract["head"]
        stored = stored_shapes(params)
        if not stored:
            raise UserError(f"{path}: its params are damaged. {REMAKE}")
        if "masked_lm" in stored:
            abstract["masked_lm"] = abstract_masked_lm_head(model.config)
    sharding = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    target: Any = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), abstract
    )
    try:
        # Orbax reads all arrays at once, and where one fails it leaves the others to complain on
        # standard error, later. A damaged index would fail them all: look at it first.
        files = {"driver": "file", "path": f"{params}/"}
        index = ts.KvStore.open({"driver": "ocdbt", "base": files}).result()
        index.list().result()
        with ocp.StandardCheckpointer(multiprocessing_options=_alone()) as checkpointer:
            model.params = checkpointer.restore(params, target)
    except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise UserError(
            f"{path}: its params are damaged, or of another shape than config.json and labels.json say "
            f"({reason[:200]}). {REMAKE}"
        ) from None
    return model


def stored_shapes(params: Path) -> Params:
    """The tree that a model directory's `params` holds, as it says itself; {} where that is damaged."""
    try:
        with ocp.StandardCheckpointer(multiprocessing_options=_alone()) as checkpointer:
            return checkpointer.metadata(Path(os.path.realpath(params))).item_metadata.tree or {}
    except (ValueError, KeyError, TypeError, AttributeError, OSError):  # not as Orbax left it
        return {}


def read_card(path: str | Path) -> ModelDir:
    """As `load_model`, but with no parameters.

    Raises:
        UserError: likewise.
    """
    return _read_whole(path, _read_small_files)


def _read_whole(path: str | Path, read: Callable[[Path], T]) -> T:
    """Return `read(path)`; read again where another process replaced the directory meanwhile."""
    path = Path(path)

    def version() -> bytes | None:
        file = durable.current(path) / durable.CHECKSUMS
        return file.read_bytes() if file.is_file() else None

    while True:
        before = version()
        try:
            result = read(durable.current(path))
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
        small: leave out the parameters, which take the time.

    Raises:
        UserError: a file is changed, missing, or not among those that were written.
    """
    if not (path / durable.CHECKSUMS).is_file():
        return
    damage = durable.find_damage(path, SMALL_FILES if small else None)
    if damage is None:
        files = [path / name for name in SMALL_FILES]
        if not small:
            files += (path / "params").rglob("*")
        found = {x.relative_to(path).as_posix() for x in files if x.is_file() and x.name[0] != "."}
        surplus = sorted(found - durable.read_checksums(path).keys())
        damage = f"{surplus[0]} was not written with it" if surplus else None
    if damage is not None:
        raise UserError(
            f"{path}: {damage}. {REMAKE} If this change is yours, delete its {durable.CHECKSUMS}."
        )


def _read_small_files(path: Path) -> ModelDir:
    subword = (path / "tokenizer.json").exists() and not (path / "vocab.txt").exists()
    vocab_file = "tokenizer.json" if subword else "vocab.txt"
    for name in ("config.json", vocab_file, "params"):
        if not (path / name).exists():
            raise UserError(
                f"{path}: not a model directory, it has no {name}. Training leaves them as WORKDIR/best "
                "and WORKDIR/last; python convert/torch_to_flax.py makes one from a PyTorch file."
            )
    check_files(path, small=True)
    labels = None
    try:
        row = json.loads((path / "config.json").read_text("utf-8"))
        version = row.get("format", 0)
        if type(version) is not int or version < 0:
            raise ValueError(f"format {version!r} is unknown")
        if version > FORMAT:
            raise UserError(
                f"{path}: was written by a later version of flax_ner (format {version}; this version reads "
                f"formats up to {FORMAT}). Upgrade flax_ner to read it."
            )
        config, max_length = BertConfig(**row["model"]), int(row["max_length"])
        lower_case = row["tokenizer"].get("lower_case", True)  # the first directories lack it
        kind, others = row["tokenizer"]["kind"], row["tokenizer"].keys() - {"kind", "lower_case"}
        known = kind in TOKENIZERS and subword == (kind == SubwordTokenizer.kind)
        if not known or others or type(lower_case) is not bool:
            raise ValueError(f"tokenizer {row['tokenizer']} is unknown")
        if (path / "labels.json").exists():
            labels = LabelSet.from_json(json.loads((path / "labels.json").read_text("utf-8")))
    except UserError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{path}: config.json or labels.json is damaged, or of another version ({error}). {REMAKE}"
        ) from None
    if subword:
        vocab, _, _, definition = read_tokenizer_json(path / vocab_file)
    else:
        vocab, definition = read_vocab(path / vocab_file), ""
    for file, found, wanted in (
        (vocab_file, len(vocab), config.vocab_size),
        ("labels.json", len(labels) if labels else config.num_labels, config.num_labels),
    ):
        if found != wanted:
            raise UserError(
                f"{path}: {file} has {found} entries, but config.json says {wanted}. One was changed. "
                f"{REMAKE}"
            )
    return ModelDir(config, labels, vocab, max_length, {}, lower_case, kind, definition)


def is_model_dir(path: Path) -> bool:
    """Whether a model directory is there (whole or not)."""
    path = durable.current(path)
    return (path / "config.json").is_file() and (path / "params").is_dir()


def write_json(path: Path, row: dict[str, Any]) -> None:
    """Write a JSON object for people to read, too."""
    path.write_text(json.dumps(row, ensure_ascii=False, indent=1) + "\n", "utf-8", newline="\n")
