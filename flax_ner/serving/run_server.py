"""Start and stop the HTTP server."""

import logging
import math
import os
import signal
import socket
import sys
from collections.abc import Callable
from contextlib import suppress

import uvicorn

from flax_ner.inference.tagger import Tagger
from flax_ner.serving.connection import limit_connections
from flax_ner.serving.server import LOG, TagService
from flax_ner.serving.server_settings import ServerSettings

KEEP_ALIVE = 75  # seconds; longer than load balancers keep idle connections, usually 60
MAX_CONNECTIONS = 1024


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
    server = uvicorn.Server(make_config(service, settings))

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
        http=limit_connections(settings.body_timeout, max_connections()),
        ws="none",
        lifespan="on",
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_keep_alive=KEEP_ALIVE,
        # Long enough to receive a body, tag its texts and send the answer.
        timeout_graceful_shutdown=math.ceil(2 * settings.body_timeout + settings.timeout) + 2,
    )


def max_connections() -> int:
    """Return how many connections may be open at once: at most half of the files that this process may open."""
    try:
        import resource
    except ImportError:  # on Windows
        return MAX_CONNECTIONS
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return MAX_CONNECTIONS if files == resource.RLIM_INFINITY else min(MAX_CONNECTIONS, files // 2)
