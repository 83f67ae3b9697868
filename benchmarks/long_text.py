"""Tag long documents: compare their entities with those of the single sentences, and measure the time.

    python benchmarks/long_text.py MODEL DATA

MODEL is anything that `flax_ner.load` accepts. DATA may have labels or not, in any format. Documents are made
of DATA's sentences, one per line or concatenated, up to the lengths in `CHARACTERS`.
"""

import argparse
import json
import statistics
import time
from collections.abc import Sequence
from itertools import cycle

from common import machine

from flax_ner import Tagger, load
from flax_ner.data.formats import read_examples

CHARACTERS = (10_000, 100_000, 1_000_000)
ROUNDS = 5


def make_document(sentences: Sequence[str], separator: str, characters: int) -> list[str]:
    """Repeat the sentences until a document of them has at least `characters` characters."""
    chosen, length = list[str](), 0
    for sentence in cycle(sentences):
        if length >= characters:
            return chosen
        chosen.append(sentence)
        length += len(sentence) + len(separator)
    return chosen


def compare(tagger: Tagger, sentences: Sequence[str], separator: str) -> tuple[int, int, int]:
    """Compare a document's entities with those of its single sentences.

    Returns:
        Entities of the single sentences, those of them that the document has, and the others that it has.
    """
    text = separator.join(sentences)
    predicted = tagger(text)
    assert all(text[e.start : e.end] == e.text for e in predicted)
    expected, offset = set(), 0
    for sentence, entities in zip(sentences, tagger(sentences), strict=True):
        expected |= {(e.type, e.start + offset, e.end + offset) for e in entities}
        offset += len(sentence) + len(separator)
    same = len(expected & {e[:3] for e in predicted})
    return len(expected), same, len(predicted) - same


def median_seconds(tagger: Tagger, text: str) -> float:
    times = []
    for _ in range(ROUNDS):
        begin = time.perf_counter()
        tagger(text)
        times.append(time.perf_counter() - begin)
    return statistics.median(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "model", metavar="MODEL", help="model directory, or another that `flax_ner.load` accepts"
    )
    parser.add_argument("data", metavar="DATA", help="file with sentences, in any format")
    options = parser.parse_args()
    tagger = load(options.model)
    sentences = [example.text for example in read_examples(options.data, "auto", "DATA")]
    tagger.compile()
    print(json.dumps(machine("flax_ner", "jax") | {"row": tagger.max_length}))
    print(
        "| sentences | characters | entities of single sentences | also predicted | additional "
        "| seconds | us per character |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for name, separator in (("one per line", "\n"), ("concatenated", "")):
        for characters in CHARACTERS:
            chosen = make_document(sentences, separator, characters)
            expected, same, additional = compare(tagger, chosen, separator)
            text = separator.join(chosen)
            seconds = median_seconds(tagger, text)
            print(
                f"| {name} | {len(text):,} | {expected:,} | {same / expected:.4f} | {additional:,} "
                f"| {seconds:.2f} | {seconds / len(text) * 1e6:.1f} |"
            )


if __name__ == "__main__":
    main()
