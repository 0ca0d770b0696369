"""The twins for asyncio: consuming, cancelling, and work."""

from __future__ import annotations

import asyncio
import os
import signal
from typing import Any

import pytest
from aio_world import NOWHERE, becomes, eventually, fresh_queue, got, held, new_name, node as node, on_loop, resting
from handle_world import SOON, eventually as stand_still_until, freeze

import zmqkit

# -- consuming --------------------------------------------------------------------------------------------------------------------


@on_loop
async def test_consume_acks_on_success_and_ends_when_idle(node: zmqkit.Node) -> None:
    async with fresh_queue(node) as q:
        await q.put_many(range(100))
        bodies = []
        async for d in q.consume(idle=1.5):
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
        async for b in q.consume_many(10, credit=10, idle=1.5):
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
    name = new_name()
    async with zmqkit.aio.connect(node.endpoint) as mq:
        assert (await mq.declare(name, zmqkit.QueuePolicy(max_attempts=5))).max_attempts == 5
        assert name in [info.name for info in await mq.queues()]
        q = mq.queue(name)
        await q.put_many("ab")
        assert [(peeked.seq, peeked.body) for peeked in await q.peek()] == [(1, "a"), (2, "b")]
        assert [peeked.seq for peeked in await q.peek(after=1)] == [peeked.seq for peeked in await q.peek(seqs=[2, 9])] == [2]
        await q.put("c")
        assert await q.purge(seqs=[3, 9]) == 1
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
        let_go = freeze(q._twin)
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
            let_go = freeze(node)
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
        let_go = freeze(q._twin)  # no heartbeat lets everybody look
        first.cancel()
        assert (await asyncio.wait_for(second, SOON)).body == "a"
        let_go()


@on_loop
async def test_nobody_is_remembered_who_waits_no_more(node: zmqkit.Node) -> None:
    async with fresh_queue(node) as q:
        session, let_go = q._session, freeze(q._twin)
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
            await q.work(handle, threads=5, credit=5, idle=1.5)
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
