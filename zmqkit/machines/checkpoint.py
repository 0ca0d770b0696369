"""A queue in a checkpoint: its containers as records, and back.

A checkpoint describes the queue after the last record of a sealed segment, all of which are durable by the time anybody
reads it; so what waits for durability stands here where it will land. Leases are the node's to write (`records.Held`).
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Iterator
from heapq import heappush
from typing import Any

from zmqkit import records
from zmqkit.machines.leases import Lease
from zmqkit.machines.parts import Backlog, Batch, Returned, Row
from zmqkit.machines.queue import Queue
from zmqkit.records import mask_of, ranges_of

BACKLOG_ROWS = 65_536  # of one record
MARKS_MAX = 10_000  # entries of one record: a queue may have any number of dead letters, the log has no room for a record of all
MARKS_BYTES_MAX = 1024 * 1024  # of what stands in it, beside one last entry


def snapshot(queue: Queue) -> Iterator[records.Record]:
    yield records.Queue(queue.number, queue.name, queue.policy.to_wire(), queue.paused, False, queue.owner)
    yield from _backlog(queue)
    due = _due_times(queue)
    for batch in queue.batches:
        later = mask_of([(qseq - batch.qseq, 1) for qseq in due if batch.qseq <= qseq < batch.qseq + batch.count]) if due else 0
        back = (batch.back | batch.returning) & ~later
        masks = (batch.fresh, back, batch.delayed | (batch.returning & later), batch.dead, batch.suspect)
        size = (batch.count + 7) // 8
        packed = [mask.to_bytes(size, "little") for mask in masks]
        yield records.Batch(queue.number, batch.qseq, batch.count, batch.position, batch.size, batch.at, *packed)
    yield from _marks(queue, due)


def _backlog(queue: Queue) -> Iterator[records.Backlog]:
    """Whole parcels, also those that wait for durability, in records of a bounded size: there may be millions."""
    backlog = queue.backlog
    whole = Backlog()
    for row in [what for _, owner, what in queue.waiting if owner is queue and isinstance(what, Row)]:
        whole.append(row)
    qseq = backlog.qseq if backlog.messages else whole.qseq if whole.messages else queue.next_qseq
    yield records.Backlog(queue.number, qseq, queue.next_qseq, b"", b"", b"", b"")
    for part in (backlog, whole):
        for start in range(part.head, len(part.counts), BACKLOG_ROWS):
            rows = slice(start, start + BACKLOG_ROWS)
            columns = (part.positions[rows], part.counts[rows], part.sizes[rows], part.times[rows])
            yield records.Backlog(queue.number, qseq, queue.next_qseq, *(column.tobytes() for column in columns))


def _marks(queue: Queue, due: dict[int, float]) -> Iterator[records.Marks]:
    """What single messages have collected, in records of a bounded size; restored they add up."""
    dead = {qseq: list(entry) for qseq, entry in queue.dead.items()}
    collected: list[dict[int, Any]] = [queue.failed, due, queue.errors, queue.saved, dead]  # in the order of the record's fields
    part: list[dict[int, Any]] = [{} for _ in collected]
    count = size = 0
    for place, marks in enumerate(collected):
        for qseq, value in marks.items():
            part[place][qseq] = value
            count, size = count + 1, size + _size(value)
            if count >= MARKS_MAX or size >= MARKS_BYTES_MAX:
                yield records.Marks(queue.number, *part)
                part, count, size = [{} for _ in collected], 0, 0
    if count:
        yield records.Marks(queue.number, *part)


def _size(value: Any) -> int:
    """Of an error history, a saved state or a reason: what takes more than a number does."""
    if isinstance(value, bytes):
        return len(value)
    return sum(len(text) for text in value if isinstance(text, str)) if isinstance(value, list) else 0


def _due_times(queue: Queue) -> dict[int, float]:
    """Of single messages that wait for their time, or will once their return is durable."""
    found: dict[int, float] = {}
    waiting = [(what.due, what.batch, what.mask & what.batch.returning)
               for _, owner, what in queue.waiting if owner is queue and isinstance(what, Returned) and what.due]  # fmt: skip
    for due, qseq, mask in queue.delayed:
        batch = queue.batches.find(qseq)
        if batch is not None:
            waiting.append((due, batch, mask & batch.delayed))
    for due, batch, mask in waiting:
        for first, count in ranges_of(mask, batch.qseq):
            found.update(dict.fromkeys(range(first, first + count), due))
    return found


def restore(queue: Queue, record: records.Backlog | records.Batch | records.Marks) -> None:
    if isinstance(record, records.Backlog):
        _restore_backlog(queue, record)
    elif isinstance(record, records.Batch):
        _restore_batch(queue, record)
    else:
        queue.failed.update(record.failed)
        queue.errors.update(record.errors)
        for qseq, blob in record.saved.items():
            queue.save(qseq, blob)
        queue.dead.update((qseq, (reason, at)) for qseq, (reason, at) in record.dead.items())
        for qseq, due in record.due.items():
            batch = queue.batches.find(qseq)
            assert batch is not None
            heappush(queue.delayed, (due, batch.qseq, 1 << (qseq - batch.qseq)))


def _restore_backlog(queue: Queue, record: records.Backlog) -> None:
    backlog, rows = queue.backlog, len(queue.backlog.counts)
    backlog.positions.frombytes(record.positions)
    backlog.counts.frombytes(record.counts)
    backlog.sizes.frombytes(record.sizes)
    backlog.times.frombytes(record.times)
    messages = sum(backlog.counts[rows:])
    backlog.qseq, queue.next_qseq = record.qseq, record.next_qseq
    backlog.messages += messages
    queue.ready += messages
    queue.messages += messages
    queue.bytes += sum(backlog.sizes[rows:])


def _restore_batch(queue: Queue, record: records.Batch) -> None:
    batch = Batch(Row(record.qseq, record.count, record.position, record.size, record.at))
    masks = (record.fresh, record.back, record.delayed, record.dead, record.suspect)
    batch.fresh, batch.back, batch.delayed, batch.dead, batch.suspect = (int.from_bytes(mask, "little") for mask in masks)
    queue.batches.add(batch)
    queue.bytes += batch.size
    queue.ready += batch.ready.bit_count()
    queue.messages += (batch.ready | batch.delayed).bit_count()
    if batch.fresh:
        queue.begun.append(batch)
    if batch.back:
        insort(queue.returned, batch.qseq)


def restore_lease(queue: Queue, lease: Lease) -> None:
    """A lease of the checkpoint: its open messages are in no container of its batch yet."""
    lease.batch.leased |= lease.open << lease.offset
    queue.messages += lease.open.bit_count()
