"""The processes of `zmqkit bench call`: `python -m zmqkit.cli.bench_call_roles ROLE ENDPOINT CALLS SIZE`.

All but the idle workers use the public API only. A worker prints `ready` (a node its endpoint too) and goes on until it is ended;
a caller's last line is its result as JSON.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import sys
import time
from collections.abc import Callable, Iterator
from itertools import count
from typing import Any

import zmqkit
from zmqkit.cli.bench_load import CLOCK, bodies, percentiles
from zmqkit.cli.bench_raw_call import IN_FLIGHT, WARM_UP_MAX
from zmqkit.machines.link import ClientMachine
from zmqkit.reactor import Reactor, now
from zmqkit.wire import SERVICE_MARK

ECHO, RAN = "echo", "ran"  # answers with what it got; how often that was
IDLE_WORKERS_MAX = 200  # of one process: a context has no more than 1,023 sockets, and three are one link
CONNECT_SECONDS_MAX = 60.0

Result = dict[str, Any]


def ready(*endpoints: str) -> None:
    print("ready", *endpoints, flush=True)


# -- workers ------------------------------------------------------------------------------------------------------------


def services() -> dict[str, Callable[[Any], Any]]:
    numbers = count()

    def echo(body: Any) -> Any:
        next(numbers)
        return body

    return {ECHO: echo, RAN: lambda _: next(numbers)}


def worker(endpoint: str, calls: int, size: int) -> Result:
    """One thread that answers."""
    with zmqkit.connect(endpoint) as mq:
        for name, function in services().items():
            mq.service(name, function)
        serving = mq.serve(threads=1, block=False)
        ready()
        serving.wait()
    return {}


def node(endpoint: str, calls: int, size: int) -> Result:
    """The same in the process of the node itself."""
    with zmqkit.Node("tcp://127.0.0.1:0") as mq:
        for name, function in services().items():
            mq.service(name, function)
        serving = mq.serve(threads=1, block=False)
        ready(mq.endpoint)
        serving.wait()
    return {}


def loop_worker(endpoint: str, calls: int, size: int) -> Result:
    """Tasks of a loop that answer."""
    asyncio.run(_serve(endpoint))
    return {}


async def _serve(endpoint: str) -> None:
    async with zmqkit.aio.connect(endpoint) as mq:
        for name, function in services().items():
            mq.service(name, function)
        serving = await mq.serve(block=False)
        ready()
        await serving.wait()


class IdleWorker:
    """A link with a window into a service, and nothing behind it: it costs its node what any worker without work does."""

    def __init__(self) -> None:
        self.machine = ClientMachine(os.urandom(16), random.random)
        self.machine.consumers.of(SERVICE_MARK + ECHO).fixed = 1

    def pump(self, moment: float) -> None:
        self.machine.tick(moment)

    def handle(self, events: list[Any], moment: float) -> None:
        return

    def closed(self, error: Exception | None) -> None:
        return


def idle_workers(endpoint: str, workers: int, size: int) -> Result:
    """So many, at most `IDLE_WORKERS_MAX`, until this process is ended."""
    made, reactor = [IdleWorker() for _ in range(workers)], Reactor("idle-workers")
    for application in made:
        application.machine.start(now())
        reactor.attach(application, endpoint)
    reactor.start()
    by = time.monotonic() + CONNECT_SECONDS_MAX
    while not all(application.machine.up for application in made):
        assert time.monotonic() < by, "not all workers found the node"
        time.sleep(0.01)
    ready()
    while True:
        time.sleep(3600)


# -- callers ------------------------------------------------------------------------------------------------------------


class Account:
    """What became of some calls. Without an answer they are lost; the worker tells whether it ran more than there were."""

    def __init__(self, ran: int) -> None:
        self._ran = ran
        self.times: list[int] = []
        self.lost = 0
        self._begin = CLOCK()

    def fail(self, error: zmqkit.Error) -> None:
        self.lost += 1
        if self.lost == 1:
            print(f"a call failed: {error}", file=sys.stderr, flush=True)

    def close(self) -> Result:
        return {"first_ns": self._begin, "last_ns": CLOCK(), **percentiles(self.times), "lost": self.lost}

    def doubled(self, ran: int) -> int:
        """Runs that nobody asked for; the question for `ran` counts as one."""
        return max(0, ran - self._ran - 1 - len(self.times) - self.lost)


def lockstep(endpoint: str, calls: int, size: int) -> Result:
    """A call, its answer, the next call."""
    with zmqkit.connect(endpoint) as mq:
        _one_by_one(mq, min(calls, WARM_UP_MAX), size)
        return _one_by_one(mq, calls, size)


def _one_by_one(mq: zmqkit.Client, calls: int, size: int) -> Result:
    call, account = mq.call, Account(mq.call(RAN))
    times = account.times
    for body in bodies(calls, size):
        before = CLOCK()
        try:
            answer = call(ECHO, body)
        except zmqkit.Error as error:
            account.fail(error)
            continue
        times.append(CLOCK() - before)
        assert answer == body, "another call's answer"
    result = account.close()
    return {**result, "duplicated": account.doubled(mq.call(RAN))}


def concurrent(endpoint: str, calls: int, size: int) -> Result:
    """`IN_FLIGHT` tasks that call."""
    return asyncio.run(_concurrent(endpoint, calls, size))


async def _concurrent(endpoint: str, calls: int, size: int) -> Result:
    async with zmqkit.aio.connect(endpoint) as mq:
        await _together(mq, min(calls, WARM_UP_MAX), size)
        return await _together(mq, calls, size)


async def _together(mq: zmqkit.aio.Client, calls: int, size: int) -> Result:
    load, account = bodies(calls, size), Account(await mq.call(RAN))
    await asyncio.gather(*[_in_turn(mq, load, account) for _ in range(IN_FLIGHT)])
    result = account.close()
    return {**result, "duplicated": account.doubled(await mq.call(RAN))}


async def _in_turn(mq: zmqkit.aio.Client, load: Iterator[bytes], account: Account) -> None:
    call, times = mq.call, account.times
    for body in load:
        before = CLOCK()
        try:
            answer = await call(ECHO, body)
        except zmqkit.Error as error:
            account.fail(error)
            continue
        times.append(CLOCK() - before)
        assert answer == body, "another call's answer"


ROLES: dict[str, Callable[[str, int, int], Result]] = {
    role.__name__: role for role in (worker, node, loop_worker, idle_workers, lockstep, concurrent)
}

if __name__ == "__main__":
    print(json.dumps(ROLES[sys.argv[1]](sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))), flush=True)
