"""A client's life on the I/O thread: feeds the machine what threads asked for, and tells threads what came of it.

One session per Client (or Node). Its `pump`, `handle` and `closed` run on the I/O thread; everything else runs on
whatever thread calls, and reaches the machine through deques that `pump` empties or through `Reactor.call`.
"""

from __future__ import annotations

import logging
import os
import threading
import weakref
from collections.abc import Callable
from math import inf
from typing import TYPE_CHECKING, Any

from zmqkit.errors import Closed, Error, Timeout, Unreachable, fresh
from zmqkit.handles.durations import left
from zmqkit.handles.outcome import Ticket, check_ask, error_of
from zmqkit.handles.waiting import Callbacks, Flush, Reply, Signal, Steps, run
from zmqkit.machines import events as ev
from zmqkit.machines.consumer import windows_fit
from zmqkit.machines.link import ClientMachine
from zmqkit.machines.output import Dropped
from zmqkit.parcel import PARCEL_BYTES_MAX
from zmqkit.reactor import Reactor, now
from zmqkit.wire import BackKind, Verdict

if TYPE_CHECKING:
    from zmqkit.handles.calling import Calls
    from zmqkit.handles.crew import Crew
    from zmqkit.handles.feed import Feed
    from zmqkit.handles.inbox import Inbox
    from zmqkit.handles.producer import Producer
    from zmqkit.handles.requests import Requests
    from zmqkit.machines.following import Subscription

GOODBYE_SECONDS = 1.0  # for the node's answer to ours
HOT_SECONDS = 0.001  # acks of a busy consumer are collected this often, without a wake-up for each
FAILURES_KEPT = 1000

log = logging.getLogger("zmqkit.client")
_sessions: weakref.WeakSet[Session] = weakref.WeakSet()


class Session:
    def __init__(self, reactor: Reactor, endpoint: str | None) -> None:
        # `endpoint` None: the node in the same reactor
        self.reactor, self.endpoint = reactor, endpoint
        self.machine = ClientMachine(os.urandom(16), _jitter)
        self.halted = True  # every call looks at this first: not started yet, closed, or forked
        self.hot = False  # acks will be collected within HOT_SECONDS: no need to wake anybody
        self.error: Exception | None = None  # why nothing works any more
        self.reason = "no answer yet"  # why the link is not up
        self.node, self.message_bytes = "", PARCEL_BYTES_MAX
        self.stored = 0  # batches: whoever waits for one of many sees that things move
        self.calls_open = 0  # handed over, and without an outcome yet
        self.callbacks = Callbacks()
        self.calls: Calls  # of its client, which may have other sessions beside this one
        self.siblings: tuple[Session, ...] = (self,)
        self.crews: dict[str, Crew] = {}  # services for threads, for asyncio, for Titanic
        self.failures: list[Ticket] = []
        self._started = False
        self._lock = threading.Lock()
        self._producers: dict[str, Producer] = {}
        self._inboxes: dict[str, Inbox] = {}
        self._replies: list[Reply] = []  # of asks
        self._flushes: list[Flush] = []
        self.feeds: dict[Subscription, Feed] = {}  # the I/O thread's
        self._part_by, self._insisted = inf, False
        self._up, self._left, self.ended = Signal(), Signal(), Signal()
        self.loops: dict[Any, Any] = {}  # of asyncio, and what `zmqkit.aio` keeps for each
        _sessions.add(self)

    # -- any thread ---------------------------------------------------------------------------------------------------

    def begin(self) -> None:
        """Start the link; once. The first of a client's sessions starts all."""
        with self._lock:
            if self._started:
                return
            for session in self.siblings:
                session._started = True
                session.machine.start(now())
                self.reactor.attach(session, session.endpoint)
            self.reactor.start()
            for session in self.siblings:
                session.halted = session.error is not None

    def admit(self) -> None:
        """Every call of the application passes here: a lazy link starts, a closed one raises."""
        if self.error is not None:
            raise fresh(self.error)
        if self.halted:
            self.begin()

    @property
    def started(self) -> bool:
        return self._started

    def wait_up(self, timeout: float | None) -> None:
        """Raises Unreachable with the latest reason."""
        run(self.rising(timeout))

    def rising(self, timeout: float | None) -> Steps[None]:
        if not (yield self._up, timeout) or self.error is not None:
            raise (fresh(self.error) if self.error else Unreachable(self.endpoint or "this process", self.reason))

    @property
    def is_up(self) -> bool:
        return self._up.happened

    def why(self) -> str:
        """Why something took too long."""
        return "no answer from the node" if self.is_up else f"no node at {self.endpoint}: {self.reason}"

    def producer(self, queue: str, make: Callable[[], Producer]) -> Producer:
        with self._lock:
            if queue not in self._producers:
                self._producers[queue] = make()
            return self._producers[queue]

    def inbox(self, queue: str, make: Callable[[], Inbox]) -> Inbox:
        with self._lock:
            if queue not in self._inboxes:
                if not windows_fit([*self._inboxes, queue]):
                    raise Error(f"one client cannot consume from more than these {len(self._inboxes)} queues: connect another one")
                self._inboxes[queue] = make()
            return self._inboxes[queue]

    @property
    def inboxes(self) -> list[Inbox]:
        return list(self._inboxes.values())

    def holds(self, inbox: Inbox) -> bool:
        with self._lock:
            return self._inboxes.get(inbox.queue) is inbox

    def forget(self, inbox: Requests) -> None:
        """Of a closed service, unless somebody has taken it up meanwhile. On the I/O thread."""
        with self._lock:
            if inbox.service is None:
                del self._inboxes[inbox.queue]
                self.machine.consumers.pop(inbox.queue, None)

    def crew(self, side: str, make: Callable[[], Crew]) -> Crew:
        with self._lock:
            if side not in self.crews:
                self.crews[side] = make()
            return self.crews[side]

    def heat(self) -> None:
        """There is an ack to collect, and nobody knows yet."""
        self.hot = True
        self.reactor.wake()

    def ask(self, verb: str, arguments: dict[str, Any], timeout: float | None) -> dict[str, Any]:
        """The node's answer. Raises what it refused with, or Timeout."""
        return run(self.asking(verb, arguments, timeout))

    def asking(self, verb: str, arguments: dict[str, Any], timeout: float | None) -> Steps[dict[str, Any]]:
        self.admit()
        check_ask(verb, arguments)
        reply = Reply()
        self.reactor.call(lambda moment: self._ask(verb, arguments, reply))
        try:
            if not (yield reply, timeout):
                raise Timeout(f"{verb}: {self.why()} within {timeout:g} s", maybe_executed=self.is_up)
        finally:
            if not reply.happened and not self.reactor.closed:
                self.reactor.call(lambda moment: self._forget(reply))
        return self.answer(reply.value)

    @staticmethod
    def answer(result: Any) -> dict[str, Any]:
        if isinstance(result, Exception):
            raise fresh(result)
        if "error" in result:
            raise error_of(result["error"], str(result.get("text", "")))
        return result  # type: ignore[no-any-return]

    def flush(self, timeout: float | None) -> None:
        """Wait for every put and ack so far. Raises Timeout, or the first failure that nobody was told of."""
        run(self.flushing(timeout))

    def flushing(self, timeout: float | None) -> Steps[None]:
        self.admit()
        deadline = None if timeout is None else now() + timeout
        for producer in list(self._producers.values()):
            ticket = producer.newest
            if ticket is not None and not ticket.done and not (yield ticket, left(deadline)):
                raise Timeout(f"puts are not confirmed within {timeout:g} s: {self.why()}", maybe_executed=True)
        reply = Reply()
        self.reactor.call(lambda moment: self._flush(reply, moment))
        if not (yield reply, left(deadline)):
            raise Timeout(f"acks are not answered within {timeout:g} s: {self.why()}", maybe_executed=True)
        self.raise_unseen()

    def raise_unseen(self) -> None:
        failures, self.failures = self.failures, []
        for ticket in failures:
            if not ticket.seen and ticket.failure is not None:
                ticket.seen = True
                raise ticket.failure()
        for inbox in self.inboxes:
            if inbox.stale:
                raise inbox.stale.popleft()

    def stop(self) -> None:
        """Every loop ends after what it has in hand. Takes no lock: a signal handler may call it."""
        for crew in list(self.crews.values()):
            crew.stop()
        for inbox in self.inboxes:
            for demand in list(inbox.demands):
                inbox.end(demand)
        for feed in list(self.feeds.values()):
            feed.stop()

    def close(self, timeout: float) -> None:
        """Say goodbye, once what was put and acked before is confirmed, or after `timeout`."""
        run(self.closing(timeout))

    def closing(self, timeout: float) -> Steps[None]:
        if self.error is not None:
            return
        self.stop()
        for session in self.siblings:
            session.halted, session.error = True, Closed("closed: make a new one")
            session._part_by = now() + timeout
        if self._started:
            self.reactor.wake()
            for session in self.siblings:
                yield session._left, timeout + GOODBYE_SECONDS

    # -- the I/O thread -----------------------------------------------------------------------------------------------

    def pump(self, moment: float) -> None:
        machine = self.machine
        machine.tick(moment)
        self.hot = False  # before looking: an ack that comes after it wakes us
        hot = False
        for inbox in list(self._inboxes.values()):
            hot = inbox.pump(moment) or hot
        for producer in list(self._producers.values()):
            producer.pump(machine)
        self.feeds = {subscription: feed for subscription, feed in self.feeds.items() if not feed.pump(subscription, machine.following)}
        self.calls.pump(self, moment)
        if hot:
            self.hot = True
            machine.remind(moment + HOT_SECONDS)
        if self._part_by < inf and not machine.stopping:
            self._part(moment)

    def handle(self, events: list[Any], moment: float) -> None:
        for event in events:
            _HANDLES[type(event)](self, event)
        if self._flushes:
            self._flushes = [flush for flush in self._flushes if not flush.check()]

    def closed(self, error: Exception | None) -> None:
        if error is not None or self.error is None:
            self.error = error if isinstance(error, Error) else Closed(f"closed{f': {error}' if error else ': make a new one'}")
        self.halted = True
        reason = self.error
        for producer in list(self._producers.values()):
            producer.fail(reason)
        for crew in list(self.crews.values()):
            crew.fail()
        for inbox in self.inboxes:
            inbox.fail()
        for feed in self.feeds.values():
            feed.fail(reason)
        self.calls.fail(self, reason)
        for reply in [*self._replies, *(flush.reply for flush in self._flushes)]:
            reply.set(reason)
        self._up.set()
        self._left.set()
        self.reactor.turn_ends.append(self.ended.set)  # once the reactor has put everything away
        self.callbacks.close()

    def _ask(self, verb: str, arguments: dict[str, Any], reply: Reply) -> None:
        self._replies.append(reply)
        self.machine.asks.add(verb, arguments, reply)

    def _forget(self, reply: Reply) -> None:
        self.machine.asks.forget(reply)
        self._replies.remove(reply) if reply in self._replies else None

    def _flush(self, reply: Reply, moment: float) -> None:
        self.pump(moment)
        leases = self.machine.holdings.leases.values()
        flush = Flush(reply, [(lease, lease.unanswered) for lease in leases if lease.unanswered])
        if not flush.check():
            for lease, _ in flush.marks:
                lease.watched = True
            self.machine.holdings.insist()
            self._flushes.append(flush)

    def _part(self, moment: float) -> None:
        """Goodbye, unless something is still under way and time is left for it."""
        machine = self.machine
        unanswered = any(lease.unanswered for lease in machine.holdings.leases.values())
        waits = any(producer.waits for producer in self._producers.values())
        if moment < self._part_by and (unanswered or waits or any(stream.flights for stream in machine.streams.values())):
            if unanswered and not self._insisted:
                self._insisted = True
                machine.holdings.insist()
            machine.remind(self._part_by)
        else:
            machine.leave(moment)

    # -- events -------------------------------------------------------------------------------------------------------

    def _on_up(self, event: ev.Up) -> None:
        self.node = event.node.hex()
        self.message_bytes = min(PARCEL_BYTES_MAX, int(event.limits.get("message_bytes", PARCEL_BYTES_MAX)))
        self._up.set()
        self.calls.route.went_up(self)

    def _on_down(self, event: ev.Down) -> None:
        self.reason = event.reason
        self._up.clear()
        self.calls.route.went_down(self)
        log.info("link to %s: %s", self.endpoint, event.reason)

    def _on_stored(self, event: ev.Stored) -> None:
        ticket: Ticket = event.ticket
        ticket.seq, ticket.durability, ticket.node = event.qseq, event.durability, self.node
        self.stored += 1
        ticket.settle()

    def _on_rejected(self, event: ev.Rejected) -> None:
        ticket: Ticket = event.ticket
        ticket.settle(lambda: error_of(event.code, event.text, event.retry_after))
        if len(self.failures) < FAILURES_KEPT:
            self.failures.append(ticket)

    def _on_lease(self, event: Any) -> None:
        """It may meet the close of its service: then nothing of this lease is open, or nothing of it was begun."""
        inbox: Any = self._inboxes.get(event.lease.queue)
        if inbox is not None:
            _ABOUT_LEASES[type(event)](inbox, event)
        elif isinstance(event, ev.Granted):
            self.machine.back(event.lease, 0, event.lease.count, BackKind.UNSTARTED)
            self.machine.consumers.pop(event.lease.queue)

    def _on_barred(self, event: ev.Barred) -> None:
        if (inbox := self._inboxes.get(event.queue)) is not None:
            inbox.bar(error_of(event.code, event.text, event.retry_after))

    def _on_replied(self, event: ev.Replied) -> None:
        if event.ticket in self._replies:
            self._replies.remove(event.ticket)
        event.ticket.set(event.result)

    def _on_news(self, event: ev.News) -> None:
        for subscription in event.subscriptions:
            feed = self.feeds.get(subscription)
            if feed is not None:
                feed.came(subscription)

    def _on_echoed(self, event: ev.Echoed) -> None:
        for inbox in self.inboxes:
            inbox.echoed(event.beat, event.behind)

    def _on_dropped(self, event: Dropped) -> None:
        log.debug("dropped reason=%s detail=%.200s", event.reason, event.detail)


_HANDLES: dict[type, Callable[[Session, Any], None]] = {
    ev.Up: Session._on_up, ev.Down: Session._on_down, ev.Stored: Session._on_stored, ev.Rejected: Session._on_rejected,
    ev.Granted: Session._on_lease, ev.Judged: Session._on_lease, ev.Revoked: Session._on_lease, ev.Replied: Session._on_replied,
    ev.Echoed: Session._on_echoed, ev.Left: lambda session, event: session._left.set(), Dropped: Session._on_dropped,
    ev.Answered: lambda session, event: session.calls.answered(event), ev.Parts: lambda session, event: session.calls.came(event),
    ev.Failed: lambda session, event: session.calls.failed(session, event),
    ev.Barred: Session._on_barred, ev.Cancelled: Session._on_lease, ev.Allowed: Session._on_lease, ev.News: Session._on_news,
}  # fmt: skip
_ABOUT_LEASES: dict[type, Callable[[Any, Any], None]] = {
    ev.Granted: lambda inbox, event: inbox.granted(event.lease), ev.Revoked: lambda inbox, event: inbox.revoked(event.lease),
    ev.Judged: lambda inbox, event: inbox.judged(event.lease, event.offset, event.count, Verdict(event.verdict)),
    ev.Cancelled: lambda inbox, event: inbox.cancelled(event.lease, event.offset, event.count),
    ev.Allowed: lambda inbox, event: inbox.allowed(event.lease, event.parts),
}  # fmt: skip


def _jitter() -> float:
    return int.from_bytes(os.urandom(2), "little") / 65535


def _forked() -> None:
    for session in list(_sessions):
        session.halted, session.error = True, Closed("this is a forked child: the connection belongs to the parent, make a new one")
        for inbox in session.inboxes:
            inbox.front = None  # what waits there is the parent's to handle


os.register_at_fork(after_in_child=_forked)
