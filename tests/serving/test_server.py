"""The HTTP server: answers, refusals, limits, time-outs, and its end."""

import json
import logging
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import tomllib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("prometheus_client", reason="it is in the extra `serve`")
pytest.importorskip("starlette", reason="it is in the extra `serve`")
pytest.importorskip("uvicorn", reason="it is in the extra `serve`")

import uvicorn
from prometheus_client.parser import text_string_to_metric_families

from flax_ner.cli.main import main
from flax_ner.cli.serve_command import REQUIREMENTS
from flax_ner.errors import UserError
from flax_ner.serving.api_key import read_api_key
from flax_ner.serving.listening import listen
from flax_ner.serving.openapi import ERRORS
from flax_ner.serving.run_server import make_config, max_connections
from flax_ner.serving.server import TagService
from flax_ner.serving.server_settings import ServerSettings
from flax_ner.text.labels import LabelSet, SpanLabels
from flax_ner.weights.model_dir import ModelDir, save_model
from tests.inference.helpers import LABELS, VOCAB, hand_made_tagger
from tests.serving.helpers import TAGGER, GatedTagger, until

ROOT = Path(__file__).resolve().parents[2]
JSON = {"Content-Type": "application/json"}


class Client:
    """A client of the server at a port."""

    def __init__(self, port: int):
        self.port = port

    def request(
        self, method: str, path: str, body: Any = None, headers: dict[str, str] = JSON
    ) -> tuple[int, Any, dict[str, str]]:
        """Send a request. Return the status, the parsed JSON or the text, and the headers of the answer."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.request(method, path, body, headers)
            answer = connection.getresponse()
            content = answer.read().decode()
            is_json = answer.headers["Content-Type"] == "application/json"
            return answer.status, json.loads(content) if is_json else content, dict(answer.headers)
        finally:
            connection.close()

    def tag(self, *texts: str, **fields: Any) -> tuple[int, Any, dict[str, str]]:
        return self.request("POST", "/tag", json.dumps({"texts": texts, **fields}))

    def metrics(self) -> dict[str, float]:
        """Return the samples of /metrics by their name, with the values of their labels."""
        text = self.request("GET", "/metrics")[1]
        return {
            " ".join([sample.name, *sample.labels.values()]): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }


class RunningServer(Client):
    """A server in a thread of this process."""

    def __init__(self, tagger: GatedTagger, service: TagService, port: int):
        super().__init__(port)
        self.tagger, self.service = tagger, service


@contextmanager
def running(**settings: Any) -> Iterator[RunningServer]:
    """Run a server with the hand-made tagger on a free port of the loopback."""
    tagger: Any = GatedTagger()
    chosen = ServerSettings(**settings)
    ready = threading.Event()
    service = TagService(lambda: tagger, chosen, ready.set)
    server = uvicorn.Server(make_config(service, chosen))
    with listen("127.0.0.1", 0) as listener:
        port = listener.getsockname()[1]
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            assert ready.wait(30)
            yield RunningServer(tagger, service, port)
        finally:
            tagger.gate.set()
            server.should_exit = True
            thread.join(30)
            service.worker.shutdown()
            assert not thread.is_alive()


@pytest.fixture(scope="module")
def server() -> Iterator[RunningServer]:
    with running() as server:
        yield server


def expected_results(texts: Sequence[str], scoring: str, threshold: float) -> list[Any]:
    predicted = TAGGER(texts, scoring, threshold)
    return [
        [{**entity._asdict(), "score": pytest.approx(entity.score, abs=1e-6)} for entity in row]
        for row in predicted
    ]


# --- Answers -----------------------------------------------------------------------------------------------


def test_answers_equal_those_of_the_tagger(server: RunningServer) -> None:
    texts = ["bi", "", "😀👨‍👩‍👧b中bii", "ibo\nb", "o" * 300 + "bi", "\0b\u2028"]
    for scoring in ("strict", "lenient"):
        status, answer, _ = server.tag(*texts, scoring=scoring)
        assert (status, answer) == (200, {"results": expected_results(texts, scoring, 0.0)})
    assert server.tag("bi")[1]["results"][0][0].keys() == {"type", "start", "end", "text", "score"}
    emoji = server.tag(texts[2])[1]["results"][0][0]
    assert (emoji["start"], emoji["end"]) == (6, 7)  # 10 and 11 in UTF-16 code units


def test_concurrent_clients_get_their_own_answers() -> None:
    def ask(client: int) -> None:
        for turn in range(4):
            texts = ["b" + "i" * (client % 7) + "o" * turn, "i" * (client + 1)][: 1 + client % 2]
            scoring = ("strict", "lenient")[(client + turn) % 2]
            threshold = (0.0, 0.3, 0.9)[client % 3]
            status, answer, _ = server.tag(*texts, scoring=scoring, threshold=threshold)
            assert status == 200
            assert answer["results"] == expected_results(texts, scoring, threshold)

    with running() as server, ThreadPoolExecutor(50) as pool:
        assert len(list(pool.map(ask, range(50)))) == 50
        metrics = server.metrics()
        assert metrics["flax_ner_requests_total /tag 200"] == 200
        assert metrics["flax_ner_texts_total"] == 300
        assert len(server.tagger.batches) < 200  # requests shared batches
        assert metrics["flax_ner_batch_texts_count"] == len(server.tagger.batches)


# --- Refusals ----------------------------------------------------------------------------------------------

TEXTS = b'{"texts": ["b"]'
REFUSED = {
    "no JSON": (b"texts", 400, r"^The body is not JSON \(Expecting value at line 1, column 1\)\. Send"),
    "empty": (b"", 400, r"not JSON"),
    "truncated": (TEXTS, 400, r"not JSON"),
    "not UTF-8": ('{"texts": ["中"]}'.encode("gb18030"), 400, r"is not UTF-8 \(.* at byte 12\)\. Send"),
    "deep": (b"[" * 100_000, 400, r"nested too deeply"),
    "huge integer": (TEXTS + b', "threshold": ' + b"9" * 5000 + b"}", 400, r"^threshold: inf, but"),
    "no object": (b'["b"]', 400, r"^The body is a list\. Send an object such as \{"),
    "no texts": (b"{}", 400, r"^texts: is missing"),
    "one string": (b'{"texts": "b"}', 400, r"^texts: is a string\. Send a list of strings\.$"),
    "no texts in list": (b'{"texts": []}', 400, r"^texts: is empty\. Send at least one text\.$"),
    "null text": (b'{"texts": ["b", null]}', 400, r"^texts\[1\]: is null\. Send a string\.$"),
    "nested text": (b'{"texts": [["b"]]}', 400, r"^texts\[0\]: is a list"),
    "surrogate": (b'{"texts": ["b\\ud83d"]}', 400, r"^texts\[0\]: character 1 is half of a surrogate"),
    "unknown field": (TEXTS + b', "treshold": 1}', 400, r"^'treshold': unknown field\. The fields are texts,"),
    "surrogate in field": (TEXTS + b', "\\ud83d": 1}', 400, r"^'\\ud83d': unknown field"),
    "scoring": (TEXTS + b', "scoring": "exact"}', 400, r"^scoring: 'exact' is unknown\. Choose one of strict"),
    "scoring type": (TEXTS + b', "scoring": 1}', 400, r"^scoring: is a number"),
    "NaN": (TEXTS + b', "threshold": NaN}', 400, r"not JSON \(NaN is not a number of JSON\)"),
    "infinite": (TEXTS + b', "threshold": 1e999}', 400, r"^threshold: inf, but a probability is a number in"),
    "threshold": (TEXTS + b', "threshold": 1.5}', 400, r"^threshold: 1\.5, but"),
    "threshold type": (TEXTS + b', "threshold": "' + b"5" * 5000 + b'"}', 400, r"^threshold: is a string\."),
    "boolean threshold": (TEXTS + b', "threshold": true}', 400, r"^threshold: is a boolean\. Send a number"),
    "texts": (b'{"texts": ["b", "b", "b"]}', 413, r"^texts: 3 texts, but at most 2 are allowed"),
    "characters": (b'{"texts": ["' + b"b" * 9 + b'"]}', 413, r"^texts\[0\]: 9 characters, but .* at most 8\."),
    "all characters": (b'{"texts": ["bbbbbb", "bbbbbb"]}', 413, r"^texts: 12 characters, but at most 10 are"),
    "bytes": (b" " * 200_001, 413, r"^The body has more than 200,000 bytes\. Divide"),
}  # fmt: skip


@pytest.fixture(scope="module")
def small_server() -> Iterator[RunningServer]:
    limits = {"max_texts": 2, "max_text_characters": 8, "max_characters": 10, "max_body": 200_000}
    with running(**limits) as server:
        yield server


@pytest.mark.parametrize("name", REFUSED)
def test_an_invalid_body_is_refused_with_the_reason(small_server: RunningServer, name: str) -> None:
    body, expected, message = REFUSED[name]
    status, answer, _ = small_server.request("POST", "/tag", body)
    assert status == expected and answer.keys() == {"error"}
    assert re.search(message, answer["error"]), answer
    assert "\n" not in answer["error"] and len(answer["error"]) < 250
    assert small_server.tagger.batches == []


@pytest.mark.parametrize(
    ("method", "path", "headers", "status", "message"),
    [
        ("GET", "/tag", {}, 405, r"^/tag does not support this method\. Use POST\.$"),
        ("POST", "/health", {}, 405, r"^/health does not support this method\. Use GET\.$"),
        ("POST", "/tags", JSON, 404, r"^This path does not exist\. The paths are /docs, /health"),
        ("POST", "/tag/", JSON, 404, r"^This path does not exist"),
        ("POST", "/tag", {}, 415, r"^Content-Type is missing\. Send application/json"),
        ("POST", "/tag", {"Content-Type": "text/plain"}, 415, r"^Content-Type is 'text/plain'"),
        (
            "POST", "/tag", {"Content-Type": "application/json; charset=gbk"}, 415,
            r"charset=gbk'\. Send application/json in UTF-8",
        ),
        ("POST", "/tag", {"Content-Type": "application/json; charset=\xe4"}, 415, r"\. Send application/json"),
        ("POST", "/tag", {**JSON, "Content-Encoding": "gzip"}, 415, r"^Content-Encoding is 'gzip'"),
    ],
)  # fmt: skip
def test_a_wrong_request_is_refused_with_the_reason(
    server: RunningServer, method: str, path: str, headers: Any, status: int, message: str
) -> None:
    answer = server.request(method, path, b'{"texts": ["b"]}', headers)
    assert answer[0] == status and re.search(message, answer[1]["error"]), answer


@pytest.mark.parametrize(
    "parameters", ['charset="UTF-8"', "charset=utf8", "x=y", "x=y; Charset=utf-8"]
)
def test_parameters_of_the_content_type_are_accepted(
    server: RunningServer, parameters: str
) -> None:
    headers = {"Content-Type": f"Application/JSON; {parameters}"}
    assert server.request("POST", "/tag", b'{"texts": ["b"]}', headers)[0] == 200


def test_a_chunked_body_is_limited_while_it_is_read(small_server: RunningServer) -> None:
    chunks = (b" " * 50_000 for _ in range(5))
    status, answer, _ = small_server.request("POST", "/tag", chunks)
    assert (status, answer["error"][:40]) == (413, "The body has more than 200,000 bytes. Di")
    # A body that would be too large is refused before it is read.
    with socket.create_connection(("127.0.0.1", small_server.port), 30) as client:
        client.sendall(head("Content-Length: 200001"))
        assert client.recv(100).startswith(b"HTTP/1.1 413 ")


def test_all_bodies_together_are_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flax_ner.serving.server.MAX_BODY_BYTES", 100)
    with running() as server:
        with socket.create_connection(("127.0.0.1", server.port), 30) as slow:
            slow.sendall(head("Content-Length: 99") + b" " * 90)
            until(lambda: server.service._body_bytes == 90)
            status, answer, headers = server.tag("b")
            assert (status, headers["retry-after"]) == (503, "1")
            assert answer["error"].startswith("Too many requests arrive at once.")
        until(lambda: server.service._body_bytes == 0)
        assert server.tag("b")[0] == 200


def head(*headers: str) -> bytes:
    lines = ["POST /tag HTTP/1.1", "Host: x", "Content-Type: application/json", *headers]
    return "\r\n".join([*lines, "", ""]).encode()


def test_a_slow_client_gets_408_or_is_disconnected() -> None:
    with running(body_timeout=0.3) as server:
        address = ("127.0.0.1", server.port)
        with socket.create_connection(address, 30) as client:
            client.sendall(head("Content-Length: 20") + b'{"texts"')
            answer = client.recv(1000).decode()
            assert answer.startswith("HTTP/1.1 408 ")
            assert "The body did not arrive within 0.3 seconds." in answer
            for _ in range(100):  # the rest of the body cannot keep the connection open
                time.sleep(0.05)
                with suppress(OSError):
                    client.sendall(b" ")
                client.setblocking(False)
                with suppress(BlockingIOError):
                    assert client.recv(100) == b""
                    break
            else:
                raise AssertionError("the connection stays open")
        for sent in (b"", head("Content-Length: 20")[:-2]):  # slow headers
            with socket.create_connection(address, 30) as client:
                client.sendall(sent)
                assert client.recv(100) == b""
        # A connection is kept while its request is tagged, and while it is idle.
        connection = HTTPConnection("127.0.0.1", server.port, timeout=30)
        server.tagger.gate.clear()
        threading.Timer(0.8, server.tagger.gate.set).start()
        for _ in range(2):
            connection.request("POST", "/tag", b'{"texts": ["b"]}', JSON)
            answer = connection.getresponse()
            assert answer.status == 200 and answer.read()
            opened = connection.sock
            time.sleep(0.5)
        assert connection.sock is opened
        connection.close()


def test_a_client_that_sends_nothing_after_a_408_is_disconnected() -> None:
    with (
        running(body_timeout=0.3) as server,
        socket.create_connection(("127.0.0.1", server.port), 10) as client,
    ):
        client.sendall(head("Content-Length: 20") + b'{"texts"')
        assert client.recv(1000).startswith(b"HTTP/1.1 408 ")
        assert client.recv(1000) == b""


LARGE = {"max_text_characters": 100_000, "max_characters": 100_000}


@contextmanager
def ask_without_reading(port: int) -> Iterator[socket.socket]:
    """Send two requests whose answers do not fit into the buffers of the operating system."""
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect(("127.0.0.1", port))
        body = json.dumps({"texts": ["b" * LARGE["max_text_characters"]]}).encode()
        client.sendall(2 * (head(f"Content-Length: {len(body)}") + body))
        yield client


def test_a_client_that_does_not_read_is_disconnected() -> None:
    with (
        running(body_timeout=0.3, **LARGE) as server,
        ask_without_reading(server.port) as client,
    ):
        client.setblocking(False)

        def is_disconnected() -> bool:
            try:
                client.send(b" ")
            except BlockingIOError:
                return False
            except ConnectionError:
                return True
            return False

        until(is_disconnected)


def test_a_further_connection_replaces_one_without_a_request(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("flax_ner.serving.run_server.MAX_CONNECTIONS", 4)
    with running() as server, ThreadPoolExecutor(4) as pool, ExitStack() as stack:
        idle = []
        for _ in range(10):
            idle.append(HTTPConnection("127.0.0.1", server.port, timeout=30))
            stack.callback(idle[-1].close)
            idle[-1].request("GET", "/health")
            assert idle[-1].getresponse().read()
        server.tagger.gate.clear()
        answers = [pool.submit(server.tag, "b") for _ in range(4)]
        service = server.service
        until(lambda: sum(map(len, server.tagger.batches)) + service._batcher.queue_length() == 4)
        assert all(connection.sock.recv(1) == b"" for connection in idle)
        with pytest.raises(ConnectionError):  # all have a request
            server.tag("b")
        server.tagger.gate.set()
        assert [answer.result()[0] for answer in answers] == [200] * 4
        assert server.tag("b")[0] == 200


def test_connections_use_at_most_half_of_the_files(monkeypatch: pytest.MonkeyPatch) -> None:
    resource = pytest.importorskip("resource", reason="not on Windows")
    for files, expected in ((256, 128), (1 << 20, 1024), (resource.RLIM_INFINITY, 1024)):
        monkeypatch.setattr(resource, "getrlimit", lambda _, files=files: (files, files))
        assert max_connections() == expected


# --- Queue -------------------------------------------------------------------------------------------------


def test_a_full_queue_answers_503_and_a_late_result_504() -> None:
    with (
        running(max_queue=2, max_texts=2, timeout=1.0) as server,
        ThreadPoolExecutor(4) as pool,
    ):
        server.tagger.gate.clear()
        running_one = pool.submit(server.tag, "b")
        until(lambda: server.tagger.batches == [["b"]])
        waiting = pool.submit(server.tag, "bi", "bi")
        until(lambda: server.metrics()["flax_ner_queue_texts"] == 2)
        status, answer, headers = server.tag("bii")
        assert (status, headers["retry-after"]) == (503, "1")
        assert answer == {"error": "The queue is full. Try again later."}
        # The event loop is not blocked while the model is busy.
        assert server.request("GET", "/health")[:2] == (200, {"status": "alive"})
        for pending in (running_one, waiting):
            status, answer, _ = pending.result()
            assert status == 504 and answer["error"].startswith("There was no result within 1 sec")
        assert server.metrics()["flax_ner_queue_texts"] == 0
        server.tagger.gate.set()
        assert server.tag("bii")[0] == 200
        assert server.tagger.batches == [["b"], ["bii"]]  # texts that were not started are dropped


def test_a_client_that_disconnects_frees_its_place() -> None:
    with running() as server, ThreadPoolExecutor(4) as pool:
        server.tagger.gate.clear()
        first = pool.submit(server.tag, "b")
        until(lambda: len(server.tagger.batches) == 1)
        body = b'{"texts": ["bi"]}'
        with socket.create_connection(("127.0.0.1", server.port)) as client:
            client.sendall(head(f"Content-Length: {len(body)}") + body)
            until(lambda: server.metrics()["flax_ner_queue_texts"] == 1)
        until(lambda: server.metrics()["flax_ner_queue_texts"] == 0)
        server.tagger.gate.set()
        assert first.result()[0] == 200
        until(lambda: server.metrics().get("flax_ner_requests_total /tag 499") == 1)
        assert server.tagger.batches == [["b"]]


def test_a_failing_text_fails_only_its_own_request(caplog: pytest.LogCaptureFixture) -> None:
    with (
        running(max_delay=300) as server,
        ThreadPoolExecutor(3) as pool,
        caplog.at_level(logging.INFO, "flax_ner.serving"),
    ):
        answers = list(pool.map(server.tag, ("b", "boom", "bi")))
        assert [status for status, _, _ in answers] == [200, 500, 200]
        assert answers[1][1]["error"].startswith("The model failed on these texts.")
        assert answers[2][1]["results"] == expected_results(["bi"], "strict", 0.0)
        assert sorted(server.tagger.batches[0]) == ["b", "bi", "boom"]
    errors = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
    assert len(errors) == 1 and errors[0].startswith("RuntimeError\n")
    assert "boom" not in errors[0].replace('if any("boom" in', "")  # a line of this file


# --- API key, log, metrics, documentation ------------------------------------------------------------------


def test_an_api_key_is_required_for_texts_only() -> None:
    with running(api_key="secret") as server:
        body = b'{"texts": ["b"]}'
        for value in (
            "",
            "Bearer",
            "Bearer secre",
            "Bearer secret2",
            "Basic secret",
            "Bearer geheimß",
        ):
            headers = {**JSON, "Authorization": value}
            status, answer, answer_headers = server.request("POST", "/tag", body, headers)
            assert (status, answer_headers["www-authenticate"]) == (401, "Bearer")
            assert answer["error"].startswith("The API key is missing or wrong. Send the header")
        for value in ("Bearer secret", "bearer secret"):
            headers = {**JSON, "Authorization": value}
            assert server.request("POST", "/tag", body, headers)[0] == 200
        for path in ("/health", "/ready", "/metrics", "/docs"):
            assert server.request("GET", path)[0] == 200
        document = server.request("GET", "/openapi.json")[1]
        assert document["paths"]["/tag"]["post"]["security"] == [{"key": []}]


def test_api_key_comes_from_the_environment_or_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "key"
    file.write_text("from-file\n")
    monkeypatch.delenv("FLAX_NER_API_KEY", raising=False)
    assert read_api_key(None) is None
    assert read_api_key(str(file)) == "from-file"
    monkeypatch.setenv("FLAX_NER_API_KEY", "from-environment")
    assert read_api_key(None) == "from-environment"
    with pytest.raises(UserError, match=r"^--api-key-file: FLAX_NER_API_KEY is set too\. Use only"):
        read_api_key(str(file))
    monkeypatch.setenv("FLAX_NER_API_KEY", "")
    with pytest.raises(UserError, match=r"^FLAX_NER_API_KEY: is empty\. Use a key of letters"):
        read_api_key(None)
    monkeypatch.delenv("FLAX_NER_API_KEY")
    file.write_bytes(b"two words")
    with pytest.raises(UserError, match="the key has unsuitable characters"):
        read_api_key(str(file))


def test_each_request_is_logged_without_its_texts(caplog: pytest.LogCaptureFixture) -> None:
    for log_texts in (False, True):
        caplog.clear()
        with (
            caplog.at_level(logging.DEBUG),
            running(log_texts=log_texts) as server,
        ):
            server.tag("bio中", "b")
            server.request("POST", "/%0Abio", "bio中".encode())
            server.request("POST", "/tag?bio", b'{"texts": "bio"}')
        # The server has stopped, so the last request is logged too.
        lines = [r.getMessage() for r in caplog.records if r.name == "flax_ner.serving"]
        assert re.match(r"POST /tag 200 2 texts 5 characters \d+\.\d ms", lines[0])
        assert [line.split()[:3] for line in lines[1:]] == [
            ["POST", "other", "404"], ["POST", "/tag", "400"],
        ]  # fmt: skip
        assert ("bio中" in lines[0]) == log_texts
        assert ("This path does not exist." in lines[1]) == log_texts
        assert lines[2].endswith("texts: is a string. Send a list of strings.") == log_texts
        assert log_texts or "bio" not in caplog.text


def test_metrics_are_in_the_format_of_prometheus() -> None:
    with running() as server:
        server.tag("b", "bi")
        server.tag("b", scoring="exact")
        for path in ("/a", "/b"):
            server.request("GET", path)
        status, _, headers = server.request("GET", "/metrics")
        assert status == 200 and headers["content-type"].startswith("text/plain; version=")
        metrics = server.metrics()
    assert {name: value for name, value in metrics.items() if "requests_total" in name} == {
        "flax_ner_requests_total /tag 200": 1,
        "flax_ner_requests_total /tag 400": 1,
        "flax_ner_requests_total other 404": 2,  # a path cannot make a new counter
        "flax_ner_requests_total /metrics 200": 1,
    }
    assert metrics["flax_ner_texts_total"] == 2 and metrics["flax_ner_characters_total"] == 3
    assert metrics["flax_ner_queue_texts"] == 0
    assert metrics["flax_ner_batch_texts_bucket 1.0"] == 0
    assert metrics["flax_ner_batch_texts_bucket 2.0"] == 1
    assert metrics["flax_ner_tag_seconds_bucket +Inf"] == metrics["flax_ner_tag_seconds_count"] == 1
    if sys.platform == "linux":
        assert metrics["process_resident_memory_bytes"] > 0


def test_documentation_describes_the_server_and_loads_nothing(server: RunningServer) -> None:
    document = server.request("GET", "/openapi.json")[1]
    post = document["paths"]["/tag"]["post"]
    assert "Unicode code points" in post["description"]
    example = post["requestBody"]["content"]["application/json"]["example"]
    assert server.request("POST", "/tag", json.dumps(example))[0] == 200
    assert set(post["responses"]) == {"200", *map(str, ERRORS)}
    for path, methods in document["paths"].items():
        assert path == "/tag" or server.request("GET", path)[0] == 200
        assert methods.keys() <= {"get", "post"}
    status, page, headers = server.request("GET", "/docs")
    assert status == 200 and headers["content-type"].startswith("text/html")
    assert not re.search(r"<script|<link|<img|src=|@import", page)
    assert re.findall(r'href="(.*?)"', page) == ["openapi.json"]
    assert f"curl http://127.0.0.1:{server.port}/tag" in page


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        (LABELS, ["strict", "lenient", "mmocr"]),
        (LabelSet(["name"], "bioes"), ["strict", "lenient"]),
        (SpanLabels(["name"]), ["strict"]),
    ],
    ids=["bio", "bioes", "spans"],
)
def test_documentation_lists_the_conventions_of_the_model(labels: Any, expected: list[str]) -> None:
    with running() as server:
        server.tagger.labels = labels
        assert scoring_in_documentation(server) == expected


def scoring_in_documentation(server: RunningServer) -> Any:
    post = server.request("GET", "/openapi.json")[1]["paths"]["/tag"]["post"]
    schema = post["requestBody"]["content"]["application/json"]["schema"]
    return schema["properties"]["scoring"]["enum"]


# --- Start and end -----------------------------------------------------------------------------------------


def test_not_ready_while_the_model_is_loading() -> None:
    with running() as server:
        assert server.request("GET", "/ready")[:2] == (200, {"status": "ready"})
        server.service._tagger = None
        for method, path in (("GET", "/ready"), ("POST", "/tag")):
            status, answer, _ = server.request(method, path, b'{"texts": ["b"]}')
            assert (status, answer["error"][:31]) == (503, "The model is still loading. Try")
        assert scoring_in_documentation(server) == ["strict", "lenient", "mmocr"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_texts": 0}, r"^--max-texts 0: must be at least 1\.$"),
        ({"timeout": float("nan")}, r"^--timeout nan: must be a finite number greater than 0\.$"),
        ({"body_timeout": float("inf")}, r"^--body-timeout inf: must be a finite number greater than 0\.$"),
        ({"max_delay": -1.0}, r"^--max-delay -1\.0: must be a finite number greater than 0\.$"),
        ({"max_queue": 5}, r"^--max-queue 5: is less than --max-texts 128, .* or lower --max-texts\.$"),
    ],
)  # fmt: skip
def test_invalid_settings_are_refused(settings: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        ServerSettings(**settings)


def test_the_extra_requires_the_versions_that_the_server_needs() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    assert extras["serve"] == list(REQUIREMENTS)


def test_a_missing_package_is_reported_with_the_pip_command(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    with pytest.raises(
        SystemExit, match=r"^flax_ner: serve: needs uvicorn\. Run pip install 'h11.*' '"
    ):
        main(["serve", "no model"])


# `python -m flax_ner` that takes ten minutes to load a model.
SLOW = """
import sys, time
from flax_ner.cli import main, serve_command
serve_command.load_tagger = lambda *_: time.sleep(600)
main.main(sys.argv[1:])
"""


class ServerProcess:
    """A running `serve` command."""

    def __init__(self, program: Sequence[str], model: Path, *options: str):
        self.process = subprocess.Popen(
            [sys.executable, *program, "serve", model, "--port", "0", *options],
            stderr=subprocess.PIPE, text=True, cwd=ROOT,
        )  # fmt: skip

    def read_until(self, text: str) -> str:
        """Return the line of the log that has the text."""
        assert self.process.stderr
        log = ""
        for line in self.process.stderr:
            log += line
            if text in line:
                return line
        raise RuntimeError(f"the server ended:\n{log}")

    def port(self) -> int:
        """Return the port, once the server is ready."""
        match = re.search(r"http://127\.0\.0\.1:(\d+)/", self.read_until("is ready"))
        assert match
        return int(match[1])

    def wait(self) -> tuple[int, str]:
        """Return the exit status, and the rest of the log."""
        log = self.process.communicate(timeout=60)[1]
        return self.process.returncode, log


@pytest.fixture
def model(tmp_path: Path) -> Path:
    tagger = hand_made_tagger()
    save_model(tmp_path / "model", ModelDir(tagger.config, LABELS, VOCAB, 64, tagger.params))
    return tmp_path / "model"


@contextmanager
def serving(
    model: Path, *options: str, program: Sequence[str] = ("-m", "flax_ner")
) -> Iterator[ServerProcess]:
    """Run the command, and kill it at the end if it still runs."""
    server = ServerProcess(program, model, *options)
    try:
        yield server
    finally:
        server.process.kill()
        server.process.wait()
        assert server.process.stderr
        server.process.stderr.close()


@pytest.mark.parametrize(
    "sent", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)]
)
def test_a_signal_lets_accepted_requests_be_answered(model: Path, sent: signal.Signals) -> None:
    with serving(model, "--max-delay", "2000") as server, ThreadPoolExecutor(5) as pool:
        client = Client(server.port())
        pending = [pool.submit(client.tag, "b" + "i" * n) for n in range(5)]
        until(lambda: client.metrics()["flax_ner_queue_texts"] == 5)
        server.process.send_signal(sent)

        def is_closed() -> bool:
            try:
                client.request("GET", "/ready")
            except OSError:
                return True
            return False

        until(is_closed)
        assert not any(request.done() for request in pending)
        for n, request in enumerate(pending):
            status, answer, _ = request.result()
            assert (status, answer["results"][0][0]["text"]) == (200, "b" + "i" * n)
        exit_status, log = server.wait()
    assert exit_status == 0 and "Traceback" not in log
    assert log.count("POST /tag 200 1 texts") == 5


def test_a_client_that_does_not_read_does_not_delay_the_end(model: Path) -> None:
    limits = [f"--{name.replace('_', '-')}={value}" for name, value in LARGE.items()]
    with serving(model, "--body-timeout=2", "--timeout=10", *limits) as server:
        client = Client(server.port())
        with ask_without_reading(client.port):
            until(lambda: client.metrics().get("flax_ner_requests_total /tag 200") == 1)
            begin = time.monotonic()
            server.process.send_signal(signal.SIGTERM)
            exit_status, log = server.wait()
            assert time.monotonic() - begin < 6
    assert exit_status == 0 and "Traceback" not in log


def test_a_signal_while_the_model_is_loading_ends_the_server(tmp_path: Path) -> None:
    with serving(tmp_path, program=("-c", SLOW)) as server:
        server.read_until("loading")
        time.sleep(0.5)  # the event loop starts
        server.process.send_signal(signal.SIGTERM)
        exit_status, log = server.wait()
    assert exit_status == 0 and "Traceback" not in log


def test_a_model_that_cannot_be_loaded_ends_the_server(tmp_path: Path) -> None:
    with serving(tmp_path / "absent") as server:
        exit_status, log = server.wait()
    assert exit_status == 1
    assert "no file or directory" in log and "Traceback" not in log
