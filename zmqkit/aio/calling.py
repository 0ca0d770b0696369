"""Calls from a loop: each is a future of that loop, settled by batches; and the parts of streamed answers."""

from __future__ import annotations

import asyncio
from functools import partial
from types import TracebackType
from typing import Any, Generic, TypeVar

from zmqkit.aio.bell import Bell
from zmqkit.codec import packer
from zmqkit.errors import RemoteError
from zmqkit.handles.answers import Load, MakeError, converted
from zmqkit.handles.calling import Calls, CallTicket, Sender
from zmqkit.handles.streaming import NOTHING, Streamed

T = TypeVar("T")


class LoopTicket(CallTicket):
    """A batch of calls whose waiters are futures of one loop."""

    __slots__ = ("_bell",)

    def __init__(self, bell: Bell, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._bell = bell

    def settle(self, offset: int, values: list[Any]) -> None:
        self._bell.tell(_settle, self.waiters[offset : offset + len(values)], values, self.lane.load)

    def fail(self, offset: int, count: int, error: MakeError) -> None:
        self._bell.tell(_fail, self.waiters[offset : offset + count], error)


def _settle(futures: list[asyncio.Future[Any]], values: list[Any], load: Load) -> None:
    for future, value in zip(futures, values, strict=True):
        if future.done():
            continue
        if load is None:
            future.set_result(value)
            continue
        try:
            future.set_result(converted(load, value))
        except RemoteError as error:
            future.set_exception(error)


def _fail(futures: list[asyncio.Future[Any]], error: MakeError) -> None:
    for future in futures:
        if not future.done():
            future.set_exception(error())


class Answer(asyncio.Future[Any]):
    """A call under way: await it for its answer. Cancelling it (or who awaits it) reaches the worker."""

    __slots__ = ("place", "ticket")
    ticket: CallTicket
    place: int

    def cancel(self, msg: Any = None) -> bool:
        if not super().cancel(msg):
            return False
        self.ticket.calls.cancel(self)
        return True


def sender_of(calls: Calls) -> Sender:
    """That of the running loop."""
    bell = Bell.of(calls.nodes)
    if bell.sender is None:
        bell.sender = Sender(calls, partial(LoopTicket, bell), packer())
    return bell.sender


class Stream(Streamed, Generic[T]):
    """`async for part in mq.stream(…)`; `async with` it, to end it where the loop is left."""

    def __aiter__(self) -> Stream[T]:
        return self

    async def __anext__(self) -> T:
        """Cancelled, it has taken nothing."""
        while True:
            try:
                part = self._parts.take()
            except StopIteration:
                raise StopAsyncIteration from None
            if part is not NOTHING:
                return part  # type: ignore[no-any-return]
            await Bell.of(self._parts.calls.nodes).wait(self._parts, None)

    async def aclose(self) -> None:
        self.close()

    async def __aenter__(self) -> Stream[T]:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()
