"""Tag the texts of several requests in one batch, in a worker thread."""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from contextlib import suppress
from dataclasses import dataclass

from flax_ner.inference.tagger import Tagger
from flax_ner.text.examples import Entity

# A batch of long texts delays the requests after it, so it takes no further request beyond this size.
MAX_BATCH_CHARACTERS = 4096

TextEntities = list[list[Entity]]  # the entities of each text of a request


class QueueFullError(Exception):
    """There is no place left in the queue."""


class TaggingError(Exception):
    """The model failed on a request."""


@dataclass(eq=False)  # hashable by identity
class Job:
    """The texts of one request.

    Attributes:
        texts: the texts.
        convention, threshold: see `Tagger.__call__`.
        result: the entities of each text. It is cancelled if nobody waits for them any more.
        queued: time of the event loop at which the request was queued, in seconds.
    """

    texts: Sequence[str]
    convention: str
    threshold: float
    result: "asyncio.Future[TextEntities]"
    queued: float

    @property
    def characters(self) -> int:
        return sum(map(len, self.texts))


class Batcher:
    """A queue of requests, from which one batch at a time is tagged.

    All methods belong to one event loop. `run` must be running.

    Args:
        max_delay: maximum time in seconds that a request waits for others to share its batch.
        max_batch: maximum number of texts per batch. A request with more texts is a batch of its own.
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
        self._queue = dict[Job, None]()  # a queue from which any job can be removed
        self._arrived = asyncio.Event()

    def queue_length(self) -> int:
        """Return the number of texts that wait to be tagged."""
        return sum(len(job.texts) for job in list(self._queue))

    async def tag(self, texts: Sequence[str], convention: str, threshold: float) -> TextEntities:
        """Return the entities of each text of a request.

        If the caller is cancelled, the texts leave the queue unless their batch has already started.

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
        job = Job(texts, convention, threshold, loop.create_future(), loop.time())
        self._queue[job] = None
        self._arrived.set()
        try:
            return await job.result
        finally:
            self._queue.pop(job, None)

    async def run(self, tagger: Tagger, worker: Executor) -> None:
        """Tag batches until cancelled.

        Args:
            tagger: tags the texts.
            worker: runs the model, so that the event loop can go on.
        """
        loop = asyncio.get_running_loop()
        while True:
            batch = await self._next_batch()
            self._on_batch(sum(len(job.texts) for job in batch))
            results = await loop.run_in_executor(
                worker, tag_separately_on_error, tagger, batch, self._on_error
            )
            for job, result in zip(batch, results, strict=True):
                if job.result.done():  # cancelled in the meantime
                    continue
                if result is None:
                    job.result.set_exception(TaggingError())
                else:
                    job.result.set_result(result)

    async def _next_batch(self) -> list[Job]:
        """Wait for requests, and remove those of the next batch from the queue."""
        loop = asyncio.get_running_loop()
        while True:
            jobs, full = self._first_jobs()
            wait = jobs[0].queued + self._max_delay - loop.time() if jobs else None
            if full or (wait is not None and wait <= 0):
                break
            self._arrived.clear()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._arrived.wait(), wait)
        for job in jobs:
            del self._queue[job]
        return jobs

    def _first_jobs(self) -> tuple[list[Job], bool]:
        """Return the oldest requests that fit into a batch, and whether the batch is full."""
        jobs: list[Job] = []
        texts = characters = 0
        for job in self._queue:
            texts, characters = texts + len(job.texts), characters + job.characters
            fits = texts <= self._max_batch and characters <= MAX_BATCH_CHARACTERS
            if jobs and not fits:
                return jobs, True
            jobs.append(job)
        return jobs, texts >= self._max_batch or characters >= MAX_BATCH_CHARACTERS


def tag_separately_on_error(
    tagger: Tagger, jobs: Sequence[Job], on_error: Callable[[Exception], None]
) -> list[TextEntities | None]:
    """Tag the texts of several requests together, or each request alone if the model fails.

    Args:
        tagger: tags the texts.
        jobs: the requests.
        on_error: called with each exception of the model on a request alone.

    Returns:
        For each request the entities of its texts, or None if the model failed on it.
    """
    try:
        return list(tag_together(tagger, jobs))
    except Exception as error:
        if len(jobs) == 1:
            on_error(error)
            return [None]
    return [tag_separately_on_error(tagger, [job], on_error)[0] for job in jobs]


def tag_together(tagger: Tagger, jobs: Sequence[Job]) -> list[TextEntities]:
    """Return the entities of the texts of each request, with one forward pass for all of them."""
    texts = [text for job in jobs for text in job.texts]
    conventions = list(dict.fromkeys(job.convention for job in jobs))
    predicted = tagger.by_convention(texts, conventions)
    results, start = [], 0
    for job in jobs:
        end = start + len(job.texts)
        results.append(
            [
                [entity for entity in entities if entity.score >= job.threshold]
                for entities in predicted[job.convention][start:end]
            ]
        )
        start = end
    return results
