"""What the sessions of one client share: puts on their way out, what is taken, services, failures; and how the client ends."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from zmqkit.errors import Timeout, fresh
from zmqkit.handles.durations import left
from zmqkit.handles.outcome import Ticket
from zmqkit.handles.session import Session
from zmqkit.handles.waiting import Callbacks, Reply, Steps
from zmqkit.parcel import PARCEL_BYTES_MAX
from zmqkit.reactor import Reactor, now

if TYPE_CHECKING:
    from zmqkit.handles.calling import Calls
    from zmqkit.handles.crew import Crew
    from zmqkit.handles.intake import Intake
    from zmqkit.handles.producer import Producer


class Shared:
    """The base of `Nodes`."""

    def __init__(self, reactor: Reactor, single: bool) -> None:
        self.reactor, self.single = reactor, single
        self.sessions: tuple[Session, ...] = ()  # replaced and never changed: any thread may look
        self.leaving: tuple[Session, ...] = ()  # with nodes that are none of ours any more
        self.halted = True  # every call looks at this first: not started yet, closed, or forked
        self.error: Exception | None = None  # why nothing works any more
        self.message_bytes = PARCEL_BYTES_MAX
        self.stored = 0  # batches: whoever waits for one of many sees that things move
        self.callbacks = Callbacks()
        self.calls: Calls
        self.crews: dict[str, Crew] = {}  # services for threads, for asyncio, for Titanic
        self.failures: list[Ticket] = []
        self.loops: dict[Any, Any] = {}  # of asyncio, and what `zmqkit.aio` keeps for each
        self._lock = threading.Lock()
        self._producers: dict[str, Producer] = {}
        self._intakes: dict[str, Intake] = {}

    def begin(self) -> None:
        """Start the links; once."""
        raise NotImplementedError

    def why(self) -> str:
        """Why something took too long."""
        raise NotImplementedError

    def admit(self) -> None:
        """Every call of the application passes here: a lazy client starts, a closed one raises."""
        if self.error is not None:
            raise fresh(self.error)
        if self.halted:
            self.begin()

    def producer(self, queue: str, make: Callable[[], Producer]) -> Producer:
        with self._lock:
            if queue not in self._producers:
                self._producers[queue] = make()
            return self._producers[queue]

    def intake(self, queue: str, make: Callable[[], Intake]) -> Intake:
        with self._lock:
            if queue not in self._intakes:
                self._intakes[queue] = make()
            return self._intakes[queue]

    def crew(self, side: str, make: Callable[[], Crew]) -> Crew:
        with self._lock:
            if side not in self.crews:
                self.crews[side] = make()
            return self.crews[side]

    def flushing(self, timeout: float | None) -> Steps[None]:
        """Until every put and ack so far has its answer. Raises Timeout, or the first failure that nobody was told of."""
        self.admit()
        deadline = None if timeout is None else now() + timeout
        for producer in list(self._producers.values()):
            ticket = producer.newest
            if ticket is not None and not ticket.done and not (yield ticket, left(deadline)):
                raise Timeout(f"puts are not confirmed within {timeout:g} s: {self.why()}", maybe_executed=True)
        # The newest of a producer settles last at one node; at several, those of the others may still be under way.
        for session in (*self.sessions, *self.leaving):
            reply = Reply()
            self.reactor.call(partial(session.flush, reply, puts=not self.single))
            if not (yield reply, left(deadline)):
                raise Timeout(f"puts or acks are not answered within {timeout:g} s: {session.why()}", maybe_executed=True)
        self.raise_unseen()

    def raise_unseen(self) -> None:
        failures, self.failures = self.failures, []
        for ticket in failures:
            if not ticket.seen and ticket.failure is not None:
                ticket.seen = True
                raise ticket.failure()
        for intake in list(self._intakes.values()):
            if intake.stale:
                raise intake.stale.popleft()

    def stop(self) -> None:
        """Every loop ends after what it has in hand. Takes no lock: a signal handler may call it."""
        for crew in list(self.crews.values()):
            crew.stop()
        for intake in list(self._intakes.values()):
            for demand in list(intake.demands):
                intake.end(demand)
        for session in (*self.sessions, *self.leaving):
            for feed in list(session.feeds.values()):
                feed.stop()

    @property
    def puts_wait(self) -> bool:
        return any(producer.waits for producer in list(self._producers.values()))

    def fail_puts(self, tickets: list[Ticket], reason: Exception) -> None:
        """Of these no answer will come; those that were handed over may be stored."""
        self.failures += [ticket for ticket in tickets if not ticket.done and not ticket.listeners]
        for ticket in tickets:
            ticket.fail(reason)

    def fail(self, reason: Exception) -> None:
        """All sessions have ended. On the I/O thread."""
        for producer in list(self._producers.values()):
            producer.fail(reason)
        for crew in list(self.crews.values()):
            crew.fail()
        for intake in list(self._intakes.values()):
            intake.tell(None)
        self.callbacks.close()
