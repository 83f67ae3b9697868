"""Load the HTTP server with many clients on the loopback, and check every answer.

    python benchmarks/serving.py MODEL DATA [--clients 200] [--seconds 60] [--bad 10000] \
        [--pipeline-python PYTHON]

DATA is labelled data, whose texts are sent. Each client sends a request as soon as the last one is answered:
one text or four, with a random scoring convention and threshold. The answers must equal those of the tagger,
so a lost or swapped answer fails the benchmark. The servers are started together, and the clients use them in
turn. Core milliseconds per text are the processor time of the server; other load on the machine affects them
less than the latency. Compares `python -m flax_ner serve MODEL` with

- the same server that tags one text at a time (`--max-batch 1`);
- with --pipeline-python, transformers' pipeline behind FastAPI (benchmarks/serving_pipeline.py), with the same
  weights in float32. PYTHON has torch, transformers, fastapi and uvicorn. Its answers must equal those that it
  gives to a single client.

With --bad, sends that many malformed, too large and slow requests to the first server only, while the clients
keep sending good ones, for --seconds or longer. Every bad request must be refused or disconnected, and none may
reach the model.

The clients use asyncio streams instead of a load generator. They share the cores with the server, so they must
be cheap, and they have to write broken requests byte by byte.
"""

import argparse
import asyncio
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from common import ROOT, cpu_seconds, machine
from serving_clients import THRESHOLDS, Known, Load, Result, ask_alone, get, run_for, run_with_bad

from flax_ner import Tagger, load
from flax_ner.compilation import keep_compiled_programs
from flax_ner.data.formats import read_examples

ROUNDS = 4
# The scores of a text depend a little on the shape of its batch: measured 6e-6 and 0.02.
TOLERANCES = {"float32": 1e-4, "bfloat16": 0.05}
BODY_TIMEOUT = 5.0  # seconds, with --bad; clients on a busy machine can need two
SERVER_TIMEOUT = 240  # seconds; a busy machine must not look like a lost answer


class Server:
    """A server process that listens at `port`."""

    def __init__(self, command: Sequence[str], log: Path):
        self._file = open(log, "w")  # noqa: SIM115
        self.process = subprocess.Popen(
            command, stdout=self._file, stderr=subprocess.STDOUT, cwd=ROOT, stdin=subprocess.DEVNULL
        )
        ready = re.compile(r"^(?:.*http://127\.0\.0\.1:(\d+)/ is ready.*|(\d+))$", re.MULTILINE)
        while not (match := ready.search(log.read_text())):
            if self.process.poll() is not None:
                sys.exit(log.read_text())
            time.sleep(0.1)
        self.port = int(match[1] or match[2])

    def memory_mib(self) -> float:
        """Return the resident memory."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        match = re.search(r"VmRSS:\s+(\d+) kB", status)
        return int(match[1]) / 1024 if match else float("nan")

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(120)
        self._file.close()


@contextmanager
def running(command: Sequence[str], log: Path) -> Iterator[Server]:
    server = Server(command, log)
    try:
        yield server
    finally:
        server.stop()


@dataclass
class Run:
    """The measurements of one server."""

    server: Server
    sent: Load
    start_mib: float
    results: list[Result] = field(default_factory=list)
    core_seconds: float = 0.0


def metric(metrics: str, name: str) -> float:
    match = re.search(rf"^{re.escape(name)} (\S+)$", metrics, re.MULTILINE)
    return float(match[1]) if match else 0.0


def known_answers(tagger: Tagger, texts: list[str], tolerance: float) -> Known:
    """Return the tagger's answers, without texts whose answer could change by rounding.

    These are the texts with two tags that are almost equally probable, or with a score close to a threshold.
    """
    clear = []
    for text, probs in zip(texts, tagger.predict_proba_each(texts), strict=True):  # [len(text), C]
        second, first = np.sort(probs, -1)[:, -2:].T
        if (first - second > tolerance).all():
            clear.append(text)
    return {
        scoring: {
            text: [(e.type, e.start, e.end, e.score) for e in entities]
            for text, entities in zip(clear, predicted, strict=True)
            if all(abs(e.score - t) > tolerance for e in entities for t in THRESHOLDS[1:])
        }
        for scoring, predicted in tagger.by_convention(clear, ["strict", "lenient"]).items()
    }


def table_row(label: str, run: Run, result: Result) -> str:
    p50, p95, p99 = np.percentile(result.latencies, (50, 95, 99)) * 1000
    requests = len(result.latencies)
    failed = ", ".join(f"{name}: {n}" for name, n in result.failed.items()) or "0"
    return (
        f"| {label} | {requests:,} | {requests / result.seconds:.1f} | "
        f"{result.texts / result.seconds:.1f} | {p50:,.0f} | {p95:,.0f} | {p99:,.0f} | "
        f"{run.core_seconds * 1000 / result.texts:.1f} | {len(result.wrong)} | {failed} | "
        f"{run.start_mib:,.0f} | {run.server.memory_mib():,.0f} |"
    )


def add_results(results: Sequence[Result]) -> Result:
    return Result(
        [latency for result in results for latency in result.latencies],
        sum(result.texts for result in results),
        [difference for result in results for difference in result.wrong],
        sum((result.failed for result in results), Counter()),
        sum(result.seconds for result in results),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="model directory")
    parser.add_argument("data", help="labelled data, e.g. dev.json of CLUENER")
    parser.add_argument("--clients", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=60, help="time per server")
    parser.add_argument("--bad", type=int, default=0, help="number of bad requests")
    parser.add_argument("--texts", type=int, default=500, help="number of different texts")
    parser.add_argument("--compute-dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--pipeline-python", help="interpreter with torch and transformers")
    options = parser.parse_args()
    keep_compiled_programs()
    texts = list(dict.fromkeys(example.text for example in read_examples(options.data, "auto")))
    texts = texts[: options.texts]
    tolerance = TOLERANCES[options.compute_dtype]
    known = known_answers(load(options.model, options.compute_dtype), texts, tolerance)
    sent = Load(options.clients, known, tolerance)
    serve = [
        sys.executable, "-m", "flax_ner", "serve", options.model, "--port", "0", "--compute-dtype",
        options.compute_dtype, "--timeout", str(SERVER_TIMEOUT),
    ]  # fmt: skip
    row: dict[str, Any] = {"clients": options.clients, "compute_dtype": options.compute_dtype}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if options.bad:
            row |= _attack(serve, folder, sent, options)
        else:
            row |= _compare(serve, folder, sent, texts, options)
    row |= {"load_average": round(os.getloadavg()[1], 1)} | machine("jax", "flax", "uvicorn")
    print(f"\n`{json.dumps(row)}`")


def _compare(
    serve: list[str], folder: Path, sent: Load, texts: list[str], options: argparse.Namespace
) -> dict[str, Any]:
    """Run the clients on each server. Print a table, and return the measurements."""
    commands = {"flax_ner": serve, "flax_ner, one text at a time": [*serve, "--max-batch", "1"]}
    if options.pipeline_python:
        subprocess.run(
            [sys.executable, "convert/flax_to_torch.py", options.model, folder / "hf", "--layout", "hf",
             "--labels", "bio"],
            cwd=ROOT, check=True, stdout=subprocess.DEVNULL,
        )  # fmt: skip
        commands["transformers' pipeline, FastAPI"] = [
            options.pipeline_python, "benchmarks/serving_pipeline.py", str(folder / "hf"),
        ]  # fmt: skip
    runs: dict[str, Run] = {}
    with ExitStack() as stack:
        for i, (label, command) in enumerate(commands.items()):
            server = stack.enter_context(running(command, folder / f"{i}.log"))
            if "flax_ner" not in label:
                sent = Load(options.clients, asyncio.run(ask_alone(server.port, texts)), 1e-4)
            asyncio.run(run_for(server.port, sent, 1))  # warm-up
            runs[label] = Run(server, sent, server.memory_mib())
        for _ in range(ROUNDS):
            for run in runs.values():
                begin = cpu_seconds(run.server.process.pid)
                seconds = options.seconds / ROUNDS
                run.results.append(asyncio.run(run_for(run.server.port, run.sent, seconds)))
                run.core_seconds += cpu_seconds(run.server.process.pid) - begin
        print(
            f"{options.clients} clients, {options.seconds:g} s per server in {ROUNDS} rounds, "
            f"{options.compute_dtype}\n\n"
            "| server | requests | requests/s | texts/s | p50, ms | p95, ms | p99, ms | core ms/text | wrong "
            "| failed | MiB at start | MiB at end |\n"
            "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |"
        )
        row = {}
        for label, run in runs.items():
            result = add_results(run.results)
            print(table_row(label, run, result), flush=True)
            row[label] = {
                "texts_per_second": round(result.texts / result.seconds, 1),
                "p50_p95_p99": [round(p, 3) for p in np.percentile(result.latencies, (50, 95, 99))],
                "core_ms_per_text": round(run.core_seconds * 1000 / result.texts, 1),
            }
            if result.wrong:
                sys.exit("\n".join(["wrong answers:", *result.wrong[:20]]))
    return row


def _attack(
    serve: list[str], folder: Path, sent: Load, options: argparse.Namespace
) -> dict[str, Any]:
    """Send bad requests in between good ones. Print what happened, and return the measurements."""
    with running([*serve, "--body-timeout", str(BODY_TIMEOUT)], folder / "log") as server:
        start = server.memory_mib()
        result, outcomes, unexpected = asyncio.run(
            run_with_bad(server.port, sent, options.bad, options.seconds)
        )
        metrics = asyncio.run(get(server.port, "/metrics"))
        memory = (start, server.memory_mib())
    reached = int(metric(metrics, "flax_ner_batch_texts_sum")) - result.texts
    print(f"{options.bad:,} bad requests, {options.clients} clients, {result.seconds:.0f} s\n")
    print("| bad request: answer | number |")
    print("| --- | --- |")
    for outcome, number in sorted(outcomes.items()):
        print(f"| {outcome} | {number} |")
    requests = len(result.latencies)
    p50, p95, p99 = np.percentile(result.latencies, (50, 95, 99)) * 1000
    print(
        f"\nGood requests: {requests:,} correct answers, {len(result.wrong)} wrong answers, "
        f"{sum(result.failed.values())} failures. The latency was {p50:,.0f} ms (median), {p95:,.0f} ms (p95) "
        f"and {p99:,.0f} ms (p99). {reached} texts of bad requests reached the model. Memory: "
        f"{memory[0]:,.0f} MiB at the start, {memory[1]:,.0f} MiB at the end."
    )
    if unexpected or reached or result.wrong or result.failed:
        sys.exit(
            "\n".join(
                ["not as expected:", *unexpected[:20], *result.wrong[:20], str(dict(result.failed))]
            )
        )
    return {
        "bad": options.bad, "good": requests, "seconds": round(result.seconds, 1),
        "p50_p95_p99": [round(p / 1000, 3) for p in (p50, p95, p99)],
        "mib": [round(mib) for mib in memory],
    }  # fmt: skip


if __name__ == "__main__":
    main()
