"""What the tests of asyncio share: a node, queues of their own, and waiting for what is to come."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from handle_world import SOON

import zmqkit

QUICK = zmqkit.QueuePolicy(backoff=zmqkit.Backoff(0.02, 0.05), max_attempts=3)
EXAMPLE = Path(__file__).parents[1] / "examples" / "asyncio_worker.py"
NOWHERE = "tcp://127.0.0.1:9"  # nobody listens there
_numbers = count()


def new_name() -> str:
    """A queue nobody has used."""
    return f"q{next(_numbers)}"


def on_loop(test: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    @functools.wraps(test)
    def run(*arguments: Any, **named: Any) -> None:
        asyncio.run(asyncio.wait_for(test(*arguments, **named), 4 * SOON))

    return run


@pytest.fixture(scope="module")
def node() -> Iterator[zmqkit.Node]:
    with zmqkit.Node("tcp://127.0.0.1:0") as node:
        yield node


@asynccontextmanager
async def fresh_queue(node: zmqkit.Node, policy: zmqkit.QueuePolicy = QUICK) -> AsyncIterator[zmqkit.aio.Queue[Any]]:
    name = new_name()
    async with zmqkit.aio.connect(node.endpoint) as mq:
        await mq.declare(name, policy)
        yield mq.queue(name)


async def eventually(question: Callable[[], Awaitable[Any]]) -> Any:
    async with asyncio.timeout(SOON):
        while not (answer := await question()):
            await asyncio.sleep(0.005)
        return answer


async def held(q: zmqkit.aio.Queue[Any]) -> tuple[int, int]:
    info = await q.info()
    return info.ready + info.delayed, info.leased


async def becomes(q: zmqkit.aio.Queue[Any], ready: int, leased: int) -> None:
    async def so() -> bool:
        return await held(q) == (ready, leased)

    await eventually(so)


async def got(q: zmqkit.aio.Queue[Any]) -> zmqkit.aio.Delivery[Any]:
    d = await q.get(timeout=SOON)
    assert d is not None
    return d


async def resting(task: asyncio.Task[Any]) -> None:
    """Let a task run up to its first wait."""
    for _ in range(3):
        await asyncio.sleep(0)
    assert not task.done()
