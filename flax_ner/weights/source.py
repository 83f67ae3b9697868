"""PyTorch weights with what lies beside them: configuration, vocabulary, tokenizer, in files or a folder."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from flax_ner.errors import UserError
from flax_ner.text.vocab import read_tokenizer_json, read_vocab, unlike_bert
from flax_ner.weights.mapped import WeightsFileError
from flax_ner.weights.names import current_names
from flax_ner.weights.safetensors_files import read_safetensors
from flax_ner.weights.torch_files import read_state_dict

# What a folder of Hugging Face keeps weights in; the first that is there is read.
WEIGHTS = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
SUFFIXES = (".pth", ".pt", ".ckpt", ".bin", ".safetensors")
INDEX = ".index.json"
CONVERSIONS = ("flax_model.msgpack", "tf_model.h5", "model.ckpt.index", "bert_model.ckpt.index")


@dataclass
class Source:
    """Weights and what is known of them; nothing but names, shapes and small files has been read.

    Attributes:
        path: of the weights, for messages.
        tensors: read-only views of the files, by current names (`current_names`).
        config: Hugging Face's `config.json`; None if there is none.
        config_path: where it was found.
        vocab: tokens by id; None if there are none.
        vocab_path: where they were found.
        lower_case: whether text is lower-cased before it is looked up.
        words: whether its own tokenizer cuts words into pieces, and not every character.
        odd: what its own tokenizer does that BERT's does not, in words; or nothing.
        max_length: tokens that it says it can read at once; None where it does not say.
    """

    path: str
    tensors: dict[str, np.ndarray]
    config: dict[str, Any] | None
    config_path: Path | None
    vocab: list[str] | None
    vocab_path: Path | None
    lower_case: bool
    words: bool
    odd: str
    max_length: int | None


def open_source(
    path: str | Path, vocab: str | Path | None = None, config: str | Path | None = None
) -> Source:
    """Open weights: a file of PyTorch or safetensors, the index of a sharded one, or a folder with them.

    Args:
        path: file or folder.
        vocab: `vocab.txt` or `tokenizer.json`; default: that in the folder, if there is one.
        config: `config.json`; likewise.

    Raises:
        UserError: what is missing or damaged, by file.
    """
    path = Path(path)
    weights = _find_weights(path) if path.is_dir() else path
    tensors = _read_shards(weights) if weights.name.endswith(INDEX) else _read(weights)
    names = current_names(tensors, str(weights))
    folder = weights.parent

    def beside(name: str) -> Path | None:
        return folder / name if (folder / name).is_file() else None

    config_path = Path(config) if config else beside("config.json")
    stated = read_json(config_path) if config_path else None
    vocab_path = Path(vocab) if vocab else beside("tokenizer.json") or beside("vocab.txt")
    told = [vocab_path] if vocab_path and vocab_path.suffix == ".json" else []
    tokenizer_json = next(iter(told), beside("tokenizer.json"))
    tokenizer_path, max_length = beside("tokenizer_config.json"), None
    # MMOCR's files have a vocab.txt alone; its tokenizer is ours.
    theirs = tokenizer_path is not None or "model_type" in (stated or {})
    tokens, lower_case, words, odd = None, True, theirs, ""
    if tokenizer_json is not None:
        tokens, lower_case, words, odd = read_tokenizer_json(tokenizer_json)
    if vocab_path is not None and vocab_path != tokenizer_json:
        tokens = read_vocab(vocab_path)
        if vocab_path == beside("vocab.txt") and (added := beside("added_tokens.json")):
            tokens += _added_tokens(added, len(tokens))
    if tokenizer_path is not None:
        row = read_json(tokenizer_path)
        lower_case = _typed(row, "do_lower_case", bool, tokenizer_path, lower_case)
        odd = " and ".join(filter(None, (odd, unlike_bert(row, lower_case))))
        max_length = _typed(row, "model_max_length", int, tokenizer_path, None)
        if max_length is not None and max_length < 3:
            raise UserError(
                f"{tokenizer_path}: model_max_length is {max_length}, less than a character."
            )
    return Source(
        str(weights),
        {name: tensors[original] for name, original in names.items()},
        stated,
        config_path,
        tokens,
        vocab_path,
        lower_case,
        words,
        odd,
        max_length,
    )


def holds_weights(folder: Path) -> bool:
    """Whether files in a folder look like weights, of a kind that can be read or not."""
    names = {path.name for path in folder.iterdir()}
    return bool(names & {*WEIGHTS, *CONVERSIONS}) or any(
        Path(name).suffix in SUFFIXES for name in names
    )


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        UserError: there is none in the file.
    """
    try:
        row = json.loads(path.read_text("utf-8-sig"))
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}).") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not JSON ({error}).") from None
    if not isinstance(row, dict):
        raise UserError(f"{path}: not a JSON object.")
    return row


def _read(path: Path) -> dict[str, np.ndarray]:
    # A safetensors file by another name has its JSON behind eight bytes; neither form of PyTorch has.
    try:
        with path.open("rb") as file:
            begins = file.read(9)[8:]
    except OSError as error:
        raise WeightsFileError(f"{path}: cannot be read ({error.strerror}).") from None
    safe = path.suffix == ".safetensors" or begins == b"{"
    return read_safetensors(path) if safe else read_state_dict(path)


def _read_shards(index: Path) -> dict[str, np.ndarray]:
    places = read_json(index).get("weight_map")
    if not isinstance(places, dict) or not all(isinstance(name, str) for name in places.values()):
        raise UserError(f"{index}: its weight_map is not a table of tensors and files.")
    tensors: dict[str, np.ndarray] = {}
    for shard in sorted(set(places.values())):
        if Path(shard).name != shard or "\\" in shard:
            raise UserError(f"{index}: {shard!r} is not a file of the same folder.")
        found = _read(index.with_name(shard))
        wanted = {name for name, place in places.items() if place == shard}
        if found.keys() != wanted:
            name = min(found.keys() ^ wanted)
            raise UserError(
                f"{index}: by it {name} {'is' if name in wanted else 'is not'} in {shard}, and the file says "
                "otherwise. Fetch the files again."
            )
        tensors |= found
    return tensors


def _find_weights(folder: Path) -> Path:
    """The weights in a folder by Hugging Face's names; safetensors before pickles."""
    found = next((folder / name for name in WEIGHTS if (folder / name).is_file()), None)
    if found is not None:
        return found
    other = next((name for name in CONVERSIONS if (folder / name).exists()), None)
    if other is not None:
        raise UserError(
            f"{folder}: has {other} only. Save the model with PyTorch first: save_pretrained(folder)."
        )
    files = sorted(path for path in folder.iterdir() if path.suffix in SUFFIXES)
    raise UserError(
        f"{folder}: has none of {', '.join(WEIGHTS)}. "
        f"Name the file itself{': ' if files else '.'}{files[0] if files else ''}"
    )


def _added_tokens(path: Path, first: int) -> list[str]:
    """Tokens that were added behind a `vocab.txt`, in the order of their ids."""
    ids = read_json(path)
    tokens = sorted(ids, key=lambda token: str(ids[token]).zfill(20))
    if [ids[token] for token in tokens] != list(range(first, first + len(tokens))):
        raise UserError(f"{path}: its ids do not go on where vocab.txt ends, at {first}.")
    return tokens


def _typed(row: dict[str, Any], name: str, kind: type, path: Path, default: Any) -> Any:
    value = row.get(name)
    if kind is int and isinstance(value, float) and value.is_integer():
        value = int(value)  # 1e30 means "no limit"
    if value is None:
        return default
    if type(value) is not kind:
        raise UserError(f"{path}: {name} is {value!r}, expected {kind.__name__}.")
    return value
