"""Puts from a loop: each is a future of that loop, settled by batches; what finds no room waits in line, never in the way."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Generator
from typing import Any

from zmqkit.aio.bell import Bell
from zmqkit.errors import Closed, Error, NotSent, Timeout
from zmqkit.handles.nodes import Nodes
from zmqkit.handles.outcome import Receipt, Ticket
from zmqkit.handles.producer import Headers, Producer


class Confirm(asyncio.Future[Receipt]):
    """A put under way: await it for its receipt.

    Cancelling it (or who awaits it) withdraws the message if it has not left; if it has, it may be stored.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, message: bytes, headers: Headers | None) -> None:
        super().__init__(loop=loop)
        self.message, self.headers = message, headers
        self.ticket: Ticket | None = None  # None: it waits in line
        self.place = 0  # in its ticket

    def cancel(self, msg: Any = None) -> bool:
        if not super().cancel(msg):
            return False
        self._withdraw()
        return True

    def _withdraw(self) -> bool:
        return self.ticket is None or self.ticket.withdraw(self.place)

    async def within(self, timeout: float | None, nodes: Nodes) -> Receipt:
        """Its receipt. After `timeout` seconds it expires."""
        if timeout is None:
            return await self
        timer = self.get_loop().call_later(timeout, self.expire, timeout, nodes)
        try:
            return await self
        finally:
            timer.cancel()

    def expire(self, timeout: float, nodes: Nodes) -> None:
        """Its time is over: withdrawn if that is still possible, else in doubt."""
        if self.done():
            return
        if self._withdraw():
            self.set_exception(NotSent(f"the put was withdrawn: {nodes.why()} within {timeout:g} s"))
        elif self.ticket is None or not self.ticket.done:  # else the outcome is on its way to this loop
            text = f"no confirm within {timeout:g} s: {nodes.why()}; the message may still be stored"
            self.set_exception(Timeout(text, maybe_executed=True))

    def leave_line(self, error: Error) -> None:
        if not self.done() and self.ticket is None:
            self.set_exception(error)

    def settle(self, ticket: Ticket) -> None:
        if self.done():
            return
        if ticket.failure is not None:
            self.set_exception(ticket.failure())
        else:
            self.set_result(ticket.receipt(self.place))

    # `flush` and `close` raise the first failure that nobody was told of, so we notice who is told.

    def _saw(self) -> None:
        if self.ticket is not None:
            self.ticket.seen = True

    def result(self) -> Receipt:
        try:
            return super().result()
        except Error:
            self._saw()
            raise

    def exception(self) -> BaseException | None:
        error = super().exception()
        if error is not None:
            self._saw()
        return error

    def __await__(self) -> Generator[Any, None, Receipt]:
        try:
            return (yield from super().__await__())
        except Error:
            self._saw()
            raise


class Lane:
    """The puts of one loop into one queue, in order."""

    def __init__(self, bell: Bell, nodes: Nodes, producer: Producer) -> None:
        self.waiting: deque[Confirm] = deque()  # for room
        self._bell, self._nodes, self._producer = bell, nodes, producer
        self._ticket: Ticket | None = None  # the newest, and who waits for it
        self._confirms: list[Confirm] = []

    @staticmethod
    def of(nodes: Nodes, queue: str, producer: Producer) -> Lane:
        """That of the running loop."""
        bell = Bell.of(nodes)
        if queue not in bell.lanes:
            bell.lanes[queue] = Lane(bell, nodes, producer)
        return bell.lanes[queue]

    def put(self, message: bytes, headers: Headers | None, timeout: float | None) -> Confirm:
        """`timeout`: how long it may stand in line. Raises MessageTooLarge, Unencodable."""
        confirm = Confirm(self._bell.loop, message, headers)
        if not self.waiting and self._send(confirm):
            return confirm
        if headers is not None:
            confirm.headers, _ = self._producer.check_headers(headers)  # as they are now, not as they will be
        if not self.waiting:
            self._producer.room.listen(self._on_room)
        self.waiting.append(confirm)
        if timeout is not None:
            self._bell.loop.call_later(timeout, lambda: confirm.leave_line(self._producer.no_room(timeout)))
        return confirm

    async def drained(self, timeout: float | None) -> None:
        """Until all that stands in line now has its outcome, for at most `timeout` seconds."""
        standing = [confirm for confirm in self.waiting if not confirm.done()]
        if standing:
            await asyncio.wait(standing, timeout=timeout)

    def _send(self, confirm: Confirm) -> bool:
        """False: there is no room."""
        span = self._producer.put_now(confirm.message, confirm.headers)
        if span is None:
            return False
        ticket, confirm.place = span
        confirm.ticket, confirm.message, confirm.headers = ticket, b"", None
        if ticket is not self._ticket:
            confirms: list[Confirm] = []
            self._ticket, self._confirms = ticket, confirms
            ticket.listen(lambda ticket: self._bell.tell(self._settle, ticket, confirms))
        self._confirms.append(confirm)  # before `_settle`, which runs on this loop
        return True

    def _settle(self, ticket: Ticket, confirms: list[Confirm]) -> None:
        for confirm in confirms:
            confirm.settle(ticket)
        if ticket is self._ticket:
            self._ticket, self._confirms = None, []
        if ticket.failure is not None and ticket not in self._nodes.failures:
            self._nodes.failures.append(ticket)  # closing thinks that who listens is told

    def _on_room(self, _: Any) -> None:
        self._bell.tell(self._move_up)

    def _move_up(self) -> None:
        waiting = self.waiting
        while waiting:
            confirm = waiting[0]
            try:
                if not confirm.done() and not self._send(confirm):
                    return
            except Closed:
                confirm.leave_line(NotSent("closed before the message was sent"))
            except Error as error:
                confirm.leave_line(error)
            waiting.popleft()
        self._producer.room.ignore(self._on_room)
