"""The topics of a node: who updates them, who follows, what of them stands in the log."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from math import inf
from typing import Any

from zmqkit import records
from zmqkit.machines.account import Account
from zmqkit.machines.binding import BINDINGS_MAX, NOBODY, Binding, Copies
from zmqkit.machines.core import QUEUES_MAX, Core
from zmqkit.machines.fanout import Fanout
from zmqkit.machines.history import History
from zmqkit.machines.keeping import UPDATES, Keeping
from zmqkit.machines.policy import TopicPolicy
from zmqkit.machines.topic import Landing, Topic
from zmqkit.parcel import Parcel
from zmqkit.updates import Updates, unpacked
from zmqkit.wire import TOPIC_MARK

PIECES_A_TURN = 8  # of a sweep: the log gets them beside what is new
ROWS = 65_536  # of one record in a checkpoint
AGE_SECONDS = 1.0  # how often a topic is looked at for updates that are too old


class Hosted:
    """One topic with all that belongs to it."""

    __slots__ = ("fanout", "keeping", "topic")

    def __init__(self, topic: Topic, fanout: Fanout) -> None:
        self.topic, self.fanout, self.keeping = topic, fanout, Keeping(topic)

    def bodies(self) -> Iterator[int]:
        """Where those stand that are still needed."""
        yield from self.keeping.positions
        history = self.topic.history
        yield from history.positions[history.head :]


class Topics:
    def __init__(self, core: Core) -> None:
        self._core = core
        self.read: Callable[[int], Parcel]  # what stands at a position of the log; the driver's
        self.hosted: dict[str, Hosted] = {}  # by marked name
        self.by_number: dict[int, Hosted] = {}
        self.followed: dict[bytes, dict[int, Hosted]] = {}  # by client and the number of the subscription
        self.stirred: dict[int, Hosted] = {}  # there may be something to tell
        self._ending: dict[int, Hosted] = {}  # that hold values with a ttl
        self._aged_at = 0.0
        self._ended: dict[str, int] = {}  # of topics that were deleted: the next number under the name
        self.binding = Binding(core)
        identity = core.identity
        # Nothing of a node that keeps nothing outlives it, so its positions are those of no other: its id tells them apart.
        self._epoch = identity.epoch if identity.durability != "memory" else int.from_bytes(identity.node[:3], "little") | 1

    # -- topics -------------------------------------------------------------------------------------------------------

    def topic(self, name: str, account: Account) -> Topic | None:
        """The one of that marked name, made at its first use, for this user. None: there are too many."""
        hosted = self.host(name, account)
        return hosted.topic if hosted is not None else None

    def host(self, name: str, account: Account) -> Hosted | None:
        """As `topic`, with all that belongs to it."""
        hosted = self.hosted.get(name)
        if hosted is None and len(self.hosted) < QUEUES_MAX and len(account.owned) < account.limits.queues:
            hosted = self._make(name, account.user or "")
        return hosted

    def _make(self, name: str, owner: str) -> Hosted:
        core, policy = self._core, TopicPolicy()
        core.record(records.Queue(core.next_number, name, policy.to_wire(), False, False, owner))
        return self._add(core.next_number, name, policy, owner)

    def _add(self, number: int, name: str, policy: TopicPolicy, owner: str) -> Hosted:
        core = self._core
        core.own(owner, number)
        topic = Topic(number, name, policy, lambda position: self.read(position), owner)
        topic.next_qseq = topic.history.next_seq = self._ended.pop(name, 1)
        hosted = Hosted(topic, Fanout(topic, self._epoch, lambda client, command: core.send(client.peer, command)))
        self.hosted[name] = self.by_number[number] = hosted
        core.next_number = max(core.next_number, number + 1)
        return hosted

    # -- updates ------------------------------------------------------------------------------------------------------

    def declare(self, name: str, policy: TopicPolicy, account: Account) -> TopicPolicy | None:
        """Make it, or change its policy. None: there are too many."""
        topic = self.topic(name, account)
        if topic is not None and policy != topic.policy:
            dropped = topic.policy.keep_values and not policy.keep_values
            topic.policy = policy
            self._core.record(records.Queue(topic.number, name, policy.to_wire(), False, False, topic.owner))
            if dropped:
                topic.values.clear()
        return topic.policy if topic is not None else None

    def delete(self, name: str) -> int:
        """With its history, state, names and bindings. Who follows it sees all keys deleted, and follows the next topic of that name.
        Numbers go on (and leave one out, so that nobody can be at the head): a position never means another update than it did.

        Returns how many updates went."""
        hosted, core = self.hosted.get(name), self._core
        if hosted is None:
            return 0
        topic = hosted.topic
        core.record(records.Queue(topic.number, name, topic.policy.to_wire(), False, True, topic.owner))
        self._remove(hosted, core.last)
        if hosted.fanout.subscribers:
            self._succeed(hosted.fanout, topic)
        return topic.history.messages

    def _remove(self, hosted: Hosted, position: int) -> None:
        topic = hosted.topic
        del self.hosted[topic.name], self.by_number[topic.number]
        self._core.disown(topic.owner, topic.number)
        self.stirred.pop(topic.number, None)
        self._ending.pop(topic.number, None)
        self._ended[topic.name] = topic.next_qseq + 1
        self._core.part(topic)
        for body in hosted.bodies():
            self._release(topic, position, body)

    def _succeed(self, deleted: Fanout, topic: Topic) -> None:
        hosted = self._make(topic.name, topic.owner)
        hosted.fanout.take_over(deleted)
        self.stirred[hosted.topic.number] = hosted
        for subscriber in hosted.fanout.subscribers.values():
            self.followed[subscriber.client.id][subscriber.number] = hosted

    def bind(self, name: str, prefix: str, queue: str, bound: bool, account: Account) -> str:
        """Updates under this prefix are messages of that queue, too, or no more. Returns why not; "": it is done."""
        topic = self.topic(name, account)
        if topic is None or self._core.queue(queue, account) is None:
            return self._core.no_room(account)
        prefixes = topic.bindings.get(queue, ())
        if (prefix in prefixes) != bound:
            if bound and sum(map(len, topic.bindings.values())) >= BINDINGS_MAX:
                return f"a topic has up to {BINDINGS_MAX} bindings"
            record = records.Bind(topic.number, prefix, queue, bound)
            self._core.record(record)
            topic.bind(record)
        return ""

    def info(self, name: str) -> dict[str, Any]:
        """It comes into being at its first use; asking is none."""
        hosted = self.hosted.get(name)
        topic = hosted.topic if hosted is not None else Topic(0, name, TopicPolicy(), self.read)
        history = topic.history
        subscribers = len(hosted.fanout.subscribers) if hosted is not None else 0
        return {
            "name": name.removeprefix(TOPIC_MARK), "seq": topic.head, "floor": history.floor, "messages": history.messages,
            "bytes": history.size, "keys": len(topic.values), "subscribers": subscribers, "names": len(topic.names),
            "epoch": self._epoch, "bindings": {**topic.bindings}, "policy": topic.policy.to_wire(),
        }  # fmt: skip

    def put(self, topic: Topic, record: records.Put, copies: Copies = ()) -> int:
        """Persist these updates, and the messages that they are, too. Returns the position that the confirm waits for."""
        core = self._core
        if not topic.epochs or topic.epochs[-1][0] != self._epoch:
            began = records.Epoch(topic.number, self._epoch, record.qseq - 1)
            core.record(began, waited=False)
            topic.begin_epoch(began.epoch, began.seq)
        if topic.policy.durability == "memory" and topic.history.next_seq == record.qseq:  # else those before it wait for the disk
            position = core.record(record, waited=False)
            self.binding.store(copies)  # before what leaves the history for them: they stand right behind
            self.land(topic.number, topic.landing(record, position))
            return 0
        position = core.record(record)
        core.waiting.append((position, topic, topic.landing(record, position)))
        return self.binding.store(copies) or position

    def land(self, number: int, what: Landing) -> None:
        """They are durable."""
        hosted = self.by_number[number]
        hosted.topic.land(what)
        self.stirred[number] = hosted
        if not hosted.topic.restoring:
            self._look_for_ends(hosted)
            self._trim(hosted)

    def _look_for_ends(self, hosted: Hosted) -> None:
        if hosted.topic.ends:
            self._ending[hosted.topic.number] = hosted

    def _trim(self, hosted: Hosted) -> None:
        ranges = hosted.topic.surplus(self._core.now)
        if ranges:
            record = records.Drop(hosted.topic.number, ranges)
            self._drop(hosted, record, self._core.record(record, waited=False))

    def _drop(self, hosted: Hosted, record: records.Drop, position: int) -> None:
        for row in hosted.topic.trim(record):
            self._release(hosted.topic, position, hosted.keeping.retire(row))

    def _release(self, topic: Topic, position: int, body: int | None) -> None:
        """Nobody needs that body any more, once the record at `position` is durable."""
        if body is not None:
            self._core.waiting.append((position, topic, body))

    # -- turns ----------------------------------------------------------------------------------------------------------

    def serve(self) -> None:
        stirred, self.stirred = self.stirred, {}
        for hosted in stirred.values():
            hosted.fanout.serve(self._core.now)
            self._sweep(hosted)

    @property
    def busy(self) -> bool:
        return bool(self.stirred)

    def _sweep(self, hosted: Hosted) -> None:
        keeping, topic, core = hosted.keeping, hosted.topic, self._core
        for _ in range(PIECES_A_TURN):
            for parcel in keeping.pieces(core.now):
                record = records.Values(topic.number, topic.head, core.now, 1, parcel)
                keeping.write(record, core.record(record, waited=False))
            done = keeping.finished()
            if done is not None:
                self._swept(hosted, done, core.record(done, waited=False))
            if not keeping.sweeps:
                return

    def _swept(self, hosted: Hosted, record: records.Swept, position: int) -> None:
        for body in hosted.keeping.sweep(record):
            self._release(hosted.topic, position, body)

    @property
    def deadline(self) -> float:
        return min([hosted.topic.deadline for hosted in self._ending.values()], default=inf)

    def tick(self) -> None:
        """Rule: a ttl that runs out is a deletion, made by the node; history grows old by itself."""
        core = self._core
        for hosted in list(self._ending.values()):
            topic = hosted.topic
            if topic.deadline <= core.now and not core.stopping:
                others = self._on_their_way(topic)
                keys = [key for key in topic.ended(core.now) if key not in others]
                if keys:
                    parcel = Updates.make(keys, [None] * len(keys))
                    copies = self.binding.copies(topic, parcel)
                    seq = topic.number_messages(parcel.count)
                    self.put(topic, records.Put(topic.number, NOBODY, 1, parcel.count, 1, seq, core.now, parcel), copies or ())
            if not topic.ends:
                del self._ending[topic.number]
        if core.now >= self._aged_at + AGE_SECONDS:
            self._aged_at = core.now
            for hosted in self.hosted.values():
                if hosted.topic.policy.max_age is not None:
                    self._trim(hosted)

    def _on_their_way(self, topic: Topic) -> set[str]:
        """Keys that updates which wait for the disk give a new value, or delete: they do not end with their old one."""
        return {key for _, owner, what in self._core.waiting if owner is topic and isinstance(what, Landing) for key in what.updates.keys}

    # -- memory -----------------------------------------------------------------------------------------------------------

    def snapshot(self) -> Iterator[records.Record]:
        for hosted in self.hosted.values():
            topic, history = hosted.topic, hosted.topic.history
            yield records.Queue(topic.number, topic.name, topic.policy.to_wire(), False, False, topic.owner)
            for epoch, seq in topic.epochs:
                yield records.Epoch(topic.number, epoch, seq)
            for name, (epoch, seq) in topic.names.items():
                yield records.Mark(topic.number, name, epoch, seq)
            for queue, prefixes in topic.bindings.items():
                for prefix in prefixes:
                    yield records.Bind(topic.number, prefix, queue, True)
            yield records.Swept(topic.number, hosted.keeping.swept)
            yield hosted.keeping.snapshot()
            landing = History()
            for _, owner, what in self._core.waiting:
                if owner is topic and isinstance(what, Landing):
                    landing.append(what.row)
            yield records.Backlog(topic.number, history.floor, topic.next_qseq, b"", b"", b"", b"")
            for part in (history, landing):
                for columns in part.columns(ROWS):
                    yield records.Backlog(topic.number, history.floor, topic.next_qseq, *columns)

    def restore_topic(self, record: records.Queue, position: int) -> None:
        policy = TopicPolicy.from_wire(record.policy)
        known = self.by_number.get(record.number)
        hosted = known or self._add(record.number, record.name, policy, record.owner)
        hosted.topic.policy, hosted.topic.restoring = policy, True
        if record.deleted:
            self._remove(hosted, position)

    def restore(self, hosted: Hosted, record: records.Record, position: int) -> None:
        topic, keeping = hosted.topic, hosted.keeping
        match record:
            case records.Put():
                topic.next_qseq = record.qseq + record.count
                self._core.waiting.append((position, topic, topic.landing(record, position)))
            case records.Drop():
                self._drop(hosted, record, position)
            case records.Epoch():
                topic.begin_epoch(record.epoch, record.seq)
            case records.Mark():
                topic.names[record.name] = record.epoch, record.seq
            case records.Bind():
                topic.bind(record)
            case records.Values():
                keeping.write(record, position)
            case records.Swept():
                self._swept(hosted, record, position)
            case records.Kept():
                keeping.restore(record)
            case records.Copy():
                self.copy(record, position)
            case records.Backlog():
                topic.next_qseq = record.next_qseq
                topic.history.restore(record.qseq, record.positions, record.counts, record.sizes, record.times)

    def begin(self) -> None:
        """All is restored: the state of each topic is what its bodies add up to."""
        self._ended.clear()  # positions of earlier epochs mean nothing in a topic that began in this one
        self.binding.begin()
        for hosted in self.hosted.values():
            topic = hosted.topic
            topic.restoring = False
            for body in hosted.keeping.all_bodies() if topic.policy.keep_values else ():
                parcel = self.read(body.position)
                if body.kind == UPDATES:
                    updates = Updates.read(parcel)
                    topic.fold(updates.keys, updates.values, body.at, updates.plain)
                else:
                    keys, values, plain = unpacked(parcel)
                    topic.fold(keys, values, body.at, plain)
            self._look_for_ends(hosted)

    def places(self) -> Iterator[tuple[int, int, int, int]]:
        """Topic, seq, count and position of every body that is needed."""
        for hosted in self.hosted.values():
            for body in hosted.keeping.all_bodies():
                yield hosted.topic.number, body.seq, body.count, body.position

    def positions(self) -> Iterator[int]:
        """Where the bodies stand that are still needed."""
        for hosted in self.hosted.values():
            yield from hosted.bodies()

    def copy(self, record: records.Copy, position: int) -> None:
        """A body has moved."""
        hosted = self.by_number[record.queue]
        moved = hosted.topic.history.move(record.source, position) or hosted.keeping.move(record.source, position)
        self._release(hosted.topic, position, record.source if moved else position)
