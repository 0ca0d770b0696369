"""What comes of a put: receipts, tickets and lazy futures; and the node's codes as exceptions.

A ticket is one batch and everybody who waits for it. It settles once, for all its messages, by range arithmetic. A future
is (ticket, index) and nothing more until somebody uses it as a `concurrent.futures.Future`: a stock one costs a
microsecond to make, another to complete, and the garbage collector walks its parts.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import CancelledError, Future
from concurrent.futures._base import CANCELLED_AND_NOTIFIED, FINISHED, PENDING
from dataclasses import dataclass
from typing import Any, NamedTuple

import msgpack

from zmqkit import framing, wire
from zmqkit.codec import shown
from zmqkit.errors import (
    Closed,
    DiskFull,
    Error,
    Forbidden,
    NotSent,
    QueueFull,
    QuotaExceeded,
    RemoteError,
    Timeout,
    Unencodable,
    fresh,
)  # fmt: skip
from zmqkit.fields import one_line
from zmqkit.parcel import Parcel, unpack_checked
from zmqkit.wire import Code


class Receipt(NamedTuple):
    """One message is stored. `durability` says what for: "disk" (synced), "os" or "memory"; `seq` is its number at `node`."""

    seq: int
    duplicate: bool
    durability: str
    node: str


@dataclass(frozen=True, slots=True)
class BatchReceipt:
    """All messages of one `put_many` are stored. Other producers' messages may stand between first and last.

    Where several nodes took them, `first_seq` and `last_seq` are 0 and `node` is "": each counts for itself.
    """

    count: int
    first_seq: int
    last_seq: int
    durability: str
    node: str


def error_of(code: int, text: str, retry_after: float = 1.0) -> Error:
    """The exception for a refusal of the node's."""
    text = one_line(text)
    if code == Code.FULL:
        return QueueFull(text, retry_after=retry_after)
    if code == Code.DISK_FULL:
        return DiskFull(text, retry_after=retry_after)
    if code == Code.QUOTA:
        return QuotaExceeded(text, retry_after=retry_after)
    if code == Code.FORBIDDEN:
        return Forbidden(text)
    return RemoteError(Code(code).name.lower() if code in list(Code) else "refused", text)


def check_ask(verb: str, arguments: dict[str, Any]) -> None:
    """What the node would call malformed, it would on every link. Raises Unencodable."""
    try:
        framing.decode([bytes(frame) for frame in framing.encode(wire.Ask(1, 1, verb, arguments))])
    except (framing.Malformed, ValueError, TypeError, OverflowError) as error:
        raise Unencodable(f"{verb}: cannot send {shown(arguments)}: {error}") from None


class Ticket:
    """A batch from the first `put` into it until its outcome. `lock` is its producer's."""

    __slots__ = ("bytes", "count", "done", "durability", "failure", "handed", "headers", "listeners", "lock", "messages", "node", "run",
                 "seen", "seq", "turn_ends", "withdrawn")  # fmt: skip

    def __init__(self, lock: threading.Lock, run: Callable[[Callable[[], None]], None], turn_ends: deque[Callable[[], None]]) -> None:
        self.lock = lock
        self.run = run  # runs a callback away from the I/O thread
        self.turn_ends = turn_ends  # of the reactor
        self.messages: list[bytes] = []
        self.headers: list[dict[str, Any] | None] | None = None
        self.bytes = 0
        self.count = 0
        self.handed = False  # to the machine: from now on it may happen
        self.done = False
        self.failure: Callable[[], Exception] | None = None
        self.seen = False  # somebody was told of the failure
        self.withdrawn: set[int] = set()  # places of messages that were taken back in time
        self.seq, self.durability, self.node = 0, "", ""
        self.listeners: list[Callable[[Ticket], None]] = []  # called once, on the I/O thread

    def seal(self) -> Parcel | None:
        """What is to be sent, once and for all; None if all was withdrawn. With the lock held."""
        self.handed = True
        messages, headers = self.messages, self.headers
        if self.withdrawn:
            headers = [value for place, value in enumerate(headers) if place not in self.withdrawn] if headers else None
            messages = [message for place, message in enumerate(messages) if place not in self.withdrawn]
        self.count, self.messages, self.headers = len(messages), [], None
        if not messages:
            return None
        return Parcel.of(messages, {"headers": headers} if headers else None)

    def withdraw(self, place: int) -> bool:
        """Take one message back. False: it is on its way already."""
        with self.lock:
            if self.handed or self.done:
                return False
            self.withdrawn.add(place)
            return True

    def seq_of(self, place: int) -> int:
        return self.seq + place - sum(1 for gone in self.withdrawn if gone < place)

    def receipt(self, place: int) -> Receipt:
        return Receipt(self.seq_of(place), False, self.durability, self.node)

    def settle(self, failure: Callable[[], Exception] | None = None) -> None:
        """On the I/O thread, once; `seq`, `durability` and `node` are set before."""
        with self.lock:
            if self.done:
                return
            self.failure, self.done = failure, True
            listeners, self.listeners = self.listeners, []
        for listener in listeners:
            listener(self)

    def fail(self, reason: Exception) -> None:
        """Its client ends for this reason: what was handed over may be stored."""
        if not isinstance(reason, Closed):
            self.settle(lambda: fresh(reason))
        elif self.handed:
            self.settle(lambda: Timeout("closed before the confirm came: the message may be stored", maybe_executed=True))
        else:
            self.settle(lambda: NotSent("closed before the message was sent"))

    def listen(self, listener: Callable[[Ticket], None]) -> None:
        """Call it when settled: on the I/O thread, or here and now."""
        with self.lock:
            if not self.done:
                self.listeners.append(listener)
                return
        listener(self)

    def ignore(self, listener: Callable[[Ticket], None]) -> None:
        with self.lock:
            if listener in self.listeners:
                self.listeners.remove(listener)

    def wait(self, timeout: float | None) -> bool:
        """Is it settled within `timeout` seconds?"""
        if self.done:
            return True
        gate = threading.Lock()
        gate.acquire()
        with self.lock:
            if self.done:
                return True
            self.listeners.append(lambda _: self.turn_ends.append(gate.release))
        return gate.acquire(timeout=-1 if timeout is None else max(0.0, timeout))

    def value(self, place: int) -> Receipt:
        """Of a settled ticket. Raises what it failed with."""
        if self.failure is not None:
            self.seen = True
            raise self.failure()
        return self.receipt(place)


_FIELDS = frozenset(("_condition", "_state", "_result", "_exception", "_waiters", "_done_callbacks"))  # of a stock Future


class PutFuture(Future[Receipt]):
    """`Future[Receipt]`, whose standard fields are made at first touch (by `wait`, `as_completed`, callbacks…)."""

    __slots__ = ("_place", "_ticket")

    def __init__(self, ticket: Ticket, place: int) -> None:
        # Not super().__init__(): that is the cost to avoid.
        self._ticket, self._place = ticket, place

    def __getattr__(self, name: str) -> Any:
        if name not in _FIELDS:
            raise AttributeError(name)
        self._build()
        return self.__dict__[name]

    def _build(self) -> None:
        ticket = self._ticket
        with ticket.lock:  # two threads may touch it first
            if "_condition" in self.__dict__:
                return
            self._state, self._result, self._exception = PENDING, None, None
            self._waiters: list[Any] = []
            self._done_callbacks: list[Any] = []
            self._condition = threading.Condition()
        ticket.listen(self._finish)

    def _finish(self, ticket: Ticket) -> None:
        with self._condition:
            if self._state != PENDING:
                return
            self._exception = ticket.failure() if ticket.failure else None
            self._result = None if ticket.failure else ticket.receipt(self._place)
            self._state = FINISHED
            for waiter in self._waiters:
                waiter.add_exception(self) if ticket.failure else waiter.add_result(self)
            self._condition.notify_all()
            callbacks = bool(self._done_callbacks)
        if callbacks:
            ticket.run(self._invoke_callbacks)

    def _await(self, timeout: float | None) -> None:
        if self.__dict__.get("_state") == CANCELLED_AND_NOTIFIED:
            raise CancelledError
        if not self._ticket.wait(timeout):
            raise TimeoutError("the put is not confirmed yet; it goes on: wait again, or cancel()")

    def result(self, timeout: float | None = None) -> Receipt:
        """The receipt. Raises what the put failed with, or TimeoutError (then it goes on)."""
        self._await(timeout)
        return self._ticket.value(self._place)

    def exception(self, timeout: float | None = None) -> BaseException | None:
        self._await(timeout)
        self._ticket.seen = True
        return self._ticket.failure() if self._ticket.failure else None

    def done(self) -> bool:
        return self._ticket.done or self.__dict__.get("_state") == CANCELLED_AND_NOTIFIED

    def running(self) -> bool:
        """On its way, so that it cannot be taken back any more."""
        return self._ticket.handed and not self.done()

    def cancelled(self) -> bool:
        return self.__dict__.get("_state") == CANCELLED_AND_NOTIFIED

    def cancel(self) -> bool:
        """Withdraw the message. False: it is on its way, or confirmed."""
        if self.cancelled():
            return True
        if not self._ticket.withdraw(self._place):
            return False
        with self._condition:
            self._state = CANCELLED_AND_NOTIFIED
            for waiter in self._waiters:
                waiter.add_cancelled(self)
            self._condition.notify_all()
        self._invoke_callbacks()
        return True

    def wait_or_withdraw(self, timeout: float | None, why: Callable[[], str]) -> Receipt:
        """The receipt, or Timeout: withdrawn if that was still possible, else in doubt."""
        if self._ticket.wait(timeout):
            return self._ticket.value(self._place)
        if self._ticket.withdraw(self._place):
            raise NotSent(f"the put was withdrawn: {why()} within {timeout:g} s")
        if self._ticket.wait(0):
            return self._ticket.value(self._place)
        raise Timeout(f"no confirm within {timeout:g} s: {why()}; the message may still be stored", maybe_executed=True)


def checked_headers(headers: dict[str, Any]) -> tuple[dict[str, Any], int]:
    """A copy, so that they are sent as they are now, and how much they add to a message. Raises TypeError or ValueError."""
    if not isinstance(headers, dict) or not all(isinstance(name, str) for name in headers):
        raise TypeError("headers are a dict with str keys")
    # As deep as they will stand in a batch, and read as the node will: what it refuses, it would refuse on every link.
    packed = msgpack.packb({"headers": [headers]})
    return unpack_checked(packed)["headers"][0], len(packed)
