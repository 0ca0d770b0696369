"""What comes of a call, and who waits for it in a thread: a value, a typed error, a future."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures._base import CANCELLED_AND_NOTIFIED, PENDING
from typing import TYPE_CHECKING, Any

from zmqkit import codec
from zmqkit.errors import Error, Forbidden, NotSent, NoWorker, QuotaExceeded, RemoteError, Timeout
from zmqkit.machines.events import Failed, Outcome
from zmqkit.parcel import Parcel

if TYPE_CHECKING:
    from zmqkit.handles.calling import CallTicket

Load = Callable[[Any], Any] | None
MakeError = Callable[[], Exception]


def failure(service: str, event: Failed, why: str) -> Error:
    """The exception for a call that ended without an answer; `why` the link is not better than it is."""
    outcome, text = event.outcome, f": {event.text}" if event.text else ""
    if outcome is Outcome.NOT_SENT:
        return NotSent(f"the call of {service!r} was withdrawn: {why}")
    if outcome is Outcome.NO_WORKER:
        return NoWorker(f"nobody serves {service!r}: start a worker with @mq.service({service!r}) and mq.serve()")
    if outcome is Outcome.UNDISPATCHED:
        return Timeout(f"no worker of {service!r} had room for the call in time: it was not executed", maybe_executed=False)
    if outcome is Outcome.MAYBE_EXECUTED:
        return Timeout(f"no answer from {service!r}{text}; it may have been executed", maybe_executed=True)
    if outcome is Outcome.QUOTA:
        return QuotaExceeded(event.text or "a limit of the node is reached", retry_after=event.retry_after)
    if outcome is Outcome.STOPPING:
        return Timeout(f"the node stops: the call of {service!r} was not executed", maybe_executed=False)
    if outcome is Outcome.FORBIDDEN:
        return Forbidden(event.text or f"this client may not call {service!r}")
    return RemoteError("malformed", event.text)


def remote_error(body: Any) -> RemoteError:
    """What a worker said of its failure."""
    try:
        kind, message, traceback = body
        return RemoteError(str(kind), str(message), str(traceback))
    except (TypeError, ValueError):  # a worker of another make
        return RemoteError("error", str(body))


def undecodable(error: Exception) -> RemoteError:
    return RemoteError("Undecodable", f"the answer cannot be read: {error}")


def decoded(parcel: Parcel) -> list[Any] | None:
    """All bodies at once; None if one of them is none."""
    try:
        return codec.unpack_all(parcel.count, parcel.body)
    except codec.Undecodable:
        return None


class Waiter:
    """A thread that waits for one answer."""

    __slots__ = ("_done", "_gate", "_value", "error", "place", "ticket")

    ticket: CallTicket
    place: int

    def __init__(self) -> None:
        self._gate = threading.Lock()
        self._gate.acquire()
        self._done = False
        self.error: Exception | None = None

    def done(self) -> bool:
        return self._done

    def settle(self, value: Any) -> None:
        self._value, self._done = value, True
        self.ticket.calls.turn_ends.append(self._gate.release)

    def fail(self, error: Exception) -> None:
        self.error, self._done = error, True
        self.ticket.calls.turn_ends.append(self._gate.release)

    def abandon(self) -> None:
        """Nobody waits any more: the call is cancelled, if it was made and has no answer."""
        if not self._done and hasattr(self, "ticket"):
            self.ticket.calls.cancel(self)

    def value(self) -> Any:
        """Wait for it; the machine ends every call in time."""
        with self._gate:
            pass
        if self.error is not None:
            raise self.error
        load = self.ticket.lane.load
        return converted(load, self._value) if load else self._value


def converted(load: Callable[[Any], Any], value: Any) -> Any:
    """A body as the type that its caller wants. Raises RemoteError."""
    try:
        return load(value)
    except codec.Undecodable as error:
        raise undecodable(error) from None


class CallFuture(Future[Any]):
    """A call under way. Cancelling it reaches the worker, if one has begun; callbacks never run on the I/O thread."""

    ticket: CallTicket
    place: int

    def result(self, timeout: float | None = None) -> Any:
        """The answer. Raises what the call failed with, or TimeoutError (then it goes on)."""
        value, load = super().result(timeout), self.ticket.lane.load
        return converted(load, value) if load else value

    def exception(self, timeout: float | None = None) -> BaseException | None:
        error = super().exception(timeout)
        if error is None and self.ticket.lane.load:
            try:
                self.result(0)
            except RemoteError as wrong:
                return wrong
        return error

    def cancel(self) -> bool:
        """Nobody waits for the answer any more. False: it has come."""
        with self._condition:
            if self._state != PENDING:
                return self.cancelled()
            self._state = CANCELLED_AND_NOTIFIED
            for waiter in self._waiters:
                waiter.add_cancelled(self)
            self._condition.notify_all()
        self.ticket.calls.cancel(self)
        super()._invoke_callbacks()  # type: ignore[misc]
        return True

    def cancelled(self) -> bool:
        return self._state == CANCELLED_AND_NOTIFIED

    def settle(self, value: Any) -> None:
        with self._condition:  # re-entrant: nobody cancels in between
            if self._state == PENDING:
                self.set_result(value)

    def fail(self, error: Exception) -> None:
        with self._condition:
            if self._state == PENDING:
                self.set_exception(error)

    def _invoke_callbacks(self) -> None:
        if self._done_callbacks:  # type: ignore[attr-defined]
            self.ticket.calls.run(super()._invoke_callbacks)  # type: ignore[misc]
