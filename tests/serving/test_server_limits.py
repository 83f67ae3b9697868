"""The HTTP server under load: slow clients, too many connections, a full queue."""

import json
import logging
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from http.client import HTTPConnection, HTTPResponse

import pytest

pytest.importorskip("prometheus_client", reason="it is in the extra `serve`")
pytest.importorskip("starlette", reason="it is in the extra `serve`")
pytest.importorskip("uvicorn", reason="it is in the extra `serve`")


from flax_ner.serving.run_server import max_connections
from tests.serving.helpers import until
from tests.serving.running_server import (
    JSON,
    LARGE,
    ask_without_reading,
    expected_results,
    head,
    running,
)


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


def test_a_further_connection_replaces_the_one_that_has_waited_longest(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("flax_ner.serving.run_server.MAX_CONNECTIONS", 8)
    with running() as server, ExitStack() as stack:

        def connect() -> HTTPConnection:
            connection = HTTPConnection("127.0.0.1", server.port, timeout=30)
            stack.callback(connection.close)
            connection.connect()
            return connection

        def answers(connection: HTTPConnection) -> bool:
            connection.request("GET", "/health")
            return bool(connection.getresponse().read())

        answered = [connect() for _ in range(8)]
        assert all(answers(connection) for connection in answered)
        new = [connect() for _ in range(8)]  # without a request; they must not replace each other
        assert all(connection.sock.recv(1) == b"" for connection in answered)
        assert all(answers(connection) for connection in new)


def test_a_further_connection_does_not_cut_off_an_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flax_ner.serving.run_server.MAX_CONNECTIONS", 1)
    with (
        running(**LARGE) as server,
        ask_without_reading(server.port, requests=1) as client,
    ):
        until(lambda: b'status="200"' in server.service._metrics.render())
        with socket.create_connection(("127.0.0.1", server.port), 30) as further:
            assert further.recv(1) == b""
        answer = HTTPResponse(client)
        answer.begin()
        assert len(json.loads(answer.read())["results"]) == 1


def test_connections_use_at_most_half_of_the_files(monkeypatch: pytest.MonkeyPatch) -> None:
    resource = pytest.importorskip("resource", reason="not on Windows")
    for files, expected in ((256, 128), (1 << 20, 1024), (resource.RLIM_INFINITY, 1024)):
        monkeypatch.setattr(resource, "getrlimit", lambda _, files=files: (files, files))
        assert max_connections() == expected


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
