"""Convert between texts with entities and tagged tokens: join tokens, detect and interpret tag schemes.

How tokens are joined: without a separator if every token of the data set is a single character
(`character_level`); otherwise with a space, except between two CJK characters. If the result is not
the original text, the text is stored beside the tokens. It may differ from them by white space only.
"""

import re
import unicodedata
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

from flax_ner.data.files import ConversionWarnings
from flax_ner.errors import UserError
from flax_ner.text.examples import Entity, Example
from flax_ner.text.tag_names import END, INSIDE, PREFIXES, SINGLE

# Prefixes of the first, a middle, the last and the only token of an entity.
SCHEMES = {
    "BIO": "BIIB", "BIOS": "BIIS", "BIOES": "BIES", "BMES": "BMES", "BMEWO": "BMEW", "BILOU": "BILU",
}  # fmt: skip
IOB1, IOE = "IOB1", "IOE"  # read, but not written; in IOE only the end of an entity is marked
READ_SCHEMES = (*SCHEMES, IOB1, IOE)
TAG_FORM = "O, or a prefix such as B- or I- and a category."
BARE_PREFIXES = frozenset("BIMELSUW")
# Words for O in other data sets. They are not read, because they may also be categories.
OUTSIDE_WORDS = frozenset(
    ["none", "null", "nil", "na", "n/a", "nan", "other", "out", "outside", ""]
)
TAG = re.compile(r"O|[BIMELSUW]-.+", re.DOTALL)
OUTSIDE = frozenset("Oo0")
DASHES = frozenset("-_")  # outside in files that have none of `OUTSIDE`
# Other spellings of a tag: b-x, B_x; and x-B, x_b.
_PREFIX_FIRST = re.compile(r"([BIMELSUW])[-_/:]([^\s\x02]+)", re.IGNORECASE)
_PREFIX_LAST = re.compile(r"([^\s\x02]+)[-_]([BIMELSUW])", re.IGNORECASE)
# Not a category without prefix: a number, or what remains of a tag.
_NO_CATEGORY = re.compile(r"[0-9]+|[BIMELSUW](\W.*)?|\W+", re.DOTALL)
# Prefixes written out, or without a separator: Begin-x and Inside-x, Bx and Ix.
_FIRST_PREFIX = re.compile(r"(?:(?i:begin|start)[\W_]|B)(.+)", re.DOTALL)
_LATER_PREFIX = re.compile(r"(?:(?i:inside|in|middle|end|last)[\W_]|[IME])(.+)", re.DOTALL)
# Han, kana, bopomofo, CJK punctuation and full-width forms: scripts without spaces between words.
# Hangul is not among them, because Korean has spaces.
_CJK = re.compile(
    "[\u2e80-\u312f\u31a0-\u33ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\ufe30-\ufe4f\uff00-\uffef"
    "\U00020000-\U0003ffff]"
)
_WORD = re.compile(r"\w+")
_POSITIONS = PREFIXES | {"W": SINGLE}  # tag prefix -> position within the entity
Spans = list[tuple[int, int]]  # start and exclusive end of each token


class TagSpelling(NamedTuple):
    """How a data set spells its tags.

    Attributes:
        name: "B-x", "x-B", or "x" for categories without prefix (IO).
        usual: whether every tag is spelled as this project writes it.
        outside: the tags of tokens outside of entities.
    """

    name: str
    usual: bool
    outside: frozenset[str] = OUTSIDE

    def normalize(self, tag: str) -> str | None:
        """Return a tag as `O` or PREFIX-CATEGORY, or None if it is not a tag."""
        if TAG.fullmatch(tag) and self.name == "B-x":
            return tag
        if tag in self.outside:
            return "O"
        if self.name == "x":
            return f"I-{tag}" if tag else None
        match = (_PREFIX_FIRST if self.name == "B-x" else _PREFIX_LAST).fullmatch(tag)
        if not match:
            return None
        prefix, category = match.groups() if self.name == "B-x" else match.groups()[::-1]
        return f"{prefix.upper()}-{category}"


def detect_spelling(tags: Mapping[str, int]) -> TagSpelling:
    """Return how a data set spells its tags.

    Args:
        tags: the number of times that each tag occurs.
    """
    first = _count_prefixes(tags, _PREFIX_FIRST, 1)
    last = _count_prefixes(tags, _PREFIX_LAST, 2)
    usual = all(TAG.fullmatch(tag) for tag in tags)
    outside = outside_tags(tags)
    if first >= last and (first or not tags.keys() - outside):
        return TagSpelling("B-x", usual, outside)
    if last:
        return TagSpelling("x-B", False, outside)
    if has_categories(tags):
        return TagSpelling("x", False)
    return TagSpelling("B-x", usual, outside)


def outside_tags(tags: Mapping[str, int]) -> frozenset[str]:
    """Return the tags that mean outside: `-` and `_` only in a file that has other tags, but no `O`."""
    names = tags.keys()
    return DASHES if names & DASHES and names - DASHES and not names & OUTSIDE else OUTSIDE


def outside_remedy(word: str) -> str:
    """Return a sentence that says how to tag tokens outside of entities in place of `word`."""
    return (
        f"Write O in place of {word!r} for tokens outside of entities (o and 0 are read like O, and - and _ "
        "beside tags with a prefix)."
    )


def _count_prefixes(tags: Mapping[str, int], form: re.Pattern[str], group: int) -> int:
    """Return how many tags have a prefix in this form, 0 if the letters may belong to the categories.

    Lower-case letters, and letters at the end, are prefixes only if B is among them. Others belong to a
    category such as "e-mail" or "vitamin-C".
    """
    found = {tag: match[group] for tag in tags if (match := form.fullmatch(tag))}
    letters = set(found.values())
    if group == 1:
        are_prefixes = "b" in letters or any(letter.isupper() for letter in letters)
    else:
        complete = len(found) == len(tags.keys() - outside_tags(tags))
        are_prefixes = "B" in letters or (
            complete and "b" in letters and bool(letters & set("ime"))
        )
    if not are_prefixes:
        return 0
    return sum(tags[tag] for tag in found)


def has_categories(tags: Mapping[str, int]) -> bool:
    """Return whether tags may be categories without a prefix (IO): some are outside, none is a number."""
    names = tags.keys() - OUTSIDE
    first = {match[1] for match in map(_FIRST_PREFIX.fullmatch, names) if match}
    later = {match[1] for match in map(_LATER_PREFIX.fullmatch, names) if match}
    return bool(OUTSIDE & tags.keys()) and not (
        first & later or any(map(_NO_CATEGORY.fullmatch, names))
    )


def is_prefixed_tag(tag: str) -> bool:
    """Return whether a string is a tag with a prefix, in any spelling."""
    return bool(_PREFIX_FIRST.fullmatch(tag) or _PREFIX_LAST.fullmatch(tag))


def is_tag_sequence(values: Sequence[Any]) -> bool:
    """Return whether all values are tags, in any spelling with prefixes."""
    return bool(values) and all(
        isinstance(value, str) and (value in OUTSIDE or is_prefixed_tag(value)) for value in values
    )


def is_character_level(sentences: Iterable[Sequence[str]]) -> bool:
    """Return whether every token is a single character."""
    return all(len(token) == 1 for tokens in sentences for token in tokens)


def count_pieces(tokens: Iterable[str]) -> int:
    """Return how many tokens look like pieces of words from a subword tokenizer."""
    return sum(
        (token[:2] == "##" and len(token) > 2) or (token[:1] in "\u2581\u0120" and len(token) > 1)
        for token in tokens
    )


def starts_with_cjk(token: str) -> bool:
    """Return whether the first character is CJK."""
    return bool(_CJK.match(token))


def join_tokens(tokens: Sequence[str], character_level: bool) -> tuple[str, Spans]:
    """Join tokens and return the text and the span of each token."""
    pieces, spans, end = [], [], 0
    for i, token in enumerate(tokens):
        if (
            i
            and not character_level
            and not (_CJK.match(tokens[i - 1][-1]) and _CJK.match(token[0]))
        ):
            pieces.append(" ")
            end += 1
        pieces.append(token)
        spans.append((end, end + len(token)))
        end += len(token)
    return "".join(pieces), spans


def align_tokens(tokens: Sequence[str], text: str) -> Spans | None:
    """Return the span of each token, or None if the text differs from the tokens by more than white space."""
    spans, end = [], 0
    for token in tokens:
        while not text.startswith(token, end) and text[end : end + 1].isspace():
            end += 1
        if not text.startswith(token, end):
            return None
        spans.append((end, end + len(token)))
        end += len(token)
    return None if text[end:].strip() else spans


def detect_scheme(sentences: Iterable[Sequence[str]]) -> str:
    """Return the tag scheme of a data set: the one of `SCHEMES` that covers most tags, or IOB1 or IOE.

    In IOB1, B- is used only for an entity that directly follows another one of its category.
    """
    prefixes: Counter[str] = Counter()
    inside_at_start = begin_at_start = 0  # entities that follow none of their category, by prefix
    for tags in sentences:
        for before, tag in pairwise(("O", *tags)):
            prefixes[tag[0]] += 1
            follows = before[1:] == tag[1:] and before != "O"
            inside_at_start += tag[0] == "I" and not follows
            begin_at_start += tag[0] == "B" and not follows
    scheme = max(SCHEMES, key=lambda name: sum(prefixes[prefix] for prefix in set(SCHEMES[name])))
    if prefixes["E"] + prefixes["L"] and not any(prefixes[prefix] for prefix in "BSUWM"):
        return IOE
    return IOB1 if scheme == "BIO" and inside_at_start and not begin_at_start else scheme


def entities_from_tags(
    tags: Sequence[str], sources: Sequence[str], scheme: str, warnings: ConversionWarnings
) -> list[tuple[str, int, int]]:
    """Return the entities of a tagged sentence as (type, first token, last token + 1).

    Invalid tag sequences are tolerated and counted, because published data sets have them (Resume with
    its 13,438 entities has both kinds). In BIO, an I- that continues no entity starts one. In schemes
    with end tags, such a tag is read as O, and an entity without an end tag is kept. A prefix of another
    scheme keeps its meaning there.
    """
    prefixes = SCHEMES.get(scheme, "BIEL" if scheme == IOE else "BI")
    has_end_tags = scheme in SCHEMES and prefixes[1] != prefixes[2]
    entities: list[tuple[str, int, int]] = []
    current: tuple[str, int] | None = None  # type and first token of the entity not yet ended
    for i, tag in enumerate((*tags, "O")):
        prefix, _, category = tag.partition("-")
        position = _POSITIONS.get(prefix)
        if prefix not in prefixes and prefix != "O":
            warnings.add(f"tags that are not part of {scheme}, read by their prefix", sources[i])
        continues = position in (INSIDE, END)
        if current and not (continues and category == current[0]):
            warnings.add("entities without an end tag, kept", sources[current[1]], has_end_tags)
            entities.append((*current, i))
            current = None
        if continues and not current:
            if has_end_tags:
                warnings.add("tags that continue no entity, read as O", sources[i])
                continue
            if scheme == "BIO":
                warnings.add("I- tags that continue no entity, read as B-", sources[i])
        if position is not None and not current:
            current = category, i
        if current and position in (END, SINGLE):
            entities.append((*current, i + 1))
            current = None
    return entities


def token_spans(text: str, entities: Iterable[Entity], character_level: bool) -> Spans:
    """Split a text into characters or words and return their spans.

    A word is a run of letters, marks and digits that are not CJK. It is split where an entity starts
    or ends. Any other character is a token of its own. White space belongs to no token.
    """
    boundaries = {edge for entity in entities for edge in entity[1:3]}
    spans: Spans = []
    in_word = False
    for i, character in enumerate(text):
        if character.isspace():
            in_word = False
            continue
        # Unicode categories L (letter), M (mark) and N (number).
        letter = not character_level and unicodedata.category(character)[0] in "LMN"
        letter = letter and not _CJK.match(character)
        if letter and in_word and i not in boundaries:
            spans[-1] = spans[-1][0], i + 1
        else:
            spans.append((i, i + 1))
        in_word = letter
    return spans


def tags_from_entities(
    example: Example, spans: Spans, scheme: str, warnings: ConversionWarnings
) -> list[str]:
    """Return the tag of each token of `token_spans`.

    Of overlapping entities only the first is kept (the longer one if both start together); the others
    are counted in `warnings`.
    """
    begin, inside, end, single = tuple(SCHEMES[scheme])
    tags = ["O"] * len(spans)
    starts, ends = [a for a, _ in spans], [b for _, b in spans]  # both ascending
    for entity in sorted(example.entities or (), key=lambda e: (e.start, -e.end)):
        tokens = range(bisect_left(starts, entity.start), bisect_right(ends, entity.end))
        if not tokens:
            warnings.add("entities of white space only, left out", example.source)
            continue
        if any(tags[i] != "O" for i in tokens):
            warnings.add("entities that overlap an earlier entity, left out", example.source)
            continue
        first, last = tokens[0], tokens[-1]
        trimmed = spans[first][0] > entity.start or spans[last][1] < entity.end
        warnings.add("entities with white space at the edges, trimmed", example.source, trimmed)
        tags[first : last + 1] = [f"{inside}-{entity.type}"] * len(tokens)
        tags[last] = f"{end}-{entity.type}"
        tags[first] = f"{begin if last > first else single}-{entity.type}"
    return tags


def has_cjk(examples: Iterable[Example]) -> bool:
    """Return whether any text has a CJK character, in which case its tokens should be characters."""
    return any(_CJK.search(example.text) for example in examples)


def cjk_share(texts: Iterable[str]) -> float:
    """Return the CJK characters' share of all CJK characters and words of other scripts; 0 if none."""
    cjk = words = 0
    for text in texts:
        others, count = _CJK.subn(" ", text)
        cjk += count
        words += len(_WORD.findall(others))
    return cjk / max(cjk + words, 1)


def example_from_tags(
    tokens: Sequence[str], text: str | None, tags: Sequence[str], sources: Sequence[str],
    scheme: str, character_level: bool, warnings: ConversionWarnings,
) -> Example:  # fmt: skip
    """Return the example of a tagged sentence.

    Args:
        tokens: the tokens of the sentence.
        text: the text stored beside the tokens; None to join the tokens.
        tags: the tag of each token.
        sources: the `file:line` of each token.
        scheme: tag scheme, as returned by `detect_scheme`.
        character_level: whether tokens are joined without a separator.
        warnings: receives the invalid tag sequences.

    Raises:
        UserError: the text differs from the tokens by more than white space.
    """
    spans: Spans | None
    if text is None:
        text, spans = join_tokens(tokens, character_level)
    else:
        spans = align_tokens(tokens, text)
        if spans is None:
            raise UserError(
                f"{sources[0]}: the tokens do not match the text {text[:40]!r} beside them. Only white space "
                "may differ. Correct the text, or delete it to join the tokens."
            )
    entities = [
        Entity(
            category,
            spans[first][0],
            spans[last - 1][1],
            text[spans[first][0] : spans[last - 1][1]],
        )
        for category, first, last in entities_from_tags(tags, sources, scheme, warnings)
    ]
    return Example(text, tuple(entities), sources[0])
