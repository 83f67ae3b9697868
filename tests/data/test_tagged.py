"""Conversion of entities to tags, compared with a brute-force search."""

from hypothesis import given, settings
from hypothesis import strategies as st

from flax_ner.data.files import ConversionWarnings
from flax_ner.data.tagged import SCHEMES, Spans, tags_from_entities, token_spans
from flax_ner.text.examples import Entity, Example


def tags_by_search(
    example: Example, spans: Spans, scheme: str, warnings: ConversionWarnings
) -> list[str]:
    """Compute what `tags_from_entities` returns by comparing each entity with each token."""
    begin, inside, end, single = tuple(SCHEMES[scheme])
    tags = ["O"] * len(spans)
    for entity in sorted(example.entities or (), key=lambda e: (e.start, -e.end)):
        tokens = [i for i, (a, b) in enumerate(spans) if entity.start <= a and b <= entity.end]
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


ENTITIES = st.lists(st.tuples(st.sampled_from("xy"), st.integers(0, 19), st.integers(1, 6)))


@settings(max_examples=300, deadline=None)
@given(
    st.text("ab 甲\t.", min_size=20, max_size=20), ENTITIES, st.booleans(),
    st.sampled_from(sorted(SCHEMES)),
)  # fmt: skip
def test_tags_equal_brute_force_search(
    text: str, candidates: list[tuple[str, int, int]], character_level: bool, scheme: str
) -> None:
    entities = tuple(Entity(category, a, min(a + size, 20)) for category, a, size in candidates)
    example = Example(text, entities, "file:1")
    spans = token_spans(text, entities, character_level)
    warnings, expected_losses = ConversionWarnings(), ConversionWarnings()
    expected = tags_by_search(example, spans, scheme, expected_losses)
    assert tags_from_entities(example, spans, scheme, warnings) == expected
    assert warnings.lines() == expected_losses.lines()
