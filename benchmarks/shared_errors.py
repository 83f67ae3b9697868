"""Count the errors that two or more taggers share, and the gold entities whose text the training data label.

    python benchmarks/shared_errors.py TRAIN DEV MODEL MODEL [MODEL ...] [--compute-dtype DTYPE]

An entity is its text number, start, end and type (strict). An ensemble probably makes the errors that all its
models make. A false positive of all models has the span of a gold entity of another type, overlaps a gold
entity, or overlaps none. A gold entity is `known` if TRAIN has an entity of the same text and type.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from flax_ner import load
from flax_ner.compilation import keep_compiled_programs
from flax_ner.data.formats import read_examples
from flax_ner.model.bert import DTYPES
from flax_ner.text.examples import Entity, Example

Key = tuple[int, int, int, str]  # text number, start, end, type


def keys(texts: Sequence[Sequence[Entity]]) -> set[Key]:
    """Return the entities of all texts."""
    return {(i, e.start, e.end, e.type) for i, entities in enumerate(texts) for e in entities}


def where(entity: Key, gold: set[Key]) -> str:
    """Return how a false positive relates to the gold entities of its text."""
    text, start, end, _ = entity
    spans = [(s, e) for t, s, e, _ in gold if t == text]
    if (start, end) in spans:
        return "another type"
    return "overlap" if any(s < end and start < e for s, e in spans) else "no gold entity"


def report(train: Sequence[Example], dev: Sequence[Example], predicted: Sequence[set[Key]]) -> str:
    """Return two Markdown tables: shared errors, and the recall of known and other entities."""
    gold = keys([example.entities or () for example in dev])
    missed, wrong = [gold - found for found in predicted], [found - gold for found in predicted]
    shared_missed, shared_wrong = set.intersection(*missed), set.intersection(*wrong)
    labelled = {(x.text[e.start : e.end], e.type) for x in train for e in x.entities or ()}

    def known(entity: Key) -> bool:
        text, start, end, kind = entity
        return (dev[text].text[start:end], kind) in labelled

    def row(name: str, each: Sequence[set[Key]], shared: set[Key]) -> str:
        counts = ", ".join(str(len(errors)) for errors in each)
        return f"| {name} | {counts} | {len(shared)} | {sum(map(known, shared))} |"

    lines = [
        "| errors | of each model | of all models | of these, text and type are labelled in TRAIN |",
        "| --- | --- | --- | --- |",
        row("gold entities not found", missed, shared_missed),
        row("false positives", wrong, shared_wrong),
    ]
    kinds = [where(entity, gold) for entity in shared_wrong]
    for kind in ("another type", "overlap", "no gold entity"):
        lines.append(f"| - {kind} | | {kinds.count(kind)} | |")
    lines += ["", "| gold entities | number | recall of each model |", "| --- | --- | --- |"]
    parts = {"known": {e for e in gold if known(e)}, "not known": {e for e in gold if not known(e)}}
    for name, part in parts.items():
        recalls = ", ".join(f"{len(found & part) / max(len(part), 1):.4f}" for found in predicted)
        lines.append(f"| {name} | {len(part)} | {recalls} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    for name in ("train", "dev"):
        parser.add_argument(name, type=Path)
    parser.add_argument("models", nargs="+", type=Path)
    parser.add_argument("--compute-dtype", choices=DTYPES, default="bfloat16")
    options = parser.parse_args()
    if len(options.models) < 2:
        parser.error("name at least two models.")
    keep_compiled_programs()
    train, dev = (read_examples(str(path), "auto") for path in (options.train, options.dev))
    texts = [example.text for example in dev]
    predicted = [
        keys(load(model, compute_dtype=options.compute_dtype)(texts)) for model in options.models
    ]
    print(report(train, dev, predicted))


if __name__ == "__main__":
    main()
