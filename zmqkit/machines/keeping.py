"""What a topic's state needs of the log below its history: the state stands nowhere else on the disk.

    |<- retired updates, pieces of the last sweep ->|<- history ->|
    seq rises; the fold of all these bodies, in this order, is the state

Rule 1  An update that leaves the history is retired: its body stays, for it may have given some key its value.
Rule 2  Once retired bodies outweigh the state, it is swept: told to the log anew, piece by piece, each cut from the state as it is
        then (as a subscriber gets it, R-T1). Behind the last piece, what was there before the first is needed no more.
Rule 3  A sweep that a crash interrupts begins again; its pieces are no worse than updates.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from typing import Any, NamedTuple

from zmqkit import records
from zmqkit.machines.parts import Row, move
from zmqkit.machines.topic import Topic
from zmqkit.parcel import Parcel
from zmqkit.updates import PIECE_KEYS, pieces

SWEEP_BYTES = 16 * 1024 * 1024  # of retired bodies, before it is worth while
UPDATES, PIECE = 0, 1


class Body(NamedTuple):
    seq: int  # the last update in it, or that the piece was cut behind
    position: int
    count: int  # type: ignore[assignment]  # messages of its parcel
    at: float
    kind: int


class Keeping:
    def __init__(self, topic: Topic) -> None:
        self._topic = topic
        self.seqs = array("Q")
        self.positions = array("Q")
        self.counts = array("I")
        self.times = array("d")
        self.kinds = array("B")
        self.swept = 0  # of the last sweep that was finished: what is not above it is needed no more
        self._retired_bytes = self._state_bytes = 0
        self._keys: list[str] | None = None  # of the sweep under way
        self._began = self._next = 0

    @property
    def _columns(self) -> tuple[Any, ...]:
        return self.seqs, self.positions, self.counts, self.times, self.kinds

    def retire(self, row: Row) -> int | None:
        """Rule 1. The position, if nobody needs it."""
        last = row.qseq + row.count - 1
        if not self._topic.policy.keep_values or last <= self.swept:
            return row.position
        self._add(Body(last, row.position, row.count, row.at, UPDATES))
        self._retired_bytes += row.size
        return None

    def _add(self, body: Body) -> None:
        self.seqs.append(body.seq)
        self.positions.append(body.position)
        self.counts.append(body.count)
        self.times.append(body.at)
        self.kinds.append(body.kind)

    # -- sweeps -------------------------------------------------------------------------------------------------------

    @property
    def sweeps(self) -> bool:
        return self._keys is not None

    def pieces(self, now: float) -> list[Parcel]:
        """Rule 2: what is to be written next; nothing if there is no need."""
        topic = self._topic
        if self._keys is None:
            if self._retired_bytes <= max(SWEEP_BYTES, self._state_bytes):
                return []
            self._keys, self._began, self._next, self._state_bytes = list(topic.values), topic.head, 0, 0
        keys = self._keys[self._next : self._next + PIECE_KEYS]
        self._next += PIECE_KEYS
        return pieces(*topic.held(keys, now))

    def finished(self) -> records.Swept | None:
        """The sweep has told all."""
        if self._keys is None or self._next < len(self._keys):
            return None
        self._keys, self._retired_bytes = None, 0
        return records.Swept(self._topic.number, self._began)

    def write(self, record: records.Values, position: int) -> None:
        self._state_bytes += len(record.parcel.body)
        self._add(Body(record.seq, position, 1, record.at, PIECE))

    def sweep(self, record: records.Swept) -> list[int]:
        """All up to there is told anew. Where the bodies stand that nobody needs any more."""
        self.swept = record.seq
        gone, kept = [], Keeping(self._topic)
        for body in self.bodies():
            # A piece that was cut behind the same update is of this sweep, or as good as one that is.
            if body.seq < record.seq or (body.seq == record.seq and body.kind == UPDATES):
                gone.append(body.position)
            else:
                kept._add(body)
        self.seqs, self.positions, self.counts, self.times, self.kinds = kept._columns
        return gone

    # -- memory -------------------------------------------------------------------------------------------------------

    def bodies(self) -> Iterator[Body]:
        return map(Body._make, zip(*self._columns, strict=True))

    def all_bodies(self) -> list[Body]:
        """What gives the state: those below the history, and the history's own.

        An update may stand behind a piece that was cut later; but then so does every update after it, and the end is the same.
        """
        history = self._topic.history
        rows = [history.at(place) for place in range(history.first, history.end)]
        return [*self.bodies(), *(Body(row.qseq + row.count - 1, row.position, row.count, row.at, UPDATES) for row in rows)]

    def move(self, source: int, position: int) -> bool:
        """The body at `source` now stands at `position`."""
        return move(self.positions, source, position)

    def snapshot(self) -> records.Kept:
        return records.Kept(self._topic.number, *(column.tobytes() for column in self._columns))

    def restore(self, record: records.Kept) -> None:
        for column, data in zip(self._columns, record[1:], strict=True):
            column.frombytes(data)
