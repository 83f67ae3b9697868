"""HTTP connections that are closed if a client does not finish what it started to send."""

import asyncio
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol


def limit_idle_time(seconds: float) -> type[H11Protocol]:
    """Return a protocol for uvicorn that closes a connection on which no complete request arrives.

    uvicorn itself waits forever for the headers of a request. It also waits forever for the rest of a body
    whose request was answered before all of the body arrived.

    Args:
        seconds: maximum time from opening the connection, or from receiving the first bytes of a request, to
            the end of the headers. The rest of a body whose request was answered has the same time.
    """

    class Protocol(H11Protocol):
        _timer: asyncio.TimerHandle | None = None

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self._update_timer()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            self._update_timer()

        def connection_lost(self, exc: Exception | None) -> None:
            super().connection_lost(exc)
            if self._timer is not None:
                self._timer.cancel()

        def _update_timer(self) -> None:
            has_request = self.cycle is not None and not self.cycle.response_complete
            if has_request and self._timer is not None:
                self._timer.cancel()
                self._timer = None
            elif not has_request and self._timer is None:
                self._timer = self.loop.call_later(seconds, self.transport.close)

    return Protocol
