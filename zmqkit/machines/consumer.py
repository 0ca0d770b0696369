"""One consumer's window: how many messages of one queue a client may hold, restated and never incremented.

    window = fixed credits + what gets hold and wait for + (with "auto") what the application took, and work ahead

Work ahead is what the application gets done in 100 ms, as measured: messages settled over the time in which there was any to
work on. It starts at 1, at most doubles per echoed beat, and is none while every handler has run over a second: then a
message waiting behind them would be better off with somebody else.
"""

from __future__ import annotations

from collections.abc import Iterable
from math import inf

AHEAD_SECONDS = 0.1
AHEAD_MESSAGES_MAX = 1_000_000
SLOW_SECONDS = 1.0
MEASURE_SECONDS = 0.5  # of work, after which older measurements count half
WINDOW_MAX = 2**32 - 1  # what a READY can say; more is no other wish
WINDOWS_BYTES_MAX = 8000  # names and numbers of all consumed queues must fit the header of one READY


def windows_fit(queues: Iterable[str]) -> bool:
    """Can one client consume from all of these?"""
    return sum(map(window_bytes, queues)) <= WINDOWS_BYTES_MAX


def window_bytes(queue: str) -> int:
    """What its name and numbers take in a READY, or so."""
    return len(queue.encode()) + 20


class ConsumerState:
    """Of one (client, queue). The handles set the first four fields; `report` says what the application has taken."""

    def __init__(self, queue: str) -> None:
        self.queue = queue
        self.fixed = 0  # sum of credits given as numbers
        self.autos = 0  # consumers with credit "auto"
        self.waiting = 0  # messages that gets wait for
        self.got = 0  # messages that gets took, unsettled
        self.idle_handlers = 0  # threads and tasks that wait for a message: while there are any, not every handler is slow
        self.lease = 0.0  # seconds wanted; 0: the queue's
        self.received = 0  # messages that the application was or will be told of, ever
        self.open = 0  # messages in hand, taken or not
        self.buffered = 0  # of those, not taken yet
        self.stated = 0  # the window in the last READY
        self.barred = False  # the node opens none, and others do
        self.ahead = 1
        self._may_change = True  # once per echo
        self._taken_at = -inf  # when the application last took one
        self._handed = 0
        self._settled, self._busy = 0, 0.0  # measured: messages, seconds
        self._reported, self.working = 0.0, False  # at the last report: when, and was there anything to work on

    @property
    def taken(self) -> int:
        return self.open - self.buffered

    @property
    def window(self) -> int:
        return self.window_with(self.ahead)

    def window_with(self, ahead: int) -> int:
        auto = max(0, self.taken - self.got) + ahead if self.autos else 0
        return min(WINDOW_MAX, self.fixed + self.waiting + self.got + auto)

    @property
    def excess(self) -> int:
        """So many waiting messages are to go back, nobody wants them here. Not for a fluctuation of `ahead`."""
        if self.autos and self.ahead:
            return 0
        return max(0, min(self.buffered, self.open - self.window))

    @property
    def idle(self) -> bool:
        return not (self.window or self.stated or self.open)

    @property
    def slow_at(self) -> float:
        """When every handler will have run over a second, if nothing else happens; inf if that changes nothing."""
        return self._taken_at + SLOW_SECONDS if self.autos and self.ahead and self.taken and not self.idle_handlers else inf

    def granted(self, count: int) -> None:
        """So many of `open` are on their way to the application."""
        self.received += count
        self.buffered += count

    def settled(self, count: int) -> None:
        self.open -= count
        self._settled += count

    def returned(self, count: int) -> None:
        """Handed back or revoked: no work was measured."""
        self.open -= count

    def report(self, handed: int, buffered: int, now: float) -> None:
        """The application has taken `handed` messages since it began, and `buffered` wait. Call before reading `window`."""
        if self.working:
            self._busy += now - self._reported
            if self._busy > MEASURE_SECONDS:
                self._settled, self._busy = self._settled // 2, self._busy / 2
        self._reported, self.working = now, self.open > 0
        if handed != self._handed:
            self._handed, self._taken_at = handed, now
        self.buffered = buffered
        if self.idle_handlers or not self.taken or now < self._taken_at + SLOW_SECONDS:
            self.ahead = max(1, self.ahead)
        else:
            self.ahead = 0
        if self.autos and self._may_change:
            self._follow_work()

    def echoed(self) -> None:
        """A beat came back: `ahead` may change once more."""
        self._may_change = True
        self._follow_work()

    def _follow_work(self) -> None:
        if not self.ahead:
            return
        target = min(AHEAD_MESSAGES_MAX, int(self._settled / self._busy * AHEAD_SECONDS)) if self._busy else 1
        if target > self.ahead:
            self.ahead, self._may_change = min(2 * self.ahead, target), False
        elif target < self.ahead // 2:
            self.ahead, self._may_change = max(1, target), False

    def must_restate(self, clocked: bool) -> bool:
        """Is the window in the last READY worth correcting at once? `clocked`: no earlier READY is without its echo.

        What somebody asked for is said at once, and so is that nothing may come ahead any more: else what goes back would return
        at once. What "auto" wants is said once per echo, and only if it matters.
        """
        if not self.autos or not self.ahead:
            return self.window != self.stated
        return clocked and self.window - self.stated >= max(1, self.stated // 4)
