"""A client of several nodes: which one a call goes to, what goes to the next, and what must not."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from typing import Any

import pytest
from aio_world import NOWHERE
from call_world import Gate, await_known, gate, let_in_flight, new_name, patient  # noqa: F401
from handle_world import SOON, eventually
from proxy import Proxy, proxy_to

import zmqkit
from zmqkit.wire import Code


class Site:
    """A node behind a proxy, so that it can be cut off; its service answers with the site's name."""

    def __init__(self, name: str, proxy: Proxy, node: zmqkit.Node) -> None:
        self.name, self.proxy, self.node, self.endpoint = name, proxy, node, proxy.endpoint
        self._target = proxy._target
        self.bodies: list[Any] = []

    def serve(self, service: str, function: Any = None) -> zmqkit.Service:
        made = self.node.service(service, function or self._answer)
        await_known(self.node, service)
        return made

    def _answer(self, body: Any) -> str:
        self.bodies.append(body)
        return self.name

    def cut_off(self) -> None:
        self.proxy._target = ("127.0.0.1", 9)  # nobody listens there
        self.proxy.cut()

    def join(self) -> None:
        self.proxy._target = self._target

    def refuse(self, code: Code) -> None:
        machine = self.node._reactor._host.machine  # type: ignore[union-attr]
        machine.calls._refusal = lambda *call: (code, "by the test")  # type: ignore[method-assign]


@pytest.fixture
def sites() -> Iterator[list[Site]]:
    with (
        zmqkit.Node("tcp://127.0.0.1:0") as a, zmqkit.Node("tcp://127.0.0.1:0") as b,
        proxy_to(a.endpoint) as to_a, proxy_to(b.endpoint) as to_b,
    ):  # fmt: skip
        pools = [node.serve(block=False) for node in (a, b)]
        yield [Site("a", to_a, a), Site("b", to_b, b)]
        for pool in pools:
            pool.stop()


@pytest.fixture
def mq(sites: list[Site]) -> Iterator[zmqkit.Client]:
    with zmqkit.connect(*[site.endpoint for site in sites]) as mq:
        all_up(mq)
        yield mq


def all_up(mq: zmqkit.Client) -> None:
    eventually(lambda: all(session.is_up for session in mq._nodes.sessions))


def down(mq: zmqkit.Client, place: int) -> None:
    eventually(lambda: not mq._nodes.sessions[place].is_up)


# -- which node -----------------------------------------------------------------------------------------------------------------


def test_calls_go_to_the_first_that_is_up(sites: list[Site], mq: zmqkit.Client) -> None:
    for site in sites:
        site.serve("who")
    assert [mq.call("who") for _ in range(3)] == ["a"] * 3
    sites[0].cut_off()
    down(mq, 0)
    assert [mq.call("who", retries=0) for _ in range(3)] == ["b"] * 3
    sites[0].join()
    all_up(mq)
    assert mq.call("who") == "a"
    assert mq.endpoint == sites[0].endpoint and mq.endpoints == [site.endpoint for site in sites]


def test_one_node_is_enough_to_begin(sites: list[Site]) -> None:
    sites[1].serve("who")
    with zmqkit.connect(NOWHERE, sites[1].endpoint) as mq:
        assert mq.call("who") == "b"


def test_a_lazy_client_begins_with_its_first_call(sites: list[Site]) -> None:
    sites[1].serve("who")
    with zmqkit.connect(NOWHERE, sites[1].endpoint, lazy=True) as mq:
        assert not mq._nodes.started and mq.call("who", timeout=SOON) == "b"


def test_no_node_is_told_with_the_reason_of_each() -> None:
    with pytest.raises(zmqkit.Unreachable) as raised:
        zmqkit.connect(NOWHERE, "tcp://127.0.0.1:10", timeout=0.3)
    assert NOWHERE in str(raised.value) and "tcp://127.0.0.1:10" in str(raised.value) and "refused" in str(raised.value)
    with pytest.raises(zmqkit.Unreachable, match="no address"):
        zmqkit.connect(NOWHERE, "nowhere")


def test_spread_gives_each_its_turn(sites: list[Site]) -> None:
    for site in sites:
        site.serve("who")
    with zmqkit.connect(*[site.endpoint for site in sites], spread=True) as mq:
        all_up(mq)
        answers = [mq.call("who") for _ in range(20)]
    assert answers.count("a") == answers.count("b") == 10


def test_spread_prefers_who_has_less_to_do(sites: list[Site], gate: Gate) -> None:  # noqa: F811
    names = [new_name(), "who"]
    for site in sites:
        site.serve(names[0], gate)
        site.serve(names[1])
    with zmqkit.connect(*[site.endpoint for site in sites], spread=True) as mq:
        all_up(mq)
        busy = mq.call_soon(names[0], 1)
        gate.await_begin()
        answers = [mq.call("who") for _ in range(10)]
        gate.open.set()
        assert busy.result(SOON) == 1
    assert len({*answers}) == 1


# -- what goes to the next one ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("retries", [0, 3])
def test_where_nobody_serves_the_next_node_is_asked(sites: list[Site], mq: zmqkit.Client, retries: int) -> None:
    sites[1].serve("only-b")
    begin = time.monotonic()
    assert mq.call("only-b", timeout=30.0, retries=retries) == "b"
    assert time.monotonic() - begin < SOON


def test_nobody_anywhere_is_told_at_once_without_retries(mq: zmqkit.Client) -> None:
    begin = time.monotonic()
    with pytest.raises(zmqkit.NoWorker):
        mq.call("nothing", timeout=30.0, retries=0)
    assert time.monotonic() - begin < SOON


def test_with_retries_the_nodes_are_asked_again_until_somebody_serves(sites: list[Site], mq: zmqkit.Client) -> None:
    future = mq.call_soon("late", timeout=30.0)
    let_in_flight(mq)
    sites[1].serve("late")
    assert future.result(SOON) == "b"


def test_nobody_anywhere_is_told_before_the_deadline_with_retries(mq: zmqkit.Client) -> None:
    begin = time.monotonic()
    with pytest.raises(zmqkit.NoWorker):
        mq.call("nothing", timeout=0.5)
    assert time.monotonic() - begin < SOON


@pytest.mark.parametrize("code", [Code.QUOTA, Code.STOPPING])
@pytest.mark.parametrize("retries", [0, 1])
def test_what_a_node_refuses_goes_to_the_next(sites: list[Site], mq: zmqkit.Client, code: Code, retries: int) -> None:
    for site in sites:
        site.serve("who")
    sites[0].refuse(code)
    assert mq.call("who", retries=retries) == "b"
    sites[1].refuse(code)
    with pytest.raises(zmqkit.QuotaExceeded if code is Code.QUOTA else zmqkit.Timeout) as raised:
        mq.call("who", retries=retries, timeout=1.0)
    assert not getattr(raised.value, "maybe_executed", False)


def test_what_a_closing_node_gives_back_is_executed_elsewhere_and_nothing_twice(sites: list[Site], gate: Gate) -> None:  # noqa: F811
    sites[0].serve("who", gate)
    sites[1].serve("who")
    with zmqkit.connect(*[site.node.endpoint for site in sites]) as mq:
        all_up(mq)
        futures = [mq.call_soon("who", n, timeout=3.0) for n in range(20)]
        eventually(lambda: len(gate.bodies) == 4)
        sites[0].node.close()
        outcomes = [future.exception(SOON) or future.result() for future in futures]
    # Its last words may not be heard: then what waited there is in doubt, too.
    doubtful = [outcome for outcome in outcomes if outcome != "b"]
    assert all(isinstance(outcome, zmqkit.Timeout) and outcome.maybe_executed for outcome in doubtful)
    assert "b" in outcomes and len(doubtful) >= 4
    assert not set(gate.bodies) & set(sites[1].bodies) and len(set(sites[1].bodies)) == len(sites[1].bodies)


def test_what_has_not_left_goes_to_the_node_that_comes_up(sites: list[Site]) -> None:
    sites[1].serve("who")
    for site in sites:
        site.cut_off()
    with zmqkit.connect(*[site.endpoint for site in sites], lazy=True) as mq:
        futures = [mq.call_soon("who", n, timeout=30.0) for n in range(10)]
        eventually(lambda: "no answer yet" not in [session.reason for session in mq._nodes.sessions])
        sites[1].join()
        assert [future.result(SOON) for future in futures] == ["b"] * 10
    assert sorted(sites[1].bodies) == list(range(10))


def test_a_keyed_call_goes_on_when_its_node_is_cut_off(sites: list[Site], mq: zmqkit.Client, gate: Gate) -> None:  # noqa: F811
    sites[0].serve("who", gate)
    sites[1].serve("who")
    future = mq.call_soon("who", 1, timeout=30.0, idempotency_key="order-1")
    gate.await_begin()
    sites[0].cut_off()
    assert future.result(SOON) == "b"


def test_a_keyed_call_without_retries_stays_in_doubt(sites: list[Site], mq: zmqkit.Client, gate: Gate) -> None:  # noqa: F811
    sites[0].serve("who", gate)
    sites[1].serve("who")
    future = mq.call_soon("who", 1, timeout=30.0, idempotency_key="order-1", retries=0)
    gate.await_begin()
    sites[0].cut_off()
    with pytest.raises(zmqkit.Timeout) as raised:
        future.result(SOON)
    assert raised.value.maybe_executed and not sites[1].bodies


def test_a_call_without_a_key_that_may_run_waits_for_its_own_node(sites: list[Site], mq: zmqkit.Client, gate: Gate) -> None:  # noqa: F811
    sites[0].serve("who", gate)
    sites[1].serve("who")
    answered, doubtful = mq.call_soon("who", 1, timeout=30.0), mq.call_soon("who", 2, timeout=1.0)
    eventually(lambda: len(gate.bodies) == 2)
    sites[0].cut_off()
    down(mq, 0)
    assert mq.call("who", 3) == "b"
    with pytest.raises(zmqkit.Timeout) as raised:
        doubtful.result(SOON)
    assert raised.value.maybe_executed
    gate.open.set()
    sites[0].join()
    assert answered.result(SOON) == 1 and sites[1].bodies == [3]


def test_an_exception_of_a_handler_is_an_answer(sites: list[Site], mq: zmqkit.Client) -> None:
    sites[0].serve("who", lambda body: 1 // body)
    sites[1].serve("who")
    with pytest.raises(zmqkit.RemoteError, match="ZeroDivisionError"):
        mq.call("who", 0)
    assert not sites[1].bodies


def test_cancelling_reaches_the_node_that_a_call_has_moved_to(sites: list[Site], mq: zmqkit.Client, gate: Gate) -> None:  # noqa: F811
    sites[1].serve("only-b", gate)
    future = mq.call_soon("only-b", 1)
    call = gate.await_begin()
    assert future.cancel()
    eventually(lambda: call.cancelled)


def test_a_call_cancelled_between_two_nodes_is_not_made_again(sites: list[Site], mq: zmqkit.Client) -> None:
    future = mq.call_soon("late", 1, timeout=30.0)
    beside = mq.call_soon("late", 2, timeout=30.0)
    eventually(lambda: mq._calls._later)
    assert future.cancel()
    sites[0].serve("late")
    assert beside.result(SOON) == "a" and sites[0].bodies == [2]


def test_a_stream_begins_where_somebody_streams(sites: list[Site], mq: zmqkit.Client) -> None:
    sites[1].serve("count", lambda body: iter(range(body)))
    assert list(mq.stream("count", 100)) == list(range(100))


# -- the end, and asyncio ---------------------------------------------------------------------------------------------------------


def test_close_says_goodbye_to_all(sites: list[Site], gate: Gate) -> None:  # noqa: F811
    sites[0].serve("who", gate)
    with zmqkit.connect(*[site.endpoint for site in sites]) as mq:
        all_up(mq)
        mq.flush()
        future = mq.call_soon("who", 1)
        gate.await_begin()
    assert isinstance(future.exception(SOON), zmqkit.Closed)
    assert all(session.left.happened for session in mq._nodes.sessions)
    with pytest.raises(zmqkit.Closed):
        mq.call("who")


def test_asyncio_has_several_nodes_too(sites: list[Site]) -> None:
    async def main() -> list[Any]:
        endpoints = [site.endpoint for site in sites]
        async with zmqkit.aio.connect(*endpoints) as mq:
            assert mq.endpoint == endpoints[0] and mq.endpoints == endpoints
            all_up(mq._twin)
            first = await mq.call("who", 1)
            sites[0].cut_off()
            keyed = asyncio.gather(*[mq.call("who", n, idempotency_key=f"k{n}") for n in range(20)])
            either = {*(await keyed)} <= {"a", "b"}
            down(mq._twin, 0)
            only_b = await mq.call("only-b", retries=0)
            return [first, only_b, either, [part async for part in mq.stream("count", 3)]]

    for site in sites:
        site.serve("who")
    sites[1].serve("only-b")
    sites[1].serve("count", lambda body: iter(range(body)))
    assert asyncio.run(main()) == ["a", "b", True, [0, 1, 2]]
    with pytest.raises(zmqkit.Unreachable, match="refused"):
        asyncio.run(unreachable())


async def unreachable() -> None:
    await zmqkit.aio.connect(NOWHERE, "tcp://127.0.0.1:10", timeout=0.3)
