"""Record each request of the HTTP server, and answer if the application fails."""

import time
from collections.abc import Callable

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

CLIENT_GONE = 499  # nginx's status for a client that closed the connection; nobody receives it


class RequestMiddleware:
    """Record each request, and answer with status 500 if something fails unexpectedly.

    Args:
        app: the application.
        record: called after each request with its scope, the status, and the seconds until the answer.
        log_error: called with each unexpected exception.
    """

    def __init__(
        self,
        app: ASGIApp,
        record: Callable[[Scope, int, float], None],
        log_error: Callable[[Exception], None],
    ):
        self._app, self._record, self._log_error = app, record, log_error

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begin, status = time.perf_counter(), None
        scope["state"] = {}

        async def send_and_note_status(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, send_and_note_status)
        except Exception as error:
            self._log_error(error)
            if status is not None:
                raise
            response = JSONResponse({"error": "The server failed. Its log has the reason."}, 500)
            await response(scope, receive, send_and_note_status)
        finally:
            self._record(scope, status or CLIENT_GONE, time.perf_counter() - begin)
