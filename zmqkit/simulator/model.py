"""What the records in a log mean, told as simply as possible: one small object per message, no masks, no indexes.

The node's machine decides and this model follows: it is fed every record that is appended, and after a crash every record
that survived. Whatever the machine holds must then equal what the model holds, and a record that makes no sense in the
model (a lease of a settled message, a message stored twice, a token that does not rise) is a violation.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from zmqkit import records
from zmqkit.machines.node import NodeMachine
from zmqkit.machines.parts import Row
from zmqkit.records import ranges_of
from zmqkit.simulator.invariants import require

NEVER_LEASED = -1
READY, LEASED, DELAYED, DEAD, RETURNING, SETTLED = "ready", "leased", "delayed", "dead", "returning", "settled"
ON_THE_WAY = {(READY, RETURNING), (DELAYED, RETURNING), (DELAYED, READY)}  # record, machine: not durable yet; its time has come


class Key(NamedTuple):
    """A message as its producer knows it."""

    client: bytes
    queue: str
    number: int


@dataclass(slots=True)
class Message:
    key: Key
    queue: int
    qseq: int
    put_at: int  # position of its PUT
    body_at: int
    state: str = READY
    since: int = 0  # position of the record that brought it here
    moved: int = 0  # position of the newest COPY
    token: int = 0  # of the lease, or of the DONE that settled it
    how: str = ""  # it was settled
    failed: int = 0


class Granted(NamedTuple):
    queue: int
    client: bytes
    qseq: int
    count: int  # type: ignore[assignment]


@dataclass(slots=True)
class QueueModel:
    number: int
    name: str
    paused: bool = False
    deleted: bool = False
    next_qseq: int = 1
    messages: dict[int, Message] = field(default_factory=dict)  # all that ever were
    open: dict[int, Message] = field(default_factory=dict)  # less the settled


class Model:
    def __init__(self) -> None:
        self.queues: dict[int, QueueModel] = {}
        self.keys: dict[Key, Message] = {}
        self.at: dict[int, list[Message]] = {}  # by position of the body
        self.leases: dict[int, Granted] = {}  # all that ever were
        self.ended: dict[tuple[int, int], str] = {}  # (token, qseq) -> how, unless by DONE
        self.token = 0
        self.position = 0
        self._first_leased: dict[tuple[bytes, int], int] = {}

    def apply(self, position: int, record: records.Record, durable: int) -> None:
        """`durable`: how far the log was durable when the record was appended."""
        self.position = position
        if isinstance(record, records.Queue):
            self._queue(position, record)
            return
        assert not isinstance(record, records.Granted)
        queue = self.queues[record.queue]
        require(not queue.deleted, f"a {type(record).__name__} record for queue {queue.name}, which is deleted")
        match record:
            case records.Put():
                self._put(queue, position, record)
            case records.Lease():
                self._lease(queue, position, record, durable)
            case records.Done() | records.Back() | records.Dead():
                self._end(queue, position, record)
            case records.Redrive() | records.Drop():
                self._by_number(queue, position, record)
            case records.Copy():
                self._copy(queue, position, record)

    def _queue(self, position: int, record: records.Queue) -> None:
        queue = self.queues.get(record.number)
        if queue is None or queue.deleted:
            queue = self.queues[record.number] = QueueModel(record.number, record.name)
        queue.paused, queue.deleted = record.paused, record.deleted
        if record.deleted:
            for message in list(queue.open.values()):
                self._settle(queue, message, position, "deleted")

    def _put(self, queue: QueueModel, position: int, record: records.Put) -> None:
        require(record.qseq >= queue.next_qseq, f"{queue.name}: number {record.qseq} is given twice")
        queue.next_qseq = record.qseq + record.count
        for index in range(record.count):
            # What the node puts by itself, of a topic that is bound to the queue, has no number but its own.
            key = Key(record.client, queue.name, record.first + index if record.client else record.qseq + index)
            old = self.keys.get(key)
            require(old is None or old.queue != queue.number, f"number {key.number} of a stream into {queue.name} is stored twice")
            message = Message(key, queue.number, record.qseq + index, position, position, since=position)
            queue.messages[message.qseq] = queue.open[message.qseq] = self.keys[key] = message
            self.at.setdefault(position, []).append(message)

    def _lease(self, queue: QueueModel, position: int, record: records.Lease, durable: int) -> None:
        require(record.token > self.token, f"token {record.token} does not rise above {self.token}")
        require(not queue.paused, f"a lease from {queue.name}, which is paused")
        self.token = record.token
        self.leases[record.token] = Granted(queue.number, record.client, record.qseq, record.count)
        for qseq in range(record.qseq, record.qseq + record.count):
            message = queue.open.get(qseq)
            require(message is not None, f"lease {record.token} of message {qseq} of {queue.name}, which is settled")
            assert message is not None
            require(message.state in (READY, DELAYED), f"lease {record.token} of message {qseq}, which is {message.state}")
            require(message.since <= durable, f"lease {record.token} of message {qseq} before its return or arrival is durable")
            self._first_lease(message)
            message.state, message.token, message.since = LEASED, record.token, position

    def _first_lease(self, message: Message) -> None:
        """First leases of one stream follow the order of its puts."""
        stream = message.key.client, message.queue
        newest = self._first_leased.get(stream, 0)
        if message.token == 0:
            require(message.key.number > newest, f"message {message.key.number} is first leased after {newest} of the same producer")
            self._first_leased[stream] = message.key.number

    def _end(self, queue: QueueModel, position: int, record: records.Done | records.Back | records.Dead) -> None:
        if isinstance(record, records.Dead) and not record.token:
            for qseq in _numbers(record.ranges):
                self._bury(queue.open[qseq], position)
            return
        lease = self.leases[record.token]
        for offset in _numbers(record.ranges):
            qseq = lease.qseq + offset
            message = queue.open.get(qseq)
            held = message is not None and message.state == LEASED and message.token == record.token
            require(held, f"{type(record).__name__} of message {qseq}, which token {record.token} does not hold")
            assert message is not None
            if isinstance(record, records.Done):
                self._settle(queue, message, position, "done")
                continue
            self.ended[record.token, qseq] = record.cause if isinstance(record, records.Back) else "dead"
            message.failed += record.counted
            if isinstance(record, records.Dead):
                self._bury(message, position)
            else:
                message.state, message.since = (DELAYED if record.due else READY), position

    def _by_number(self, queue: QueueModel, position: int, record: records.Redrive | records.Drop) -> None:
        for qseq in _numbers(record.ranges):
            message = queue.open.get(qseq)
            require(message is not None, f"{type(record).__name__} of message {qseq} of {queue.name}, which is settled")
            assert message is not None
            if isinstance(record, records.Drop):
                require(message.state != LEASED, f"message {qseq} is dropped while it is leased")
                self._settle(queue, message, position, "dropped")
            else:
                require(message.state == DEAD, f"message {qseq} is redriven and was not dead")
                message.state, message.since, message.failed = READY, position, 0

    def _copy(self, queue: QueueModel, position: int, record: records.Copy) -> None:
        for qseq in range(record.qseq, record.qseq + record.count):
            message = queue.messages[qseq]
            if message.body_at == record.source:
                message.body_at = message.moved = position
                self.at.setdefault(position, []).append(message)

    def _bury(self, message: Message, position: int) -> None:
        message.state, message.since = DEAD, position
        message.token = message.token or NEVER_LEASED  # if it is redriven, it comes when it comes

    def _settle(self, queue: QueueModel, message: Message, position: int, how: str) -> None:
        message.state, message.how, message.since = SETTLED, how, position
        del queue.open[message.qseq]

    # -- comparing ------------------------------------------------------------------------------------------------------

    def compare(self, machine: NodeMachine, begins: bool = False) -> None:
        """The machine holds exactly these messages, each where it belongs. `begins`: it has not said yet what it adds to the log."""
        living = {queue.name: queue for queue in self.queues.values() if not queue.deleted}
        require(machine.core.queues.keys() == living.keys(), f"queues {sorted(machine.core.queues)}, the log says {sorted(living)}")
        for name, queue in living.items():
            found = _states(machine, name)
            for qseq, message in queue.open.items():
                state = found.get(qseq)
                require(state is not None, f"message {qseq} of {name} is lost: the log says {message.state}")
                right = state == message.state or (message.state, state) in ON_THE_WAY
                require(right, f"message {qseq} of {name} is {state}, the log says {message.state}")
            stray = {qseq for qseq in found.keys() - queue.open.keys() if not begins or qseq < queue.next_qseq}
            require(not stray, f"messages {sorted(stray)} of {name} are there again: the log says settled")
            failed = {qseq: message.failed for qseq, message in queue.open.items() if message.failed}
            require(machine.core.queues[name].failed == failed, f"failures of {name}: {machine.core.queues[name].failed}, not {failed}")


def _states(machine: NodeMachine, name: str) -> dict[int, str]:
    queue, found = machine.core.queues[name], dict[int, str]()
    for batch in queue.batches:
        for state in (READY, LEASED, DEAD, DELAYED, RETURNING):
            for first, count in ranges_of(getattr(batch, state), batch.qseq):
                found.update(dict.fromkeys(range(first, first + count), state))
    for row in queue.backlog.rows():
        found.update(dict.fromkeys(range(row.qseq, row.qseq + row.count), READY))
    for _, owner, what in queue.waiting:
        if owner is queue and isinstance(what, Row):
            found.update(dict.fromkeys(range(what.qseq, what.qseq + what.count), READY))
    return found


def _numbers(ranges: records.Ranges) -> list[int]:
    return [number for first, count in ranges for number in range(first, first + count)]
