"""The clients of benchmarks/serving.py: they check every answer, or send bad requests."""

import asyncio
import json
import random
import re
import sys
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

# Answers: for each convention and text, the entities as (type, start, end, score).
Known = dict[str, dict[str, list[tuple[str, int, int, float]]]]
THRESHOLDS = (0.0, 0.5)
BAD_CLIENTS = 50
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


async def run_with_bad(
    port: int, load: Load, count: int, seconds: float
) -> tuple[Result, Counter[str], list[str]]:
    """Run the clients for at least `seconds`, and until `count` bad requests have been sent."""
    stop = asyncio.Event()
    good = asyncio.create_task(run_clients(port, load, stop))
    (outcomes, unexpected), _ = await asyncio.gather(
        send_bad_requests(port, count), asyncio.sleep(seconds)
    )
    stop.set()
    return await good, outcomes, unexpected
