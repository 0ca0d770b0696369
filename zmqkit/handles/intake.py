"""What loops and gets take from, and how they wait for it: the inbox of a queue, or its inboxes at several nodes."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

from zmqkit.errors import Error, StaleLease
from zmqkit.handles.delivery import Delivery
from zmqkit.handles.hand import Demand, Hand, Part
from zmqkit.handles.nodes import Nodes
from zmqkit.handles.session import Session
from zmqkit.handles.waiting import Listener

Convert = Callable[[Any], Any] | None
D = TypeVar("D", bound=Delivery[Any])

log = logging.getLogger("zmqkit.client")


class Question(Protocol):
    """Is there anything now?"""

    @property
    def happened(self) -> bool:
        """Whoever could say so has told all there was."""


class News:
    """Something in this intake that came after `seen`."""

    __slots__ = ("_intake", "_seen")

    def __init__(self, intake: Intake, seen: int) -> None:
        self._intake, self._seen = intake, seen

    def wait(self, timeout: float | None) -> bool:
        self._intake.wait(self._seen, timeout)
        return True

    def listen(self, listener: Listener) -> None:
        if not self._intake.listen(self._seen, listener):
            listener(self)

    def ignore(self, listener: Listener) -> None:
        with self._intake.changed:
            if listener in self._intake.listeners:
                self._intake.listeners.remove(listener)


class Intake:
    def __init__(self, nodes: Nodes, queue: str) -> None:
        self.nodes, self.queue = nodes, queue
        self.lock = threading.RLock()  # of `changed`; taken by itself it costs no call
        self.changed = threading.Condition(self.lock)
        self.listeners: deque[Listener] = deque()  # of loops, beside the threads that wait for `changed`; each is told once
        self.news, self.sleepers = 0, 0  # counts what a waiter might have waited for; threads that wait
        self.demands: list[Demand] = []  # of loops that are running
        self.stale: deque[StaleLease] = deque()  # refusals that nobody was told of
        self.waiting = 0  # messages that gets wait for
        self.bars, self.barred = 0, Error()  # how often no window was opened for us, and why it last was not
        self.front: Hand | None = None  # of the inbox of a single node

    # -- taking: any thread ---------------------------------------------------------------------------------------------

    def take(self, kind: type[D], convert: Convert) -> D | None:
        """The next delivery that may be started now; None if there is none."""
        raise NotImplementedError

    def take_many(self, most: int, convert: Convert) -> tuple[list[Part], list[Any]]:
        """Up to `most` messages that may be started now, as parts of leases, with their bodies."""
        raise NotImplementedError

    def seek(self, count: int, probe: bool) -> Question:
        """A get waits for so many messages. With `probe` nodes are asked what they have now."""
        raise NotImplementedError

    def sought(self, count: int, question: Any) -> None:
        """It waits no more."""
        raise NotImplementedError

    @property
    def unsaid(self) -> bool:
        """Are there words that the I/O thread has not collected?"""
        raise NotImplementedError

    @property
    def idle(self) -> int:
        """Handlers that wait for a message."""
        return self.sleepers + len(self.listeners)

    def restate(self) -> None:
        """Who consumes, or how much, has changed; every waiter looks again. Takes no lock: a signal handler may call it."""
        raise NotImplementedError

    def end(self, demand: Demand) -> None:
        """This loop wants nothing more. Takes no lock: a signal handler may call it."""
        demand.ended = True
        try:
            self.demands.remove(demand)
        except ValueError:
            return  # it had ended already
        self.restate()

    def wait(self, seen: int, timeout: float | None) -> None:
        """Until there is news after `seen`, or for `timeout`."""
        if self.unsaid:
            self.nodes.reactor.wake()  # room for the next one is made by what was settled
        with self.lock:
            if self.news == seen and self.nodes.error is None:
                self.sleepers += 1
                self.changed.wait(timeout)
                self.sleepers -= 1

    def listen(self, seen: int, listener: Listener) -> bool:
        """The same for a loop. False: there is news already."""
        if self.unsaid:
            self.nodes.reactor.wake()
        with self.lock:
            if self.news != seen or self.nodes.error is not None:
                return False
            self.listeners.append(listener)
            return True

    def tell(self, count: int | None) -> None:
        """There is something for `count` waiters (None: for all) to look at."""
        with self.lock:
            self._notify(count)

    def _notify(self, count: int | None) -> None:
        """With `changed` held."""
        self.news += 1
        self.changed.notify_all() if count is None else self.changed.notify(count)
        for _ in range(len(self.listeners) if count is None else min(count, len(self.listeners))):
            self.listeners.popleft()(self)

    # -- the I/O thread -----------------------------------------------------------------------------------------------------

    def bar(self, error: Error) -> None:
        """Whoever wants messages now is told why there will be none. Who asks later, asks anew."""
        with self.lock:
            self.bars, self.barred, self.waiting = self.bars + 1, error, 0
        if self.demands:
            log.warning("%s", error)
        for demand in list(self.demands):
            demand.error = error
            self.end(demand)
        self.tell(None)

    # -- the I/O thread: the set of nodes changes ---------------------------------------------------------------------------

    def include(self, session: Session) -> None:
        """Take from that one, too. Raises Error if there is no place for it."""

    def exclude(self, session: Session) -> None:
        """It is put away."""
