"""Find a model by path or by name on the Hugging Face hub, and download it into the hub's cache."""

import os
import re
from contextlib import suppress
from pathlib import Path

from flax_ner.durable import current_version
from flax_ner.errors import UserError

# Files beside the weights, in repositories and in model directories of flax_ner.
METADATA_FILES = (
    "config.json", "labels.json", "vocab.txt", "checksums.json",
    "tokenizer.json", "tokenizer_config.json", "added_tokens.json",
    "vocab.json", "merges.txt", "special_tokens_map.json",
)  # fmt: skip
# The hub's library lets `*` match slashes too: params/* is the whole tree.
SAFETENSORS = (
    "model.safetensors",
    "model.safetensors.index.json",
    "model-*-of-*.safetensors",
    "params/*",
)
PICKLES = "pytorch_model.bin", "pytorch_model.bin.index.json", "pytorch_model-*-of-*.bin"
FLAX = "flax_model.msgpack", "flax_model.msgpack.index.json", "flax_model-*-of-*.msgpack"

WEIGHT_SUFFIXES = ".pth", ".pt", ".bin", ".safetensors", ".ckpt", ".h5", ".msgpack"
# A name with such a suffix is a missing file, not a repository.
FILE_SUFFIXES = (*WEIGHT_SUFFIXES, ".json", ".txt")
REVISION = re.compile(r"(?!.*\.\.)\w[\w./+-]*", re.ASCII)  # cannot leave the cache's refs/ folder
FORMS = "Give a path that exists, or owner/name or owner/name@revision of a model on the hub."


def resolve(name: str | os.PathLike[str], field: str) -> Path:
    """Return the local path of a model, downloading it from the Hugging Face hub if needed.

    The hub's own settings apply: HF_HOME, HF_ENDPOINT, HF_TOKEN, HF_HUB_OFFLINE.

    Args:
        name: a path, or `owner/name[@revision]` with a branch, tag or commit as revision. An existing path
            takes precedence.
        field: option or argument that holds `name`; messages start with it.

    Returns:
        The path, or the folder of the downloaded files: configuration, vocabulary and weights. Safetensors or
        the `params/` of a model directory are preferred, then a pickle, then Flax weights.

    Raises:
        UserError: the path does not exist, and the hub does not have the model or cannot deliver it.
    """
    text = os.fspath(name)
    path = Path(text)
    if os.path.exists(text) or current_version(path) != path:
        return path
    repo, at, revision = text.partition("@")
    is_file = any(part.lower().endswith(FILE_SUFFIXES) for part in (repo, revision))
    if is_file or not text.isascii() or (at and not REVISION.fullmatch(revision)):
        raise UserError(f"{field}: no file or directory {text!r}. {FORMS}")
    # Imported here, because it takes a quarter of a second and most models are local. HTTPError comes from
    # httpx or httpx2, depending on the version of the library.
    from huggingface_hub.errors import HTTPError  # type: ignore[attr-defined]

    try:
        folder = _fetch(repo, revision or None)
    except (HTTPError, OSError, ValueError, RuntimeError) as error:  # RuntimeError: from hf_xet
        reason = _explain_hub_error(error, repo, revision)
        raise UserError(f"{field}: no file or directory {text!r}{reason}") from error
    if folder is None:
        raise UserError(f"{field}: {_explain_missing_weights(repo, revision or None)}")
    return folder


def _fetch(repo: str, revision: str | None) -> Path | None:
    """Return the folder of the downloaded files; None if the repository has no supported weights."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    def download(weights: tuple[str, ...], local: bool = False) -> Path | None:
        files = [*METADATA_FILES, *weights]
        folder = snapshot_download(
            repo, revision=revision, allow_patterns=files, local_files_only=local
        )
        has_weights = any(any(Path(folder).glob(pattern)) for pattern in weights)
        return Path(folder) if has_weights else None

    try:
        return download(SAFETENSORS) or download(PICKLES) or download(FLAX)
    except LocalEntryNotFoundError:
        # The hub cannot be reached, and the cache lacks the preferred weights. It may hold the others.
        with suppress(LocalEntryNotFoundError):
            if folder := download(PICKLES, local=True) or download(FLAX, local=True):
                return folder
        raise


def _explain_hub_error(error: Exception, repo: str, revision: str) -> str:
    """Return why the hub did not deliver, and how to fix it."""
    from huggingface_hub import constants, errors

    if isinstance(error, errors.LocalEntryNotFoundError) and isinstance(error.__cause__, Exception):
        error = error.__cause__  # the reason why the hub was not reached
    details = " ".join(f"{type(error).__name__}: {error}".split())
    status = error.response.status_code if isinstance(error, errors.HfHubHTTPError) else None
    cache, log_in = constants.HF_HUB_CACHE, "log in with `hf auth login` or HF_TOKEN"
    again = f"check the token, or {log_in}" if status in (401, 403) else "try again later"
    unreachable = errors.HTTPError, errors.LocalEntryNotFoundError  # type: ignore[attr-defined]
    reasons: tuple[tuple[type[Exception] | tuple[type[Exception], ...], str], ...] = (
        (errors.HFValidationError, f". {FORMS}"),
        (errors.GatedRepoError, f", and the hub's {repo!r} is gated. Ask for access at "
         f"{constants.ENDPOINT}/{repo}, and {log_in}."),
        (errors.RepositoryNotFoundError, ", and the hub has no model with that name, or it is private. "
         f"Check the spelling; for a private model, {log_in}."),
        (errors.RevisionNotFoundError, f", and the hub's {repo!r} has no revision {revision!r}. "
         "Give one of its branches or tags, or a full commit hash."),
        (errors.OfflineModeIsEnabled, f", and HF_HUB_OFFLINE is set while the hub's cache {cache} "
         "lacks this model or a part of it. Unset it and run once with a connection."),
        (errors.HfHubHTTPError, f", and the hub answers HTTP {status}: {again}."),
        (unreachable, f", and the hub cannot be reached ({details}). Check the connection, and "
         "HF_ENDPOINT if it is set."),
        ((errors.FileMetadataError, ValueError), f", and {constants.ENDPOINT} does not answer like "
         f"the hub ({details}). Check HF_ENDPOINT, the proxy, or the network's login page."),
        (Exception, f", and the download from the hub failed ({details}). Check that its cache {cache} "
         "can be written and has space, then try again."),
    )  # fmt: skip
    return next(reason for kind, reason in reasons if isinstance(error, kind))


def _explain_missing_weights(repo: str, revision: str | None) -> str:
    """Return a message for a repository without supported weights, with the weights that it has."""
    from huggingface_hub import get_cached_repo_tree
    from huggingface_hub.errors import CachedRepoTreeNotFoundError

    try:
        names = [file.path for file in get_cached_repo_tree(repo, revision=revision)]
    except CachedRepoTreeNotFoundError:
        # The hub is not reachable, and another program filled the cache.
        return f"the hub's cache has no weights of {repo!r}. Run once with a connection."
    others = [name for name in names if name.endswith(WEIGHT_SUFFIXES)]
    only = f", only {', '.join(others[:5])}" if others else ""
    return (
        f"{repo!r} on the hub has no supported weights{only}. Supported are model.safetensors, "
        "pytorch_model.bin, flax_model.msgpack, and the params/ of a model directory."
    )
