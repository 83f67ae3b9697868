"""Read and write data sets in any supported format.

An error in the data is a `UserError` that names the file and the line.
"""

import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

from flax_ner.data.brat import read_brat, write_brat
from flax_ner.data.cluener import read_cluener, write_cluener
from flax_ner.data.conll import read_conll, write_conll
from flax_ner.data.detection import detect_format, format_by_name
from flax_ner.data.doccano import read_doccano, write_doccano
from flax_ner.data.files import (
    ConversionWarnings,
    checked_entity,
    collect_examples,
    without_duplicates,
)
from flax_ner.data.label_studio import read_label_studio, write_label_studio
from flax_ner.data.synthetic import synthetic
from flax_ner.data.token_rows import read_token_rows, write_token_rows
from flax_ner.durable import replace_file
from flax_ner.errors import UserError
from flax_ner.text.examples import Example
from flax_ner.text.utf8 import Line, decode_line, read_bytes, read_text_lines

Reader = Callable[[Path, list[str] | None, ConversionWarnings], tuple[list[Example], str]]
Writer = Callable[[Path, Sequence[Example], ConversionWarnings], None]


def read_examples(
    source: str,
    data_format: str,
    field: str = "data",
    skipped: list[str] | None = None,
    notes: list[str] | None = None,
) -> list[Example]:
    """Read a data set.

    Args:
        source: path of a file; for `brat` a folder is possible, too. For the format `synthetic` the
            split and the number of sentences to generate, e.g. "train 4000".
        data_format: one of `FORMATS`; `auto` detects the format from the content.
        field: config field or argument that `source` came from, for messages.
        skipped: list to which the error of each unreadable record (line, sentence, task, document) is
            appended. If None, the first error is raised.
        notes: list to which the detected format and the information that was dropped are appended.

    Returns:
        The examples in the order of the file.

    Raises:
        UserError: the file does not exist, the format is unknown, a record is unreadable, or no
            record is readable.
    """
    if data_format not in FORMATS:
        raise UserError(
            f"data.format: {data_format!r} is unknown. Choose one of {', '.join(FORMATS)}."
        )
    if data_format == "synthetic":
        match source.split():
            case [split, count] if count.isdigit():
                return synthetic(split, int(count))
        raise UserError(
            f"{field}: {source!r} is not a synthetic data set. Give the split and the number of sentences, "
            'e.g. "train 4000" or "dev 500". For your own files set data.format=auto, data.train and '
            "data.dev."
        )
    path = Path(source)
    if not path.is_file() and not (data_format in ("auto", "brat") and path.is_dir()):
        raise UserError(
            f"{field}: no file {source!r}. {_CLUENER_HINT if source in DEFAULT_CLUENER_FILES else ''}"
            f"Give a file in one of the formats {', '.join(READERS)} (see docs/your_data.md)."
        )
    file_format = data_format
    if data_format == "auto":
        file_format = detect_format(path) or _fallback_format(path)
    warnings = ConversionWarnings()
    examples, description = READERS[file_format](path, skipped, warnings)
    if notes is not None:
        if data_format == "auto":
            notes.append(f"{field}: {source} is read as {description}.")
        notes += [f"{field}: {line}" for line in warnings.lines()]
    return examples


def read_texts(
    source: str,
    field: str = "texts",
    skipped: list[str] | None = None,
    notes: list[str] | None = None,
) -> list[Example]:
    """Read texts from plain text (one per line) or from a data file, depending on the file name.

    Args:
        source: path of a file, or of a folder if its format has folders. `format_by_name` decides
            whether it is a data file.
        field: config field or argument that `source` came from, for messages.
        skipped: see `read_examples`.
        notes: see `read_examples`; also receives the number of blank lines, which are left out.

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
        return read_examples(source, data_format, field, skipped, notes)
    warnings = ConversionWarnings()

    def make_example(line: Line, line_source: str) -> Example | None:
        text = decode_line(line, line_source)
        warnings.add("blank lines, left out", line_source, not text.strip())
        return Example(text, None, line_source) if text.strip() else None

    records = ((f"{path}:{number}", line) for number, line in enumerate(read_text_lines(path), 1))
    empty = f"{path}: contains no texts. Expected one text per line."
    examples = collect_examples(records, make_example, skipped, empty)
    if notes is not None:
        notes.append(f"{field}: {source} is read as plain text, one text per line.")
        notes += [f"{field}: {line}" for line in warnings.lines()]
    return examples


def _fallback_format(path: Path) -> str:
    """Return the format whose reader gives the most helpful error for a file of unknown format."""
    if path.is_dir():
        return "brat"
    return "label_studio" if read_bytes(path).lstrip().startswith(b"[") else "cluener"


def write_examples(
    path: str | Path, examples: Sequence[Example], data_format: str, scheme: str = "BIO"
) -> list[str]:
    """Write a data set. If writing fails, the target is left unchanged.

    Args:
        path: path of the file; for `brat` of a folder that does not exist yet.
        examples: labelled or unlabelled examples.
        data_format: one of `WRITERS`.
        scheme: tag scheme of `conll`, one of `tagged.SCHEMES`.

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
        warnings.add("scores of entities, left out", example.source, scored)
        if entities:
            entities = without_duplicates(entities, example.source, warnings)
        checked.append(Example(example.text, entities, example.source))
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        if data_format == "conll":
            write_conll(part, checked, warnings, scheme)
        else:
            WRITERS[data_format](part, checked, warnings)
        replace_file(part, path)
    finally:
        if part.is_dir():
            shutil.rmtree(part)
        part.unlink(missing_ok=True)
    return warnings.lines()


def _read_cluener(
    path: Path, skipped: list[str] | None, warnings: ConversionWarnings
) -> tuple[list[Example], str]:
    return read_cluener(path, skipped, warnings), "CLUENER JSON lines"


def _write_cluener(path: Path, examples: Sequence[Example], warnings: ConversionWarnings) -> None:
    write_cluener(path, examples)


READERS: dict[str, Reader] = {
    "cluener": _read_cluener,
    "conll": read_conll,
    "doccano": read_doccano,
    "label_studio": read_label_studio,
    "tokens": read_token_rows,
    "brat": read_brat,
}
WRITERS: dict[str, Writer] = {
    "cluener": _write_cluener,
    "conll": write_conll,
    "doccano": write_doccano,
    "label_studio": write_label_studio,
    "tokens": write_token_rows,
    "brat": write_brat,
}
# Default values of data.train and data.dev.
DEFAULT_CLUENER_FILES = ("data/cluener/train.json", "data/cluener/dev.json")
_CLUENER_HINT = (
    "This is the default path of CLUENER2020; `python -m flax_ner data download cluener` puts it there. For "
    "your own data set both data.train and data.dev. "
)
FORMATS = ("auto", *READERS, "synthetic")
