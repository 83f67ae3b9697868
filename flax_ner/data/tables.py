"""Read data sets of Hugging Face: Parquet files, folders of `save_to_disk`, and splits on the hub.

The names of numbered tags are in the schema. Rows have tokens and tags, or a text and spans, as in JSON.
"""

import json
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
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

HUB = re.compile(
    r"hub:(?P<name>[\w.-]+/[\w.-]+)(@(?P<revision>[\w./-]+))?:((?P<config>[\w./-]+)/)?(?P<split>[\w.-]+)"
)
HUB_FORM = "hub:owner/name[@revision]:[configuration/]split"
# The branch on which the hub keeps a Parquet copy of every data set.
PARQUET_BRANCH = "refs/convert/parquet"


def is_table(path: Path) -> bool:
    """Return whether a path is a Parquet or Arrow file, or a folder of `save_to_disk`."""
    if path.is_dir():
        return any(path.glob("*.arrow")) or any(path.glob("*.parquet"))
    return path.suffix.lower() in (".parquet", ".arrow")


def read_table(file: DataFile) -> tuple[Iterable[Example], str]:
    """Read Parquet or Arrow files.

    Returns:
        The examples, and a description of the file for messages.

    Raises:
        UserError: pyarrow is missing, a file is damaged, or a row is unreadable (see `DataFile.convert`).
            The message names file and row.
    """
    paths = _table_files(file.path)
    tables = [_open(path) for path in paths]
    names = ClassNames(paths[0], _schema_names(tables[0]))
    records = list(_rows(paths, tables))
    rows = [row for _, row in records]
    title = paths[0].suffix[1:].title()
    fields = [find_token_fields(row) for row in rows]
    span_format = next((n for n in map(format_of_span_row, rows) if n in SPAN_FORMATS), "")
    tagged = any(found and row.get(found[1]) for found, row in zip(fields, rows, strict=True))
    if tagged or (all(fields) and not span_format):
        examples, description = examples_from_token_rows(file, records, names)
    else:
        parsed = [(source, ParsedValue(row)) for source, row in records]
        examples, description = examples_from_span_rows(
            file, lambda: parsed, span_format or "spans"
        )
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
    kind = path.suffix[1:].lower()
    wanted_by = f"{path}: a {kind} file"
    pyarrow = import_optional("pyarrow", wanted_by, "pyarrow>=15")
    parquet = import_optional("pyarrow.parquet", wanted_by, "pyarrow>=15")
    try:
        if kind == "parquet":
            return parquet.read_table(path)
        with pyarrow.memory_map(str(path)) as source:
            try:
                return pyarrow.ipc.open_stream(source).read_all()
            except pyarrow.ArrowInvalid:
                return pyarrow.ipc.open_file(source).read_all()
    except (OSError, pyarrow.ArrowException) as error:
        raise UserError(f"{path}: not a {kind} file ({error}). Download it again.") from None


def _rows(paths: Sequence[Path], tables: Sequence[Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for path, table in zip(paths, tables, strict=True):
        number = 0
        for batch in table.to_batches():
            for row in batch.to_pylist():
                number += 1
                yield f"{path}: row {number}", row


def _schema_names(table: Any) -> dict[str, list[str]]:
    """Return the names of numbered tags that the schema of a table has, by field."""
    metadata = table.schema.metadata or {}
    try:
        features = json.loads(metadata[b"huggingface"])["info"]["features"]
    except (KeyError, ValueError, TypeError):
        return {}
    found = {field: next(find_class_names(feature), None) for field, feature in features.items()}
    return {field: names for field, names in found.items() if names}


def download_split(source: str) -> list[Path]:
    """Return the files of a split on the hub, downloaded into the hub's cache.

    Parquet files of the repository are used if it has any for the split, else the hub's own Parquet copy.

    Args:
        source: `hub:owner/name[@revision]:[configuration/]split`.

    Raises:
        UserError: `source` does not have this form, the data set or split cannot be downloaded, or it is not
            clear which configuration is meant.
    """
    from huggingface_hub import HfApi, hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled, RepositoryNotFoundError

    match = HUB.fullmatch(source)
    if not match:
        raise UserError(f"{source!r} does not have the form {HUB_FORM}.")
    name = match["name"]
    try:
        for revision in (match["revision"], None if match["revision"] else PARQUET_BRANCH):
            files = HfApi().list_repo_files(name, repo_type="dataset", revision=revision)
            chosen = _split_files(files, match["config"], match["split"], source)
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
    wanted = source.rpartition(":")[2]
    raise UserError(f"{source}: the data set has no Parquet files of a split {wanted!r}.")


def _split_files(files: Sequence[str], config: str | None, split: str, source: str) -> list[str]:
    """Return the Parquet files of a split.

    They are named `CONFIG/SPLIT-00000-of-00001.parquet`, `CONFIG/SPLIT/0000.parquet`, or without a folder.

    Raises:
        UserError: several configurations have the split, and none is chosen.
    """
    by_config: dict[str, list[str]] = defaultdict(list)
    for file in sorted(files):
        if not file.endswith(".parquet"):
            continue
        *folders, name = file.split("/")
        if folders and folders[-1] == split:
            by_config["/".join(folders[:-1])].append(file)
        elif split in re.split(r"[.-]", name):
            by_config["/".join(folders)].append(file)
    if config or "" in by_config:
        return by_config.get(config or "", [])
    if len(by_config) > 1:
        example = f"{source.rpartition(':')[0]}:{min(by_config)}/{split}"
        raise UserError(
            f"{source}: the data set has the configurations {', '.join(sorted(by_config))}. Name one, "
            f"e.g. {example}."
        )
    return next(iter(by_config.values()), [])
