"""Tag the texts of several requests in one batch, in a worker thread."""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from contextlib import suppress
from dataclasses import dataclass, field

from flax_ner.inference.tagger import Tagger
from flax_ner.text.examples import Entity

# A batch delays the requests after it, so it takes no further text beyond this size.
MAX_BATCH_CHARACTERS = 4096

TextEntities = list[list[Entity]]  # the entities of each text of a request


class QueueFullError(Exception):
    """The queue is full."""


class TaggingError(Exception):
    """The model failed on a request."""


@dataclass(eq=False)  # hashable by identity
class PendingRequest:
    """The texts of one request.

    Attributes:
        slices: the texts that have not been started, divided into slices that fit into a batch.
        convention, threshold: see `Tagger.__call__`.
        result: the entities of each text. It is cancelled if nobody waits for them any more.
        queued: time of the event loop at which the request was queued, in seconds.
        entities: the entities of the texts that are tagged.
    """

    slices: deque[list[str]]
    convention: str
    threshold: float
    result: "asyncio.Future[TextEntities]"
    queued: float
    entities: TextEntities = field(default_factory=list)


Slice = tuple[PendingRequest, list[str]]  # a request, and those of its texts that are in a batch


class Batcher:
    """A queue of requests, from which one batch at a time is tagged.

    All methods belong to one event loop. `run` must be running.

    Args:
        max_delay: maximum time in seconds that a request waits for others to share its batch.
        max_batch: maximum number of texts per batch. A larger request is tagged in several batches, and the
            requests that arrive in the meantime take turns with it.
        max_queue: maximum number of texts in the queue, without the batch that is being tagged.
        on_batch: called with the number of texts of each batch.
        on_error: called in the worker thread with each exception of the model.
    """

    def __init__(
        self,
        max_delay: float,
        max_batch: int,
        max_queue: int,
        on_batch: Callable[[int], None],
        on_error: Callable[[Exception], None],
    ):
        self._max_delay, self._max_batch, self._max_queue = max_delay, max_batch, max_queue
        self._on_batch, self._on_error = on_batch, on_error
        self._queue = dict[PendingRequest, None]()  # any request can be removed from it
        self._arrived = asyncio.Event()

    def queue_length(self) -> int:
        """Return the number of texts that wait to be tagged."""
        return sum(len(texts) for request in list(self._queue) for texts in request.slices)

    async def tag(self, texts: Sequence[str], convention: str, threshold: float) -> TextEntities:
        """Return the entities of each text of a request.

        If the caller is cancelled, the texts leave the queue. A batch that has started is still finished.

        Args:
            texts: the texts.
            convention, threshold: see `Tagger.__call__`.

        Raises:
            QueueFullError: the texts do not fit into the queue.
            TaggingError: the model failed on these texts.
        """
        if self.queue_length() + len(texts) > self._max_queue:
            raise QueueFullError
        loop = asyncio.get_running_loop()
        request = PendingRequest(
            slice_texts(texts, self._max_batch),
            convention,
            threshold,
            loop.create_future(),
            loop.time(),
        )
        self._queue[request] = None
        self._arrived.set()
        try:
            return await request.result
        finally:
            self._queue.pop(request, None)

    async def run(self, tagger: Tagger, worker: Executor) -> None:
        """Tag batches until cancelled.

        Args:
            tagger: tags the texts.
            worker: runs the model, so that the event loop is not blocked.
        """
        loop = asyncio.get_running_loop()
        while True:
            batch = await self._next_batch()
            self._on_batch(sum(len(texts) for _, texts in batch))
            results = await loop.run_in_executor(
                worker, tag_separately_on_error, tagger, batch, self._on_error
            )
            for (request, _), entities in zip(batch, results, strict=True):
                if request.result.done():  # cancelled in the meantime
                    continue
                if entities is None:
                    self._queue.pop(request, None)
                    request.result.set_exception(TaggingError())
                    continue
                request.entities += entities
                if request.slices:  # the rest waits after the other requests
                    self._queue[request] = self._queue.pop(request)
                else:
                    request.result.set_result(request.entities)

    async def _next_batch(self) -> list[Slice]:
        """Wait for requests, and remove the texts of the next batch from the queue."""
        loop = asyncio.get_running_loop()
        while True:
            requests, full = self._first_requests()
            wait = requests[0].queued + self._max_delay - loop.time() if requests else None
            if full or (wait is not None and wait <= 0):
                break
            self._arrived.clear()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._arrived.wait(), wait)
        batch = [(request, request.slices.popleft()) for request in requests]
        for request in requests:
            if not request.slices:
                del self._queue[request]
        return batch

    def _first_requests(self) -> tuple[list[PendingRequest], bool]:
        """Return the first requests whose next slices fit into a batch, and whether the batch is full."""
        requests: list[PendingRequest] = []
        texts = characters = 0
        for request in self._queue:
            texts += len(request.slices[0])
            characters += sum(map(len, request.slices[0]))
            fits = texts <= self._max_batch and characters <= MAX_BATCH_CHARACTERS
            if requests and not fits:
                return requests, True
            requests.append(request)
        return requests, texts >= self._max_batch or characters >= MAX_BATCH_CHARACTERS


def slice_texts(texts: Sequence[str], max_batch: int) -> deque[list[str]]:
    """Divide texts into slices of at most `max_batch` texts and `MAX_BATCH_CHARACTERS` characters.

    A text with more characters is a slice of its own. There must be at least one text.
    """
    slices = deque([[texts[0]]])
    characters = len(texts[0])
    for text in texts[1:]:
        characters += len(text)
        if len(slices[-1]) == max_batch or characters > MAX_BATCH_CHARACTERS:
            slices.append([])
            characters = len(text)
        slices[-1].append(text)
    return slices


def tag_separately_on_error(
    tagger: Tagger, batch: Sequence[Slice], on_error: Callable[[Exception], None]
) -> list[TextEntities | None]:
    """Tag the texts of several requests together, or those of each request alone if the model fails.

    Args:
        tagger: tags the texts.
        batch: the requests and their texts.
        on_error: called with each exception of the model on a request alone.

    Returns:
        For each request the entities of its texts, or None if the model failed on it.
    """
    try:
        return list(tag_together(tagger, batch))
    except Exception as error:
        if len(batch) == 1:
            on_error(error)
            return [None]
    return [tag_separately_on_error(tagger, [part], on_error)[0] for part in batch]


def tag_together(tagger: Tagger, batch: Sequence[Slice]) -> list[TextEntities]:
    """Return the entities of the texts of each request, with one forward pass for all of them."""
    conventions = list(dict.fromkeys(request.convention for request, _ in batch))
    predicted = tagger.by_convention([text for _, texts in batch for text in texts], conventions)
    results, start = [], 0
    for request, texts in batch:
        end = start + len(texts)
        results.append(
            [
                [entity for entity in entities if entity.score >= request.threshold]
                for entities in predicted[request.convention][start:end]
            ]
        )
        start = end
    return results
