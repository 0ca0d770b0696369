"""The twins for asyncio: connecting, closing, many loops on one link, and the example."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from aio_world import EXAMPLE, NOWHERE, eventually, got, new_name, node as node, on_loop, resting
from handle_world import SOON, freeze, in_thread

import zmqkit

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
        future = mq.queue(new_name()).put_soon(1)
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
        q = mq.queue(new_name(), type=Email)
        await q.aio.put(Email("ada"))
        d = q.get(timeout=SOON)
        assert d is not None and d.body == Email("ada") and not hasattr(d, "__aexit__")
        d.ack(wait=True)
        assert (await mq.aio.queue(q.name).info()).ready == 0 and mq.aio._nodes is mq._nodes
        assert node.aio.endpoint == node.endpoint and await node.aio.queue(q.name).get(timeout=0) is None


def test_two_loops_in_two_threads_share_one_client(node: zmqkit.Node) -> None:
    bodies: list[int] = []
    with zmqkit.connect(node.endpoint) as mq:
        name = new_name()
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
        q = mq.queue(new_name())
        let_go = freeze(mq)

        async def leave() -> None:
            q.aio.put_soon(1)

        asyncio.run(leave())
        let_go()
        mq.flush()
        assert q.info().ready == 1

        async def again() -> int:
            return (await q.aio.put(2)).seq

        assert asyncio.run(again()) == 2 and len(mq._nodes.loops) == 1


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
