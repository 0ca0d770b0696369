"""Loops over a queue: one delivery at a time, batches, or a pool of threads that calls a handler."""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any, Generic, TypeVar

from zmqkit.errors import Closed, Error, StaleLease, fresh
from zmqkit.handles.delivery import Batch, Delivery
from zmqkit.handles.durations import Duration, seconds
from zmqkit.handles.hand import Credit, Demand
from zmqkit.handles.intake import Convert, Intake
from zmqkit.machines.consumer import WINDOW_MAX
from zmqkit.reactor import now

T = TypeVar("T")
R = TypeVar("R")
OnStale = Callable[[StaleLease], Any]

SIGNAL_SECONDS = 1.0  # a signal that meets the main thread just before it waits is acted on that much later at most

log = logging.getLogger("zmqkit.work")


class Loop:
    """What consumers have in common. Threads may share one; each message goes to one of them.

    Ends by `stop` (what is in hand is finished, the rest goes back), by `idle` seconds without a message, or by being left.
    Raises Forbidden, or QuotaExceeded where the queue cannot come into being.
    """

    tells = True  # whoever takes from it hears of its error

    def __init__(self, inbox: Intake, convert: Convert, credit: Credit, lease: Duration | None, idle: Duration | None,
                 on_stale: OnStale | None) -> None:  # fmt: skip
        self._inbox, self._convert, self._on_stale = inbox, convert, on_stale
        self._idle = None if idle is None else seconds(idle)
        self._demand = Demand(checked_credit(credit), 0.0 if lease is None else seconds(lease))
        inbox.demands.append(self._demand)
        inbox.restate()

    @property
    def ended(self) -> bool:
        return self._demand.ended

    @property
    def credit(self) -> Credit:
        """How many messages may be held unsettled, or "auto"."""
        return self._demand.credit

    @credit.setter
    def credit(self, credit: Credit) -> None:
        self._demand.credit = checked_credit(credit)
        self._inbox.restate()

    def stop(self) -> None:
        """The loop ends before its next message. May be called from any thread and in a signal handler."""
        self._inbox.end(self._demand)

    close = stop

    def _block_for(self, take: Callable[[], R | None]) -> R:
        """What `take` finds, as soon as it finds something."""
        inbox, since = self._inbox, now()
        while not self.ended:
            inbox.nodes.admit()
            self._raise_stale()
            seen = inbox.news
            found = take()
            if found is not None:
                return found
            if not self._wait(seen, since):
                break
        self._raise_error()
        raise StopIteration

    @property
    def error(self) -> Error | None:
        """Why the node ended it: Forbidden or QuotaExceeded. None: it goes on, or ended by itself."""
        return self._demand.error

    def _raise_error(self) -> None:
        if self.error is not None and self.tells:
            raise fresh(self.error)

    def _wait(self, seen: int, since: float) -> bool:
        """Until there may be something new. False: the loop ends."""
        if self.ended:
            return False
        left = self._left(since)
        if left == 0:
            self.stop()
            return False
        self._inbox.wait(seen, left)
        return True

    def _left(self, since: float) -> float | None:
        """Seconds until `idle` ends the loop; None: it waits for ever."""
        return None if self._idle is None else max(0.0, since + self._idle - now())

    def _raise_stale(self) -> None:
        while self._inbox.stale:
            error = self._inbox.stale.popleft()
            if self._on_stale is None:
                raise error
            self._on_stale(error)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()

    def __del__(self) -> None:
        if hasattr(self, "_demand"):  # else its arguments were refused
            self.stop()


class Consumer(Loop, Generic[T]):
    """`for d in q.consume():`"""

    def __iter__(self) -> Consumer[T]:
        return self

    def __enter__(self) -> Consumer[T]:
        return self

    def __next__(self) -> Delivery[T]:
        inbox = self._inbox
        hand = inbox.front
        # The usual case: one node, a lease in front, its gate open, a plain body. All else goes the long way.
        if hand is not None and not self._demand.ended and not inbox.stale and self._convert is None and not hand.bad:
            if now() < hand.lease.starts_until:
                index = next(hand.cursor, -1)
                if index >= 0:
                    if index == hand.last and hand.inbox.state.autos:
                        inbox.nodes.reactor.wake()
                    return Delivery(hand, index, hand.bodies[index])
        del hand  # while we wait it must not look as if somebody still had its messages
        return self._block_for(lambda: inbox.take(Delivery, self._convert))


class BatchConsumer(Loop, Generic[T]):
    """`for b in q.consume_many(512):` batches of at most so many messages, of what has arrived."""

    def __init__(self, most: int, *arguments: Any) -> None:
        self._most = batch_size(most)
        super().__init__(*arguments)

    def __iter__(self) -> BatchConsumer[T]:
        return self

    def __enter__(self) -> BatchConsumer[T]:
        return self

    def __next__(self) -> Batch[T]:
        return self._block_for(self._take)

    def _take(self) -> Batch[T] | None:
        parts, bodies = self._inbox.take_many(self._most, self._convert)
        return Batch(parts, bodies) if parts else None


class Pool:
    """Threads that do one thing until they are stopped; SIGTERM and SIGINT may do that."""

    def __init__(self, threads: int) -> None:
        numbers = range(checked_threads(threads))
        self._threads = [threading.Thread(target=self._run, name=f"zmqkit-work-{n}", daemon=True) for n in numbers]

    error: Error | None = None  # why the node ended it

    @property
    def ended(self) -> bool:
        raise NotImplementedError

    def stop(self) -> None:
        """Finish what runs, take nothing new. May be called in a signal handler."""
        raise NotImplementedError

    def _run(self) -> None:
        raise NotImplementedError

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def wait(self, timeout: float | None = None) -> bool:
        """Have all handlers ended within `timeout` seconds? Raises Forbidden or QuotaExceeded, if the node ended them."""
        deadline = None if timeout is None else now() + timeout
        for thread in self._threads:
            thread.join(None if deadline is None else max(0.0, deadline - now()))
        ended = not any(thread.is_alive() for thread in self._threads)
        if ended and self.error is not None:
            raise fresh(self.error)
        return ended

    def run_until_stopped(self) -> None:
        """Start, and wait for the end. In the main thread SIGTERM and SIGINT stop it; a second one ends at once."""
        if threading.current_thread() is not threading.main_thread():
            self.start()
            self.wait()
            return

        def on_signal(number: int, frame: FrameType | None) -> None:
            if self.ended:
                raise KeyboardInterrupt
            self.stop()  # before we say so: the second one may interrupt us here
            log.info("stopping: what runs is finished, a second signal ends at once")

        before = {number: signal.signal(number, on_signal) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            self.start()
            while not self.wait(SIGNAL_SECONDS):
                pass
        finally:
            self.stop()
            for number, handler in before.items():
                signal.signal(number, handler)


class Work(Pool, Generic[T]):
    """A pool of threads that calls `handler(d)` for each delivery; a failure is logged and nacked."""

    def __init__(self, consumer: Consumer[T], handler: Callable[[Delivery[T]], Any], threads: int) -> None:
        super().__init__(threads)
        self._consumer, self._handler = consumer, handler
        consumer.tells = False  # `wait` does

    @property
    def error(self) -> Error | None:  # type: ignore[override]
        return self._consumer.error

    @property
    def ended(self) -> bool:
        return self._consumer.ended

    def stop(self) -> None:
        """Finish what runs, take nothing new. May be called in a signal handler."""
        self._consumer.stop()

    def _run(self) -> None:
        while True:
            try:
                for d in self._consumer:
                    with d:
                        self._handler(d)
                return
            except Closed:
                return
            except StaleLease as error:
                log.warning("%s", error)
            except Exception:
                log.exception("a handler failed; the message comes again")


def batch_size(most: int) -> int:
    if type(most) is not int or most < 1:
        raise ValueError(f"{most!r} messages a batch: give a whole number of at least 1")
    return most


def checked_threads(threads: int, of: str = "") -> int:
    if type(threads) is not int or threads < 1:
        raise ValueError(f"threads={threads!r}: give a whole number of at least 1{of}")
    return threads


def checked_credit(credit: Credit) -> Credit:
    if credit != "auto" and (type(credit) is not int or not 1 <= credit <= WINDOW_MAX):
        raise ValueError(f'credit={credit!r}: give a whole number from 1 to {WINDOW_MAX:,}, or "auto"')
    return credit
