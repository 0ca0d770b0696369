"""The parts of one answer, as its caller takes them.

The worker may be so many parts ahead of whoever takes them (`window`). What was taken is told after half a window, so a slow
reader holds its worker up, and a fast one never waits for the news.
"""

from __future__ import annotations

import threading
from collections import deque
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from zmqkit.handles.answers import converted
from zmqkit.handles.waiting import Listeners
from zmqkit.machines.calls import PARTS_AHEAD_MAX

if TYPE_CHECKING:
    from zmqkit.handles.calling import Calls, CallTicket

T = TypeVar("T")
NOTHING: Any = object()


class Parts(Listeners):
    """What has come and was not taken, and whether more will. As a waitable: there is something to look at."""

    ticket: CallTicket
    place: int

    def __init__(self, calls: Calls, window: int) -> None:
        super().__init__()
        if type(window) is not int or not 1 <= window <= PARTS_AHEAD_MAX:
            raise ValueError(f"window={window!r}: give a whole number from 1 to {PARTS_AHEAD_MAX}")
        self.calls, self.window = calls, window
        self._changed = threading.Condition()
        self._waiting: deque[Any] = deque()
        self._over = False
        self._error: Exception | None = None
        self._taken = self._told = 0

    # -- the I/O thread -------------------------------------------------------------------------------------------------

    def done(self) -> bool:
        return self._over

    def came(self, values: list[Any]) -> None:
        with self._changed:
            if not self._over:
                self._waiting.extend(values)
            self._changed.notify_all()
        self._tell()

    def ended(self, error: Exception | None = None) -> None:
        with self._changed:
            if not self._over:
                self._over, self._error = True, error
            self._changed.notify_all()
        self._tell()

    fail = ended

    def settle(self, value: Any) -> None:
        """One answer, of a worker that knows no streams: its only part."""
        self.came([value])
        self.ended()

    # -- any thread -----------------------------------------------------------------------------------------------------

    @property
    def happened(self) -> bool:
        return bool(self._waiting) or self._over

    def wait(self, timeout: float | None) -> bool:
        with self._changed:
            return self._changed.wait_for(lambda: self.happened, timeout)

    def take(self) -> Any:
        """The next part; NOTHING: none is there yet. Raises what the stream failed with, once, then StopIteration."""
        with self._changed:
            if self._waiting:
                part = self._waiting.popleft()
                self._taken += 1
                tell = not self._over and 2 * (self._taken - self._told) >= self.window
                self._told = self._taken if tell else self._told
            elif self._over:
                error, self._error = self._error, None
                raise error or StopIteration
            else:
                return NOTHING
        if tell:
            self.calls.more(self, self._told + self.window, self._told)
        load = self.ticket.lane.load
        return converted(load, part) if load else part

    def close(self) -> None:
        """Nobody wants more: the worker is told, and what waits is dropped."""
        with self._changed:
            self._waiting.clear()
            if self._over:
                self._error = None
                return
            self._over = True
            self._changed.notify_all()
        self._tell()
        self.calls.cancel(self)


class Streamed:
    """What the streams of threads and of loops have in common."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    def close(self) -> None:
        """End it: the worker's generator is closed, and no part comes any more."""
        self._parts.close()

    def __del__(self) -> None:
        if not self._parts.done():
            self._parts.close()


class Stream(Streamed, Generic[T]):
    """`for part in mq.stream(…)`; `with` it, to end it where the loop is left. Threads may share it."""

    def __iter__(self) -> Stream[T]:
        return self

    def __next__(self) -> T:
        while (part := self._parts.take()) is NOTHING:
            self._parts.wait(None)
        return part  # type: ignore[no-any-return]

    def __enter__(self) -> Stream[T]:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()
