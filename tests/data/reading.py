"""Read a file with one reader or any, and keep its examples; the text and entities that many forms hold."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from flax_ner.data.files import DataFile, ReadOptions, collect
from flax_ner.data.formats import read_examples
from flax_ner.text.examples import Example

TEXT = "林月在苏州"
EXPECTED = [(TEXT, [("PER", 0, 2), ("LOC", 3, 5)])]
COLUMNS = "林 {b}PER\n月 {i}PER\n在 {o}\n苏 {b}LOC\n州 {i}LOC\n"


def read_all(
    reader: Callable[..., tuple[Iterable[Example], str]], file: DataFile, *arguments: Any
) -> tuple[list[Example], str]:
    """Return all examples of a file, and the reader's description of it."""
    examples, description = reader(file, *arguments)
    return collect(examples), description


def spans(examples: list[Example]) -> list[tuple[str, list[tuple[str, int, int]]]]:
    return [(e.text, sorted(x[:3] for x in e.entities or ())) for e in examples]


def read(folder: Path, data: str | bytes, name: str = "data", **options: Any) -> tuple[Any, str]:
    path, notes = folder / name, list[str]()
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    examples = read_examples(str(path), "auto", notes=notes, options=ReadOptions(**options))
    assert all(e.entities is not None for e in examples)
    return spans(examples), "\n".join(notes).replace(str(path), "FILE")


def columns(b: str = "B-", i: str = "I-", o: str = "O") -> str:
    return COLUMNS.format(b=b, i=i, o=o)
