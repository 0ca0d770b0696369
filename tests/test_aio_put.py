"""The twins for asyncio: putting and getting, and a loop that never stands still."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator

import pytest
from aio_world import becomes, fresh_queue, got, held, new_name, node as node, on_loop, resting
from handle_world import SOON, eventually as stand_still_until, freeze

import zmqkit
from zmqkit.aio.bell import Bell
from zmqkit.aio.consumer import HOG_SECONDS
from zmqkit.handles import producer
from zmqkit.handles.hand import News

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
        let_go = freeze(q._twin)
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
    name = new_name()
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
        q = mq.queue(new_name())
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
            let_go = freeze(node)
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
        let_go = freeze(q._twin)
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
        let_go = freeze(q._twin)
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
        let_go = freeze(q._twin)
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
        q = mq.queue(new_name())
        let_go = freeze(mq)
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
