"""A client's calls: from being made to their one outcome, over links that come and go.

Rule 1         Every call ends in exactly one event, at its deadline at the latest; the node's own verdict may come VERDICT_SECONDS later.
Rule 2 (R-C1)  A new link repeats what is open, under its numbers: the node dispatches no number twice.
Rule 3 (R-C2)  What was sent to a node that has restarted since, or to another one, may have been executed. Only a call with a key
               may be made again, and no refusal is definite then.
Rule 4         A CANCEL has no answer; the echo of a beat sent after it proves that it arrived. Until then a new link repeats it: without a
               deadline a stream would wait for its caller for ever.
Rule 5         REPLYs are numbered. The next one is taken, any other has come before or will come again.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from heapq import heapify, heappop, heappush
from math import inf
from typing import Any

from zmqkit.machines.events import Answered, Event, Failed, Outcome, Parts
from zmqkit.parcel import Parcel
from zmqkit.records import ranges_of
from zmqkit.wire import ATTEMPTS_MAX, Call, Cancel, Code, More, Part, Refused, Reply, Status

VERDICT_SECONDS = 0.05  # after the deadline: the node knows whether a worker had it
WINDOW_CALLS = 8192  # under way at once; more wait here
CUT_SECONDS = 600.0  # a node forgets the calls of a client of which it has not heard for twice as long
SPENT = Parcel(0, b"", b"")
_ANSWERS = Status.OK, Status.ERROR, Status.END  # by their numbers
_VERDICTS = {
    Status.NO_WORKER: Outcome.NO_WORKER, Status.UNDISPATCHED: Outcome.UNDISPATCHED, Status.MAYBE_EXECUTED: Outcome.MAYBE_EXECUTED,
}  # fmt: skip
_REFUSALS = {
    Code.QUOTA: Outcome.QUOTA, Code.STOPPING: Outcome.STOPPING, Code.FORBIDDEN: Outcome.FORBIDDEN,
    Code.MAYBE_EXECUTED: Outcome.MAYBE_EXECUTED,
}  # fmt: skip


class Flight:
    """Calls of one service under one deadline. Bit i of `open` is call first + i."""

    __slots__ = ("attempts", "count", "deadline", "doubt", "epoch", "first", "got", "key", "last", "open", "out", "parcel", "parts",
                 "service", "ticket")  # fmt: skip

    def __init__(self, service: str, first: int, parcel: Parcel, ticket: Any, deadline: float, attempts: int, key: str, parts: int) -> None:
        self.service, self.first, self.parcel, self.ticket = service, first, parcel, ticket
        self.deadline, self.attempts, self.key = deadline, min(attempts, ATTEMPTS_MAX), key
        self.count = parcel.count
        self.open = (1 << parcel.count) - 1
        self.epoch = 0  # of the node when it was sent first; 0: it was not, or with a key, to a node that has restarted since
        self.doubt = False  # the latter
        self.out = False  # on this link
        self.parts = parts  # of a stream: allowed in all; 0: it is none
        self.got = self.last = 0  # parts that the application took, that came

    def command(self, offset: int, count: int, now: float, replied: int) -> Call:
        seconds = min(1e10, max(0.0, self.deadline - now))
        parcel = self.parcel if count == self.count else self.parcel.split(offset, count)
        return Call(
            self.service, self.first + offset, count, seconds, self.attempts, self.epoch, self.key, self.parts and self.parts - self.got,
            replied, parcel,
        )  # fmt: skip


class Calling:
    def __init__(self) -> None:
        self.replied = 0  # serial of the newest REPLY, in this epoch of this node
        self.events: list[Event] = []  # what became of calls
        self._epoch = 0  # of the node on this link
        self._next = 1
        self.flights: dict[int, Flight] = {}  # without an outcome, by their first number
        self._firsts: list[int] = []
        self._by_ticket: dict[Any, Flight] = {}
        self.unsent: deque[Flight] = deque()  # on this link
        self.words: list[Cancel | More] = []
        self._unproven: deque[tuple[int, Cancel]] = deque()  # said; the echo of a beat above this one proves it
        self._under_way = 0  # calls that were sent on this link and are open
        self._due: list[tuple[float, int]] = []  # a heap of deadlines and first numbers
        self._since = -inf  # of this link: the node heard of us then

    # -- the handles --------------------------------------------------------------------------------------------------

    def call(
        self, service: str, parcel: Parcel, ticket: Any, deadline: float, attempts: int, key: str = "", parts: int = 0
    ) -> None:
        """Make these calls. A keyed call or a stream (`parts` > 0) is a parcel of one."""
        flight = Flight(service, self._next, parcel, ticket, deadline, attempts, key, parts)
        self._next += parcel.count
        self.flights[flight.first] = self._by_ticket[ticket] = flight
        self._firsts.append(flight.first)
        self.unsent.append(flight)
        if len(self.unsent) > 1000 + 2 * len(self.flights):  # those that were given up while the link was down
            self.unsent = deque(flight for flight in self.unsent if flight.open)
        if deadline < inf:
            heappush(self._due, (deadline, flight.first))
            if len(self._due) > 1000 + 2 * len(self.flights):
                self._due = [entry for entry in self._due if entry[1] in self.flights]
                heapify(self._due)

    def cancel(self, ticket: Any, index: int) -> None:
        """Nobody waits for this call any more. No event follows, unless it has ended in this very turn."""
        flight = self._by_ticket.get(ticket)
        if flight is not None and flight.open >> index & 1:
            if flight.epoch:
                self.words.append(Cancel(flight.first + index, 0, 1))
            self._close(flight, 1 << index)

    def more(self, ticket: Any, parts: int, got: int) -> None:
        """Of a stream: so many parts are allowed in all, and so many were taken."""
        flight = self._by_ticket.get(ticket)
        if flight is not None:
            flight.parts, flight.got = parts, got
            self.words.append(More(flight.first, 0, parts, got))

    def flee(self) -> None:
        """The link is down, and other nodes are there: give up what may be made there. The rest waits for this node."""
        for flight in list(self.flights.values()):
            if not flight.epoch:
                self._fail(flight, flight.open, Outcome.NOT_SENT, "the link is down")
            elif flight.key:
                self._fail(flight, flight.open, Outcome.MAYBE_EXECUTED, "the link went down behind it")

    # -- the link -----------------------------------------------------------------------------------------------------

    def down(self) -> None:
        """Rule 4. Nothing else that was to be said of calls outlives a link: `resume` says how they stand then."""
        self.words = [*(cancel for _, cancel in self._unproven), *(word for word in self.words if type(word) is Cancel)]
        self._unproven.clear()

    def echoed(self, beat: int) -> None:
        """READY number `beat` has come back."""
        while self._unproven and self._unproven[0][0] < beat:
            self._unproven.popleft()

    def resume(self, epoch: int, changed: bool, now: float, proven: float) -> None:
        """On a new link. `changed`: another node than before answers; `proven`: then we sent the newest beat that came back."""
        restarted = changed or epoch != self._epoch
        away = now - max(proven, self._since) > CUT_SECONDS
        self._epoch, self._since = epoch, now
        self.replied = 0 if restarted else self.replied
        self.words = [word for word in self.words if type(word) is Cancel and not restarted]
        for flight in list(self.flights.values()):
            if flight.epoch and flight.key and restarted:
                flight.epoch, flight.doubt = 0, True
            elif flight.epoch and (restarted or away):
                self._fail(flight, flight.open, Outcome.MAYBE_EXECUTED, "the node has restarted since, or forgotten it")
            elif flight.parts and flight.epoch:
                self.words.append(More(flight.first, 0, flight.parts, flight.got))
        self.unsent = deque(self.flights.values())
        self._under_way = 0
        for flight in self.unsent:
            flight.out = False

    def sends(self, now: float, beat: int) -> list[Call | Cancel | More]:
        """What is to be said now; `beat`: the last one sent. A call that comes again precedes the words about it."""
        said: list[Call | Cancel | More] = []
        while self.unsent and self._under_way < WINDOW_CALLS:
            flight = self.unsent.popleft()
            if flight.open:
                flight.out = True
                self._under_way += flight.open.bit_count()
                for offset, count in ranges_of(flight.open):
                    said.append(flight.command(offset, count, now, self.replied))
                flight.epoch = flight.epoch or self._epoch
        if self.words:
            said += self.words
            self._unproven.extend((beat, word) for word in self.words if type(word) is Cancel)
            self.words = []
        return said

    def replied_to(self, reply: Reply) -> None:
        if reply.serial != self.replied + 1:
            return  # rule 5
        self.replied = reply.serial
        place = 0
        for number, _, count, status in reply.ranges:
            end = number + count
            while number < end:
                flight = self._find(number)
                length = min(end, flight.first + flight.count if flight is not None else number + 1) - number
                if flight is not None:
                    bodies = reply.parcel if length == reply.count else reply.parcel.split(place, length)
                    self._ended(flight, number - flight.first, length, status, bodies)
                number, place = number + length, place + length

    def _ended(self, flight: Flight, offset: int, count: int, status: int, parcel: Parcel) -> None:
        for first, length in ranges_of(((1 << count) - 1) << offset & flight.open):
            bodies = parcel if length == count else parcel.split(first - offset, length)
            if status < len(_ANSWERS):
                self.events.append(Answered(flight.ticket, first, length, _ANSWERS[status], bodies))
                self._close(flight, ((1 << length) - 1) << first)
            else:
                text = bytes(bodies.messages()[0]).decode(errors="replace")
                self._fail(flight, ((1 << length) - 1) << first, _VERDICTS[Status(status)], text)

    def refused(self, refused: Refused) -> None:
        outcome = _REFUSALS.get(refused.code, Outcome.MALFORMED)  # type: ignore[call-overload]
        number, end = refused.first, refused.first + refused.count
        while number < end:
            flight = self._find(number)
            if flight is None:
                return
            mask = ((1 << end - number) - 1) << number - flight.first
            self._fail(flight, mask, outcome, refused.text, refused.retry_after)
            number = flight.first + flight.count

    def part(self, part: Part) -> None:
        flight = self._find(part.number)
        new = part.first + part.count - 1 - flight.last if flight is not None else 0
        if flight is not None and part.first <= flight.last + 1 and new > 0:
            self.events.append(Parts(flight.ticket, flight.last + 1, part.parcel.split(part.count - new, new)))
            flight.last += new

    # -- time ---------------------------------------------------------------------------------------------------------

    @property
    def deadline(self) -> float:
        if self.events:
            return -inf
        if not self.flights:
            return inf
        while self._due and self._due[0][1] not in self.flights:
            heappop(self._due)
        return self._due[0][0] if self._due else inf

    def tick(self, now: float, up: bool) -> None:
        while self._due and self._due[0][0] <= now:
            flight = self.flights.get(heappop(self._due)[1])
            if flight is None:
                continue
            if not flight.epoch:
                self._fail(flight, flight.open, Outcome.NOT_SENT, "no link to the node in time")
            elif up and now < flight.deadline + VERDICT_SECONDS:
                heappush(self._due, (flight.deadline + VERDICT_SECONDS, flight.first))  # rule 1
            else:
                self.words.append(Cancel(flight.first, 0, flight.count))
                self._fail(flight, flight.open, Outcome.MAYBE_EXECUTED, "no answer in time")

    # -- ends ---------------------------------------------------------------------------------------------------------

    def _find(self, number: int) -> Flight | None:
        flight = self.flights.get(number)
        if flight is None:
            place = bisect_right(self._firsts, number)
            flight = self.flights[self._firsts[place - 1]] if place else None
        return flight if flight is not None and number < flight.first + flight.count else None

    def _fail(self, flight: Flight, mask: int, outcome: Outcome, text: str, retry_after: float = 0.0) -> None:
        mask &= flight.open
        if flight.doubt and outcome is not Outcome.MAYBE_EXECUTED:
            outcome, text = Outcome.MAYBE_EXECUTED, f"the node has restarted since it was sent first, and now: {text}"
        for offset, count in ranges_of(mask):
            self.events.append(Failed(flight.ticket, offset, count, outcome, text, retry_after))
        self._close(flight, mask)

    def _close(self, flight: Flight, mask: int) -> None:
        flight.open &= ~mask
        if flight.out:
            self._under_way -= mask.bit_count()
        if not flight.open:
            flight.parcel = SPENT
            del self.flights[flight.first], self._by_ticket[flight.ticket]
            del self._firsts[bisect_right(self._firsts, flight.first) - 1]
