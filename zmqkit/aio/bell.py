"""One event loop's end of a client: what the I/O thread has to tell it goes together, with one wake-up a turn."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from zmqkit.handles.calling import Sender
from zmqkit.handles.nodes import Nodes
from zmqkit.handles.waiting import Steps, Waitable

if TYPE_CHECKING:
    from zmqkit.aio.putting import Lane

R = TypeVar("R")
Told = list[tuple[Callable[..., Any], tuple[Any, ...]]]


class Bell:
    """Made at a loop's first use of a client; all but `tell` runs on that loop."""

    def __init__(self, nodes: Nodes, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.lanes: dict[str, Lane] = {}  # of puts, by queue
        self.sender: Sender | None = None  # of calls
        self.reactor = nodes.reactor
        self._told: Told = []  # in this turn of the I/O thread

    @staticmethod
    def of(nodes: Nodes) -> Bell:
        """That of the running loop."""
        loop = asyncio.get_running_loop()
        bell: Bell | None = nodes.loops.get(loop)
        if bell is None:
            for other in [other for other in nodes.loops if other.is_closed()]:
                nodes.loops.pop(other, None)
            bell = nodes.loops[loop] = Bell(nodes, loop)
        return bell

    def tell(self, callback: Callable[..., Any], *arguments: Any) -> None:
        """From any thread: call it on the loop. All that the I/O thread tells in one turn arrives together."""
        if not self.reactor.on_io_thread:
            self._ring([(callback, arguments)])
            return
        if not self._told:
            self.reactor.turn_ends.append(self._end_turn)
        self._told.append((callback, arguments))

    def _end_turn(self) -> None:
        told, self._told = self._told, []
        self._ring(told)

    def _ring(self, told: Told) -> None:
        try:
            self.loop.call_soon_threadsafe(_listen, told)
        except RuntimeError:
            pass  # the loop is closed: nobody waits there any more

    async def wait(self, awaited: Waitable, timeout: float | None) -> bool:
        """Has it happened within `timeout` seconds?"""
        happened = self.loop.create_future()
        listener: Callable[[Any], None] = lambda _: self.tell(_resolve, happened, True)  # noqa: E731
        timer = None if timeout is None else self.loop.call_later(timeout, _resolve, happened, False)
        awaited.listen(listener)
        try:
            return bool(await happened)
        finally:
            awaited.ignore(listener)
            if timer is not None:
                timer.cancel()

    async def drive(self, steps: Steps[R]) -> R:
        """Take the steps in this task."""
        try:
            awaited, timeout = next(steps)
            while True:
                awaited, timeout = steps.send(await self.wait(awaited, timeout))
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]
        finally:
            steps.close()


def _listen(told: Told) -> None:
    for callback, arguments in told:
        callback(*arguments)


def _resolve(future: asyncio.Future[bool], value: bool) -> None:
    if not future.done():
        future.set_result(value)
