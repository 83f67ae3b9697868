"""brat standoff: `NAME.txt` with a text, and beside it `NAME.ann` with a line for each annotation.

Read are text-bound annotations, `T1<tab>CATEGORY START END<tab>SURFACE`, `end` exclusive.
Source: brat.nlplab.org/standoff.html.
"""

import re
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

from flax_ner.errors import UserError
from flax_ner.text.examples import Entity, Example
from flax_ner.text.files import Losses, category_names, checked_entity, collect, distinct
from flax_ner.text.utf8 import decoded, lines, read_text

TEXT_BOUND = re.compile(
    r"(T\S*)\t(\S+) ([0-9]{1,9} [0-9]{1,9}(?:;[0-9]{1,9} [0-9]{1,9})*)\t(.*)", re.DOTALL
)
OTHERS = {
    "R": "relations", "E": "events", "A": "attributes", "M": "attributes", "N": "normalisations",
    "#": "notes", "*": "equivalences",
}  # fmt: skip
_BREAK = re.compile("[\r\n]")


def read_brat(path: Path, skipped: list[str] | None, losses: Losses) -> tuple[list[Example], str]:
    """Read a folder of documents, or one of them by either of its files; without `.ann` it is unlabelled.

    Returns:
        The examples, one a document, and what the files were found to be.

    Raises:
        UserError: with file and line, for a document that cannot be read (see `collect`).
    """
    if path.is_dir():
        names = {file.with_suffix("") for file in path.iterdir() if file.suffix in (".txt", ".ann")}
    else:
        names = {path.with_suffix("")}
    empty = f"{path}: holds no documents. Expected are NAME.txt and NAME.ann side by side."
    units = [(f"{name}.txt", name) for name in sorted(names)]
    examples = collect(
        units, lambda name, source: _document(name, source, losses), skipped, empty, "documents"
    )
    return examples, "brat standoff"


def _document(name: Path, source: str, losses: Losses) -> Example:
    text_file, annotations = Path(f"{name}.txt"), Path(f"{name}.ann")
    if not text_file.is_file():
        raise UserError(f"{annotations}: there is no {text_file.name} beside it.")
    text = read_text(text_file)  # a byte order mark counts as a character, as brat itself counts
    if not annotations.is_file():
        return Example(text, None, source)
    entities = []
    for number, raw in enumerate(lines(annotations), 1):
        place = f"{annotations}:{number}"
        line = decoded(raw, place).removesuffix("\r")
        if line.strip():
            found = _entity(line, text, place, losses)
            entities += [found] if found else []
    return Example(text, distinct(entities, source, losses), source)


def _entity(line: str, text: str, source: str, losses: Losses) -> Entity | None:
    if line[0] in OTHERS:
        losses.add(f"{OTHERS[line[0]]} ({line[0]}), left out", source)
        return None
    match = TEXT_BOUND.fullmatch(line)
    if not match:
        raise UserError(
            f"{source}: {line[:60]!r} is no annotation. Expected is T1<tab>CATEGORY START END<tab>SURFACE."
        )
    _, category, offsets, surface = match.groups()
    edges = [map(int, part.split()) for part in offsets.split(";")]
    parts = [checked_entity(category, start, end, text, source) for start, end in edges]
    whole = " ".join(part.text for part in parts)
    if _BREAK.sub(" ", whole) != _BREAK.sub(" ", surface):
        raise UserError(
            f"{source}: {category} {surface!r} at {offsets}, where the text has {whole!r}. Offsets count "
            "characters of the .txt, line ends as they are in it."
        )
    # brat parts an entity at a line break; other parts are far from each other.
    for left, right in pairwise(parts):
        if left.end > right.start or text[left.end : right.start].strip():
            losses.add("discontinuous entities, left out", source)
            return None
    start, end = parts[0].start, parts[-1].end
    return Entity(category, start, end, text[start:end])


def write_brat(path: Path, examples: Sequence[Example], losses: Losses) -> None:
    """Write a folder of documents 000001.txt, 000001.ann and so on; unlabelled ones get no `.ann`."""
    path.mkdir()
    names = category_names(examples, losses)
    width = max(6, len(str(len(examples))))
    for number, example in enumerate(examples, 1):
        name = f"{number:0{width}}"
        text = re.sub("[\ud800-\udfff]", "\ufffd", example.text)
        losses.add("lone surrogates, written as U+FFFD", example.source, text != example.text)
        (path / f"{name}.txt").write_bytes(text.encode())
        if example.entities is None:
            continue
        rows: list[str] = []
        for entity in example.entities:
            offsets = _offsets(entity, text)
            if not offsets:
                losses.add("entities of line breaks alone, left out", example.source)
                continue
            edges = (offsets[0][0], offsets[-1][1]) != entity[1:3]
            losses.add(
                "line breaks at the edge of an entity, left out of it", example.source, edges
            )
            places = ";".join(f"{start} {end}" for start, end in offsets)
            surface = " ".join(text[start:end] for start, end in offsets)
            rows.append(f"T{len(rows) + 1}\t{names[entity.type]} {places}\t{surface}\n")
        (path / f"{name}.ann").write_bytes("".join(rows).encode())


def _offsets(entity: Entity, text: str) -> list[tuple[int, int]]:
    """The parts of an entity between line breaks."""
    return [
        (entity.start + part.start(), entity.start + part.end())
        for part in re.finditer("[^\r\n]+", text[entity.start : entity.end])
    ]
