"""A web server on this machine, for as long as a `with` lasts."""

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Self

NOWHERE = "http://127.0.0.1:1"  # an address where nothing listens


class LocalServer:
    """Answers by a handler class, which finds this object as `server_of`."""

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
