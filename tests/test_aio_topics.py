"""Topics in asyncio: the same as for threads, and what is a loop's own: cancelling, tasks, a loop that never stands still."""

from __future__ import annotations

import asyncio
import random
import threading
from typing import Any

import pytest
from aio_world import NOWHERE, new_name, node as node, on_loop, resting
from handle_world import SOON, eventually as stand_still_until, freeze, in_thread
from proxy import proxy_to

import zmqkit
from zmqkit.codec import Undecodable
from zmqkit.handles import feed, producer
from zmqkit.handles.feed import Event
from zmqkit.machines import followers


async def taken(sub: zmqkit.aio.Subscription[Any]) -> Event:
    event = await sub.get(timeout=SOON)
    assert event is not None
    return event


# -- publishing and following ---------------------------------------------------------------------------------------------------


@on_loop
async def test_what_is_published_is_told_and_held_and_deleted(node: zmqkit.Node) -> None:
    async with zmqkit.aio.connect(node.endpoint) as mq:
        t = mq.topic(new_name())
        async with t.subscribe() as sub:
            assert await sub.wait_ready() and sub.state == {} and await sub.get(timeout=0) is None
            receipt = await t.publish("a", {"n": 1})
            assert (receipt.seq, receipt.duplicate, receipt.durability) == (1, False, "memory")
            assert await taken(sub) == ("a", {"n": 1}, 1, sub.position, False, False, None, receipt.node)
            assert sub.state == {"a": {"n": 1}} and sub.seq == 1 and await sub.get(timeout=0.02) is None
            assert (await t.publish_soon("b", None)).seq == 2
            batch = await t.publish_many((f"k{n}", n) for n in range(3000))
            assert (batch.count, batch.first_seq, batch.last_seq) == (3000, 3, 3002)
            assert (await t.delete("b")).seq == 3003
            events = []
            async for event in sub:
                events.append(event)
                if event.deleted:
                    break
            assert [event.seq for event in events] == list(range(2, 3004)) and events[-1].key == "b"
            assert sub.state == {"a": {"n": 1}, **{f"k{n}": n for n in range(3000)}}


@on_loop
async def test_values_keys_and_times_are_checked_before_anything_is_sent(node: zmqkit.Node) -> None:
    async with zmqkit.aio.connect(node.endpoint) as mq:
        name = new_name()
        t, plain = mq.topic(name, int), mq.topic(name)
        with pytest.raises(zmqkit.Unencodable, match="not a int"):
            await t.publish("a", "text")
        with pytest.raises(zmqkit.Unencodable, match="cannot send"):
            await plain.publish("a", object())
        with pytest.raises(zmqkit.MessageTooLarge):
            await plain.publish("a", bytes(1 << 20))
        with pytest.raises(zmqkit.Unencodable, match=r"message 1: .*a key is a text") as raised:
            await t.publish_many([("a", 1), ("", 2)])
        assert raised.value.confirmed == 0  # type: ignore[attr-defined]
        for publish in (lambda: t.publish("", 1), lambda: t.delete(""), lambda: t.publish("a", 1, ttl=0)):
            with pytest.raises(ValueError, match=r"a key is a text|ttl=0"):
                await publish()
        async with t.subscribe() as sub:
            assert (await plain.publish_many([("a", "no int"), ("b", 2)])).first_seq == 1
            with pytest.raises(Undecodable, match="not a int"):
                await sub.get(timeout=SOON)
            assert (await taken(sub)).value == 2
            await t.publish("a", 1, ttl=0.1)
            assert [(event.value, event.deleted) for event in [await taken(sub), await taken(sub)]] == [(1, False), (None, True)]


@on_loop
async def test_prefixes_come_and_go_and_beginnings_are_chosen(node: zmqkit.Node) -> None:
    async with zmqkit.aio.connect(node.endpoint) as mq:
        t = mq.topic(new_name())
        await t.publish_many([("a.1", 1), ("b.1", 2), ("a.1", 3)])
        async with t.subscribe("a.") as sub:
            assert await sub.wait_ready() and sub.state == {"a.1": 3}
            sub.add("b.")
            assert await sub.wait_ready() and sub.state == {"a.1": 3, "b.1": 2}
            sub.remove("a.")
            assert await sub.wait_ready() and sub.state == {"b.1": 2}
        async with t.subscribe(start="beginning", name="ui") as sub:
            events = [await taken(sub) for _ in range(3)]
            assert [event.value for event in events] == [1, 2, 3]
        async with t.subscribe(name="ui") as named, t.subscribe(start=events[0].position) as sub:
            event = await taken(named)
            assert (event.value, event.from_snapshot) == (3, False)
            assert (await taken(sub)).value == 2


@on_loop
async def test_links_that_are_cut_lose_and_double_nothing(node: zmqkit.Node) -> None:
    t = node.topic(new_name())
    with proxy_to(node.endpoint) as proxy:
        async with zmqkit.aio.connect(proxy.endpoint) as mq, mq.topic(t.name).subscribe(start="beginning") as sub:
            seen = []
            for round in range(4):
                t.publish_many([(f"k{n}", n) for n in range(500)])
                proxy.cut()
                t.publish_many([(f"k{n}", round) for n in range(500)])
                while len(seen) < 1000 * (round + 1):
                    seen.append(await taken(sub))
            assert [event.seq for event in seen] == list(range(1, 4001)) and sub.state == {f"k{n}": 3 for n in range(500)}


# -- many at once --------------------------------------------------------------------------------------------------------------


@on_loop
async def test_a_thousand_updates_in_flight_keep_their_order(node: zmqkit.Node) -> None:
    async with zmqkit.aio.connect(node.endpoint) as mq:
        t = mq.topic(new_name())
        async with t.subscribe(start="beginning") as sub:
            futures = [t.publish_soon("k", n) for n in range(1000)]
            assert all(isinstance(future, asyncio.Future) for future in futures)
            batch = await t.publish_many([("k", n) for n in range(1000, 1500)])
            assert [receipt.seq for receipt in await asyncio.gather(*futures)] == list(range(1, 1001)) and batch.first_seq == 1001
            assert [(await taken(sub)).value for _ in range(1500)] == list(range(1500))


@on_loop
async def test_what_finds_no_room_stands_in_line(node: zmqkit.Node, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(producer, "READY_BATCHES_MAX", 1)
    async with zmqkit.aio.connect(node.endpoint) as mq:
        t = mq.topic(new_name())
        let_go = freeze(mq._twin)
        futures = [t.publish_soon(f"k{n}", bytes(60_000)) for n in range(100)]
        late = t.publish_soon("late", 1, timeout=0.01)
        with pytest.raises(zmqkit.NotSent, match="batches wait"):
            await late
        many = asyncio.create_task(t.publish_many([("last", 2)]))
        await asyncio.sleep(0.01)
        let_go()
        assert [receipt.seq for receipt in await asyncio.gather(*futures)] == list(range(1, 101))
        assert (await many).first_seq == 101


@on_loop
async def test_events_of_one_turn_wake_the_loop_once_however_many_wait(node: zmqkit.Node, monkeypatch: pytest.MonkeyPatch) -> None:
    async with zmqkit.aio.connect(node.endpoint) as mq:
        t, threads = mq.topic(new_name()), threading.active_count()
        subs = [t.subscribe(start="now") for _ in range(50)]
        for sub in subs:
            assert await sub.wait_ready()
        gets = [asyncio.create_task(sub.get(None)) for sub in subs]
        readies = [asyncio.create_task(t.subscribe().wait_ready(None)) for _ in range(20)]
        await asyncio.gather(*readies)
        await resting(gets[0])
        assert threading.active_count() == threads  # none per wait
        loop, wakes = asyncio.get_running_loop(), []
        wake = loop.call_soon_threadsafe
        monkeypatch.setattr(loop, "call_soon_threadsafe", lambda *given: wakes.append(given) or wake(*given))
        let_go = freeze(mq._twin)
        node.topic(t.name).publish_many([("k", n) for n in range(100)])
        await asyncio.sleep(0.05)  # it is all in the socket
        let_go()
        assert [event.value for event in await asyncio.gather(*gets) if event] == [0] * 50
        assert 1 <= len(wakes) <= 4


@on_loop
async def test_a_loop_over_many_events_lets_others_have_their_turn(node: zmqkit.Node) -> None:
    async with zmqkit.aio.connect(node.endpoint) as mq:
        t = mq.topic(new_name())
        async with t.subscribe(start="now") as sub:
            assert await sub.wait_ready()
            await t.publish_many([(f"k{n}", n) for n in range(30_000)])
            stand_still_until(lambda: sub.seq == 30_000)
            turns, count = 0, 0

            async def others() -> None:
                nonlocal turns
                while True:
                    turns += 1
                    await asyncio.sleep(0)

            task = asyncio.create_task(others())
            async for _ in sub:
                count += 1
                if count == 30_000:
                    break
            assert turns >= 3
            task.cancel()


# -- cancelling ------------------------------------------------------------------------------------------------------------------


@on_loop
async def test_a_cancelled_wait_has_taken_nothing(node: zmqkit.Node) -> None:
    async with zmqkit.aio.connect(node.endpoint) as mq:
        t, chance, seen = mq.topic(new_name()), random.Random(1), list[int]()
        async with t.subscribe(start="now", name="ui") as sub:
            assert await sub.wait_ready()
            publisher = asyncio.create_task(_publish_slowly(t, 300))
            cancelled = 0
            while len(seen) < 300:
                task = asyncio.create_task(sub.get(None) if chance.random() < 0.5 else anext(sub))
                for _ in range(chance.randrange(6)):
                    await asyncio.sleep(chance.choice([0, 0.0005]))
                task.cancel()
                try:
                    event = await task
                except asyncio.CancelledError:
                    cancelled += 1
                else:
                    assert event is not None
                    seen.append(event.value)
            await publisher
            assert seen == list(range(300)) and cancelled > 20 and await sub.get(timeout=0) is None


async def _publish_slowly(t: zmqkit.aio.Topic[Any], count: int) -> None:
    for n in range(count):
        t.publish_soon("k", n)
        if n % 3 == 0:
            await asyncio.sleep(0.001)


@on_loop
async def test_a_timeout_of_asyncio_leaves_the_subscription_as_it_was(node: zmqkit.Node) -> None:
    async with zmqkit.aio.connect(node.endpoint) as mq:
        t = mq.topic(new_name())
        async with t.subscribe() as sub:
            for wait in (lambda: sub.get(None), lambda: anext(sub)):
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(0.02):
                        await wait()
            assert not sub._feed._listeners
            await t.publish("a", 1)
            assert (await taken(sub)).value == 1


@on_loop
async def test_an_update_that_has_not_left_is_withdrawn() -> None:
    mq = zmqkit.aio.connect(NOWHERE, lazy=True)
    t = mq.topic("t")
    with pytest.raises(zmqkit.NotSent, match="withdrawn"):
        await t.publish("a", 1, timeout=0.05)
    with pytest.raises(zmqkit.NotSent, match="withdrawn"):
        await t.delete("a", timeout=0.05)
    await mq.close(timeout=0.0)  # nobody's failure is left to tell


@on_loop
async def test_what_is_cancelled_before_it_leaves_is_not_published(node: zmqkit.Node) -> None:
    async with zmqkit.aio.connect(node.endpoint) as mq:
        t = mq.topic(new_name())
        await t.publish("a", 1)
        let_go = freeze(mq._twin)
        tasks = [asyncio.create_task(act) for act in (t.publish("a", 2), t.publish_many([("a", 3)]), t.delete("a"))]  # type: ignore[var-annotated]
        await resting(tasks[0])
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        let_go()
        assert all(task.cancelled() for task in tasks) and (await t.publish("a", 4)).seq == 2


# -- twins, and ends -------------------------------------------------------------------------------------------------------------


@on_loop
async def test_a_topic_is_bound_and_removed(node: zmqkit.Node) -> None:
    async with zmqkit.aio.connect(node.endpoint) as mq:
        t, q = mq.topic("bound"), mq.queue("messages")
        await t.bind("a", queue="messages")
        await t.publish("a1", 1)
        d = await q.get(timeout=SOON)
        assert d is not None and (d.body, d.headers["key"]) == (1, "a1")
        await d.ack()
        await t.unbind("a", queue="messages")
        await t.publish("a2", 2)
        assert (await q.info()).ready == 0 and (await t.info()).keys == 2
        await t.remove()
        assert (await t.info()).keys == 0


@on_loop
async def test_twins_share_link_and_topic_with_threads(node: zmqkit.Node) -> None:
    name = new_name()
    with zmqkit.connect(node.endpoint) as mq:
        t = mq.topic(name)
        assert repr(t.aio) == f"<aio.Topic {name!r}>" and t.aio.name == name
        async with t.aio.subscribe() as sub, node.aio.topic(name).subscribe() as of_node:
            seen: list[Any] = []
            with t.subscribe() as for_threads:
                reader = in_thread(lambda: seen.append(for_threads.get(SOON)))
                await asyncio.gather(t.aio.publish("a", 1), mq.aio.topic(name).publish("b", 2), asyncio.to_thread(t.publish, "c", 3))
                assert {(await taken(sub)).key for _ in range(3)} == {"a", "b", "c"} == {(await taken(of_node)).key for _ in range(3)}
                reader.join(SOON)
                assert len(seen) == 1 and seen[0] is not None


def test_subscriptions_of_several_loops_on_one_link(node: zmqkit.Node) -> None:
    name, seen = new_name(), list[list[int]]()
    with zmqkit.connect(node.endpoint) as mq:

        async def follow() -> None:
            async with mq.aio.topic(name).subscribe() as sub:
                seen.append([(await taken(sub)).value for _ in range(200)])

        loops = [in_thread(lambda: asyncio.run(follow())) for _ in range(3)]
        stand_still_until(lambda: len(mq._session.feeds) == 3)
        assert all(feed.ready.wait(SOON) for feed in list(mq._session.feeds.values()))
        for n in range(200):
            node.topic(name).publish_soon("k", n)
        for loop in loops:
            loop.join(SOON)
        assert seen == [list(range(200))] * 3


@on_loop
async def test_a_loop_ends_also_where_its_client_is_closed_just_before_it_waits(node: zmqkit.Node, monkeypatch: pytest.MonkeyPatch) -> None:
    mq = zmqkit.connect(node.endpoint)
    sub = mq.aio.topic(new_name()).subscribe()
    assert await sub.wait_ready()
    take = sub._feed.take

    def taken_too_late() -> Any:
        event = take()
        mq.close()
        return event

    monkeypatch.setattr(sub._feed, "take", taken_too_late)
    assert [event async for event in sub] == []


@pytest.mark.parametrize("end", ["close", "stop", "mq.stop", "mq.close"])
@on_loop
async def test_a_loop_in_another_task_ends(node: zmqkit.Node, end: str) -> None:
    mq = await zmqkit.aio.connect(node.endpoint)
    t = mq.topic(new_name())
    sub = t.subscribe()

    async def follow() -> list[Any]:
        return [event.value async for event in sub]

    tasks = [asyncio.create_task(follow()) for _ in range(2)]
    assert await sub.wait_ready()
    await t.publish("a", 1)
    await asyncio.sleep(0.05)
    if end in ("close", "mq.close"):
        await {"close": sub.close, "mq.close": mq.close}[end]()
    else:
        {"stop": sub.stop, "mq.stop": mq.stop}[end]()
    async with asyncio.timeout(SOON):
        assert sorted(await asyncio.gather(*tasks)) == [[], [1]]
    if end == "mq.close":
        for use in (sub.get, sub.wait_ready):
            with pytest.raises(zmqkit.Closed):
                await use()
    else:
        assert await sub.get() is None and sub.state == {"a": 1}
        await mq.close()


@on_loop
async def test_a_wait_for_the_state_ends(node: zmqkit.Node, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(followers, "SUBSCRIPTIONS_MAX", 1)
    async with zmqkit.aio.connect(node.endpoint) as mq:
        t = mq.topic(new_name())
        let_go = freeze(mq._twin)
        async with t.subscribe() as sub, t.subscribe() as refused:
            assert not await sub.wait_ready(0.02)
            waits = asyncio.create_task(sub.wait_ready(None))
            let_go()
            assert await waits
            for use in (lambda: refused.wait_ready(None), lambda: refused.get(None), lambda: anext(refused)):
                with pytest.raises(zmqkit.QuotaExceeded):
                    await use()


@on_loop
async def test_who_never_iterates_has_the_state_and_gets_a_gap_later(node: zmqkit.Node, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed, "UNTAKEN_BYTES", 10_000)
    async with zmqkit.aio.connect(node.endpoint) as mq:
        t = mq.topic(new_name())
        async with t.subscribe() as sub:
            assert await sub.wait_ready()
            for round in range(10):
                await t.publish_many([(f"k{n}", (round, bytes(1000))) for n in range(1000)])
            stand_still_until(lambda: sub.seq == 10_000)
            fold, first = {}, await taken(sub)
            event: Event | None = first
            while event is not None:
                fold[event.key] = event.value
                event = await sub.get(timeout=0)
            assert fold == {f"k{n}": [9, bytes(1000)] for n in range(1000)} == sub.state
            assert first.from_snapshot and first.gap is not None and first.gap.first == 1
