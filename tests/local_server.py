"""A local web server for tests."""

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Self

NOWHERE = "http://127.0.0.1:1"  # no server listens here


class LocalServer:
    """A context manager that serves with a handler class, whose `server_of` is this object."""

    def __init__(self, handler: type[BaseHTTPRequestHandler]) -> None:
        bound = type("Handler", (handler,), {"server_of": self})
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), bound)
        self.address = f"http://127.0.0.1:{self._http.server_port}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._http.shutdown()
        self._http.server_close()
