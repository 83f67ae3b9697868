"""What became of every tensor of a conversion, for people and for programs."""

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

PARTS = ("query", "key", "value")  # of a target that three source tensors fill


class Used(NamedTuple):
    """A source tensor and where it goes."""

    source: str
    target: str
    slot: int | None  # which of `PARTS`
    shape: tuple[int, ...]
    dtype: np.dtype


@dataclass
class Report:
    """What became of every tensor; with `faults` the source cannot be converted."""

    layout: str
    used: list[Used] = field(default_factory=list)
    ignored: list[tuple[str, str]] = field(default_factory=list)  # name, reason
    fresh: list[tuple[str, str]] = field(default_factory=list)  # target, reason
    faults: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        """All of it, a line a tensor; layers that are treated alike share their lines."""
        rows = [
            (
                used.source,
                f"{used.dtype} {list(used.shape)}",
                f"-> {used.target}" + ("" if used.slot is None else f", {PARTS[used.slot]}"),
            )
            for used in self.used
        ]
        numbers = sum(math.prod(used.shape) for used in self.used)
        lines = [f"Layout: {self.layout}", *self.notes]
        lines += [f"{len(rows)} tensors used, {numbers:,} numbers:", *table(rows)]
        lines += [f"{len(self.ignored)} tensors ignored:", *table(self.ignored)]
        lines += [f"{len(self.fresh)} parameters freshly initialised:", *table(self.fresh)]
        if self.faults:
            lines += [f"{len(self.faults)} faults:", *(f"  {fault}" for fault in self.faults)]
        return "\n".join(lines)


def table(rows: Iterable[tuple[str, ...]]) -> list[str]:
    """Rows in columns; those that differ in the number of the layer alone are one."""
    layers: dict[tuple[str, ...], list[int]] = {}
    for row in rows:
        layer = re.search(r"(?<=layer\.|ayers/)\d+", row[0])
        pattern = tuple(re.sub(r"(?<=layer\.|ayers/)\d+", "{}", cell) for cell in row)
        layers.setdefault(pattern, []).extend([int(layer[0])] if layer else [])
    merged = [
        tuple(cell.replace("{}", _range(numbers)) if numbers else cell for cell in row)
        for row, numbers in layers.items()
    ]
    widths = [max(map(len, column)) for column in zip(*merged, strict=True)]
    return [
        "  "
        + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in merged
    ]


def _range(numbers: list[int]) -> str:
    """ "0-11", or "0,2,5"."""
    if len(numbers) > 2 and numbers == list(range(numbers[0], numbers[-1] + 1)):
        return f"{{{numbers[0]}-{numbers[-1]}}}"
    return f"{{{','.join(map(str, numbers))}}}" if len(numbers) > 1 else str(numbers[0])
