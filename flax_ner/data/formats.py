"""Read and write data sets in any supported format.

An error in the data is a `UserError` that names the file and the line.
"""

import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from flax_ner.data.brat import read_brat, write_brat
from flax_ner.data.cluener import read_cluener_file, write_cluener
from flax_ner.data.columns import read_conll, write_conll
from flax_ner.data.detection import (
    COLUMN_SUFFIXES,
    JSON_SUFFIXES,
    describe_start,
    detect_folder_format,
    detect_format,
    format_by_name,
    unknown_format_hint,
)
from flax_ner.data.files import (
    ConversionWarnings,
    DataFile,
    ReadOptions,
    checked_entity,
    collect,
    without_duplicates,
)
from flax_ner.data.label_studio import read_label_studio, write_label_studio, write_predictions
from flax_ner.data.span_rows import SPAN_FORMATS, read_spans, write_doccano, write_prodigy
from flax_ner.data.synthetic import synthetic
from flax_ner.data.tables import download_split, read_table
from flax_ner.data.token_rows import read_token_rows, write_token_rows
from flax_ner.durable import replace_file
from flax_ner.errors import UserError
from flax_ner.text.examples import Example
from flax_ner.text.utf8 import Line, decode_line, read_lines, read_text_lines

Reader = Callable[[DataFile], tuple[Iterable[Example], str]]
Writer = Callable[[Path, Sequence[Example], ConversionWarnings], None]


def read(source: str | Path, data_format: str = "auto", **options: Any) -> list[Example]:
    """Read a data set in any format.

    Args:
        source: path of a file or folder, or a split on the hub, see `download_split`.
        data_format: one of `FORMATS`; "auto" detects it from the content.
        **options: fields of `ReadOptions`.

    Returns:
        The examples in the order of the file. `entities` is None for a text without labels.

    Raises:
        UserError: the data cannot be read. The message names file and line.
    """
    return read_examples(str(source), data_format, options=ReadOptions(**options))


def write(
    path: str | Path, examples: Sequence[Example], data_format: str, scheme: str = "BIO"
) -> None:
    """Write a data set, see `write_examples`. What the format cannot represent is left out."""
    write_examples(path, examples, data_format, scheme)


def read_examples(
    source: str,
    data_format: str,
    field: str = "data",
    skipped: list[str] | None = None,
    notes: list[str] | None = None,
    options: ReadOptions = ReadOptions(),  # noqa: B008  (immutable)
) -> list[Example]:
    """Read a data set.

    Args:
        source: path of a file, or of a folder if its format has folders; or a split on the hub, see
            `download_split`. For the format `synthetic` the split and the number of sentences to generate,
            e.g. "train 4000".
        data_format: one of `FORMATS`; `auto` detects the format from the content.
        field: config field or argument that `source` came from, for messages.
        skipped: list to which the error of each unreadable record (line, sentence, task, document) is
            appended. If None, the first error is raised.
        notes: list to which the detected format and the information that was dropped are appended.
        options: how to read a file whose content does not tell.

    Returns:
        The examples in the order of the file.

    Raises:
        UserError: the file does not exist, the format is unknown, a record is unreadable, or no
            record is readable.
    """
    return collect(stream_examples(source, data_format, field, skipped, notes, options))


def stream_examples(
    source: str,
    data_format: str,
    field: str = "data",
    skipped: list[str] | None = None,
    notes: list[str] | None = None,
    options: ReadOptions = ReadOptions(),  # noqa: B008  (immutable)
) -> Iterator[Example]:
    """Read a data set one example at a time.

    JSON lines with texts and spans, and brat documents, are read as they are needed. All other formats, JSON
    arrays, UIE, and files in another encoding are read as a whole.

    Args:
        source, data_format, field, skipped, options: see `read_examples`.
        notes: see `read_examples`; complete when the last example has been read.

    Raises:
        UserError: see `read_examples`. Some errors are raised only when their record is reached.
    """
    if data_format not in FORMATS:
        raise UserError(
            f"data.format: {data_format!r} is unknown. Choose one of {', '.join(FORMATS)}."
        )
    if data_format == "synthetic":
        match source.split():
            case [split, count] if count.isdigit():
                yield from synthetic(split, int(count))
                return
        raise UserError(
            f"{field}: {source!r} is not a synthetic data set. Give the split and the number of sentences, "
            'e.g. "train 4000" or "dev 500". For your own files set data.format=auto, data.train and '
            "data.dev."
        )
    paths = download_split(source) if source.startswith("hub:") else [Path(source)]
    warnings, unlabelled, empty = (ConversionWarnings() for _ in range(3))
    is_labelled = has_entities = False
    for path in paths:
        if not path.is_file() and not (data_format in ("auto", *FOLDER_FORMATS) and path.is_dir()):
            raise UserError(
                f"{field}: no file {source!r}. {_CLUENER_HINT if source in DEFAULT_CLUENER_FILES else ''}"
                f"Give a file in one of the formats {', '.join(READERS)} (see docs/your_data.md)."
            )
        name: str | None = data_format
        if data_format == "auto":
            name = detect_format(path, options.encoding)
            name = name or ("conll" if options.columns and path.is_file() else None)
        if options.columns and name not in (None, "conll"):
            raise UserError(
                f"{path}: looks like {name}, which has no numbered columns. Leave out --token-column and "
                "--tag-column (data.columns)."
            )
        if name is None:
            raise _unknown_format_error(path, options)
        examples, description = READERS[name](DataFile(path, options, skipped, warnings))
        for example in examples:
            unlabelled.add("texts without labels", example.source, example.entities is None)
            empty.add("texts without characters", example.source, not example.text.strip())
            is_labelled = is_labelled or example.entities is not None
            has_entities = has_entities or bool(example.entities)
            yield example
    if notes is not None:
        encoding = f" in {options.encoding}" if options.encoding else ""
        notes.append(f"{field}: {source} is read as {description}{encoding}.")
        lines = (*unlabelled.lines(), *empty.lines(), *warnings.lines())
        notes += [f"{field}: {line}" for line in lines]
        if not has_entities and (is_labelled or warnings.lines()):
            notes.append(f"{field}: no text in {source} has an entity.")


def _unknown_format_error(path: Path, options: ReadOptions) -> UserError:
    if path.is_dir():
        parts = [part.name for part in sorted(path.iterdir()) if detect_folder_format(part)]
        if parts:
            return UserError(
                f"{path}: has its data in the subfolders {', '.join(parts)}. Give one of them, e.g. "
                f"{path / parts[0]}."
            )
        suffixes = (".txt", *JSON_SUFFIXES, *COLUMN_SUFFIXES)
        files = sorted(
            part.name
            for part in path.iterdir()
            if part.suffix.lower() in suffixes
            and part.is_file()
            and part.name != "dataset_info.json"
        )
        if files:
            return UserError(
                f"{path}: has the files {', '.join(files[:5])}, which are not documents of brat. Give one of "
                f"them, e.g. {path / files[0]}."
            )
        return UserError(
            f"{path}: contains no documents. Expected pairs of files NAME.txt and NAME.ann, or files of "
            "save_to_disk."
        )
    for number, line in enumerate(read_lines(path, options.encoding), 1):
        decode_line(line, f"{path}:{number}")  # the encoding may be the reason
    start = describe_start(path, options.encoding)
    if start == "nothing":
        return UserError(f"{path}: contains no examples. The file is empty.")
    return UserError(
        f"{path}: its format is unknown. It starts with {start}.{unknown_format_hint(path, options.encoding)} "
        "docs/your_data.md shows every form that can be read. --from (data.format) names the format of a "
        "damaged file."
    )


def read_texts(
    source: str,
    field: str = "texts",
    skipped: list[str] | None = None,
    notes: list[str] | None = None,
    options: ReadOptions = ReadOptions(),  # noqa: B008  (immutable)
) -> list[Example]:
    """Read texts from plain text (one per line) or from a data file, depending on the file name.

    Args:
        source: path of a file, or of a folder if its format has folders. `format_by_name` decides
            whether it is a data file.
        field: config field or argument that `source` came from, for messages.
        skipped: see `read_examples`.
        notes: see `read_examples`; also receives the number of blank lines, which are left out.
        options: see `read_examples`.

    Returns:
        Examples. Those of a data file keep their entities.

    Raises:
        UserError: the file does not exist, a line is unreadable, or no line is readable.
    """
    path = Path(source)
    if not path.exists():
        raise UserError(
            f"{field}: no file {source!r}. Give a file with one text per line, or data in any format."
        )
    data_format = format_by_name(path)
    if data_format:
        return read_examples(source, data_format, field, skipped, notes, options)
    file = DataFile(path, options, skipped)

    def make_example(line: Line, line_source: str) -> Example | None:
        text = decode_line(line, line_source)
        file.warnings.add("blank lines, left out", line_source, not text.strip())
        return Example(text, None, line_source) if text.strip() else None

    lines = read_text_lines(path, options.encoding)
    records = ((f"{path}:{number}", line) for number, line in enumerate(lines, 1))
    examples = collect(file.convert(records, make_example, "one text per line"))
    if notes is not None:
        notes.append(f"{field}: {source} is read as plain text, one text per line.")
        notes += [f"{field}: {line}" for line in file.warnings.lines()]
    return examples


def write_examples(
    path: str | Path,
    examples: Sequence[Example],
    data_format: str,
    scheme: str = "BIO",
    predicted: bool = False,
) -> list[str]:
    """Write a data set. If writing fails, the target is left unchanged.

    Args:
        path: path of the file; for `brat` of a folder that does not exist yet.
        examples: labelled or unlabelled examples.
        data_format: one of `WRITERS`.
        scheme: tag scheme of `conll`, one of `tagged.SCHEMES`.
        predicted: whether a model predicted the entities. `label_studio` then gets predictions with scores
            instead of annotations.

    Returns:
        One line for each kind of information that the format cannot represent, with its count and
        first occurrence.

    Raises:
        UserError: the format is unknown, the target exists and is not a file, or an entity is not
            within its text.
    """
    if data_format not in WRITERS:
        raise UserError(f"{data_format!r} cannot be written. Choose one of {', '.join(WRITERS)}.")
    path, warnings = Path(path), ConversionWarnings()
    # Only regular files are replaced, never folders or devices such as /dev/stdout.
    if path.exists() and (data_format == "brat" or not path.is_file()):
        raise UserError(f"{path}: already exists. Choose another name, or remove it.")
    if not path.absolute().parent.is_dir():
        raise UserError(f"{path}: the folder {str(path.parent)!r} does not exist. Create it first.")
    checked = []
    for example in examples:
        entities = example.entities and tuple(
            checked_entity(e.type, e.start, e.end, example.text, example.source)
            for e in example.entities
        )
        scored = sum(e.score != 1.0 for e in example.entities or ())
        if not predicted:
            warnings.add("scores of entities, left out", example.source, scored)
        if entities:
            entities = without_duplicates(entities, example.source, warnings)
        checked.append(Example(example.text, entities, example.source))
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        if data_format == "conll":
            write_conll(part, checked, warnings, scheme)
        elif data_format == "label_studio" and predicted:
            write_predictions(part, examples)
        else:
            WRITERS[data_format](part, checked, warnings)
        replace_file(part, path)
    finally:
        if part.is_dir():
            shutil.rmtree(part)
        part.unlink(missing_ok=True)
    return warnings.lines()


def _span_reader(name: str) -> Reader:
    return lambda file: read_spans(file, name)


def _write_cluener(path: Path, examples: Sequence[Example], warnings: ConversionWarnings) -> None:
    write_cluener(path, examples)


READERS: dict[str, Reader] = {
    "cluener": read_cluener_file,
    "conll": read_conll,
    "label_studio": read_label_studio,
    "tokens": read_token_rows,
    "brat": read_brat,
    "table": read_table,
    **{name: _span_reader(name) for name in SPAN_FORMATS},
}
FOLDER_FORMATS = ("brat", "table")
WRITERS: dict[str, Writer] = {
    "cluener": _write_cluener,
    "conll": write_conll,
    "doccano": write_doccano,
    "label_studio": write_label_studio,
    "tokens": write_token_rows,
    "brat": write_brat,
    "prodigy": write_prodigy,
}
# Default values of data.train and data.dev.
DEFAULT_CLUENER_FILES = ("data/cluener/train.json", "data/cluener/dev.json")
_CLUENER_HINT = (
    "This is the default path of CLUENER2020; `python -m flax_ner data download cluener` puts it there. For "
    "your own data set both data.train and data.dev. "
)
FORMATS = ("auto", *READERS, "synthetic")
