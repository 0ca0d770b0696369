"""A client of several nodes puts: which node gets what, what goes to another one, and what must not."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cli_world import node as broker
from handle_world import freeze
from proxy import MutableProxy
from several_world import SOON, Site, all_up, client_of, eventually, several, up

import zmqkit


@pytest.fixture
def sites() -> Iterator[list[Site]]:
    with several() as sites:
        yield sites


def refuse(site: Site, stopping: bool) -> None:
    """As a node does in its last seconds."""
    core = site.node._core

    def change(moment: float) -> None:
        core.stopping = stopping

    site.node._reactor.call(change)
    eventually(lambda: core.stopping is stopping)


# -- which node -----------------------------------------------------------------------------------------------------------------


def test_puts_go_to_the_first_that_is_up_and_the_receipt_names_it(sites: list[Site]) -> None:
    a, b = sites
    with client_of(sites) as mq:
        q = mq.queue("q")
        assert [q.put(n).node for n in range(3)] == [a.id] * 3
        a.cut_off()
        up(mq, a, False)
        assert [q.put(n).node for n in range(3, 6)] == [b.id] * 3
        a.join()
        all_up(mq)
        assert q.put(6).node == a.id
    assert a.bodies("q") == [0, 1, 2, 6] and b.bodies("q") == [3, 4, 5]


def test_spread_puts_go_round_batch_by_batch(sites: list[Site]) -> None:
    with client_of(sites, spread=True) as mq:
        q = mq.queue("q")
        counts = Counter(q.put(n).node for n in range(20))
        assert {*counts.values()} == {10}
        q.put_many(range(20, 40_000))
    stored = [site.node.queue("q").info().ready for site in sites]
    assert sum(stored) == 40_000 and min(stored) > 10_000


def test_of_many_the_receipt_counts_all_and_names_a_node_only_if_it_was_one(sites: list[Site]) -> None:
    with client_of(sites) as mq:
        receipt = mq.queue("q").put_many(range(10_000))
        assert (receipt.count, receipt.first_seq, receipt.last_seq, receipt.node) == (10_000, 1, 10_000, sites[0].id)
    with client_of(sites, spread=True) as mq:
        receipt = mq.queue("q").put_many("x" * 100 for _ in range(10_000))
        assert (receipt.count, receipt.first_seq, receipt.last_seq, receipt.node) == (10_000, 0, 0, "")


def test_a_node_that_comes_up_later_takes_part_by_itself(sites: list[Site]) -> None:
    a, b = sites
    a.cut_off()
    with zmqkit.connect(a.endpoint, b.endpoint, spread=True) as mq:
        q = mq.queue("q")
        assert {q.put(n).node for n in range(4)} == {b.id}
        a.join()
        all_up(mq)
        assert {q.put(n).node for n in range(4)} == {a.id, b.id}


def test_what_is_put_while_no_node_is_up_goes_to_the_first_that_comes(sites: list[Site]) -> None:
    for site in sites:
        site.cut_off()
    with zmqkit.connect(*[site.endpoint for site in sites], lazy=True) as mq:
        future = mq.queue("q").put_soon(1)
        with pytest.raises(zmqkit.NotSent):
            mq.queue("q").put(2, timeout=0.01)
        sites[1].join()
        assert future.result(SOON).node == sites[1].id
    assert sites[1].bodies("q") == [1]


# -- doubt ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spread", [False, True])
def test_a_put_in_doubt_stays_with_its_node_and_is_stored_once(tmp_path: Path, spread: bool) -> None:
    """The confirm is lost, the node is killed, others take over; when it is back it says that it has the message."""
    with broker(tmp_path) as a, zmqkit.Node("tcp://127.0.0.1:0") as b:
        proxy = MutableProxy(a.endpoint)
        with zmqkit.connect(proxy.endpoint, b.endpoint, spread=spread) as mq:
            all_up(mq)
            q, session = mq.queue("q"), mq._nodes.sessions[0]
            while (first := q.put("warm")).node != session.node:
                pass
            proxy.muted = True
            futures = []
            while not session.flying:  # spread: until it is its turn
                futures.append(q.put_soon("doubt"))
                eventually(lambda: session.flying or futures[-1].done())
            with zmqkit.connect(a.endpoint) as there:
                eventually(lambda: there.queue("q").info().ready == 2)
            a.kill()
            proxy.cut()
            eventually(lambda: not session.is_up)
            others = [q.put(n) for n in range(5)]
            assert {receipt.node for receipt in others} == {b._nodes.sessions[0].node}
            assert not futures[-1].done()
            proxy.muted = False
            a.start()
            receipt = futures[-1].result(SOON)
            assert (receipt.node, receipt.seq) == (first.node, 2)
            mq.flush(SOON)
        with zmqkit.connect(a.endpoint) as there:
            assert [peeked.body for peeked in there.queue("q").peek()] == ["warm", "doubt"]
        assert [peeked.body for peeked in b.queue("q").peek() if isinstance(peeked.body, int)] == [0, 1, 2, 3, 4]
        proxy.close()


def test_whoever_waits_for_a_put_in_doubt_is_told_so(sites: list[Site]) -> None:
    a, b = sites
    with client_of(sites) as mq:
        q = mq.queue("q")
        q.put(1)
        thaw = freeze(a.node)  # type: ignore[arg-type]
        future = q.put_soon(2)
        eventually(future.running)
        a.cut_off()
        up(mq, a, False)
        with pytest.raises(zmqkit.Timeout) as raised:
            future.wait_or_withdraw(0.01, mq._nodes.why)
        assert raised.value.maybe_executed and q.put(3).node == b.id
        with pytest.raises(zmqkit.Timeout):
            mq.flush(0.05)  # it is still under way
        thaw()
        a.join()
        mq.flush(SOON)
        assert future.result(SOON).node == a.id
    assert a.bodies("q") == [1, 2] and b.bodies("q") == [3]


def test_a_put_in_doubt_at_one_node_holds_up_no_other_batch(sites: list[Site]) -> None:
    a, b = sites
    with client_of(sites, spread=True) as mq:
        q = mq.queue("q")
        thaw = freeze(a.node)  # type: ignore[arg-type]
        try:
            futures = [q.put_soon(n) for n in range(2)]
            done = [eventually(lambda: next((f for f in futures if f.done()), None))]
            assert done[0].result().node == b.id
        finally:
            thaw()
        assert {future.result(SOON).node for future in futures} <= {a.id, b.id}


# -- a node that stops ------------------------------------------------------------------------------------------------------------


def test_what_a_stopping_node_refuses_goes_to_another_one_and_nothing_twice(sites: list[Site]) -> None:
    a, b = sites
    with client_of(sites) as mq:
        q = mq.queue("q")
        assert q.put("before").node == a.id
        refuse(a, True)
        assert q.put_many(range(10_000)).node == b.id
        assert q.put("after").node == b.id
    assert a.bodies("q") == ["before"] and b.bodies("q") == [*range(10_000)]


def test_what_a_stopping_node_refuses_waits_for_it_where_there_is_no_other(sites: list[Site]) -> None:
    a, b = sites
    b.cut_off()
    with zmqkit.connect(a.endpoint, b.endpoint) as mq:
        q = mq.queue("q")
        refuse(a, True)
        future = q.put_soon(1)
        eventually(lambda: mq._nodes.sessions[0].postponed)
        b.join()
        assert future.result(SOON).node == b.id
        refuse(a, False)
        a.proxy.cut()  # as its end would
        up(mq, a)
        eventually(lambda: not mq._nodes.sessions[0].postponed)
        assert q.put(2).node == a.id


def test_a_node_that_is_closed_under_load_takes_nothing_with_it(sites: list[Site]) -> None:
    a, b = sites
    futures: list[zmqkit.PutFuture] = []
    stop = threading.Event()
    mq = zmqkit.connect(*[site.endpoint for site in sites])
    try:
        all_up(mq)
        q = mq.queue("q")

        def put() -> None:
            while not stop.is_set():
                futures.append(q.put_soon(len(futures)))

        putter = threading.Thread(target=put)
        putter.start()
        eventually(lambda: futures and any(future.done() for future in futures[:1]))
        a.node.close()
        eventually(lambda: b.node.queue("q").info().ready > 1000)
        stop.set()
        putter.join(SOON)
        last = futures[-1].result(SOON)
        at_b = [future.result(0).seq for future in futures if future.done() and future.result(0).node == b.id]
        assert last.node == b.id and sorted(at_b) == [*range(1, b.node.queue("q").info().ready + 1)]
        assert all(future.running() for future in futures if not future.done())  # A may have those, and nobody else has
    finally:
        stop.set()
        mq._close(0.0)


# -- asyncio ------------------------------------------------------------------------------------------------------------------------


def test_asyncio_puts_to_several_nodes(sites: list[Site]) -> None:
    a, b = sites

    async def main() -> list[Any]:
        async with zmqkit.aio.connect(*[site.endpoint for site in sites]) as mq:
            all_up(mq._twin)
            q = mq.queue("q")
            first = (await q.put(1)).node
            a.cut_off()
            up(mq._twin, a, False)
            second = (await q.put(2)).node
            many = await q.put_many(range(100))
            await mq.flush()
            return [first, second, many.node, many.count]

    assert asyncio.run(main()) == [a.id, b.id, b.id, 100]
