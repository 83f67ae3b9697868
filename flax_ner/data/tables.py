"""Read data sets of Hugging Face: Parquet files, folders of `save_to_disk`, and splits on the hub.

The names of numbered tags are in the schema. Rows have tokens and tags, or a text and spans, as in JSON.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from flax_ner.data.files import DataFile
from flax_ner.data.json_rows import ParsedValue
from flax_ner.data.span_rows import SPAN_FORMATS, examples_from_span_rows, format_of_span_row
from flax_ner.data.token_rows import (
    ClassNames,
    examples_from_token_rows,
    find_class_names,
    find_token_fields,
)
from flax_ner.errors import UserError, import_optional
from flax_ner.text.examples import Example

HUB = re.compile(r"hub:(?P<name>[\w.-]+/[\w.-]+)(@(?P<revision>[\w./-]+))?:(?P<split>[\w.-]+)")
# The branch on which the hub keeps a Parquet copy of every data set.
PARQUET_BRANCH = "refs/convert/parquet"


def is_table(path: Path) -> bool:
    """Return whether a path is a Parquet or Arrow file, or a folder of `save_to_disk`."""
    if path.is_dir():
        return any(path.glob("*.arrow")) or any(path.glob("*.parquet"))
    return path.suffix.lower() in (".parquet", ".arrow")


def read_table(file: DataFile) -> tuple[list[Example], str]:
    """Read Parquet or Arrow files.

    Returns:
        The examples, and a description of the file for messages.

    Raises:
        UserError: pyarrow is missing, a file is damaged, or a row is unreadable (see `DataFile.collect`).
            The message names file and row.
    """
    paths = _table_files(file.path)
    names = ClassNames(paths[0], _schema_names(paths[0]))
    records = list(_rows(paths))
    rows = [row for _, row in records]
    title = "Parquet" if paths[0].suffix == ".parquet" else "Arrow"
    if rows and find_token_fields(rows[0]):
        examples, description = examples_from_token_rows(file, records, names)
        return examples, f"{title}, {description}"
    name = next((n for n in map(format_of_span_row, rows) if n in SPAN_FORMATS), "spans")
    parsed = [(source, ParsedValue(row)) for source, row in records]
    examples, description = examples_from_span_rows(file, lambda: parsed, name)
    return examples, f"{title}, {description}"


def _table_files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    files = sorted(path.glob("*.arrow")) or sorted(path.glob("*.parquet"))
    splits = {re.split(r"[-.]", file.name)[0] for file in files}
    if len(splits) > 1:
        raise UserError(
            f"{path}: has files of several splits ({', '.join(sorted(splits))}). Give one file, or a folder "
            "with one split."
        )
    return files


def _open(path: Path) -> Any:
    """Return the pyarrow table of a file."""
    pyarrow = import_optional("pyarrow", str(path), "pyarrow>=15")
    parquet = import_optional("pyarrow.parquet", str(path), "pyarrow>=15")
    try:
        if path.suffix.lower() == ".parquet":
            return parquet.read_table(path)
        with pyarrow.memory_map(str(path)) as source:
            try:
                return pyarrow.ipc.open_stream(source).read_all()
            except pyarrow.ArrowInvalid:
                return pyarrow.ipc.open_file(source).read_all()
    except (OSError, pyarrow.ArrowException) as error:
        raise UserError(
            f"{path}: not a {path.suffix[1:]} file ({error}). Download it again."
        ) from None


def _rows(paths: list[Path]) -> Iterator[tuple[str, dict[str, Any]]]:
    for path in paths:
        number = 0
        for batch in _open(path).to_batches():
            for row in batch.to_pylist():
                number += 1
                yield f"{path}: row {number}", row


def _schema_names(path: Path) -> dict[str, list[str]]:
    """Return the names of numbered tags that the schema has, by field."""
    metadata = _open(path).schema.metadata or {}
    try:
        features = json.loads(metadata[b"huggingface"])["info"]["features"]
    except (KeyError, ValueError, TypeError):
        return {}
    found = {field: next(find_class_names(feature), None) for field, feature in features.items()}
    return {field: names for field, names in found.items() if names}


def download_split(source: str) -> list[Path]:
    """Return the files of `hub:owner/name[@revision]:split`, downloaded into the cache of the hub.

    Parquet files of the repository are used if it has any for the split, else the hub's own Parquet copy.

    Raises:
        UserError: `source` does not have this form, or the data set or split cannot be downloaded.
    """
    from huggingface_hub import HfApi, hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled, RepositoryNotFoundError

    match = HUB.fullmatch(source)
    if not match:
        raise UserError(f"{source!r} does not have the form hub:owner/name[@revision]:split.")
    name, split = match["name"], match["split"]
    try:
        for revision in (match["revision"], None if match["revision"] else PARQUET_BRANCH):
            files = HfApi().list_repo_files(name, repo_type="dataset", revision=revision)
            chosen = [file for file in sorted(files) if _is_split(file, split)]
            if chosen:
                return [
                    Path(hf_hub_download(name, file, repo_type="dataset", revision=revision))
                    for file in chosen
                ]
            if match["revision"]:
                break
    except RepositoryNotFoundError:
        raise UserError(f"{source}: there is no data set {name!r} on the hub.") from None
    except (HfHubHTTPError, OfflineModeIsEnabled, OSError) as error:
        raise UserError(f"{source}: cannot be downloaded ({error}).") from None
    raise UserError(f"{source}: the data set has no Parquet files of a split {split!r}.")


def _is_split(file: str, split: str) -> bool:
    parts = re.split(r"[/.-]", file)
    return file.endswith(".parquet") and split in parts
