"""Open a model from a model directory, from weights of another framework, or from the Hugging Face hub."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from flax_ner.model.tagging_model import cast_kernels
from flax_ner.weights.conversion_report import Report
from flax_ner.weights.convert import HeadPolicy, convert
from flax_ner.weights.hub import resolve
from flax_ner.weights.model_dir import ModelDir, is_export, is_model_dir, load_model
from flax_ner.weights.source import SUFFIXES, holds_weights, open_source


def open_model(
    path: str | Path,
    field: str,
    vocab: str = "",
    defaults: Mapping[str, Any] | None = None,
    head: HeadPolicy = "keep",
    for_inference: bool = False,
    compute_dtype: str | None = None,
) -> tuple[ModelDir, Report | None]:
    """Load a model from a model directory, from PyTorch weights, or from a repository with either.

    Args:
        path: directory, file, or repository `owner/name[@revision]` on the Hugging Face hub.
        field: option or argument that holds `path`, for messages.
        vocab: see `open_source`; ignored for a model directory.
        defaults, head: see `convert`; ignored for a model directory.
        for_inference, compute_dtype: see `load_model`.

    Returns:
        The model, and the conversion report; the report of a model directory is None.

    Raises:
        UserError: there is no such model, or it cannot be read or converted.
    """
    local = resolve(path, field)
    if is_native(local):
        return load_model(local, for_inference, compute_dtype), None
    model, report = convert(open_source(local, vocab or None), None, defaults, head)
    if compute_dtype:
        model.config = replace(model.config, compute_dtype=compute_dtype)
    if for_inference:
        model.params = cast_kernels(model.config, model.params)
    return model, report


def is_native(path: Path) -> bool:
    """Return whether to read a path as a model directory.

    True also for a folder without weights, so that the error says which files are missing.
    """
    return is_model_dir(path) or (path.is_dir() and not holds_weights(path))


def is_model(path: Path) -> bool:
    """Return whether a path looks like a model: a model directory, an export, or weights."""
    if path.is_dir():
        return is_model_dir(path) or is_export(path) or holds_weights(path)
    return path.is_file() and path.suffix in SUFFIXES
