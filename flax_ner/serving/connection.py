"""HTTP connections that are closed if a client does not send a request or read the answer in time."""

import asyncio
import itertools
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol


def limit_connections(seconds: float, max_connections: int) -> type[H11Protocol]:
    """Return a protocol for uvicorn that limits the number of connections and the time to send and to read.

    uvicorn itself waits forever for the headers of a request, for the rest of a body whose request was answered
    before all of the body arrived, and for a client that does not read its answer.

    Args:
        seconds: maximum time from opening the connection, or from receiving the first bytes of a request, to
            the end of the headers; from an answer to the rest of the body; and to read an answer.
        max_connections: maximum number of connections. A further one replaces the one that has waited longest
            for a request. If all others have a request or an answer that is not sent yet, it is closed itself.
    """

    order = itertools.count(1)

    class Protocol(H11Protocol):
        _timer: asyncio.TimerHandle | None = None
        _write_timer: asyncio.TimerHandle | None = None
        # Order in which connections were opened or answered their last request. A clock could give equal times.
        idle_since = 0

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self.idle_since = next(order)
            transport.set_write_buffer_limits(0)  # call pause_writing as soon as bytes have to wait
            self._update_timer()
            if len(self.connections) > max_connections:
                self._close_one()

        def _close_one(self) -> None:
            """Close the connection that has waited longest for a request; this one if no other one waits."""
            others: list[Any] = [c for c in self.connections if c is not self and _can_be_closed(c)]
            min(others, key=lambda c: c.idle_since, default=self).transport.abort()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            self._update_timer()

        def on_response_complete(self) -> None:
            has_more_body = self.conn.their_state is h11.SEND_BODY
            super().on_response_complete()
            self.idle_since = next(order)
            if has_more_body:
                self._update_timer()

        def pause_writing(self) -> None:
            super().pause_writing()
            self._write_timer = self.loop.call_later(seconds, self.transport.abort)

        def resume_writing(self) -> None:
            super().resume_writing()
            if self._write_timer is not None:
                self._write_timer.cancel()

        def connection_lost(self, exc: Exception | None) -> None:
            super().connection_lost(exc)
            for timer in (self._timer, self._write_timer):
                if timer is not None:
                    timer.cancel()

        def _update_timer(self) -> None:
            if _has_request(self) and self._timer is not None:
                self._timer.cancel()
                self._timer = None
            elif not _has_request(self) and self._timer is None:
                self._timer = self.loop.call_later(seconds, self.transport.abort)

    return Protocol


def _has_request(connection: Any) -> bool:
    """Return whether the headers of a request have arrived that is not answered yet."""
    return connection.cycle is not None and not connection.cycle.response_complete


def _can_be_closed(connection: Any) -> bool:
    """Return whether a connection waits for a request, and its last answer is sent."""
    transport = connection.transport
    waits = not _has_request(connection) and not transport.is_closing()
    return waits and transport.get_write_buffer_size() == 0
