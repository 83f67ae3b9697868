"""The queue that batches the texts of several requests."""

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from flax_ner.serving.batching import (
    MAX_BATCH_CHARACTERS,
    Batcher,
    QueueFullError,
    TaggingError,
)
from tests.serving.helpers import TAGGER, GatedTagger, until


def run(
    test: Callable[[Batcher, GatedTagger], Awaitable[None]],
    max_delay: float = 0.05,
    max_batch: int = 4,
    max_queue: int = 8,
) -> tuple[list[int], list[Exception]]:
    """Run a test of a batcher. Return the sizes of its batches and the exceptions that it reported."""
    sizes: list[int] = []
    errors: list[Exception] = []

    async def run_test() -> None:
        batcher = Batcher(max_delay, max_batch, max_queue, sizes.append, errors.append)
        tagger: Any = GatedTagger()
        with ThreadPoolExecutor(1) as worker:
            running = asyncio.create_task(batcher.run(tagger, worker))
            try:
                await test(batcher, tagger)
            finally:
                tagger.gate.set()
                running.cancel()

    asyncio.run(run_test())
    return sizes, errors


async def wait_for(condition: Callable[[], bool]) -> None:
    await asyncio.to_thread(until, condition)


def test_requests_share_a_batch_and_get_their_own_results() -> None:
    requests = [
        (["bi", "obi"], "strict", 0.0), (["ibo"], "lenient", 0.0), (["ibo"], "strict", 0.0),
        (["b", "bii"], "strict", 0.5), (["b", "bii"], "strict", 0.99), ([""], "lenient", 0.0),
    ]  # fmt: skip

    async def test(batcher: Batcher, tagger: GatedTagger) -> None:
        results = await asyncio.gather(*(batcher.tag(*request) for request in requests))
        for (texts, convention, threshold), result in zip(requests, results, strict=True):
            expected = TAGGER(texts, convention, threshold)
            assert [[e[:4] for e in row] for row in result] == [
                [e[:4] for e in row] for row in expected
            ]
            scores = [e.score for row in result for e in row]
            assert scores == pytest.approx([e.score for row in expected for e in row], abs=1e-6)
        assert results[1] != results[2]  # the convention matters
        assert [len(row) for row in results[3]] != [len(row) for row in results[4]]

    assert run(test, max_batch=9, max_queue=9) == ([9], [])


def test_a_batch_is_limited_in_texts_and_in_characters() -> None:
    half = "o" * (MAX_BATCH_CHARACTERS // 2)

    async def test(batcher: Batcher, tagger: GatedTagger) -> None:
        requests = [["b"] * 2, ["b"], ["b"] * 2, ["b"] * 6, [half], [half], ["b"]]
        await asyncio.gather(*(batcher.tag(texts, "strict", 0.0) for texts in requests))
        # The request with six texts is divided. Its rest comes after the requests that are waiting already.
        assert tagger.batches == [["b"] * 3, ["b"] * 2, ["b"] * 4, [half] * 2, ["b"] * 3]

    run(test, max_queue=99)


def test_a_large_request_takes_turns_with_others() -> None:
    long = "o" * (MAX_BATCH_CHARACTERS + 1)
    texts = ["b", "bi", "obi", "", "bii", long, "ob", "b" + "o" * (MAX_BATCH_CHARACTERS - 1), "i"]

    async def test(batcher: Batcher, tagger: GatedTagger) -> None:
        tagger.gate.clear()
        large = asyncio.create_task(batcher.tag(texts, "lenient", 0.0))
        await wait_for(lambda: len(tagger.batches) == 1)
        assert batcher.queue_length() == 5
        small = asyncio.create_task(batcher.tag(["bo"], "strict", 0.0))
        await wait_for(lambda: batcher.queue_length() == 6)
        tagger.gate.set()
        expected = TAGGER(texts, "lenient", 0.0)
        assert [[e[:4] for e in row] for row in await large] == [
            [e[:4] for e in row] for row in expected
        ]
        assert [e.text for e in (await small)[0]] == ["b"]
        assert tagger.batches == [texts[:4], ["bo", "bii"], [long], [texts[6]], [texts[7]], ["i"]]
        assert batcher.queue_length() == 0

    assert run(test, max_queue=99) == ([4, 2, 1, 1, 1, 1], [])


def test_the_rest_of_a_request_is_dropped_if_it_is_cancelled_or_fails() -> None:
    async def test(batcher: Batcher, tagger: GatedTagger) -> None:
        tagger.gate.clear()
        large = asyncio.create_task(batcher.tag(["b"] * 8, "strict", 0.0))
        await wait_for(lambda: len(tagger.batches) == 1)
        large.cancel()
        await wait_for(lambda: batcher.queue_length() == 0)
        tagger.gate.set()
        with pytest.raises(TaggingError):
            await batcher.tag(["boom", *["b"] * 7], "strict", 0.0)
        assert [e.text for e in (await batcher.tag(["bi"], "strict", 0.0))[0]] == ["bi"]
        assert tagger.batches == [["b"] * 4, ["boom", "b", "b", "b"], ["bi"]]

    assert run(test)[0] == [4, 4, 1]


def test_a_full_batch_does_not_wait_and_another_waits_at_most_the_delay() -> None:
    async def full(batcher: Batcher, tagger: GatedTagger) -> None:
        async with asyncio.timeout(30):
            await asyncio.gather(*(batcher.tag(["b"], "strict", 0.0) for _ in range(4)))

    assert run(full, max_delay=600)[0] == [4]

    async def alone(batcher: Batcher, tagger: GatedTagger) -> None:
        begin = asyncio.get_running_loop().time()
        await batcher.tag(["b"], "strict", 0.0)
        assert asyncio.get_running_loop().time() - begin >= 0.2

    assert run(alone, max_delay=0.2)[0] == [1]


def test_a_full_queue_refuses_and_a_cancelled_request_leaves_it() -> None:
    async def test(batcher: Batcher, tagger: GatedTagger) -> None:
        tagger.gate.clear()
        first = asyncio.create_task(batcher.tag(["b"] * 4, "strict", 0.0))
        await wait_for(lambda: bool(tagger.batches))
        waiting = [asyncio.create_task(batcher.tag(["bi"] * 4, "strict", 0.0)) for _ in range(2)]
        await wait_for(lambda: batcher.queue_length() == 8)
        with pytest.raises(QueueFullError):
            await batcher.tag(["b"], "strict", 0.0)
        waiting[0].cancel()
        await wait_for(lambda: batcher.queue_length() == 4)
        late = asyncio.create_task(batcher.tag(["bii"] * 4, "strict", 0.0))
        await wait_for(lambda: batcher.queue_length() == 8)
        first.cancel()  # its batch runs, and the result is dropped
        tagger.gate.set()
        assert [row[0].text for row in await waiting[1]] == ["bi"] * 4
        assert [row[0].text for row in await late] == ["bii"] * 4
        assert batcher.queue_length() == 0
        assert tagger.batches == [["b"] * 4, ["bi"] * 4, ["bii"] * 4]

    run(test)


def test_only_the_request_on_which_the_model_fails_fails() -> None:
    async def test(batcher: Batcher, tagger: GatedTagger) -> None:
        texts = (["b"], ["boom"], ["bi", "o"])
        good, bad, other = await asyncio.gather(
            *(batcher.tag(row, "strict", 0.0) for row in texts), return_exceptions=True
        )
        assert isinstance(bad, TaggingError)
        assert isinstance(good, list) and [e.text for e in good[0]] == ["b"]
        assert isinstance(other, list) and [[e.text for e in row] for row in other] == [["bi"], []]
        assert tagger.batches == [["b", "boom", "bi", "o"], *texts]
        assert await batcher.tag(["b"], "strict", 0.0) == good  # later batches are tagged

    sizes, errors = run(test)
    assert sizes == [4, 1] and [str(error) for error in errors] == ["cannot tag ['boom']"]
