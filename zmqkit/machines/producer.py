"""One producer's stream into one queue: numbers, a window of batches under way, and what is sent again.

Rule 1 (R-P1)  Numbers are dense. `base` is the lowest number neither confirmed nor refused, and every PUT names it.
Rule 2 (R-P2)  A batch that was sent once is never changed. A new link resends from `base`, in order, the first alone
               until it is answered: the node answers a batch that it has already stored with the original CONFIRM.
Rule 3 (R-P1)  A REFUSED is always about the base batch. It fails to its caller and `base` moves on, or it is offered
               again under its numbers. What was sent behind it was dropped by the node, and is sent again.
Rule 4         Numbers are dense, so behind a refusal nothing of this stream is in the queue, and what has not been sent since never
               will be: it may be taken back, and put elsewhere.
"""

from __future__ import annotations

from collections import deque
from itertools import islice
from math import inf
from typing import Any

from zmqkit.machines.events import Postponed, Rejected, Stored
from zmqkit.parcel import Parcel
from zmqkit.wire import Code, Confirm, Put, Refused

WINDOW_BATCHES = 64
WINDOW_BYTES = 8 * 1024 * 1024
PARTIAL_BATCHES = 2  # a batch that could still grow leaves only while fewer are under way: idle means at once, busy means big
RETRY_SECONDS_MIN = 0.01
OFFER_AGAIN = (Code.STOPPING, Code.WAIT)  # refused for now: the node restarts, or the queue's policy is to wait for room


class Flight:
    """A batch under way. Immutable once made (rule 2)."""

    __slots__ = ("bytes", "count", "first", "parcel", "ticket")

    def __init__(self, ticket: Any, first: int, parcel: Parcel) -> None:
        self.ticket, self.first, self.parcel = ticket, first, parcel
        self.count, self.bytes = parcel.count, len(parcel.body)


class ProducerStream:
    """Batches from `offer` until confirmed or refused. `sends` gives what may leave now."""

    def __init__(self, queue: str) -> None:
        self.queue = queue
        self.next = 1
        self.flights: deque[Flight] = deque()
        self.retry_at = -inf  # a refused batch is offered again then
        self._bytes = 0
        self._sent = 0  # so many flights, from the front, are out on this link
        self._alone = False
        self._doubt = False  # something was sent since the base was last refused, and has no answer

    @property
    def base(self) -> int:
        return self.flights[0].first if self.flights else self.next

    @property
    def waits_until(self) -> float:
        """When `sends` has something again without an answer having come; inf: not before one."""
        return self.retry_at if self.flights and not self._sent else inf

    def has_room(self, full: bool, batches: int = WINDOW_BATCHES, size: int = WINDOW_BYTES) -> bool:
        """May one more batch be offered? `full`: it could not grow any more."""
        flights = len(self.flights)
        return flights < (batches if full else PARTIAL_BATCHES) and self._bytes < size and not self._alone

    def offer(self, parcel: Parcel, ticket: Any) -> None:
        self.flights.append(Flight(ticket, self.next, parcel))
        self.next += parcel.count
        self._bytes += len(parcel.body)

    def resume(self) -> None:
        """On a new link: nothing is out yet, and the first goes alone."""
        self._restart(-inf)

    def sends(self, now: float) -> list[Put]:
        """The PUTs to send now, in order. They count as sent."""
        last = min(1, len(self.flights)) if self._alone else len(self.flights)
        if self._sent >= last or now < self.retry_at:
            return []
        base = self.base
        out = [Put(self.queue, f.first, f.count, base, f.parcel) for f in islice(self.flights, self._sent, last)]
        self._sent, self._doubt = last, True
        return out

    def confirmed(self, confirm: Confirm) -> list[Stored]:
        """One range may cover several batches, also some that this link has not seen again yet."""
        events = []
        while self.flights and confirm.first <= self.flights[0].first < confirm.first + confirm.count:
            flight = self._pop()
            self._sent = max(0, self._sent - 1)
            events.append(Stored(flight.ticket, confirm.qseq + flight.first - confirm.first, confirm.durability))
        if events:
            self._alone, self._doubt = False, bool(self.flights)
        return events

    def refused(self, refused: Refused, now: float) -> Rejected | Postponed | None:
        if not self.flights or self.flights[0].first != refused.first:
            return None  # not about the base batch: it says nothing about ours
        self._doubt = False
        if refused.code in OFFER_AGAIN:
            self._restart(now + max(RETRY_SECONDS_MIN, refused.retry_after))
            return Postponed(self.queue) if refused.code == Code.STOPPING else None
        flight = self._pop()
        self._restart(-inf)
        return Rejected(flight.ticket, refused.code, refused.retry_after, refused.text)

    def take_back(self) -> list[Flight]:
        """Rule 4: all that is under way, for somebody else; nothing while some of it is in doubt."""
        if self._doubt:
            return []
        return self._drop()

    def lost(self) -> list[Flight]:
        """Another node answers: what is in doubt stays so, and is not for that one."""
        return self._drop() if self._doubt else []

    def _drop(self) -> list[Flight]:
        flights = [*self.flights]
        self.flights.clear()  # their numbers are passed over: the next PUT has a higher base
        self._bytes, self._doubt = 0, False
        self._restart(-inf)
        return flights

    def _pop(self) -> Flight:
        flight = self.flights.popleft()
        self._bytes -= flight.bytes
        return flight

    def _restart(self, at: float) -> None:
        # Alone also after a REFUSED: a full queue would refuse the next as well, and all behind it would travel for nothing.
        self._sent, self._alone, self.retry_at = 0, bool(self.flights), at
