"""A queue by name, for asyncio: what may wait is awaited; the rest is as for threads."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, Generic, TypeVar

from zmqkit.aio.bell import Bell
from zmqkit.aio.consumer import BatchConsumer, Consumer, Work
from zmqkit.aio.delivery import Batch, Delivery, Got, GotBatch
from zmqkit.aio.putting import Confirm, Lane
from zmqkit.codec import packer, unencodable
from zmqkit.handles import admin, queue
from zmqkit.handles.admin import DeadLetter, Peeked, QueueInfo, informing, peeking, purging, telling
from zmqkit.handles.consumer import OnStale
from zmqkit.handles.durations import Duration, patience
from zmqkit.handles.getting import get, get_many
from zmqkit.handles.hand import Credit
from zmqkit.handles.outcome import BatchReceipt, Receipt
from zmqkit.handles.producer import Headers
from zmqkit.handles.queue import ASK_SECONDS

T = TypeVar("T")
List = list  # where a method is called so


class Queue(Generic[T]):
    """Made by `aio.Client.queue(name)` or by `.aio` of a queue's handle for threads."""

    def __init__(self, twin: queue.Queue[T]) -> None:
        self._twin, self._nodes = twin, twin._nodes
        self._pack = packer()
        self.name, self.dead = twin.name, DeadLetters(twin.dead)

    def __repr__(self) -> str:
        return f"<aio.Queue {self.name!r}>"

    # -- putting --------------------------------------------------------------------------------------------------------

    async def put(self, body: T, headers: Headers | None = None, timeout: Duration | None = 5.0) -> Receipt:
        """Store one message; returns when the node has it as durably as the receipt says.

        Raises Timeout (`maybe_executed` tells whether it may still be stored), QueueFull, DiskFull, MessageTooLarge, Unencodable.
        Cancelled, the message is withdrawn if it has not left; if it has, it may be stored.
        """
        limit = patience(timeout)
        return await self.put_soon(body, headers).within(limit, self._nodes)

    def put_soon(self, body: T, headers: Headers | None = None, timeout: Duration | None = None) -> Confirm:
        """Store one message in the background: a future of this loop. `flush` waits for all.

        It never waits here. What finds no room stands in line, for at most `timeout` seconds (then NotSent): whoever makes
        messages faster than they are stored should await some, or use `put_many`.
        """
        limit = patience(timeout)
        self._nodes.admit()
        try:
            message = self._pack(self._twin._dump(body) if self._twin._dump else body)
        except Exception as error:
            raise unencodable(body, error) from None
        return self._lane.put(message, headers, limit)

    async def put_many(self, bodies: Iterable[T], timeout: Duration | None = 5.0) -> BatchReceipt:
        """Store all, in order, under one receipt. Takes any iterable, lazily; many are under way at a time.

        `timeout` is for any progress, not for all. An error has `confirmed`: so many of the first messages are stored; some
        behind them may be. Cancelled, what has not left is withdrawn.
        """
        limit = patience(timeout)
        await self._lane.drained(limit)
        return await self._bell.drive(self._twin._producer.put_many(bodies, self._twin._dump, limit))

    @property
    def _bell(self) -> Bell:
        return Bell.of(self._nodes)

    @property
    def _lane(self) -> Lane:
        return Lane.of(self._nodes, self.name, self._twin._producer)

    # -- getting --------------------------------------------------------------------------------------------------------

    async def get(self, timeout: Duration | None = 1.0) -> Delivery[T] | None:
        """The next message, or None if there is none within `timeout` seconds (0: now). Cancelled, it has taken nothing."""
        twin = self._twin
        return await self._bell.drive(get(twin._inbox, Got, patience(timeout), twin._load))

    async def get_many(self, n: int, timeout: Duration | None = 1.0) -> Batch[T]:
        """Up to `n` messages: what is there, or what comes first within `timeout`. An empty batch if nothing is."""
        if type(n) is not int or n < 1:
            raise ValueError(f"n={n!r}: give a whole number of at least 1")
        return GotBatch(*await self._bell.drive(get_many(self._twin._inbox, n, patience(timeout), self._twin._load)))

    def consume(self, credit: Credit = "auto", lease: Duration | None = None, idle: Duration | None = None,
                on_stale: OnStale | None = None) -> Consumer[T]:  # fmt: skip
        """`async for` messages one by one, until stopped, or until nothing came for `idle` seconds. Options as for threads."""
        return Consumer(self._twin._inbox, self._twin._load, credit, lease, idle, on_stale)

    def consume_many(self, n: int = 512, credit: Credit = "auto", lease: Duration | None = None, idle: Duration | None = None,
                     on_stale: OnStale | None = None) -> BatchConsumer[T]:  # fmt: skip
        """`async for` batches of up to `n` messages, of what has arrived."""
        return BatchConsumer(n, self._twin._inbox, self._twin._load, credit, lease, idle, on_stale)

    async def work(self, handler: Callable[[Delivery[T]], Awaitable[Any]], threads: int = 8, credit: Credit = "auto",
                   lease: Duration | None = None, idle: Duration | None = None, block: bool = True) -> Work[T]:  # fmt: skip
        """Await `handler(d)` for each message, in `threads` tasks. Success acks; a failure is logged and nacked.

        Ends by SIGTERM or SIGINT (in the main thread), `idle`, or the `stop()` of the returned handle (`block=False`): what runs
        is finished, the rest goes back.
        """
        work = Work(self.consume(credit, lease, idle), handler, threads)
        if block:
            await work.run_until_stopped()
        return work

    # -- looking --------------------------------------------------------------------------------------------------------

    async def info(self, timeout: Duration | None = ASK_SECONDS) -> QueueInfo:
        return await self._bell.drive(informing(self._nodes, "info", {"queue": self.name}, QueueInfo, timeout))

    async def peek(self, n: int = 10, state: str = "ready", seqs: Sequence[int] | None = None, after: int = 0,
                   timeout: Duration | None = ASK_SECONDS) -> List[Peeked]:  # fmt: skip
        """Up to `n` messages that are "ready", "leased" or "delayed", lowest number first, without taking them.

        Of all, or only of `seqs`; and only such with a number above `after`: the last one's `seq` gives the next page.
        """
        return await self._bell.drive(peeking(self._nodes, self.name, self._twin._load, n, state, seqs, after, timeout))

    async def purge(self, seqs: Sequence[int] | None = None, timeout: Duration | None = ASK_SECONDS) -> int:
        """Throw away all messages that wait, or those of `seqs`; what is leased or dead stays. Returns how many."""
        return await self._bell.drive(purging(self._nodes, self.name, seqs, timeout))

    async def pause(self, timeout: Duration | None = ASK_SECONDS) -> None:
        """Give out nothing more, to nobody, until `resume`; puts go on. Survives a restart of the node."""
        await self._ask("pause", timeout)

    async def resume(self, timeout: Duration | None = ASK_SECONDS) -> None:
        await self._ask("resume", timeout)

    async def delete(self, timeout: Duration | None = ASK_SECONDS) -> None:
        """Remove the queue with its messages, dead letters and policy. The next use makes a new one."""
        await self._ask("delete", timeout)

    async def _ask(self, verb: str, timeout: Duration | None) -> None:
        await self._bell.drive(telling(self._nodes, verb, {"queue": self.name}, timeout))


class DeadLetters:
    """The dead letters of one queue: `q.dead`."""

    def __init__(self, twin: admin.DeadLetters) -> None:
        self._twin = twin

    async def list(self, n: int = 1000, seqs: Sequence[int] | None = None, timeout: Duration | None = ASK_SECONDS) -> List[DeadLetter]:
        """The first `n`, or those of `seqs` that are there."""
        return await Bell.of(self._twin._nodes).drive(self._twin.listing(n, seqs, timeout))

    async def redrive(self, seqs: Sequence[int] | None = None, timeout: Duration | None = ASK_SECONDS) -> int:
        """Give all, or those, another life with all their attempts. Returns how many."""
        return await Bell.of(self._twin._nodes).drive(self._twin.changing("redrive", seqs, timeout))

    async def drop(self, seqs: Sequence[int] | None = None, timeout: Duration | None = ASK_SECONDS) -> int:
        """Throw away all, or those. Returns how many."""
        return await Bell.of(self._twin._nodes).drive(self._twin.changing("drop", seqs, timeout))
