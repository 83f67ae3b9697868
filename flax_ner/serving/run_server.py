"""Start and stop the HTTP server."""

import logging
import math
import os
import signal
import socket
import sys
from collections.abc import Callable
from contextlib import suppress
from types import FrameType

import uvicorn

from flax_ner.inference.tagger import Tagger
from flax_ner.serving.connection import limit_idle_time
from flax_ner.serving.server import LOG, TagService
from flax_ner.serving.server_settings import ServerSettings

KEEP_ALIVE = 75  # seconds; longer than load balancers keep idle connections, usually 60


class _Server(uvicorn.Server):
    """A server whose application learns when it has to stop."""

    def __init__(self, config: uvicorn.Config, service: TagService):
        super().__init__(config)
        self._service = service

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self._service.draining = True
        super().handle_exit(sig, frame)


def serve(
    load: Callable[[], Tagger],
    listener: socket.socket,
    settings: ServerSettings,
    on_ready: Callable[[], None],
) -> None:
    """Serve requests until SIGTERM or SIGINT, then answer the requests that have arrived, and return.

    Call it in the main thread. If the worker is busy after all requests were answered, the process exits with
    status 0 instead of returning.

    Args:
        load: loads and compiles the tagger. Until it returns, only /health and similar paths are served.
        listener: listening socket.
        settings: limits, time-outs, the API key.
        on_ready: called when texts can be tagged.

    Raises:
        UserError: the model cannot be loaded.
    """
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    LOG.addHandler(handler)
    LOG.setLevel(logging.INFO)
    LOG.propagate = False

    service = TagService(load, settings, on_ready, lambda: stop())
    server = _Server(make_config(service, settings), service)

    def stop() -> None:
        server.should_exit = True

    # At its end, uvicorn raises the signal again. SIGTERM would then end the process with an error status.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with suppress(KeyboardInterrupt):
        server.run(sockets=[listener])
    if service.error is not None:
        raise service.error
    try:
        service.worker.submit(int).result(timeout=1)
    except TimeoutError:
        # It still loads the model, or tags texts that nobody waits for. Python would wait for its end.
        sys.stderr.flush()
        os._exit(0)


def make_config(service: TagService, settings: ServerSettings) -> uvicorn.Config:
    """Return the configuration of uvicorn for a service."""
    return uvicorn.Config(
        service.app,
        http=limit_idle_time(settings.body_timeout),
        ws="none",
        lifespan="on",
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_keep_alive=KEEP_ALIVE,
        # Every request is answered by then. This is for clients that do not read their answer.
        timeout_graceful_shutdown=math.ceil(settings.body_timeout + settings.timeout) + 5,
    )
