"""Weights with what lies beside them: configuration, vocabulary, tokenizer, in files or a folder."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from flax_ner.errors import UserError
from flax_ner.text.subword import ROBERTA_TOKENS, roberta_definition
from flax_ner.text.vocab import (
    adds_prefix_space,
    parse_tokenizer_json,
    read_tokenizer_json,
    read_vocab,
    unlike_bert,
)
from flax_ner.weights.flax_files import as_pytorch, read_flax_file
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
    "flax_model.msgpack",
    "flax_model.msgpack.index.json",
)
FLAX = ".msgpack"
SUFFIXES = (".pth", ".pt", ".ckpt", ".bin", ".safetensors", FLAX)
INDEX = ".index.json"
CONVERSIONS = ("tf_model.h5", "model.ckpt.index", "bert_model.ckpt.index")


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
        kind: which of `TOKENIZERS` reads text as its own tokenizer does.
        definition: of the kind `subword`: the content of its `tokenizer.json`.
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
    kind: str
    definition: str
    odd: str
    max_length: int | None


def open_source(
    path: str | Path, vocab: str | Path | None = None, config: str | Path | None = None
) -> Source:
    """Open weights: a file of PyTorch, safetensors or Flax, the index of a sharded one, or a folder with them.

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
    if weights.name.removesuffix(INDEX).endswith(FLAX):
        tensors = as_pytorch(tensors)
    names = current_names(tensors, str(weights))
    beside = weights.with_name("config.json")
    config_path = Path(config) if config else beside if beside.is_file() else None
    stated = read_json(config_path) if config_path else None
    return Source(
        str(weights),
        {name: tensors[original] for name, original in names.items()},
        stated,
        config_path,
        *_find_tokenizer(weights.parent, vocab, "model_type" in (stated or {})),
    )


class _FoundTokenizer(NamedTuple):
    """Fields of `Source`."""

    vocab: list[str] | None
    vocab_path: Path | None
    lower_case: bool
    kind: str
    definition: str
    odd: str
    max_length: int | None


def _find_tokenizer(folder: Path, vocab: str | Path | None, theirs: bool) -> _FoundTokenizer:
    """Read what lies beside weights and says how text is read.

    Args:
        folder: of the weights.
        vocab: as for `open_source`.
        theirs: whether the weights are known to be Hugging Face's. MMOCR's have a vocab.txt alone.
    """

    def beside(name: str) -> Path | None:
        return folder / name if (folder / name).is_file() else None

    config_path = beside("tokenizer_config.json")
    row = read_json(config_path) if config_path else {}
    vocab_path = Path(vocab) if vocab else beside("tokenizer.json") or beside("vocab.txt")
    told = [vocab_path] if vocab_path and vocab_path.suffix == ".json" else []
    tokenizer_json = next(iter(told), beside("tokenizer.json"))
    merges = beside("merges.txt")
    tokens: list[str] | None = None
    lower_case, definition, odd, max_length = True, "", "", None
    kind = "wordpiece" if theirs or config_path else "char"
    if tokenizer_json is not None:
        tokens, lower_case, kind, definition = read_tokenizer_json(tokenizer_json)
    elif vocab_path is None and merges and (vocab_json := beside("vocab.json")):
        special_path = beside("special_tokens_map.json")
        special = row | (read_json(special_path) if special_path else {})
        added = beside("added_tokens.json")
        definition = roberta_definition(
            vocab_json,
            merges,
            {role: name for role in ROBERTA_TOKENS if (name := _token_of(special, role))},
            _added_tokens(added, len(read_json(vocab_json))) if added else (),
            row.get("add_prefix_space") is True,
        )
        tokens, lower_case, kind, _ = parse_tokenizer_json(definition, str(vocab_json))
        vocab_path = tokenizer_json = vocab_json
    if vocab_path is not None and vocab_path != tokenizer_json:
        tokens, definition = read_vocab(vocab_path), ""
        kind = "wordpiece" if kind == "subword" else kind
        if vocab_path == beside("vocab.txt") and (added := beside("added_tokens.json")):
            tokens += _added_tokens(added, len(tokens))
    if config_path is not None:
        cased = _typed(row, "do_lower_case", bool, config_path, lower_case)
        if kind == "subword":
            odd = _unlike_definition(row, lower_case, definition)
        else:
            lower_case, odd = cased, unlike_bert(row, cased)
        max_length = _typed(row, "model_max_length", int, config_path, None)
        if max_length is not None and max_length < 3:
            raise UserError(
                f"{config_path}: model_max_length is {max_length}, less than a character."
            )
    return _FoundTokenizer(tokens, vocab_path, lower_case, kind, definition, odd, max_length)


def _unlike_definition(stated: dict[str, Any], lower_case: bool, definition: str) -> str:
    """Return what a `tokenizer_config.json` says otherwise than the `tokenizer.json`, which is followed."""
    odd = []
    if stated.get("do_lower_case") is not None and stated["do_lower_case"] != lower_case:
        odd.append(f"has do_lower_case {stated['do_lower_case']}")
    space = stated.get("add_prefix_space")
    if space is not None and space != adds_prefix_space(definition, space):
        odd.append(f"has add_prefix_space {space}")
    return " and ".join(odd)


def _token_of(stated: dict[str, Any], role: str) -> str | None:
    """Return the special token of a role in a `tokenizer_config.json` or `special_tokens_map.json`."""
    token = stated.get(f"{role}_token")
    token = token.get("content") if isinstance(token, dict) else token
    return token if isinstance(token, str) else None


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
    if path.suffix == FLAX:
        return read_flax_file(path)
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
    """The weights in a folder by Hugging Face's names: safetensors, else PyTorch's, else Flax's."""
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
