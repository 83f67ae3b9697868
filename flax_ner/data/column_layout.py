"""Find the columns of the tokens and of the tags: from the header, the options or the content."""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import NamedTuple

from flax_ner.data.files import DataFile
from flax_ner.data.tagged import (
    DASHES,
    OUTSIDE,
    has_categories,
    is_prefixed_tag,
    is_tag_sequence,
    outside_tags,
)
from flax_ner.errors import UserError

TOKEN_NAMES = ("token", "tokens", "word", "words", "form", "char", "text", "text_a", "sentence")
TAG_NAMES = (
    "tag",
    "tags",
    "label",
    "labels",
    "ner",
    "ner_tag",
    "ner_tags",
    "bio",
    "iob",
    "ner_label",
    "ne",
    "entity",
    "named_entity",
    "iob_tag",
)
# Syntactic chunks of CoNLL-2000 and CoNLL-2003: tags, but not of entities.
_CHUNKS = frozenset(
    ["NP", "VP", "PP", "ADVP", "ADJP", "SBAR", "PRT", "CONJP", "INTJ", "LST", "UCP", "NC", "VC"]
)
EXCEL_SEPARATOR = "sep="  # starts a line that Excel puts before the header
_QUOTED = re.compile('"([^"]|"")*"')
_ID = re.compile(r"[0-9]+([-.][0-9]+)?")
Row = tuple[str, ...]  # the columns of a line


class Layout(NamedTuple):
    """Where the tokens and tags of a file stand.

    Attributes:
        token: index of the column of the tokens.
        tag: index of the column of the tags.
        width: number of columns.
        names: names of the columns; () without a header.
        text: index of a column that names the text of each token, None if there is none.
        quoted: whether fields separated by tabs were quoted, see `has_quoted_fields`.
    """

    token: int
    tag: int
    width: int
    names: tuple[str, ...] = ()
    text: int | None = None
    quoted: bool = False

    def describe(self) -> str:
        """Return the columns for a message, "" for the usual ones."""
        quotes = ", quotes around fields removed" if self.quoted else ""
        if not self.names and (self.token, self.tag) == (0, self.width - 1):
            return quotes
        token, tag = (
            repr(self.names[i]) if self.names else str(i + 1) for i in (self.token, self.tag)
        )
        texts = "" if self.text is None else f", texts by column {self.text + 1}"
        return f", tokens in column {token}, tags in column {tag}{texts}{quotes}"


def split_columns(line: str) -> list[str]:
    """Split a line into columns. In a line of spaces and a tag, the token is a space."""
    line = line.rstrip("\r\n")
    if "\xa0" in line and not {" ", "\t"} & set(line):
        line = line.replace("\xa0", " ")
    if "\t" in line:
        return line.rstrip(" ").split("\t")
    if "  " not in line:
        return line.strip(" ").split(" ")
    columns = re.split(" +", line.strip(" "))
    return [" ", *columns] if len(columns) == 1 and line.startswith("  ") else columns


def has_quoted_fields(lines: Iterable[str]) -> bool:
    """Return whether lines of columns separated by tabs are quoted as spreadsheets do it.

    Every field that contains a quotation mark must then be in quotes, with the marks within it doubled, and one
    must need its quotes, or all fields have quotes. A token of one or two quotation marks shows that the file
    is not quoted.
    """
    needs_quotes = has_plain = has_empty = has_quoted = False
    for line in lines:
        if line.startswith("# ") or not line.strip():
            continue
        for field in line.strip(" \r\n").split("\t"):
            if '"' not in field:
                has_plain = True
            elif not _QUOTED.fullmatch(field):
                return False
            else:
                has_quoted = True
                has_empty = has_empty or len(field) == 2  # or a token of two marks
                # A spreadsheet puts only such fields in quotes. A quoted word may be a token.
                needs_quotes = needs_quotes or any(mark in field[1:-1] for mark in '",;')
    if not has_plain:
        return has_quoted
    return needs_quotes and not has_empty


def unquote(field: str) -> str:
    """Return the content of a field of `has_quoted_fields`, stripped as the cells of CSV are."""
    if not field.startswith('"'):
        return field
    content = field[1:-1].replace('""', '"')
    return content.strip() or content


def looks_like_columns(lines: Sequence[str]) -> bool:
    """Return whether most lines may be tokens and their tags."""
    rows = [split_columns(line) for line in lines]
    tagged = sum(len(row) > 1 and any(map(_is_tag, row[1:])) for row in rows)
    if tagged * 2 <= len(rows):
        return False
    if any(len(row) > 1 and any(map(is_prefixed_tag, row[1:])) for row in rows):
        return True
    return sum(len(row) > 1 and row[-1] == "O" for row in rows) * 2 > len(rows)


def looks_like_sentences(lines: Sequence[str]) -> bool:
    """Return whether most lines may be the tokens of a sentence, a tab, and as many tags."""
    rows = [split_columns(line) for line in lines if "\t" in line]
    tagged = [
        row for row in rows if any(is_tagged_sentence(cell, row[-1], " ") for cell in row[:-1])
    ]
    return len(tagged) * 2 > len(lines) and any(
        is_prefixed_tag(tag) for row in tagged for tag in row[-1].split(" ")
    )


def is_tagged_sentence(tokens: str, tags: str, separator: str) -> bool:
    """Return whether two cells are the tokens and the tags of a sentence, joined by a separator."""
    return tokens.count(separator) == tags.count(separator) and is_tag_sequence(
        tags.split(separator)
    )


def looks_like_io(lines: Sequence[str]) -> bool:
    """Return whether all lines may be tokens and their categories without a prefix, or O."""
    rows = [split_columns(line) for line in lines]
    return (
        len({len(row) for row in rows}) == 1
        and len(rows[0]) > 1
        and _has_categories(Counter(row[-1] for row in rows))
    )


def _is_tag(cell: str) -> bool:
    return cell in OUTSIDE | DASHES or is_prefixed_tag(cell)


def find_header(line: str, columns: Sequence[str] = ()) -> tuple[str, list[str]] | None:
    """Return the separator and the column names of a header, None if the line is none.

    Args:
        line: the first line of a file.
        columns: columns that the user named. With a name among them, the line is a header if it has the name.
    """
    line = line.removeprefix("\ufeff").strip("\r\n")
    if line.startswith("#") and not columns:
        return None
    named = {column for column in columns if column and not column.isdecimal()}
    for separator in ("\t", ",", ";", "|"):
        names = [name.strip().strip('"').strip() for name in line.split(separator)]
        lower = [name.lower() for name in names]
        if len(set(lower)) < len(lower) or len(names) == 1:
            continue
        if named & set(names) or (set(TAG_NAMES) & set(lower) and set(TOKEN_NAMES) & set(lower)):
            return separator, names
    return None


def find_layout(file: DataFile, sentences: Sequence[list[Row]], names: tuple[str, ...]) -> Layout:
    """Return where tokens and tags stand: as the options say, the header, or the content.

    Raises:
        UserError: it is not clear which column has the tags.
    """
    widths = Counter(len(row) for sentence in sentences for row in sentence)
    width = len(names) or (widths.most_common(1)[0][0] if widths else 2)
    rows = [row for sentence in sentences for row in sentence if len(row) == width]
    counted = width > 2 and bool(rows) and all(_is_token_index(s, width) for s in sentences)
    token, tag = (
        _column_index(file, column, names, width) if column else None
        for column in file.options.columns or ("", "")
    )
    lower = [name.lower() for name in names]
    if tag is None and names:
        usual_tags = [lower.index(name) for name in TAG_NAMES if name in lower]
        with_prefix = [i for i in usual_tags if _has_tags(Counter(row[i] for row in rows))]
        tag = (with_prefix or usual_tags)[0] if usual_tags else None
    if token is None and names:
        usual = [lower.index(name) for name in TOKEN_NAMES if name in lower]
        token = next((i for i in usual if i != tag), None)
    text = 0 if width > 2 and _names_texts(rows) and 0 not in (token, tag) and not names else None
    if token is None and text == 0:
        token = 1
    if token is None and not counted and width > 2 and _has_ids(rows):
        raise UserError(
            f"{file.path}: column 1 has numbers. Name the columns of the tokens and tags, e.g. --token-column "
            f"2 --tag-column {width} (in training --config.data.columns=\"('2', '{width}')\")."
        )
    if token is None:
        token = int(counted)
    if tag is None:
        tag = _find_tag_column(file, rows, width, token, counted)
    _check_prefix_column(file, rows, tag, names)
    return Layout(token, tag, width, names, text)


def _check_prefix_column(file: DataFile, rows: list[Row], tag: int, names: tuple[str, ...]) -> None:
    """Raise `UserError` if the prefixes of the tags have a column of their own."""
    if _has_tags(Counter(row[tag] for row in rows)):
        return
    for i in range(len(rows[0]) if rows else 0):
        cells = {row[i] for row in rows}
        if i != tag and {"B", "O"} <= cells <= {*"BIOESMULW", ""}:
            name = repr(names[i]) if names else str(i + 1)
            raise UserError(
                f"{file.path}: column {name} has the prefixes B, I and O, and another the categories. Join "
                "both into tags such as B-NAME."
            )


def _find_tag_column(file: DataFile, rows: list[Row], width: int, token: int, counted: bool) -> int:
    """Return the index of the column that has the tags, judging by its content.

    Raises:
        UserError: several columns have tags, or one that is not the last.
    """
    cells = {i: Counter(row[i] for row in rows) for i in range(token + 1, width)}
    found = [i for i in cells if _has_tags(cells[i])]
    found = found or [i for i in cells if _has_categories(cells[i])]
    last = width - 1
    if not found or found == [last]:  # without tags, each line is reported
        return last
    if last in found and all(has_chunks(cells[i]) for i in found if i != last):
        return last
    # In GermEval, a token number comes first; outer and inner entities follow the token. Universal NER has a
    # token number, the token, its tag and two more columns.
    if counted and (len(found) == 1 or width == 4):
        return found[0]
    places = " and ".join(f"column {i + 1}" for i in found)
    raise UserError(
        f"{file.path}: which column has the tags? Of {width} columns, it could be {places}. Name the columns "
        f"with --token-column {token + 1} --tag-column {found[0] + 1} "
        f"(in training --config.data.columns=\"('{token + 1}', '{found[0] + 1}')\")."
    )


def _column_index(file: DataFile, column: str, names: tuple[str, ...], width: int) -> int:
    """Return the index of a column that the user named.

    Raises:
        UserError: the file does not have this column.
    """
    if column.isdecimal():
        if 1 <= int(column) <= width:
            return int(column) - 1
        raise UserError(f"{file.path}: no column {column}. The file has {width} columns.")
    if column not in names:
        known = f"Its header has {', '.join(names)}." if names else "The file has no header."
        raise UserError(f"{file.path}: no column named {column!r}. {known}")
    return names.index(column)


def _is_token_index(sentence: list[Row], width: int) -> bool:
    """Return whether the first column counts the tokens of a sentence, from 0 or 1."""
    numbers = [row[0] for row in sentence if len(row) == width and not row[0].startswith("#")]
    return numbers in ([str(i + first) for i in range(len(numbers))] for first in (0, 1))


def _has_ids(rows: list[Row]) -> bool:
    """Return whether the first column has a number on every line."""
    return all(_ID.fullmatch(row[0]) for row in rows)


def _names_texts(rows: list[Row]) -> bool:
    """Return whether the first column names the text of each token: the lines of a name follow each other."""
    runs = sum(before[0] != row[0] for before, row in pairwise(rows)) + 1
    names = {row[0] for row in rows}
    words = {row[1] for row in rows}
    numbered = all(any(map(str.isdigit, name)) for name in names)
    return (
        runs == len(names)
        and len(rows) >= max(4 if numbered else 20, 2 * runs)
        and 2 * len(words) >= len(rows)
    )


def _has_tags(cells: Counter[str]) -> bool:
    """Return whether most cells are tags with a prefix, or outside of entities, and some have a prefix."""
    prefixed = sum(count for cell, count in cells.items() if is_prefixed_tag(cell))
    outside = sum(cells[cell] for cell in outside_tags(cells))
    return prefixed > 0 and (prefixed + outside) * 2 > cells.total()


def _has_categories(cells: Counter[str]) -> bool:
    """Return whether the cells may be categories without a prefix (IO)."""
    return has_categories(cells) and len(cells) <= max(3, min(100, cells.total() // 2 + 1))


def has_chunks(cells: Counter[str]) -> bool:
    categories = {cell[2:] for cell in cells if is_prefixed_tag(cell)}
    return bool(categories) and len(categories & _CHUNKS) * 2 > len(categories)
