"""A client of several nodes looks, declares, serves and publishes: at all that are up, and each number is its own node's."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cli_world import fails, succeeds
from several_world import SOON, Site, all_up, client_of, eventually, several, up

import zmqkit


@pytest.fixture
def sites() -> Iterator[list[Site]]:
    with several() as sites:
        yield sites


@pytest.fixture
def mq(sites: list[Site]) -> Iterator[zmqkit.Client]:
    with client_of(sites) as mq:
        yield mq


# -- queues -----------------------------------------------------------------------------------------------------------------------


def test_a_queue_at_several_nodes_is_told_as_one(sites: list[Site], mq: zmqkit.Client) -> None:
    a, b = sites
    a.put("q", 1, 2, 3)
    b.put("q", 4, 5)
    b.put("only-b", 6)
    b.node.queue("q").pause()
    info = mq.queue("q").info()
    assert (info.ready, info.paused, info.oldest_age > 0) == (5, True, True)
    assert info.bytes == sum(site.node.queue("q").info().bytes for site in sites)
    assert [(info.name, info.ready) for info in mq.queues()] == [("only-b", 1), ("q", 5)]
    peeked = mq.queue("q").peek()
    assert [(row.node, row.seq, row.body) for row in peeked] == [(a.id, n, n) for n in (1, 2, 3)] + [(b.id, 1, 4), (b.id, 2, 5)]
    assert [row.body for row in mq.queue("q").peek(4)] == [1, 2, 3, 4]


def test_what_changes_a_queue_changes_it_everywhere(sites: list[Site], mq: zmqkit.Client) -> None:
    q = mq.queue("q")
    for site in sites:
        site.put("q", 1, 2)
    q.pause()
    assert [site.node.queue("q").info().paused for site in sites] == [True, True]
    q.resume()
    assert not q.info().paused
    assert q.purge() == 4
    q.delete()
    assert mq.queues() == []


def test_dead_letters_of_all_nodes_are_listed_redriven_and_dropped(sites: list[Site], mq: zmqkit.Client) -> None:
    q = mq.queue("q")
    for site in sites:
        site.put("q", site.id)
        d = site.node.queue("q").get(timeout=SOON)
        assert d is not None
        d.reject("no good")
        eventually(lambda: site.node.queue("q").info().dead == 1)  # noqa: B023
    assert [(letter.node, letter.body, letter.seq) for letter in q.dead.list()] == [(site.id, site.id, 1) for site in sites]
    assert q.dead.redrive() == 2 and q.info().ready == 2
    for site in sites:
        d = site.node.queue("q").get(timeout=SOON)
        assert d is not None
        d.reject("no good")
    eventually(lambda: q.info().dead == 2)
    assert q.dead.drop() == 2 and q.info().dead == 0


def test_numbers_need_one_node(mq: zmqkit.Client) -> None:
    q = mq.queue("q")
    for use in (
        lambda: q.peek(seqs=[1]), lambda: q.peek(after=1), lambda: q.purge([1]), lambda: q.dead.list(seqs=[1]),
        lambda: q.dead.redrive([1]), lambda: q.dead.drop([1]), lambda: asyncio.run(mq.aio.queue("q").dead.drop([1])),  # type: ignore[arg-type]
    ):  # fmt: skip
        with pytest.raises(zmqkit.Error, match="connect to that node alone"):
            use()  # type: ignore[no-untyped-call]


def test_a_node_that_is_down_is_passed_over_and_none_at_all_is_told(sites: list[Site], mq: zmqkit.Client) -> None:
    a, b = sites
    a.put("q", 1)
    b.put("q", 2)
    a.cut_off()
    up(mq, a, False)
    assert mq.queue("q").info(timeout=SOON).ready == 1 and [info.ready for info in mq.queues()] == [1]
    b.cut_off()
    up(mq, b, False)
    with pytest.raises(zmqkit.Timeout, match=r"refused|disconnect|closed|handshake"):
        mq.queue("q").info(timeout=0.05)


def test_a_question_to_a_node_whose_link_ends_waits_no_longer(sites: list[Site], mq: zmqkit.Client) -> None:
    a, b = sites
    b.put("q", 1)
    session = mq._nodes.sessions[0]
    session.machine.asks.sends = lambda: iter(())  # type: ignore[method-assign]  # it is never asked
    timer = threading.Timer(0.1, a.cut_off)
    timer.start()
    assert mq.queue("q").info(timeout=SOON).ready == 1


def test_a_policy_is_told_to_all_and_to_who_comes_up_later(sites: list[Site], mq: zmqkit.Client) -> None:
    a, b = sites
    b.cut_off()
    up(mq, b, False)
    policy = zmqkit.QueuePolicy(max_attempts=3)
    assert mq.declare("q", policy).max_attempts == 3
    mq.declare("t", zmqkit.TopicPolicy(max_messages=7))
    mq.declare("gone", policy)
    mq.queue("gone").delete()
    b.join()
    for site in sites:
        eventually(lambda: [info.policy.max_attempts for info in site.node.queues()] == [3])  # noqa: B023
        eventually(lambda: [info.policy.max_messages for info in site.node.topics()] == [7])  # noqa: B023
    a.node.declare("q", zmqkit.QueuePolicy(max_attempts=4))
    a.proxy.cut()
    all_up(mq)
    mq.queues()
    assert a.node.queue("q").info().policy.max_attempts == 4  # a node that knows it is not told again


def test_asyncio_asks_several_nodes(sites: list[Site]) -> None:
    for site in sites:
        site.put("q", 1, 2)

    async def main() -> None:
        async with zmqkit.aio.connect(*[site.endpoint for site in sites]) as mq:
            all_up(mq._twin)
            q = mq.queue("q")
            await mq.declare("q", zmqkit.QueuePolicy(max_attempts=5))
            assert (await q.info()).ready == 4 and [info.name for info in await mq.queues()] == ["q"]
            assert len(await q.peek()) == 4 and await q.dead.list() == []
            await q.pause()
            await q.resume()
            assert await q.purge() == 4
            await q.delete()

    asyncio.run(main())


# -- services -----------------------------------------------------------------------------------------------------------------------


def test_a_service_is_offered_at_every_node_and_calls_find_it_at_any(sites: list[Site], mq: zmqkit.Client) -> None:
    with mq.service("s", lambda body: body + 1):
        serving = mq.serve(2, block=False)
        for site in sites:
            assert site.node.call("s", 1, timeout=SOON) == 2
        with zmqkit.connect(*[site.node.endpoint for site in sites], spread=True) as caller:
            all_up(caller)
            assert [caller.call("s", n, timeout=SOON) for n in range(20)] == [*range(1, 21)]
        serving.stop()
        assert serving.wait(SOON)


def test_waiting_calls_of_both_nodes_are_answered_by_the_same_handlers_in_turn(sites: list[Site], mq: zmqkit.Client) -> None:
    futures = [site.node.call_soon("s", f"{site.id} {n}", timeout=SOON) for n in range(50) for site in sites]
    order: list[str] = []
    with mq.service("s", lambda body: order.append(body.split()[0])):
        serving = mq.serve(1, block=False, credit=4)
        for future in futures:
            future.result(SOON)
        serving.stop()
        assert serving.wait(SOON)
    assert len({*order[:60]}) == 2 and len(order) == 100


def test_a_call_is_not_given_to_a_node_without_a_worker_while_another_has_one(sites: list[Site], mq: zmqkit.Client) -> None:
    with zmqkit.connect(sites[1].node.endpoint) as worker, worker.service("s", lambda body: body):
        serving = worker.serve(2, block=False)
        eventually(lambda: "s" in sites[1].node._core.services)
        assert [mq.call("s", n, timeout=SOON, retries=0) for n in range(5)] == [*range(5)]
        serving.stop()
        assert serving.wait(SOON)


def test_asyncio_serves_at_every_node(sites: list[Site]) -> None:
    async def main() -> None:
        async with zmqkit.aio.connect(*[site.endpoint for site in sites]) as mq:
            all_up(mq._twin)

            @mq.service("s")
            async def s(body: Any) -> Any:
                return body * 2

            serving = await mq.serve(10, block=False)
            for site in sites:
                assert await site.node.aio.call("s", 2, timeout=SOON) == 4
            assert await mq.call("s", 3, timeout=SOON) == 6
            serving.stop()
            await serving.wait()

    asyncio.run(main())


# -- topics -------------------------------------------------------------------------------------------------------------------------


def test_updates_go_to_the_first_node_that_is_up_and_are_followed_at_all(sites: list[Site], mq: zmqkit.Client) -> None:
    a, b = sites
    t = mq.topic("t")
    with t.subscribe() as sub:
        assert sub.wait_ready(SOON)
        assert t.publish("k", 1).node == a.id
        eventually(lambda: sub.state == {"k": 1})
        a.cut_off()
        up(mq, a, False)
        assert t.publish("k", 2).node == b.id
        eventually(lambda: sub.state == {"k": 2})
        a.join()
        all_up(mq)
    b.node.topic("only-b").publish("k", 1)
    info = t.info()
    assert (info.messages, info.keys, info.seq, info.floor, info.epoch) == (2, 2, 0, 0, 0)
    assert [(info.name, info.messages) for info in mq.topics()] == [("only-b", 1), ("t", 2)]
    t.bind("k", queue="q")
    assert t.info().bindings == {"q": ["k"]} and all(site.node.topic("t").info().bindings for site in sites)
    t.remove()
    assert [info.name for info in mq.topics()] == ["only-b"]


def test_with_spread_a_topic_is_followed_and_not_published(sites: list[Site]) -> None:
    with client_of(sites, spread=True) as mq:
        t = mq.topic("t")
        for use in (lambda: t.publish("k", 1), lambda: t.publish_many([("k", 1)]), lambda: asyncio.run(t.aio.publish("k", 1))):  # type: ignore[arg-type]
            with pytest.raises(zmqkit.Error, match="publish on your own Node"):
                use()
        with t.subscribe() as sub:
            assert sub.wait_ready(SOON)
            sites[1].node.topic("t").publish("k", 1)
            eventually(lambda: sub.state == {"k": 1})


# -- from a shell, and from many servers -----------------------------------------------------------------------------------------------


def test_a_shell_may_name_several_nodes(sites: list[Site]) -> None:
    a, b = sites
    both = f"{a.node.endpoint},{b.node.endpoint}"
    b.put("q", "there")
    assert succeeds("put", "q", '"here"', "--connect", both) == ["confirmed 1"]
    assert a.bodies("q") == ["here"]
    assert sorted(succeeds("get", "q", "--connect", both)) == ['"here"', '"there"']
    assert succeeds("queue", "ls", "-o", "jsonl", ZMQKIT_ENDPOINT=both)[0].startswith('{"name": "q", "ready": 0')
    assert "no address" in fails(1, "put", "q", "1", "--connect", f"{a.node.endpoint},nowhere")


SERVER = """
import sys, zmqkit
with zmqkit.Node("tcp://127.0.0.1:0", journal=sys.argv[1]) as node:
    node.queue("q").put(int(sys.argv[2]))
    print(node.endpoint, flush=True)
    sys.stdin.read()
"""


def test_servers_of_one_program_share_a_journal_pattern_and_a_client_drains_all(tmp_path: Path) -> None:
    """As the processes of a web server do: each hosts its own queue, workers take from all."""
    command = [sys.executable, "-c", SERVER, str(tmp_path / "{n}")]
    servers = [subprocess.Popen([*command, str(n)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for n in range(3)]
    try:
        endpoints = [server.stdout.readline().strip() for server in servers if server.stdout]
        with zmqkit.connect(*endpoints) as mq:
            bodies = set()
            for d in mq.queue("q").consume():
                with d:
                    bodies.add(d.body)
                if len(bodies) == 3:
                    break
        assert bodies == {0, 1, 2} and sorted(path.name for path in tmp_path.iterdir()) == ["0", "1", "2"]
    finally:
        for server in servers:
            server.communicate()
