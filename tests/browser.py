"""Helpers to test the page of `python -m flax_ner web` in a headless Chromium."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from tests.commands import killed_at_end

# `python -m flax_ner` that writes every host it looks up, binds or connects to into a file.
WATCHED = """
import sys

def record(event, arguments):
    if event in ("socket.getaddrinfo", "socket.bind", "socket.connect", "socket.sendto"):
        where = arguments[0] if event == "socket.getaddrinfo" else arguments[1]
        host = where[0] if isinstance(where, tuple) else where
        with open(sys.argv[1], "a") as file:
            print(host, file=file)

sys.addaudithook(record)
from flax_ner.cli.main import main
main(sys.argv[2:])
"""


def chromium() -> str | None:
    """Return the path of the system's browser, as Playwright's own would have to be downloaded."""
    names = ("chromium", "chromium-browser", "google-chrome")
    return next(filter(None, map(shutil.which, names)), None)


class Server:
    """A running `web` command. `log` has its output so far; `folder` is for the list of hosts."""

    def __init__(self, model: str, folder: Path):
        self._contacts = folder / "contacts"
        self.process = subprocess.Popen(
            [sys.executable, "-c", WATCHED, self._contacts, "web", model, "--port", "0"],
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[1])},
        )
        assert self.process.stderr
        self.log, self.url = "", ""
        for line in self.process.stderr:
            self.log += line
            if line.endswith(" is ready. Press Ctrl-C to stop.\n"):
                self.url = line.split()[1]
                return
        raise RuntimeError(f"the page did not start:\n{self.log}")

    def stop(self) -> int:
        """Interrupt the command, as Ctrl-C does, and return its exit status."""
        self.process.send_signal(signal.SIGINT)
        self.log += self.process.communicate(timeout=30)[1]
        return self.process.returncode

    def contacts(self) -> set[str]:
        """Return the hosts that the process looked up, bound or connected to."""
        return set(self._contacts.read_text().split())


@contextmanager
def serving(model: str, folder: Path) -> Iterator[Server]:
    """Run the command on a free port, and kill it at the end if it still runs."""
    server = Server(model, folder)
    with killed_at_end(server.process):
        yield server


@contextmanager
def browsing(executable: str) -> Iterator[Any]:
    """Open a Playwright browser that cannot resolve any host name."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        offline = "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"
        browser = playwright.chromium.launch(executable_path=executable, args=[offline])
        yield browser
        browser.close()


@contextmanager
def browsing_or_skip() -> Iterator[Any]:
    """Open the system's browser, or skip the test with the reason."""
    if find_spec("playwright") is None:
        pytest.skip("no playwright: it is in the extra `dev`")
    executable = chromium()
    if executable is None:
        pytest.skip("no Chromium on PATH: apt-get install chromium")
    from playwright.sync_api import expect

    expect.set_options(timeout=60_000)  # on a machine that is busy
    with browsing(executable) as browser:
        yield browser


def tag(page: Any, text: str) -> None:
    """Type a text and press the button that tags it."""
    page.locator("#typed textarea").fill(text)
    page.locator("#tag").click()
