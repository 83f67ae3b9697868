"""Compare students with their teacher: parameters, F1 with paired differences, throughput, latency.

    python benchmarks/student.py data/cluener/dev.json TEACHER STUDENT... [--rounds 5]

TEACHER and STUDENT are model directories. Differences in F1 are tested with a paired bootstrap over texts. Each
round tags all texts with every model in turn. Ratios are taken within a round, so that other load on the
machine affects all models. Compilation is not timed.
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
from flax_ner.data.formats import read_examples
from flax_ner.evaluation.analysis import check_comparable, counts_per_text, paired_bootstrap
from flax_ner.evaluation.metrics import score

SINGLE = 300  # texts for the latency


def time_tagging(tagger: Tagger, texts: list[str]) -> float:
    begin = time.perf_counter()
    tagger(texts)
    return time.perf_counter() - begin


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("dev", metavar="DEV", help="labelled data in CLUENER's format")
    parser.add_argument("teacher", metavar="TEACHER", type=Path, help="model directory")
    parser.add_argument(
        "students", metavar="STUDENT", type=Path, nargs="+", help="model directories"
    )
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
    predicted = [tagger(texts) for tagger in taggers]
    counts = [counts_per_text(gold, rows) for rows in predicted]
    parameters = [sum(x.size for x in jax.tree.leaves(tagger.params)) for tagger in taggers]
    # [rounds, models]
    whole = [[time_tagging(tagger, texts) for tagger in taggers] for _ in range(options.rounds)]
    single = [[1e3 * time_tagging(tagger, [text]) for tagger in taggers] for text in texts[:SINGLE]]

    print(
        "| model | parameters | ratio to teacher | F1 | difference from teacher (95%) | p "
        "| sentences/s | ratio to teacher | latency per sentence, ms |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    rows: list[dict[str, Any]] = []
    for i, path in enumerate(paths):
        comparison = paired_bootstrap(counts[i], counts[0])
        d, p = comparison.difference, comparison.p
        rate = statistics.median(len(texts) / turn[i] for turn in whole)
        times = statistics.median(turn[0] / turn[i] for turn in whole)
        latency = float(np.median([turn[i] for turn in single]))
        f1 = score(gold, predicted[i]).f1
        difference = f"{d.value:+.4f} ({d.low:+.4f}, {d.high:+.4f}) | {p:.3f}" if i else "| "
        print(
            f"| {path} | {parameters[i]:,} | {parameters[i] / parameters[0]:.3f} | {f1:.4f} "
            f"| {difference} | {rate:.0f} | {times:.2f} | {latency:.1f} |"
        )
        rows.append({
            "model": str(path), "parameters": parameters[i], "f1": f1, "less": d.value, "p": p,
            "sentences_per_second": round(rate, 1), "times": round(times, 2),
            "single_ms": round(latency, 2),
        })  # fmt: skip
    print(f"\n`{json.dumps({'rounds': options.rounds, 'models': rows} | machine('jax'))}`")


if __name__ == "__main__":
    main()
