"""CoNLL columns: a token a line, its tag in the last column, a blank line between sentences.

Columns stand between tabs, or between spaces. `-DOCSTART-` lines part documents. A line that begins
with "# " in front of a sentence and does not end in a tag is a comment; `# text = ...` gives the
sentence's text where joining its tokens does not (see `tagged`).
"""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from flax_ner.errors import UserError
from flax_ner.text.examples import Example
from flax_ner.text.files import Losses, category_names, collect
from flax_ner.text.tagged import (
    TAG,
    example_of,
    has_cjk,
    joined,
    one_character_each,
    scheme_of,
    tags_of,
    tokenised,
)
from flax_ner.text.utf8 import Line, decoded, lines

TEXT = "# text = "
DOCUMENT = "-DOCSTART-"
FORM = "A line is a token and, in its last column, a tag: O, or B-, I- and so on with a category."
_BREAKS = re.compile("[\r\n]")
_SURROGATES = re.compile("[\ud800-\udfff]")


@dataclass
class _Sentence:
    tokens: list[str]
    tags: list[str]
    sources: list[str]
    text: str | None
    columns: list[int]


def columns_of(line: str) -> list[str]:
    """The columns of a line. A line of spaces and a tag has a space for its token."""
    line = line.rstrip("\r\n")
    if "\t" in line:
        return line.split("\t")
    columns = re.split(" +", line.strip(" "))
    return [" ", *columns] if len(columns) == 1 and line.startswith("  ") else columns


def is_tagged(line: str) -> bool:
    """Whether a line may be a token and its tag."""
    columns = columns_of(line)
    return len(columns) > 1 and bool(TAG.fullmatch(columns[-1]))


def read_columns(
    path: Path, skipped: list[str] | None, losses: Losses
) -> tuple[list[Example], str]:
    """Read CoNLL columns; the scheme, and whether tokens are characters, follow from the whole file.

    Returns:
        The examples, and what the file was found to be.

    Raises:
        UserError: with file and line, for a sentence that cannot be read (see `collect`).
    """
    units: list[tuple[str, _Sentence | UserError]] = []
    for block in _blocks(path, losses):
        try:
            sentence = _sentence(path, block, losses)
        except UserError as error:
            units.append((str(path), error))
        else:
            units.append((sentence.sources[0], sentence))
    whole = [unit for _, unit in units if isinstance(unit, _Sentence)]
    scheme = scheme_of(sentence.tags for sentence in whole)
    characters = one_character_each(sentence.tokens for sentence in whole)
    widths = Counter(width for sentence in whole for width in sentence.columns)
    width = widths.most_common(1)[0][0] if widths else 2

    def example(unit: _Sentence, _: str) -> Example:
        for found, source in zip(unit.columns, unit.sources, strict=True):
            if found != width:
                raise UserError(
                    f"{source}: {found} columns, where the file has {width}. Part columns by tabs if "
                    "tokens have spaces in them."
                )
        losses.add(f"columns besides token and tag, left out ({width - 2} a token)", unit.sources[0],
                   (width > 2) * len(unit.tokens))  # fmt: skip
        return example_of(
            unit.tokens, unit.text, unit.tags, unit.sources, scheme, characters, losses
        )

    empty = f"{path}: holds no examples. {FORM}"
    examples = collect(units, example, skipped, empty, "sentences")
    return examples, f"CoNLL columns of {'characters' if characters else 'words'}, {scheme}"


def _blocks(path: Path, losses: Losses) -> Iterator[list[tuple[int, Line]]]:
    """Numbered lines between blank lines and document boundaries."""
    block: list[tuple[int, Line]] = []
    for number, line in enumerate(lines(path), 1):
        blank, boundary = (
            (not line.strip(" \t\r"), line.startswith(DOCUMENT))
            if isinstance(line, str)
            else (not line.strip(b" \t\r"), line.startswith(DOCUMENT.encode()))
        )
        losses.add(f"boundaries of documents ({DOCUMENT})", f"{path}:{number}", boundary)
        if not blank and not boundary:
            block.append((number, line))
        elif block:
            yield block
            block = []
    if block:
        yield block


def _sentence(path: Path, block: Sequence[tuple[int, Line]], losses: Losses) -> _Sentence:
    sentence = _Sentence([], [], [], None, [])
    for number, raw in block:
        source = f"{path}:{number}"
        line = decoded(raw, source)
        if not sentence.tokens and line.startswith(TEXT):
            sentence.text = line.removeprefix(TEXT).removesuffix("\r")
            continue
        if not sentence.tokens and line.startswith("# ") and not is_tagged(line):
            losses.add("comments, left out", source)
            continue
        columns = columns_of(line)
        if len(columns) == 1:
            raise UserError(f"{source}: one column, {columns[0][:40]!r}. {FORM}")
        if not columns[0]:
            raise UserError(f"{source}: no token before the first tab. {FORM}")
        if not TAG.fullmatch(columns[-1]):
            raise UserError(f"{source}: {columns[-1][:40]!r} is no tag. {FORM}")
        sentence.tokens.append(columns[0])
        sentence.tags.append(columns[-1])
        sentence.sources.append(source)
        sentence.columns.append(len(columns))
    if not sentence.tokens:
        raise UserError(f"{path}:{block[0][0]}: a comment without a sentence. {FORM}")
    return sentence


def write_columns(
    path: Path, examples: Sequence[Example], losses: Losses, scheme: str = "BIO"
) -> None:
    """Write CoNLL columns, a token, a space and a tag: characters if any text has CJK, else words.

    A sentence whose text does not follow from its tokens gets a `# text = ...` line. `losses` takes
    what columns cannot hold.

    Raises:
        UserError: two categories would become one for want of spaces in tags, or nothing is left.
    """
    split_characters = has_cjk(examples)
    sentences = []
    names = category_names(examples, losses)
    for example in examples:
        if example.entities is None:
            losses.add("texts without labels, left out", example.source)
            continue
        text = _plain(example, losses)
        spans = tokenised(text, example.entities, split_characters)
        if not spans:
            losses.add("texts without any token, left out", example.source)
            continue
        entities = tuple(e._replace(type=names[e.type]) for e in example.entities)
        tags = tags_of(Example(text, entities, example.source), spans, scheme, losses)
        sentences.append((text, [text[a:b] for a, b in spans], tags))
    if not sentences:
        raise UserError("none of the texts has labels and a token: nothing to write as conll.")
    characters = one_character_each(tokens for _, tokens, _ in sentences)
    with open(path, "w", encoding="utf-8", newline="\n") as file:
        for text, tokens, tags in sentences:
            if joined(tokens, characters)[0] != text:
                file.write(f"{TEXT}{text}\n")
            elif file.tell() == 0 and text.startswith("\ufeff"):
                file.write("\ufeff")  # the first of two is taken for the mark of the encoding
            file.writelines(f"{token} {tag}\n" for token, tag in zip(tokens, tags, strict=True))
            file.write("\n")


def _plain(example: Example, losses: Losses) -> str:
    """The text without what a line of UTF-8 cannot hold, as long as before."""
    text, breaks = _BREAKS.subn(" ", example.text)
    text, surrogates = _SURROGATES.subn("\ufffd", text)
    losses.add("line breaks, written as spaces", example.source, breaks)
    losses.add("lone surrogates, written as U+FFFD", example.source, surrogates)
    return text
