"""Read and write columns: one token per line with its tag, a blank line after a sentence. CoNLL, TSV and CSV.

Columns are separated by tabs, by spaces, or as in CSV if the first line is a header. A header names the columns
of the tokens and tags; else the token is in the first column, or in the second if the first counts the tokens,
and the tag is in the last. `-DOCSTART-` lines separate documents. A line that starts with "#", stands before a
sentence and has no tag is a comment. `# text = ...` stores the text of the sentence if joining its tokens does
not give it (see `tagged`).
"""

import csv
import io
import re
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, pairwise
from pathlib import Path
from typing import Any, Literal

from flax_ner.data.column_layout import (
    EXCEL_SEPARATOR,
    TOKEN_NAMES,
    Layout,
    Row,
    find_header,
    find_layout,
    has_chunks,
    split_columns,
)
from flax_ner.data.field_names import is_start_field
from flax_ner.data.files import ConversionWarnings, DataFile, space_free_names
from flax_ner.data.tagged import (
    OUTSIDE,
    TAG,
    TAG_FORM,
    TagSpelling,
    count_pieces,
    detect_scheme,
    detect_spelling,
    example_from_tags,
    has_cjk,
    is_character_level,
    is_prefixed_tag,
    is_tag_sequence,
    join_tokens,
    starts_with_cjk,
    tags_from_entities,
    token_spans,
)
from flax_ner.errors import UserError
from flax_ner.text.examples import Example
from flax_ner.text.utf8 import SURROGATES, Line, decode_line, iterate_lines

TEXT_COMMENT = "# text = "
DOCUMENT_BOUNDARY = "-DOCSTART-"
FORM = f"a token and, in the last column, its tag: {TAG_FORM}"
SEPARATOR = "\x02"  # between the tokens of a sentence in one cell, as PaddleNLP has them
TEXT_NAMES = ("text", "sentence")  # a whole text in most tables with these names
LONG_SENTENCE = 1000  # tokens
# Columns that name the sentence or text of a token, in lower case and without punctuation.
SENTENCE_NAMES = re.compile(
    "((sent(ence)?|s|doc(ument)?|tweet|text|utterance|paragraph)(id|idx|index|no|nr|num|number)"
    "|sent(ence)?|doc(ument)?|句子|句子id)"
)
_LINE_BREAKS = re.compile("[\r\n]")
# A character, or a longer token such as a URL, and its index within a word.
_SEGMENTED = re.compile(r"(.)[0-9]+|(.+)[0-9]", re.DOTALL)
SEGMENTED_SHARE = 0.9  # of the tokens that must be a character and an index


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
class _Sentence:
    rows: list[Row]
    sources: _Sources
    text: str | None = None  # of the comment, if there is one


def _ends_in_tag(line: str) -> bool:
    columns = split_columns(line)
    if len(columns) == 2 and (columns[1] in OUTSIDE or is_prefixed_tag(columns[1])):
        return True
    return len(columns) > 1 and bool(TAG.fullmatch(columns[-1]))


def read_conll(file: DataFile) -> tuple[list[Example], str]:
    """Read columns. Their places, the tag scheme and the kind of tokens are detected from the whole file.

    Returns:
        The examples, and a description of the file for messages.

    Raises:
        UserError: a sentence is unreadable (see `DataFile.collect`), or it is not clear which column has
            the tags. The message names file and line.
    """
    records, separator, layout = _read_sentences(file)
    sentences = [record for _, record in records if isinstance(record, _Sentence)]

    def column(index: int) -> Iterator[list[str]]:  # of every sentence, without damaged rows
        return ([row[index] for row in s.rows if len(row) == layout.width] for s in sentences)

    tags = Counter(chain.from_iterable(column(layout.tag)))
    spelling = detect_spelling(tags)
    normal = {tag: spelling.normalize(tag) for tag in tags}
    segmented = _is_segmented(column(layout.token))
    character_level = segmented or is_character_level(column(layout.token))
    if layout.names and not file.options.columns:
        _check_tags_of_table(file.path, layout, tags, spelling)
    scheme = file.options.tag_scheme or detect_scheme(
        [normal[tag] or "O" for tag in sentence] for sentence in column(layout.tag)
    )
    left_out = layout.width - 2
    if has_chunks(tags):
        file.warnings.add(
            "tags of syntactic chunks such as NP and VP, read as entities", str(file.path)
        )
    if (
        spelling.name == "x"
        and not layout.names
        and sentences
        and sentences[0].sources[0].endswith(":1")
    ):
        first_row = sentences[0].rows[0]
        file.warnings.add(
            "first line read as a token; if it is a header, name its columns with --token-column and "
            "--tag-column (data.columns)",
            sentences[0].sources[0],
            len(first_row) == layout.width
            and tags[first_row[layout.tag]] == 1
            and all(
                count > 1
                for tag, count in tags.items()
                if tag not in OUTSIDE | {first_row[layout.tag]}
            ),
        )
    if len(sentences) == 1 and len(sentences[0].rows) > LONG_SENTENCE:
        file.warnings.add(
            "lines without a blank line or a sentence column, read as one sentence",
            str(file.path),
            len(sentences[0].rows),
        )

    def make_example(sentence: _Sentence, source: str) -> Example:
        row_tags = [
            _check_row(row, layout, normal, sentence.sources, i)
            for i, row in enumerate(sentence.rows)
        ]
        words = [row[layout.token] for row in sentence.rows]
        file.warnings.add("tokens like pieces of words, kept as words", source, count_pieces(words))
        file.warnings.add(
            f"extra columns, left out ({left_out} per token)", source, (left_out > 0) * len(words)
        )
        if segmented:
            file.warnings.add(
                "digits after characters (the index in the word), left out", source, len(words)
            )
            words = [_without_index(word) for word in words]
        return example_from_tags(
            words,
            sentence.text,
            row_tags,
            sentence.sources,
            scheme,
            character_level,
            file.warnings,
        )

    examples = file.collect(records, make_example, f"on each line {FORM.rstrip('.')}", "sentences")
    kind = {"": "CoNLL columns", "\t": "TSV"}.get(separator, "CSV")
    spelled = "" if spelling.usual else f", tags spelled {_example_tag(tags)}"
    characters = "characters" if character_level else "words"
    return examples, f"{kind} of {characters}, {scheme}{layout.describe()}{spelled}"


def _read_sentences(
    file: DataFile,
) -> tuple[list[tuple[str, "_Sentence | UserError"]], str, Layout]:
    """Return the sentences (or errors) with their sources, the separator of a header or "", and the layout."""
    lines = iterate_lines(file.path, file.options.encoding)
    first = next((line for line in lines if line.strip() and not _is_excel_separator(line)), "")
    header = find_header(first, file.options.columns) if isinstance(first, str) else None
    records = list(_csv_sentences(file, header)) if header else _parse_blocks(file)
    sentences = [record for _, record in records if isinstance(record, _Sentence)]
    layout = find_layout(file, [s.rows for s in sentences], tuple(header[1]) if header else ())
    for sentence in sentences:
        _drop_comment_rows(sentence, layout, file.warnings)
    if layout.text is not None:
        column = layout.text
        records = [
            part
            for source, record in records
            for part in (
                [(s.sources[0], s) for s in _split_texts(record, column)]
                if isinstance(record, _Sentence)
                else [(source, record)]
            )
        ]
    if not header and not any(SEPARATOR in s.rows[0][-1] for s in sentences[:1]):
        return records, "", layout
    split = [s for sentence in sentences for s in _split_cells(sentence, layout)]
    return [(s.sources[0], s) for s in split], header[0] if header else "", layout


def _check_tags_of_table(
    path: Path, layout: Layout, tags: Counter[str], spelling: TagSpelling
) -> None:
    """Raise `UserError` if a table with a header has something else in place of tags.

    That is one label per text, spans in JSON or in columns of their own, or numbers.
    """
    no_tags = not any(tag in OUTSIDE or is_prefixed_tag(tag) for tag in tags)
    in_json = any(tag.startswith(("[", "{")) for tag in tags)
    if no_tags and (in_json or any(map(is_start_field, layout.names))):
        raise UserError(
            f"{path}: the column {layout.names[layout.tag]!r} has {_example_tag(tags)[:40]}, not the tag of a "
            "token. Export the annotations as JSON or JSONL instead."
        )
    if tags.keys() - OUTSIDE and all(map(str.isdecimal, tags)):
        raise UserError(
            f"{path}: the tags in column {layout.names[layout.tag]!r} are numbers. Replace them by their "
            "names, such as B-NAME and O."
        )
    if layout.names[layout.token].lower() in TEXT_NAMES and spelling.name == "x":
        raise UserError(
            f"{path}: has one label per text. Entities need a tag per token, or spans of the text."
        )


def _example_tag(tags: Counter[str]) -> str:
    tag = next((tag for tag, _ in tags.most_common() if tag not in OUTSIDE), "0")
    return repr(tag)


def _check_row(
    row: Row, layout: Layout, normal: Mapping[str, str | None], sources: Sequence[str], index: int
) -> str:
    """Return the normalized tag of the row `index` of a sentence after checking its columns."""
    if len(row) == layout.width and row[layout.token] and "\n" not in row[layout.token]:
        tag = normal.get(row[layout.tag])
        if tag is not None:
            return tag
    source = sources[index]
    if len(row) == 1:
        raise UserError(f"{source}: only one column, {row[0][:40]!r}. Expected {FORM}")
    if len(row) != layout.width:
        raise UserError(
            f"{source}: {len(row)} columns, but the file has {layout.width}. Separate columns by tabs if "
            "tokens contain spaces."
        )
    if "\n" in row[layout.token]:
        raise UserError(
            f'{source}: a token with a line break. A quotation mark in CSV is written """"; one alone joins '
            "lines."
        )
    if not row[layout.token]:
        raise UserError(f"{source}: no token in column {layout.token + 1}. Expected {FORM}")
    hint = ""
    if index == 0 and sources[0].endswith(":1") and len(row) > 1 and not layout.names:
        hint = (
            f" If this line is a header, name the columns: --token-column {row[0]!r} --tag-column {row[-1]!r} "
            "(data.columns)."
        )
    column = f" in column {layout.names[layout.tag]!r}" if layout.names else ""
    raise UserError(
        f"{source}: {row[layout.tag][:40]!r}{column} is not a tag. Expected {TAG_FORM}{hint}"
    )


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


def _parse_blocks(file: DataFile) -> list[tuple[str, _Sentence | UserError]]:
    known: dict[str, Row] = {}
    parsed = (_parse_block(file, block, known) for block in _blocks(file))
    return [record for record in parsed if record]


def _parse_block(
    file: DataFile, block: Sequence[tuple[int, Line]], known: dict[str, Row]
) -> tuple[str, _Sentence | UserError] | None:
    """Return the source and the sentence of a block, or the error of its first unreadable line.

    None: the block has only comments.

    `known` has the columns of lines that occurred before. Equal lines share them, which saves memory and time.
    """
    sentence = _Sentence([], _Sources(file.path, ()))
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


def _drop_comment_rows(sentence: _Sentence, layout: Layout, warnings: ConversionWarnings) -> None:
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
) -> Iterator[tuple[str, _Sentence | UserError]]:
    """Yield the sentences of a file with a header: divided by blank rows, or by a column that names them."""
    separator, names = header
    lower = [name.lower() for name in names]
    has_word = any(name in lower for name in TOKEN_NAMES if name != "sentence")
    text_columns = [
        i for i, name in enumerate(lower)
        if SENTENCE_NAMES.fullmatch(re.sub(r"[\W_]+", "", name)) and (name != "sentence" or has_word)
    ]  # fmt: skip
    text = "\n".join(
        decode_line(line, f"{file.path}:{i}") for i, line in enumerate(file.lines(), 1)
    )
    quoting: Literal[0, 3] = csv.QUOTE_NONE if separator == "\t" else csv.QUOTE_MINIMAL
    # Only \n ends a line: `splitlines` would also split at U+2028 or U+0085.
    reader = csv.reader(
        io.StringIO(text, newline="\n"), delimiter=separator, quoting=quoting, strict=True
    )
    numbers = list[int]()
    sentence = _Sentence([], _Sources(file.path, numbers))
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
                sentence = _Sentence([], _Sources(file.path, numbers))
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
    """Strip a cell, unless it is a space. A quotation mark that pandas wrote for TSV is undone."""
    return '"' if cell == '""""' else cell.strip() or cell


def _split_texts(sentence: _Sentence, column: int) -> Iterator[_Sentence]:
    """Divide a sentence where a column names another text."""
    first = 0
    rows, numbers = sentence.rows, sentence.sources.numbers
    for i in range(1, len(rows) + 1):
        if i == len(rows) or (len(rows[i]) > column and rows[i][column] != rows[first][column]):
            yield _Sentence(rows[first:i], _Sources(sentence.sources.path, numbers[first:i]))
            first = i


def _split_cells(sentence: _Sentence, layout: Layout) -> Iterator[_Sentence]:
    """Yield the sentences of rows that hold one each, tokens joined by a separator; or the sentence itself."""
    rows = [row for row in sentence.rows if len(row) == layout.width]
    separator = next(
        (
            s
            for s in (SEPARATOR, " ")
            if any(s in row[layout.tag] for row in rows)
            and all(_holds_sentence(row, layout, s) for row in rows)
        ),
        None,
    )
    if separator is None:
        yield sentence
        return
    path = sentence.sources.path
    for row, number in zip(sentence.rows, sentence.sources.numbers, strict=True):
        if len(row) != layout.width:
            yield _Sentence([row], _Sources(path, [number]))
            continue
        cells = zip(
            row[layout.token].split(separator), row[layout.tag].split(separator), strict=True
        )
        split = []
        for token, tag in cells:
            columns = [""] * layout.width
            columns[layout.token], columns[layout.tag] = token, tag
            split.append(tuple(columns))
        yield _Sentence(split, _Sources(path, [number] * len(split)))


def _holds_sentence(row: Row, layout: Layout, separator: str) -> bool:
    tags = row[layout.tag].split(separator)
    return len(tags) == len(row[layout.token].split(separator)) and is_tag_sequence(tags)


def _without_index(token: str) -> str:
    match = _SEGMENTED.fullmatch(token)
    return (match[1] or match[2]) if match else token


def _is_excel_separator(line: Line) -> bool:
    return isinstance(line, str) and line.startswith(EXCEL_SEPARATOR)


def _is_segmented(sentences: Iterable[Sequence[str]]) -> bool:
    """Return whether tokens are characters with their index within a word behind them, as in Weibo NER."""
    cjk = first = indexed = total = 0
    for token in chain.from_iterable(sentences):
        total += 1
        match = _SEGMENTED.fullmatch(token)
        indexed += bool(match and match[1])
        cjk += starts_with_cjk(token)
        first += token[1:] == "0"
    return indexed > SEGMENTED_SHARE * total and cjk * 2 > total and first > 0


def write_conll(
    path: Path, examples: Sequence[Example], warnings: ConversionWarnings, scheme: str = "BIO"
) -> None:
    """Write CoNLL columns: a token, a space, a tag. Tokens are characters if any text has CJK, else words.

    A sentence gets a `# text = ...` line if joining its tokens does not give its text.

    Args:
        path: path of the file.
        examples: unlabelled examples are left out.
        warnings: receives what columns cannot represent.
        scheme: tag scheme, one of `tagged.SCHEMES`.

    Raises:
        UserError: two categories would get the same name, as tags contain no spaces, or no example
            can be written.
    """
    split_characters = has_cjk(examples)
    sentences = []
    names = space_free_names(examples, warnings)
    for example in examples:
        if example.entities is None:
            warnings.add("unlabelled texts, left out", example.source)
            continue
        text = _to_single_line(example, warnings)
        spans = token_spans(text, example.entities, split_characters)
        if not spans:
            warnings.add("texts without tokens, left out", example.source)
            continue
        entities = tuple(e._replace(type=names[e.type]) for e in example.entities)
        tags = tags_from_entities(Example(text, entities, example.source), spans, scheme, warnings)
        sentences.append((text, [text[a:b] for a, b in spans], tags))
    if not sentences:
        raise UserError("nothing to write as conll: no text has both labels and tokens.")
    character_level = is_character_level(tokens for _, tokens, _ in sentences)
    with open(path, "w", encoding="utf-8", newline="\n") as file:
        for text, tokens, tags in sentences:
            if join_tokens(tokens, character_level)[0] != text:
                file.write(f"{TEXT_COMMENT}{text}\n")
            elif file.tell() == 0 and text.startswith("\ufeff"):
                # Readers drop the first character as a byte order mark, so write it twice.
                file.write("\ufeff")
            file.writelines(f"{token} {tag}\n" for token, tag in zip(tokens, tags, strict=True))
            file.write("\n")


def _to_single_line(example: Example, warnings: ConversionWarnings) -> str:
    """Replace line breaks and lone surrogates of the text one by one, so that offsets stay valid."""
    text, breaks = _LINE_BREAKS.subn(" ", example.text)
    text, surrogates = SURROGATES.subn("\ufffd", text)
    warnings.add("line breaks, written as spaces", example.source, breaks)
    warnings.add("lone surrogates, written as U+FFFD", example.source, surrogates)
    return text
