"""The record of benchmarks/finetune.py, one line of JSON per finished run, and the tables made from it."""

import json
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from finetune_data import CONFIGURATIONS, CORPORA, TRAINER

from flax_ner.evaluation.analysis import Comparison, paired_bootstrap

RECORD = "finetune.jsonl"


def read_record(work: Path) -> list[dict[str, Any]]:
    """Read the results in a record; [] if there is none."""
    path = work / RECORD
    lines = path.read_text("utf-8").splitlines() if path.exists() else []
    results = [json.loads(line) for line in lines]
    # Earlier versions named the configuration "way".
    return [{"configuration": result.get("way"), **result} for result in results]


def pooled_counts(runs: Sequence[dict[str, Any]], split: str) -> np.ndarray:
    """Return gold, predicted and correct entities of each text, summed over seeds, int64 [texts, 3]."""
    columns = [list(run["predictions"][split].values()) for run in runs]
    return np.sum(np.array(columns, np.int64), axis=0).T


def f1_of(run: dict[str, Any], split: str) -> float:
    gold, predicted, correct = (sum(column) for column in run["predictions"][split].values())
    return 2 * correct / max(gold + predicted, 1)


def format_difference(comparison: Comparison) -> str:
    d = comparison.difference
    return f"{d.value:+.4f} ({d.low:+.4f}, {d.high:+.4f}), {comparison.p:.3f}"


def f1_table(runs: dict[str, list[dict[str, Any]]], split: str) -> list[str]:
    """Return the lines of a table of F1 by configuration, with paired tests against Trainer."""
    baselines = [name for name in TRAINER if name in runs]
    headings = ["configuration", "seeds", f"F1 on {split}, mean", "standard deviation"]
    headings += [f"difference from {CONFIGURATIONS[name]} (95%), p" for name in baselines]
    lines = [f"| {' | '.join(headings)} |", "| --- " * len(headings) + "|"]
    for name, rows in runs.items():
        f1 = [f1_of(row, split) for row in rows]
        cells = [f"{len(f1)}", f"{statistics.mean(f1):.4f}"]
        cells.append(f"{statistics.stdev(f1):.4f}" if len(f1) > 1 else "")
        for other in baselines:
            comparison = name != other and paired_bootstrap(
                pooled_counts(rows, split), pooled_counts(runs[other], split)
            )
            cells.append(format_difference(comparison) if comparison else "")
        lines.append(f"| {CONFIGURATIONS[name]} | {' | '.join(cells)} |")
    return lines


def cost_table(runs: dict[str, list[dict[str, Any]]]) -> list[str]:
    """Return the lines of a table of wall time, throughput and memory; ratios are of medians."""
    baselines = [name for name in TRAINER if name in runs]
    ratios = [f"ratio to {name}" for name in baselines]
    headings = ["configuration", "runs", "wall time, s: median (min, max)", *ratios]
    headings += [
        "sentences/s: median (min, max)",
        *ratios,
        "peak memory, MiB",
        "CPU used by others, %",
    ]
    lines = [f"| {' | '.join(headings)} |", "| --- " * len(headings) + "|"]

    def cells(field: str, digits: int) -> dict[str, list[str]]:
        columns = {name: [row[field] for row in rows] for name, rows in runs.items()}
        medians = {name: statistics.median(values) for name, values in columns.items()}
        return {
            name: [
                f"{medians[name]:.{digits}f} ({min(values):.{digits}f}, {max(values):.{digits}f})",
                *(f"{medians[name] / medians[other]:.2f}" for other in baselines),
            ]
            for name, values in columns.items()
        }

    wall, rate = cells("wall_seconds", 0), cells("sentences_per_second", 1)
    for name, rows in runs.items():
        memory, others = (
            max(row[field] for row in rows) for field in ("peak_mib", "others_percent")
        )
        columns = [
            CONFIGURATIONS[name],
            f"{len(rows)}",
            *wall[name],
            *rate[name],
            f"{memory:,}",
            f"{others}",
        ]
        lines.append(f"| {' | '.join(columns)} |")
    return lines


def print_tables(work: Path) -> None:
    record = read_record(work)
    if not record:
        sys.exit(f"{work / RECORD} has no finished run. Start some with `run` or `time`.")
    for corpus, about in CORPORA.items():
        for kind in ("run", "time"):
            of_kind = [row for row in record if (row["corpus"], row["kind"]) == (corpus, kind)]
            runs = {
                name: [row for row in of_kind if row["configuration"] == name]
                for name in CONFIGURATIONS
            }
            runs = {name: rows for name, rows in runs.items() if rows}
            if not runs:
                continue
            first = of_kind[0]
            epochs, cut = first["settings"]["epochs"], first["cut_to"]
            print(
                f"\n{corpus} from {first['encoder']}, {f'{cut} sentences, ' if cut else ''}epochs: {epochs}, "
                f"`benchmarks/finetune.py {kind}`"
            )
            tables = [cost_table(runs)]
            if kind == "run":
                tables = [f1_table(runs, split) for split in about.splits[1:]] + tables
            for lines in tables:
                print("", *lines, sep="\n")
            names = ("settings", "rows", "machine", "device", "versions")
            commits = sorted({row["commit"] for row in of_kind})
            conditions = {name: first[name] for name in names} | {"commits": commits}
            print(f"\n`{json.dumps(conditions)}`")
