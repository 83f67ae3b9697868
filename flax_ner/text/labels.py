"""Label sets: convert entities to tag ids and decode tag ids under a named convention."""

from collections.abc import Iterable, Sequence
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
from flax_ner.text.examples import offset_type_error
from flax_ner.text.overlaps import drop_overlaps
from flax_ner.text.tag_names import (
    BEGIN,
    END,
    INSIDE,
    OUTSIDE,
    PREFIXES,
    SINGLE,
    add_inside_prefix,
    find_problem,
    is_io,
)

SCHEMES = ("bio", "bioes", "io", "mmocr")
CONVENTIONS = ("strict", "lenient", "mmocr")

DECODE_ROWS = 8192  # rows decoded at a time


class Spans(NamedTuple):
    """The entities of many rows, sorted by row and start. Each array is int32 [E]."""

    row: np.ndarray
    category_id: np.ndarray  # index into `LabelSet.categories`
    start: np.ndarray
    end: np.ndarray  # exclusive


class LabelSet:
    """The tags of a tagging scheme over a list of entity categories.

    Schemes are `bio`, `bioes`, `io` (in all three O is tag 0) and `mmocr` (see `LabelSet.mmocr`). `io` has one
    tag per category. It cannot separate two adjacent entities of the same category. Use `LabelSet.from_names`
    for a head from another framework, whose tags may have another order.

    Example:
        >>> labels = LabelSet(["name", "place"])
        >>> labels.names
        ['O', 'B-name', 'B-place', 'I-name', 'I-place']
        >>> tags = labels.encode([("name", 0, 2)], length=3)  # [CLS], three characters, [SEP]
        >>> tags.tolist()
        [0, 1, 3, 0, 0]
        >>> labels.decode(tags[None], np.ones((1, 5)))
        [[('name', 0, 2)]]

    Args:
        categories: distinct, non-empty category names.
        scheme: one of `SCHEMES`.

    Raises:
        UserError: the scheme is unknown, or the categories are empty or not distinct.

    Attributes:
        categories: category names.
        scheme: tagging scheme.
        names: tag names in the order of the head's outputs.
        outside: id of the tag O.
    """

    def __init__(self, categories: Sequence[str], scheme: str = "bio"):
        check_choice(scheme, "data.scheme", SCHEMES)
        categories = check_strings(categories, "data.categories", "names")
        if not categories or len(set(categories)) != len(categories) or "" in categories:
            raise UserError(
                f"data.categories: {categories}. Give one or more category names, distinct and not empty."
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
            names = add_inside_prefix(names)
        self._category_ids = {category: i for i, category in enumerate(self.categories)}
        split = [name.partition("-") for name in names]
        # Prefix and category of each tag, [C].
        self._prefix = np.array([PREFIXES[p] if dash else OUTSIDE for p, dash, _ in split], np.int8)
        self._category_id = np.array(
            [self._category_ids[category] if dash else -1 for _, dash, category in split], np.int32
        )
        # Tag id of each category and prefix, [categories, 5]; -1 if the head has no such tag.
        self._tag = np.full((len(self.categories), 5), -1, np.int32)
        inside = self._prefix != OUTSIDE
        self._tag[self._category_id[inside], self._prefix[inside]] = np.flatnonzero(inside)
        if self.scheme == "io":
            self._tag[:, BEGIN] = self._tag[:, INSIDE]
        self._tag_rows = self._tag.tolist()
        self._incomplete = bool((self._tag[:, [BEGIN, INSIDE]] < 0).any())

    @classmethod
    def mmocr(cls, categories: Sequence[str]) -> "LabelSet":
        """Return MMOCR's tags: X (padding), B- and I- tags, O, [START], [END].

        Source: MMOCR 0.6.3, ner_convertor.py; differs: a category name may contain a "-", where MMOCR truncates
        it.
        """
        return cls(categories, "mmocr")

    @classmethod
    def from_names(cls, names: Sequence[str]) -> "LabelSet":
        """Return the label set of a head with these outputs, e.g. from `id2label` or a label file.

        A tag is O or a prefix and a category, "B-name". Prefixes are B, I or M, E or L, S or U. The scheme is
        inferred from them. If no tag has a prefix, or all have I, the scheme is `io`. Special outputs
        (`tag_names.SPECIAL_TAGS`, e.g. "[PAD]" or "X") are read as O.

        Args:
            names: tag names in the order of the head's outputs.

        Raises:
            UserError: a name is not a tag or occurs twice, or O or the B- tag of a category is missing.
        """
        names = check_strings(names, "labels", "names")
        io = is_io(names)
        split = [name.partition("-") for name in (add_inside_prefix(names) if io else names)]
        tags = [(PREFIXES[p], category) for p, _, category in split if p in PREFIXES and category]
        categories = list(dict.fromkeys(category for _, category in tags))
        problem = find_problem(names, tags, io)
        if problem:
            shown = f"{', '.join(names[:4])}{', ...' if len(names) > 4 else ''}"
            raise UserError(
                f"labels {shown}: {problem}. Give one name per output: O and, for each category, NAME alone or "
                "B-NAME, I-NAME and so on."
            )
        mmocr = cls.mmocr(categories)
        if names == mmocr.names:
            return mmocr
        bioes = any(prefix in (END, SINGLE) for prefix, _ in tags)
        labels = cls(categories, "io" if io else "bioes" if bioes else "bio")
        labels._set_names(names)
        return labels

    def __len__(self) -> int:
        return len(self.names)

    def bio_names(self) -> list[str]:
        """Return the BIO name of each tag: B- for B and S, I- for I and E, O for all others.

        Several tags can have the same BIO name. Well-formed sequences of all schemes but `io` keep their
        entities. The tags of `io` all become I-, which only `lenient` decodes.
        """
        letter = {BEGIN: "B", SINGLE: "B", INSIDE: "I", END: "I"}
        return [
            f"{letter[prefix]}-{self.categories[i]}" if prefix in letter else "O"
            for prefix, i in zip(self._prefix.tolist(), self._category_id.tolist(), strict=True)
        ]

    def standard_names(self) -> list[str]:
        """Return `names` with the prefixes B, I, E and S, e.g. "E-name" for "L-name"."""
        letter = {BEGIN: "B", INSIDE: "I", END: "E", SINGLE: "S"}
        return [
            f"{letter[prefix]}-{self.categories[i]}" if prefix in letter else name
            for prefix, i, name in zip(
                self._prefix.tolist(), self._category_id.tolist(), self.names, strict=True
            )
        ]

    def to_json(self) -> dict[str, Any]:
        return {"scheme": self.scheme, "categories": list(self.categories), "names": self.names}

    @classmethod
    def from_json(cls, row: dict[str, Any]) -> "LabelSet":
        """Return the label set of an object that `to_json` returned.

        Args:
            row: needs `names`, or `scheme` and `categories`.

        Raises:
            UserError: fields are missing, or do not describe a label set.
        """
        if isinstance(row, dict):
            scheme, categories, names = (row.get(x) for x in ("scheme", "categories", "names"))
            if scheme == SpanLabels.scheme and categories is not None:
                nested = row.get("nested", True)  # missing in earlier versions
                if type(nested) is not bool:
                    raise UserError(f"labels: nested is {nested!r}. Expected true or false.")
                return SpanLabels(categories, nested)
            if names is not None:
                return cls.from_names(names)
            if scheme is not None and categories is not None:
                return cls(categories, scheme)
        raise UserError(
            'labels: expected {"names": [...]} or {"scheme": "bio", "categories": [...]}. Add what is missing.'
        )

    def encode(self, entities: Iterable[Sequence[Any]], length: int) -> np.ndarray:
        """Return the tags of a text.

        If entities overlap, only the longest is tagged (`drop_overlaps`). Under the scheme `mmocr` a later
        entity overwrites an earlier one, which can leave an ill-formed tag sequence.

        Args:
            entities: each starts with (type, start, end), `end` exclusive.
            length: number of characters.

        Returns:
            int32 [length + 2]. The tags of [CLS] and [SEP] are O.

        Raises:
            UserError: an element is not an entity, a category is unknown, or a span is outside the text.
        """
        length = check_integer(length, "length", 0)
        entities = check_entities(entities, "entities")
        for entity in entities:
            category, start, end = entity[:3]
            check_span(category, start, end, length)
        # MMOCR: a later entity overwrites an earlier one.
        kept = entities if self.scheme == "mmocr" else drop_overlaps(entities)[0]
        tags = np.full(length + 2, self.outside, np.int32)
        self.write_tags(tags, kept)
        return tags

    def write_tags(self, tags: np.ndarray, entities: Iterable[Sequence[Any]]) -> None:
        """Write the entities of a text into its tags, in place; a later entity overwrites an earlier one.

        Args:
            tags: int32 [length + 2], all O; the first and the last are those of [CLS] and [SEP].
            entities: each starts with (type, start, end). A span must be inside the text; this is not checked.

        Raises:
            UserError: a category is unknown, or the label set lacks a tag that an entity needs.
        """
        for entity in entities:
            category, start, end = entity[:3]
            tag = self._tag_rows[self.category_id(category)]
            tags[start + 1] = tag[BEGIN]
            tags[start + 2 : end + 1] = tag[INSIDE]
            last = tag[END if end - start > 1 else SINGLE]
            if last >= 0:
                tags[end] = last
        if self._incomplete and (tags < 0).any():
            raise UserError(
                f"labels {', '.join(self.names)}: cannot encode every entity. Set data.scheme and "
                "data.categories to train a head with all tags."
            )

    def category_id(self, category: str) -> int:
        """Return the index of a category in `categories`.

        Raises:
            UserError: the category is unknown.
        """
        if category not in self._category_ids:
            raise UserError(
                f"category {category!r} is not among {', '.join(self.categories)}. "
                "Add it to data.categories or correct the data."
            )
        return self._category_ids[category]

    def allowed_transitions(self) -> np.ndarray:
        """Return which tag may follow which in a well-formed sequence.

        Special outputs such as MMOCR's [START] have no allowed transitions.

        Returns:
            bool [C, C], indexed [from, to]. O also stands for the start and the end of the text.
        """
        prefix, category_id = self._prefix, self._category_id
        # Without an S- tag a single-character entity is a lone B-, and without an E- tag the last character is
        # an I-. So a B- must be continued only if its category has S-, and an I- only if it has E-.
        has_single, has_end = (
            np.append(self._tag[:, p] >= 0, False)[category_id] for p in (SINGLE, END)
        )
        must_continue = ((prefix == BEGIN) & has_single) | ((prefix == INSIDE) & has_end)
        is_tag = (category_id >= 0) | (np.array(self.names) == "O")
        continues = np.isin(prefix, (INSIDE, END)) & (self.scheme != "io")
        same_category = category_id[:, None] == category_id
        # I- and E- follow a B- or I- of their category. All other tags follow any tag that may end an entity.
        is_open = np.isin(prefix, (BEGIN, INSIDE))
        allowed = np.where(continues, is_open[:, None] & same_category, ~must_continue[:, None])
        return allowed & is_tag[:, None] & is_tag

    def conventions(self) -> tuple[str, ...]:
        """Return the decoding conventions that support these tags."""
        return tuple(c for c in CONVENTIONS if c != "mmocr" or self.scheme in ("bio", "mmocr"))

    def check(self, convention: str, name: str = "convention") -> None:
        """Raise `UserError` if a decoding convention is unknown or does not support these tags.

        Args:
            convention: one of `CONVENTIONS`.
            name: parameter, field or option that the message names.
        """
        check_convention(convention, name)
        if convention not in self.conventions():
            raise UserError(
                f"{name}: 'mmocr' does not support the tags of data.scheme {self.scheme}. Choose strict or "
                "lenient."
            )

    def decode(
        self, tags: np.ndarray, mask: np.ndarray, convention: str = "strict"
    ) -> list[list[tuple[str, int, int]]]:
        """Return the entities of each row.

        Args:
            tags: int [B, T]. In each row the first unmasked tag is that of [CLS] and the last that of [SEP].
            mask: bool or 0/1 [B, T]; the ones come first in each row.
            convention: `strict` follows the definition of IOB2 or IOBES and equals seqeval's strict mode.
                `lenient` starts an entity at an orphan I- and equals conlleval and seqeval's default mode.
                `mmocr` follows MMOCR's rules, which are marked in the source.

        Returns:
            For each row a list of (type, start, end). Offsets do not count [CLS]; `end` is exclusive.

        Raises:
            UserError: a shape or dtype is wrong, a tag id is out of range, or the convention does not
                support these tags.
        """
        spans = self.decode_spans(tags, mask, convention)
        rows: list[list[tuple[str, int, int]]] = [[] for _ in range(len(tags))]
        for row, category_id, start, end in zip(
            *(column.tolist() for column in spans), strict=True
        ):
            rows[row].append((self.categories[category_id], start, end))
        return rows

    def decode_spans(self, tags: np.ndarray, mask: np.ndarray, convention: str = "strict") -> Spans:
        """Return the entities of all rows as arrays. Arguments and errors are those of `decode`."""
        self.check(convention)
        tags = np.ascontiguousarray(check_ids(tags, "tags"))
        mask = np.ascontiguousarray(check_mask(mask, "mask"))
        if tags.shape != mask.shape:
            raise UserError(
                f"mask: shape {mask.shape}, but tags have shape {tags.shape}. Both must be [B, T]."
            )
        if (mask[:, 1:] > mask[:, :-1]).any():
            raise UserError("mask: a 1 follows a 0. The ones of each row must come first.")
        # Decode a limited number of rows at a time, so that temporary arrays stay in the CPU cache.
        parts = [
            self._decode_rows(
                tags[first : first + DECODE_ROWS],
                mask[first : first + DECODE_ROWS],
                first,
                convention,
            )
            for first in range(0, max(len(tags), 1), DECODE_ROWS)
        ]
        return Spans(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))

    def _decode_rows(
        self, tags: np.ndarray, mask: np.ndarray, first_row: int, convention: str
    ) -> Spans:
        # Most tags are O. Dropping them first makes the rest cheap.
        inside = tags != self.outside
        if convention == "mmocr":
            # MMOCR: [SEP] is decoded too, so an entity can end after the last character.
            inside &= mask
        else:
            # Exclude [SEP]: a position counts only if the next one is unmasked. In the flat view the position
            # after the last column is in the next row, so the last column is cleared separately.
            inside.reshape(-1)[:-1] &= mask.reshape(-1)[1:]
            inside[:, -1:] = False
        inside[:, :1] = False  # [CLS]
        positions, width = np.flatnonzero(inside), tags.shape[1]
        return self._decode_flat(
            tags.reshape(-1)[positions], first_row * width + positions - 1, width, convention
        )

    def spans(self, tag: np.ndarray, row: np.ndarray, index: np.ndarray, convention: str) -> Spans:
        """Return the entities of concatenated rows of characters or words. Those left out count as O.

        Args:
            tag: int [M], tag of each character or word.
            row: int [M], its row, ascending.
            index: int [M], its index in the row, ascending within a row.
            convention: see `decode`.

        Returns:
            The entities; start and end are in the unit of `index`.

        Raises:
            UserError: a tag id is out of range, or the convention does not support these tags.
        """
        row, index = np.asarray(row, np.int64), np.asarray(index, np.int64)
        width = int(index.max(initial=0)) + 2  # leaves a gap, so that rows are not adjacent
        return self._decode_flat(np.asarray(tag), row * width + index, width, convention)

    def _decode_flat(
        self, tag: np.ndarray, position: np.ndarray, width: int, convention: str
    ) -> Spans:
        """Return the entities of tags, int [M], at positions `row * width + index`, int64 [M]."""
        self.check(convention)
        if len(tag) and not 0 <= tag.min() <= tag.max() < len(self.names):
            raise UserError(
                f"tags: ids from {tag.min()} to {tag.max()}, but there are {len(self.names)} tags."
            )
        prefix, category_id = self._prefix.take(tag), self._category_id.take(tag)
        # Split the tags into runs: a first tag and the adjacent tags that continue it.
        continues = np.zeros(len(position), bool)
        continues[1:] = (prefix[:-1] == BEGIN) | (prefix[:-1] == INSIDE)
        continues[1:] &= np.diff(position) == 1
        if convention == "mmocr":
            # MMOCR: an I- of another category neither ends nor extends the entity before it.
            continues &= prefix == INSIDE
        else:
            continues &= (prefix == INSIDE) | (prefix == END)
            continues[1:] &= category_id[1:] == category_id[:-1]
        first = np.flatnonzero(~continues)
        if not len(first):
            empty = np.zeros(0, np.int32)
            return Spans(empty, empty, empty, empty)
        last = np.append(first[1:], len(position)) - 1

        # Keep the runs that are entities under the convention.
        if convention == "lenient" or self.scheme == "io":
            keep = prefix[first] != OUTSIDE
        elif convention == "mmocr":
            # MMOCR: an entity ends at its last I-, and without one it is not an entity.
            keep = prefix[first] == BEGIN
            run = np.cumsum(~continues) - 1
            same_category = continues & (category_id == category_id[first][run])
            last = np.maximum.reduceat(np.where(same_category, np.arange(len(position)), -1), first)
            keep &= last >= 0
        else:
            # A category that has an E- or S- tag must use it.
            has_end, has_single = (self._tag[category_id[first], p] >= 0 for p in (END, SINGLE))
            complete = np.where(last > first, ~has_end | (prefix[last] == END), ~has_single)
            keep = (prefix[first] == SINGLE) | ((prefix[first] == BEGIN) & complete)
        first, last = first[keep], last[keep]
        row, start = np.divmod(position[first], width)
        columns = (row, category_id[first], start, start + (position[last] - position[first]) + 1)
        return Spans(*(values.astype(np.int32) for values in columns))

    def _tags(self, prefix: str) -> list[str]:
        return [f"{prefix}-{category}" for category in self.categories]


class SpanLabels(LabelSet):
    """The categories of a head that scores spans instead of tags.

    Args:
        categories: names of the categories.
        nested: whether predicted entities may overlap.
    """

    scheme = "span"

    def __init__(self, categories: Sequence[str], nested: bool = True):
        super().__init__(categories)
        self.scheme, self.nested = SpanLabels.scheme, nested
        self.names, self.outside = list(categories), 0

    def to_json(self) -> dict[str, Any]:
        return super().to_json() | {"nested": self.nested}

    def encode_span(self, category: str, length: int) -> int:
        """Return the label, above 0, of the first token of an entity of `length` tokens.

        Raises:
            UserError: the category is unknown.
        """
        return 1 + self.category_id(category) + len(self) * (length - 1)

    def conventions(self) -> tuple[str, ...]:
        return ("strict",)

    def check(self, convention: str, name: str = "convention") -> None:
        check_convention(convention, name)
        if convention not in self.conventions():
            raise UserError(
                f"{name}: {convention!r} decodes tags, but model.head global_pointer predicts spans. Choose "
                "strict."
            )

    def bio_names(self) -> list[str]:
        raise _no_tags_error()

    def standard_names(self) -> list[str]:
        raise _no_tags_error()

    def write_tags(self, tags: np.ndarray, entities: Iterable[Sequence[Any]]) -> None:
        raise _no_tags_error()

    def allowed_transitions(self) -> np.ndarray:
        raise _no_tags_error()

    def _decode_flat(
        self, tag: np.ndarray, position: np.ndarray, width: int, convention: str
    ) -> Spans:
        raise _no_tags_error()


def _no_tags_error() -> UserError:
    return UserError(
        "model.head: global_pointer predicts spans and has no tags. Choose another model.head."
    )


def check_span(category: str, start: int, end: int, length: int) -> None:
    """Raise `UserError` if a span is not inside a text of `length` characters."""
    if problem := offset_type_error(start, end):
        raise UserError(f"{category}: {problem}")
    if not 0 <= start < end <= length:
        raise UserError(
            f"{category} has the span [{start}, {end}) in a text of {length} characters. "
            f"Expected 0 <= start < end <= {length}."
        )


def check_convention(convention: str, name: str = "convention") -> None:
    """Raise `UserError` if a convention is unknown. The message starts with `name`."""
    check_choice(convention, name, CONVENTIONS)
