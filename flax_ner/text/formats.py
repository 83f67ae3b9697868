"""The door to all data formats. A fault in the data is a `UserError` that names file and line."""

import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

from flax_ner.errors import UserError
from flax_ner.text.brat import read_brat, write_brat
from flax_ner.text.cluener import read_cluener, write_cluener
from flax_ner.text.columns import read_columns, write_columns
from flax_ner.text.doccano import read_doccano, write_doccano
from flax_ner.text.examples import Example
from flax_ner.text.files import Losses, checked_entity, collect, distinct
from flax_ner.text.label_studio import read_label_studio, write_label_studio
from flax_ner.text.recognise import format_by_name, recognise
from flax_ner.text.synthetic import synthetic
from flax_ner.text.token_rows import read_token_rows, write_token_rows
from flax_ner.text.utf8 import Line, content, decoded, text_lines

Reader = Callable[[Path, list[str] | None, Losses], tuple[list[Example], str]]
Writer = Callable[[Path, Sequence[Example], Losses], None]


def read_examples(
    source: str,
    data_format: str,
    field: str = "data",
    skipped: list[str] | None = None,
    notes: list[str] | None = None,
) -> list[Example]:
    """Read a data set.

    Args:
        source: a file (for `brat` also a folder), or for the format `synthetic` the split and the
            number of sentences to make, as in "train 4000".
        data_format: one of `FORMATS`; `auto` goes by the content.
        field: the config field or argument `source` came from, for messages.
        skipped: takes the fault of each line (sentence, task, document) that cannot be read. Without
            it the first one raises.
        notes: takes what `auto` found, and what the file has and an example has no place for.

    Raises:
        UserError: no such file, an unknown format, a line that cannot be read, or none that can.
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
            f"{field}: {source!r} is no synthetic set. Give the split and the number of sentences, "
            'as in "train 4000" or "dev 500". For files of your own set data.format=auto, data.train and '
            "data.dev."
        )
    path = Path(source)
    if not path.is_file() and not (data_format in ("auto", "brat") and path.is_dir()):
        raise UserError(
            f"{field}: no file {source!r}. {_WHERE_CLUENER_IS if source in CLUENER else ''}"
            f"Give a file of one of the formats {', '.join(READERS)} (docs/your_data.md shows them)."
        )
    found = data_format
    if data_format == "auto":
        found = recognise(path) or _likeliest(path)
    losses = Losses()
    examples, kind = READERS[found](path, skipped, losses)
    if notes is not None:
        notes += [f"{field}: {source} is read as {kind}."] if data_format == "auto" else []
        notes += [f"{field}: {line}" for line in losses.lines()]
    return examples


def read_texts(
    source: str,
    field: str = "texts",
    skipped: list[str] | None = None,
    notes: list[str] | None = None,
) -> list[Example]:
    """Read texts: plain text, one per line, or data, as the name of the file says.

    Args:
        source: a file, or the folder of a format that has one. `format_by_name` tells data.
        field, skipped: as in `read_examples`.
        notes: as in `read_examples`; also takes the blank lines of plain text, which are left out.

    Returns:
        Examples, with the entities that data have.

    Raises:
        UserError: no such file, a line that cannot be read, or none that can.
    """
    path = Path(source)
    if not path.exists():
        raise UserError(
            f"{field}: no file {source!r}. Give a file with one text per line, or data in any format."
        )
    data_format = format_by_name(path)
    if data_format:
        return read_examples(source, data_format, field, skipped, notes)
    losses = Losses()

    def example(line: Line, at: str) -> Example | None:
        text = decoded(line, at)
        losses.add("blank lines, left out", at, not text.strip())
        return Example(text, None, at) if text.strip() else None

    units = ((f"{path}:{number}", line) for number, line in enumerate(text_lines(path), 1))
    read = collect(units, example, skipped, f"{path}: holds no texts. One per line is expected.")
    if notes is not None:
        notes.append(f"{field}: {source} is read as plain text, one text per line.")
        notes += [f"{field}: {line}" for line in losses.lines()]
    return read


def _likeliest(path: Path) -> str:
    """The format whose reader says best what is wrong with a file that is of none."""
    if path.is_dir():
        return "brat"
    return "label_studio" if content(path).lstrip().startswith(b"[") else "cluener"


def write_examples(
    path: str | Path, examples: Sequence[Example], data_format: str, scheme: str = "BIO"
) -> list[str]:
    """Write a data set, whole or not at all.

    Args:
        path: the file; for `brat` a folder that is not there yet.
        examples: with entities, or unlabelled.
        data_format: one of `WRITERS`.
        scheme: of the tags of `conll`, one of `tagged.SCHEMES`.

    Returns:
        What the format cannot hold, a line a kind, with how often and where first.

    Raises:
        UserError: an unknown format, a folder in the way, or an entity that is not in its text.
    """
    if data_format not in WRITERS:
        raise UserError(f"{data_format!r} cannot be written. Choose one of {', '.join(WRITERS)}.")
    path, losses = Path(path), Losses()
    # Nothing but a file is replaced: no folder, and no device such as /dev/stdout.
    if path.exists() and (data_format == "brat" or not path.is_file()):
        raise UserError(f"{path}: is there already. Choose another name, or remove it.")
    if not path.absolute().parent.is_dir():
        raise UserError(f"{path}: no folder {str(path.parent)!r} to write to.")
    checked = []
    for example in examples:
        entities = example.entities and tuple(
            checked_entity(e.type, e.start, e.end, example.text, example.source)
            for e in example.entities
        )
        scored = sum(e.score != 1.0 for e in example.entities or ())
        losses.add("scores of entities, left out", example.source, scored)
        if entities:
            entities = distinct(entities, example.source, losses)
        checked.append(Example(example.text, entities, example.source))
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        if data_format == "conll":
            write_columns(part, checked, losses, scheme)
        else:
            WRITERS[data_format](part, checked, losses)
        part.replace(path)
    finally:
        if part.is_dir():
            shutil.rmtree(part)
        part.unlink(missing_ok=True)
    return losses.lines()


def _read_cluener(
    path: Path, skipped: list[str] | None, losses: Losses
) -> tuple[list[Example], str]:
    return read_cluener(path, skipped, losses), "CLUENER JSON lines"


def _write_cluener(path: Path, examples: Sequence[Example], losses: Losses) -> None:
    write_cluener(path, examples)


READERS: dict[str, Reader] = {
    "cluener": _read_cluener,
    "conll": read_columns,
    "doccano": read_doccano,
    "label_studio": read_label_studio,
    "tokens": read_token_rows,
    "brat": read_brat,
}
WRITERS: dict[str, Writer] = {
    "cluener": _write_cluener,
    "conll": write_columns,
    "doccano": write_doccano,
    "label_studio": write_label_studio,
    "tokens": write_token_rows,
    "brat": write_brat,
}
CLUENER = ("data/cluener/train.json", "data/cluener/dev.json")  # where it is looked for by default
_WHERE_CLUENER_IS = (
    "That is where CLUENER2020 is looked for when nothing else is named; `python -m flax_ner data download "
    "cluener` puts it there. With data of your own set both data.train and data.dev. "
)
FORMATS = ("auto", *READERS, "synthetic")
