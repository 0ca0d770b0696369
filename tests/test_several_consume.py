"""A client of several nodes consumes: fairly from all, settled where each message came from, whoever is down."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from handle_world import freeze
from several_world import SOON, Site, add, all_up, client_of, client_of_none, eventually, on_io_thread, several, up

import zmqkit


@pytest.fixture
def sites() -> Iterator[list[Site]]:
    with several() as sites:
        yield sites


def settled(site: Site, queue: str = "q") -> bool:
    info = site.node.queue(queue).info()
    return info.ready == info.leased == info.delayed == info.dead == 0


# -- fairly, from all ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("credit", ["auto", 20])
def test_two_full_nodes_are_served_alike_and_each_settles_its_own(sites: list[Site], credit: Any) -> None:
    for site in sites:
        site.put("q", *[site.id] * 1000)
    with client_of(sites) as mq:
        taken: Counter[str] = Counter()
        for d in mq.queue("q").consume(credit=credit):
            with d:
                assert d.body == d.node
                taken[d.node] += 1
                if taken.total() < 1000:
                    time.sleep(0.0005)  # work, so that it is they who wait
            if taken.total() == 1000:
                assert max(taken.values()) <= 2 * min(taken[site.id] for site in sites)
            if taken.total() == 2000:
                break
        assert taken == {site.id: 1000 for site in sites}
        mq.flush(SOON)
    assert all(settled(site) for site in sites)


def test_nothing_waits_behind_slow_handlers_whichever_node_their_message_came_from(
    sites: list[Site], monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("handles.inboxes", "machines.consumer"):
        monkeypatch.setattr(f"zmqkit.{module}.SLOW_SECONDS", 0.2)
    for site in sites:
        site.put("q", 1, 2, 3)
    with client_of(sites) as mq:
        consumer = mq.queue("q").consume()
        d = next(consumer)
        leased = lambda: sorted(site.node.queue("q").info().leased for site in sites)  # noqa: E731
        eventually(lambda: leased()[0] >= 1)  # one ahead at each
        eventually(lambda: leased() == [0, 1])
        d.ack()
        assert next(consumer).attempt == 1


def test_batches_come_from_all_and_are_acked_as_one(sites: list[Site]) -> None:
    for site in sites:
        site.put("q", *range(100))
    with client_of(sites) as mq:
        q = mq.queue("q")
        with q.get_many(200, timeout=SOON) as b:
            assert Counter(d.node for d in b) == {site.id: 100 for site in sites}
        mq.flush(SOON)
        assert all(settled(site) for site in sites)
        for site in sites:
            site.put("q", *range(1000))
        seen = 0
        for batch in q.consume_many(100):
            batch.ack(wait=True)
            seen += len(batch)
            if seen == 2000:
                break
    assert all(settled(site) for site in sites)


def test_a_batch_of_two_nodes_that_fails_comes_again_from_both(sites: list[Site]) -> None:
    for site in sites:
        site.put("q", 1)
    with client_of(sites) as mq:
        mq.declare("q", zmqkit.QueuePolicy(backoff=zmqkit.Backoff(0.01, 0.01)))
        q = mq.queue("q")
        with pytest.raises(ArithmeticError), q.get_many(2, timeout=SOON) as b:
            while len(b) < 2:
                b = q.get_many(2, timeout=SOON)
            raise ArithmeticError
        again = [q.get(timeout=SOON) for _ in range(2)]
        assert {d.node for d in again if d} == {site.id for site in sites}
        for d in again:
            assert d is not None
            d.ack(wait=True)


def test_credit_is_shared_out_over_the_nodes_that_are_up(sites: list[Site]) -> None:
    for site in sites:
        site.put("q", *range(100))
    leased = lambda: [site.node.queue("q").info().leased for site in sites]  # noqa: E731
    with client_of(sites) as mq:
        consumer = mq.queue("q").consume(credit=7)
        eventually(lambda: leased() == [4, 3])
        consumer.credit = 1
        eventually(lambda: leased() == [1, 1])  # at least 1 each
        consumer.credit = 8
        eventually(lambda: leased() == [4, 4])
        sites[1].cut_off()
        up(mq, sites[1], False)
        eventually(lambda: leased()[0] == 8)
        sites[1].join()
        all_up(mq)
        eventually(lambda: leased() == [4, 4])
        consumer.stop()


# -- get ------------------------------------------------------------------------------------------------------------------------


def test_a_get_finds_a_message_at_any_node(sites: list[Site]) -> None:
    with client_of(sites) as mq:
        q = mq.queue("q")
        assert q.get(timeout=0) is None and len(q.get_many(5, timeout=0)) == 0
        for site in sites:
            site.put("q", site.id)
            d = q.get(timeout=0)
            assert d is not None and d.body == d.node == site.id
            d.ack(wait=True)
        timer = threading.Timer(0.1, lambda: sites[1].put("q", "late"))
        timer.start()
        late = q.get(timeout=SOON)
        assert late is not None and late.body == "late"
        late.ack(wait=True)
    assert all(settled(site) for site in sites)


def test_what_a_get_does_not_take_goes_back_uncounted(sites: list[Site]) -> None:
    for site in sites:
        site.put("q", site.id)
    with client_of(sites) as mq:
        q = mq.queue("q")
        first = q.get(timeout=SOON)
        assert first is not None
        first.ack(wait=True)
        second = q.get(timeout=SOON)
        assert second is not None and second.node != first.node and second.attempt == 1
        second.ack(wait=True)


# -- nodes that go and come back ------------------------------------------------------------------------------------------------


def test_a_node_that_is_down_delays_nobody(sites: list[Site]) -> None:
    a, b = sites
    b.put("q", *range(1000))
    a.cut_off()
    with zmqkit.connect(a.endpoint, b.endpoint) as mq:
        q = mq.queue("q")
        begin = time.monotonic()
        d = q.get(timeout=0)
        assert d is not None
        d.ack()
        assert sum(1 for d in q.consume(credit=10, idle=0.5) if d.ack() is None) == 999
        assert time.monotonic() - begin < SOON


def test_what_a_returning_node_still_holds_is_drained_by_the_same_loop(sites: list[Site]) -> None:
    a, b = sites
    with client_of(sites) as mq:
        bodies: list[Any] = []

        def handle(d: zmqkit.Delivery[Any]) -> None:
            bodies.append(d.body)

        work = mq.queue("q").work(handle, threads=2, block=False)
        a.put("q", 1)
        eventually(lambda: bodies == [1])
        a.cut_off()
        up(mq, a, False)
        a.put("q", 2)
        b.put("q", 3)
        eventually(lambda: bodies == [1, 3])
        a.join()
        eventually(lambda: sorted(bodies) == [1, 2, 3])
        work.stop()
        assert work.wait(SOON)
        mq.flush(SOON)
    assert all(settled(site) for site in sites)


def test_a_handler_that_outlives_its_link_acks_to_its_own_node(sites: list[Site]) -> None:
    a, _ = sites
    a.put("q", 1)
    a.node.declare("q", zmqkit.QueuePolicy(grace=60.0))
    with client_of(sites) as mq:
        d = mq.queue("q").get(timeout=SOON)
        assert d is not None
        a.cut_off()
        up(mq, a, False)
        d.ack()
        a.join()
        mq.flush(SOON)
    assert settled(a)


def test_tokens_that_two_nodes_have_in_common_are_not_confused(sites: list[Site]) -> None:
    for site in sites:
        site.put("q", *range(10))
    with client_of(sites) as mq:
        q = mq.queue("q")
        b = q.get_many(20, timeout=SOON)
        while len(b) < 20:
            b = zmqkit.Batch([*b._parts, *q.get_many(20, timeout=SOON)._parts], [*b.bodies, *b.bodies][:20])
        assert len({d.token for d in b}) < len({(d.node, d.token) for d in b})  # else this test shows nothing
        thaw = freeze(sites[1].node)  # type: ignore[arg-type]
        with pytest.raises(zmqkit.Timeout):
            b.ack(wait=True, timeout=0.2)  # one node's answer is not the other's
        thaw()
        mq.flush(SOON)
    assert all(settled(site) for site in sites)


# -- loops end, waiters wake ------------------------------------------------------------------------------------------------------


def test_a_loop_of_several_nodes_ends_by_stop_by_idle_and_with_its_client(sites: list[Site]) -> None:
    for site in sites:
        site.put("q", *range(10))
    with client_of(sites) as mq:
        q = mq.queue("q")
        with q.consume(credit=4) as consumer:
            for d in consumer:
                d.ack()
                consumer.stop()
        eventually(lambda: sum(site.node.queue("q").info().ready for site in sites) == 19)
        assert sum(1 for d in q.consume(idle=0.5) if d.ack() is None) == 19
        waits = threading.Thread(target=lambda: [*q.consume()])
        waits.start()
        eventually(lambda: q._inbox.sleepers)
        mq.stop()
        waits.join(SOON)
        assert not waits.is_alive()


def test_a_loop_that_began_without_any_node_takes_from_those_that_are_found(sites: list[Site]) -> None:
    for site in sites:
        site.put("q", site.id)
    with client_of_none() as mq:
        q = mq.queue("q")
        assert q.get(timeout=0) is None and q.get(timeout=0.05) is None
        found: list[str] = []

        def loop() -> None:
            for d in q.consume(credit=2):
                with d:
                    found.append(d.body)

        thread = threading.Thread(target=loop)
        thread.start()
        for count, site in enumerate(sites, 1):
            add(mq, site)
            eventually(lambda: len(found) == count)  # noqa: B023
        assert {*found} == {site.id for site in sites}
        mq.stop()
        thread.join(SOON)
        assert not thread.is_alive()
    with client_of_none() as mq:
        thread = threading.Thread(target=lambda: [*mq.queue("q").consume()])
        thread.start()
        eventually(lambda: mq.queue("q")._inbox.sleepers)
    thread.join(SOON)
    assert not thread.is_alive()


def test_what_waits_of_a_removed_node_goes_back_and_what_is_in_hand_may_be_settled(sites: list[Site]) -> None:
    a, b = sites
    a.put("q", *range(10))
    with client_of_none() as mq:
        session = add(mq, a)
        add(mq, b)
        all_up(mq)
        consumer = mq.queue("q").consume(credit=8)
        d = next(consumer)
        eventually(lambda: a.node.queue("q").info().leased == 4)
        on_io_thread(mq, lambda: mq._nodes.remove(session))
        eventually(lambda: a.node.queue("q").info().leased == 1)  # what is in hand
        assert not session.ended
        d.ack()
        eventually(lambda: session.ended)
        assert a.node.queue("q").info().ready == 9 and a.node.queue("q").info().consumers == 0
        b.put("q", "b")
        assert next(consumer).body == "b"


def test_a_message_of_a_node_that_is_gone_is_stale(sites: list[Site], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zmqkit.handles.nodes.LEAVE_SECONDS", 0.1)
    a, b = sites
    a.put("q", 1, 2)
    with client_of_none() as mq:
        session = add(mq, a)
        all_up(mq)
        consumer = mq.queue("q").consume(credit=2)
        first, second = next(consumer), next(consumer)
        on_io_thread(mq, lambda: mq._nodes.remove(session))
        eventually(lambda: session.ended)
        with pytest.raises(zmqkit.StaleLease):
            first.ack()
        with pytest.raises(zmqkit.StaleLease):
            second.ack(wait=True)
        eventually(lambda: a.node.queue("q").info().ready == 2)
        add(mq, b)
        b.put("q", "b")
        assert next(consumer).body == "b"


# -- asyncio ------------------------------------------------------------------------------------------------------------------------


def test_asyncio_consumes_from_several_nodes(sites: list[Site]) -> None:
    for site in sites:
        site.put("q", *[site.id] * 500)

    async def main() -> None:
        async with zmqkit.aio.connect(*[site.endpoint for site in sites]) as mq:
            all_up(mq._twin)
            q = mq.queue("q")
            taken: Counter[str] = Counter()
            d = await q.get(timeout=SOON)
            assert d is not None and d.node == d.body
            await d.ack(wait=True)
            taken[d.node] += 1
            async for d in q.consume():
                async with d:
                    taken[d.node] += 1
                if taken.total() == 1000:
                    break
            assert taken == {site.id: 500 for site in sites}
            assert await q.get(timeout=0) is None
            for site in sites:
                site.put("q", *range(100))
            count = 0
            async for batch in q.consume_many(50):
                async with batch:
                    count += len(batch)
                if count == 200:
                    break
            await mq.flush()

    asyncio.run(main())
    assert all(settled(site) for site in sites)
