"""Tags of tokens, against a search through all tokens."""

from hypothesis import given, settings
from hypothesis import strategies as st

from flax_ner.text.examples import Entity, Example
from flax_ner.text.files import Losses
from flax_ner.text.tagged import SCHEMES, Spans, tags_of, tokenised


def tags_by_search(example: Example, spans: Spans, scheme: str, losses: Losses) -> list[str]:
    """What `tags_of` returns, by its definition: compare each entity with each token."""
    begin, inside, end, single = tuple(SCHEMES[scheme])
    tags = ["O"] * len(spans)
    for entity in sorted(example.entities or (), key=lambda e: (e.start, -e.end)):
        here = [i for i, (a, b) in enumerate(spans) if entity.start <= a and b <= entity.end]
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


ENTITIES = st.lists(st.tuples(st.sampled_from("xy"), st.integers(0, 19), st.integers(1, 6)))


@settings(max_examples=300, deadline=None)
@given(
    st.text("ab 甲\t.", min_size=20, max_size=20), ENTITIES, st.booleans(),
    st.sampled_from(sorted(SCHEMES)),
)  # fmt: skip
def test_tags_are_those_of_a_search(
    text: str, given_: list[tuple[str, int, int]], characters: bool, scheme: str
) -> None:
    entities = tuple(Entity(kind, a, min(a + size, 20)) for kind, a, size in given_)
    example = Example(text, entities, "file:1")
    spans = tokenised(text, entities, characters)
    losses, expected_losses = Losses(), Losses()
    expected = tags_by_search(example, spans, scheme, expected_losses)
    assert tags_of(example, spans, scheme, losses) == expected
    assert losses.lines() == expected_losses.lines()
