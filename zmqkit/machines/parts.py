"""Where a queue's messages are: whole parcels nobody has touched, and parcels that somebody has begun.

A message is in exactly one container. `Backlog` holds whole, ready parcels in columns (28 bytes each, so ten million
messages cost less than a megabyte). A parcel that is leased from becomes a `Batch`: one bitmask per container, bit i for
its i-th message. No message is ever an object here.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right, insort
from collections import deque
from collections.abc import Iterable, Iterator
from itertools import accumulate
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from zmqkit.machines.queue import Queue
    from zmqkit.machines.topic import Landing, Topic

TRIM = 4096  # how many taken rows a backlog keeps in front before it gives the memory back


def move(positions: array[int], source: int, position: int, head: int = 0) -> bool:
    """In a column, from `head` on: the body at `source` now stands at `position`. False: it is not there."""
    try:
        positions[positions.index(source, head)] = position
    except ValueError:
        return False
    return True


class Row(NamedTuple):
    qseq: int
    count: int  # type: ignore[assignment]
    position: int
    size: int  # bytes of body
    at: float


class Batch:
    """A parcel that is partly leased, returned or settled. What is in no mask is settled."""

    __slots__ = ("at", "back", "count", "dead", "delayed", "fresh", "leased", "position", "qseq", "returning", "size", "suspect")

    def __init__(self, row: Row) -> None:
        self.qseq, self.count, self.position, self.size, self.at = row
        self.fresh = (1 << self.count) - 1  # never leased
        self.back = 0  # returned, ready again
        self.delayed = 0  # returned, waits for its time
        self.leased = 0
        self.returning = 0  # its lease has ended; ready again once that is durable
        self.dead = 0
        self.suspect = 0  # a property, not a place: leased alone

    @property
    def ready(self) -> int:
        return self.fresh | self.back

    @property
    def unsettled(self) -> int:
        return self.fresh | self.back | self.delayed | self.leased | self.returning | self.dead


class Backlog:
    """Whole parcels, first in first out, dense in qseq."""

    __slots__ = ("counts", "head", "messages", "positions", "qseq", "sizes", "times")

    def __init__(self) -> None:
        self.positions = array("Q")
        self.counts = array("I")
        self.sizes = array("I")
        self.times = array("d")
        self.head = 0  # rows before it are taken
        self.qseq = 1  # of the row at the head
        self.messages = 0

    def append(self, row: Row) -> None:
        if not self.messages:
            self.qseq = row.qseq
        self.positions.append(row.position)
        self.counts.append(row.count)
        self.sizes.append(row.size)
        self.times.append(row.at)
        self.messages += row.count

    def first(self) -> Row:
        head = self.head
        return Row(self.qseq, self.counts[head], self.positions[head], self.sizes[head], self.times[head])

    def pop(self) -> Row:
        row = self.first()
        self.head += 1
        self.qseq += row.count
        self.messages -= row.count
        if self.head >= TRIM and 2 * self.head >= len(self.counts):
            for column in (self.positions, self.counts, self.sizes, self.times):
                del column[: self.head]
            self.head = 0
        return row

    def clear(self) -> None:
        while self.messages:
            self.pop()

    def rows(self, after: int = 0) -> Iterator[Row]:
        """All, or those from the one on that holds the first number above `after`."""
        first, qseq = self.head, self.qseq
        if after >= qseq:
            starts = self._starts()
            skipped = bisect_right(starts, after + 1) - 1
            first, qseq = first + skipped, starts[skipped]
        for index in range(first, len(self.counts)):
            yield Row(qseq, self.counts[index], self.positions[index], self.sizes[index], self.times[index])
            qseq += self.counts[index]

    def find(self, qseqs: Iterable[int]) -> Iterator[tuple[int, Row]]:
        """Those of the numbers that are here, each with its row; one pass for them all."""
        starts = self._starts()
        for qseq in qseqs:
            row = bisect_right(starts, qseq) - 1
            if 0 <= row < len(starts) - 1:
                index = self.head + row
                yield qseq, Row(starts[row], self.counts[index], self.positions[index], self.sizes[index], self.times[index])

    def _starts(self) -> list[int]:
        """The first number of each row, and the one behind the last."""
        return list(accumulate(self.counts[self.head :], initial=self.qseq))

    def move(self, source: int, position: int) -> bool:
        """The parcel at `source` now stands at `position`."""
        return move(self.positions, source, position, self.head)


class Batches:
    """The begun parcels of one queue, findable by any of their messages."""

    __slots__ = ("_by_qseq", "_order")

    def __init__(self) -> None:
        self._by_qseq: dict[int, Batch] = {}
        self._order: list[int] = []

    def __len__(self) -> int:
        return len(self._order)

    def __iter__(self) -> Iterator[Batch]:
        """In order of qseq; safe against changes meanwhile."""
        return iter([self._by_qseq[qseq] for qseq in self._order])

    def add(self, batch: Batch) -> None:
        self._by_qseq[batch.qseq] = batch
        insort(self._order, batch.qseq)

    def remove(self, batch: Batch) -> None:
        del self._by_qseq[batch.qseq]
        del self._order[bisect_right(self._order, batch.qseq) - 1]

    def at(self, qseq: int) -> Batch:
        """The batch that begins with this message."""
        return self._by_qseq[qseq]

    def find(self, qseq: int) -> Batch | None:
        """The batch this message is in."""
        index = bisect_right(self._order, qseq) - 1
        if index < 0:
            return None
        batch = self._by_qseq[self._order[index]]
        return batch if qseq < batch.qseq + batch.count else None

    def between(self, first: int, last: int) -> Iterator[Batch]:
        """Those that hold any message of first…last."""
        index = max(0, bisect_right(self._order, first) - 1)
        for qseq in self._order[index:]:
            if qseq > last:
                return
            batch = self._by_qseq[qseq]
            if batch.qseq + batch.count > first:
                yield batch


class Returned(NamedTuple):
    """Messages whose lease has ended, on their way back to ready."""

    batch: Batch
    mask: int
    due: float


# What waits for durability: (position, owner, a new parcel | returned messages | updates | a position nobody needs any more).
Waiting = deque[tuple[int, "Queue | Topic", "Row | Returned | Landing | int"]]
