"""Long documents: the entities found, next to those of the sentences alone, and the time they take.

    python benchmarks/long_text.py MODEL DATA

MODEL is anything `flax_ner.load` takes, DATA labelled or not, in any format. Documents are made of
DATA's sentences, a line each or one behind another, until they have the characters asked for.
"""

import argparse
import json
import statistics
import time
from collections.abc import Sequence
from itertools import cycle

from common import machine

from flax_ner import Tagger, load
from flax_ner.text.formats import read_examples

CHARACTERS = (10_000, 100_000, 1_000_000)
ROUNDS = 5


def document(sentences: Sequence[str], joint: str, characters: int) -> list[str]:
    """The sentences, again and again, of a document of so many characters."""
    taken, length = list[str](), 0
    for sentence in cycle(sentences):
        if length >= characters:
            return taken
        taken.append(sentence)
        length += len(sentence) + len(joint)
    return taken


def compare(tagger: Tagger, sentences: Sequence[str], joint: str) -> tuple[int, int, int]:
    """Entities of the sentences alone; how many the document has in the same place; how many others."""
    text = joint.join(sentences)
    found = tagger(text)
    assert all(text[e.start : e.end] == e.text for e in found)
    wanted, place = set(), 0
    for sentence, entities in zip(sentences, tagger(sentences), strict=True):
        wanted |= {(e.type, e.start + place, e.end + place) for e in entities}
        place += len(sentence) + len(joint)
    same = len(wanted & {e[:3] for e in found})
    return len(wanted), same, len(found) - same


def seconds(tagger: Tagger, text: str) -> float:
    times = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        tagger(text)
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", metavar="MODEL")
    parser.add_argument("data", metavar="DATA")
    options = parser.parse_args()
    tagger = load(options.model)
    sentences = [example.text for example in read_examples(options.data, "auto", "DATA")]
    tagger.compile()
    print(json.dumps(machine("flax_ner", "jax") | {"row": tagger.max_length}))
    print("| sentences | characters | entities alone | found | others | seconds | us a character |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for name, joint in (("a line each", "\n"), ("one behind another", "")):
        for characters in CHARACTERS:
            taken = document(sentences, joint, characters)
            alone, same, others = compare(tagger, taken, joint)
            text = joint.join(taken)
            took = seconds(tagger, text)
            print(
                f"| {name} | {len(text):,} | {alone:,} | {same / alone:.4f} | {others:,} | {took:.2f} "
                f"| {took / len(text) * 1e6:.1f} |"
            )


if __name__ == "__main__":
    main()
