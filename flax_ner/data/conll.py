"""Read and write CoNLL columns: one token per line, its tag in the last column, a blank line after a sentence.

Columns are separated by tabs or by spaces. `-DOCSTART-` lines separate documents. A line before a
sentence that starts with "# " and does not end in a tag is a comment. `# text = ...` stores the text
of the sentence if joining its tokens does not give it (see `tagged`).
"""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from flax_ner.data.files import ConversionWarnings, collect_examples, space_free_names
from flax_ner.data.tagged import (
    TAG,
    detect_scheme,
    example_from_tags,
    has_cjk,
    is_character_level,
    join_tokens,
    tags_from_entities,
    token_spans,
)
from flax_ner.errors import UserError
from flax_ner.text.examples import Example
from flax_ner.text.utf8 import SURROGATES, Line, decode_line, read_lines

TEXT_COMMENT = "# text = "
DOCUMENT_BOUNDARY = "-DOCSTART-"
FORM = "a token and, in the last column, its tag: O, or a prefix such as B- or I- and a category."
_LINE_BREAKS = re.compile("[\r\n]")


@dataclass
class _Sentence:
    tokens: list[str]
    tags: list[str]
    sources: list[str]  # file:line of each token
    text: str | None  # of the comment, if there is one
    widths: list[int]  # number of columns of each line


def split_columns(line: str) -> list[str]:
    """Split a line into columns. In a line of spaces and a tag, the token is a space."""
    line = line.rstrip("\r\n")
    if "\t" in line:
        return line.split("\t")
    columns = re.split(" +", line.strip(" "))
    return [" ", *columns] if len(columns) == 1 and line.startswith("  ") else columns


def is_tagged_line(line: str) -> bool:
    """Return whether a line may be a token and its tag."""
    columns = split_columns(line)
    return len(columns) > 1 and bool(TAG.fullmatch(columns[-1]))


def read_conll(
    path: Path, skipped: list[str] | None, warnings: ConversionWarnings
) -> tuple[list[Example], str]:
    """Read CoNLL columns. The tag scheme and the kind of tokens are detected from the whole file.

    Args:
        path: path of the file.
        skipped: see `collect_examples`.
        warnings: receives what an example cannot represent.

    Returns:
        The examples, and a description of the file for messages.

    Raises:
        UserError: a sentence is unreadable (see `collect_examples`). The message names file and line.
    """
    records: list[tuple[str, _Sentence | UserError]] = []
    for block in _blocks(path, warnings):
        try:
            sentence = _parse_sentence(path, block, warnings)
        except UserError as error:
            records.append((str(path), error))
        else:
            records.append((sentence.sources[0], sentence))
    sentences = [record for _, record in records if isinstance(record, _Sentence)]
    scheme = detect_scheme(sentence.tags for sentence in sentences)
    character_level = is_character_level(sentence.tokens for sentence in sentences)
    widths = Counter(width for sentence in sentences for width in sentence.widths)
    width = widths.most_common(1)[0][0] if widths else 2

    def make_example(sentence: _Sentence, _: str) -> Example:
        for line_width, source in zip(sentence.widths, sentence.sources, strict=True):
            if line_width != width:
                raise UserError(
                    f"{source}: {line_width} columns, but the file has {width}. Separate columns by tabs if "
                    "tokens contain spaces."
                )
        warnings.add(f"extra columns, left out ({width - 2} per token)", sentence.sources[0],
                     (width > 2) * len(sentence.tokens))  # fmt: skip
        return example_from_tags(
            sentence.tokens,
            sentence.text,
            sentence.tags,
            sentence.sources,
            scheme,
            character_level,
            warnings,
        )

    empty = f"{path}: contains no examples. Expected on each line {FORM}"
    examples = collect_examples(records, make_example, skipped, empty, "sentences")
    return examples, f"CoNLL columns of {'characters' if character_level else 'words'}, {scheme}"


def _blocks(path: Path, warnings: ConversionWarnings) -> Iterator[list[tuple[int, Line]]]:
    """Yield the numbered lines between blank lines and document boundaries."""
    block: list[tuple[int, Line]] = []
    for number, line in enumerate(read_lines(path), 1):
        # Lines are bytes if the file is not valid UTF-8.
        blank, boundary = (
            (not line.strip(" \t\r"), line.startswith(DOCUMENT_BOUNDARY))
            if isinstance(line, str)
            else (not line.strip(b" \t\r"), line.startswith(DOCUMENT_BOUNDARY.encode()))
        )
        warnings.add(
            f"document boundaries ({DOCUMENT_BOUNDARY}), left out", f"{path}:{number}", boundary
        )
        if not blank and not boundary:
            block.append((number, line))
        elif block:
            yield block
            block = []
    if block:
        yield block


def _parse_sentence(
    path: Path, block: Sequence[tuple[int, Line]], warnings: ConversionWarnings
) -> _Sentence:
    sentence = _Sentence([], [], [], None, [])
    for number, raw in block:
        source = f"{path}:{number}"
        line = decode_line(raw, source)
        if not sentence.tokens and line.startswith(TEXT_COMMENT):
            sentence.text = line.removeprefix(TEXT_COMMENT).removesuffix("\r")
            continue
        if not sentence.tokens and line.startswith("# ") and not is_tagged_line(line):
            warnings.add("comments, left out", source)
            continue
        columns = split_columns(line)
        if len(columns) == 1:
            raise UserError(f"{source}: only one column, {columns[0][:40]!r}. Expected {FORM}")
        if not columns[0]:
            raise UserError(f"{source}: no token before the first tab. Expected {FORM}")
        if not TAG.fullmatch(columns[-1]):
            raise UserError(f"{source}: {columns[-1][:40]!r} is not a tag. Expected {FORM}")
        sentence.tokens.append(columns[0])
        sentence.tags.append(columns[-1])
        sentence.sources.append(source)
        sentence.widths.append(len(columns))
    if not sentence.tokens:
        raise UserError(f"{path}:{block[0][0]}: a comment without a sentence. Delete it.")
    return sentence


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
