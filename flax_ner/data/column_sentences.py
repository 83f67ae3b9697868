"""Read the lines of a file of columns as sentences: CoNLL, TSV and CSV.

Columns are separated by tabs, by spaces, or as in CSV if the first line is a header. `-DOCSTART-` lines
separate documents. A line that starts with "#", stands before a sentence and has no tag is a comment.
"""

import csv
import io
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

from flax_ner.data.column_layout import (
    EXCEL_SEPARATOR,
    TOKEN_NAMES,
    Layout,
    Row,
    find_header,
    find_layout,
    has_quoted_fields,
    is_tagged_sentence,
    split_columns,
    unquote,
)
from flax_ner.data.files import ConversionWarnings, DataFile
from flax_ner.data.tagged import OUTSIDE, TAG, is_prefixed_tag
from flax_ner.errors import UserError
from flax_ner.text.utf8 import Line, decode_line, iterate_lines

TEXT_COMMENT = "# text = "
DOCUMENT_BOUNDARY = "-DOCSTART-"
SEPARATOR = "\x02"  # between the tokens of a sentence in one cell, as PaddleNLP has them
# Columns that name the sentence or text of a token, in lower case and without punctuation.
SENTENCE_NAMES = re.compile(
    "((sent(ence)?|s|doc(ument)?|tweet|text|utterance|paragraph)(id|idx|index|no|nr|num|number)"
    "|sent(ence)?|doc(ument)?|句子|句子id)"
)


class _Sources(Sequence[str]):
    """The `file:line` of each token of a sentence, made when it is asked for."""

    def __init__(self, path: Path, numbers: Sequence[int]):
        self.path = path
        self.numbers = numbers

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, index: Any) -> Any:
        return f"{self.path}:{self.numbers[index]}"


@dataclass
class Sentence:
    rows: list[Row]
    sources: _Sources
    text: str | None = None  # of the comment, if there is one


def _ends_in_tag(line: str) -> bool:
    columns = split_columns(line)
    if len(columns) == 2 and (columns[1] in OUTSIDE or is_prefixed_tag(columns[1])):
        return True
    return len(columns) > 1 and bool(TAG.fullmatch(columns[-1]))


def read_sentences(
    file: DataFile,
) -> tuple[list[tuple[str, "Sentence | UserError"]], str, Layout]:
    """Return the sentences (or errors) with their sources, the separator of a header or "", and the layout."""
    lines = iterate_lines(file.path, file.options.encoding)
    first = next((line for line in lines if line.strip() and not _is_excel_separator(line)), "")
    header = find_header(first, file.options.columns) if isinstance(first, str) else None
    if header:
        records, quoted = _csv_sentences(file, header)
    else:
        records, quoted = _parse_blocks(file)
    sentences = [record for _, record in records if isinstance(record, Sentence)]
    layout = find_layout(file, [s.rows for s in sentences], tuple(header[1]) if header else ())
    layout = layout._replace(quoted=quoted)
    for sentence in sentences:
        _drop_comment_rows(sentence, layout, file.warnings)
    if layout.text is not None:
        column = layout.text
        records = [
            part
            for source, record in records
            for part in (
                [(s.sources[0], s) for s in _split_texts(record, column)]
                if isinstance(record, Sentence)
                else [(source, record)]
            )
        ]
    separator = _cell_separator(sentences, layout)
    if separator:
        records = [
            part
            for source, record in records
            for part in (
                _split_cells(record, layout, separator)
                if isinstance(record, Sentence)
                else [(source, record)]
            )
        ]
    return records, header[0] if header else "", layout


def _blocks(file: DataFile) -> Iterator[list[tuple[int, Line]]]:
    """Yield the numbered lines between blank lines and document boundaries."""
    block: list[tuple[int, Line]] = []
    for number, line in enumerate(iterate_lines(file.path, file.options.encoding), 1):
        # Lines are bytes if the file is not valid UTF-8.
        blank, boundary = (
            (not line.strip(" \t\r"), line[:10].upper() == DOCUMENT_BOUNDARY)
            if isinstance(line, str)
            else (not line.strip(b" \t\r"), line.startswith(DOCUMENT_BOUNDARY.encode()))
        )
        if boundary:
            file.warnings.add(
                f"document boundaries ({DOCUMENT_BOUNDARY}), left out", f"{file.path}:{number}"
            )
        if not blank and not boundary:
            block.append((number, line))
        elif block:
            yield block
            block = []
    if block:
        yield block


def _parse_blocks(file: DataFile) -> tuple[list[tuple[str, Sentence | UserError]], bool]:
    """Return the sentences (or errors) with their sources, and whether fields were quoted."""
    known: dict[str, Row] = {}
    parsed = [_parse_block(file, block, known) for block in _blocks(file)]
    records = [record for record in parsed if record]
    quoted = has_quoted_fields(known)
    if quoted:
        unquoted = {row: tuple(sys.intern(unquote(cell)) for cell in row) for row in known.values()}
        for _, record in records:
            if isinstance(record, Sentence):
                record.rows = [unquoted[row] for row in record.rows]
    return records, quoted


def _parse_block(
    file: DataFile, block: Sequence[tuple[int, Line]], known: dict[str, Row]
) -> tuple[str, Sentence | UserError] | None:
    """Return the source and the sentence of a block, or the error of its first unreadable line.

    None: the block has only comments.

    `known` has the columns of lines that occurred before. Equal lines share them, which saves memory and time.
    """
    sentence = Sentence([], _Sources(file.path, ()))
    for number, line in block:
        if not isinstance(line, str):
            try:
                line = decode_line(line, f"{file.path}:{number}")
            except UserError as error:
                return str(file.path), error
        if (
            not sentence.rows
            and number > 1
            and line.startswith("\ufeff")
            and len(line.split()[0]) > 1
        ):
            # Files with a mark each were concatenated. A mark that is a token of its own is kept.
            file.warnings.add("byte order marks within the file, left out", f"{file.path}:{number}")
            line = line.removeprefix("\ufeff")
        if not sentence.rows and line.startswith("# "):
            if line.startswith(TEXT_COMMENT):
                sentence.text = line.removeprefix(TEXT_COMMENT).removesuffix("\r")
                continue
            if not _ends_in_tag(line):
                file.warnings.add("comments, left out", f"{file.path}:{number}")
                continue
        row = known.get(line)
        if row is None:
            *front, last = split_columns(line)
            row = known[line] = tuple(map(sys.intern, (*front, last.strip() or last)))
        if not sentence.rows:
            sentence.sources.numbers = range(number, block[-1][0] + 1)
        sentence.rows.append(row)
    if sentence.text is not None and not sentence.rows:
        return str(file.path), UserError(
            f"{file.path}:{block[0][0]}: a text without tokens. Write them on the lines after it, or delete it."
        )
    return (sentence.sources[0], sentence) if sentence.rows else None


def _drop_comment_rows(sentence: Sentence, layout: Layout, warnings: ConversionWarnings) -> None:
    """Drop rows before a sentence that start with "#" and do not have the columns of the file."""
    while (
        len(sentence.rows) > 1
        and sentence.rows[0][0].startswith("#")
        and len(sentence.rows[0]) != layout.width
    ):
        warnings.add("comments, left out", sentence.sources[0])
        del sentence.rows[0]
        sentence.sources.numbers = sentence.sources.numbers[1:]


def _csv_sentences(
    file: DataFile, header: tuple[str, list[str]]
) -> tuple[list[tuple[str, Sentence | UserError]], bool]:
    """Return the sentences of a file with a header, and whether fields of TSV were quoted."""
    lines = [decode_line(line, f"{file.path}:{i}") for i, line in enumerate(file.lines(), 1)]
    quoted = header[0] == "\t" and has_quoted_fields(lines)
    return list(_divide_rows(file, header, "\n".join(lines), quoted)), quoted


def _divide_rows(
    file: DataFile, header: tuple[str, list[str]], text: str, quoted: bool
) -> Iterator[tuple[str, Sentence | UserError]]:
    """Yield the sentences of the text of a file: divided by blank rows, or by a column that names them."""
    separator, names = header
    lower = [name.lower() for name in names]
    has_word = any(name in lower for name in TOKEN_NAMES if name != "sentence")
    text_columns = [
        i for i, name in enumerate(lower)
        if SENTENCE_NAMES.fullmatch(re.sub(r"[\W_]+", "", name)) and (name != "sentence" or has_word)
    ]  # fmt: skip
    raw = separator == "\t" and not quoted
    quoting: Literal[0, 3] = csv.QUOTE_NONE if raw else csv.QUOTE_MINIMAL
    # Only \n ends a line: `splitlines` would also split at U+2028 or U+0085.
    reader = csv.reader(
        io.StringIO(text, newline="\n"), delimiter=separator, quoting=quoting, strict=True
    )
    numbers = list[int]()
    sentence = Sentence([], _Sources(file.path, numbers))
    try:
        next(row for row in reader if "".join(row).strip() and not _is_excel_separator(row[0]))
        rows = [([_clean_cell(cell) for cell in row], reader.line_num) for row in reader]
        # A number that is another on every row counts the rows.
        filled = [row for row, _ in rows if any(cell.strip() for cell in row)]
        text_columns = [
            i for i in text_columns if _repeats(row[i] for row in filled if len(row) > i)
        ]
        current = [""] * len(text_columns)
        for row, number in rows:
            if row == list(names):
                file.warnings.add("repeated headers, left out", f"{file.path}:{number}")
                continue
            named = [row[i].strip() if len(row) > i else "" for i in text_columns]
            starts = any(new and new != old for new, old in zip(named, current, strict=True))
            current = [new or old for new, old in zip(named, current, strict=True)]
            if sentence.rows and (starts or not any(cell.strip() for cell in row)):
                yield sentence.sources[0], sentence
                numbers = []
                sentence = Sentence([], _Sources(file.path, numbers))
            if any(cell.strip() for cell in row):
                sentence.rows.append(tuple(map(sys.intern, row)))
                numbers.append(number)
    except csv.Error as error:
        raise UserError(f"{file.path}:{reader.line_num}: not CSV ({error}).") from None
    if sentence.rows:
        yield sentence.sources[0], sentence


def _repeats(cells: Iterable[str]) -> bool:
    """Return whether a cell is empty or equal to the one before it."""
    return any(not after.strip() or after == before for before, after in pairwise(cells))


def _clean_cell(cell: str) -> str:
    """Strip a cell, unless it is a space."""
    return cell.strip() or cell


def _split_texts(sentence: Sentence, column: int) -> Iterator[Sentence]:
    """Divide a sentence where a column names another text."""
    first = 0
    rows, numbers = sentence.rows, sentence.sources.numbers
    for i in range(1, len(rows) + 1):
        if i == len(rows) or (len(rows[i]) > column and rows[i][column] != rows[first][column]):
            yield Sentence(rows[first:i], _Sources(sentence.sources.path, numbers[first:i]))
            first = i


def _cell_separator(sentences: Sequence[Sentence], layout: Layout) -> str | None:
    """Return what joins the tokens and tags of rows with a sentence each, None if rows hold one token."""

    def rows() -> Iterator[Row]:
        return (row for s in sentences for row in s.rows if len(row) == layout.width)

    tags = {row[layout.tag] for row in rows()}
    for separator in (SEPARATOR, " "):
        if any(separator in tag for tag in tags):
            # In a file with spaces, a row with one tag may be a token of a sentence, so it does not count.
            whole = [
                (separator == SEPARATOR or separator in row[layout.tag])
                and is_tagged_sentence(row[layout.token], row[layout.tag], separator)
                for row in rows()
            ]
            if sum(whole) * 2 > len(whole):
                return separator
    return None


def _split_cells(
    sentence: Sentence, layout: Layout, separator: str
) -> Iterator[tuple[str, Sentence | UserError]]:
    """Yield the sentence (or error) of each row of a file whose rows hold a sentence each."""
    path, text = sentence.sources.path, sentence.text
    for row, number in zip(sentence.rows, sentence.sources.numbers, strict=True):
        source, split = f"{path}:{number}", [row]
        if len(row) == layout.width:
            tokens, tags = (row[i].split(separator) for i in (layout.token, layout.tag))
            if len(tokens) != len(tags):
                message = f"{source}: {len(tokens)} tokens, but {len(tags)} tags. Give each token one tag."
                yield source, UserError(message)
                continue
            split = []
            for token, tag in zip(tokens, tags, strict=True):
                columns = [""] * layout.width
                columns[layout.token], columns[layout.tag] = token, tag
                split.append(tuple(columns))
        # A comment with a text belongs to the row after it.
        yield source, Sentence(split, _Sources(path, [number] * len(split)), text)
        text = None


def _is_excel_separator(line: Line) -> bool:
    return isinstance(line, str) and line.startswith(EXCEL_SEPARATOR)
