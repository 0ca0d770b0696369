"""The oracle: it sees everything, and says at once when a promise is broken.

    confirmed   -> durable when it is said; ever after settled, dead or present
    stored      -> once per stream number; the bytes that were put
    leased      -> durable, in order of the puts at first, one valid lease per message, tokens that rise
    told OK     -> durable when it is said; never delivered again
    told STALE  -> certainly not settled by that token
    started     -> only while the node has not given the message away; a second start has a cause that the node logged
    released    -> durably settled or moved

Calls and topics have oracles of their own, `call_checks` and `topic_checks`.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from zmqkit import records, wire
from zmqkit.journal.log import Item
from zmqkit.machines.node import NodeMachine
from zmqkit.machines.output import Ended, Output
from zmqkit.simulator.call_checks import CallOracle
from zmqkit.simulator.clock import Scheduler
from zmqkit.simulator.disk import Judge
from zmqkit.simulator.invariants import check_node, require
from zmqkit.simulator.model import DEAD, LEASED, SETTLED, Key, Message, Model
from zmqkit.simulator.topic_checks import TopicOracle, check_topics
from zmqkit.wire import TOPIC_MARK

ASKED = {"nack", "reject", "split", "snooze"}  # causes that the consumer itself named: not logged


def body_of(client: bytes, queue: str, number: int) -> bytes:
    """What a simulated producer puts: it says where it belongs."""
    return b"%s %s %d" % (client[:4].hex().encode(), queue.encode(), number)


class Oracle(Judge):
    def __init__(self, scheduler: Scheduler) -> None:
        self.scheduler = scheduler
        self.model = Model()
        self.history: list[tuple[records.Record, int, int]] = []  # with how far the log was durable, and the epoch
        self.confirmed: dict[Key, int] = {}  # its qseq
        self.refused: set[Key] = set()
        self.told_ok: set[tuple[int, int]] = set()  # queue, qseq
        self.told_stale: set[tuple[int, int]] = set()  # token, qseq
        self.started: dict[Key, list[tuple[int, int, int]]] = {}  # token, qseq, node epoch
        self.logged: set[tuple[int, int]] = set()  # (token, qseq) in an Ended event
        self.lost_leases: set[int] = set()  # tokens whose LEASE record a crash took
        self.epoch = 0
        self.counts: Counter[str] = Counter()
        self.calls = CallOracle(scheduler, self.logged, self.counts)
        self.topics = TopicOracle(scheduler, self.counts)

    # -- the log --------------------------------------------------------------------------------------------------------

    def appended(self, position: int, item: Item, durable: int) -> None:
        record = records.decode(item.kind, b"".join(item.chunks))
        assert record is not None
        self.history.append((record, durable, self.epoch))
        require(len(self.history) == position, "the log and the oracle count alike")
        if self.topics.concerns(record):
            self.topics.appended(position, record, self.epoch)
            return
        self.model.apply(position, record, durable)
        if isinstance(record, records.Put):
            keys = [Key(record.client, self.model.queues[record.queue].name, record.first + i) for i in range(record.count)]
            wrong = [key.number for key in keys if key in self.refused]
            require(not wrong, f"numbers {wrong} were refused, and are stored all the same")
        elif isinstance(record, records.Lease):
            self._check_lease(record)
        elif isinstance(record, records.Done):
            lease = self.model.leases[record.token]
            denied = [lease.qseq + o for o in _offsets(record.ranges) if (record.token, lease.qseq + o) in self.told_stale]
            require(not denied, f"messages {denied} are settled by token {record.token}, which was told STALE")

    def _check_lease(self, record: records.Lease) -> None:
        self.counts["leases"] += 1
        for qseq in range(record.qseq, record.qseq + record.count):
            require((record.queue, qseq) not in self.told_ok, f"message {qseq} was told OK and is leased again")

    def released(self, position: int, durable: int) -> None:
        for message in self.model.at.get(position, ()):
            settled = message.state == SETTLED and message.since <= durable
            moved = message.body_at != position and message.moved <= durable
            require(settled or moved, f"the body of message {message.qseq} is released while it is {message.state}")

    # -- the node -------------------------------------------------------------------------------------------------------

    def took(self, output: Output) -> None:
        """The node's machine gave this to its host: every end that nobody asked for is in its log of ends."""
        for event in output.events:
            if isinstance(event, Ended):
                self.logged.update((event.token, qseq) for qseq in range(event.first, event.first + event.count))
                self.counts[f"ended {event.cause}"] += 1
        for record in output.records:
            if isinstance(record, records.Back) and record.cause not in ASKED:
                lease = self.model.leases[record.token]
                silent = [o for o in _offsets(record.ranges) if (record.token, lease.qseq + o) not in self.logged]
                require(not silent, f"lease {record.token} ended by {record.cause}, and the node did not log it")

    def turned(self, machine: NodeMachine, full: bool) -> None:
        check_node(machine)
        check_topics(machine)
        if full:
            self.model.compare(machine)
            self.topics.compare(machine)

    def recovered(self, machine: NodeMachine, kept: int, epoch: int) -> None:
        """Another process has replayed what the crash left."""
        lost = self.history[kept:]
        self.lost_leases |= {record.token for record, _, _ in lost if isinstance(record, records.Lease)}
        del self.history[kept:]
        self.epoch = self.calls.epoch = epoch
        if lost:
            self.model = Model()
            for position, (record, durable, _) in enumerate(self.history, 1):
                if not self.topics.concerns(record):
                    self.model.apply(position, record, durable)
        self.topics.recovered(machine, self.history if lost else None)
        self.check_promises()
        check_node(machine)
        check_topics(machine)
        self.model.compare(machine)

    def wiped(self) -> None:
        """The node's process ended, and its log was in memory."""
        self.confirmed.clear()
        self.topics.wiped()

    def check_promises(self) -> None:
        for key in self.confirmed:
            require(key in self.model.keys, f"message {key.number} into {key.queue} was confirmed, and is lost")
        for queue, qseq in self.told_ok:
            message = self.model.queues[queue].messages.get(qseq)
            require(message is not None and message.state == SETTLED, f"message {qseq} was told OK, and is there again")

    # -- what the node says ---------------------------------------------------------------------------------------------

    def said(self, client: bytes, command: wire.Command, durable: int) -> None:
        """A command of the node leaves for this client."""
        match command:
            case wire.Confirm() if command.queue.startswith(TOPIC_MARK):
                self.topics.said(client, command, durable)
            case wire.Reset() | wire.Live() | wire.Chunk() | wire.At():
                self.topics.said(client, command, durable)
            case wire.Confirm():
                self._confirm(client, command, durable)
            case wire.Lease(terms=None):
                self._lease(client, command)
            case wire.Lease():
                self.calls.leased(client, command)
            case wire.Reply():
                self.calls.said(client, command)
            case wire.Refused(command=wire.Kind.CALL):
                self.calls.refused(client, command)
            case wire.Answer():
                for token, offset, count, verdict in command.ranges:
                    if self.calls.knows(token):
                        self.calls.judged(token, offset, count, wire.Verdict(verdict))
                    else:
                        self._answer(token, offset, count, wire.Verdict(verdict), durable)

    def _confirm(self, client: bytes, command: wire.Confirm, durable: int) -> None:
        for index in range(command.count):
            key = Key(client, command.queue, command.first + index)
            message = self.model.keys.get(key)
            require(message is not None, f"number {key.number} into {key.queue} is confirmed and is not in the log")
            assert message is not None
            require(message.put_at <= durable, f"number {key.number} into {key.queue} is confirmed and is not durable")
            require(key not in self.refused, f"number {key.number} into {key.queue} is confirmed and was refused")
            self.confirmed[key] = message.qseq
            self.counts["confirmed"] += 1

    def _lease(self, client: bytes, command: wire.Lease) -> None:
        granted = self.model.leases[command.token]
        require(granted.client == client, f"lease {command.token} goes to another client than its record says")
        queue = self.model.queues[granted.queue]
        bodies = [bytes(body) for body in command.parcel.messages()] if not isinstance(command.parcel, wire.Slice) else []
        require(len(bodies) == granted.count, f"lease {command.token} of {granted.count} messages with {len(bodies)} bodies")
        for index, body in enumerate(bodies):
            key = queue.messages[granted.qseq + index].key
            require(body == body_of(*key), f"message {granted.qseq + index} of {queue.name} has the bytes {body!r}")

    def _answer(self, token: int, offset: int, count: int, verdict: wire.Verdict, durable: int) -> None:
        self.counts[f"told {verdict.name}"] += count
        lease = self.model.leases.get(token)
        if lease is None:
            require(verdict == wire.Verdict.STALE or token in self.lost_leases, f"token {token} is unknown and told {verdict.name}")
            require(verdict != wire.Verdict.OK, f"token {token} is in no log and told OK")
            return
        for qseq in range(lease.qseq + offset, lease.qseq + offset + count):
            message = self.model.queues[lease.queue].messages[qseq]
            by_it = message.state == SETTLED and message.how == "done" and message.token == token
            if verdict == wire.Verdict.OK:
                require(by_it, f"message {qseq} is told OK to token {token}, and is {message.state} {message.how}")
                require(message.since <= durable, f"message {qseq} is told OK before that is durable")
                self.told_ok.add((lease.queue, qseq))
            elif verdict == wire.Verdict.STALE:
                require(not by_it, f"message {qseq} is told STALE to token {token}, which settled it")
                self.told_stale.add((token, qseq))

    # -- what clients do ------------------------------------------------------------------------------------------------

    def stored(self, key: Key, count: int, qseq: int) -> None:
        for index in range(count):
            one = key._replace(number=key.number + index)
            require(self.confirmed.get(one) == qseq + index, f"{one} is said to be {qseq + index}, and is {self.confirmed.get(one)}")

    def rejected(self, key: Key, count: int) -> None:
        for index in range(count):
            refused = key._replace(number=key.number + index)
            self.refused.add(refused)
            require(refused not in self.model.keys, f"{refused} is refused, and stored")

    def start(self, client: bytes, token: int, qseq: int, body: bytes) -> None:
        """A consumer's handler begins with a message."""
        self.counts["starts"] += 1
        lease = self.model.leases.get(token)
        if lease is None:
            require(token in self.lost_leases, f"token {token} was never granted, and its message {qseq} is started")
            self.counts["starts under a lease that a crash took"] += 1
            return
        require(lease.client == client, f"token {token} is used by another client")
        message = self.model.queues[lease.queue].messages[qseq]
        require(body == body_of(*message.key), f"message {qseq} arrives with the bytes {body!r}")
        held = message.state == LEASED and message.token == token
        require(held or message.how == "deleted", f"message {qseq} is started under {token}, though it is {message.state} {message.token}")
        self._check_repeat(message, token, qseq)

    def _check_repeat(self, message: Message, token: int, qseq: int) -> None:
        before = self.started.setdefault(message.key, [])
        for other, number, epoch in before:
            if other != token:
                explained = (other, number) in self.logged or (other, number) in self.model.ended or epoch != self.epoch
                require(explained, f"message {qseq} is executed again under {token}, and nothing says how {other} ended")
                self.counts["executed again"] += 1
            require(other != token, f"message {qseq} is executed twice under {token}")
        before.append((token, qseq, self.epoch))

    # -- the end --------------------------------------------------------------------------------------------------------

    def unfinished(self) -> list[Key]:
        """Confirmed messages that are neither settled nor dead."""
        model = self.model
        return [key for key in self.confirmed if key in model.keys and model.keys[key].state not in (SETTLED, DEAD)]


def _offsets(ranges: Any) -> list[int]:
    return [offset for first, count in ranges for offset in range(first, first + count)]
