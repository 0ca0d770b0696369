"""The receiving side of one queue: leases that wait to be taken, and what the application says of those it took.

All consumers and gets of one client on one queue share an inbox. Taking a message is one step of a range iterator, which is
atomic: no lock, and never twice. Words (acks and the like) go into a deque that the I/O thread empties, joined into ranges.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from itertools import islice
from operator import length_hint
from typing import Any

from zmqkit import codec
from zmqkit.errors import Closed, Error, StaleLease, Timeout, fresh
from zmqkit.handles.hand import AckWait, Hand, Part, add_part
from zmqkit.handles.intake import Convert, D, Intake
from zmqkit.handles.session import Session
from zmqkit.handles.waiting import Reply
from zmqkit.machines.consumer import ConsumerState
from zmqkit.machines.holdings import HeldLease
from zmqkit.reactor import now
from zmqkit.records import ranges_of
from zmqkit.wire import BackKind, Verdict

STALE_KEPT = 1000



class Inbox(Intake):
    def __init__(self, session: Session, queue: str) -> None:
        super().__init__(session.nodes, queue)
        self.session = session
        self.state: ConsumerState = ConsumerState(queue)  # the machine's, from the first turn on
        self.words: deque[Any] = deque()  # deliveries to ack, or (method, *arguments)
        self.forgotten: deque[tuple[HeldLease, bool]] = deque()
        self.probes: dict[Reply, int | None] = {}  # gets that ask whether there is anything, and the beat before their question
        self.restated = True  # for the I/O thread: who consumes, and what gets want, has changed
        self._hands: deque[Hand] = deque()  # behind `front`
        self._taken_by_get = self._settled_by_get = 0  # written by takers, by the I/O thread
        self._received = self._given_back = 0
        self._ack_waits: list[AckWait] = []

    # -- taking: any thread ---------------------------------------------------------------------------------------------

    def take(self, kind: type[D], convert: Convert) -> D | None:
        while True:
            hand = self.front
            if hand is None or now() >= hand.lease.starts_until or (index := next(hand.cursor, -1)) < 0:
                if not self._advance(hand):
                    return None
                continue
            if index == hand.last and self.state.autos:
                self.session.reactor.wake()  # the window follows what was taken
            try:
                body = self._body(hand, index, convert)
            except codec.Undecodable as error:
                self.say(self.back, hand, index, 1, False, BackKind.REJECT, -1.0, str(error))
                continue
            if kind.by_get:
                self.took_by_get(hand, 1)
            return kind(hand, index, body)

    def take_many(self, most: int, convert: Convert) -> tuple[list[Part], list[Any]]:
        parts: list[Part] = []
        bodies: list[Any] = []
        while len(bodies) < most:
            hand = self.front
            indexes = list(islice(hand.cursor, most - len(bodies))) if hand is not None and now() < hand.lease.starts_until else []
            if hand is None or not indexes:
                if not self._advance(hand):
                    break
                continue
            if convert is None and not hand.bad:
                parts.append((hand, indexes[0], len(indexes)))
                bodies += hand.bodies[indexes[0] : indexes[-1] + 1]
                continue
            for index in indexes:
                try:
                    bodies.append(self._body(hand, index, convert))
                except codec.Undecodable as error:
                    self.say(self.back, hand, index, 1, False, BackKind.REJECT, -1.0, str(error))
                else:
                    add_part(parts, hand, index)
        if parts and self.state.autos:
            self.session.reactor.wake()
        return parts, bodies

    @staticmethod
    def _body(hand: Hand, index: int, convert: Convert) -> Any:
        if index in hand.bad:
            raise codec.Undecodable(hand.bad[index])
        return convert(hand.bodies[index]) if convert else hand.bodies[index]

    def _advance(self, seen: Hand | None) -> bool:
        """`seen` gave nothing: put the next lease in front. False: there is nothing to take now."""
        with self.lock:
            if self.front is not seen:
                return True  # another thread was faster
            if seen is not None and not seen.lease.revoked and length_hint(seen.cursor):
                return now() < seen.lease.starts_until  # some of it just went back, and here is the rest; else the gate is shut
            if self._hands:
                self._hands[0].open_up()  # before it is in front: whoever takes from there holds no lock
            self.front = self._hands.popleft() if self._hands else None
            return self.front is not None

    def took_by_get(self, hand: Hand, count: int) -> None:
        with self.lock:
            self._taken_by_get += count
            hand.got = self.restated = True

    def seek(self, count: int, probe: bool) -> Reply:
        question = Reply()
        with self.changed:
            self.waiting += count
            if probe:
                self.probes[question] = None
        self.restate()
        return question

    def sought(self, count: int, question: Reply) -> None:
        with self.changed:
            self.waiting -= count
            self.probes.pop(question, None)
        self.restate()

    @property
    def unsaid(self) -> bool:
        return bool(self.words)

    def restate(self) -> None:
        self.restated = True
        self.session.reactor.wake()

    # -- words: any thread ----------------------------------------------------------------------------------------------

    def say(self, method: Callable[..., Any], *arguments: Any) -> None:
        """Run `method(*arguments)` on the I/O thread, in order with the acks."""
        if self.session.error is not None:
            raise fresh(self.session.error)
        self.words.append((method, *arguments))
        if not self.session.hot:
            self.session.heat()

    # -- the I/O thread: words --------------------------------------------------------------------------------------------

    def _collect(self) -> None:
        """Acks that follow one another become one range."""
        words, done = self.words, self.done
        hand: Hand | None = None
        first = end = 0
        by_get = False
        for _ in range(len(words)):
            word = words.popleft()
            if word.__class__ is tuple:
                if hand is not None:
                    done(hand, first, end - first, by_get)
                    hand = None
                word[0](*word[1:])
            elif word._hand is hand and word._index == end and word.by_get is by_get:
                end += 1
            else:
                if hand is not None:
                    done(hand, first, end - first, by_get)
                hand, first, by_get = word._hand, word._index, word.by_get
                end = first + 1
        if hand is not None:
            done(hand, first, end - first, by_get)

    def done(self, hand: Hand, first: int, count: int, by_get: bool, wait: bool = False, waiter: AckWait | None = None) -> None:
        lease = hand.lease
        if waiter is not None:
            lease.watched = True
            self._ack_waits.append(waiter) if waiter not in self._ack_waits else None
        if not lease.revoked:
            self._count_get(by_get, self.session.machine.done(lease, first, count, wait))
        elif self.drop(hand, first, count, by_get) or waiter is not None:
            self.judged(lease, first, count, Verdict.STALE)

    def back(self, hand: Hand, first: int, count: int, by_get: bool, kind: BackKind, delay: float, reason: str) -> None:
        if hand.lease.revoked:
            self.drop(hand, first, count, by_get)
        else:
            self._count_get(by_get, self.session.machine.back(hand.lease, first, count, kind, delay, reason))

    def drop(self, hand: Hand, first: int, count: int, by_get: bool) -> int:
        dropped = self.session.machine.drop(hand.lease, first, count)
        self._count_get(by_get, dropped)
        return dropped

    def save(self, hand: Hand, index: int, blob: bytes) -> None:
        if not hand.lease.revoked:
            self.session.machine.holdings.save(hand.lease, index, blob)

    def _count_get(self, by_get: bool, settled: int) -> None:
        if by_get:
            self._settled_by_get += settled
            self.restated = True

    # -- the I/O thread: turns ----------------------------------------------------------------------------------------------

    def pump(self, moment: float) -> bool:
        """Collect words, say what the application has taken, give back what nobody wants. True: there were words."""
        collected = bool(self.words)
        if collected:
            self._collect()
        if self.forgotten:
            self._give_back_forgotten()
        if self.restated:
            self._restate()
        front, state = self.front, self.state
        buffered = length_hint(front.cursor) if front is not None else 0
        if front is not None and not buffered:
            self._let_go(front)
        for hand in list(self._hands):  # a thread may take the first one meanwhile
            buffered += length_hint(hand.cursor)
        unheard = state.received - self._received  # in events that will be handled after this
        state.idle_handlers = self.idle
        state.report(self._received - self._given_back - buffered, buffered + unheard, moment)
        if buffered and state.excess:
            self._give_back(state.excess)
        return collected

    def _let_go(self, spent: Hand) -> None:
        """Keep it no longer than those who took its messages do, so that dropping the last of these is noticed."""
        with self.lock:
            if self.front is spent:
                self.front = None

    def _restate(self) -> None:
        """Somebody came, went, or asked for something else."""
        self.restated = False
        machine, state, demands = self.session.machine, self.state, [demand for demand in list(self.demands) if not demand.ended]
        machine.consumers.setdefault(self.queue, state)
        for probe, beat in list(self.probes.items()):
            if beat is None:
                machine.hurry()
                self.probes[probe] = machine.beats.number
        # After the probes: a get adds to `waiting` before it asks, so no question leaves with a window that lacks it.
        if not machine.stopping:
            gone = self.session.leaving
            state.fixed = self.nodes.share(self.session, sum(demand.credit for demand in demands if demand.credit != "auto"))
            state.autos = 0 if gone else sum(demand.credit == "auto" for demand in demands)
            state.waiting = 0 if gone else self.waiting
            state.lease = max((demand.lease for demand in demands), default=0.0)
        state.got = self._taken_by_get - self._settled_by_get
        self.tell(None)

    def _all_hands(self) -> list[Hand]:
        front = self.front
        return [*([front] if front is not None else []), *self._hands]

    def _give_back(self, count: int) -> None:
        """The last `count` of what waits goes back, uncounted."""
        with self.lock:
            for hand in reversed(self._all_hands()):
                rest = list(hand.cursor)  # atomic: from here on nobody else takes one of them
                kept = max(0, len(rest) - count)
                if kept:
                    hand.last = rest[kept - 1]
                    hand.cursor = iter(rest[:kept])
                gone = len(rest) - kept
                if gone:
                    self._given_back += gone
                    self.state.buffered -= gone
                    self.session.machine.back(hand.lease, rest[kept], rest[-1] + 1 - rest[kept], BackKind.UNSTARTED)
                count -= gone
                if count <= 0:
                    break
            self._hands = deque(hand for hand in self._hands if length_hint(hand.cursor))

    def _give_back_forgotten(self) -> None:
        machine = self.session.machine
        for _ in range(len(self.forgotten)):
            lease, got = self.forgotten.popleft()
            for first, count in ranges_of(lease.open):
                self._count_get(got, min(count, self._taken_by_get - self._settled_by_get))
                if lease.revoked:
                    machine.drop(lease, first, count)
                elif got or self.demands:
                    machine.back(lease, first, count, BackKind.NACK, -1.0, "dropped without ack, nack or reject")
                else:  # the loop was left with it in hand
                    machine.back(lease, first, count, BackKind.UNSTARTED)

    # -- the I/O thread: events ---------------------------------------------------------------------------------------------

    def granted(self, lease: HeldLease) -> None:
        with self.lock:
            self._hands.append(Hand(self, lease))
            self._received += lease.count
            self._notify(lease.count)

    def revoked(self, lease: HeldLease) -> None:
        """What waits of it is dropped. What runs is told when it wants to settle."""
        with self.lock:
            for hand in self._all_hands():
                if hand.lease is lease:
                    rest = list(hand.cursor)
                    self._given_back += len(rest)
                    if rest:
                        self.session.machine.drop(lease, rest[0], rest[-1] + 1 - rest[0])
            self._hands = deque(hand for hand in self._hands if hand.lease is not lease)

    def judged(self, lease: HeldLease, first: int, count: int, verdict: Verdict) -> None:
        mask = ((1 << count) - 1) << first
        waits = [wait for wait in self._ack_waits if wait.left.get(lease, 0) & mask]
        for wait in waits:
            wait.judged(lease, mask, verdict)
        self._ack_waits = [wait for wait in self._ack_waits if any(wait.left.values())]
        if verdict == Verdict.STALE and not waits and len(self.stale) < STALE_KEPT:
            seqs = f"{lease.qseq + first}" + (f" to {lease.qseq + first + count - 1}" if count > 1 else "")
            self.stale.append(StaleLease(f"the lease of message {seqs} in {self.queue} had ended: not settled by that ack"))
            self.tell(None)

    def bar(self, error: Error) -> None:
        self.state.stated = 0
        super().bar(error)

    def echoed(self, beat: int, behind: bool) -> None:
        if behind:
            for probe in [probe for probe, before in list(self.probes.items()) if before is not None and beat > before]:
                self.probes.pop(probe, None)
                probe.set(None)
        self.tell(None)

    def fail(self) -> None:
        error = self.session.error or Closed("closed")
        for wait in self._ack_waits:
            wait.reply.set(Timeout("closed before the ack was answered", maybe_executed=True) if isinstance(error, Closed) else error)
        for probe in list(self.probes):
            probe.set(None)
        self.tell(None)
