"""A tagger as an HTTP application, built with Starlette (the extra `serve`): python -m flax_ner serve."""

import asyncio
import json
import logging
import traceback
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, asynccontextmanager, suppress
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope

from flax_ner.errors import UserError
from flax_ner.inference.tagger import Tagger
from flax_ner.serving.api_key import has_key
from flax_ner.serving.batching import Batcher, QueueFullError, TaggingError, TextEntities
from flax_ner.serving.openapi import openapi_document, openapi_page
from flax_ner.serving.request_middleware import CLIENT_GONE, RequestMiddleware
from flax_ner.serving.server_metrics import ServerMetrics
from flax_ner.serving.server_settings import ServerSettings
from flax_ner.serving.tag_request import (
    RequestError,
    TagRequest,
    check_headers,
    parse_request,
    read_body,
)
from flax_ner.text.labels import CONVENTIONS

LOG = logging.getLogger("flax_ner.serving")
RETRY_AFTER = {"Retry-After": "1"}  # seconds
MAX_BODY_BYTES = 64 << 20  # bytes of all bodies that are being received


class TagService:
    """A tagger as an ASGI application.

    Args:
        load: loads and compiles the tagger. It is called in the worker thread when the application starts.
        settings: limits, time-outs, the API key.
        on_ready: called when texts can be tagged.
        on_failure: called when the model cannot be loaded. `error` then has the exception.
    """

    def __init__(
        self,
        load: Callable[[], Tagger],
        settings: ServerSettings,
        on_ready: Callable[[], None] = lambda: None,
        on_failure: Callable[[], None] = lambda: None,
    ):
        self._load, self._settings = load, settings
        self._on_ready, self._on_failure = on_ready, on_failure
        self._tagger: Tagger | None = None
        self._body_bytes = 0  # of bodies that are being received
        self.error: BaseException | None = None
        self.worker = ThreadPoolExecutor(1, "tagger")
        self._batcher = Batcher(
            settings.max_delay / 1000,
            settings.max_batch,
            settings.max_queue,
            lambda texts: self._metrics.count_batch(texts),
            self._log_error,
        )
        self._metrics = ServerMetrics(self._batcher.queue_length)
        routes = {
            "/health": self._health, "/ready": self._ready, "/metrics": self._show_metrics,
            "/openapi.json": self._openapi, "/docs": self._docs,
        }  # fmt: skip
        self._paths = {"/tag", *routes}
        self.app = Starlette(
            routes=[
                Route("/tag", self._tag, methods=["POST"]),
                *(Route(path, endpoint, methods=["GET"]) for path, endpoint in routes.items()),
            ],
            middleware=[Middleware(RequestMiddleware, self._record, self._log_error)],
            exception_handlers={UserError: _user_error, HTTPException: self._routing_error},
            lifespan=self._lifespan,
        )
        self.app.router.redirect_slashes = False

    @asynccontextmanager
    async def _lifespan(self, app: Starlette) -> AsyncIterator[None]:
        work = asyncio.create_task(self._work())
        yield
        work.cancel()
        with suppress(asyncio.CancelledError):
            await work

    async def _work(self) -> None:
        """Load the model, then tag batches until cancelled."""
        try:
            loop = asyncio.get_running_loop()
            self._tagger = await loop.run_in_executor(self.worker, self._load)
            self._on_ready()
            await self._batcher.run(self._tagger, self.worker)
        except Exception as error:
            self._tagger, self.error = None, error
            self._on_failure()

    # --- Routes ------------------------------------------------------------------------------------------

    async def _tag(self, request: Request) -> Response:
        try:
            tag_request = await self._read_request(request)
            results = await self._tag_texts(tag_request, request)
        except ClientDisconnect:
            return Response(status_code=CLIENT_GONE)
        return JSONResponse(
            {"results": [[entity.as_dict() for entity in entities] for entities in results]}
        )

    async def _read_request(self, request: Request) -> TagRequest:
        """Check the headers of a request, then read and check its body."""
        headers, settings = request.headers, self._settings
        if settings.api_key is not None and not has_key(
            headers.get("authorization", ""), settings.api_key
        ):
            raise RequestError(
                401,
                "The API key is missing or wrong. Send the header Authorization: Bearer KEY.",
                {"WWW-Authenticate": "Bearer"},
            )
        check_headers(headers.get("content-type", ""), headers.get("content-encoding", ""))
        if self._tagger is None:
            raise RequestError(503, "The model is still loading. Try again later.", RETRY_AFTER)
        try:
            async with (
                asyncio.timeout(settings.body_timeout),
                aclosing(self._limit_all_bodies(request.stream())) as chunks,
            ):
                length = headers.get("content-length", "")
                body = await read_body(chunks, length, settings.max_body)
        except TimeoutError:
            raise RequestError(
                408,
                f"The body did not arrive within {settings.body_timeout:g} seconds. Send less, or faster.",
            ) from None
        tag_request = parse_request(body, self._tagger.labels, settings)
        request.state.texts = tag_request.texts
        return tag_request

    async def _limit_all_bodies(self, chunks: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
        """Yield the pieces of a body, unless all bodies that are being received need too much memory."""
        own = 0
        try:
            async for chunk in chunks:
                own += len(chunk)
                self._body_bytes += len(chunk)
                if self._body_bytes > MAX_BODY_BYTES:
                    raise RequestError(
                        503, "Too many requests arrive at once. Try again later.", RETRY_AFTER
                    )
                yield chunk
        finally:
            self._body_bytes -= own

    async def _tag_texts(self, tag_request: TagRequest, request: Request) -> TextEntities:
        """Tag the texts. Give up if that takes too long, or if the client closes the connection."""
        tagging = asyncio.create_task(
            self._batcher.tag(tag_request.texts, tag_request.convention, tag_request.threshold)
        )
        gone = asyncio.create_task(_wait_for_disconnect(request.receive))
        try:
            await asyncio.wait(
                (tagging, gone),
                timeout=self._settings.timeout,
                return_when=asyncio.FIRST_COMPLETED,
            )
            if tagging.done():
                return tagging.result()
            if gone.done():
                raise ClientDisconnect
            raise RequestError(
                504,
                f"There was no result within {self._settings.timeout:g} seconds. Try again later, or send "
                "fewer characters per request.",
            )
        except QueueFullError:
            raise RequestError(503, "The queue is full. Try again later.", RETRY_AFTER) from None
        except TaggingError:
            raise RequestError(
                500, "The model failed on these texts. The server's log has the reason."
            ) from None
        finally:
            tagging.cancel()
            gone.cancel()

    async def _health(self, request: Request) -> Response:
        return JSONResponse({"status": "alive"})

    async def _ready(self, request: Request) -> Response:
        if self._tagger is None:
            raise RequestError(503, "The model is still loading. Try again later.", RETRY_AFTER)
        return JSONResponse({"status": "ready"})

    async def _show_metrics(self, request: Request) -> Response:
        return Response(self._metrics.render(), media_type=self._metrics.content_type)

    async def _openapi(self, request: Request) -> Response:
        return JSONResponse(self._document())

    async def _docs(self, request: Request) -> Response:
        return HTMLResponse(openapi_page(self._document(), str(request.base_url)))

    def _document(self) -> dict[str, Any]:
        conventions = CONVENTIONS if self._tagger is None else self._tagger.labels.conventions()
        return openapi_document(self._settings, conventions)

    def _routing_error(self, request: Request, error: Exception) -> Response:
        """Answer a request with an unknown path or a wrong method."""
        if not isinstance(error, HTTPException):
            raise error
        if error.status_code == 405:
            allowed = "POST" if request.url.path == "/tag" else "GET"
            message = f"{request.url.path} does not support this method. Use {allowed}."
        else:
            message = f"This path does not exist. The paths are {', '.join(sorted(self._paths))}."
        request.state.refusal = message
        return JSONResponse({"error": message}, error.status_code, error.headers)

    # --- Log and metrics ---------------------------------------------------------------------------------

    def _record(self, scope: Scope, status: int, seconds: float) -> None:
        """Log and count an answered request.

        The reason of a refusal may quote the request, so it is logged with the texts only.
        """
        texts: list[str] = scope["state"].get("texts", [])
        refusal = scope["state"].get("refusal", "")
        # An unknown path can hold anything, such as line breaks or a text.
        path = scope["path"] if scope["path"] in self._paths else "other"
        characters = sum(map(len, texts))
        self._metrics.count_request(path, status, len(texts), characters, seconds)
        shown = (
            f" {json.dumps(texts, ensure_ascii=False)} {refusal}"
            if self._settings.log_texts
            else ""
        )
        LOG.info(
            "%s %s %d %d texts %d characters %.1f ms%s",
            scope["method"][:8], path, status, len(texts), characters, seconds * 1000, shown.rstrip(),
        )  # fmt: skip

    def _log_error(self, error: BaseException) -> None:
        """Log where an exception was raised. Its message may quote a text."""
        message = f": {error}" if self._settings.log_texts or isinstance(error, UserError) else ""
        where = "".join(traceback.format_tb(error.__traceback__))
        LOG.error("%s%s\n%s", type(error).__name__, message, where.rstrip())


def _user_error(request: Request, error: Exception) -> Response:
    request.state.refusal = str(error)
    status, headers = 400, None
    if isinstance(error, RequestError):
        status, headers = error.status, error.headers
    return JSONResponse({"error": str(error)}, status, headers)


async def _wait_for_disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
