"""A topic's newest updates: where each batch of them stands, dense in seq, in columns of 28 bytes a batch.

A batch has a place for ever (0, 1, 2…), also once those before it are gone; so whoever reads on needs no search.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Iterator
from typing import Any

from zmqkit.machines.parts import TRIM, Row, move


class History:
    __slots__ = ("base", "counts", "firsts", "head", "messages", "next_seq", "positions", "size", "sizes", "times")

    def __init__(self) -> None:
        self.firsts = array("Q")
        self.positions = array("Q")
        self.counts = array("I")
        self.sizes = array("I")
        self.times = array("d")
        self.base = 0  # place of the first entry of the columns
        self.head = 0  # entries before it are gone
        self.next_seq = 1  # of the next update
        self.messages = self.size = 0

    @property
    def first(self) -> int:
        """Place of the oldest batch; `end` if there is none."""
        return self.base + self.head

    @property
    def end(self) -> int:
        return self.base + len(self.firsts)

    @property
    def floor(self) -> int:
        """The oldest update that is here; the next one's number if there is none."""
        return self.firsts[self.head] if self.head < len(self.firsts) else self.next_seq

    def append(self, row: Row) -> None:
        self.firsts.append(row.qseq)
        self.positions.append(row.position)
        self.counts.append(row.count)
        self.sizes.append(row.size)
        self.times.append(row.at)
        self.next_seq = row.qseq + row.count
        self.messages += row.count
        self.size += row.size

    def at(self, place: int) -> Row:
        index = place - self.base
        return Row(self.firsts[index], self.counts[index], self.positions[index], self.sizes[index], self.times[index])

    def pop(self) -> Row:
        row = self.at(self.first)
        self.head += 1
        self.messages -= row.count
        self.size -= row.size
        if self.head >= TRIM and 2 * self.head >= len(self.firsts):
            for column in (self.firsts, self.positions, self.counts, self.sizes, self.times):
                del column[: self.head]
            self.base += self.head
            self.head = 0
        return row

    def place_of(self, seq: int) -> int:
        """Of the batch with this update; of the first if it is older than all, `end` if it is still to come."""
        if seq >= self.next_seq:
            return self.end
        return self.base + max(self.head, bisect_right(self.firsts, seq, self.head) - 1)

    def place_since(self, time: float) -> int:
        """Of the first batch that is not older."""
        for place in range(self.first, self.end):
            if self.times[place - self.base] >= time:
                return place
        return self.end

    def move(self, source: int, position: int) -> bool:
        """The batch at `source` now stands at `position`."""
        return move(self.positions, source, position, self.head)

    # -- memory -------------------------------------------------------------------------------------------------------

    def columns(self, most: int) -> Iterator[tuple[bytes, bytes, bytes, bytes]]:
        """Positions, counts, sizes and times, of up to `most` batches each."""
        for start in range(self.head, len(self.firsts), most):
            rows = slice(start, start + most)
            yield self.positions[rows].tobytes(), self.counts[rows].tobytes(), self.sizes[rows].tobytes(), self.times[rows].tobytes()

    def restore(self, floor: int, *packed: bytes) -> None:
        """Columns that follow what is here; `floor`: of the first."""
        columns: tuple[Any, ...] = array("Q"), array("I"), array("I"), array("d")
        for column, data in zip(columns, packed, strict=True):
            column.frombytes(data)
        if not self.firsts:
            self.next_seq = floor
        for position, count, size, time in zip(*columns, strict=True):
            self.append(Row(self.next_seq, count, position, size, time))
