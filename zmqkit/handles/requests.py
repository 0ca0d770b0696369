"""A service's inbox: leases of calls that wait for a handler, and the answers on their way out.

It is a queue's inbox (taking, gates, giving back) with three things of its own: its window follows the handlers that are free,
an answer leaves at once, and its caller may stop waiting.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Sequence
from math import inf
from operator import length_hint
from typing import TYPE_CHECKING
from weakref import WeakValueDictionary

from zmqkit.errors import Error
from zmqkit.handles.current import Current
from zmqkit.handles.hand import Hand
from zmqkit.handles.inbox import Inbox
from zmqkit.handles.session import Session
from zmqkit.handles.waiting import Listeners
from zmqkit.machines.consumer import SLOW_SECONDS, WINDOW_MAX, ConsumerState
from zmqkit.machines.holdings import HeldLease
from zmqkit.parcel import PARCEL_BYTES_MAX, Parcel
from zmqkit.reactor import now
from zmqkit.records import ranges_of
from zmqkit.wire import SERVICE_MARK, BackKind, Terms, Verdict

if TYPE_CHECKING:
    from zmqkit.handles.crew import Crew, Service

PART = -1  # stands where a status does: one part of a streamed answer
Answer = tuple["CallHand", int, int, bytes]  # index, status or PART, packed body
Run = tuple["CallHand", int, int, list[bytes]]  # index of the first
FEW_RUNS = 4  # that many are said as they came

log = logging.getLogger("zmqkit.work")


class Flow(Listeners):
    """How many parts of one streamed answer may be sent. As a waitable: one more may be, or none will be any more."""

    def __init__(self, parts: int) -> None:
        super().__init__()
        self.allowed, self.made, self.over = parts, 0, False
        self._changed = threading.Condition()

    @property
    def happened(self) -> bool:
        return self.made < self.allowed or self.over

    def wait(self, timeout: float | None) -> bool:
        with self._changed:
            return self._changed.wait_for(lambda: self.happened, timeout)

    def tell(self, allowed: int = 0, over: bool = False) -> None:
        with self._changed:
            self.allowed, self.over = max(self.allowed, allowed), self.over or over
            self._changed.notify_all()
        self._tell()


class CallHand(Hand):
    """A lease of calls as handlers take it."""

    __slots__ = ("__weakref__", "cancelled", "flow", "terms")
    inbox: Requests

    def __init__(self, inbox: Requests, lease: HeldLease) -> None:
        super().__init__(inbox, lease)
        assert lease.terms is not None, "a lease of calls"
        self.terms: Terms = lease.terms
        self.cancelled = 0  # bit i: nobody waits for call i
        self.flow = Flow(self.terms.parts) if self.terms.parts else None  # a stream comes alone

    def gone(self, index: int) -> bool:
        """Is its answer of no use any more?"""
        return bool(self.cancelled >> index & 1) or self.lease.revoked or self.inbox.session.error is not None


class Workload(ConsumerState):
    """A window that follows the handlers: what they have, what those that are free could begin at once, and work ahead."""

    def __init__(self, queue: str, crew: Crew) -> None:
        super().__init__(queue)
        self._crew, self._counted = crew, 0

    @property
    def window(self) -> int:
        if not self.autos:
            return min(WINDOW_MAX, self.fixed)
        return min(WINDOW_MAX, self.fixed + self.taken + self._crew.free + self.ahead)

    @property
    def slow_at(self) -> float:
        waits = self.open and self.autos and self.ahead and not self._crew.free
        return self._crew.taken_at + SLOW_SECONDS if waits else inf

    def report(self, handed: int, buffered: int, now: float) -> None:
        crew = self._crew
        if handed != self._handed:
            crew.taken_at = now
        super().report(handed, buffered, now)
        crew.taken += self.taken - self._counted
        self._counted = self.taken
        # What one service does says nothing of the handlers that are free for it.
        slow = self.open and now >= crew.taken_at + SLOW_SECONDS and not crew.free
        self.ahead = 0 if slow else max(1, self.ahead)


class Requests(Inbox):
    def __init__(self, crew: Crew, session: Session, name: str) -> None:
        super().__init__(session, SERVICE_MARK + name)
        self.crew, self.name = crew, name
        self.service: Service | None = None  # None: closed
        self.state = Workload(self.queue, crew)
        self.lock = crew.lock
        self.answers: deque[Answer] = deque()
        self.lined = False  # the crew knows that something waits here; with the lock held
        self._alive: WeakValueDictionary[int, CallHand] = WeakValueDictionary()  # by token: also those whose calls all run

    # -- handlers' threads ----------------------------------------------------------------------------------------------

    def take_call(self) -> Current | None:
        """The next call that may be started now."""
        while self.demands:
            hand = self.front
            if hand is not None:
                moment = now()
                if moment < hand.lease.starts_until and (index := next(hand.cursor, -1)) >= 0:
                    return Current(hand, index)  # type: ignore[arg-type]
                if moment >= hand.lease.ends_at:
                    self._expire(hand)
            if not self._advance(hand):
                return None
        return None

    def _expire(self, hand: Hand) -> None:
        """Nobody waits for these any more."""
        rest = list(hand.cursor)
        if rest:
            self.hand_back(hand.lease, rest)

    def hand_back(self, lease: HeldLease, places: Sequence[int]) -> None:
        """These were taken and not begun."""
        self.words.append((self._hand_back, lease, places))
        self.session.reactor.wake()

    def answer(self, call: Current, status: int, message: bytes) -> None:
        """The end of a call, or (PART) the next part of one."""
        self.answers.append((call.hand, call.index, status, message))
        self.session.reactor.wake()

    def waits(self) -> int:
        """Calls that could be taken, or so."""
        front = self.front
        return (length_hint(front.cursor) if front is not None else 0) + len(self._hands)

    # -- the I/O thread -------------------------------------------------------------------------------------------------

    def pump(self, moment: float) -> bool:
        if self.answers:
            self._reply()
        elif self.service is not None and self._quiet():
            return False
        super().pump(moment)
        if self.service is None and not self.demands and self.state.idle and not self._alive:
            self.session.forget(self)
        return False  # who was answered waits for it: the next turn is not put off

    def _quiet(self) -> bool:
        """Nothing is in anybody's hands, and nothing was said: a turn changes nothing here."""
        state = self.state
        return not (state.open or state.working or self.words or self.forgotten or self.restated or self.front or self._hands)

    def _reply(self) -> None:
        answers = self.answers
        told = []
        for _ in range(len(answers)):
            told.append(answers.popleft())
        runs = _runs(told)
        if len(runs) > FEW_RUNS:  # handlers that waited have ended in any order
            told.sort(key=_place)  # stable: the parts of a call stay in order, and its end behind them
            runs = _runs(told)
        for hand, first, status, messages in runs:
            self._tell_node(hand.lease, first, status, messages)

    def _tell_node(self, lease: HeldLease, first: int, status: int, messages: list[bytes]) -> None:
        machine = self.session.machine
        if status == PART:
            machine.part(lease, first, Parcel.of(messages))
        elif lease.revoked:
            machine.drop(lease, first, len(messages))
        else:
            machine.reply(lease, first, len(messages), status, Parcel.of(messages))

    def _hand_back(self, lease: HeldLease, places: Sequence[int]) -> None:
        self._given_back += len(places)
        for first, count in ranges_of(sum(1 << place for place in places)):
            if lease.revoked:
                self.session.machine.drop(lease, first, count)
            else:
                self.session.machine.back(lease, first, count, BackKind.UNSTARTED)

    def _notify(self, count: int | None) -> None:
        self.news += 1
        self.crew.notify(self, count)

    # -- the I/O thread: events -----------------------------------------------------------------------------------------

    def granted(self, lease: HeldLease) -> None:
        hand = self._alive[lease.token] = CallHand(self, lease)
        with self.lock:
            self._hands.append(hand)
            self._received += lease.count
            self._notify(lease.count)

    def revoked(self, lease: HeldLease) -> None:
        super().revoked(lease)
        self._gone(lease)

    def cancelled(self, lease: HeldLease, offset: int, count: int) -> None:
        """Nobody waits for these any more: what was not begun goes back, what runs is told."""
        hand = self._alive.get(lease.token)
        if hand is None:
            return
        mask = ((1 << count) - 1) << offset
        with self.lock:
            hand.cancelled |= mask
            rest = list(hand.cursor)
            kept = [index for index in rest if not mask >> index & 1]
            hand.cursor = iter(kept)
        self._hand_back(lease, [index for index in rest if mask >> index & 1])
        self._gone(lease)

    def allowed(self, lease: HeldLease, parts: int) -> None:
        hand = self._alive.get(lease.token)
        if hand is not None and hand.flow is not None:
            hand.flow.tell(parts)

    def _gone(self, lease: HeldLease) -> None:
        hand = self._alive.get(lease.token)
        if hand is not None:
            if hand.flow is not None:
                hand.flow.tell(over=True)
            self.crew.gone(hand)

    def bar(self, error: Error) -> None:
        self.state.stated = 0
        self.crew.bar(self, error)

    def judged(self, lease: HeldLease, first: int, count: int, verdict: Verdict) -> None:
        if verdict == Verdict.STALE:
            log.info("service %s: %d answers came too late, the lease had ended", self.name, count)

    def fail(self) -> None:
        super().fail()
        for hand in list(self._alive.values()):
            self._gone(hand.lease)


def _runs(told: Sequence[Answer]) -> list[Run]:
    """Neighbours that ended alike go together, and so do parts of one call."""
    runs: list[Run] = []
    before, wanted, its_status, size = None, 0, 0, 0
    messages: list[bytes] = []
    for hand, index, status, message in told:
        size += len(message)
        if hand is before and index == wanted and status == its_status and size <= PARCEL_BYTES_MAX:
            messages.append(message)
        else:
            before, wanted, its_status, size, messages = hand, index, status, len(message), [message]
            runs.append((hand, index, status, messages))
        if status != PART:
            wanted += 1
    return runs


def _place(answer: Answer) -> tuple[int, int]:
    return answer[0].lease.token, answer[1]
