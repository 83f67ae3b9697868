"""Report of a conversion: what happened to each tensor."""

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

QKV_SLOTS = ("query", "key", "value")  # order of the source tensors that share one target


class UsedTensor(NamedTuple):
    """A source tensor and the parameter that it fills."""

    source: str
    target: str
    slot: int | None  # index in `QKV_SLOTS`; None if the tensor fills the whole target
    shape: tuple[int, ...]
    dtype: np.dtype


@dataclass
class Report:
    """What happened to each tensor. With `errors`, the source cannot be converted."""

    layout: str
    used: list[UsedTensor] = field(default_factory=list)
    ignored: list[tuple[str, str]] = field(default_factory=list)  # name, reason
    fresh: list[tuple[str, str]] = field(default_factory=list)  # target, reason
    errors: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        """Return the whole report, one line per tensor; layers that are treated alike share a line."""
        rows = [
            (
                used.source,
                f"{used.dtype} {list(used.shape)}",
                f"-> {used.target}" + ("" if used.slot is None else f", {QKV_SLOTS[used.slot]}"),
            )
            for used in self.used
        ]
        parameters = sum(math.prod(used.shape) for used in self.used)
        lines = [f"Layout: {self.layout}", *self.notes]
        lines += [f"{len(rows)} tensors used, {parameters:,} parameters:", *table(rows)]
        lines += [f"{len(self.ignored)} tensors ignored:", *table(self.ignored)]
        lines += [f"{len(self.fresh)} parameters freshly initialised:", *table(self.fresh)]
        if self.errors:
            lines += [f"{len(self.errors)} errors:", *(f"  {error}" for error in self.errors)]
        return "\n".join(lines)


def table(rows: Iterable[tuple[str, ...]]) -> list[str]:
    """Return lines of aligned columns; rows that differ only in the layer number are merged."""
    layers: dict[tuple[str, ...], list[int]] = {}  # row without layer number -> layer numbers
    for row in rows:
        layer = re.search(r"(?<=layer\.|ayers/)\d+", row[0])
        pattern = tuple(re.sub(r"(?<=layer\.|ayers/)\d+", "{}", cell) for cell in row)
        layers.setdefault(pattern, []).extend([int(layer[0])] if layer else [])
    merged = [
        tuple(cell.replace("{}", _format_range(numbers)) if numbers else cell for cell in row)
        for row, numbers in layers.items()
    ]
    widths = [max(map(len, column)) for column in zip(*merged, strict=True)]
    return [
        "  "
        + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in merged
    ]


def _format_range(numbers: list[int]) -> str:
    """Format layer numbers: "{0-11}", "{0,2,5}" or "3"."""
    if len(numbers) > 2 and numbers == list(range(numbers[0], numbers[-1] + 1)):
        return f"{{{numbers[0]}-{numbers[-1]}}}"
    return f"{{{','.join(map(str, numbers))}}}" if len(numbers) > 1 else str(numbers[0])
