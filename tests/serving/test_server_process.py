"""The command `serve`: its requirements, its start and its end."""

import re
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

pytest.importorskip("prometheus_client", reason="it is in the extra `serve`")
pytest.importorskip("starlette", reason="it is in the extra `serve`")
pytest.importorskip("uvicorn", reason="it is in the extra `serve`")


from flax_ner.cli.main import main
from flax_ner.cli.serve_command import REQUIREMENTS
from flax_ner.weights.model_dir import ModelDir, save_model
from tests.commands import killed_at_end
from tests.inference.helpers import LABELS, VOCAB, hand_made_tagger
from tests.serving.helpers import until
from tests.serving.running_server import LARGE, Client, ask_without_reading

ROOT = Path(__file__).resolve().parents[2]


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
    with killed_at_end(server.process):
        yield server


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
