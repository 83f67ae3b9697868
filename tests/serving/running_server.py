"""A server in a thread of this process, and clients of it."""

import json
import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.client import HTTPConnection
from typing import Any

import pytest
import uvicorn
from prometheus_client.parser import text_string_to_metric_families

from flax_ner.serving.listening import listen
from flax_ner.serving.run_server import make_config
from flax_ner.serving.server import TagService
from flax_ner.serving.server_settings import ServerSettings
from tests.serving.helpers import TAGGER, GatedTagger

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


def expected_results(texts: Sequence[str], scoring: str, threshold: float) -> list[Any]:
    predicted = TAGGER(texts, scoring, threshold)
    return [
        [{**entity._asdict(), "score": pytest.approx(entity.score, abs=1e-6)} for entity in row]
        for row in predicted
    ]


def head(*headers: str) -> bytes:
    lines = ["POST /tag HTTP/1.1", "Host: x", "Content-Type: application/json", *headers]
    return "\r\n".join([*lines, "", ""]).encode()


LARGE = {"max_text_characters": 100_000, "max_characters": 100_000}


@contextmanager
def ask_without_reading(port: int, requests: int = 2) -> Iterator[socket.socket]:
    """Send requests whose answers do not fit into the buffers of the operating system."""
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect(("127.0.0.1", port))
        body = json.dumps({"texts": ["b" * LARGE["max_text_characters"]]}).encode()
        client.sendall(requests * (head(f"Content-Length: {len(body)}") + body))
        yield client
