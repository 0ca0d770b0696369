"""The sending side of one queue, at one node or several: open batch, full batches, and who waits for room.

`put` appends to the open batch. The I/O thread takes a full one as soon as the window has room, and the open one while
fewer than two batches are under way: idle means batches of one at once, busy means big ones, and no timer is needed.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from typing import Any

from zmqkit.codec import packer, shown, unencodable
from zmqkit.errors import Error, MessageTooLarge, NotSent, Timeout, Unencodable
from zmqkit.handles.nodes import Nodes
from zmqkit.handles.outcome import BatchReceipt, PutFuture, Ticket, checked_headers
from zmqkit.handles.waiting import Listeners, Steps
from zmqkit.machines.link import ClientMachine
from zmqkit.machines.producer import Flight
from zmqkit.parcel import FULL_BYTES, MESSAGE_HEADERS_BYTES_MAX, PARCEL_BYTES_MAX, PARCEL_MESSAGES_MAX

READY_BATCHES_MAX = 64  # full ones that wait in this process; more makes putters wait
CHUNK_MESSAGES = 64  # the first guess of put_many at what fills a batch

Headers = dict[str, Any]
Dump = Callable[[Any], Any] | None
Pack = Callable[[Any], bytes]
Span = tuple[Ticket, int, int]  # place and count of messages in a ticket


class Room(Listeners):
    """Whether one more batch may wait here, or nothing may any more."""

    def __init__(self, lock: threading.Lock, fits: Callable[[], bool]) -> None:
        super().__init__()
        self.changed, self._fits = threading.Condition(lock), fits

    @property
    def happened(self) -> bool:
        return self._fits()

    def wait(self, timeout: float | None) -> bool:
        with self.changed:
            return self.changed.wait_for(self._fits, timeout)

    def tell(self) -> None:
        """With the lock held."""
        self.changed.notify_all()
        self._tell()


class Producer:
    """`queue`: its name, or the marked one of a topic; `packer` makes what encodes one message of it, `bytes_max` is of a batch."""

    def __init__(self, nodes: Nodes, queue: str, packer: Callable[[], Pack] = packer, bytes_max: int = PARCEL_BYTES_MAX) -> None:
        self._nodes, self._queue, self._packer, self._bytes_max = nodes, queue, packer, bytes_max
        self._lock = threading.Lock()
        self.room = Room(self._lock, lambda: len(self._ready) < READY_BATCHES_MAX or nodes.error is not None)
        self._pack = packer()
        self._open: Ticket | None = None
        self._ready: deque[Ticket] = deque()  # full, in order
        self._back: deque[Flight] = deque()  # a node that stops has sent them back: they go first
        self.newest: Ticket | None = None  # settles last: batches of a stream settle in order
        self._turn = 0  # of the nodes that take

    # -- any thread ---------------------------------------------------------------------------------------------------

    @property
    def message_bytes(self) -> int:
        """The most that one message may have."""
        return min(self._nodes.message_bytes, self._bytes_max)

    def put_soon(self, body: Any, headers: Headers | None, timeout: float | None) -> PutFuture:
        nodes = self._nodes
        if nodes.halted:
            nodes.admit()
        with self._lock:
            try:
                message = self._pack(body)
            except Exception as error:
                raise unencodable(body, error) from None
            ticket = self._open
            if ticket is None or headers is not None or ticket.bytes + len(message) >= FULL_BYTES:
                return self._put_slowly(message, headers, timeout)
            messages = ticket.messages
            place = len(messages)
            messages.append(message)
            ticket.bytes += len(message)
            if place == PARCEL_MESSAGES_MAX - 1:
                self._close_open()
                nodes.reactor.wake()
        return PutFuture(ticket, place)

    def put_now(self, message: bytes, headers: Headers | None) -> tuple[Ticket, int] | None:
        """An encoded message's place in a batch; None: wait for `room` first. Raises MessageTooLarge."""
        self._nodes.admit()
        with self._lock:
            try:
                future = self._put_slowly(message, headers, 0.0)
            except NotSent:
                return None
        return future._ticket, future._place

    def _put_slowly(self, message: bytes, headers: Headers | None, timeout: float | None) -> PutFuture:
        """A batch begins or ends with this message, or it has headers. With the lock held."""
        size = len(message)
        if headers is not None:
            headers, more = self.check_headers(headers)
            size += more if headers else 0
        if size > self.message_bytes:
            raise MessageTooLarge(size, self.message_bytes)
        ticket = self._open
        if ticket is not None and ticket.bytes + size > self._bytes_max:
            self._close_open()
            ticket = None
        if ticket is None:
            ticket = self._new_ticket(timeout)
        place = len(ticket.messages)
        ticket.messages.append(message)
        ticket.bytes += size
        if headers or ticket.headers is not None:
            ticket.headers = ticket.headers or []
            ticket.headers.extend([None] * (place - len(ticket.headers)))
            ticket.headers.append(headers or None)
        if ticket.bytes >= FULL_BYTES or place == PARCEL_MESSAGES_MAX - 1:
            self._close_open()
        self._nodes.reactor.wake()
        return PutFuture(ticket, place)

    @staticmethod
    def check_headers(headers: Headers) -> tuple[Headers, int]:
        """A copy, and how much they add to a message. Raises Unencodable, MessageTooLarge."""
        try:
            headers, size = checked_headers(headers)
        except Exception as error:
            raise Unencodable(f"cannot send headers {shown(headers)}: {error}") from None
        if size > MESSAGE_HEADERS_BYTES_MAX:
            raise MessageTooLarge(size, MESSAGE_HEADERS_BYTES_MAX)
        return headers, size

    def _new_ticket(self, timeout: float | None) -> Ticket:
        """An open one, once there is room. With the lock held. Raises NotSent."""
        if not self.room.changed.wait_for(lambda: self.room.happened, timeout):
            raise self.no_room(timeout)
        if self._nodes.error is not None:
            self._nodes.admit()
        if self._open is None:  # else another thread was faster
            self._open = self.newest = Ticket(self._lock, self._nodes.callbacks.run, self._nodes.reactor.turn_ends)
        return self._open

    def no_room(self, timeout: float | None) -> NotSent:
        return NotSent(f"{len(self._ready)} batches wait to be sent, and none left within {timeout:g} s: {self._nodes.why()}")

    def _close_open(self) -> None:
        ticket = self._open
        if ticket is not None:
            if ticket.headers is not None:
                ticket.headers.extend([None] * (len(ticket.messages) - len(ticket.headers)))
            self._ready.append(ticket)
            self._open = None

    # -- many -----------------------------------------------------------------------------------------------------------

    def put_many(self, bodies: Iterable[Any], dump: Dump, timeout: float | None) -> Steps[BatchReceipt]:
        """`timeout`: seconds without any progress. Raises with `confirmed` set: so many of the first messages are stored.

        Given up, it takes back what has not left.
        """
        self._nodes.admit()
        spans: deque[Span] = deque()
        done = Progress()
        pack, source, wanted, sent = self._packer(), iter(bodies), CHUNK_MESSAGES, 0
        try:
            while raw := list(islice(source, wanted)):
                chunk, size = self._encode(raw, dump, pack, sent)
                sent += len(chunk)
                for part in _parts(chunk, size, self._bytes_max):
                    while (span := self._append(part)) is None:
                        if not (yield self.room, timeout):
                            raise self.no_room(timeout)
                    spans.append(span)
                while spans and spans[0][0].done:
                    done.add(spans.popleft())
                wanted = max(1, min(PARCEL_MESSAGES_MAX, FULL_BYTES * len(chunk) // size + 1))
                yield self.room, 0.0  # a loop has others to serve, too
            while spans:
                yield from self._await(spans[0][0], timeout)
                done.add(spans.popleft())
        except GeneratorExit:
            _take_back(spans)
            raise
        except Error as error:
            yield from self._settle_rest(spans, done, 0 if isinstance(error, Timeout) else timeout)
            error.confirmed = done.count  # type: ignore[attr-defined]
            raise
        return done.receipt()

    def _encode(self, raw: list[Any], dump: Dump, pack: Callable[[Any], bytes], sent: int) -> tuple[list[bytes], int]:
        """The bodies as messages, and their bytes. Raises Unencodable or MessageTooLarge; `sent` were encoded before these."""
        try:
            chunk = self._encoded(raw, dump, pack)
        except Exception:
            for place, body in enumerate(raw):
                try:
                    pack(dump(body) if dump else body)
                except Exception as error:
                    raise Unencodable(f"message {sent + place}: {unencodable(body, error)}") from None
            raise
        size = sum(map(len, chunk))
        if size > self.message_bytes and (largest := max(map(len, chunk))) > self.message_bytes:
            raise MessageTooLarge(largest, self.message_bytes)
        return chunk, size

    def _encoded(self, raw: list[Any], dump: Dump, pack: Pack) -> list[bytes]:
        """Raises whatever is wrong with any of them."""
        return list(map(pack, map(dump, raw) if dump else raw))

    def _append(self, chunk: list[bytes]) -> Span | None:
        """Into the open batch where they fit, else into a new one. None: there is no room for that."""
        size = sum(map(len, chunk))
        with self._lock:
            ticket = self._open
            if ticket is not None and (ticket.bytes + size > 2 * FULL_BYTES or len(ticket.messages) + len(chunk) > PARCEL_MESSAGES_MAX):
                self._close_open()
                ticket = None
            while ticket is None or len(ticket.messages) + len(chunk) > PARCEL_MESSAGES_MAX:
                self._close_open()
                if not self.room.happened:
                    return None
                ticket = self._new_ticket(0.0)
            place = len(ticket.messages)
            ticket.messages.extend(chunk)
            ticket.bytes += size
            if ticket.bytes >= FULL_BYTES:
                self._close_open()
        self._nodes.reactor.wake()
        return ticket, place, len(chunk)

    def _await(self, ticket: Ticket, timeout: float | None) -> Steps[None]:
        """Until it is settled. Any batch that is stored meanwhile counts as progress."""
        stored = self._nodes.stored
        while not ticket.done and not (yield ticket, timeout):
            if stored == self._nodes.stored:
                raise Timeout(f"no confirm within {timeout:g} s: {self._nodes.why()}", maybe_executed=True)
            stored = self._nodes.stored

    @staticmethod
    def _settle_rest(spans: deque[Span], done: Progress, timeout: float | None) -> Steps[None]:
        """After a failure: take back what has not left, and see how much was stored before the first failure."""
        for span in _take_back(spans):
            if not done.whole or not (span[0].done or (yield span[0], timeout)):
                return
            done.add(span, strict=False)

    # -- the I/O thread -------------------------------------------------------------------------------------------------

    @property
    def waits(self) -> bool:
        return bool(self._ready or self._back) or self._open is not None

    def pump(self, machines: Sequence[ClientMachine]) -> bool:
        """Hand over what their windows have room for, a batch to each in turn. True: somebody got something."""
        empty, handed = [], False
        with self._lock:
            while self._back and (machine := self._with_room(machines, full=True)):
                flight, handed = self._back.popleft(), True
                machine.put(self._queue, flight.parcel, flight.ticket)
            while self._ready and (machine := self._with_room(machines, full=True)):
                handed = True
                empty += self._hand_over(machine, self._ready.popleft())
            if self._open is not None and not self._ready and (machine := self._with_room(machines, full=False)):
                handed = True
                self._close_open()
                empty += self._hand_over(machine, self._ready.popleft())
            if self.room.happened:
                self.room.tell()
        for ticket in empty:
            ticket.seen = True
            ticket.settle(lambda: NotSent("the put was withdrawn"))
        return handed

    def _with_room(self, machines: Sequence[ClientMachine], full: bool) -> ClientMachine | None:
        """The next one that has room, behind the one that got the last batch."""
        if len(machines) == 1:  # a short way, for putters wait for this lock
            return machines[0] if machines[0].has_room(self._queue, full) else None
        for place in range(self._turn + 1, self._turn + 1 + len(machines)):
            machine = machines[place % len(machines)]
            if machine.has_room(self._queue, full):
                self._turn = place % len(machines)
                return machine
        return None

    def _hand_over(self, machine: ClientMachine, ticket: Ticket) -> list[Ticket]:
        """Returns the ticket if nothing is left in it to send."""
        parcel = ticket.seal()
        if parcel is None:
            return [ticket]
        machine.put(self._queue, parcel, ticket)
        return []

    def came_back(self, flights: list[Flight]) -> None:
        """Their node has none of them and will take none: another one may."""
        self._back.extend(flights)

    def fail(self, error: Exception) -> None:
        """Nothing will be sent any more."""
        with self._lock:
            tickets = [*(flight.ticket for flight in self._back), *self._ready, *([self._open] if self._open else [])]
            self._back.clear()
            self._ready.clear()
            self._open = None
            self.room.tell()
        self._nodes.fail_puts(tickets, error)


class Progress:
    """How far a put_many is known to be stored."""

    def __init__(self) -> None:
        self.count, self.first, self.last, self.durability = 0, 0, 0, ""
        self.nodes: dict[str, None] = {}
        self.whole = True  # nothing failed before what comes next

    def add(self, span: Span, strict: bool = True) -> None:
        """A settled one. Raises what it failed with, if `strict`."""
        ticket, place, count = span
        if ticket.failure is not None:
            self.whole = False
            ticket.seen = True
            if strict:
                raise ticket.failure()
            return
        if not ticket.count:
            self.whole = False  # withdrawn
            return
        self.first = self.first or ticket.seq_of(place)
        self.last, self.durability = ticket.seq_of(place + count - 1), ticket.durability
        self.nodes[ticket.node] = None
        self.count += count

    def receipt(self) -> BatchReceipt:
        if len(self.nodes) > 1:
            return BatchReceipt(self.count, 0, 0, self.durability, "")
        return BatchReceipt(self.count, self.first, self.last, self.durability, next(iter(self.nodes), ""))


def _take_back(spans: Iterable[Span]) -> list[Span]:
    """Withdraw what has not left; what has."""
    return [span for span in spans if not all([span[0].withdraw(place) for place in range(span[1], span[1] + span[2])])]


def _parts(chunk: list[bytes], size: int, bytes_max: int) -> Iterable[list[bytes]]:
    """Pieces that fit a batch."""
    if size <= bytes_max:
        return [chunk]
    parts: list[list[bytes]] = [[]]
    room = bytes_max
    for message in chunk:
        if len(message) > room and parts[-1]:
            parts.append([])
            room = bytes_max
        parts[-1].append(message)
        room -= len(message)
    return parts
