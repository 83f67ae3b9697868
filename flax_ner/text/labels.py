"""Label sets: entities to tag ids and back, under named decoding conventions."""

import re
from collections.abc import Iterable, Sequence
from difflib import SequenceMatcher
from typing import Any, NamedTuple

import numpy as np

from flax_ner.arguments import (
    check_choice,
    check_entities,
    check_ids,
    check_integer,
    check_mask,
    check_strings,
)
from flax_ner.errors import UserError
from flax_ner.text.examples import type_fault
from flax_ner.text.overlaps import drop_overlaps

SCHEMES = ("bio", "bioes", "io", "mmocr")
CONVENTIONS = ("strict", "lenient", "mmocr")

PART = 8192  # rows that are decoded at once
# What a tag says of its place in an entity.
OUTSIDE, BEGIN, INSIDE, END, SINGLE = range(5)
# How tags write it: BIO, BIOES, BMES and BILOU.
PLACES = {
    "B": BEGIN, "I": INSIDE, "M": INSIDE, "E": END, "L": END, "S": SINGLE, "U": SINGLE,
}  # fmt: skip
# A single letter at the edge of a name, as in "b-PER", "W-PER" or "PER_B": a place, not a category.
PLACE_LIKE = re.compile(r"^[A-Za-z][\W_]|[\W_][A-Za-z]$")
# Outputs that some heads have for what is no character.
UNUSED = {"X", "[START]", "[END]", "[PAD]", "[CLS]", "[SEP]", "<PAD>", "<START>", "<STOP>"}


class Spans(NamedTuple):
    """Entities of many rows as arrays, ordered by row and start; `end` exclusive, all int32 [E]."""

    row: np.ndarray
    type: np.ndarray  # index into the categories
    start: np.ndarray
    end: np.ndarray


class LabelSet:
    """The tags of a scheme over a list of categories.

    Schemes: `bio`, `bioes` and `io` (O is tag 0), and `mmocr` (see `LabelSet.mmocr`). `io` has one tag per
    category: a run of it is one entity, so two entities of a category that touch cannot be told apart. A head
    made elsewhere may have its tags in another order (see `LabelSet.from_names`).
    """

    def __init__(self, categories: Sequence[str], scheme: str = "bio"):
        check_choice(scheme, "data.scheme", SCHEMES)
        categories = check_strings(categories, "data.categories", "names")
        if not categories or len(set(categories)) != len(categories) or "" in categories:
            raise UserError(
                f"data.categories: {categories} must be distinct, not empty, and at least one."
            )
        self.categories, self.scheme = tuple(categories), scheme
        if scheme == "mmocr":
            names = ["X", *self._tags("B"), *self._tags("I"), "O", "[START]", "[END]"]
        else:
            names = [
                "O",
                *(tag for prefix in scheme.upper() if prefix != "O" for tag in self._tags(prefix)),
            ]
        self._set_names(names)

    def _set_names(self, names: list[str]) -> None:
        self.names = names
        self.outside = names.index("O")
        if self.scheme == "io":
            names = _with_prefix(names)
        self._type_id = {category: i for i, category in enumerate(self.categories)}
        split = [name.partition("-") for name in names]
        self._place = np.array([PLACES[p] if dash else OUTSIDE for p, dash, _ in split], np.int8)
        self._type = np.array([self._type_id[t] if dash else -1 for _, dash, t in split], np.int32)
        # Tag of a category at a place, [categories, places]; -1 where there is none.
        self._tag = np.full((len(self.categories), 5), -1, np.int32)
        inside = self._place != OUTSIDE
        self._tag[self._type[inside], self._place[inside]] = np.flatnonzero(inside)
        if self.scheme == "io":
            self._tag[:, BEGIN] = self._tag[:, INSIDE]
        self._tag_rows = self._tag.tolist()
        self._incomplete = bool((self._tag[:, [BEGIN, INSIDE]] < 0).any())

    @classmethod
    def mmocr(cls, categories: Sequence[str]) -> "LabelSet":
        """MMOCR's tags: X (padding), B- of each category, I- of each, O, [START], [END].

        Source: MMOCR 0.6.3, ner_convertor.py; differs: a category may hold a "-", which MMOCR cuts.
        """
        return cls(categories, "mmocr")

    @classmethod
    def from_names(cls, names: Sequence[str]) -> "LabelSet":
        """The tags of a head in the order of its outputs, as `id2label` or a label file lists them.

        Tags are O and a place with a category, "B-name"; places are B, I or M, E or L, S or U. The
        scheme follows from them. Where no tag has a place, or all have I, it is `io`. Names of what is no
        character ("[PAD]", "X") count as outside.

        Raises:
            UserError: a name is no tag, is there twice, or O or a category's B- is missing.
        """
        names = check_strings(names, "labels", "names")
        io = _is_io(names)
        split = [name.partition("-") for name in (_with_prefix(names) if io else names)]
        tags = [(PLACES[p], category) for p, _, category in split if p in PLACES and category]
        categories = list(dict.fromkeys(category for _, category in tags))
        fault = _fault(names, tags, io)
        if fault:
            raise UserError(
                f"labels {', '.join(names[:4])}{', ...' if len(names) > 4 else ''}: {fault}. Expected O and, "
                "for each category, its name alone, or B-NAME, I-NAME and so on, one name an output."
            )
        mmocr = cls.mmocr(categories)
        if names == mmocr.names:
            return mmocr
        ends = any(place in (END, SINGLE) for place, _ in tags)
        labels = cls(categories, "io" if io else "bioes" if ends else "bio")
        labels._set_names(names)
        return labels

    def __len__(self) -> int:
        return len(self.names)

    def bio_names(self) -> list[str]:
        """Return the BIO name of each tag: B- for B and S, I- for I and E, O for all others.

        Tags then share names. Well-formed tags keep their entities.
        """
        prefix = {BEGIN: "B", SINGLE: "B", INSIDE: "I", END: "I"}
        return [
            f"{prefix[place]}-{self.categories[kind]}" if place in prefix else "O"
            for place, kind in zip(self._place.tolist(), self._type.tolist(), strict=True)
        ]

    def standard_names(self) -> list[str]:
        """Return the names of the tags with the places B, I, E and S, however they are written in `names`."""
        prefix = {BEGIN: "B", INSIDE: "I", END: "E", SINGLE: "S"}
        return [
            f"{prefix[place]}-{self.categories[kind]}" if place in prefix else name
            for place, kind, name in zip(
                self._place.tolist(), self._type.tolist(), self.names, strict=True
            )
        ]

    def to_json(self) -> dict[str, Any]:
        return {"scheme": self.scheme, "categories": list(self.categories), "names": self.names}

    @classmethod
    def from_json(cls, row: dict[str, Any]) -> "LabelSet":
        """The inverse of `to_json`; `names` alone or `scheme` and `categories` are enough."""
        if row.get("scheme") == SpanLabels.scheme:
            return SpanLabels(row["categories"])
        if "names" in row:
            return cls.from_names(row["names"])
        return cls(row["categories"], row["scheme"])

    def encode(self, entities: Iterable[Sequence[Any]], length: int) -> np.ndarray:
        """Return the tags of a text of `length` characters, int32 [length + 2]; [CLS] and [SEP] are O.

        Of entities that overlap the longest is tagged (`drop_overlaps`). Under scheme `mmocr` the later one
        overwrites the earlier, which can leave tags that no entity has.

        Raises:
            UserError: for an unknown category, a span outside the text, or anything but entities.
        """
        length = check_integer(length, "length", 0)
        entities = check_entities(entities, "entities")
        for entity in entities:
            category, start, end = entity[:3]
            check_span(category, start, end, length)
        # MMOCR: a later entity overwrites an earlier one.
        kept = entities if self.scheme == "mmocr" else drop_overlaps(entities)[0]
        tags = np.full(length + 2, self.outside, np.int32)
        self.mark(tags, kept)
        return tags

    def mark(self, tags: np.ndarray, entities: Iterable[Sequence[Any]]) -> None:
        """Write a text's entities over its tags, int32 [length + 2], all O; otherwise as `encode`."""
        length = len(tags) - 2
        for entity in entities:
            category, start, end = entity[:3]
            tag = self._tag_rows[self.type_id(category)]
            check_span(category, start, end, length)
            tags[start + 1] = tag[BEGIN]
            tags[start + 2 : end + 1] = tag[INSIDE]
            last = tag[END if end - start > 1 else SINGLE]
            if last >= 0:
                tags[end] = last
        if self._incomplete and (tags < 0).any():
            raise UserError(
                f"these labels cannot mark every entity: {', '.join(self.names)}. Set data.scheme and "
                "data.categories for a head with all tags."
            )

    def type_id(self, category: str) -> int:
        """The number of a category.

        Raises:
            UserError: there is none such.
        """
        if category not in self._type_id:
            raise UserError(
                f"category {category!r} is not among {', '.join(self.categories)}. "
                "Add it to data.categories or correct the data."
            )
        return self._type_id[category]

    def legal_steps(self) -> np.ndarray:
        """Which tag may stand behind which in well-formed tags, bool [C, C]; O stands for a text's edge.

        Outputs that are no tag, as MMOCR's head has, stand beside nothing.
        """
        place, kind = self._place, self._type
        # A single-character entity is B where its category has no S, and a last character is I where it has no
        # E. So a B must be continued only beside an S, and an I only beside an E.
        singles, ends = (np.append(self._tag[:, mark] >= 0, False)[kind] for mark in (SINGLE, END))
        must_continue = ((place == BEGIN) & singles) | ((place == INSIDE) & ends)
        own = np.array([name == "O" or i >= 0 for name, i in zip(self.names, kind, strict=True)])
        goes_on = np.isin(place, (INSIDE, END)) & (self.scheme != "io")
        same = kind[:, None] == kind
        # Behind B and I stands an I or E of the same; or, without tags for the end, what is next.
        opened = np.isin(place, (BEGIN, INSIDE))
        legal = np.where(goes_on, opened[:, None] & same, ~must_continue[:, None])
        return legal & own[:, None] & own

    def conventions(self) -> tuple[str, ...]:
        """Those that can read these tags."""
        return tuple(c for c in CONVENTIONS if c != "mmocr" or self.scheme in ("bio", "mmocr"))

    def check(self, convention: str, name: str = "convention") -> None:
        """Raise `UserError`, which begins with `name`, for a convention that cannot read these tags."""
        check_convention(convention, name)
        if convention not in self.conventions():
            raise UserError(
                f"{name}: 'mmocr' does not support the tags of data.scheme {self.scheme}. Choose strict or "
                "lenient."
            )

    def decode(
        self, tags: np.ndarray, mask: np.ndarray, convention: str = "strict"
    ) -> list[list[tuple[str, int, int]]]:
        """Entities `(type, start, end)` of each row, `end` exclusive, offsets counting from behind [CLS].

        Args:
            tags: int [B, T], [CLS] first and [SEP] last of the positions that `mask` lets in.
            mask: bool or 0/1 [B, T], ones first.
            convention: `strict` (IOB2 or IOBES as they are defined; equals seqeval's strict mode),
                `lenient` (an orphan I- begins an entity; equals conlleval and seqeval's default) or
                `mmocr` (its own rules, marked in `spans`).

        Raises:
            UserError: another shape or dtype, a tag without a name, or an unsuitable convention.
        """
        spans = self.decode_spans(tags, mask, convention)
        rows: list[list[tuple[str, int, int]]] = [[] for _ in range(len(tags))]
        for row, kind, start, end in zip(*(column.tolist() for column in spans), strict=True):
            rows[row].append((self.categories[kind], start, end))
        return rows

    def decode_spans(self, tags: np.ndarray, mask: np.ndarray, convention: str = "strict") -> Spans:
        """As `decode`, all rows at once, as arrays."""
        self.check(convention)
        tags = np.ascontiguousarray(check_ids(tags, "tags"))
        mask = np.ascontiguousarray(check_mask(mask, "mask"))
        if tags.shape != mask.shape:
            raise UserError(
                f"mask: shape {mask.shape}, but tags have {tags.shape}. Both must be [B, T]."
            )
        if (mask[:, 1:] > mask[:, :-1]).any():
            raise UserError("mask: a 1 after a 0. The ones of a row must come first.")
        # In parts, so that what is made on the way stays in the processor's cache.
        parts = [
            self._part(tags[first : first + PART], mask[first : first + PART], first, convention)
            for first in range(0, max(len(tags), 1), PART)
        ]
        return Spans(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))

    def _part(self, tags: np.ndarray, mask: np.ndarray, first: int, convention: str) -> Spans:
        """As `decode_spans`; the rows count from `first`."""
        inside = tags != self.outside  # most characters are O: what follows is cheap without them
        if convention == "mmocr":
            # MMOCR: [SEP] is decoded too, so that an entity can end behind the text.
            inside &= mask
        else:
            # Inside is where the mask goes on behind; behind the last column lies the next row.
            inside.reshape(-1)[:-1] &= mask.reshape(-1)[1:]
            inside[:, -1:] = False
        inside[:, :1] = False  # [CLS]
        places, width = np.flatnonzero(inside), tags.shape[1]
        return self._spans(tags.reshape(-1)[places], first * width + places - 1, width, convention)

    def spans(
        self, tag: np.ndarray, row: np.ndarray, character: np.ndarray, convention: str
    ) -> Spans:
        """Entities of rows that lie end to end; characters that are left out are outside.

        Args:
            tag: int [M], a tag a character.
            row, character: int [M], whose and which character it is, ascending.
            convention: as in `decode`.
        """
        row, character = np.asarray(row, np.int64), np.asarray(character, np.int64)
        width = int(character.max(initial=0)) + 2  # so that no two rows touch
        return self._spans(np.asarray(tag), row * width + character, width, convention)

    def _spans(self, tag: np.ndarray, place: np.ndarray, width: int, convention: str) -> Spans:
        """As `spans`; `place`, int64 [M], is row * width + character."""
        self.check(convention)
        if len(tag) and not 0 <= tag.min() <= tag.max() < len(self.names):
            raise UserError(
                f"tags: values from {tag.min()} to {tag.max()}, but there are {len(self.names)} tags."
            )
        part, kind = self._place.take(tag), self._type.take(tag)
        # A chunk is a position and all that continue it.
        joined = np.zeros(len(place), bool)
        joined[1:] = (part[:-1] == BEGIN) | (part[:-1] == INSIDE)
        joined[1:] &= np.diff(place) == 1
        if convention == "mmocr":
            # MMOCR: an I- of another type neither ends nor extends the entity before it.
            joined &= part == INSIDE
        else:
            joined &= (part == INSIDE) | (part == END)
            joined[1:] &= kind[1:] == kind[:-1]
        head = np.flatnonzero(~joined)
        if not len(head):
            empty = np.zeros(0, np.int32)
            return Spans(empty, empty, empty, empty)
        last = np.append(head[1:], len(place)) - 1

        if convention == "lenient" or self.scheme == "io":
            keep = part[head] != OUTSIDE
        elif convention == "mmocr":
            # MMOCR: an entity ends at its last I-, and without one it is not an entity.
            keep = part[head] == BEGIN
            chunk = np.cumsum(~joined) - 1
            own = joined & (kind == kind[head][chunk])
            last = np.maximum.reduceat(np.where(own, np.arange(len(place)), -1), head)
            keep &= last >= 0
        else:
            # A category with a tag for the end, or for a single character, must show it.
            ends, singles = (self._tag[kind[head], mark] >= 0 for mark in (END, SINGLE))
            whole = np.where(last > head, ~ends | (part[last] == END), ~singles)
            keep = (part[head] == SINGLE) | ((part[head] == BEGIN) & whole)
        head, last = head[keep], last[keep]
        row, start = np.divmod(place[head], width)
        columns = (row, kind[head], start, start + (place[last] - place[head]) + 1)
        return Spans(*(values.astype(np.int32) for values in columns))

    def _tags(self, prefix: str) -> list[str]:
        return [f"{prefix}-{category}" for category in self.categories]


class SpanLabels(LabelSet):
    """The categories of a head that scores spans: there are no tags, and entities may lie in one another."""

    scheme = "span"

    def __init__(self, categories: Sequence[str]):
        super().__init__(categories)
        self.scheme = SpanLabels.scheme
        self.names, self.outside = list(categories), 0

    def number(self, category: str, length: int) -> int:
        """An entity that begins with a token and goes on for `length`, as a number above 0.

        Raises:
            UserError: for an unknown category.
        """
        return 1 + self.type_id(category) + len(self) * (length - 1)

    def conventions(self) -> tuple[str, ...]:
        return ("strict",)

    def check(self, convention: str, name: str = "convention") -> None:
        check_convention(convention, name)
        if convention not in self.conventions():
            raise UserError(
                f"{name}: {convention!r} is a way to read tags, and model.head global_pointer gives spans. "
                "Choose strict."
            )

    def mark(self, tags: np.ndarray, entities: Iterable[Sequence[Any]]) -> None:
        raise _no_tags()

    def legal_steps(self) -> np.ndarray:
        raise _no_tags()

    def _spans(self, tag: np.ndarray, place: np.ndarray, width: int, convention: str) -> Spans:
        raise _no_tags()


def _no_tags() -> UserError:
    return UserError(
        "model.head global_pointer gives spans, and this is about tags. Take another head."
    )


def check_span(category: str, start: int, end: int, length: int) -> None:
    """Raise `UserError` for a span that is not inside a text of `length` characters."""
    if fault := type_fault(start, end):
        raise UserError(f"{category}: {fault}")
    if not 0 <= start < end <= length:
        raise UserError(
            f"{category} has the span [{start}, {end}) in a text of {length} characters. "
            f"Expected 0 <= start < end <= {length}."
        )


def misspelling_of(category: str, others: Iterable[str]) -> str | None:
    """Return the category that `category` probably misspells, None if none is close enough.

    Close are names that differ in case, in the order of their letters, or in little of their length.
    One other letter in a short name is not enough: "name" and "game" are different categories.
    """
    scores = {}
    for other in sorted(others):
        one, two = category.casefold(), other.casefold()
        alike = sorted(one) == sorted(two)
        scores[other] = 1.0 if alike else SequenceMatcher(None, one, two).ratio()
    best = max(scores, key=scores.__getitem__, default=None)
    return best if best is not None and scores[best] >= 0.8 else None


def check_convention(convention: str, name: str = "convention") -> None:
    """Raise `UserError`, which begins with `name`, for an unknown convention."""
    check_choice(convention, name, CONVENTIONS)


def _is_io(names: Sequence[str]) -> bool:
    """Whether the names of a head's outputs are one per category, as "PER" or "I-PER"."""
    own = [name for name in names if name != "O" and name not in UNUSED]
    bare = not any(PLACE_LIKE.search(name) for name in own)
    inside = all(name.startswith("I-") and name != "I-" for name in own)
    return "O" in names and bool(own) and (bare or inside)


def _with_prefix(names: Sequence[str]) -> list[str]:
    """Return the names of `io` tags as "I-NAME"."""
    plain = [name == "O" or name in UNUSED or name.startswith("I-") for name in names]
    return [name if known else f"I-{name}" for name, known in zip(names, plain, strict=True)]


def _fault(names: list[str], tags: list[tuple[int, str]], io: bool) -> str | None:
    """Why the names of a head's outputs are no label set."""
    for name in names:
        place, _, category = name.partition("-")
        if name != "O" and name not in UNUSED and not (io or (place in PLACES and category)):
            return f"{name!r} is no tag"
    if "O" not in names:
        return "there is no O"
    if not tags:
        return "none has a category"
    if len(set(names)) < len(names) or len(set(tags)) < len(tags):
        return "two mean the same"
    for _, category in tags:
        if not io and (BEGIN, category) not in tags:
            return f"there is no B-{category}"
    return None
