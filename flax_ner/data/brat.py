"""Read and write brat standoff: `NAME.txt` with a text and `NAME.ann` with one annotation per line.

Only text-bound annotations are read: `T1<tab>CATEGORY START END<tab>SURFACE`, `end` exclusive.
Source: brat.nlplab.org/standoff.html.
"""

import re
from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from flax_ner.data.files import (
    ConversionWarnings,
    DataFile,
    checked_entity,
    space_free_names,
    without_duplicates,
)
from flax_ner.data.offsets import CHARACTERS, UNITS, character_offsets, unit_differs
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
Offsets = range | dict[int, int]


def read_brat(file: DataFile) -> tuple[Iterable[Example], str]:
    """Read a folder of documents, or one document. A document without an `.ann` file is unlabelled.

    Returns:
        The examples, one per document, and a description of the data for messages.

    Raises:
        UserError: a document is unreadable (see `DataFile.convert`). The message names file and line.
    """
    path = file.path
    if path.is_dir() and any(path.glob("*.a1")):
        raise UserError(f"{path}: has annotations in files NAME.a1. Rename them to NAME.ann.")
    if path.is_dir():
        names = {
            str(item.with_suffix("")) for item in path.iterdir() if item.suffix in (".txt", ".ann")
        }
    else:
        names = {str(path.with_suffix(""))}
    examples = file.convert(
        ((f"{name}.txt", name) for name in sorted(names)),
        lambda name, source: _read_document(name, source, file),
        "pairs of files NAME.txt and NAME.ann",
        "documents",
    )
    return examples, "brat standoff"


def _read_document(name: str, source: str, file: DataFile) -> Example:
    text_file, annotation_file = Path(f"{name}.txt"), Path(f"{name}.ann")
    encoding = file.options.encoding
    if not text_file.is_file():
        raise UserError(f"{annotation_file}: there is no {text_file.name} beside it. Add the text.")
    has_partner = file.path.is_dir() or annotation_file.is_file()
    marked = read_text(text_file, encoding, has_partner)
    text = marked.removeprefix("\ufeff")
    if not annotation_file.is_file():
        return Example(text, None, source)
    annotations = []
    for number, raw in enumerate(read_lines(annotation_file, encoding, has_partner), 1):
        line_source = f"{annotation_file}:{number}"
        line = decode_line(raw, line_source).removesuffix("\r")
        if line.strip() and (annotation := _parse_annotation(line, line_source, file.warnings)):
            annotations.append(annotation)
    # Some tools count UTF-16 units, or CR LF as one character. Convert if all surfaces match then.
    offsets: Offsets = range(len(text) + 1)  # the character at each offset of the file
    if not _all_match(annotations, text, offsets):
        candidates = [
            (message, character_offsets(text, unit))
            for unit, message in UNITS.items()
            if unit != CHARACTERS and unit_differs(text, unit)
        ]
        if text != marked:  # brat counts a byte order mark as a character
            annotations = [
                a._replace(surface=a.surface.removeprefix("\ufeff")) for a in annotations
            ]
            candidates += [
                (
                    "offsets that count the byte order mark, converted",
                    {at: max(i - 1, 0) for at, i in character_offsets(marked, unit).items()},
                )
                for unit in UNITS
                if unit == CHARACTERS or unit_differs(text, unit)
            ]
        for message, converted in candidates:
            if _all_match(annotations, text, converted):
                offsets = converted
                file.warnings.add(message, source)
                break
    entities = [_entity(annotation, text, offsets, file.warnings) for annotation in annotations]
    kept = [entity for entity in entities if entity]
    return Example(text, without_duplicates(kept, source, file.warnings), source)


class _Annotation(NamedTuple):
    category: str
    spans: list[tuple[int, int]]  # as in the file
    surface: str
    source: str


def _parse_annotation(line: str, source: str, warnings: ConversionWarnings) -> _Annotation | None:
    if line[0] in OTHER_ANNOTATIONS:
        warnings.add(f"{OTHER_ANNOTATIONS[line[0]]} ({line[0]}), left out", source)
        return None
    match = TEXT_BOUND.fullmatch(line)
    if not match:
        raise UserError(
            f"{source}: {line[:60]!r} is not an annotation. Expected T1<tab>CATEGORY START END<tab>SURFACE."
        )
    _, category, offsets, surface = match.groups()
    spans = [(int(start), int(end)) for start, end in (s.split() for s in offsets.split(";"))]
    return _Annotation(category, spans, surface, source)


def _all_match(annotations: list[_Annotation], text: str, offsets: Offsets) -> bool:
    """Return whether every surface is found, with `offsets` as the character at each offset of the file."""
    for annotation in annotations:
        places = [place for span in annotation.spans for place in span]
        if not all(place in offsets for place in places):
            return False
        joined = " ".join(text[offsets[a] : offsets[b]] for a, b in annotation.spans)
        if _LINE_BREAK.sub(" ", joined) != _LINE_BREAK.sub(" ", annotation.surface):
            return False
    return True


def _entity(
    annotation: _Annotation, text: str, offsets: Offsets, warnings: ConversionWarnings
) -> Entity | None:
    category, spans, surface, source = annotation
    if isinstance(offsets, range):
        fragments = [checked_entity(category, start, end, text, source) for start, end in spans]
    else:
        fragments = [
            checked_entity(category, offsets[start], offsets[end], text, source)
            for start, end in spans
        ]
    joined = " ".join(fragment.text for fragment in fragments)
    if _LINE_BREAK.sub(" ", joined) != _LINE_BREAK.sub(" ", surface):
        shown = ";".join(f"{start} {end}" for start, end in spans)
        raise UserError(
            f"{source}: {category} {surface!r} at {shown}, but the text has {joined!r} there. Offsets "
            "count the characters of the .txt file, including line ends (CR LF as two)."
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
        # Readers drop the first character as a byte order mark, so write it twice.
        mark = "\ufeff" if text.startswith("\ufeff") else ""
        (path / f"{name}.txt").write_bytes((mark + text).encode())
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
