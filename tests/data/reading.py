"""Read a file with one reader, and keep its examples."""

from collections.abc import Callable, Iterable
from typing import Any

from flax_ner.data.files import DataFile, collect
from flax_ner.text.examples import Example


def read_all(
    reader: Callable[..., tuple[Iterable[Example], str]], file: DataFile, *arguments: Any
) -> tuple[list[Example], str]:
    """Return all examples of a file, and the reader's description of it."""
    examples, description = reader(file, *arguments)
    return collect(examples), description
