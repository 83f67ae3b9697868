"""Label sets: entities to tag ids and back, under named decoding conventions."""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from flax_ner.errors import UserError

SCHEMES = ("bio", "bioes", "mmocr")
CONVENTIONS = ("strict", "lenient", "mmocr")

# What a tag says of its place in an entity.
OUTSIDE, BEGIN, INSIDE, END, SINGLE = range(5)


class Spans(NamedTuple):
    """Entities of many rows as arrays, ordered by row and start; `end` exclusive, all int32 [E]."""

    row: np.ndarray
    type: np.ndarray  # index into the categories
    start: np.ndarray
    end: np.ndarray


class LabelSet:
    """The tags of a scheme over a list of categories.

    Schemes: `bio` and `bioes` (O is tag 0), and `mmocr` (see `LabelSet.mmocr`).
    """

    def __init__(self, categories: Sequence[str], scheme: str = "bio"):
        if scheme not in SCHEMES:
            raise UserError(
                f"data.scheme: {scheme!r} is unknown. Choose one of {', '.join(SCHEMES)}."
            )
        if not categories or len(set(categories)) != len(categories):
            raise UserError(
                f"data.categories: {list(categories)} must be distinct, and at least one."
            )
        self.categories, self.scheme = tuple(categories), scheme
        self._type_id = {category: i for i, category in enumerate(self.categories)}
        if scheme == "mmocr":
            self.names = ["X", *self._tags("B"), *self._tags("I"), "O", "[START]", "[END]"]
        else:
            self.names = [
                "O",
                *(tag for prefix in scheme.upper() if prefix != "O" for tag in self._tags(prefix)),
            ]
        self.outside = self.names.index("O")
        places = {"B": BEGIN, "I": INSIDE, "E": END, "S": SINGLE}
        split = [name.partition("-") for name in self.names]
        self._place = np.array(
            [places[p] if dash else OUTSIDE for p, dash, _ in split], np.int8
        )  # [C]
        self._type = np.array(
            [self._type_id[t] if dash else -1 for _, dash, t in split], np.int32
        )  # [C]

    @classmethod
    def mmocr(cls, categories: Sequence[str]) -> "LabelSet":
        """MMOCR's tags: X (padding), B- of each category, I- of each, O, [START], [END].

        Source: MMOCR 0.6.3, ner_convertor.py; differs: a category may hold a "-", which MMOCR cuts.
        """
        return cls(categories, "mmocr")

    def __len__(self) -> int:
        return len(self.names)

    def to_json(self) -> dict[str, Any]:
        return {"scheme": self.scheme, "categories": list(self.categories), "names": self.names}

    @classmethod
    def from_json(cls, row: dict[str, Any]) -> "LabelSet":
        return cls(row["categories"], row["scheme"])

    def encode(self, entities: Iterable[Sequence[Any]], length: int) -> np.ndarray:
        """Tags of a text of `length` characters, int32 [length + 2]; the places of [CLS] and [SEP] are O.

        Where entities overlap the later one overwrites the earlier (`overlaps` counts them).

        Raises:
            UserError: for an unknown category or a span outside the text.
        """
        tags = np.full(length + 2, self.outside, np.int32)
        for entity in entities:
            category, start, end = entity[:3]
            if category not in self._type_id:
                raise UserError(
                    f"category {category!r} is not among {', '.join(self.categories)}. "
                    "Add it to data.categories or correct the data."
                )
            if not 0 <= start < end <= length:
                raise UserError(
                    f"{category} has the span [{start}, {end}) in a text of {length} characters. "
                    f"Expected 0 <= start < end <= {length}."
                )
            first = self.names.index(f"B-{category}")
            step = len(self.categories)  # tags of one place lie together: B..., I..., E..., S...
            tags[start + 1] = first
            tags[start + 2 : end + 1] = first + step
            if self.scheme == "bioes":
                tags[end] = first + (2 if end - start > 1 else 3) * step
        return tags

    def decode(
        self, tags: np.ndarray, mask: np.ndarray, convention: str = "strict"
    ) -> list[list[tuple[str, int, int]]]:
        """Entities `(type, start, end)` of each row, `end` exclusive, offsets counting from behind [CLS].

        Args:
            tags: int [B, T], [CLS] first and [SEP] last of the positions that `mask` lets in.
            mask: bool or int [B, T], ones first.
            convention: `strict` (IOB2 or IOBES as they are defined; equals seqeval's strict mode),
                `lenient` (an orphan I- begins an entity; equals conlleval and seqeval's default) or
                `mmocr` (its own rules, marked in `spans`).
        """
        spans = self.decode_spans(tags, mask, convention)
        rows: list[list[tuple[str, int, int]]] = [[] for _ in range(len(tags))]
        for row, kind, start, end in zip(*(column.tolist() for column in spans), strict=True):
            rows[row].append((self.categories[kind], start, end))
        return rows

    def decode_spans(self, tags: np.ndarray, mask: np.ndarray, convention: str = "strict") -> Spans:
        """As `decode`, all rows at once, as arrays."""
        lengths = np.asarray(mask).astype(bool).sum(1)
        # MMOCR: [SEP] is decoded too, so that an entity can end behind the text.
        ends = lengths if convention == "mmocr" else lengths - 1
        column = np.arange(np.shape(tags)[1])
        row, position = np.nonzero((column >= 1) & (column < ends[:, None]))
        return self.spans(np.asarray(tags)[row, position], row, position - 1, convention)

    def spans(
        self, tag: np.ndarray, row: np.ndarray, character: np.ndarray, convention: str
    ) -> Spans:
        """Entities of rows that lie end to end.

        Args:
            tag: int [M], a tag a character.
            row, character: int [M], whose and which character it is, ascending.
            convention: as in `decode`.
        """
        if convention not in CONVENTIONS:
            raise UserError(
                f"scoring: {convention!r} is unknown. Choose one of {', '.join(CONVENTIONS)}."
            )
        if convention == "mmocr" and self.scheme == "bioes":
            raise UserError(
                "scoring: 'mmocr' knows no E- and S-, so the tags of data.scheme bioes would be cut "
                "short. Choose strict or lenient."
            )
        place, kind = self._place[tag], self._type[tag]
        # A chunk is a position and all that continue it.
        joined = np.zeros(len(row), bool)
        if convention == "mmocr":
            # MMOCR: an I- of another type neither ends nor extends the entity before it.
            joined[1:] = (place[1:] == INSIDE) & np.isin(place[:-1], (BEGIN, INSIDE))
        else:
            joined[1:] = np.isin(place[1:], (INSIDE, END)) & np.isin(place[:-1], (BEGIN, INSIDE))
            joined[1:] &= kind[1:] == kind[:-1]
        joined[1:] &= row[1:] == row[:-1]
        head = np.flatnonzero(~joined)
        if not len(head):
            empty = np.zeros(0, np.int32)
            return Spans(empty, empty, empty, empty)
        last = np.append(head[1:], len(row)) - 1

        if convention == "lenient":
            keep = place[head] != OUTSIDE
        elif convention == "mmocr":
            # MMOCR: an entity ends at its last I-, and without one it is not an entity.
            keep = place[head] == BEGIN
            chunk = np.cumsum(~joined) - 1
            own = joined & (kind == kind[head][chunk])
            last = np.maximum.reduceat(np.where(own, np.arange(len(row)), -1), head)
            keep &= last >= 0
        elif self.scheme == "bioes":
            keep = (place[head] == SINGLE) | ((place[head] == BEGIN) & (place[last] == END))
        else:
            keep = place[head] == BEGIN
        head, last = head[keep], last[keep]
        columns = (row[head], kind[head], character[head], character[last] + 1)
        return Spans(*(values.astype(np.int32) for values in columns))

    def _tags(self, prefix: str) -> list[str]:
        return [f"{prefix}-{category}" for category in self.categories]


def overlaps(entities: Sequence[Sequence[Any]]) -> int:
    """How many entities begin before an earlier one (by start) has ended."""
    count, reach = 0, 0
    for start, end in sorted((entity[1], entity[2]) for entity in entities):
        count += start < reach
        reach = max(reach, end)
    return count
