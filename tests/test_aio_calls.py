"""Calls and services in asyncio: the same outcomes, and what is a loop's own: cancelling, tasks, several loops."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest
from aio_world import NOWHERE, eventually, node, on_loop, resting  # noqa: F401
from call_world import new_name, patient  # noqa: F401
from handle_world import SOON, cut

import zmqkit
from zmqkit import aio


@dataclass
class Item:
    name: str


class Hold:
    """A coroutine handler that has begun when `begun` is set, and ends when `open` is."""

    def __init__(self) -> None:
        self.begun, self.open = asyncio.Event(), asyncio.Event()
        self.calls: list[zmqkit.Current] = []
        self.ends: list[str] = []
        self.inside = self.most = 0

    async def __call__(self, body: Any) -> Any:
        self.calls.append(zmqkit.current())
        self.inside += 1
        self.most = max(self.most, self.inside)
        self.begun.set()
        try:
            await self.open.wait()
            self.ends.append("finished")
            return body
        except asyncio.CancelledError:
            self.ends.append("cancelled")
            raise
        finally:
            self.inside -= 1


@asynccontextmanager
async def serving(
    node: zmqkit.Node, function: Callable[[Any], Any], threads: int = 1000, type: Any = None  # noqa: F811
) -> AsyncIterator[tuple[aio.Client, str]]:
    """A caller, and the name of what another client serves."""
    name = new_name()
    async with aio.connect(node.endpoint) as worker, aio.connect(node.endpoint) as mq:
        worker.service(name, function, type=type)
        pool = await worker.serve(threads, block=False)
        await so(lambda: (state := worker._session.machine.consumers.get("\0" + name)) is not None and state.stated)
        await worker.queues()  # what was said before is heard before: now the node knows
        yield mq, name
        pool.stop()
        assert await pool.wait(SOON), "a handler does not end"


async def so(question: Callable[[], Any]) -> Any:
    async def ask() -> Any:
        return question()

    return await eventually(ask)


# -- answers ----------------------------------------------------------------------------------------------------------------


@on_loop
async def test_coroutine_functions_and_plain_ones_answer(node: zmqkit.Node) -> None:  # noqa: F811
    async def slowly(body: Any) -> Any:
        await asyncio.sleep(0.001)
        return [body]

    async with serving(node, slowly) as (mq, name):
        assert await mq.call(name, 1) == [1]
    async with serving(node, lambda body: (body,)) as (mq, name):
        assert await mq.call(name, 1) == [1]
    async with serving(node, lambda body: asyncio.ensure_future(slowly(body))) as (mq, name):
        assert await mq.call(name, 1) == [1]


@on_loop
async def test_many_calls_in_flight_are_each_answered_with_their_own(node: zmqkit.Node) -> None:  # noqa: F811
    async with serving(node, lambda body: body * 2) as (mq, name):
        assert await asyncio.gather(*[mq.call(name, n) for n in range(3000)]) == [2 * n for n in range(3000)]


@on_loop
async def test_a_thousand_handlers_wait_at_once_and_no_more_than_were_asked_for(node: zmqkit.Node) -> None:  # noqa: F811
    hold = Hold()
    async with serving(node, hold, threads=300) as (mq, name):
        calls = [mq.call_soon(name, n, timeout=SOON) for n in range(320)]
        await so(lambda: hold.inside == 300)
        await asyncio.sleep(0.05)  # time for one too many to begin
        assert hold.most == 300
        hold.open.set()
        assert await asyncio.gather(*calls) == list(range(320))


@on_loop
async def test_a_handler_that_waits_holds_up_nobody(node: zmqkit.Node) -> None:  # noqa: F811
    hold = Hold()

    async def some_wait(body: Any) -> Any:
        return await hold(body) if body == "wait" else body

    async with serving(node, some_wait) as (mq, name):
        waiting = mq.call_soon(name, "wait")
        await hold.begun.wait()
        assert await asyncio.gather(*[mq.call(name, n) for n in range(100)]) == list(range(100))
        assert not waiting.done()
        hold.open.set()
        assert await waiting == "wait"


@on_loop
async def test_busy_handlers_leave_the_loop_its_turn(node: zmqkit.Node) -> None:  # noqa: F811
    def busy(body: Any) -> None:
        time.sleep(0.002)

    longest = 0.0
    async with serving(node, busy) as (mq, name):
        calls = [mq.call_soon(name, n, timeout=SOON) for n in range(200)]
        while not all(call.done() for call in calls):
            begin = time.monotonic()
            await asyncio.sleep(0)
            longest = max(longest, time.monotonic() - begin)
    assert longest < 0.1  # without turns all of them would take 0.4 s


@on_loop
async def test_types_are_made_at_both_ends(node: zmqkit.Node) -> None:  # noqa: F811
    async with serving(node, lambda item: Item(item.name + "!"), type=Item) as (mq, name):
        assert await mq.call(name, Item("pear"), type=Item) == Item("pear!")
        with pytest.raises(zmqkit.RemoteError, match="Undecodable"):
            await mq.call(name, {"nome": "pera"})
        with pytest.raises(zmqkit.RemoteError, match="Undecodable"):
            await mq.call(name, Item("pear"), type=int)


@on_loop
async def test_the_current_call_is_each_tasks_own(node: zmqkit.Node) -> None:  # noqa: F811
    async def look(body: Any) -> Any:
        await asyncio.sleep(0.001)
        call = zmqkit.current()
        return [call.headers["n"], call.service, await asyncio.create_task(beside())]

    async def beside() -> Any:
        return zmqkit.current().headers["n"]

    async with serving(node, look) as (mq, name):
        answers = await asyncio.gather(*[mq.call(name, headers={"n": n}) for n in range(20)])
    assert answers == [[n, name, n] for n in range(20)]
    with pytest.raises(zmqkit.Error):
        zmqkit.current()


# -- outcomes -----------------------------------------------------------------------------------------------------------------


@on_loop
async def test_outcomes_are_typed(node: zmqkit.Node) -> None:  # noqa: F811
    hold = Hold()

    async def broken(body: Any) -> Any:
        if body == "wait":
            await hold(body)
        raise KeyError(body)

    async with serving(node, broken) as (mq, name):
        with pytest.raises(zmqkit.RemoteError, match="KeyError: 'pear'") as raised:
            await mq.call(name, "pear")
        assert "in broken" in raised.value.traceback
        with pytest.raises(zmqkit.NoWorker):
            await mq.call("nothing", retries=0)
        with pytest.raises(zmqkit.Timeout) as late:
            await mq.call(name, "wait", timeout=0.1)
        assert late.value.maybe_executed
        with pytest.raises(zmqkit.Unencodable):
            await mq.call(name, object())
        with pytest.raises(ValueError, match="service's name"):
            mq.call_soon("")
    async with aio.connect(NOWHERE, lazy=True) as mq:
        with pytest.raises(zmqkit.NotSent):
            await mq.call("price", timeout=0.1)


@on_loop
async def test_an_answer_that_cannot_be_sent_is_told_and_the_task_goes_on(node: zmqkit.Node) -> None:  # noqa: F811
    async with serving(node, lambda body: {"large": b"x" * 1_048_577, "object": object()}.get(body, body), threads=1) as (mq, name):
        for body, kind in (("large", "MessageTooLarge"), ("object", "Unencodable")):
            with pytest.raises(zmqkit.RemoteError, match=kind):
                await mq.call(name, body)
        assert await mq.call(name, "good") == "good"


@on_loop
async def test_a_keyed_call_is_executed_once(node: zmqkit.Node) -> None:  # noqa: F811
    seen: list[Any] = []
    async with serving(node, seen.append) as (mq, name):
        await asyncio.gather(*[mq.call(name, n, idempotency_key="k") for n in range(5)])
    assert len(seen) == 1


@on_loop
async def test_close_ends_what_waits(node: zmqkit.Node) -> None:  # noqa: F811
    hold = Hold()
    async with serving(node, hold) as (_, name):
        async with aio.connect(node.endpoint) as mq:
            call = mq.call_soon(name, 1)
            await hold.begun.wait()
        with pytest.raises(zmqkit.Closed):
            await call
        with pytest.raises(zmqkit.Closed):
            await mq.call(name, 1)
        await so(lambda: hold.ends == ["cancelled"])


# -- cancelling -----------------------------------------------------------------------------------------------------------------


@on_loop
async def test_cancelling_a_task_that_calls_cancels_the_handler(node: zmqkit.Node) -> None:  # noqa: F811
    hold = Hold()
    async with serving(node, hold) as (mq, name):
        task = asyncio.create_task(mq.call(name, 1))
        await hold.begun.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await so(lambda: hold.ends == ["cancelled"])
        assert hold.calls[0].cancelled
        hold.open.set()
        assert await mq.call(name, 2) == 2  # by the same task


@on_loop
async def test_a_timeout_of_asyncio_cancels_the_handler(node: zmqkit.Node) -> None:  # noqa: F811
    hold = Hold()
    async with serving(node, hold) as (mq, name):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await mq.call(name, 1)
        await so(lambda: hold.ends == ["cancelled"])


@on_loop
async def test_cancelling_a_future_reaches_the_handler_and_no_other(node: zmqkit.Node) -> None:  # noqa: F811
    hold = Hold()
    async with serving(node, hold) as (mq, name):
        calls = [mq.call_soon(name, n) for n in range(5)]
        await so(lambda: hold.inside == 5)
        assert calls[3].cancel() and not calls[3].cancel()
        await so(lambda: hold.ends == ["cancelled"])
        hold.open.set()
        assert await asyncio.gather(*calls[:3], calls[4]) == [0, 1, 2, 4]


@on_loop
async def test_a_handler_may_finish_though_it_is_cancelled(node: zmqkit.Node) -> None:  # noqa: F811
    begun, stubborn = asyncio.Event(), list[str]()

    async def handler(body: Any) -> Any:
        assert not asyncio.current_task().cancelling()  # type: ignore[union-attr]
        begun.set()
        try:
            await asyncio.sleep(SOON)
        except asyncio.CancelledError:
            stubborn.append("went on")
        await asyncio.sleep(0.001)
        return body

    async with serving(node, handler, threads=1) as (mq, name):
        call = mq.call_soon(name, 1)
        await begun.wait()
        call.cancel()
        await so(lambda: stubborn)
        begun.clear()
        again = asyncio.create_task(mq.call(name, 2))
        await begun.wait()
        again.cancel()
        await so(lambda: len(stubborn) == 2)


@on_loop
async def test_a_call_cancelled_before_it_left_is_never_executed(node: zmqkit.Node) -> None:  # noqa: F811
    seen: list[Any] = []
    async with serving(node, seen.append) as (mq, name):
        calls = [mq.call_soon(name, n) for n in range(3)]
        calls[1].cancel()  # the I/O thread may have taken it; but not when nothing was awaited in between, in nearly all runs
        await asyncio.gather(calls[0], calls[2])
        assert calls[1].cancelled() and {0, 2} <= set(seen)


@on_loop
async def test_a_lease_that_has_ended_cancels_the_handler(node: zmqkit.Node) -> None:  # noqa: F811
    hold = Hold()
    async with serving(node, hold) as (mq, name):
        with pytest.raises(zmqkit.Timeout):
            await mq.call(name, 1, timeout=0.1)
        await so(lambda: hold.ends == ["cancelled"])


# -- serving ----------------------------------------------------------------------------------------------------------------------


@on_loop
async def test_services_come_and_go_while_serving(node: zmqkit.Node) -> None:  # noqa: F811
    async with aio.connect(node.endpoint) as worker, aio.connect(node.endpoint) as mq:
        pool = await worker.serve(block=False)

        @worker.service("aio-first")
        async def first(body: Any) -> Any:
            return body

        assert await mq.call("aio-first", 1) == 1 and await first(2) == 2
        second = worker.service("aio-second", lambda body: body)
        assert await mq.call("aio-second", 1) == 1 and isinstance(second, zmqkit.Service)
        second.close()

        async def gone() -> bool:
            try:
                await mq.call("aio-second", timeout=SOON, retries=0)
            except zmqkit.NoWorker:
                return True
            return False

        await eventually(gone)
        pool.stop()
        assert await pool.wait(SOON) and pool.ended


@on_loop
async def test_stop_finishes_what_runs(node: zmqkit.Node) -> None:  # noqa: F811
    hold = Hold()
    async with aio.connect(node.endpoint) as worker, aio.connect(node.endpoint) as mq:
        name = new_name()
        worker.service(name, hold)
        blocked = asyncio.create_task(worker.serve())
        call = mq.call_soon(name, 1)
        await hold.begun.wait()
        worker.stop()
        await resting(blocked)
        hold.open.set()
        assert await call == 1
        await asyncio.wait_for(blocked, SOON)
    assert hold.ends == ["finished"]


@on_loop
async def test_a_serve_with_nothing_to_do_stops(node: zmqkit.Node) -> None:  # noqa: F811
    async with aio.connect(node.endpoint) as worker:
        pool = await worker.serve(block=False)
        assert not await pool.wait(0.01)
        pool.stop()
        assert await pool.wait(SOON)


@on_loop
async def test_cancelling_serve_cancels_what_runs(node: zmqkit.Node) -> None:  # noqa: F811
    hold = Hold()
    async with aio.connect(node.endpoint) as worker, aio.connect(node.endpoint) as mq:
        name = new_name()
        worker.service(name, hold)
        blocked = asyncio.create_task(worker.serve())
        call = mq.call_soon(name, 1)
        await hold.begun.wait()
        blocked.cancel()
        with pytest.raises(asyncio.CancelledError):
            await blocked
        assert hold.ends == ["cancelled"]
        with pytest.raises(zmqkit.RemoteError, match="Cancelled"):
            await call


@on_loop
async def test_sigterm_ends_serve_when_what_runs_is_finished(node: zmqkit.Node) -> None:  # noqa: F811
    hold = Hold()
    async with aio.connect(node.endpoint) as worker, aio.connect(node.endpoint) as mq:
        name = new_name()
        worker.service(name, hold)
        blocked = asyncio.create_task(worker.serve())
        call = mq.call_soon(name, 1)
        await hold.begun.wait()
        os.kill(os.getpid(), signal.SIGTERM)
        await so(lambda: not worker._nodes.crews["asyncio"].free)
        hold.open.set()
        assert await call == 1
        await asyncio.wait_for(blocked, SOON)
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_a_second_signal_cancels_what_runs(node: zmqkit.Node) -> None:  # noqa: F811
    ends: list[str] = []

    async def main() -> None:
        async with aio.connect(node.endpoint) as worker, aio.connect(node.endpoint) as mq:
            name, hold = new_name(), Hold()
            hold.ends = ends
            worker.service(name, hold)

            async def interrupt() -> None:
                await hold.begun.wait()
                crew = worker._nodes.crews["asyncio"]
                os.kill(os.getpid(), signal.SIGINT)
                await so(lambda: not crew._pools)
                os.kill(os.getpid(), signal.SIGINT)

            interrupting = asyncio.create_task(interrupt())
            mq.call_soon(name, 1).add_done_callback(lambda call: call.exception())
            await worker.serve()
            await interrupting

    with pytest.raises(KeyboardInterrupt):
        asyncio.run(main())
    assert ends == ["cancelled"]


@on_loop
async def test_what_a_client_serves_is_served_for_threads_or_for_asyncio(node: zmqkit.Node) -> None:  # noqa: F811
    with node.service("both", lambda body: body), pytest.raises(zmqkit.Error, match="serves 'both' already"):
        node.aio.service("both", lambda body: body)
    for wrong in ({"threads": 0}, {"credit": "much"}):
        with pytest.raises(ValueError):
            await node.aio.serve(block=False, **wrong)  # type: ignore[arg-type]


@on_loop
async def test_two_pools_share_the_services_of_a_client(node: zmqkit.Node) -> None:  # noqa: F811
    hold = Hold()
    async with aio.connect(node.endpoint) as worker, aio.connect(node.endpoint) as mq:
        name = new_name()
        worker.service(name, hold)
        pools = [await worker.serve(2, block=False) for _ in range(2)]
        calls = [mq.call_soon(name, n) for n in range(6)]
        await so(lambda: hold.inside == 4)
        pools[0].stop()
        hold.open.set()
        assert await asyncio.gather(*calls) == list(range(6)) and hold.most == 4
        pools[1].stop()
        assert await pools[0].wait(SOON) and await pools[1].wait(SOON)


# -- streams ----------------------------------------------------------------------------------------------------------------------


async def tail(count: int) -> AsyncIterator[int]:
    for n in range(count):
        if n % 7 == 0:
            await asyncio.sleep(0)
        yield n


def plain_tail(count: int) -> Iterator[int]:
    yield from range(count)


@pytest.mark.parametrize("function", [tail, plain_tail])
def test_parts_come_in_order_and_completely(node: zmqkit.Node, function: Any) -> None:  # noqa: F811
    @on_loop
    async def test() -> None:
        async with serving(node, function) as (mq, name):
            assert [part async for part in mq.stream(name, 500)] == list(range(500))
            assert [part async for part in mq.stream(name, 0)] == []
            assert [part async for part in mq.stream(name, 3, window=1)] == [0, 1, 2]
            with pytest.raises(zmqkit.RemoteError, match=r"use stream\(\)"):
                await mq.call(name, 3)
            with pytest.raises(zmqkit.NoWorker):
                await anext(mq.stream("nothing"))

    test()


@on_loop
async def test_the_worker_is_no_further_ahead_than_the_window(node: zmqkit.Node) -> None:  # noqa: F811
    made = 0

    async def endless(body: Any) -> AsyncIterator[int]:
        nonlocal made
        while True:
            made += 1
            yield made

    async with serving(node, endless) as (mq, name), mq.stream(name, window=8) as stream:
        assert [await anext(stream) for _ in range(3)] == [1, 2, 3]
        await so(lambda: made == 9)
        await asyncio.sleep(0.02)  # time for one part too many to be made
        assert made == 9


@pytest.mark.parametrize("way", ["async with", "close", "drop"])
def test_leaving_a_stream_ends_the_generator(node: zmqkit.Node, way: str) -> None:  # noqa: F811
    @on_loop
    async def test() -> None:
        ended = asyncio.Event()

        async def endless(body: Any) -> AsyncIterator[int]:
            try:
                while True:
                    yield 1
            finally:
                ended.set()

        async with serving(node, endless) as (mq, name):
            stream = mq.stream(name)
            if way == "async with":
                async with stream:
                    await anext(stream)
            else:
                await anext(stream)
            if way == "close":
                stream.close()
            del stream
            async with asyncio.timeout(SOON):
                await ended.wait()

    test()


@on_loop
async def test_a_generator_that_waits_is_cancelled_with_its_stream(node: zmqkit.Node) -> None:  # noqa: F811
    hold = Hold()

    async def slow(body: Any) -> AsyncIterator[int]:
        yield 1
        yield await hold(2)

    async with serving(node, slow) as (mq, name):
        async with mq.stream(name) as stream:
            assert await anext(stream) == 1
            await hold.begun.wait()
        await so(lambda: hold.ends == ["cancelled"])


@on_loop
async def test_a_cancelled_step_of_a_stream_has_taken_nothing(node: zmqkit.Node) -> None:  # noqa: F811
    hold = Hold()

    async def slow(body: Any) -> AsyncIterator[int]:
        yield 1
        yield await hold(2)
        yield 3

    async with serving(node, slow) as (mq, name):
        stream = mq.stream(name, type=int)
        assert await anext(stream) == 1
        step = asyncio.ensure_future(anext(stream))
        await hold.begun.wait()
        step.cancel()
        hold.open.set()
        assert [part async for part in stream] == [2, 3]


@on_loop
async def test_an_error_comes_behind_the_parts_before_it(node: zmqkit.Node) -> None:  # noqa: F811
    async def broken(body: Any) -> AsyncIterator[int]:
        yield 1
        raise ValueError("no second")

    found = []
    async with serving(node, broken) as (mq, name):
        with pytest.raises(zmqkit.RemoteError, match="no second"):
            async for part in mq.stream(name):
                found.append(part)
    assert found == [1]


# -- links and loops --------------------------------------------------------------------------------------------------------------


@on_loop
async def test_calls_survive_their_links(node: zmqkit.Node) -> None:  # noqa: F811
    hold = Hold()
    async with serving(node, hold) as (mq, name):
        calls = [mq.call_soon(name, n, timeout=SOON) for n in range(10)]
        await so(lambda: hold.inside == 10)
        cut(mq._peer)  # type: ignore[arg-type]
        hold.open.set()
        assert await asyncio.gather(*calls) == list(range(10)) and hold.most == 10


def test_loops_and_threads_share_one_client(node: zmqkit.Node) -> None:  # noqa: F811
    name, answers = new_name(), dict[int, list[Any]]()
    with zmqkit.connect(node.endpoint) as worker, zmqkit.connect(node.endpoint) as mq:
        worker.service(name, lambda body: body)
        pool = worker.serve(block=False)

        async def many(first: int) -> list[Any]:
            return await asyncio.gather(*[mq.aio.call(name, n) for n in range(first, first + 100)])

        def loop(first: int) -> None:
            answers[first] = asyncio.run(many(first))

        threads = [threading.Thread(target=loop, args=(first,)) for first in (0, 100, 200)]
        for thread in threads:
            thread.start()
        assert [mq.call(name, n) for n in range(50)] == list(range(50))
        for thread in threads:
            thread.join(SOON)
        pool.stop()
    assert answers == {first: list(range(first, first + 100)) for first in (0, 100, 200)}


def test_a_loop_that_is_gone_holds_up_nobody(node: zmqkit.Node) -> None:  # noqa: F811
    name, gone = new_name(), threading.Event()
    with zmqkit.connect(node.endpoint) as worker, zmqkit.connect(node.endpoint) as mq:
        worker.service(name, lambda body: gone.wait(SOON) if body == "wait" else body)
        pool = worker.serve(block=False)

        async def leave() -> None:
            mq.aio.call_soon(name, "wait")
            assert await mq.aio.call(name, 1) == 1

        asyncio.run(leave())
        gone.set()
        assert mq.call(name, 2) == 2 and asyncio.run(mq.aio.call(name, 3)) == 3
        pool.stop()
