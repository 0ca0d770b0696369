"""A client's life with one node, on the I/O thread: feeds the machine what threads asked for, and tells threads what came of it.

`pump`, `handle` and `closed` run on the I/O thread; everything else runs on whatever thread calls, and reaches the machine
through deques that `pump` empties or through `Reactor.call`. What all sessions of a client share is in its `Nodes`.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable
from math import inf
from typing import TYPE_CHECKING, Any

from zmqkit.errors import Closed, Error, Timeout, fresh
from zmqkit.handles.doors import unreachable
from zmqkit.handles.outcome import Ticket, check_ask, error_of
from zmqkit.handles.waiting import Flush, Reply, Signal, Steps, run
from zmqkit.handles.watching import NodeInfo
from zmqkit.machines import events as ev
from zmqkit.machines.consumer import windows_fit
from zmqkit.machines.link import ClientMachine
from zmqkit.machines.output import Dropped
from zmqkit.parcel import PARCEL_BYTES_MAX
from zmqkit.ports import Port
from zmqkit.wire import BackKind, Verdict

if TYPE_CHECKING:
    from zmqkit.handles.feed import Feed
    from zmqkit.handles.inbox import Inbox
    from zmqkit.handles.nodes import Nodes
    from zmqkit.handles.requests import Requests
    from zmqkit.machines.following import Subscription
    from zmqkit.security import LinkKeys

HOT_SECONDS = 0.001  # acks of a busy consumer are collected this often, without a wake-up for each
FAILURES_KEPT = 1000

log = logging.getLogger("zmqkit.client")


class Session:
    """Made by `Nodes.add`."""

    def __init__(self, nodes: Nodes, endpoint: str | None) -> None:
        # `endpoint` None: the node in the same reactor
        self.nodes, self.reactor, self.endpoint = nodes, nodes.reactor, endpoint
        self.keys: LinkKeys | None = None  # of its next links
        self.machine = ClientMachine(os.urandom(16), _jitter)
        self.hot = False  # acks will be collected within HOT_SECONDS: no need to wake anybody
        self.error: Exception | None = None  # why nothing works any more
        self.reason = "no answer yet"  # why the link is not up
        self.name, self.node, self.message_bytes = "", "", PARCEL_BYTES_MAX
        self.tried = False  # it was up, or could not be reached
        self.postponed = False  # its node stops, and takes no puts
        self.leaving = False  # its node is none of the client's any more
        self.part_by = inf  # say goodbye then at the latest
        self.calls_open = 0  # handed over, and without an outcome yet
        self.declared: dict[str, Any] = {}  # by name: what its node was told of policies, of several nodes
        self.feeds: dict[Subscription, Feed] = {}  # the I/O thread's
        self.port: Port | None = None  # once it has begun
        self.ended = False  # the reactor has put it away
        self._met = b""  # the node that answered last
        self._insisted = False
        self._lock = threading.Lock()
        self._inboxes: dict[str, Inbox] = {}
        self._replies: list[Reply] = []  # of asks
        self._flushes: list[Flush] = []
        self._up, self.left = Signal(), Signal()

    # -- any thread ---------------------------------------------------------------------------------------------------

    @property
    def is_up(self) -> bool:
        return self._up.happened

    @property
    def info(self) -> NodeInfo:
        return NodeInfo(self.name, self.endpoint or "", self.node, self.is_up, "" if self.is_up else self.reason)

    def why(self) -> str:
        """Why something took too long."""
        if self.is_up:
            return "no answer from the node"
        return f"no node at {self.endpoint}: {self.reason}" if self.endpoint != "" else self.reason

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

    @property
    def flying(self) -> list[Ticket]:
        """Batches that were handed over, and have no answer. On the I/O thread."""
        return [flight.ticket for stream in self.machine.streams.values() for flight in stream.flights]

    def holds(self, inbox: Inbox) -> bool:
        with self._lock:
            return self._inboxes.get(inbox.queue) is inbox

    def forget(self, inbox: Requests) -> None:
        """Of a closed service, unless somebody has taken it up meanwhile. On the I/O thread."""
        with self._lock:
            if inbox.service is None:
                del self._inboxes[inbox.queue]
                self.machine.consumers.pop(inbox.queue, None)

    def heat(self) -> None:
        """There is an ack to collect, and nobody knows yet."""
        self.hot = True
        self.reactor.wake()

    def ask(self, verb: str, arguments: dict[str, Any], timeout: float | None) -> dict[str, Any]:
        """The node's answer. Raises what it refused with, or Timeout."""
        return run(self.asking(verb, arguments, timeout))

    def asking(self, verb: str, arguments: dict[str, Any], timeout: float | None) -> Steps[dict[str, Any]]:
        """Of one of several nodes also Unreachable, as soon as its link ends: the others are not to wait for it."""
        self.nodes.admit()
        check_ask(verb, arguments)
        reply = Reply()
        self.reactor.call(lambda moment: self.put_question(verb, arguments, reply))
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

    # -- the I/O thread -----------------------------------------------------------------------------------------------

    def pump(self, moment: float) -> None:
        machine, nodes = self.machine, self.nodes
        machine.tick(moment)
        if machine.node is not self._met and not nodes.single:
            self._meet(machine.node)
        self.hot = False  # before looking: an ack that comes after it wakes us
        hot = False
        for inbox in list(self._inboxes.values()):
            hot = inbox.pump(moment) or hot
        nodes.pump(self)
        self.feeds = {subscription: feed for subscription, feed in self.feeds.items() if not feed.pump(subscription, machine.following)}
        nodes.calls.pump(self, moment)
        if hot:
            self.hot = True
            machine.remind(moment + HOT_SECONDS)
        if self.part_by < inf and not machine.stopping:
            self._part(moment)

    def _meet(self, node: bytes) -> None:
        """It has not been told anything yet. If it is not the one before, that one's puts in doubt are none of its."""
        before, self._met = self._met, node
        if before not in (b"", node):
            reason = Timeout("another node answers where this put was sent: it may be stored at the one before", maybe_executed=True)
            self.nodes.fail_puts([flight.ticket for stream in self.machine.streams.values() for flight in stream.lost()], reason)

    def handle(self, events: list[Any], moment: float) -> None:
        for event in events:
            _HANDLES[type(event)](self, event)
        if self._flushes:
            self._flushes = [flush for flush in self._flushes if not flush.check()]

    def closed(self, error: Exception | None) -> None:
        self.ended = True
        if error is not None or not (self.error or self.leaving):
            self.error = error if isinstance(error, Error) else Closed(f"closed{f': {error}' if error else ': make a new one'}")
        reason = self.error or Timeout("its node has left this client, and no answer came", maybe_executed=True)
        self._up.clear()
        self.nodes.ends(self, reason)
        self.nodes.fail_puts(self.flying, reason)
        for inbox in self.inboxes:
            inbox.fail()
        for subscription, feed in self.feeds.items():
            feed.forget(subscription) if self.nodes.error is None else feed.fail(reason)
        self.nodes.calls.fail(self, reason)
        for reply in [*self._replies, *(flush.reply for flush in self._flushes)]:
            reply.set(reason)
        self.left.set()
        self.nodes.ended_with(self, reason)

    def put_question(self, verb: str, arguments: dict[str, Any], reply: Reply) -> None:
        if not self.is_up and not self.nodes.single:
            reply.set(unreachable(self.endpoint, self.reason, self.keys))
        else:
            self._replies.append(reply)
            self.machine.asks.add(verb, arguments, reply)

    def _forget(self, reply: Reply) -> None:
        self.machine.asks.forget(reply)
        self._replies.remove(reply) if reply in self._replies else None

    def flush(self, reply: Reply, moment: float, puts: bool) -> None:
        """Say so when all acks, and all `puts` that were handed over, have their answers."""
        self.pump(moment)
        machine = self.machine
        marks = [(lease, lease.unanswered) for lease in machine.holdings.leases.values() if lease.unanswered]
        flush = Flush(reply, marks, self.flying if puts else [])
        if not flush.check():
            for lease, _ in flush.marks:
                lease.watched = True
            machine.holdings.insist()
            self._flushes.append(flush)

    def _part(self, moment: float) -> None:
        """Goodbye, unless something is still under way and time is left for it."""
        machine, nodes = self.machine, self.nodes
        unanswered = any(lease.unanswered for lease in machine.holdings.leases.values())
        waits = unanswered or any(stream.flights for stream in machine.streams.values())
        # Whoever closes the client waits for its puts; whoever only leaves it takes no more, but finishes what is in hand.
        waits = waits or (nodes.puts_wait if nodes.error is not None else not machine.settled)
        if moment < self.part_by and waits:
            if unanswered and not self._insisted:
                self._insisted = True
                machine.holdings.insist()
            machine.remind(self.part_by)
        else:
            machine.leave(moment)

    # -- events -------------------------------------------------------------------------------------------------------

    def _on_up(self, event: ev.Up) -> None:
        self.node, self.tried, self.postponed = event.node.hex(), True, False
        self.message_bytes = min(PARCEL_BYTES_MAX, int(event.limits.get("message_bytes", PARCEL_BYTES_MAX)))
        self._up.set()
        self.nodes.went_up(self, event.changed)

    def _on_down(self, event: ev.Down) -> None:
        was_up, self.reason, self.tried = self.is_up, event.reason, True
        self._up.clear()
        if not self.nodes.single:
            for reply in list(self._replies):
                self._forget(reply)
                reply.set(unreachable(self.endpoint, event.reason, self.keys))
        self.nodes.went_down(self, was_up)
        log.info("link to %s: %s", self.endpoint, event.reason)

    def _on_stored(self, event: ev.Stored) -> None:
        ticket: Ticket = event.ticket
        ticket.seq, ticket.durability, ticket.node = event.qseq, event.durability, self.node
        self.nodes.stored += 1
        ticket.settle()

    def _on_rejected(self, event: ev.Rejected) -> None:
        ticket: Ticket = event.ticket
        ticket.settle(lambda: error_of(event.code, event.text, event.retry_after))
        if len(self.nodes.failures) < FAILURES_KEPT:
            self.nodes.failures.append(ticket)

    def _on_postponed(self, event: ev.Postponed) -> None:
        self.postponed = True
        self.nodes.postponed(self)

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

    def _on_left(self, event: ev.Left) -> None:
        self.left.set()
        if self.leaving:
            for ended in self.machine.holdings.abandon():
                _HANDLES[type(ended)](self, ended)
            port = self.port
            assert port is not None, "it has begun"
            self.reactor.call(lambda moment: self.reactor.detach(port))

    def _on_dropped(self, event: Dropped) -> None:
        log.debug("dropped reason=%s detail=%.200s", event.reason, event.detail)


_HANDLES: dict[type, Callable[[Session, Any], None]] = {
    ev.Up: Session._on_up, ev.Down: Session._on_down, ev.Stored: Session._on_stored, ev.Rejected: Session._on_rejected,
    ev.Granted: Session._on_lease, ev.Judged: Session._on_lease, ev.Revoked: Session._on_lease, ev.Replied: Session._on_replied,
    ev.Barred: Session._on_barred, ev.Echoed: Session._on_echoed, ev.Left: Session._on_left, Dropped: Session._on_dropped,
    ev.Postponed: Session._on_postponed,
    ev.Answered: lambda session, event: session.nodes.calls.answered(event),
    ev.Parts: lambda session, event: session.nodes.calls.came(event),
    ev.Failed: lambda session, event: session.nodes.calls.failed(session, event),
    ev.Cancelled: Session._on_lease, ev.Allowed: Session._on_lease, ev.News: Session._on_news,
}  # fmt: skip
_ABOUT_LEASES: dict[type, Callable[[Any, Any], None]] = {
    ev.Granted: lambda inbox, event: inbox.granted(event.lease), ev.Revoked: lambda inbox, event: inbox.revoked(event.lease),
    ev.Judged: lambda inbox, event: inbox.judged(event.lease, event.offset, event.count, Verdict(event.verdict)),
    ev.Cancelled: lambda inbox, event: inbox.cancelled(event.lease, event.offset, event.count),
    ev.Allowed: lambda inbox, event: inbox.allowed(event.lease, event.parts),
}  # fmt: skip


def _jitter() -> float:
    return int.from_bytes(os.urandom(2), "little") / 65535
