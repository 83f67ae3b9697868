"""The HTTP server: answers, refusals, log, metrics and documentation."""

import json
import logging
import re
import socket
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("prometheus_client", reason="it is in the extra `serve`")
pytest.importorskip("starlette", reason="it is in the extra `serve`")
pytest.importorskip("uvicorn", reason="it is in the extra `serve`")


from flax_ner.errors import UserError
from flax_ner.serving.api_key import read_api_key
from flax_ner.serving.openapi import ERRORS
from flax_ner.serving.server_settings import ServerSettings
from flax_ner.text.labels import LabelSet, SpanLabels
from tests.inference.helpers import LABELS
from tests.serving.running_server import JSON, RunningServer, expected_results, head, running


@pytest.fixture(scope="module")
def server() -> Iterator[RunningServer]:
    with running() as server:
        yield server


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


# --- Start -----------------------------------------------------------------------------------------------


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
