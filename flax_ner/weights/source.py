"""Open weights of other frameworks with the configuration, vocabulary and tokenizer beside them."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from flax_ner.errors import UserError
from flax_ner.text.subword import ROBERTA_TOKENS, roberta_definition
from flax_ner.text.vocab import (
    adds_prefix_space,
    describe_bert_differences,
    parse_tokenizer_json,
    read_tokenizer_json,
    read_vocab,
)
from flax_ner.weights.flax_files import as_pytorch, read_flax_file
from flax_ner.weights.mapped import WeightsFileError
from flax_ner.weights.names import current_names
from flax_ner.weights.safetensors_files import read_safetensors
from flax_ner.weights.torch_files import read_state_dict

# Weights files in a Hugging Face folder; the first that exists is read.
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
UNSUPPORTED_WEIGHTS = ("tf_model.h5", "model.ckpt.index", "bert_model.ckpt.index")


@dataclass
class Source:
    """Weights and the files beside them. Tensors are mapped, not read.

    Attributes:
        path: path of the weights, for messages.
        tensors: read-only views of the files, by current names (`current_names`).
        config: Hugging Face's `config.json`; None if there is none.
        config_path: path of `config`.
        vocab: tokens in the order of their ids; None if there is no vocabulary.
        vocab_path: path of `vocab`.
        lower_case: whether text is lower-cased before the lookup.
        kind: key of `TOKENIZERS`, the tokenizer that the weights were trained with.
        definition: content of `tokenizer.json`, for the kind `subword`; else "".
        tokenizer_differences: what the original tokenizer does and this one does not, for messages; "" if
            nothing.
        max_length: `model_max_length` of the tokenizer; None if not stated.
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
    tokenizer_differences: str
    max_length: int | None


def open_source(
    path: str | Path, vocab: str | Path | None = None, config: str | Path | None = None
) -> Source:
    """Open weights of PyTorch, safetensors or Flax.

    Args:
        path: file, index of a sharded file, or folder with either.
        vocab: `vocab.txt` or `tokenizer.json`; by default the one beside the weights, if any.
        config: `config.json`; by default the one beside the weights, if any.

    Raises:
        UserError: a file is missing or damaged.
    """
    path = Path(path)
    weights = _find_weights(path) if path.is_dir() else path
    tensors = _read_shards(weights) if weights.name.endswith(INDEX) else _read(weights)
    if weights.name.removesuffix(INDEX).endswith(FLAX):
        tensors = as_pytorch(tensors)
    names = current_names(tensors, str(weights))
    default = weights.with_name("config.json")
    config_path = Path(config) if config else default if default.is_file() else None
    stated = read_json(config_path) if config_path else None
    return Source(
        str(weights),
        {name: tensors[original] for name, original in names.items()},
        stated,
        config_path,
        *_find_tokenizer(weights.parent, vocab, "model_type" in (stated or {})),
    )


class _TokenizerFiles(NamedTuple):
    """The fields of `Source` that describe the tokenizer."""

    vocab: list[str] | None
    vocab_path: Path | None
    lower_case: bool
    kind: str
    definition: str
    tokenizer_differences: str
    max_length: int | None


def _find_tokenizer(folder: Path, vocab: str | Path | None, hugging_face: bool) -> _TokenizerFiles:
    """Read the tokenizer files beside weights.

    Args:
        folder: folder of the weights.
        vocab: see `open_source`.
        hugging_face: whether the weights come from Hugging Face. MMOCR's have only a vocab.txt.
    """

    def beside(name: str) -> Path | None:
        return folder / name if (folder / name).is_file() else None

    config_path = beside("tokenizer_config.json")
    stated = read_json(config_path) if config_path else {}
    vocab_path = Path(vocab) if vocab else beside("tokenizer.json") or beside("vocab.txt")
    given_json = vocab_path is not None and vocab_path.suffix == ".json"
    tokenizer_json = vocab_path if given_json else beside("tokenizer.json")
    merges = beside("merges.txt")
    tokens: list[str] | None = None
    lower_case, definition, tokenizer_differences, max_length = True, "", "", None
    kind = "wordpiece" if hugging_face or config_path else "char"
    if tokenizer_json is not None:
        tokens, lower_case, kind, definition = read_tokenizer_json(tokenizer_json)
    elif vocab_path is None and merges and (vocab_json := beside("vocab.json")):
        special_path = beside("special_tokens_map.json")
        special = stated | (read_json(special_path) if special_path else {})
        added = beside("added_tokens.json")
        definition = roberta_definition(
            vocab_json,
            merges,
            {role: name for role in ROBERTA_TOKENS if (name := _special_token(special, role))},
            _added_tokens(added, len(read_json(vocab_json))) if added else (),
            stated.get("add_prefix_space") is True,
        )
        tokens, lower_case, kind, _ = parse_tokenizer_json(definition, str(vocab_json))
        vocab_path = tokenizer_json = vocab_json
    if vocab_path is not None and vocab_path != tokenizer_json:
        tokens, definition = read_vocab(vocab_path), ""
        kind = "wordpiece" if kind == "subword" else kind
        if vocab_path == beside("vocab.txt") and (added := beside("added_tokens.json")):
            tokens += _added_tokens(added, len(tokens))
    if config_path is not None:
        do_lower_case = _typed(stated, "do_lower_case", bool, config_path, lower_case)
        if kind == "subword":
            tokenizer_differences = _tokenizer_config_differences(stated, lower_case, definition)
        else:
            lower_case, tokenizer_differences = (
                do_lower_case,
                describe_bert_differences(stated, do_lower_case),
            )
        max_length = _typed(stated, "model_max_length", int, config_path, None)
        if max_length is not None and max_length < 3:
            raise UserError(
                f"{config_path}: model_max_length is {max_length}. It must be at least 3 ([CLS], token, [SEP])."
            )
    return _TokenizerFiles(
        tokens, vocab_path, lower_case, kind, definition, tokenizer_differences, max_length
    )


def _tokenizer_config_differences(stated: dict[str, Any], lower_case: bool, definition: str) -> str:
    """Return where a `tokenizer_config.json` contradicts the `tokenizer.json`, which takes precedence."""
    differences = []
    if stated.get("do_lower_case") is not None and stated["do_lower_case"] != lower_case:
        differences.append(f"has do_lower_case {stated['do_lower_case']}")
    space = stated.get("add_prefix_space")
    if space is not None and space != adds_prefix_space(definition, space):
        differences.append(f"has add_prefix_space {space}")
    return " and ".join(differences)


def _special_token(stated: dict[str, Any], role: str) -> str | None:
    """Return the special token of a role ("cls", "pad", ...) in one of the tokenizer's JSON files, or None."""
    token = stated.get(f"{role}_token")
    token = token.get("content") if isinstance(token, dict) else token
    return token if isinstance(token, str) else None


def holds_weights(folder: Path) -> bool:
    """Return whether a folder holds files that look like weights, supported or not."""
    names = {path.name for path in folder.iterdir()}
    return bool(names & {*WEIGHTS, *UNSUPPORTED_WEIGHTS}) or any(
        Path(name).suffix in SUFFIXES for name in names
    )


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        UserError: the file cannot be read or is not a JSON object.
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
    # Detect safetensors under another name: JSON follows eight bytes, which no PyTorch file has.
    try:
        with path.open("rb") as file:
            ninth_byte = file.read(9)[8:]
    except OSError as error:
        raise WeightsFileError(f"{path}: cannot be read ({error.strerror}).") from None
    is_safetensors = path.suffix == ".safetensors" or ninth_byte == b"{"
    return read_safetensors(path) if is_safetensors else read_state_dict(path)


def _read_shards(index: Path) -> dict[str, np.ndarray]:
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not all(
        isinstance(file, str) for file in weight_map.values()
    ):
        raise UserError(f"{index}: weight_map is not an object from tensor names to file names.")
    tensors: dict[str, np.ndarray] = {}
    for shard in sorted(set(weight_map.values())):
        if Path(shard).name != shard or "\\" in shard:
            raise UserError(f"{index}: {shard!r} is not a file in the same folder.")
        loaded = _read(index.with_name(shard))
        expected = {name for name, file in weight_map.items() if file == shard}
        if loaded.keys() != expected:
            name = min(loaded.keys() ^ expected)
            problem = "has no" if name in expected else "has an unlisted"
            raise UserError(
                f"{index}: does not match {shard}, which {problem} tensor {name}. Download the files again."
            )
        tensors |= loaded
    return tensors


def _find_weights(folder: Path) -> Path:
    """Return the weights in a folder: safetensors, otherwise PyTorch's, otherwise Flax's."""
    weights = next((folder / name for name in WEIGHTS if (folder / name).is_file()), None)
    if weights is not None:
        return weights
    other = next((name for name in UNSUPPORTED_WEIGHTS if (folder / name).exists()), None)
    if other is not None:
        raise UserError(
            f"{folder}: has only {other}. Save the model with PyTorch first: save_pretrained(folder)."
        )
    files = sorted(path for path in folder.iterdir() if path.suffix in SUFFIXES)
    raise UserError(
        f"{folder}: has none of {', '.join(WEIGHTS)}. "
        f"Give the path of the file itself{': ' if files else '.'}{files[0] if files else ''}"
    )


def _added_tokens(path: Path, first: int) -> list[str]:
    """Return the tokens of an `added_tokens.json`, whose ids must continue from `first`."""
    ids = read_json(path)
    tokens = sorted(ids, key=lambda token: str(ids[token]).zfill(20))
    if [ids[token] for token in tokens] != list(range(first, first + len(tokens))):
        raise UserError(
            f"{path}: ids do not continue at {first}, after the last id of the vocabulary."
        )
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
