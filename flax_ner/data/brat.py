"""Read and write brat standoff: `NAME.txt` with a text and `NAME.ann` with one annotation per line.

Only text-bound annotations are read: `T1<tab>CATEGORY START END<tab>SURFACE`, `end` exclusive.
Source: brat.nlplab.org/standoff.html.
"""

import re
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

from flax_ner.data.files import (
    ConversionWarnings,
    checked_entity,
    collect_examples,
    space_free_names,
    without_duplicates,
)
from flax_ner.errors import UserError
from flax_ner.text.examples import Entity, Example
from flax_ner.text.utf8 import SURROGATES, decode_line, read_lines, read_text

TEXT_BOUND = re.compile(
    r"(T\S*)\t(\S+) ([0-9]{1,9} [0-9]{1,9}(?:;[0-9]{1,9} [0-9]{1,9})*)\t(.*)", re.DOTALL
)
OTHER_ANNOTATIONS = {
    "R": "relations", "E": "events", "A": "attributes", "M": "attributes", "N": "normalisations",
    "#": "notes", "*": "equivalences",
}  # fmt: skip
_LINE_BREAK = re.compile("[\r\n]")


def read_brat(
    path: Path, skipped: list[str] | None, warnings: ConversionWarnings
) -> tuple[list[Example], str]:
    """Read a folder of documents, or one document. A document without an `.ann` file is unlabelled.

    Args:
        path: path of the folder, or of either file of a document.
        skipped: see `collect_examples`.
        warnings: receives what an example cannot represent.

    Returns:
        The examples, one per document, and a description of the data for messages.

    Raises:
        UserError: a document is unreadable (see `collect_examples`). The message names file and line.
    """
    if path.is_dir():
        names = {file.with_suffix("") for file in path.iterdir() if file.suffix in (".txt", ".ann")}
    else:
        names = {path.with_suffix("")}
    empty = f"{path}: contains no documents. Expected pairs of files NAME.txt and NAME.ann."
    records = [(f"{name}.txt", name) for name in sorted(names)]
    examples = collect_examples(
        records,
        lambda name, source: _read_document(name, source, warnings),
        skipped,
        empty,
        "documents",
    )
    return examples, "brat standoff"


def _read_document(name: Path, source: str, warnings: ConversionWarnings) -> Example:
    text_file, annotation_file = Path(f"{name}.txt"), Path(f"{name}.ann")
    if not text_file.is_file():
        raise UserError(f"{annotation_file}: there is no {text_file.name} beside it. Add the text.")
    text = read_text(text_file)  # keeps a byte order mark, because brat counts it as a character
    if not annotation_file.is_file():
        return Example(text, None, source)
    entities = []
    for number, raw in enumerate(read_lines(annotation_file), 1):
        line_source = f"{annotation_file}:{number}"
        line = decode_line(raw, line_source).removesuffix("\r")
        if line.strip():
            entity = _parse_entity(line, text, line_source, warnings)
            entities += [entity] if entity else []
    return Example(text, without_duplicates(entities, source, warnings), source)


def _parse_entity(line: str, text: str, source: str, warnings: ConversionWarnings) -> Entity | None:
    if line[0] in OTHER_ANNOTATIONS:
        warnings.add(f"{OTHER_ANNOTATIONS[line[0]]} ({line[0]}), left out", source)
        return None
    match = TEXT_BOUND.fullmatch(line)
    if not match:
        raise UserError(
            f"{source}: {line[:60]!r} is not an annotation. Expected T1<tab>CATEGORY START END<tab>SURFACE."
        )
    _, category, offsets, surface = match.groups()
    spans = [map(int, span.split()) for span in offsets.split(";")]
    fragments = [checked_entity(category, start, end, text, source) for start, end in spans]
    joined = " ".join(fragment.text for fragment in fragments)
    if _LINE_BREAK.sub(" ", joined) != _LINE_BREAK.sub(" ", surface):
        raise UserError(
            f"{source}: {category} {surface!r} at {offsets}, but the text has {joined!r} there. Offsets "
            "count the characters of the .txt file, including line ends."
        )
    # brat splits an entity at line breaks. Rejoin these fragments; others are truly discontinuous.
    for left, right in pairwise(fragments):
        if left.end > right.start or text[left.end : right.start].strip():
            warnings.add("discontinuous entities, left out", source)
            return None
    start, end = fragments[0].start, fragments[-1].end
    return Entity(category, start, end, text[start:end])


def write_brat(path: Path, examples: Sequence[Example], warnings: ConversionWarnings) -> None:
    """Write a folder of documents 000001.txt, 000001.ann and so on. Unlabelled examples get no `.ann`."""
    path.mkdir()
    names = space_free_names(examples, warnings)
    width = max(6, len(str(len(examples))))
    for number, example in enumerate(examples, 1):
        name = f"{number:0{width}}"
        text = SURROGATES.sub("\ufffd", example.text)
        warnings.add("lone surrogates, written as U+FFFD", example.source, text != example.text)
        (path / f"{name}.txt").write_bytes(text.encode())
        if example.entities is None:
            continue
        rows: list[str] = []
        for entity in example.entities:
            spans = _split_at_line_breaks(entity, text)
            if not spans:
                warnings.add("entities of line breaks only, left out", example.source)
                continue
            trimmed = (spans[0][0], spans[-1][1]) != entity[1:3]
            warnings.add("entities with line breaks at the edges, trimmed", example.source, trimmed)
            offsets = ";".join(f"{start} {end}" for start, end in spans)
            surface = " ".join(text[start:end] for start, end in spans)
            rows.append(f"T{len(rows) + 1}\t{names[entity.type]} {offsets}\t{surface}\n")
        (path / f"{name}.ann").write_bytes("".join(rows).encode())


def _split_at_line_breaks(entity: Entity, text: str) -> list[tuple[int, int]]:
    return [
        (entity.start + match.start(), entity.start + match.end())
        for match in re.finditer("[^\r\n]+", text[entity.start : entity.end])
    ]
