"""The caller's side of a client: calls gather in batches, leave with the I/O thread's next turn, and each has one outcome.

No linger is needed: an idle thread sends a batch of one at once, and what is called while a turn lasts leaves together with
the next. Nothing here counts time for a call that is under way: the machine ends each one at its deadline.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from functools import lru_cache, partial
from heapq import heappop, heappush
from itertools import count
from typing import Any

from zmqkit.codec import Schema, packer, unencodable
from zmqkit.errors import Closed, MessageTooLarge, fresh
from zmqkit.handles.answers import Load, MakeError, decoded, failure, remote_error, undecodable
from zmqkit.handles.durations import Duration, patience
from zmqkit.handles.names import idempotency_key, service_name
from zmqkit.handles.nodes import Nodes
from zmqkit.handles.producer import Headers, Producer
from zmqkit.handles.routing import Again, Route
from zmqkit.handles.session import Session
from zmqkit.machines import events as ev
from zmqkit.parcel import FULL_BYTES, PARCEL_MESSAGES_MAX, Parcel
from zmqkit.reactor import now
from zmqkit.records import ranges_of
from zmqkit.wire import ATTEMPTS_MAX, Status

CALL_SECONDS = 5.0  # of a call whose caller gives no timeout
RETRIES = 3
FOR_EVER = 1e9  # seconds: 31 years, which every header can say
LANES_MAX = 4096  # kept; more than so many kinds of calls are set up anew each time

Pack = Callable[[Any], bytes]


class Lane:
    """Calls that may share a batch: of one service, timeout, number of attempts and type of answer, from one kind of caller."""

    __slots__ = ("attempts", "kind", "limit", "load", "open", "service")

    def __init__(self, service: str, limit: float | None, attempts: int, load: Load, kind: Callable[..., CallTicket]) -> None:
        self.service, self.attempts, self.load, self.kind = service, attempts, load, kind
        self.limit = FOR_EVER if limit is None else limit
        self.open: CallTicket | None = None


class CallTicket:
    """A batch of calls from the first one until the last outcome. Its waiters are those of threads."""

    __slots__ = ("bytes", "calls", "deadline", "headers", "key", "lane", "messages", "open", "parcel", "parts", "rounds", "session",
                 "tried", "tries", "waiters")  # fmt: skip

    def __init__(self, calls: Calls, lane: Lane, session: Session, deadline: float, key: str = "", parts: int = 0) -> None:
        self.calls, self.lane, self.session, self.deadline, self.key, self.parts = calls, lane, session, deadline, key, parts
        self.messages: list[bytes] = []
        self.waiters: list[Any] = []
        self.bytes = 0
        self.headers: Headers | None = None  # of a batch of one
        self.parcel: Parcel | None = None  # once it is handed over
        self.open = 0  # bit i: call i was handed over, and has no outcome yet
        self.tries = 0  # retries that it used up
        self.rounds = 0  # all of them, for the backoff
        self.tried: tuple[Session, ...] = ()  # nodes from which it came back in this round

    def settle(self, offset: int, values: list[Any]) -> None:
        """These calls were answered. On the I/O thread."""
        for waiter, value in zip(self.waiters[offset : offset + len(values)], values, strict=True):
            if not waiter.done():
                waiter.settle(value)

    def fail(self, offset: int, count: int, error: MakeError) -> None:
        for waiter in self.waiters[offset : offset + count]:
            if not waiter.done():
                waiter.fail(error())

    def came(self, values: list[Any]) -> None:
        """The next parts of a streamed answer."""
        self.waiters[0].came(values)

    def ended(self) -> None:
        """The stream is complete."""
        self.waiters[0].ended()


class Sender:
    """Takes calls from one kind of callers: all threads, or one loop."""

    def __init__(self, calls: Calls, kind: Callable[..., CallTicket], pack: Pack) -> None:
        self.calls, self._kind, self._pack = calls, kind, pack
        self._lanes: dict[Any, Lane] = {}

    def add(self, waiter: Any, service: str, body: Any, timeout: Duration | None, retries: int, key: str | None, headers: Headers | None,
            wanted: Any, parts: int = 0) -> None:  # fmt: skip
        """Into an open batch, or a new one. Raises Unencodable, MessageTooLarge, Closed; ValueError or TypeError for wrong arguments."""
        calls = self.calls
        try:
            lane = self._lanes[service, timeout, retries, wanted]
        except (KeyError, TypeError):
            lane = self._new_lane(service, timeout, retries, wanted)
        if calls.nodes.halted:
            calls.nodes.admit()
        try:
            message = self._pack(body)
        except Exception as error:
            message = pack_typed(body, error)
        begins = False
        with calls.lock:
            ticket = lane.open
            if ticket is None or key is not None or headers is not None or parts or ticket.bytes + len(message) > FULL_BYTES:
                ticket, begins = calls.begin(lane, len(message), key, headers, parts), True
            place = len(ticket.messages)
            waiter.ticket, waiter.place = ticket, place
            ticket.messages.append(message)
            ticket.waiters.append(waiter)
            ticket.bytes += len(message)
            if place == PARCEL_MESSAGES_MAX - 1:
                lane.open = None
        if begins:
            calls.nodes.reactor.wake()

    def _new_lane(self, service: str, timeout: Duration | None, retries: int, wanted: Any) -> Lane:
        service_name(service)
        limit = patience(timeout)
        if type(retries) is not int or not 0 <= retries < ATTEMPTS_MAX:
            raise ValueError(f"retries={retries!r}: give a whole number from 0 to {ATTEMPTS_MAX - 1}")
        lane = Lane(service, limit, retries + 1, loader(wanted), self._kind)
        if len(self._lanes) >= LANES_MAX:
            self._lanes.clear()
        try:
            self._lanes[service, timeout, retries, wanted] = lane
        except TypeError:
            pass  # a type that cannot be hashed; its calls travel singly
        return lane


class _Packing(threading.local):
    """A packer for each thread: one is not for two at once."""

    def __init__(self) -> None:
        self.pack = packer()


class Calls:
    """All calls of one client, whose sessions (one per node) share a reactor."""

    def __init__(self, nodes: Nodes) -> None:
        self.nodes, self.route = nodes, Route(nodes)
        self.run = nodes.callbacks.run
        self.lock = threading.Lock()
        packing = _Packing()
        self.threads = Sender(self, CallTicket, lambda body: packing.pack(body))
        self._reactor = nodes.reactor
        self.turn_ends = self._reactor.turn_ends
        self._begun: list[CallTicket] = []  # not handed over yet
        self._words: deque[Callable[[], None]] = deque()  # about calls that were
        self._under_way: dict[CallTicket, None] = {}
        self._later: list[tuple[float, int, CallTicket]] = []  # a heap of those that are tried again
        self._numbers = count()
        nodes.calls = self

    # -- any thread ---------------------------------------------------------------------------------------------------

    def begin(self, lane: Lane, size: int, key: str | None, headers: Headers | None, parts: int) -> CallTicket:
        """A new batch. With the lock held."""
        session = self.route.pick()
        if self.nodes.error is not None:
            raise fresh(self.nodes.error)
        checked = None
        if headers is not None:
            checked, more = Producer.check_headers(headers)
            size += more
        if size > session.message_bytes:
            raise MessageTooLarge(size, session.message_bytes)
        ticket = lane.kind(self, lane, session, now() + lane.limit, "" if key is None else idempotency_key(key), parts)
        ticket.headers = checked or None
        if key is None and headers is None and not parts:
            lane.open = ticket
        self._begun.append(ticket)
        return ticket

    def cancel(self, waiter: Any) -> None:
        """Nobody waits for this call any more."""
        self.say(lambda: self._cancel(waiter))

    def more(self, waiter: Any, parts: int, got: int) -> None:
        """Of a stream: so many parts are allowed in all, and so many were taken."""
        self.say(lambda: waiter.ticket.session.machine.more(waiter.ticket, parts, got))

    def say(self, word: Callable[[], None]) -> None:
        """On the I/O thread, once all that was called before is handed over."""
        self._words.append(word)
        self._reactor.wake()

    # -- the I/O thread: turns ------------------------------------------------------------------------------------------

    def pump(self, session: Session, moment: float) -> None:
        """Whichever session comes first serves all: what it gives the others wakes them."""
        if self._later:
            self._resume(session, moment)
        if self._begun:
            self._hand_over()
        for _ in range(len(self._words)):
            self._words.popleft()()

    def _hand_over(self) -> None:
        with self.lock:
            tickets, self._begun = self._begun, []
            for ticket in tickets:
                if ticket.lane.open is ticket:
                    ticket.lane.open = None
        for ticket in tickets:
            if ticket.session.leaving or ticket.session.ended:
                ticket.session = self.route.pick()
            if ticket.parcel is None:
                ticket.parcel = Parcel.of(ticket.messages, {"headers": [ticket.headers]} if ticket.headers else None)
                ticket.messages = []
            length, lane = ticket.parcel.count, ticket.lane
            ticket.open = (1 << length) - 1
            self._under_way[ticket] = None
            ticket.session.calls_open += length
            # With several nodes each is asked for a worker it has now: the way round them is ours.
            attempts = lane.attempts if self.nodes.single else 1
            ticket.session.machine.call(lane.service, ticket.parcel, ticket, ticket.deadline, attempts, ticket.key, ticket.parts)
            if ticket.tries or ticket.rounds or ticket.tried:
                for waiter in [waiter for waiter in ticket.waiters if waiter.done()]:
                    self._cancel(waiter)  # that was while it waited for its turn

    def _cancel(self, waiter: Any) -> None:
        ticket: CallTicket = waiter.ticket
        if ticket.open >> waiter.place & 1:
            ticket.session.machine.cancel(ticket, waiter.place)
            self._close(ticket, 1 << waiter.place)
            self._wake_others()

    def _wake_others(self) -> None:
        if not self.nodes.single:
            self._reactor.wake()

    def _close(self, ticket: CallTicket, mask: int) -> None:
        """These calls have their outcome."""
        mask &= ticket.open
        ticket.open ^= mask
        ticket.session.calls_open -= mask.bit_count()
        if not ticket.open:
            self._under_way.pop(ticket, None)

    # -- the I/O thread: outcomes ---------------------------------------------------------------------------------------

    def answered(self, event: ev.Answered) -> None:
        ticket: CallTicket = event.ticket
        self._close(ticket, ((1 << event.count) - 1) << event.offset)
        if event.status is Status.END:
            return ticket.ended()
        values = decoded(event.parcel)
        if values is not None and event.status is Status.OK:
            return ticket.settle(event.offset, values)
        for place, message in enumerate(event.parcel.messages(), event.offset):
            one = decoded(Parcel.of([bytes(message)]))
            if one is None:
                ticket.fail(place, 1, lambda: undecodable(ValueError("no msgpack body")))
            elif event.status is Status.OK:
                ticket.settle(place, one)
            else:
                ticket.fail(place, 1, partial(remote_error, one[0]))

    def came(self, event: ev.Parts) -> None:
        values, ticket = decoded(event.parcel), event.ticket
        if values is not None:
            return ticket.came(values)  # type: ignore[no-any-return]
        self.cancel(ticket.waiters[0])
        ticket.fail(0, 1, lambda: undecodable(ValueError("a part is no msgpack body")))

    def failed(self, session: Session, event: ev.Failed) -> None:
        ticket: CallTicket = event.ticket
        self._close(ticket, ((1 << event.count) - 1) << event.offset)
        again = self.route.again(ticket, event.outcome, event.retry_after, now())
        if again is None:
            why = session.why()
            ticket.fail(event.offset, event.count, lambda: failure(ticket.lane.service, event, why))
        else:
            self._call_again(ticket, event.offset, event.count, again)

    def _call_again(self, old: CallTicket, offset: int, count: int, again: Again) -> None:
        assert old.parcel is not None, "what failed was handed over"
        ticket = old.lane.kind(self, old.lane, old.session, old.deadline, old.key, old.parts)
        ticket.tried, ticket.tries, ticket.rounds = again.tried, again.tries, again.rounds
        ticket.parcel = old.parcel.split(offset, count)
        ticket.waiters = old.waiters[offset : offset + count]
        for place, waiter in enumerate(ticket.waiters):
            waiter.ticket, waiter.place = ticket, place
        heappush(self._later, (again.at, next(self._numbers), ticket))
        self._reactor.wake()

    def _resume(self, session: Session, moment: float) -> None:
        """Those whose time has come leave with this turn."""
        while self._later and self._later[0][0] <= moment:
            ticket = heappop(self._later)[2]
            ticket.session = self.route.pick(ticket.tried)
            with self.lock:
                self._begun.append(ticket)
        if self._later:
            session.machine.remind(self._later[0][0])

    def fail(self, session: Session, reason: Exception) -> None:
        """Nothing will be answered on this link any more."""
        unsent = []
        with self.lock:
            for ticket in [ticket for ticket in self._begun if ticket.session is session]:
                if self.nodes.error is None:
                    ticket.session = self.route.pick()
                else:
                    self._begun.remove(ticket)
                    ticket.lane.open = None
                    unsent.append(ticket)
        if self.nodes.error is not None:
            unsent += [entry[2] for entry in self._later]
            self._later.clear()
        for ticket in unsent:
            ticket.fail(0, len(ticket.waiters), lambda: _ended(reason, "before the call was sent"))
        for ticket in [ticket for ticket in self._under_way if ticket.session is session]:
            for offset, length in ranges_of(ticket.open):
                ticket.fail(offset, length, lambda: _ended(reason, "before the answer came: the call may have been executed"))
            self._close(ticket, ticket.open)


def _ended(reason: Exception, when: str) -> Exception:
    return Closed(f"closed {when}") if isinstance(reason, Closed) else fresh(reason)


def loader(wanted: Any) -> Load:
    """How bodies become values of that type."""
    if wanted is None or wanted is Any:
        return None
    try:
        return _loader(wanted)
    except TypeError:  # it cannot be hashed
        return Schema(wanted).load


@lru_cache(maxsize=1000)
def _loader(wanted: Any) -> Callable[[Any], Any]:
    return Schema(wanted).load


def pack_typed(body: Any, error: Exception) -> bytes:
    """What msgpack does not carry by itself, and its type can say as something that it does. Raises Unencodable."""
    typed = hasattr(body, "model_validate") or hasattr(body, "__struct_fields__")
    try:
        return packer()(Schema(type(body) if typed else object).dump(body))
    except Exception:
        raise unencodable(body, error) from None
