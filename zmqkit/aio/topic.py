"""A topic by name, for asyncio: what may wait is awaited; the rest is as for threads."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from types import TracebackType
from typing import Any, Generic, TypeVar

from zmqkit.aio.bell import Bell
from zmqkit.aio.consumer import HOG_SECONDS
from zmqkit.aio.putting import Confirm, Lane
from zmqkit.codec import unencodable
from zmqkit.errors import Closed
from zmqkit.handles import topic
from zmqkit.handles.admin import TopicInfo, informing, telling
from zmqkit.handles.durations import Duration, patience
from zmqkit.handles.feed import Event
from zmqkit.handles.names import queue_name
from zmqkit.handles.nodes import Nodes
from zmqkit.handles.outcome import BatchReceipt, Receipt
from zmqkit.handles.subscribing import Subscribing, following
from zmqkit.handles.topic import ASK_SECONDS, Pairs, Start, Update, deletion, update_packer
from zmqkit.reactor import now

T = TypeVar("T")


class Topic(Generic[T]):
    """Made by `aio.Client.topic(name)` or by `.aio` of a topic's handle for threads."""

    def __init__(self, twin: topic.Topic[T]) -> None:
        self._twin = twin
        self._pack = update_packer()
        self.name = twin.name

    def __repr__(self) -> str:
        return f"<aio.Topic {self.name!r}>"

    @property
    def _nodes(self) -> Nodes:
        return self._twin._nodes

    # -- publishing -----------------------------------------------------------------------------------------------------

    async def publish(self, key: str, value: T, ttl: Duration | None = None, timeout: Duration | None = 5.0) -> Receipt:
        """The key holds this value from now on (for `ttl` seconds); returns when the node has it as durably as the receipt says.

        Raises Timeout (`maybe_executed` tells whether it may still count), DiskFull, MessageTooLarge, Unencodable.
        Cancelled, the update is withdrawn if it has not left; if it has, it may count.
        """
        limit = patience(timeout)
        return await self.publish_soon(key, value, ttl).within(limit, self._nodes)

    def publish_soon(self, key: str, value: T, ttl: Duration | None = None, timeout: Duration | None = None) -> Confirm:
        """The same in the background: a future of this loop. `flush` waits for all.

        It never waits here. What finds no room stands in line, for at most `timeout` seconds (then NotSent).
        """
        return self._put(self._twin._update(key, value, ttl), timeout)

    async def publish_many(self, pairs: Iterable[tuple[str, T]], ttl: Duration | None = None,
                           timeout: Duration | None = 5.0) -> BatchReceipt:  # fmt: skip
        """All, in order, under one receipt. Takes any iterable of (key, value), lazily. `timeout` is for any progress, not for all.

        An error has `confirmed`: so many of the first count; some behind them may. Cancelled, what has not left is withdrawn.
        """
        limit, updates = patience(timeout), Pairs(self._twin._dump, ttl)
        await self._lane.drained(limit)
        return await Bell.of(self._nodes).drive(self._twin._producer.put_many(pairs, updates, limit))

    async def delete(self, key: str, timeout: Duration | None = 5.0) -> Receipt:
        """The key holds nothing from now on."""
        limit = patience(timeout)
        return await self._put(deletion(key), None).within(limit, self._nodes)

    def _put(self, update: Update, timeout: Duration | None) -> Confirm:
        limit = patience(timeout)
        self._nodes.admit()
        try:
            message = self._pack(update)
        except Exception as error:
            raise unencodable(update, error) from None
        return self._lane.put(message, None, limit)

    @property
    def _lane(self) -> Lane:
        return Lane.of(self._nodes, self._twin._marked, self._twin._producer)

    # -- the topic itself -----------------------------------------------------------------------------------------------

    async def info(self, timeout: Duration | None = ASK_SECONDS) -> TopicInfo:
        return await Bell.of(self._nodes).drive(informing(self._nodes, "topic_info", {"topic": self.name}, TopicInfo, timeout))

    async def bind(self, prefix: str, queue: str, timeout: Duration | None = ASK_SECONDS) -> None:
        """From now on each update under this prefix is also a message of that queue. More at the twin for threads."""
        await self._ask("topic_bind", timeout, prefix=prefix, queue=queue_name(queue))

    async def unbind(self, prefix: str, queue: str, timeout: Duration | None = ASK_SECONDS) -> None:
        """No more. Messages that are there stay."""
        await self._ask("topic_unbind", timeout, prefix=prefix, queue=queue_name(queue))

    async def remove(self, timeout: Duration | None = ASK_SECONDS) -> None:
        """Remove the topic with its state, history, names, bindings and policy. Who follows it sees every key deleted, behind a gap."""
        await self._ask("topic_delete", timeout)

    async def _ask(self, verb: str, timeout: Duration | None, **arguments: Any) -> None:
        await Bell.of(self._nodes).drive(telling(self._nodes, verb, {"topic": self.name, **arguments}, timeout))

    # -- subscribing ----------------------------------------------------------------------------------------------------

    def subscribe(self, *prefixes: str, start: Start = "snapshot", name: str = "") -> Subscription[T]:
        """Follow the keys under these prefixes; none: all keys. Options as for threads."""
        nodes = self._nodes
        return Subscription(nodes, following(nodes, self.name, prefixes, start, name), self._twin._load)


class Subscription(Subscribing[T], Generic[T]):
    """Events for `async for`, and the state that they add up to. `close` it, or leave its `async with`."""

    _rested = 0.0  # when the event loop last had its turn

    async def wait_ready(self, timeout: Duration | None = 5.0) -> bool:
        """Is the state complete, within `timeout` seconds?"""
        return await Bell.of(self._nodes).drive(self._readying(patience(timeout)))

    async def get(self, timeout: Duration | None = 1.0) -> Event | None:
        """The next event, or None if there is none within `timeout` seconds (0: now), or it is closed. Cancelled, it has taken nothing.

        Raises ValueError for a value that is not of the topic's type; the next call goes on behind it.
        """
        self._nodes.admit()
        return await Bell.of(self._nodes).drive(self._getting(patience(timeout)))

    def __aiter__(self) -> Subscription[T]:
        return self

    async def __anext__(self) -> Event:
        """Until `stop` or `close`. Cancelled, it has taken nothing."""
        if now() > self._rested + HOG_SECONDS:
            await asyncio.sleep(0)
            self._rested = now()
        if self._feed.ended:
            raise StopAsyncIteration
        try:
            event = self._feed.take() or await self.get(None)
        except Closed:
            if not self._feed.ended:
                raise
            event = None  # its client was closed just now
        if event is None:
            raise StopAsyncIteration
        return event

    async def close(self) -> None:
        """Follow no more; a loop over it ends. The state stays as it is."""
        self.stop()

    async def __aenter__(self) -> Subscription[T]:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()
