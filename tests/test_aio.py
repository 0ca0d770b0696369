"""The twins for asyncio, as users see them: each method with its meaning, cancelling, many loops, and a loop that never stands still."""

from __future__ import annotations

import asyncio
import functools
import os
import signal
import sys
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from handle_world import SOON, eventually as stand_still_until, freeze, in_thread

import zmqkit
from zmqkit.aio.bell import Bell
from zmqkit.aio.consumer import HOG_SECONDS
from zmqkit.handles import producer
from zmqkit.handles.inbox import News

QUICK = zmqkit.QueuePolicy(backoff=zmqkit.Backoff(0.02, 0.05), max_attempts=3)
EXAMPLE = Path(__file__).parents[1] / "examples" / "asyncio_worker.py"
NOWHERE = "tcp://127.0.0.1:9"  # nobody listens there
_numbers = count()


def on_loop(test: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    @functools.wraps(test)
    def run(*arguments: Any, **named: Any) -> None:
        asyncio.run(asyncio.wait_for(test(*arguments, **named), 4 * SOON))

    return run


@pytest.fixture(scope="module")
def node() -> Iterator[zmqkit.Node]:
    with zmqkit.Node("tcp://127.0.0.1:0") as node:
        yield node


@asynccontextmanager
async def fresh_queue(node: zmqkit.Node, policy: zmqkit.QueuePolicy = QUICK) -> AsyncIterator[zmqkit.aio.Queue[Any]]:
    name = f"q{next(_numbers)}"
    async with zmqkit.aio.connect(node.endpoint) as mq:
        await mq.declare(name, policy)
        yield mq.queue(name)


async def eventually(question: Callable[[], Awaitable[Any]]) -> Any:
    async with asyncio.timeout(SOON):
        while not (answer := await question()):
            await asyncio.sleep(0.005)
        return answer


async def held(q: zmqkit.aio.Queue[Any]) -> tuple[int, int]:
    info = await q.info()
    return info.ready + info.delayed, info.leased


async def becomes(q: zmqkit.aio.Queue[Any], ready: int, leased: int) -> None:
    async def so() -> bool:
        return await held(q) == (ready, leased)

    await eventually(so)


def hold(peer: Any) -> Callable[[], None]:
    """Stop the I/O thread of a queue or a node until the returned function is called."""
    return freeze(peer)


async def got(q: zmqkit.aio.Queue[Any]) -> zmqkit.aio.Delivery[Any]:
    d = await q.get(timeout=SOON)
    assert d is not None
    return d


async def resting(task: asyncio.Task[Any]) -> None:
    """Let a task run up to its first wait."""
    for _ in range(3):
        await asyncio.sleep(0)
    assert not task.done()


# -- putting and getting ------------------------------------------------------------------------------------------------------


@on_loop
async def test_put_get_and_an_ack_that_waits(node: zmqkit.Node) -> None:
    async with fresh_queue(node) as q:
        assert await q.get(timeout=0) is None and await q.get(timeout=0.02) is None
        receipt = await q.put({"to": "ada"}, headers={"h": 1})
        assert (receipt.seq, receipt.duplicate, receipt.durability) == (1, False, "memory")
        d = await got(q)
        assert (d.body, d.seq, d.attempt, d.headers) == ({"to": "ada"}, 1, 1, {"h": 1})
        assert await held(q) == (0, 1)
        await d.ack(wait=True)
        assert d.settled is True and await held(q) == (0, 0)


@on_loop
async def test_an_ack_may_be_awaited_and_need_not_be(node: zmqkit.Node) -> None:
    async with fresh_queue(node) as q:
        await q.put_many(range(2))
        (await got(q)).ack()
        await (await got(q)).ack()
        await becomes(q, 0, 0)


@on_loop
async def test_put_many_and_get_many(node: zmqkit.Node) -> None:
    async with fresh_queue(node) as q:
        receipt = await q.put_many(n for n in range(5000))
        assert (receipt.count, receipt.first_seq, receipt.last_seq) == (5000, 1, 5000)
        batch = await q.get_many(10, timeout=SOON)
        assert batch.bodies == list(range(10)) and [type(d).__module__ for d in batch] == ["zmqkit.aio.delivery"] * 10
        await batch.ack(wait=True)
        assert await held(q) == (4990, 0)
        assert len(await q.get_many(3, timeout=0)) == 3


@on_loop
async def test_a_thousand_puts_in_flight_keep_their_order(node: zmqkit.Node) -> None:
    async with fresh_queue(node) as q:
        futures = [q.put_soon(n) for n in range(1000)]
        assert all(isinstance(future, asyncio.Future) for future in futures)
        receipts = await asyncio.gather(*futures)
        assert [receipt.seq for receipt in receipts] == list(range(1, 1001))
        assert await asyncio.gather(*[q.put(n) for n in range(1000)]) != receipts
        assert await held(q) == (2000, 0)


@on_loop
async def test_confirms_of_one_turn_wake_the_loop_once(node: zmqkit.Node, monkeypatch: pytest.MonkeyPatch) -> None:
    async with fresh_queue(node) as q:
        loop, wakes = asyncio.get_running_loop(), []
        wake = loop.call_soon_threadsafe
        monkeypatch.setattr(loop, "call_soon_threadsafe", lambda *given: wakes.append(given) or wake(*given))
        let_go = hold(q._twin)
        futures = [q.put_soon(n) for n in range(1000)]
        let_go()
        await asyncio.gather(*futures)
        assert 1 <= len(wakes) <= 4  # one batch, perhaps with the heartbeat's


@on_loop
async def test_what_a_turn_tells_arrives_together() -> None:
    class Reactor:
        on_io_thread = True
        turn_ends: list[Callable[[], None]] = []

    class Session:
        reactor, loops = Reactor(), {}  # type: ignore[var-annotated]

    bell, heard = Bell.of(Session()), []  # type: ignore[arg-type]
    assert Bell.of(Session()) is bell  # type: ignore[arg-type]
    for n in range(3):
        bell.tell(heard.append, n)
    assert len(Reactor.turn_ends) == 1
    Reactor.turn_ends.pop()()
    await asyncio.sleep(0)
    assert heard == [0, 1, 2]


@on_loop
async def test_errors_are_those_of_threads(node: zmqkit.Node) -> None:
    async with fresh_queue(node, zmqkit.QueuePolicy(max_messages=1)) as q:
        with pytest.raises(zmqkit.Unencodable):
            await q.put(object())
        with pytest.raises(zmqkit.MessageTooLarge):
            await q.put(bytes(20_000_000))
        with pytest.raises(ValueError):
            await q.get_many(0)
        await q.put(1)
        with pytest.raises(zmqkit.QueueFull) as caught:
            await q.put(2)
        assert caught.value.retry_after > 0


@on_loop
async def test_flush_raises_what_nobody_was_told(node: zmqkit.Node) -> None:
    name = f"q{next(_numbers)}"
    async with zmqkit.aio.connect(node.endpoint) as mq:
        await mq.declare(name, zmqkit.QueuePolicy(max_messages=1))
        q = mq.queue(name)
        await q.put(1)
        told = q.put_soon(2)
        with pytest.raises(zmqkit.QueueFull):
            await told
        await mq.flush()  # we were told
        silent = q.put_soon(3)
        with pytest.raises(zmqkit.QueueFull):
            await mq.flush()
        assert isinstance(silent.exception(), zmqkit.QueueFull)


@on_loop
async def test_flush_waits_for_puts_and_acks(node: zmqkit.Node) -> None:
    async with zmqkit.aio.connect(node.endpoint) as mq:
        q = mq.queue(f"q{next(_numbers)}")
        future = q.put_soon(1)
        await mq.flush()
        assert future.done()
        (await got(q)).ack()
        await mq.flush()
        assert await held(q) == (0, 0)


@on_loop
async def test_an_ack_that_waits_says_so_when_nobody_answers() -> None:
    with zmqkit.Node("tcp://127.0.0.1:0") as node:
        async with zmqkit.aio.connect(node.endpoint) as mq:
            q = mq.queue("q")
            await q.put_many(range(5))
            d, b = await got(q), await q.get_many(2, timeout=SOON)
            let_go = hold(node)
            for settling in (d, b):
                with pytest.raises(zmqkit.Timeout):
                    await settling.ack(wait=True, timeout=0.05)
            let_go()
            await becomes(q, 2, 0)  # it went on


@on_loop
async def test_what_a_get_took_is_not_of_a_consumers_credit(node: zmqkit.Node) -> None:
    async with fresh_queue(node) as q:
        await q.put_many(range(10))
        d, b = await got(q), await q.get_many(2, timeout=SOON)
        async with q.consume(credit=2):
            await becomes(q, 5, 5)
        assert (d.body, b.bodies) == (0, [1, 2])


@on_loop
async def test_news_that_came_before_one_listens_is_told_at_once(node: zmqkit.Node) -> None:
    async with fresh_queue(node) as q:
        inbox, told = q._twin._inbox, []
        News(inbox, inbox.news - 1).listen(told.append)
        assert told


# -- the loop never stands still --------------------------------------------------------------------------------------------------


@on_loop
async def test_a_put_without_room_waits_in_line_and_the_loop_goes_on(node: zmqkit.Node, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(producer, "READY_BATCHES_MAX", 1)
    async with fresh_queue(node) as q:
        let_go = hold(q._twin)
        futures = [q.put_soon(bytes([n]) * 70_000) for n in range(6)]  # each fills a batch
        cancelled = q.put_soon(b"never")
        late = q.put_soon(b"late", timeout=0.02)
        with pytest.raises(zmqkit.NotSent):  # the timer of this loop runs, though there is no room
            await late
        assert cancelled.cancel() and not any(future.done() for future in futures)
        last = asyncio.create_task(q.put_many([b"last"]))
        await resting(last)
        let_go()
        stand_still_until(lambda: q._twin._producer.room.happened)  # and this loop has not moved up yet
        futures.append(q.put_soon(b"behind"))
        assert [receipt.seq for receipt in await asyncio.gather(*futures)] == [1, 2, 3, 4, 5, 6, 7]
        assert (await last).first_seq == 8 and await held(q) == (8, 0)  # behind what stood in line before it


@on_loop
async def test_what_stands_in_line_is_sent_as_it_was_put(node: zmqkit.Node, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(producer, "READY_BATCHES_MAX", 1)
    async with fresh_queue(node) as q:
        let_go = hold(q._twin)
        futures = [q.put_soon(bytes(70_000)) for _ in range(2)]
        body, headers = ["first"], {"try": 1}
        futures.append(q.put_soon(body, headers))
        body[0], headers["try"] = "second", 2
        with pytest.raises(zmqkit.Unencodable):
            q.put_soon("x", headers={"bad": object()})
        let_go()
        await asyncio.gather(*futures)
        d = (await q.get_many(3, timeout=SOON))[2]
        assert (d.body, d.headers) == (["first"], {"try": 1})


@on_loop
async def test_put_many_lets_others_run_and_waits_for_room(node: zmqkit.Node, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(producer, "READY_BATCHES_MAX", 1)
    async with fresh_queue(node) as q:
        let_go = hold(q._twin)
        many = asyncio.create_task(q.put_many([bytes(70_000)] * 20))
        await resting(many)
        let_go()
        assert (await many).count == 20


@on_loop
async def test_put_many_gives_others_their_turn_though_there_is_room(node: zmqkit.Node) -> None:
    async with fresh_queue(node) as q:
        turns: list[bool] = []

        def bodies() -> Iterator[bool]:
            for _ in range(10_000):
                yield bool(turns)
            assert turns, "nobody else had a turn"

        asyncio.get_running_loop().call_soon(turns.append, True)
        await q.put_many(bodies())


@on_loop
async def test_flush_waits_for_what_stands_in_line(node: zmqkit.Node, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(producer, "READY_BATCHES_MAX", 1)
    async with zmqkit.aio.connect(node.endpoint) as mq:
        q = mq.queue(f"q{next(_numbers)}")
        let_go = hold(mq)
        futures = [q.put_soon(bytes(70_000)) for _ in range(20)]
        flush = asyncio.create_task(mq.flush())
        await resting(flush)
        let_go()
        await flush
        assert all(future.done() for future in futures)


@on_loop
async def test_a_loop_that_never_waits_still_gives_others_their_turn(node: zmqkit.Node) -> None:
    async with fresh_queue(node) as q:
        await q.put_many(range(100))
        consumer, taken = q.consume(credit=100), 0
        (await anext(consumer)).ack()
        await becomes(q, 0, 99)  # all the rest is here: nothing has to be waited for
        asyncio.get_running_loop().call_soon(consumer.stop)  # which needs the loop's turn
        async for d in consumer:
            d.ack()
            taken += 1
            time.sleep(HOG_SECONDS / 5)
        assert taken < 50


# -- consuming --------------------------------------------------------------------------------------------------------------------


@on_loop
async def test_consume_acks_on_success_and_ends_when_idle(node: zmqkit.Node) -> None:
    async with fresh_queue(node) as q:
        await q.put_many(range(100))
        bodies = []
        async for d in q.consume(idle=0.2):
            async with d:
                bodies.append(d.body)
        assert bodies == list(range(100)) and await held(q) == (0, 0)


@on_loop
async def test_an_exception_nacks_and_goes_up(node: zmqkit.Node) -> None:
    async with fresh_queue(node) as q:
        await q.put("a")
        with pytest.raises(KeyError):
            async with await got(q):
                raise KeyError("no such thing")
        d = await got(q)
        assert d.attempt == 2 and d.error is not None and "KeyError" in d.error
        async with d:
            raise zmqkit.Retry(0.01)
        d = await got(q)
        assert d.attempt == 3
        async with d:
            raise zmqkit.Snooze(0.01)
        d = await got(q)
        assert d.attempt == 3
        async with d:
            raise zmqkit.Reject("enough")
        (letter,) = await eventually(q.dead.list)
        assert (letter.body, letter.reason) == ("a", "enough")


@on_loop
async def test_a_cancelled_handler_costs_no_attempt(node: zmqkit.Node) -> None:
    async with fresh_queue(node) as q:
        await q.put("a")
        began = asyncio.Event()

        async def handle() -> None:
            async with await got(q):
                began.set()
                await asyncio.Event().wait()

        task = asyncio.create_task(handle())
        await began.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert (await got(q)).attempt == 1


@on_loop
async def test_a_batch_acks_together_and_fails_apart(node: zmqkit.Node) -> None:
    async with fresh_queue(node) as q:
        await q.put_many(range(10))
        sizes, failed = [], False
        async for b in q.consume_many(10, credit=10, idle=0.3):
            sizes.append(len(b))
            try:
                async with b:
                    if len(b) > 1 and not failed:
                        failed = True
                        raise RuntimeError("one of these")
            except RuntimeError:
                pass
        assert failed and sizes[0] > 1 and sum(sizes) == 10 + sizes[0] and 1 in sizes
        assert await held(q) == (0, 0)


@on_loop
async def test_credit_bounds_what_is_held_and_leaving_gives_it_back(node: zmqkit.Node) -> None:
    async with fresh_queue(node) as q:
        await q.put_many(range(10))
        async with q.consume(credit=3) as consumer:
            d = await anext(consumer)
            await becomes(q, 7, 3)
            await d.ack(wait=True)
        await becomes(q, 9, 0)


@on_loop
async def test_stop_ends_a_loop_that_waits(node: zmqkit.Node) -> None:
    async with fresh_queue(node) as q:
        consumer = q.consume()

        async def consume() -> int:
            return len([d async for d in consumer])

        waiting = [asyncio.create_task(consume()) for _ in range(3)]
        await resting(waiting[0])
        consumer.stop()
        assert await asyncio.gather(*waiting) == [0, 0, 0]


@on_loop
async def test_settling_by_hand(node: zmqkit.Node) -> None:
    async with fresh_queue(node) as q:
        await q.put("a")
        d = await got(q)
        await d.extend(60.0)
        await d.save({"page": 7})
        await d.nack(0.01, "not yet")
        d = await got(q)
        assert (d.attempt, d.saved, d.error) == (2, {"page": 7}, "not yet")
        await d.snooze(0.01)
        d = await got(q)
        assert d.attempt == 2
        await d.reject("no good")
        (letter,) = await eventually(q.dead.list)
        assert letter.reason == "no good"
        assert await q.dead.redrive() == 1 and (await got(q)).attempt == 1
        await q.put("b")
        await (await got(q)).reject()
        await eventually(q.dead.list)
        assert await q.dead.drop() == 1 and await q.dead.list() == []


@on_loop
async def test_looking_and_ruling(node: zmqkit.Node) -> None:
    name = f"q{next(_numbers)}"
    async with zmqkit.aio.connect(node.endpoint) as mq:
        assert (await mq.declare(name, zmqkit.QueuePolicy(max_attempts=5))).max_attempts == 5
        assert name in [info.name for info in await mq.queues()]
        q = mq.queue(name)
        await q.put_many("ab")
        assert [(peeked.seq, peeked.body) for peeked in await q.peek()] == [(1, "a"), (2, "b")]
        await q.pause()
        assert (await q.info()).paused and await q.get(timeout=0.02) is None
        await q.resume()
        (await got(q)).nack(60.0)
        assert await eventually(lambda: q.peek(state="delayed"))
        assert await q.purge() == 2 and await held(q) == (0, 0)
        await q.delete()
        assert name not in [info.name for info in await mq.queues()]


# -- cancelling -------------------------------------------------------------------------------------------------------------------


@on_loop
async def test_a_cancelled_get_loses_nothing(node: zmqkit.Node) -> None:
    async with fresh_queue(node) as q:
        for n in range(30):  # the message arrives before, while and after it is cancelled
            get = asyncio.create_task(q.get(timeout=SOON))
            await resting(get)
            put = q.put_soon(n)
            if n % 2:
                await put
            get.cancel()
            try:
                d = await get
            except asyncio.CancelledError:
                d = await got(q)
            assert d is not None and (d.body, d.attempt) == (n, 1)
            await d.ack(wait=True)
        assert await held(q) == (0, 0)


@on_loop
async def test_the_message_of_a_cancelled_get_goes_to_the_next(node: zmqkit.Node) -> None:
    async with fresh_queue(node) as q:
        first, second = asyncio.create_task(q.get(timeout=SOON)), asyncio.create_task(q.get(timeout=SOON))
        await resting(second)
        await q.put("a")
        first.cancel()
        found = [d for d in await asyncio.gather(first, second, return_exceptions=True) if isinstance(d, zmqkit.Delivery)]
        assert [d.body for d in found] == ["a"]


@on_loop
async def test_a_cancelled_put_that_has_not_left_never_happens(node: zmqkit.Node) -> None:
    async with fresh_queue(node) as q:
        let_go = hold(q._twin)
        put, many = asyncio.create_task(q.put("a")), asyncio.create_task(q.put_many("bcd"))
        await resting(many)
        for task in (put, many):
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        let_go()
        assert (await q.put("e")).seq == 1 and await held(q) == (1, 0)


@on_loop
async def test_a_cancelled_put_that_has_left_is_in_doubt() -> None:
    with zmqkit.Node("tcp://127.0.0.1:0") as node:
        async with zmqkit.aio.connect(node.endpoint) as mq:
            q = mq.queue("q")
            let_go = hold(node)
            put = q.put_soon("a")
            while put.ticket is None or not put.ticket.handed:
                await asyncio.sleep(0)
            assert put.cancel()
            doubtful = asyncio.create_task(q.put("b", timeout=0.02))
            with pytest.raises(zmqkit.Timeout) as caught:
                await doubtful
            assert isinstance(caught.value, zmqkit.NotSent) or caught.value.maybe_executed
            let_go()
            await mq.flush()
            assert (await held(q))[0] >= 1


@on_loop
async def test_a_put_without_a_node_is_withdrawn_in_time() -> None:
    mq = zmqkit.aio.connect(NOWHERE, lazy=True)
    with pytest.raises(zmqkit.NotSent) as caught:
        await mq.queue("q").put(1, timeout=0.05)
    assert not caught.value.maybe_executed
    await mq.close(0)


@on_loop
async def test_the_next_step_of_a_consumer_takes_what_a_cancelled_one_was_told_of(node: zmqkit.Node) -> None:
    async with fresh_queue(node) as q:
        consumer, inbox = q.consume(credit=1), q._twin._inbox
        first, second = asyncio.create_task(anext(consumer)), asyncio.create_task(anext(consumer))
        await resting(second)
        q.put_soon("a")
        stand_still_until(lambda: inbox._hands)  # the first was told, and has not looked yet
        let_go = hold(q._twin)  # no heartbeat lets everybody look
        first.cancel()
        assert (await asyncio.wait_for(second, SOON)).body == "a"
        let_go()


@on_loop
async def test_nobody_is_remembered_who_waits_no_more(node: zmqkit.Node) -> None:
    async with fresh_queue(node) as q:
        session, let_go = q._session, hold(q._twin)
        gets = [asyncio.create_task(q.get(timeout=timeout)) for timeout in (0.01, None)]
        await resting(gets[1])
        assert await gets[0] is None
        gets[1].cancel()
        await asyncio.wait(gets)
        assert not q._twin._inbox.listeners and not session._up._listeners
        let_go()


# -- work -------------------------------------------------------------------------------------------------------------------------


@on_loop
async def test_work_runs_so_many_tasks_at_once(node: zmqkit.Node) -> None:
    async with fresh_queue(node) as q:
        await q.put_many(range(5))
        barrier = asyncio.Barrier(5)  # passes only if five handlers run at a time

        async def handle(d: zmqkit.aio.Delivery[Any]) -> None:
            await barrier.wait()

        async with asyncio.timeout(SOON):
            await q.work(handle, threads=5, credit=5, idle=0.2)
        assert await held(q) == (0, 0)


@on_loop
async def test_a_failing_handler_is_logged_and_nacked(node: zmqkit.Node, caplog: pytest.LogCaptureFixture) -> None:
    async with fresh_queue(node) as q:
        await q.put("a")
        attempts = []

        async def handle(d: zmqkit.aio.Delivery[Any]) -> None:
            attempts.append(d.attempt)
            if d.attempt == 1:
                raise ValueError("first try")
            work.stop()

        work = await q.work(handle, threads=1, block=False)
        assert await work.wait(SOON) and attempts == [1, 2]
        assert "a handler failed" in caplog.text
        await becomes(q, 0, 0)


@on_loop
async def test_a_signal_stops_work_and_what_runs_is_finished(node: zmqkit.Node) -> None:
    async with fresh_queue(node) as q:
        await q.put_many(range(5))
        done: list[int] = []
        before = signal.signal(signal.SIGTERM, ours := lambda number, frame: None)

        async def handle(d: zmqkit.aio.Delivery[Any]) -> None:
            os.kill(os.getpid(), signal.SIGTERM)
            while not asyncio.current_task().cancelling() and not stopped():  # type: ignore[union-attr]
                await asyncio.sleep(0)
            done.append(d.body)

        def stopped() -> bool:
            return not q._twin._inbox.demands

        await q.work(handle, threads=1, credit=5)
        assert done == [0] and signal.signal(signal.SIGTERM, before) is ours  # as we had left it
        await becomes(q, 4, 0)


def test_a_second_signal_cancels_what_runs(node: zmqkit.Node) -> None:
    left = []

    async def main() -> None:
        async with fresh_queue(node) as q:
            await q.put("a")

            async def handle(d: zmqkit.aio.Delivery[Any]) -> None:
                os.kill(os.getpid(), signal.SIGINT)
                while q._twin._inbox.demands:
                    await asyncio.sleep(0)
                os.kill(os.getpid(), signal.SIGINT)
                try:
                    await asyncio.Event().wait()
                finally:
                    left.append(d)

            await q.work(handle, threads=1)

    with pytest.raises(KeyboardInterrupt):
        asyncio.run(main())
    assert [d.attempt for d in left] == [1]


@on_loop
async def test_cancelling_work_gives_back_what_runs(node: zmqkit.Node) -> None:
    async with fresh_queue(node) as q:
        await q.put("a")
        began = asyncio.Event()

        async def handle(d: zmqkit.aio.Delivery[Any]) -> None:
            began.set()
            await asyncio.Event().wait()

        work = asyncio.create_task(q.work(handle, threads=2))
        await began.wait()
        work.cancel()
        with pytest.raises(asyncio.CancelledError):
            await work
        assert (await got(q)).attempt == 1


# -- links, loops and ends ----------------------------------------------------------------------------------------------------------


@on_loop
async def test_connect_raises_unreachable_in_time() -> None:
    ticks, threads = asyncio.create_task(_ticks()), set(threading.enumerate())
    with pytest.raises(zmqkit.Unreachable):
        await zmqkit.aio.connect(NOWHERE, timeout=0.2)
    ticks.cancel()
    assert len(await ticks) >= 5  # the loop went on meanwhile

    async def gone() -> bool:
        return not any(thread.name == "zmqkit-client" for thread in set(threading.enumerate()) - threads)

    await eventually(gone)  # its I/O thread


async def _ticks() -> list[int]:
    seen: list[int] = []
    try:
        while True:
            await asyncio.sleep(0.01)
            seen.append(len(seen))
    except asyncio.CancelledError:
        return seen


@on_loop
async def test_closing_ends_what_waits() -> None:
    async with zmqkit.aio.Node("tcp://127.0.0.1:0") as node:
        mq = await zmqkit.aio.connect(node.endpoint)
        q = mq.queue("q")
        get = asyncio.create_task(q.get(timeout=None))

        async def consume() -> str:
            async for _ in q.consume():
                pass
            return "ended"

        consumer = asyncio.create_task(consume())
        await resting(get)
        await mq.close()
        with pytest.raises(zmqkit.Closed):
            await get
        assert await consumer == "ended"
        for late in (q.put(1), q.get(), q.info(), q.put_many([1]), mq.flush()):
            with pytest.raises(zmqkit.Closed):
                await late
        await mq.close()


@on_loop
async def test_closing_confirms_what_is_under_way_and_fails_the_rest(node: zmqkit.Node) -> None:
    async with zmqkit.aio.connect(node.endpoint) as mq:
        future = mq.queue(f"q{next(_numbers)}").put_soon(1)
    assert future.result().seq == 1
    mq = zmqkit.aio.connect(NOWHERE, lazy=True)
    future = mq.queue("q").put_soon(1)
    with pytest.raises(zmqkit.NotSent):
        await mq.close(timeout=0.05)
    assert isinstance(future.exception(), zmqkit.NotSent)


@on_loop
async def test_a_node_is_opened_and_closed_without_stopping_the_loop(tmp_path: Any) -> None:
    async with zmqkit.aio.Node(journal=str(tmp_path / "data")) as node:
        assert (await node.queue("q").put("kept")).durability == "disk"
        with pytest.raises(zmqkit.JournalLocked):
            await zmqkit.aio.Node(journal=str(tmp_path / "data"))
    assert isinstance(node.failure, zmqkit.Closed)
    async with zmqkit.aio.Node(journal=str(tmp_path / "data")) as node:
        assert (await got(node.queue("q"))).body == "kept"
    with pytest.raises(zmqkit.Closed):
        zmqkit.aio.Node().queue("q")


@on_loop
async def test_a_node_that_nobody_waits_for_any_more_is_closed(tmp_path: Path) -> None:
    journal, gate = str(tmp_path / "data"), threading.Event()
    node = zmqkit.aio.Node(journal=journal)
    opening = node._open
    opened_late = threading.Event()
    node._open = lambda: (gate.wait(SOON), opening(), opened_late.set())[1]
    task = asyncio.ensure_future(node._start())
    await resting(task)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    gate.set()
    await asyncio.to_thread(opened_late.wait, SOON)

    async def opened() -> bool:
        try:
            async with zmqkit.aio.Node(journal=journal):
                return True
        except zmqkit.JournalLocked:
            return False

    await eventually(opened)


@dataclass
class Email:
    to: str


@on_loop
async def test_a_handle_has_its_twin_on_the_same_link(node: zmqkit.Node) -> None:
    with zmqkit.connect(node.endpoint) as mq:
        q = mq.queue(f"q{next(_numbers)}", type=Email)
        await q.aio.put(Email("ada"))
        d = q.get(timeout=SOON)
        assert d is not None and d.body == Email("ada") and not hasattr(d, "__aexit__")
        d.ack(wait=True)
        assert (await mq.aio.queue(q.name).info()).ready == 0 and mq.aio._session is mq._session
        assert node.aio.endpoint == node.endpoint and await node.aio.queue(q.name).get(timeout=0) is None


def test_two_loops_in_two_threads_share_one_client(node: zmqkit.Node) -> None:
    bodies: list[int] = []
    with zmqkit.connect(node.endpoint) as mq:
        name = f"q{next(_numbers)}"
        consumer = mq.queue(name).aio.consume(credit=10)
        finished = threading.Event()

        async def half(first: int) -> None:
            q = mq.queue(name).aio
            async with asyncio.timeout(2 * SOON):
                await asyncio.gather(*[q.put(n) for n in range(first, first + 500)])
                async for d in consumer:  # shared by both loops
                    async with d:
                        bodies.append(d.body)
                    if len(bodies) == 1000:
                        finished.set()
                        consumer.stop()

        threads = [in_thread(lambda first=first: asyncio.run(half(first))) for first in (0, 500)]  # type: ignore[misc]
        assert finished.wait(2 * SOON)
        for thread in threads:
            thread.join(SOON)
            assert not thread.is_alive()
        assert sorted(bodies) == list(range(1000))
        mq.flush()
        assert mq.queue(name).info().leased == 0


def test_a_loop_that_was_closed_is_no_concern_of_the_link(node: zmqkit.Node) -> None:
    with zmqkit.connect(node.endpoint) as mq:
        q = mq.queue(f"q{next(_numbers)}")
        let_go = freeze(mq)

        async def leave() -> None:
            q.aio.put_soon(1)

        asyncio.run(leave())
        let_go()
        mq.flush()
        assert q.info().ready == 1

        async def again() -> int:
            return (await q.aio.put(2)).seq

        assert asyncio.run(again()) == 2 and len(mq._session.loops) == 1


@on_loop
async def test_the_example_works_until_sigterm(node: zmqkit.Node) -> None:
    async def page(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        writer.write(b"HTTP/1.0 200 OK\r\n\r\nhello")
        writer.close()

    async with zmqkit.aio.connect(node.endpoint) as mq, await asyncio.start_server(page, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        environment = {**os.environ, "ZMQKIT_ENDPOINT": node.endpoint}
        worker = await asyncio.create_subprocess_exec(sys.executable, str(EXAMPLE), env=environment)
        try:
            await mq.queue("pages").put_many([f"http://127.0.0.1:{port}/", "mailto:ada@example.org"])
            async with await got(mq.queue("sizes")) as d:
                assert d.body["bytes"] == len(b"HTTP/1.0 200 OK\r\n\r\nhello")
            (letter,) = await eventually(mq.queue("pages").dead.list)
            assert "not an http address" in letter.reason
            worker.terminate()
            assert await worker.wait() == 0
        finally:
            if worker.returncode is None:
                worker.kill()
