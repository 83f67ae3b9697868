"""A model by its name on the Hugging Face hub, fetched into the hub's own cache."""

import os
import re
from contextlib import suppress
from pathlib import Path

from flax_ner.durable import current
from flax_ner.errors import UserError

# What stands beside the weights, in repositories and in our own model directories.
SMALL = (
    "config.json", "labels.json", "vocab.txt", "checksums.json",
    "tokenizer.json", "tokenizer_config.json", "added_tokens.json",
    "vocab.json", "merges.txt", "special_tokens_map.json",
)  # fmt: skip
# `*` stands for slashes too, as the hub's library matches: params/* is the whole tree.
SAFE = "model.safetensors", "model.safetensors.index.json", "model-*-of-*.safetensors", "params/*"
PICKLES = "pytorch_model.bin", "pytorch_model.bin.index.json", "pytorch_model-*-of-*.bin"
FLAX = "flax_model.msgpack", "flax_model.msgpack.index.json", "flax_model-*-of-*.msgpack"

WEIGHT_SUFFIXES = ".pth", ".pt", ".bin", ".safetensors", ".ckpt", ".h5", ".msgpack"
FILE_SUFFIXES = (*WEIGHT_SUFFIXES, ".json", ".txt")  # a missing file, not a repository
REVISION = re.compile(r"(?!.*\.\.)\w[\w./+-]*", re.ASCII)  # no way out of the cache's refs/ folder
FORMS = "Give a path that exists, or owner/name or owner/name@revision of a model on the hub."


def resolve(name: str | os.PathLike[str], field: str) -> Path:
    """Find a model: a local path as it is, otherwise a repository of the Hugging Face hub.

    Args:
        name: a path, or `owner/name[@revision]`, the revision a branch, a tag or a commit. What
            exists on disk wins. Cache, endpoint, token and offline use are the hub's own: HF_HOME,
            HF_ENDPOINT, HF_TOKEN, HF_HUB_OFFLINE.
        field: what the user set; messages begin with it.

    Returns:
        The path, or the folder of the fetched files: configuration, vocabulary and weights, a pickle
        only where there are neither safetensors nor the `params/` of a model directory, Flax weights only
        where there is no pickle either.

    Raises:
        UserError: there is no such path, and the hub has no such model or cannot give it.
    """
    text = os.fspath(name)
    path = Path(text)
    if os.path.exists(text) or current(path) != path:
        return path
    repo, at, revision = text.partition("@")
    is_file = any(part.lower().endswith(FILE_SUFFIXES) for part in (repo, revision))
    if is_file or not text.isascii() or (at and not REVISION.fullmatch(revision)):
        raise UserError(f"{field}: no file or directory {text!r}. {FORMS}")
    # Here, as the import takes a quarter of a second and most models are local. HTTPError is that of
    # httpx or httpx2, whichever this version of the library uses.
    from huggingface_hub.errors import HTTPError  # type: ignore[attr-defined]

    try:
        folder = _fetch(repo, revision or None)
    except (HTTPError, OSError, ValueError, RuntimeError) as error:  # RuntimeError: by hf_xet
        why = _explain(error, repo, revision)
        raise UserError(f"{field}: no file or directory {text!r}{why}") from error
    if folder is None:
        raise UserError(f"{field}: {_lack(repo, revision or None)}")
    return folder


def _fetch(repo: str, revision: str | None) -> Path | None:
    """The folder of the fetched files; None where the repository has no weights for us."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    def fetch(weights: tuple[str, ...], local: bool = False) -> Path | None:
        files = [*SMALL, *weights]
        folder = snapshot_download(
            repo, revision=revision, allow_patterns=files, local_files_only=local
        )
        found = any(any(Path(folder).glob(pattern)) for pattern in weights)
        return Path(folder) if found else None

    try:
        return fetch(SAFE) or fetch(PICKLES) or fetch(FLAX)
    except LocalEntryNotFoundError:
        # The hub is out of reach, and offers what the cache lacks. The cache may hold its other weights.
        with suppress(LocalEntryNotFoundError):
            if folder := fetch(PICKLES, local=True) or fetch(FLAX, local=True):
                return folder
        raise


def _explain(error: Exception, repo: str, revision: str) -> str:
    """Why the hub gave nothing, and how to mend it."""
    from huggingface_hub import constants, errors

    if isinstance(error, errors.LocalEntryNotFoundError) and isinstance(error.__cause__, Exception):
        error = error.__cause__  # why the hub could not be asked
    what = " ".join(f"{type(error).__name__}: {error}".split())
    status = error.response.status_code if isinstance(error, errors.HfHubHTTPError) else None
    cache, log_in = constants.HF_HUB_CACHE, "log in by `hf auth login` or HF_TOKEN"
    again = f"check the token, or {log_in}" if status in (401, 403) else "try again later"
    unreachable = errors.HTTPError, errors.LocalEntryNotFoundError  # type: ignore[attr-defined]
    reasons: tuple[tuple[type[Exception] | tuple[type[Exception], ...], str], ...] = (
        (errors.HFValidationError, f". {FORMS}"),
        (errors.GatedRepoError, f", and the hub's {repo!r} is gated. Ask for access at "
         f"{constants.ENDPOINT}/{repo}, and {log_in}."),
        (errors.RepositoryNotFoundError, ", and the hub has no model of that name, or a private one. "
         f"Check the spelling; for a private model, {log_in}."),
        (errors.RevisionNotFoundError, f", and the hub's {repo!r} has no revision {revision!r}. "
         "Give one of its branches or tags, or a full commit hash."),
        (errors.OfflineModeIsEnabled, f", and HF_HUB_OFFLINE is set while the hub's cache {cache} "
         "lacks all or some of that model. Unset it and run once with a connection."),
        (errors.HfHubHTTPError, f", and the hub answers HTTP {status}: {again}."),
        (unreachable, f", and the hub cannot be reached ({what}). Check the connection, and "
         "HF_ENDPOINT if it is set."),
        ((errors.FileMetadataError, ValueError), f", and {constants.ENDPOINT} does not answer as the "
         f"hub does ({what}). Check HF_ENDPOINT, the proxy, or the network's login page."),
        (Exception, f", and fetching it from the hub failed ({what}). See that its cache {cache} "
         "can be written and has room, then try again."),
    )  # fmt: skip
    return next(reason for kind, reason in reasons if isinstance(error, kind))


def _lack(repo: str, revision: str | None) -> str:
    """What a repository without weights for us has instead."""
    from huggingface_hub import get_cached_repo_tree
    from huggingface_hub.errors import CachedRepoTreeNotFoundError

    try:
        names = [file.path for file in get_cached_repo_tree(repo, revision=revision)]
    except CachedRepoTreeNotFoundError:  # out of reach, and another program filled the cache
        return f"the hub's cache has no weights of {repo!r}. Run once with a connection."
    others = [name for name in names if name.endswith(WEIGHT_SUFFIXES)]
    only = f", only {', '.join(others[:5])}" if others else ""
    return (
        f"{repo!r} on the hub has no weights for this program{only}. It needs model.safetensors, "
        "pytorch_model.bin, flax_model.msgpack, or a model directory's params/."
    )
