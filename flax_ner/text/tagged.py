"""Texts as tagged tokens, and back: how tokens are joined, what the tags of every scheme mean.

Tokens are joined without anything between them where each token of the data is one character
(`characters`), else with a space, but not between two CJK characters. Where that does not give the
text, the text itself stands beside the tokens, which differ from it by white space alone.
"""

import re
import unicodedata
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import pairwise

from flax_ner.errors import UserError
from flax_ner.text.examples import Entity, Example
from flax_ner.text.files import Losses
from flax_ner.text.labels import END, INSIDE, PLACES, SINGLE

# How the schemes write the first, a middle, the last and the only token of an entity.
SCHEMES = {"BIO": "BIIB", "BIOES": "BIES", "BMES": "BMES", "BMEWO": "BMEW", "BILOU": "BILU"}
TAG = re.compile(r"O|[BIMELSUW]-.+", re.DOTALL)
# Han, kana, bopomofo, CJK punctuation and full-width forms: scripts that have no space between
# words. Hangul has.
_CJK = re.compile(
    "[\u2e80-\u312f\u31a0-\u33ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\ufe30-\ufe4f\uff00-\uffef"
    "\U00020000-\U0003ffff]"
)
_WORD = re.compile(r"\w+")
_PLACES = PLACES | {"W": SINGLE}
Spans = list[tuple[int, int]]


def one_character_each(tokens: Iterable[Sequence[str]]) -> bool:
    """Whether tokens are characters, so that they are joined without a space."""
    return all(len(token) == 1 for sentence in tokens for token in sentence)


def joined(tokens: Sequence[str], characters: bool) -> tuple[str, Spans]:
    """The text of tokens, and where each lies in it."""
    parts, spans, end = [], [], 0
    for i, token in enumerate(tokens):
        if i and not characters and not (_CJK.match(tokens[i - 1][-1]) and _CJK.match(token[0])):
            parts.append(" ")
            end += 1
        parts.append(token)
        spans.append((end, end + len(token)))
        end += len(token)
    return "".join(parts), spans


def aligned(tokens: Sequence[str], text: str) -> Spans | None:
    """Where each token lies in a text that differs from them by white space alone; else None."""
    spans, end = [], 0
    for token in tokens:
        while not text.startswith(token, end) and text[end : end + 1].isspace():
            end += 1
        if not text.startswith(token, end):
            return None
        spans.append((end, end + len(token)))
        end += len(token)
    return None if text[end:].strip() else spans


def scheme_of(sentences: Iterable[Sequence[str]]) -> str:
    """The scheme of tags: that of `SCHEMES` which has most of them, or IOB1.

    IOB1 has B- only where an entity follows another one of its category.
    """
    count: Counter[str] = Counter()
    orphans = needless = 0
    for tags in sentences:
        for before, tag in pairwise(("O", *tags)):
            count[tag[0]] += 1
            follows = before[1:] == tag[1:] and before != "O"
            orphans += tag[0] == "I" and not follows
            needless += tag[0] == "B" and not follows
    scheme = max(SCHEMES, key=lambda name: sum(count[mark] for mark in set(SCHEMES[name])))
    return "IOB1" if scheme == "BIO" and orphans and not needless else scheme


def entities_of(
    tags: Sequence[str], sources: Sequence[str], scheme: str, losses: Losses
) -> list[tuple[str, int, int]]:
    """Entities (type, first token, last token + 1) of the tags of a sentence.

    Raises:
        UserError: a tag of another scheme; begins with its source.

    Tags that cannot stand where they do are counted: in BIO an I- where no entity goes on begins one;
    in schemes that mark ends it is outside, and an entity without its end is one nevertheless.
    Source: the sets people have are so; Resume, published with 13,438 entities, has both kinds.
    """
    marks = SCHEMES.get(scheme, SCHEMES["BIO"])  # IOB1 has the same
    has_ends = marks[1] != marks[2]
    found: list[tuple[str, int, int]] = []
    begun: tuple[str, int] | None = None  # the entity that goes on, and its first token
    for i, tag in enumerate((*tags, "O")):
        mark, _, category = tag.partition("-")
        if mark not in marks and mark != "O":
            raise UserError(f"{sources[i]}: {tag}, but the tags of the file are {scheme}.")
        place = _PLACES.get(mark)
        continues = place in (INSIDE, END)
        if begun and not (continues and category == begun[0]):
            losses.add(
                "entities without a tag for their end, read all the same",
                sources[begun[1]],
                has_ends,
            )
            found.append((*begun, i))
            begun = None
        if continues and not begun:
            if has_ends:
                losses.add("tags inside an entity that is not begun, read as O", sources[i])
                continue
            if scheme == "BIO":
                losses.add("I- that begins an entity, read as B-", sources[i])
        if place is not None and not begun:
            begun = category, i
        if begun and place in (END, SINGLE):
            found.append((*begun, i + 1))
            begun = None
    return found


def tokenised(text: str, entities: Iterable[Entity], characters: bool) -> Spans:
    """Where the tokens of a text lie: characters, or words; none has white space or goes over an edge.

    A word is a run of letters, marks and digits that are not CJK, and is cut where an entity begins
    or ends; any other character is a token of its own.
    """
    cuts = {edge for entity in entities for edge in entity[1:3]}
    spans: Spans = []
    in_word = False
    for i, character in enumerate(text):
        if character.isspace():
            in_word = False
            continue
        letter = not characters and unicodedata.category(character)[0] in "LMN"
        letter = letter and not _CJK.match(character)
        if letter and in_word and i not in cuts:
            spans[-1] = spans[-1][0], i + 1
        else:
            spans.append((i, i + 1))
        in_word = letter
    return spans


def tags_of(example: Example, spans: Spans, scheme: str, losses: Losses) -> list[str]:
    """The tag of each token of `tokenised`; what tags cannot hold is counted."""
    begin, inside, end, single = tuple(SCHEMES[scheme])
    tags = ["O"] * len(spans)
    starts, ends = [a for a, _ in spans], [b for _, b in spans]  # both ascending
    for entity in sorted(example.entities or (), key=lambda e: (e.start, -e.end)):
        here = range(bisect_left(starts, entity.start), bisect_right(ends, entity.end))
        if not here:
            losses.add("entities of white space alone, left out", example.source)
            continue
        if any(tags[i] != "O" for i in here):
            losses.add("entities that overlap an earlier one, left out", example.source)
            continue
        first, last = here[0], here[-1]
        edges = spans[first][0] > entity.start or spans[last][1] < entity.end
        losses.add("white space at the edge of an entity, left out of it", example.source, edges)
        tags[first : last + 1] = [f"{inside}-{entity.type}"] * len(here)
        tags[last] = f"{end}-{entity.type}"
        tags[first] = f"{begin if last > first else single}-{entity.type}"
    return tags


def has_cjk(examples: Iterable[Example]) -> bool:
    """Whether any text has a CJK character, so that its tokens had better be characters."""
    return any(_CJK.search(example.text) for example in examples)


def cjk_share(texts: Iterable[str]) -> float:
    """Return the share of CJK characters among these and the words of other scripts; 0 without either."""
    cjk = words = 0
    for text in texts:
        others, found = _CJK.subn(" ", text)
        cjk += found
        words += len(_WORD.findall(others))
    return cjk / max(cjk + words, 1)


def example_of(
    tokens: Sequence[str], text: str | None, tags: Sequence[str], sources: Sequence[str],
    scheme: str, characters: bool, losses: Losses,
) -> Example:  # fmt: skip
    """The example of a sentence of tagged tokens, and its text where that stands beside them."""
    spans: Spans | None
    if text is None:
        text, spans = joined(tokens, characters)
    else:
        spans = aligned(tokens, text)
        if spans is None:
            raise UserError(
                f"{sources[0]}: the tokens are not those of the text {text[:40]!r} beside them. They may "
                "differ by white space alone; of another text, delete the field or the comment."
            )
    found = [
        Entity(
            kind, spans[first][0], spans[last - 1][1], text[spans[first][0] : spans[last - 1][1]]
        )
        for kind, first, last in entities_of(tags, sources, scheme, losses)
    ]
    return Example(text, tuple(found), sources[0])
