"""The set of a client's nodes changes while it runs: nodes come, move, are removed and come back, and others look on."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cli_world import node as broker
from handle_world import freeze
from proxy import proxy_to
from several_world import SOON, Site, add, all_up, client_of, client_of_none, eventually, on_io_thread, several, up

import zmqkit
from zmqkit.handles.session import Session


@pytest.fixture
def sites() -> Iterator[list[Site]]:
    with several() as sites:
        yield sites


def remove(mq: zmqkit.Client, session: Session) -> None:
    on_io_thread(mq, lambda: mq._nodes.remove(session))


# -- none yet ---------------------------------------------------------------------------------------------------------------------


def test_puts_and_calls_wait_for_the_first_node_inside_their_timeouts(sites: list[Site]) -> None:
    with sites[0].node.service("s", lambda body: body):
        serving = sites[0].node.serve(block=False)
        with client_of_none() as mq:
            assert mq.nodes() == [] and mq.endpoint == ""
            with pytest.raises(zmqkit.NotSent, match="no node was found"):
                mq.queue("q").put(1, timeout=0.05)
            with pytest.raises(zmqkit.NotSent, match="no node was found"):
                mq.call("s", 1, timeout=0.05)
            with pytest.raises(zmqkit.Timeout):
                mq.queue("q").info(timeout=0.05)
            put, call = mq.queue("q").put_soon(2), mq.call_soon("s", 3, timeout=SOON)
            add(mq, sites[0])
            assert put.result(SOON).node == sites[0].id and call.result(SOON) == 3
        serving.stop()
        assert serving.wait(SOON)
    assert sites[0].bodies("q") == [2]


def test_connect_waits_for_a_node_up_to_its_timeout(sites: list[Site]) -> None:
    with pytest.raises(zmqkit.Unreachable, match="no node was found"):
        zmqkit.Client([], 0.05, False, True)


def test_connect_knows_of_each_node_whether_it_is_up(sites: list[Site]) -> None:
    """Else who asks all, or gets what is there, would not ask the one that answers a moment later."""
    thaw = freeze(sites[1].node)  # type: ignore[arg-type]
    timer = threading.Timer(0.1, thaw)
    timer.start()
    with zmqkit.connect(*[site.endpoint for site in sites]) as mq:
        assert [info.up for info in mq.nodes()] == [True, True]
    thaw = freeze(sites[1].node)  # type: ignore[arg-type]
    with zmqkit.connect(*[site.endpoint for site in sites]) as mq:  # but waits for no one for ever
        assert [info.up for info in mq.nodes()] == [True, False]
        thaw()


def test_a_client_of_no_node_closes_and_ends_what_waits() -> None:
    mq = zmqkit.Client([], None, True, True)
    future = mq.call_soon("s", 1)
    waiter = threading.Thread(target=lambda: [*mq.queue("q").consume()])
    waiter.start()
    watch = mq.watch()
    put = mq.queue("q").put_soon(1)
    mq._close(0.0)
    assert isinstance(future.exception(SOON), zmqkit.Closed) and isinstance(put.exception(SOON), zmqkit.NotSent)
    assert [*watch] == []
    waiter.join(SOON)
    assert not waiter.is_alive()
    with pytest.raises(zmqkit.Closed):
        mq.queue("q").put(2)


# -- they come, and move -------------------------------------------------------------------------------------------------------------


def test_a_node_that_is_known_is_not_added_twice(sites: list[Site]) -> None:
    with client_of_none() as mq:
        session = add(mq, sites[0])
        assert add(mq, sites[0]) is session
        all_up(mq)
        with proxy_to(sites[0].node.endpoint) as other:
            moved = on_io_thread(mq, lambda: mq._nodes.add(other.endpoint, "", sites[0].id))
            assert moved is session and session.endpoint == other.endpoint and len(mq.nodes()) == 1
            assert session.is_up  # a link that lives is not given up


def test_a_node_that_moved_gets_its_puts_in_doubt_at_the_new_address_once(tmp_path: Path) -> None:
    with broker(tmp_path) as a, proxy_to(a.endpoint) as old, client_of_none() as mq:
        session = on_io_thread(mq, lambda: mq._nodes.add(old.endpoint))
        all_up(mq)
        q = mq.queue("q")
        q.put(1)
        stored = q.put_soon(2)
        stored.result(SOON)
        a.kill()
        old.close()
        eventually(lambda: not session.is_up)
        waits = q.put_soon(3)
        a.endpoint = "tcp://127.0.0.1:0"
        a.start()
        on_io_thread(mq, lambda: mq._nodes.move(session, a.endpoint))
        assert waits.result(SOON).node == stored.result().node
        assert [peeked.body for peeked in q.peek()] == [1, 2, 3] and mq.nodes()[0].endpoint == a.endpoint


def test_services_and_policies_are_at_a_node_that_comes_later(sites: list[Site]) -> None:
    with client_of_none() as mq:
        add(mq, sites[0])
        all_up(mq)
        with mq.service("early", lambda body: f"early {body}"):
            mq.declare("q", zmqkit.QueuePolicy(max_attempts=3))
            serving = mq.serve(2, block=False)
            add(mq, sites[1])
            late = mq.service("late", lambda body: f"late {body}")
            for site in sites:
                assert site.node.call("early", 1, timeout=SOON) == "early 1"
                assert site.node.call("late", 1, timeout=SOON) == "late 1"
                eventually(lambda: [info.policy.max_attempts for info in site.node.queues()] == [3])  # noqa: B023
            late.close()
            for site in sites:
                eventually(lambda: _serves_no("late", site))  # noqa: B023
        serving.stop()
        assert serving.wait(SOON)


def _serves_no(service: str, site: Site) -> bool:
    try:
        site.node.call(service, retries=0)
    except zmqkit.NoWorker:
        return True
    return False


def test_a_topic_is_followed_at_a_node_that_comes_later_and_left_with_one_that_goes(sites: list[Site]) -> None:
    a, b = sites
    a.node.topic("t").publish("a", 1)
    b.node.topic("t").publish("b", 2)
    with client_of_none() as mq, mq.topic("t").subscribe() as sub:
        first = add(mq, a)
        assert sub.wait_ready(SOON) and sub.state == {"a": 1}
        sub.add("x")
        add(mq, b)
        eventually(lambda: sub.state == {"a": 1, "b": 2})
        remove(mq, first)
        eventually(lambda: first.ended)
        b.node.topic("t").publish("b", 3)
        eventually(lambda: sub.state == {"a": 1, "b": 3})


# -- they are removed --------------------------------------------------------------------------------------------------------------------


def test_a_removed_node_gets_nothing_new_and_answers_what_it_was_given(sites: list[Site]) -> None:
    a, b = sites
    with client_of_none(spread=False) as mq:
        session = add(mq, a)
        add(mq, b)
        all_up(mq)
        q = mq.queue("q")
        thaw = freeze(a.node)  # type: ignore[arg-type]
        under_way = q.put_soon(1)
        eventually(under_way.running)
        remove(mq, session)
        assert [info.node for info in mq.nodes()] == [b.id] and q.put(2).node == b.id
        assert not under_way.done()
        thaw()
        assert under_way.result(SOON).node == a.id
        eventually(lambda: session.ended)
    assert a.bodies("q") == [1] and b.bodies("q") == [2]


def test_a_put_that_a_removed_node_never_answers_ends_in_doubt(sites: list[Site], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zmqkit.handles.nodes.LEAVE_SECONDS", 0.2)
    a, b = sites
    with client_of_none(spread=False) as mq:
        session = add(mq, a)
        add(mq, b)
        all_up(mq)
        thaw = freeze(a.node)  # type: ignore[arg-type]
        future = mq.queue("q").put_soon(1)
        call = mq.call_soon("nobody", 1, timeout=30.0)
        eventually(lambda: future.running() and session.calls_open)
        a.cut_off()
        remove(mq, session)
        error = future.exception(SOON)
        assert isinstance(error, zmqkit.Timeout) and error.maybe_executed
        answer = call.exception(SOON)
        assert isinstance(answer, zmqkit.Timeout) and answer.maybe_executed
        eventually(lambda: session.ended)
        assert mq.queue("q").put(2).node == b.id
        thaw()
    assert not [thread for thread in threading.enumerate() if thread.name == "zmqkit-client"]


def test_a_removed_node_that_comes_back_is_the_same_one_and_answers_what_was_in_doubt(sites: list[Site]) -> None:
    a, b = sites
    with client_of_none(spread=False) as mq:
        session = add(mq, a, "first")
        add(mq, b)
        all_up(mq)
        thaw = freeze(a.node)  # type: ignore[arg-type]
        future = mq.queue("q").put_soon(1)
        eventually(future.running)
        a.cut_off()
        up(mq, a, False)
        remove(mq, session)
        thaw()
        with proxy_to(a.node.endpoint) as elsewhere:
            again = on_io_thread(mq, lambda: mq._nodes.add(elsewhere.endpoint, "", a.id))
            assert again is session and future.result(SOON).node == a.id
            assert {(info.name, info.node) for info in mq.nodes()} == {("first", a.id), ("", b.id)}
            assert a.bodies("q") == [1]
            d = mq.queue("q").get(timeout=SOON)
            assert d is not None and d.node == a.id
            d.ack(wait=True)


@pytest.mark.parametrize("removed", [False, True])
def test_another_node_at_the_same_address_gets_no_put_that_was_in_doubt(sites: list[Site], removed: bool) -> None:
    a, b = sites
    with client_of_none(spread=False) as mq:
        session = add(mq, a)
        all_up(mq)
        thaw = freeze(a.node)  # type: ignore[arg-type]
        future = mq.queue("q").put_soon(1)
        eventually(future.running)
        a.proxy._target = b._target
        a.proxy.cut()
        if removed:
            remove(mq, session)
            assert on_io_thread(mq, lambda: mq._nodes.add(a.endpoint, "", b.id)) is not session
        error = future.exception(SOON)
        assert isinstance(error, zmqkit.Timeout) and error.maybe_executed
        assert mq.queue("q").put(2).node == b.id
        thaw()
    assert b.bodies("q") == [2]


def test_the_last_node_may_be_removed_and_another_one_come(sites: list[Site]) -> None:
    a, b = sites
    with client_of_none() as mq:
        session = add(mq, a)
        all_up(mq)
        assert mq.queue("q").put(1).node == a.id
        remove(mq, session)
        eventually(lambda: session.ended)
        future = mq.queue("q").put_soon(2)
        call = mq.call_soon("s", 1, timeout=SOON)
        serving = b.node.serve(block=False)
        with b.node.service("s", lambda body: body):
            add(mq, b)
            assert future.result(SOON).node == b.id and call.result(SOON) == 1
        serving.stop()
        assert serving.wait(SOON)


# -- nodes() and watch() -------------------------------------------------------------------------------------------------------------------


def test_nodes_tells_what_is_known_of_each(sites: list[Site]) -> None:
    with client_of(sites) as mq:
        sites[0].cut_off()
        up(mq, sites[0], False)
        first, second = mq.nodes()
        assert first.endpoint == sites[0].endpoint and not first.up and first.reason and first.node == sites[0].id
        assert second == zmqkit.NodeInfo("", sites[1].endpoint, sites[1].id, True, "")
    with zmqkit.connect(sites[1].node.endpoint) as mq:
        assert [(info.node, info.up) for info in mq.nodes()] == [(sites[1].id, True)]
    assert sites[1].node.nodes() == [zmqkit.NodeInfo(sites[1].node.name, "", sites[1].id, True, "")]  # a Node is its own


def test_watch_tells_who_comes_goes_and_is_cut_off_and_ends_with_the_client(sites: list[Site]) -> None:
    a, b = sites
    with client_of_none() as mq:
        add(mq, a, "a")
        all_up(mq)
        watch = mq.watch()
        events = iter(watch)
        told = lambda: (event := next(events)).kind + " " + event.node.endpoint  # noqa: E731
        assert [told(), told()] == [f"came {a.endpoint}", f"up {a.endpoint}"]
        session = add(mq, b, "b")
        assert [told(), told()] == [f"came {b.endpoint}", f"up {b.endpoint}"]
        b.cut_off()
        assert told() == f"down {b.endpoint}"
        b.join()
        assert told() == f"up {b.endpoint}"
        remove(mq, session)
        event = next(events)
        assert (event.kind, event.node.name, event.node.node) == ("gone", "b", b.id)
        closed = mq.watch()
        closed.close()
        assert [*closed] == []
    assert [*events] == []
    with pytest.raises(zmqkit.Closed):
        mq.watch()


def test_a_watch_that_nobody_takes_from_is_bounded(sites: list[Site]) -> None:
    with client_of_none() as mq:
        watch = mq.watch()

        def flood() -> None:
            for _ in range(700):
                session = mq._nodes.add("tcp://127.0.0.1:9")
                mq._nodes.remove(session)
                session.machine.leave(0.0)

        on_io_thread(mq, flood)
        assert len(watch._events) <= 1000
        eventually(lambda: not mq._nodes.leaving)


def test_asyncio_watches_too(sites: list[Site]) -> None:
    async def main() -> list[Any]:
        async with zmqkit.aio.connect(*[site.endpoint for site in sites]) as mq:
            all_up(mq._twin)
            async with mq.watch() as watch:
                told = [await anext(watch) for _ in range(4)]
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(0.05):
                        await anext(watch)
                sites[0].cut_off()
                told.append(await asyncio.wait_for(anext(watch), SOON))
            assert [event async for event in watch] == []
            assert len(mq.nodes()) == 2
            last = mq.watch()
        return [event.kind for event in told], [event async for event in last]

    kinds, rest = asyncio.run(main())
    assert kinds == ["came", "up", "came", "up", "down"] and {event.kind for event in rest} <= {"came", "up", "down"}


def test_a_list_of_endpoints_may_have_spaces_and_a_comma_too_many(sites: list[Site]) -> None:
    with zmqkit.connect(", ".join(site.endpoint for site in sites) + ",") as mq:
        assert mq.endpoints == [site.endpoint for site in sites]
