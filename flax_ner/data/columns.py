"""Read and write columns: one token per line with its tag, a blank line after a sentence. CoNLL, TSV and CSV.

Columns are separated by tabs, by spaces, or as in CSV if the first line is a header. A header names the columns
of the tokens and tags; else the token is in the first column, or in the second if the first counts the tokens,
and the tag is in the last. `-DOCSTART-` lines separate documents. A line that starts with "#", stands before a
sentence and has no tag is a comment. `# text = ...` stores the text of the sentence if joining its tokens does
not give it (see `tagged`).
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path

from flax_ner.data.column_layout import Layout, Row, has_chunks
from flax_ner.data.column_sentences import TEXT_COMMENT, Sentence, read_sentences
from flax_ner.data.field_names import is_start_field
from flax_ner.data.files import ConversionWarnings, DataFile, space_free_names
from flax_ner.data.tagged import (
    BARE_PREFIXES,
    OUTSIDE,
    OUTSIDE_WORDS,
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
    outside_remedy,
    starts_with_cjk,
    tags_from_entities,
    token_spans,
)
from flax_ner.errors import UserError
from flax_ner.text.examples import Example
from flax_ner.text.utf8 import SURROGATES

FORM = f"a token and, in the last column, its tag: {TAG_FORM}"
TEXT_NAMES = ("text", "sentence")  # a whole text in most tables with these names
LONG_SENTENCE = 1000  # tokens
SEPARATOR_NAMES = {",": "comma", ";": "semicolon", "|": "vertical bar"}
_LINE_BREAKS = re.compile("[\r\n]")
# A character, or a longer token such as a URL, and its index within a word.
_SEGMENTED = re.compile(r"(.)[0-9]+|(.+)[0-9]", re.DOTALL)
SEGMENTED_SHARE = 0.9  # of the tokens that must be a character and an index


def read_conll(file: DataFile) -> tuple[Iterable[Example], str]:
    """Read columns. Their places, the tag scheme and the kind of tokens are detected from the whole file.

    Returns:
        The examples, and a description of the file for messages.

    Raises:
        UserError: a sentence is unreadable (see `DataFile.convert`), or it is not clear which column has
            the tags. The message names file and line.
    """
    records, separator, layout = read_sentences(file)
    sentences = [record for _, record in records if isinstance(record, Sentence)]

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
    first_line = next(file.lines(), "")
    has_tabs = isinstance(first_line, str) and "\t" in first_line
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
            "first line read as a token; if it is a header, " + _header_remedy(first_row, has_tabs),
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

    def make_example(sentence: Sentence, source: str) -> Example:
        row_tags = [
            _check_row(row, layout, separator, has_tabs, normal, sentence.sources, i)
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

    examples = file.convert(records, make_example, f"on each line {FORM.rstrip('.')}", "sentences")
    kind = {"": "CoNLL columns", "\t": "TSV"}.get(separator, "CSV")
    spelled = "" if spelling.usual else f", tags spelled {_example_tag(tags)}"
    characters = "characters" if character_level else "words"
    return examples, f"{kind} of {characters}, {scheme}{layout.describe()}{spelled}"


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
    row: Row,
    layout: Layout,
    separator: str,
    has_tabs: bool,
    normal: Mapping[str, str | None],
    sources: Sequence[str],
    index: int,
) -> str:
    """Return the normalized tag of the row `index` of a sentence after checking its columns."""
    several = row[layout.tag].split() if len(row) == layout.width else []
    if len(several) > 1 and is_tag_sequence(several):
        raise UserError(
            f"{sources[index]}: {len(several)} tags on one line. Write each token and its tag on a line of its "
            "own, and a blank line after each sentence."
        )
    if len(row) == layout.width and row[layout.token] and "\n" not in row[layout.token]:
        tag = normal.get(row[layout.tag])
        if tag is not None:
            return tag
    source = sources[index]
    if len(row) == 1:
        raise UserError(f"{source}: only one column, {row[0][:40]!r}. Expected {FORM}")
    if len(row) > layout.width and separator in SEPARATOR_NAMES:
        name = SEPARATOR_NAMES[separator]
        raise UserError(
            f"{source}: {len(row)} columns, but the header has {layout.width}. Put a field that contains a "
            f'{name} in quotes, e.g. "1{separator}5".'
        )
    if len(row) < layout.width and layout.names:
        raise UserError(
            f"{source}: {len(row)} columns, but the header has {layout.width}. Add the missing columns."
        )
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
    column = f" in column {layout.names[layout.tag]!r}" if layout.names else ""
    tag = row[layout.tag]
    error = f"{source}: {tag[:40]!r}{column} is not a tag."
    if tag in BARE_PREFIXES:
        raise UserError(f"{error} It has no category. Write {tag}-NAME in place of {tag}.")
    candidates = [tag] if "O" in normal.values() else [tag, *normal]
    word = next((w for w in candidates if w.lower() in OUTSIDE_WORDS), None)
    if word is not None:
        raise UserError(f"{error} {outside_remedy(word)}")
    hint = ""
    if index == 0 and source.endswith(":1") and not layout.names:
        hint = f" If this line is a header, {_header_remedy(row, has_tabs)}."
    raise UserError(f"{error} Expected {TAG_FORM}{hint}")


def _header_remedy(row: Row, has_tabs: bool) -> str:
    """Return what to do about a first line that is a header. One with spaces cannot name columns."""
    if not has_tabs:
        return "delete it"
    return (
        f"delete it, or name the columns: --token-column {row[0]!r} --tag-column {row[-1]!r} "
        "(data.columns)"
    )


def _without_index(token: str) -> str:
    match = _SEGMENTED.fullmatch(token)
    return (match[1] or match[2]) if match else token


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
