"""Small taggers next to a large one: parameters, F1 with paired differences, throughput and latency.

    python benchmarks/student.py data/cluener/dev.json TEACHER STUDENT... [--rounds 5]

TEACHER and STUDENT are model directories. Differences of F1 are of the same texts, by a paired
bootstrap; the models take turns, all of the texts a round, and a ratio is of one round, so what else
the machine does falls on all. Compiling is not timed.
"""

import argparse
import json
import statistics
import time
from collections import Counter
from pathlib import Path
from typing import Any

import jax
import numpy as np
from common import machine

from flax_ner import Tagger, load
from flax_ner.text.analysis import check_comparable, compare, counts_per_text
from flax_ner.text.formats import read_examples
from flax_ner.text.metrics import score

SINGLE = 300  # texts, one at a time


def seconds(tagger: Tagger, texts: list[str]) -> float:
    begin = time.perf_counter()
    tagger(texts)
    return time.perf_counter() - begin


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("dev", metavar="DEV", help="labelled data in CLUENER's form")
    parser.add_argument("teacher", metavar="TEACHER", type=Path)
    parser.add_argument("students", metavar="STUDENT", type=Path, nargs="+")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    examples = read_examples(options.dev, "cluener")
    texts = [example.text for example in examples]
    gold = [example.entities or () for example in examples]
    paths = [options.teacher, *options.students]
    taggers = [load(path) for path in paths]
    categories = Counter(entity.type for entities in gold for entity in entities)
    for tagger in taggers:
        check_comparable(categories, taggers[0].labels.categories, tagger.labels.categories)
        tagger.compile()
    found = [tagger(texts) for tagger in taggers]
    counts = [counts_per_text(gold, rows) for rows in found]
    parameters = [sum(x.size for x in jax.tree.leaves(tagger.params)) for tagger in taggers]
    # [rounds, models]
    whole = [[seconds(tagger, texts) for tagger in taggers] for _ in range(options.rounds)]
    single = [[1e3 * seconds(tagger, [text]) for tagger in taggers] for text in texts[:SINGLE]]

    print(
        "| model | parameters | of the teacher's | F1 | less the teacher's (95%) | p "
        "| sentences a second | times the teacher's | one sentence, ms |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    rows: list[dict[str, Any]] = []
    for i, path in enumerate(paths):
        less = compare(counts[i], counts[0])
        d = less.difference
        rate = statistics.median(len(texts) / turn[i] for turn in whole)
        times = statistics.median(turn[0] / turn[i] for turn in whole)
        latency = float(np.median([turn[i] for turn in single]))
        f1 = score(gold, found[i]).f1
        difference = f"{d.value:+.4f} ({d.low:+.4f}, {d.high:+.4f}) | {less.p:.3f}" if i else "| "
        print(
            f"| {path} | {parameters[i]:,} | {parameters[i] / parameters[0]:.3f} | {f1:.4f} "
            f"| {difference} | {rate:.0f} | {times:.2f} | {latency:.1f} |"
        )
        rows.append({
            "model": str(path), "parameters": parameters[i], "f1": f1, "less": d.value, "p": less.p,
            "sentences_per_second": round(rate, 1), "times": round(times, 2),
            "single_ms": round(latency, 2),
        })  # fmt: skip
    print(f"\n`{json.dumps({'rounds': options.rounds, 'models': rows} | machine('jax'))}`")


if __name__ == "__main__":
    main()
