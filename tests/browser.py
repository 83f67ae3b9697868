"""The page of `python -m flax_ner web` in a headless Chromium."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

# As `python -m flax_ner`, but every host that the process looks up, binds or connects to goes into a file.
WATCHED = """
import sys

def note(event, arguments):
    if event in ("socket.getaddrinfo", "socket.bind", "socket.connect", "socket.sendto"):
        where = arguments[0] if event == "socket.getaddrinfo" else arguments[1]
        host = where[0] if isinstance(where, tuple) else where
        with open(sys.argv[1], "a") as file:
            print(host, file=file)

sys.addaudithook(note)
from flax_ner.inference.cli import main
main(sys.argv[2:])
"""


def chromium() -> str | None:
    """The system's browser: Playwright's own would have to be downloaded."""
    names = ("chromium", "chromium-browser", "google-chrome")
    return next(filter(None, map(shutil.which, names)), None)


class Server:
    """The command, started; `log` is what it said so far. `folder` is for notes."""

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
            if line.endswith(" is ready; Ctrl-C ends it\n"):
                self.url = line.split()[1]
                return
        raise RuntimeError(f"the page did not start:\n{self.log}")

    def stop(self) -> int:
        """Ctrl-C; the exit status."""
        self.process.send_signal(signal.SIGINT)
        self.log += self.process.communicate(timeout=30)[1]
        return self.process.returncode

    def contacts(self) -> set[str]:
        """The hosts that the process looked up, bound or connected to."""
        return set(self._contacts.read_text().split())


@contextmanager
def serving(model: str, folder: Path) -> Iterator[Server]:
    """The command on a free port; killed in the end if it still runs."""
    server = Server(model, folder)
    try:
        yield server
    finally:
        server.process.kill()
        server.process.wait()
        assert server.process.stderr
        server.process.stderr.close()


@contextmanager
def browsing(executable: str) -> Iterator[Any]:
    """Playwright's Browser; it can look up no name."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        offline = "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"
        browser = playwright.chromium.launch(executable_path=executable, args=[offline])
        yield browser
        browser.close()


def tag(page: Any, text: str) -> None:
    """Type a text and have it tagged."""
    page.locator("#typed textarea").fill(text)
    page.locator("#tag").click()
