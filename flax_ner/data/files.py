"""What all readers and writers share: the file to read, how to read it, errors with file and line, warnings."""

import codecs
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flax_ner.errors import UserError
from flax_ner.garbage import no_collections
from flax_ner.text.examples import Entity, Example, offset_type_error
from flax_ner.text.utf8 import Line, iterate_lines


class ConversionWarnings:
    """Counts of the information that a reader or writer dropped or changed, with the first occurrence."""

    def __init__(self) -> None:
        self._counts: dict[str, tuple[int, str]] = {}  # message -> (count, first source)

    def add(self, message: str, source: str, count: int = 1) -> None:
        """Add `count` occurrences of a warning, e.g. "overlapping entities, left out"."""
        if count:
            before, first = self._counts.get(message, (0, source))
            self._counts[message] = before + count, first

    def lines(self) -> list[str]:
        """Return one line per message, ordered by first occurrence."""
        return [
            f"{message}: {count}" + (f" (first: {source})" if source else "")
            for message, (count, source) in self._counts.items()
        ]


END_RULES = ("exclusive", "inclusive")
OFFSET_UNITS = ("character", "utf16")


@dataclass(frozen=True)
class ReadOptions:
    """How to read a data file whose content is ambiguous.

    Attributes:
        encoding: a text encoding that Python knows, e.g. "gb18030". "" is UTF-8.
        columns: the column of the tokens and that of the tags, each a number from 1 or the name in the header.
            "" or () detects them.
        tag_scheme: one of `tagged.READ_SCHEMES`. "" detects it.
        end: whether `end` is "exclusive" or "inclusive" where an annotation does not repeat its text.
            "" is the rule of the format.
        offset_unit: what offsets count where an annotation does not repeat its text: "character" or
            "utf16". "" is the rule of the format.
    """

    encoding: str = ""
    columns: tuple[str, ...] = ()
    tag_scheme: str = ""
    end: str = ""
    offset_unit: str = ""

    def __post_init__(self) -> None:
        try:
            codecs.lookup(self.encoding or "utf-8")
        except LookupError:
            raise UserError(
                f"{self.encoding!r} is not an encoding. Examples: utf-8, gb18030, utf-16, cp1252."
            ) from None
        for name, value, allowed in (
            ("end", self.end, END_RULES),
            ("offset_unit", self.offset_unit, OFFSET_UNITS),
        ):
            if value and value not in allowed:
                raise UserError(
                    f"{name}: {value!r} is unknown. Choose one of {', '.join(allowed)}."
                )
        if len(self.columns) not in (0, 2):
            raise UserError(
                f"data.columns: {self.columns}. Give two columns: that of the tokens and that of the tags."
            )


@dataclass(frozen=True)
class DataFile:
    """A file or folder to read, and where its errors and warnings go.

    Attributes:
        path: path of the file or folder.
        options: how to read it.
        skipped: list to which the error of each unreadable record (line, sentence, task, document) is
            appended. If None, the first error is raised.
        warnings: receives what an example cannot represent.
    """

    path: Path
    options: ReadOptions = ReadOptions()
    skipped: list[str] | None = None
    warnings: ConversionWarnings = field(default_factory=ConversionWarnings)

    def lines(self) -> Iterator[Line]:
        """Yield the lines of the file, see `iterate_lines`."""
        return iterate_lines(self.path, self.options.encoding)

    def convert(
        self,
        records: Iterable[tuple[str, Any]],
        make_example: Callable[[Any, str], Example | None],
        expected: str,
        name: str = "lines",
    ) -> Iterator[Example]:
        """Yield the examples of the records of the file (lines, sentences, tasks).

        Args:
            records: pairs of source ("file:line") and record. A record may be a `UserError` that an
                earlier step found in it.
            make_example: converts a record and its source to an example; returns None for a record
                without one.
            expected: the content that is missing in a file without examples, for the message.
            name: plural noun for the records, for messages.

        Raises:
            UserError: a record is unreadable and `skipped` is None, or there are no examples.
        """
        empty, errors = True, list[str]()
        for source, record in records:
            try:
                if isinstance(record, UserError):
                    raise record
                example = make_example(record, source)
            except UserError as error:
                if self.skipped is None:
                    raise
                errors.append(str(error))
            else:
                if example is not None:
                    empty = False
                    yield example
        if self.skipped is not None:
            self.skipped.extend(errors)
        if empty:
            details = (
                f" {len(errors)} {name} cannot be read; first error: {errors[0]}" if errors else ""
            )
            left_out = "".join(f" Warning: {line}." for line in self.warnings.lines())
            raise UserError(
                f"{self.path}: contains no examples. Expected {expected}.{details}{left_out}"
            )


def collect(examples: Iterable[Example]) -> list[Example]:
    """Return the examples as a list, without pauses for garbage collection."""
    with no_collections():
        return list(examples)


def checked_entity(category: Any, start: Any, end: Any, text: str, source: str) -> Entity:
    """Return an entity after checking its category and span; `end` is exclusive.

    Raises:
        UserError: the category is not a non-empty string, an offset is not a whole number, or the
            span is empty or not within the text.
    """
    if not isinstance(category, str) or not category:
        raise UserError(
            f"{source}: the category of [{start}, {end}) is {category!r}. Give a non-empty string."
        )
    if error := offset_type_error(start, end):
        raise UserError(f"{source}: {category}: {error}")
    if not 0 <= start < end <= len(text):
        raise UserError(
            f"{source}: {category} has the span [{start}, {end}) in a text of {len(text)} characters. "
            f"Expected 0 <= start < end <= {len(text)}, end exclusive."
        )
    return Entity(category, int(start), int(end), text[start:end])


def without_duplicates(
    entities: Sequence[Entity], source: str, warnings: ConversionWarnings
) -> tuple[Entity, ...]:
    """Return the entities in order, without duplicates."""
    kept = tuple(dict.fromkeys(entities))
    warnings.add("duplicate entities, kept once", source, len(entities) - len(kept))
    return kept


def space_free_names(examples: Sequence[Example], warnings: ConversionWarnings) -> dict[str, str]:
    """Map each category to a name without white space, for formats that separate fields by it.

    Raises:
        UserError: two categories would get the same name.
    """
    names: dict[str, str] = {}
    for example in examples:
        for entity in example.entities or ():
            name = re.sub(r"\s", "_", entity.type)
            if names.setdefault(entity.type, name) != entity.type:
                warnings.add(f"category {entity.type!r}, written as {name}", example.source)
    ambiguous = [name for name, times in Counter(names.values()).items() if times > 1]
    if ambiguous:
        clashing = ", ".join(repr(old) for old, new in names.items() if new == ambiguous[0])
        raise UserError(
            f"the categories {clashing} would all be written as {ambiguous[0]}. Rename one."
        )
    return names
