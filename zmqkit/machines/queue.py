"""One work queue of a node: which container each message is in, and what moves it.

    put ──durable──> ready ──grant──> leased ──DONE──> settled
                       ^                 │
                       └──durable, due───┴── any other end ──> dead (after max_attempts, or rejected)

Rule 1: a new or returned message becomes ready only when its record is durable, so a lease never waits.
Rule 2: returned before fresh, lowest number first.
Rule 3: every method that changes a container takes a record that is already in the log (or is being replayed); the
        caller decides, this file applies. Replay therefore is the same code.
"""

from __future__ import annotations

from array import array
from bisect import insort
from collections import deque
from collections.abc import Iterator
from heapq import heapify, heappop, heappush

from zmqkit import records
from zmqkit.machines.leases import Lease
from zmqkit.machines.parts import Backlog, Batch, Batches, Returned, Row, Waiting
from zmqkit.machines.policy import QueuePolicy
from zmqkit.machines.session import Consumer
from zmqkit.records import mask_of, ranges_of

HISTORY_CHARS = 200  # of each error but the last
HISTORY_MAX = 10  # errors kept of one message: it may be snoozed for ever
LEASE_MARKS_BYTES_MAX = 512 * 1024  # of errors and saved states in one lease: with the headers they must fit a frame


class Queue:
    def __init__(self, number: int, name: str, policy: QueuePolicy, waiting: Waiting, owner: str = "") -> None:
        self.number = number
        self.name = name
        self.owner = owner  # the user by whom it came into being
        self.policy = policy
        self.paused = False
        self.next_qseq = 1
        self.messages = 0  # neither settled nor dead
        self.ready = 0
        self.bytes = 0  # bodies of parcels that are not wholly settled
        self.backlog = Backlog()
        self.batches = Batches()
        self.begun: deque[Batch] = deque()  # parcels that are begun and may still have fresh messages, ascending
        self.returned: list[int] = []  # qseq of batches with returned messages, ascending; stale ones go when met
        self.delayed: list[tuple[float, int, int]] = []  # heap of (due, batch, mask)
        self.failed: dict[int, int] = {}  # failures so far, of messages that have any
        self.errors: dict[int, list[str]] = {}
        self.saved: dict[int, bytes] = {}
        self.saved_bytes = 0
        self.dead: dict[int, tuple[str, float]] = {}  # reason, when
        self.consumers: dict[bytes, Consumer] = {}  # in the order of their turn
        self.waiting = waiting

    # -- in ---------------------------------------------------------------------------------------------------------

    def has_room(self, count: int, size: int) -> bool:
        policy = self.policy
        if policy.on_full == "block" and not self.messages:
            return True  # a batch that alone is over the limit would wait for ever
        if policy.max_messages is not None and self.messages + count > policy.max_messages:
            return False
        return policy.max_bytes is None or self.bytes + size <= policy.max_bytes

    def promise(self, count: int, size: int) -> None:
        """Room for messages that are accepted."""
        self.messages += count
        self.bytes += size

    def number_messages(self, count: int) -> int:
        """Numbers for messages that become a record now. Returns the first."""
        qseq = self.next_qseq
        self.next_qseq += count
        return qseq

    def put(self, record: records.Put, position: int) -> None:
        """The messages of `record`, which are promised and numbered, wait for durability."""
        row = Row(record.qseq, record.count, position, len(record.parcel.body), record.at)
        self.waiting.append((position, self, row))

    def land(self, what: Row | Returned) -> None:
        """What waited is durable."""
        if isinstance(what, Row):
            self.backlog.append(what)
            self.ready += what.count
            return
        batch, mask, due = what
        mask &= batch.returning  # less what was dropped meanwhile
        batch.returning &= ~mask
        if due:
            batch.delayed |= mask
            heappush(self.delayed, (due, batch.qseq, mask))
        else:
            self._return(batch, mask)

    def _return(self, batch: Batch, mask: int) -> None:
        if mask:
            batch.back |= mask
            self.ready += mask.bit_count()
            if batch.qseq not in self.returned:
                insort(self.returned, batch.qseq)

    def wake_delayed(self, now: float) -> bool:
        """Messages whose time has come are ready again. True if there were any."""
        found = False
        while self.delayed and self.delayed[0][0] <= now:
            _, qseq, mask = heappop(self.delayed)
            batch = self.batches.find(qseq)
            if batch is not None and mask & batch.delayed:
                mask &= batch.delayed
                batch.delayed &= ~mask
                self._return(batch, mask)
                found = True
        return found

    # -- out --------------------------------------------------------------------------------------------------------

    def pick(self, room: int, alone: bool) -> tuple[Batch, int, int] | None:
        """The next messages for a consumer with `room`: (batch, offset, count) of equal attempts. A suspect goes only to
        a consumer that holds nothing (`alone`), and then by itself."""
        for qseq in list(self.returned):
            batch = self.batches.find(qseq)
            if batch is None or not batch.back:
                self.returned.remove(qseq)
                continue
            mask = batch.back if alone else batch.back & ~batch.suspect
            if mask:
                offset = (mask & -mask).bit_length() - 1
                if batch.suspect >> offset & 1:
                    return batch, offset, 1
                run = _run(mask & ~batch.suspect, offset)
                return batch, offset, self._even(batch.qseq + offset, min(run, room))
        while self.begun and not self.begun[0].fresh:
            self.begun.popleft()
        if not self.begun and not self._begin():
            return None
        batch = self.begun[0]
        offset = (batch.fresh & -batch.fresh).bit_length() - 1
        return batch, offset, min(_run(batch.fresh, offset), room)

    def _begin(self) -> bool:
        """Begin the first whole parcel."""
        if not self.backlog.messages:
            return False
        batch = Batch(self.backlog.pop())
        self.batches.add(batch)
        self.begun.append(batch)
        return True

    def _even(self, qseq: int, count: int) -> int:
        """How many of these messages have failed as often as the first, and fit one frame with what they have collected."""
        if self.failed or self.errors or self.saved:
            failed, marks = self.failed.get(qseq, 0), self._marks_bytes(qseq)
            for index in range(1, count):
                marks += self._marks_bytes(qseq + index)
                if self.failed.get(qseq + index, 0) != failed or marks > LEASE_MARKS_BYTES_MAX:
                    return index
        return count

    def _marks_bytes(self, qseq: int) -> int:
        """At most, on the wire: four bytes a letter."""
        errors = self.errors.get(qseq)
        return (4 * len(errors[-1]) + 5 if errors else 1) + len(self.saved.get(qseq, b"")) + 5

    def lease(self, lease: Lease) -> None:
        batch, mask = lease.batch, lease.open << lease.offset
        self._wake_for_replay(batch, mask)
        batch.fresh &= ~mask
        batch.back &= ~mask
        batch.leased |= mask
        self.ready -= lease.count

    def _wake_for_replay(self, batch: Batch, mask: int) -> None:
        """A replay reads no clock. But what is taken from ready was due by then, and so was all that was due before it."""
        while mask & batch.delayed:
            self.wake_delayed(self.delayed[0][0])

    def save(self, qseq: int, blob: bytes) -> None:
        """Kept for the message's next holder."""
        self.saved_bytes += len(blob) - len(self.saved.get(qseq, b""))
        self.saved[qseq] = blob

    def find(self, qseq: int) -> Batch | None:
        """The batch with this message, begun now if it was whole."""
        while qseq >= self.backlog.qseq and self._begin():
            pass
        return self.batches.find(qseq)

    def done(self, lease: Lease, mask: int, position: int) -> None:
        """Settle open messages of a lease."""
        lease.open &= ~mask
        lease.batch.leased &= ~(mask << lease.offset)
        self.messages -= mask.bit_count()
        if self.failed or self.errors or self.saved:
            self._forget_marks(lease.qseq, mask)
        self._release_if_settled(lease.batch, position)

    def _forget_marks(self, start: int, mask: int) -> None:
        for first, count in ranges_of(mask, start):
            for qseq in range(first, first + count):
                self.saved_bytes -= len(self.saved.get(qseq, b""))
                for marks in (self.failed, self.errors, self.saved, self.dead):
                    marks.pop(qseq, None)

    def _release_if_settled(self, batch: Batch, position: int) -> None:
        if not batch.unsettled:
            self.batches.remove(batch)
            self.bytes -= batch.size
            self.waiting.append((position, self, batch.position))

    # -- back -------------------------------------------------------------------------------------------------------

    def back(self, lease: Lease, record: records.Back, position: int) -> None:
        """A lease, or a part of it, has ended otherwise than by DONE."""
        mask = self._end(lease, record.ranges, record.counted, record.error)
        if record.suspect:
            lease.batch.suspect |= mask
        lease.batch.returning |= mask
        self.waiting.append((position, self, Returned(lease.batch, mask, record.due)))

    def bury(self, lease: Lease, record: records.Dead) -> None:
        """A lease, or a part of it, has ended in the dead letters."""
        mask = self._end(lease, record.ranges, record.counted, record.error)
        self._to_dead(lease.batch, mask, record)

    def _end(self, lease: Lease, ranges: records.Ranges, counted: bool, error: str) -> int:
        mask = mask_of(ranges) & lease.open
        lease.open &= ~mask
        lease.revoked |= mask
        shifted = mask << lease.offset
        lease.batch.leased &= ~shifted
        if counted or error:
            for first, count in ranges_of(mask, lease.qseq):
                for qseq in range(first, first + count):
                    self._mark(qseq, counted, error)
        return shifted

    def _mark(self, qseq: int, counted: bool, error: str) -> None:
        if counted:
            self.failed[qseq] = self.failed.get(qseq, 0) + 1
        if error:
            history = self.errors.setdefault(qseq, [])
            if history:
                history[-1] = history[-1][:HISTORY_CHARS]
            history.append(error)
            del history[:-HISTORY_MAX]

    def _to_dead(self, batch: Batch, mask: int, record: records.Dead) -> None:
        batch.dead |= mask
        self.messages -= mask.bit_count()
        for first, count in ranges_of(mask, batch.qseq):
            for qseq in range(first, first + count):
                self.dead[qseq] = (record.reason, record.at)

    def bury_ready(self, record: records.Dead) -> None:
        """Ready messages (by number) go to the dead letters: the queue was full."""
        for batch, mask in self._masks(record.ranges):
            self._wake_for_replay(batch, mask)
            mask &= batch.ready
            self.ready -= mask.bit_count()
            batch.fresh &= ~mask
            batch.back &= ~mask
            self._to_dead(batch, mask, record)

    def redrive(self, record: records.Redrive, position: int) -> None:
        """Dead letters (by number) are messages again, with a clean sheet but for their history."""
        for batch, mask in self._masks(record.ranges):
            mask &= batch.dead
            batch.dead &= ~mask
            batch.suspect &= ~mask
            batch.returning |= mask
            self.messages += mask.bit_count()
            for first, count in ranges_of(mask, batch.qseq):
                for qseq in range(first, first + count):
                    self.dead.pop(qseq, None)
                    self.failed.pop(qseq, None)
            self.waiting.append((position, self, Returned(batch, mask, 0.0)))

    def drop(self, record: records.Drop, position: int) -> None:
        """These numbers are settled, unless they are leased."""
        for first, count in record.ranges:
            self._drop_whole(first, first + count, position)
        delayed = False
        for batch, mask in self._masks(record.ranges):
            mask &= batch.unsettled & ~batch.leased
            delayed |= bool(mask & batch.delayed)
            self.ready -= (mask & batch.ready).bit_count()
            self.messages -= (mask & ~batch.dead).bit_count()
            for name in ("fresh", "back", "delayed", "returning", "dead"):
                setattr(batch, name, getattr(batch, name) & ~mask)
            self._forget_marks(batch.qseq, mask)
            self._release_if_settled(batch, position)
        if delayed:
            self._forget_due_times()

    def _forget_due_times(self) -> None:
        """Of messages that are delayed no more: they could be due in years."""
        found = ((entry, self.batches.find(entry[1])) for entry in self.delayed)
        self.delayed = [entry for entry, batch in found if batch is not None and entry[2] & batch.delayed]
        heapify(self.delayed)

    def _drop_whole(self, first: int, end: int, position: int) -> None:
        """Parcels nobody has begun, all inside the range, go without becoming batches."""
        while self.backlog.messages and first <= self.backlog.qseq:
            row = self.backlog.first()
            if row.qseq + row.count > end:
                return
            self.backlog.pop()
            self.ready -= row.count
            self.messages -= row.count
            self.bytes -= row.size
            self.waiting.append((position, self, row.position))

    def give_way(self, messages: int, size: int) -> records.Ranges | None:
        """The oldest ready messages that would free so many messages and bytes; None if all of them would not."""
        ranges: records.Ranges = []
        places = [(batch.qseq, batch.ready, batch.size if batch.ready == batch.unsettled else 0) for batch in self.batches if batch.ready]
        for qseq, mask, freed in [*places, *((row.qseq, (1 << row.count) - 1, row.size) for row in self.backlog.rows())]:
            for first, count in ranges_of(mask, qseq):
                count = count if size > 0 else min(count, messages)
                if count > 0:
                    ranges.append((first, count))
                    messages -= count
            size -= freed
            if messages <= 0 and size <= 0:
                return ranges
        return None

    def _masks(self, ranges: records.Ranges) -> Iterator[tuple[Batch, int]]:
        for first, count in ranges:
            self.find(first)
            self.find(first + count - 1)
            for batch in list(self.batches.between(first, first + count - 1)):
                low = max(first, batch.qseq)
                high = min(first + count, batch.qseq + batch.count)
                yield batch, mask_of([(low - batch.qseq, high - low)])

    def copy(self, record: records.Copy, position: int) -> None:
        """A parcel has moved: from now on its bytes are read at `position`."""
        batch = self.batches.find(record.qseq)
        if batch is not None and batch.position == record.source:
            batch.position = position
        elif not self.backlog.move(record.source, position):
            self.waiting.append((position, self, position))  # settled meanwhile: nobody needs the copy
            return
        self.waiting.append((position, self, record.source))

    # -- views ------------------------------------------------------------------------------------------------------

    def positions(self) -> array[int]:
        """Where the bodies stand that are still needed; millions of them, so as an array."""
        return array("Q", [batch.position for batch in self.batches]) + self.backlog.positions[self.backlog.head :]

    def places(self) -> Iterator[tuple[int, int, int]]:
        """(qseq, count, position) of every parcel that has a body."""
        for batch in self.batches:
            yield batch.qseq, batch.count, batch.position
        for row in self.backlog.rows():
            yield row.qseq, row.count, row.position

    def runs(self, state: str, after: int = 0) -> Iterator[tuple[int, int, int, int]]:
        """(qseq, count, position, offset) of the messages above `after` in a state (ready, leased, delayed or dead), lowest first."""
        for batch in self.batches.between(after + 1, self.next_qseq):
            passed = max(0, after + 1 - batch.qseq)
            for offset, count in ranges_of(getattr(batch, state) >> passed << passed):
                yield batch.qseq + offset, count, batch.position, offset
        for row in self.backlog.rows(after) if state == "ready" else ():
            passed = max(0, after + 1 - row.qseq)
            yield row.qseq + passed, row.count - passed, row.position, passed

    def oldest(self) -> float | None:
        """When the oldest message that is neither settled nor dead was accepted."""
        times = [batch.at for batch in self.batches if batch.unsettled & ~batch.dead]
        if self.backlog.messages:
            times.append(self.backlog.first().at)
        return min(times, default=None)

    def has_ready_suspects(self) -> bool:
        batches = (self.batches.find(qseq) for qseq in self.returned)
        return any(batch is not None and batch.back & batch.suspect for batch in batches)


def _run(mask: int, offset: int) -> int:
    """How many ones stand in a row from bit `offset` on."""
    mask >>= offset
    return (~mask & (mask + 1)).bit_length() - 1
