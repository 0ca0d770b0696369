"""What a loop wants, a lease in an application's hands, and those who wait for what becomes of its messages."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Literal

from zmqkit import codec
from zmqkit.errors import Error, StaleLease, Timeout, fresh
from zmqkit.handles.waiting import Reply, Steps
from zmqkit.machines.holdings import HeldLease
from zmqkit.parcel import Parcel
from zmqkit.wire import Verdict

if TYPE_CHECKING:
    from zmqkit.handles.inbox import Inbox

Credit = int | Literal["auto"]
Settled = bool | Literal["unknown"]
Part = tuple["Hand", int, int]  # first and count of a lease's messages


class Demand:
    """What one loop wants. Apart from the loop, so that an inbox keeps no loop alive that was left."""

    __slots__ = ("credit", "ended", "error", "lease")

    def __init__(self, credit: Credit, lease: float) -> None:
        self.credit, self.lease = credit, lease
        self.ended = False
        self.error: Error | None = None  # why the node ended it


class Hand:
    """A lease as the application takes it: `cursor` gives each index once, to whoever asks first."""

    __slots__ = ("_columns", "_parcel", "bad", "bodies", "cursor", "got", "inbox", "last", "lease")

    def __init__(self, inbox: Inbox, lease: HeldLease) -> None:
        self.inbox, self.lease = inbox, lease
        assert isinstance(lease.parcel, Parcel)
        self._parcel = lease.parcel
        self.cursor: Iterator[int] = iter(range(lease.count))
        self.last = lease.count - 1
        self.bodies: list[Any] = []
        self.bad: dict[int, str] = {}  # what cannot be decoded, and why
        self.got = False  # a get took one of them
        self._columns: dict[str, list[Any]] | None = None

    def open_up(self) -> None:
        """Decode, at the first taking. What cannot be decoded spoils only itself."""
        try:
            self.bodies = codec.unpack_all(self._parcel.count, self._parcel.body)
        except codec.Undecodable:
            for index, message in enumerate(self._parcel.messages()):
                try:
                    self.bodies.append(codec.unpack(message))
                except codec.Undecodable as error:
                    self.bodies.append(None)
                    self.bad[index] = str(error)

    def column(self, name: str, index: int) -> Any:
        if self._columns is None:
            self._columns = self._parcel.unpack_columns()
        values = self._columns.get(name)
        return values[index] if values else None

    def __del__(self) -> None:
        # Nobody can settle its messages any more. May run anywhere, so it only leaves a note.
        if self.lease.open:
            self.inbox.forgotten.append((self.lease, self.got))


class AckWait:
    """Somebody waits for the verdicts of these messages."""

    def __init__(self, parts: list[Part]) -> None:
        self.reply = Reply()
        self.left: dict[HeldLease, int] = {}  # tokens are unique at one node only
        for hand, first, count in parts:
            self.left[hand.lease] = self.left.get(hand.lease, 0) | ((1 << count) - 1) << first
        self.verdict = Verdict.OK

    def judged(self, lease: HeldLease, mask: int, verdict: Verdict) -> None:
        if self.left.get(lease, 0) & mask:
            self.left[lease] &= ~mask
            self.verdict = verdict if verdict != Verdict.OK and self.verdict != Verdict.STALE else self.verdict
        if not any(self.left.values()):
            self.reply.set(self.verdict)


def acking(parts: list[Part], by_get: bool, timeout: float | None) -> Steps[Settled]:
    """Settle these. True or "unknown". Raises StaleLease, Timeout."""
    wait = AckWait(parts)
    for part in parts:
        inbox = part[0].inbox
        inbox.say(inbox.done, *part, by_get, True, wait)
        inbox.session.reactor.wake()
    inbox = parts[0][0].inbox
    if not (yield wait.reply, timeout):
        raise Timeout(f"no answer to the ack within {timeout:g} s: {inbox.session.why()}; it goes on", maybe_executed=True)
    verdict = wait.reply.value
    if isinstance(verdict, Exception):
        raise fresh(verdict)
    if verdict == Verdict.STALE:
        raise StaleLease(f"the lease of messages in {inbox.queue} had ended: they are not settled by this ack")
    return "unknown" if verdict == Verdict.SETTLED else True


def add_part(parts: list[Part], hand: Hand, index: int) -> None:
    if parts and parts[-1][0] is hand and sum(parts[-1][1:]) == index:
        parts[-1] = hand, parts[-1][1], parts[-1][2] + 1
    else:
        parts.append((hand, index, 1))
