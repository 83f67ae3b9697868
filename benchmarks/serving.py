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

With --bad, sends that many malformed, too large and slow requests instead. The clients keep sending good ones
meanwhile. Every bad request must be refused or disconnected, and none may reach the model.

The clients use asyncio streams instead of a load generator. They share the cores with the server, so they must
be cheap, and they have to write broken requests byte by byte.
"""

import argparse
import asyncio
import json
import os
import random
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
from typing import Any, NamedTuple

import numpy as np
from common import ROOT, machine

from flax_ner import Tagger, load
from flax_ner.compilation import keep_compiled_programs
from flax_ner.data.formats import read_examples

# Answers: for each convention and text, the entities as (type, start, end, score).
Known = dict[str, dict[str, list[tuple[str, int, int, float]]]]
THRESHOLDS = (0.0, 0.5)
ROUNDS = 4
# The scores of a text depend a little on the shape of its batch: measured 6e-6 and 0.02.
TOLERANCES = {"float32": 1e-4, "bfloat16": 0.05}
BODY_TIMEOUT = 5.0  # seconds, with --bad; clients on a busy machine can need two
BAD_CLIENTS = 50
SERVER_TIMEOUT = 240  # seconds; a busy machine must not look like a lost answer
ANSWER_TIMEOUT = 300  # seconds until a client gives up


class Load(NamedTuple):
    """What the clients send, and what they expect."""

    clients: int
    known: Known
    tolerance: float  # of scores


class Result(NamedTuple):
    """What the clients of one server measured."""

    latencies: list[float]  # seconds, of correct answers
    texts: int
    wrong: list[str]  # a description of each wrong answer
    failed: Counter[str]  # answers with another status than 200, by status; and lost connections
    seconds: float


# --- Servers -----------------------------------------------------------------------------------------------


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

    def core_seconds(self) -> float:
        """Return the processor time that the server has used."""
        stat = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return sum(map(int, stat[11:13])) / os.sysconf("SC_CLK_TCK")

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


# --- Clients -----------------------------------------------------------------------------------------------


def make_request(body: bytes, *headers: str, line: str = "POST /tag HTTP/1.1") -> bytes:
    """Return a request as bytes. Headers may replace those that it needs."""
    names = {header.partition(":")[0] for header in headers}
    usual = ("Host: x", "Content-Type: application/json", f"Content-Length: {len(body)}")
    lines = [line, *(h for h in usual if h.partition(":")[0] not in names), *headers]
    return "\r\n".join([*lines, "", ""]).encode() + body


async def read_answer(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    """Return status and body."""
    head = await reader.readuntil(b"\r\n\r\n")
    match = re.search(rb"content-length: *(\d+)", head, re.IGNORECASE)
    body = await reader.readexactly(int(match[1])) if match else await reader.read()
    return int(head.split(b" ", 2)[1]), body


async def get(port: int, path: str) -> str:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(make_request(b"", line=f"GET {path} HTTP/1.1"))
    body = (await read_answer(reader))[1].decode()
    writer.close()
    return body


def as_tuples(entities: list[dict[str, Any]]) -> list[tuple[str, int, int, float]]:
    return [(e["type"], e["start"], e["end"], e["score"]) for e in entities]


def find_difference(
    answer: bytes, texts: Sequence[str], known: Known, fields: dict[str, Any], tolerance: float
) -> str:
    """Return how an answer differs from the known entities of these texts, or "" if it does not."""
    results = json.loads(answer)["results"]
    if len(results) != len(texts):
        return f"{len(results)} results for {len(texts)} texts"
    for text, entities in zip(texts, results, strict=True):
        expected = [
            e for e in known[fields["scoring"]][text] if e[3] >= fields.get("threshold", 0.0)
        ]
        predicted = as_tuples(entities)
        if [e[:3] for e in predicted] != [e[:3] for e in expected] or any(
            abs(a[3] - b[3]) > tolerance for a, b in zip(predicted, expected, strict=True)
        ):
            return f"{text}: {predicted}, expected {expected} ({fields})"
    return ""


async def run_clients(port: int, load: Load, stop: asyncio.Event) -> Result:
    """Run the clients until `stop` is set, and wait for the answers to all their requests."""
    clients, known, tolerance = load
    latencies: list[float] = []
    failed = Counter[str]()
    texts_of = {scoring: list(texts) for scoring, texts in known.items()}
    wrong: list[str] = []
    tagged = 0

    async def run_client(seed: int) -> None:
        nonlocal tagged
        chosen = random.Random(seed)
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        while not stop.is_set():
            fields: dict[str, Any] = {"scoring": chosen.choice(list(known))}
            texts = chosen.sample(texts_of[fields["scoring"]], chosen.choice((1, 1, 1, 4)))
            if len(known) > 1:
                fields["threshold"] = chosen.choice(THRESHOLDS)
            body = json.dumps({"texts": texts, **fields}, ensure_ascii=False).encode()
            begin = time.perf_counter()
            try:
                writer.write(make_request(body))
                async with asyncio.timeout(ANSWER_TIMEOUT):
                    status, answer = await read_answer(reader)
            except (OSError, EOFError, TimeoutError) as error:
                failed[type(error).__name__] += 1
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                continue
            if status != 200:
                failed[str(status)] += 1
                continue
            tagged += len(texts)
            if difference := find_difference(answer, texts, known, fields, tolerance):
                wrong.append(difference)
            else:
                latencies.append(time.perf_counter() - begin)
        writer.close()

    begin = time.perf_counter()
    await asyncio.gather(*map(run_client, range(clients)))
    return Result(latencies, tagged, wrong, failed, time.perf_counter() - begin)


async def run_for(port: int, load: Load, seconds: float) -> Result:
    stop = asyncio.Event()
    asyncio.get_running_loop().call_later(seconds, stop.set)
    return await run_clients(port, load, stop)


async def ask_alone(port: int, texts: Sequence[str]) -> Known:
    """Return the answers to a single client that sends one text at a time."""
    known: dict[str, list[tuple[str, int, int, float]]] = {}
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for text in texts:
        writer.write(make_request(json.dumps({"texts": [text]}).encode()))
        status, answer = await read_answer(reader)
        if status != 200:
            sys.exit(f"status {status}: {answer.decode()}")
        known[text] = as_tuples(json.loads(answer)["results"][0])
    writer.close()
    return {"strict": known}


# --- Bad requests ------------------------------------------------------------------------------------------


def bad_requests() -> dict[str, tuple[bytes, int]]:
    """Return requests to refuse, with the status of the answer; 0 stands for a closed connection.

    The last three are slow: they are not complete.
    """
    good = b'{"texts": ["\xe7\x8e\x8b"]}'
    body = b'{"texts": ["\xe7\x8e\x8b"]'
    return {
        "no JSON": (make_request(body), 400),
        "no UTF-8": (make_request(b'{"texts": ["\xcd\xf5"]}'), 400),
        "wrong type": (make_request(b'{"texts": "b"}'), 400),
        "null text": (make_request(b'{"texts": [null]}'), 400),
        "no text": (make_request(b'{"texts": []}'), 400),
        "lone surrogate": (make_request(b'{"texts": ["\\ud83d"]}'), 400),
        "NaN": (make_request(body + b', "threshold": NaN}'), 400),
        "unknown field": (make_request(body + b', "thresold": 1}'), 400),
        "unknown scoring": (make_request(body + b', "scoring": "exact"}'), 400),
        "deep": (make_request(b"[" * 50_000), 400),
        "too many texts": (make_request(json.dumps({"texts": ["b"] * 5000}).encode()), 413),
        "long text": (make_request(json.dumps({"texts": ["b" * 500_000]}).encode()), 413),
        "large body": (make_request(b" " * (2 << 20)), 413),
        "huge Content-Length": (make_request(b"", "Content-Length: 999999999999"), 413),
        "wrong method": (make_request(good, line="PUT /tag HTTP/1.1"), 405),
        "unknown path": (make_request(good, line="POST /tags HTTP/1.1"), 404),
        "form": (make_request(good, "Content-Type: application/x-www-form-urlencoded"), 415),
        "compressed": (make_request(good, "Content-Encoding: gzip"), 415),
        "no HTTP": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400),
        "slow body": (make_request(body, "Content-Length: 99"), 408),
        "slow headers": (make_request(good)[:40], 0),
        "nothing": (b"", 0),
    }


async def send_bad_requests(port: int, count: int) -> tuple[Counter[str], list[str]]:
    """Send bad requests.

    Returns:
        The number of requests by their kind and result, and a description of each that was not refused as
        expected.
    """
    kinds = bad_requests()
    # Slow requests take seconds each: one in ten.
    quick, slow = list(kinds)[:-3], list(kinds)[-3:]
    chosen = random.Random(0)
    remaining = iter(range(count))
    outcomes, unexpected = Counter[str](), []

    async def run_client() -> None:
        for _ in remaining:
            kind = chosen.choice(slow if chosen.random() < 0.1 else quick)
            request, expected = kinds[kind]
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            status = 0
            try:
                writer.write(request)
                async with asyncio.timeout(ANSWER_TIMEOUT):
                    await writer.drain()
                    status, body = await read_answer(reader)
            except (OSError, EOFError):
                body = b""
            except TimeoutError:
                status, body = -1, b"no answer"
            outcomes[f"{kind}: {status or 'disconnected'}"] += 1
            if status != expected or (status and kind != "no HTTP" and b'"error"' not in body):
                unexpected.append(f"{kind}: {status} {body[:100]!r}")
            writer.close()

    await asyncio.gather(*(run_client() for _ in range(BAD_CLIENTS)))
    return outcomes, unexpected


async def run_with_bad(port: int, load: Load, count: int) -> tuple[Result, Counter[str], list[str]]:
    stop = asyncio.Event()
    good = asyncio.create_task(run_clients(port, load, stop))
    outcomes, unexpected = await send_bad_requests(port, count)
    stop.set()
    return await good, outcomes, unexpected


def metric(metrics: str, name: str) -> float:
    match = re.search(rf"^{re.escape(name)} (\S+)$", metrics, re.MULTILINE)
    return float(match[1]) if match else 0.0


# --- Main --------------------------------------------------------------------------------------------------


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
            [sys.executable, "convert/flax_to_torch.py", options.model, folder / "hf", "--layout", "hf"],
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
                begin = run.server.core_seconds()
                seconds = options.seconds / ROUNDS
                run.results.append(asyncio.run(run_for(run.server.port, run.sent, seconds)))
                run.core_seconds += run.server.core_seconds() - begin
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
        result, outcomes, unexpected = asyncio.run(run_with_bad(server.port, sent, options.bad))
        metrics = asyncio.run(get(server.port, "/metrics"))
        memory = (start, server.memory_mib())
    reached = int(metric(metrics, "flax_ner_batch_texts_sum")) - result.texts
    print(f"{options.bad:,} bad requests, {options.clients} clients, {result.seconds:.0f} s\n")
    print("| bad request: answer | number |")
    print("| --- | --- |")
    for outcome, number in sorted(outcomes.items()):
        print(f"| {outcome} | {number} |")
    requests, (p50, p99) = len(result.latencies), np.percentile(result.latencies, (50, 99))
    print(
        f"\nGood requests: {requests:,} correct answers, {len(result.wrong)} wrong answers, "
        f"{sum(result.failed.values())} failures. The latency was {p50 * 1000:,.0f} ms (median) and "
        f"{p99 * 1000:,.0f} ms (p99). {reached} texts of bad requests reached the model. Memory: "
        f"{memory[0]:,.0f} MiB at the start, {memory[1]:,.0f} MiB at the end."
    )
    if unexpected or reached or result.wrong or result.failed:
        sys.exit(
            "\n".join(
                ["not as expected:", *unexpected[:20], *result.wrong[:20], str(dict(result.failed))]
            )
        )
    return {"bad": options.bad, "good": requests, "seconds": round(result.seconds, 1)}


if __name__ == "__main__":
    main()
