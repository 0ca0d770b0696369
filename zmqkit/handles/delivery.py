"""Messages in an application's hands: one Delivery, or a Batch of many, and how each is settled."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from traceback import extract_tb
from types import TracebackType
from typing import Any, Generic, TypeVar, overload

import msgpack

from zmqkit.codec import unencodable
from zmqkit.errors import Closed, MessageTooLarge, StaleLease, fresh
from zmqkit.handles.durations import Duration, patience, seconds
from zmqkit.handles.hand import Hand, Part, Settled, acking
from zmqkit.handles.waiting import Steps, run
from zmqkit.wire import BLOB_BYTES_MAX, BackKind

T = TypeVar("T")
ERROR_CHARS_MAX = 1000


class Retry(Exception):
    """Raised in a handler or in `with d:`: this attempt failed; try again after `delay` seconds (None: the queue's backoff)."""

    def __init__(self, delay: Duration | None = None, reason: str = "") -> None:
        super().__init__(reason or "retry")
        self.delay = None if delay is None else seconds(delay)


class Snooze(Exception):
    """Raised in a handler or in `with d:`: not now, come again after `delay` seconds. Counts no attempt."""

    def __init__(self, delay: Duration) -> None:
        super().__init__(f"snooze {delay}")
        self.delay = seconds(delay)


class Reject(Exception):
    """Raised in a handler or in `with d:`: to the dead letters at once, for this reason."""


def describe(error: BaseException) -> str:
    """What the next attempt and the dead letters are told."""
    places = extract_tb(error.__traceback__)
    where = f" ({places[-1].filename.rpartition('/')[2]}:{places[-1].lineno} in {places[-1].name})" if places else ""
    return f"{type(error).__name__}: {error}"[: ERROR_CHARS_MAX - len(where)] + where


def _told(reason: str) -> str:
    if not isinstance(reason, str):
        raise TypeError(f"reason={reason!r}: give a text")
    return reason


def _unpack(blob: bytes) -> Any:
    """What `save` was given."""
    return msgpack.unpackb(blob, strict_map_key=False)


def _check(hand: Hand) -> None:
    """Raises Closed, or what ended the node: its messages are not in our hands any more."""
    if hand.inbox.session.error is not None:
        raise fresh(hand.inbox.session.error)


class Settling:
    """What Delivery and Batch have in common: some messages of leases, settled together, once."""

    __slots__ = ()
    settled: Settled

    def _back(self, kind: BackKind, delay: float, reason: str) -> None:
        raise NotImplementedError

    def ack(self, wait: bool = False, timeout: Duration | None = 5.0) -> None:
        raise NotImplementedError

    def nack(self, delay: Duration | None = None, reason: str = "") -> None:
        """This attempt failed: again after `delay` seconds, or by the queue's backoff. The last attempt's goes to the dead letters."""
        self._back(BackKind.NACK, -1.0 if delay is None else seconds(delay), _told(reason) or "nack")

    def reject(self, reason: str = "rejected") -> None:
        """To the dead letters at once."""
        self._back(BackKind.REJECT, -1.0, _told(reason))

    def snooze(self, delay: Duration) -> None:
        """Again after `delay` seconds, without counting an attempt."""
        self._back(BackKind.SNOOZE, seconds(delay), "")

    def _leave(self, error: BaseException, failed: BackKind) -> bool:
        """`with` ends by an exception; True: it goes no further."""
        if self.settled:
            return isinstance(error, Retry | Snooze | Reject)
        if isinstance(error, Retry):
            self._back(BackKind.NACK, -1.0 if error.delay is None else error.delay, describe(error))
        elif isinstance(error, Snooze):
            self.snooze(error.delay)
        elif isinstance(error, Reject):
            self.reject(str(error) or "rejected")
        else:
            with suppress(Closed):  # then it goes back by itself, and `error` goes on
                if isinstance(error, Exception):
                    self._back(failed, -1.0, describe(error))
                else:  # the process is being stopped: that is not the message's fault
                    self._back(BackKind.UNSTARTED, -1.0, "")
            return False
        return True


class Delivery(Settling, Generic[T]):
    """One message, yours until settled. `with d:` acks on success and nacks on an exception, which goes on up.

    attempt  1 at first; counts failures and crashes, not snoozes or graceful stops
    token    of the lease: only rises for a message of one `node`, so storage that remembers the highest can refuse a late writer
    settled  False, True once you settled it, or "unknown" if `ack(wait=True)` met a node that cannot tell any more
    """

    __slots__ = ("_hand", "_index", "body", "settled")
    by_get = False

    def __init__(self, hand: Hand, index: int, body: T) -> None:
        self._hand, self._index, self.body = hand, index, body
        self.settled: Settled = False

    @property
    def seq(self) -> int:
        return self._hand.lease.qseq + self._index

    @property
    def queue(self) -> str:
        return self._hand.lease.queue

    @property
    def node(self) -> str:
        """The id of the node that it came from: `seq` and `token` are its."""
        return self._hand.inbox.session.node

    @property
    def token(self) -> int:
        return self._hand.lease.token

    @property
    def attempt(self) -> int:
        return self._hand.lease.attempt

    @property
    def headers(self) -> dict[str, Any]:
        return self._hand.column("headers", self._index) or {}

    @property
    def error(self) -> str | None:
        """How the last attempt ended; None at the first."""
        return self._hand.column("error", self._index)  # type: ignore[no-any-return]

    @property
    def saved(self) -> Any:
        """What an earlier attempt left with `save`; None if nothing."""
        blob = self._hand.column("saved", self._index)
        return None if blob is None else _unpack(blob)

    def ack(self, wait: bool = False, timeout: Duration | None = 5.0) -> None:
        """Settle it: done. Returns at once; with `wait`, when the node has it durably, or raises Timeout after `timeout` seconds.
        Raises StaleLease if the lease is known to have ended; a second call does nothing."""
        if wait:
            return run(self.acking(patience(timeout)))
        if self.settled:
            return
        inbox = self._hand.inbox
        if inbox.session.error is not None:
            raise fresh(inbox.session.error)  # as `_check`, without the call
        self.settled = True
        if self._hand.lease.revoked:
            raise self._stale()
        inbox.words.append(self)
        if not inbox.session.hot:
            inbox.session.heat()

    def acking(self, timeout: float | None) -> Steps[None]:
        if self.settled:
            return
        _check(self._hand)
        self.settled = True
        if self._hand.lease.revoked:
            raise self._stale()
        self.settled = yield from acking([(self._hand, self._index, 1)], self.by_get, timeout)

    def _stale(self) -> StaleLease:
        inbox = self._hand.inbox
        inbox.say(inbox.drop, self._hand, self._index, 1, self.by_get)
        return StaleLease(f"the lease of message {self.seq} in {self.queue} had ended: it is not settled by this ack")

    def extend(self, lease: Duration) -> None:
        """From now on renew the lease for so many seconds at a time (all messages that came with it, too)."""
        inbox, length = self._hand.inbox, seconds(lease)
        inbox.session.reactor.call(lambda now: inbox.session.machine.extend(self._hand.lease, length))

    def save(self, value: Any) -> None:
        """Keep a value (up to 64 KiB packed) with the message: its next attempt, if there is one, finds it in `saved`."""
        try:
            blob = msgpack.packb(value)
            _unpack(blob)  # as the next attempt will
        except Exception as error:
            raise unencodable(value, error) from None
        if len(blob) > BLOB_BYTES_MAX:
            raise MessageTooLarge(len(blob), BLOB_BYTES_MAX)
        self._hand.inbox.say(self._hand.inbox.save, self._hand, self._index, blob)

    def _back(self, kind: BackKind, delay: float, reason: str) -> None:
        if not self.settled:
            _check(self._hand)
            self.settled = True
            inbox = self._hand.inbox
            inbox.say(inbox.back, self._hand, self._index, 1, self.by_get, kind, delay, reason[:ERROR_CHARS_MAX])

    def __enter__(self) -> Delivery[T]:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> bool:
        if error is not None:
            return self._leave(error, BackKind.NACK)
        self.ack()
        return False

    def __repr__(self) -> str:
        return f"<Delivery {self.queue}/{self.seq} attempt {self.attempt}>"


class Got(Delivery[T]):
    """A delivery that a `get` took: it counts for that, not for a consumer's credit."""

    __slots__ = ()
    by_get = True


class Batch(Settling, Sequence[Delivery[T]]):
    """Some deliveries, settled together unless you settle them singly. `with b:` acks all on success; if it raises, they come
    again one by one. `bodies` is the fast way to read them."""

    __slots__ = ("_parts", "bodies", "settled")
    by_get = False

    kind: type[Delivery[Any]] = Delivery

    def __init__(self, parts: list[Part], bodies: list[T]) -> None:
        self._parts = parts
        self.bodies = bodies
        self.settled: Settled = False

    def __len__(self) -> int:
        return len(self.bodies)

    @overload
    def __getitem__(self, place: int) -> Delivery[T]: ...
    @overload
    def __getitem__(self, place: slice) -> list[Delivery[T]]: ...
    def __getitem__(self, place: int | slice) -> Delivery[T] | list[Delivery[T]]:
        if isinstance(place, slice):
            return [self[one] for one in range(*place.indices(len(self)))]
        place = range(len(self))[place]
        rest = place
        for hand, first, count in self._parts:
            if rest < count:
                return self.kind(hand, first + rest, self.bodies[place])
            rest -= count
        raise IndexError(place)

    def __iter__(self) -> Iterator[Delivery[T]]:
        bodies, kind = iter(self.bodies), self.kind
        for hand, first, count in self._parts:
            for index in range(first, first + count):
                yield kind(hand, index, next(bodies))

    def ack(self, wait: bool = False, timeout: Duration | None = 5.0) -> None:
        """Settle all that you have not settled singly. Raises StaleLease if a lease is known to have ended: the messages of that
        one are not settled, the others are."""
        if wait:
            return run(self.acking(patience(timeout)))
        if self.settled:
            return
        good, stale = self._take_stock()
        for hand, first, count in good:
            inbox = hand.inbox
            inbox.words.append((inbox.done, hand, first, count, self.by_get, False))
            if not inbox.session.hot:
                inbox.session.heat()
        if stale is not None:
            raise stale

    def acking(self, timeout: float | None) -> Steps[None]:
        if self.settled:
            return
        good, stale = self._take_stock()
        if good:
            self.settled = yield from acking(good, self.by_get, timeout)
        if stale is not None:
            raise stale

    def _take_stock(self) -> tuple[list[Part], StaleLease | None]:
        """From here on it is settled: the parts whose leases hold; and the error if some do not."""
        for hand, _, _ in self._parts[:1]:
            _check(hand)
        self.settled = True
        good, stale = [], None
        for part in self._parts:
            hand, first, count = part
            if not hand.lease.revoked:
                good.append(part)
                continue
            hand.inbox.say(hand.inbox.drop, hand, first, count, self.by_get)
            seq = hand.lease.qseq + first
            text = f"the lease of messages {seq} to {seq + count - 1} in {hand.lease.queue} had ended: they are not settled"
            stale = stale or StaleLease(text)
        return good, stale

    def _back(self, kind: BackKind, delay: float, reason: str) -> None:
        if not self.settled:
            for hand, _, _ in self._parts[:1]:
                _check(hand)
            self.settled = True
            for hand, first, count in self._parts:
                hand.inbox.say(hand.inbox.back, hand, first, count, self.by_get, kind, delay, reason[:ERROR_CHARS_MAX])

    def __enter__(self) -> Batch[T]:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> bool:
        if error is not None:
            # A message that comes alone has nobody to be told apart from: it is the one that failed.
            return self._leave(error, BackKind.SPLIT if len(self) > 1 else BackKind.NACK)
        self.ack()
        return False

    def __repr__(self) -> str:
        return f"<Batch of {len(self)}>"


class GotBatch(Batch[T]):
    __slots__ = ()
    by_get = True
    kind = Got
