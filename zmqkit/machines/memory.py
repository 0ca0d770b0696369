"""What a node remembers, as records: a snapshot of all, and the replay that gives the state back.

Rule 1  `restore` of a snapshot's records, then of every record after it, gives the state; nothing else is remembered.
Rule 2 (R-P5)  Records hold decisions, so a replay reads no clock and asks nobody.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator

from zmqkit import records
from zmqkit.machines import checkpoint
from zmqkit.machines.core import Core
from zmqkit.machines.leasing import Leasing
from zmqkit.machines.policy import QueuePolicy
from zmqkit.machines.queue import Queue
from zmqkit.machines.session import Accepted
from zmqkit.machines.topic import Topic
from zmqkit.machines.topics import Topics
from zmqkit.records import mask_of
from zmqkit.wire import TOPIC_MARK


class Memory:
    def __init__(self, core: Core, leasing: Leasing, topics: Topics) -> None:
        self._core, self._leasing, self._topics = core, leasing, topics

    def snapshot(self) -> Iterator[records.Record]:
        """The state after the last record taken, as records."""
        core = self._core
        yield records.Granted(max(core.logged_token, self._leasing.newest_token))
        for queue in core.queues.values():
            yield from checkpoint.snapshot(queue)
        yield from self._topics.snapshot()
        for lease in core.leases.values():
            if lease.queue < 0:
                continue  # calls are not remembered
            size = (lease.count + 7) // 8
            masks = [mask.to_bytes(size, "little") for mask in (lease.open, lease.revoked)]
            yield records.Held(lease.queue, lease.token, lease.client, lease.qseq, lease.count, *masks)
        for client in core.clients.values():
            for number, stream in client.streams.items():
                answers = [(answer.first, answer.count, answer.qseq) for answer in stream.answers]
                yield records.Stream(number, client.id, stream.last, answers, stream.seen)

    def restore(self, position: int, record: records.Record) -> None:
        """Apply a record of the log, or (position 0) of a checkpoint. All of them are durable."""
        core = self._core
        core.last = max(core.last, position)
        if isinstance(record, records.Queue):
            if record.name.startswith(TOPIC_MARK):
                self._topics.restore_topic(record, position)
            else:
                self._restore_queue(record)
            self._topics.binding.restored(None, record)
            return
        if isinstance(record, records.Granted):
            core.logged_token = max(core.logged_token, record.token)
            return
        queue, topic = core.by_number.get(record.queue), self._topics.by_number.get(record.queue)
        if topic is not None:
            owner: Queue | Topic = topic.topic
        elif isinstance(queue, Queue):
            owner = queue
        else:
            return  # deleted
        if isinstance(record, records.Stream):
            stream = core.open_stream(core.client(record.client), owner)
            stream.last, stream.seen = record.last, record.seen
            stream.answers.extend(Accepted(*answer, after=0) for answer in record.answers)
        elif isinstance(record, records.Put) and record.client:
            self._restore_stream(owner, record, position)
        self._topics.binding.restored(owner, record)
        if topic is not None:
            self._topics.restore(topic, record, position)
        elif isinstance(queue, Queue):
            self._restore_in(queue, record, position)

    def _restore_in(self, queue: Queue, record: records.Record, position: int) -> None:
        match record:
            case records.Put():
                queue.promise(record.count, len(record.parcel.body))
                queue.next_qseq = record.qseq + record.count
                queue.put(record, position)
            case records.Lease():
                if queue.find(record.qseq) is not None:  # in a salvaged journal its PUT may be lost
                    queue.lease(self._leasing.adopt(record))
            case records.Held():
                checkpoint.restore_lease(queue, self._leasing.adopt(record))
            case records.Backlog() | records.Batch() | records.Marks():
                checkpoint.restore(queue, record)
            case _:
                self._restore_change(queue, record, position)

    def _restore_queue(self, record: records.Queue) -> None:
        core = self._core
        policy = QueuePolicy.from_wire(record.policy)
        known = core.by_number.get(record.number)
        queue = known if isinstance(known, Queue) else core.add_queue(record.number, record.name, policy, record.owner)
        queue.policy, queue.paused = policy, record.paused
        if record.deleted:
            core.remove_queue(queue)

    def _restore_stream(self, owner: Queue | Topic, record: records.Put, position: int) -> None:
        client = self._core.client(record.client)
        stream = client.streams.get(owner.number) or self._core.open_stream(client, owner)
        if not stream.last and record.base < record.first:
            # The numbers before it went to a queue of this name that was deleted: they are stored, whatever became of them.
            stream.answers.append(Accepted(record.base, record.first - record.base, record.qseq, position))
        stream.pass_base(record.base)
        stream.last, stream.seen = record.first + record.count - 1, record.at
        stream.answers.append(Accepted(record.first, record.count, record.qseq, position))

    def _restore_change(self, queue: Queue, record: records.Record, position: int) -> None:
        match record:
            case records.Drop():
                queue.drop(record, position)
            case records.Redrive():
                queue.redrive(record, position)
            case records.Copy():
                queue.copy(record, position)
            case records.Dead(token=0):
                queue.bury_ready(record)
            case records.Done() | records.Back() | records.Dead() | records.Save():
                lease = self._core.leases.get(record.token)
                if lease is None:
                    return  # of a queue that was deleted
                if isinstance(record, records.Save):
                    queue.save(lease.qseq + record.offset, record.blob)
                    return
                mask = mask_of(record.ranges) & lease.open
                if isinstance(record, records.Done):
                    queue.done(lease, mask, position)
                elif isinstance(record, records.Back):
                    queue.back(lease, record, position)
                else:
                    queue.bury(lease, record)
                self._leasing.ended(lease, mask)

    def positions(self) -> array[int]:
        """Where the bodies stand that are still needed."""
        found = array("Q")
        for queue in self._core.queues.values():
            found += queue.positions()
        found.extend(self._topics.positions())
        return found
