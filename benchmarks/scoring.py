"""Compare scoring speed with seqeval: from arrays of tags, and from lists of entities.

    python benchmarks/scoring.py data/cluener [--sentences 200000]

The gold tags are those of dev.json, repeated. The predicted tags are the same with some changed at random.
seqeval gets the same tags as lists of strings; making these lists is not timed. Its time is that of its
fastest call. All scores must be equal, or the script fails.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from common import machine
from seqeval.metrics.sequence_labeling import precision_recall_fscore_support as lenient
from seqeval.metrics.v1 import precision_recall_fscore_support as strict
from seqeval.scheme import IOB2

from flax_ner.data.cluener import read_cluener
from flax_ner.evaluation.metrics import MatchCounts, Scores, score, score_spans
from flax_ner.text.labels import LabelSet

CHANGED = 0.02  # share of the predicted tags that are replaced by random ones
ROUNDS = 9
SEQEVAL = {"lenient": lenient, "strict": partial(strict, scheme=IOB2)}


def timed(call: Callable[[], Any], rounds: int) -> tuple[float, Any]:
    """Return the median seconds of a call, and its result."""
    seconds = []
    for _ in range(rounds):
        begin = time.perf_counter()
        result = call()
        seconds.append(time.perf_counter() - begin)
    return statistics.median(seconds), result


def make_tags(data: Path, sentences: int) -> tuple[LabelSet, np.ndarray, np.ndarray, np.ndarray]:
    """Return the label set, gold and predicted tags int32 [B, T], and the mask bool [B, T]."""
    examples = read_cluener(data / "dev.json")
    labels = LabelSet(sorted({entity.type for e in examples for entity in e.entities or ()}))
    lengths = np.array([len(example.text) + 2 for example in examples])
    mask = np.arange(lengths.max()) < lengths[:, None]
    tags = np.zeros(mask.shape, np.int32)
    tags[mask] = np.concatenate([labels.encode(e.entities or (), len(e.text)) for e in examples])
    rows = np.arange(sentences) % len(examples)
    gold, mask = tags[rows], mask[rows]
    random = np.random.default_rng(0)
    drawn = random.integers(0, len(labels), gold.shape, dtype=np.int32)
    return labels, gold, np.where(random.random(gold.shape) < CHANGED, drawn, gold), mask


def tag_names(labels: LabelSet, tags: np.ndarray, mask: np.ndarray) -> list[list[str]]:
    """Return tags in the form that seqeval expects, without [CLS] and [SEP]."""
    ends = (mask.sum(1) - 1).tolist()
    return [
        [labels.names[tag] for tag in row[1:end]]
        for row, end in zip(tags.tolist(), ends, strict=True)
    ]


def check(ours: Scores, micro: tuple[Any, ...], by_type: tuple[Any, ...]) -> None:
    """Exit with an error if a score differs from seqeval's."""
    pairs: list[tuple[MatchCounts, tuple[Any, ...]]] = [(ours, micro)]
    pairs += zip(ours.by_type.values(), zip(*by_type, strict=True), strict=True)
    for counts, theirs in pairs:
        scores = (counts.precision, counts.recall, counts.f1)
        if not np.allclose(scores, theirs[:3], rtol=0, atol=1e-12):
            sys.exit(f"scores differ: {scores} in flax_ner, {theirs[:3]} in seqeval")


def from_tags(
    labels: LabelSet, gold: np.ndarray, predicted: np.ndarray, mask: np.ndarray, convention: str
) -> Scores:
    spans = [labels.decode_spans(tags, mask, convention) for tags in (gold, predicted)]
    return score_spans(*spans, labels.categories, convention)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, help="folder with dev.json")
    parser.add_argument("--sentences", type=int, default=200_000, help="number of sentences")
    options = parser.parse_args()
    labels, gold, predicted, mask = make_tags(options.data, options.sentences)
    names = [tag_names(labels, tags, mask) for tags in (gold, predicted)]
    row: dict[str, Any] = {"sentences": options.sentences, "rounds": ROUNDS}
    print(f"{options.sentences:,} sentences, {int(mask.sum() - 2 * len(mask)):,} characters\n")
    print("| configuration | F1 | seconds | sentences/s | speed-up over seqeval |")
    print("| --- | --- | --- | --- | --- |")
    for convention, theirs in SEQEVAL.items():
        lists = [labels.decode(tags, mask, convention) for tags in (gold, predicted)]
        tags_seconds, scores = timed(
            partial(from_tags, labels, gold, predicted, mask, convention), ROUNDS
        )
        lists_seconds, scores_of_lists = timed(partial(score, *lists, convention), ROUNDS)
        micro_seconds, micro = timed(partial(theirs, *names, average="micro"), 1)
        by_type_seconds, by_type = timed(partial(theirs, *names, average=None), 1)
        for ours in (scores, scores_of_lists):
            check(ours, micro, by_type)
        seqeval = min(micro_seconds, by_type_seconds)
        ways = {
            "seqeval, from lists of tags": seqeval,
            "flax_ner, from arrays of tags": tags_seconds,
            "flax_ner, from lists of entities": lists_seconds,
        }
        for way, seconds in ways.items():
            cells = f"{seconds:.3f} | {options.sentences / seconds:,.0f} | {seqeval / seconds:.0f}"
            print(f"| {convention}: {way} | {scores.f1:.4f} | {cells} |", flush=True)
        row[convention] = {way: round(seconds, 4) for way, seconds in ways.items()}
    row |= machine("numpy", "seqeval")
    print(f"\n`{json.dumps(row)}`")


if __name__ == "__main__":
    main()
