"""The oracle of topics: it reads the log as plain updates and says at once when one of these promises is broken.

    confirmed  -> in the log and durable when it is said, and ever after there under its number ("memory": only in the log)
    told       -> LIVE: exactly those of the log that match, none left out; CHUNK: the state that the log gives at that number;
                  both durable, unless the topic is "memory"
    RESET      -> where its SUB asked to begin; with a gap if something is missing, and only then
    deleted    -> by the node itself: only a value whose ttl has run out
    state      -> at the node the fold of the log; what it keeps for its subscribers is bounded by their windows
    names      -> never move back, and only to where an application said that it has taken all before
    bound      -> an update under a bound prefix is one message of that queue, with its value; durable when it is confirmed
What subscribers make of it is checked in `books`.
"""

from __future__ import annotations

from collections import Counter
from typing import Any, NamedTuple

from zmqkit import records, wire
from zmqkit.machines.binding import DELETED
from zmqkit.machines.node import NodeMachine
from zmqkit.machines.policy import TopicPolicy
from zmqkit.machines.topics import Hosted
from zmqkit.simulator.clock import Scheduler
from zmqkit.simulator.invariants import fail, require
from zmqkit.simulator.model import Key
from zmqkit.updates import Updates, unpacked
from zmqkit.wire import TOPIC_MARK, Scope, Start

FRAME_MAX = 16_384  # bytes of the largest batch or piece in a simulated world: by so much a window is overrun at most
CLOSE = 0.001  # seconds by which two sums of the same times may differ


class Update(NamedTuple):
    seq: int
    key: str
    value: bytes | None
    at: float  # when the node took it
    end: float | None  # until when the value holds
    memory: bool  # told before it is durable
    position: int
    epoch: int  # with the position: which update this is, among all that ever had this number

    @property
    def place(self) -> tuple[int, int]:
        return self.epoch, self.position


class TopicLog:
    """One topic, as the records of the log tell it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.policy = TopicPolicy()
        self.updates: list[Update] = []
        self.states: list[dict[str, Update]] = [{}]  # behind each update
        self.floor = 1
        self.names: dict[str, tuple[int, int]] = {}
        self.numbers: dict[tuple[bytes, int], int] = {}  # a publisher's own number -> seq
        self.bindings: dict[str, tuple[str, ...]] = {}  # queue -> prefixes
        self.bound: dict[tuple[str, int], int] = {}  # queue and update -> position of its message there; 0: it is to come

    def put(self, record: records.Put, position: int, epoch: int) -> None:
        require(record.qseq == len(self.updates) + 1, f"update {record.qseq} of {self.name} comes after {len(self.updates)}")
        updates, memory = Updates.read(record.parcel), self.policy.durability == "memory"
        for index, (key, held) in enumerate(zip(updates.keys, updates.values, strict=True)):
            if not record.client:
                self._ended(key, record)
            number = record.client, record.first + index
            require(number not in self.numbers or not record.client, f"update {number[1]} of a publisher of {self.name} is stored twice")
            value, end = (held[0], record.at + held[1]) if isinstance(held, list) else (held, None)
            update = Update(record.qseq + index, key, value, record.at, end, memory, position, epoch)
            self.numbers[number] = update.seq
            self.bound.update(((queue, update.seq), 0) for queue, prefixes in self.bindings.items() if key.startswith(prefixes))
            self.updates.append(update)
            state = dict(self.states[-1])
            state.pop(key, None)
            if value is not None:
                state[key] = update
            self.states.append(state)

    def copied(self, queue: str, seq: int, body: bytes, position: int) -> None:
        """A message of that queue says that it is this update, too."""
        require(self.bound.get((queue, seq)) == 0, f"update {seq} of {self.name} becomes a message of {queue}, and was none to become one")
        value = self.updates[seq - 1].value
        require(body == (DELETED if value is None else value), f"update {seq} of {self.name} becomes {body!r} in {queue}")
        self.bound[queue, seq] = position

    def _ended(self, key: str, record: records.Put) -> None:
        old = self.states[-1].get(key)
        over = old is not None and old.end is not None and old.end <= record.at
        require(over, f"the node deletes {key} of {self.name} by update {record.qseq}, and its value holds")

    def matching(self, prefixes: tuple[str, ...], after: int, last: int) -> list[Update]:
        return [update for update in self.updates[after:last] if update.key.startswith(prefixes)]


class Asked(NamedTuple):
    """A SUB, and where its topic stood when it came."""

    sub: wire.Sub
    floor: int
    head: int
    named: tuple[int, int] | None


class TopicOracle:
    def __init__(self, scheduler: Scheduler, counts: Counter[str]) -> None:
        self.scheduler, self.counts = scheduler, counts
        self.logs: dict[str, TopicLog] = {}  # by name
        self.by_number: dict[int, TopicLog] = {}
        self.lives: dict[tuple[bytes, int], dict[str, TopicLog]] = {}  # by node and epoch: the logs as they were then
        self.confirmed: dict[Key, int] = {}  # as durable
        self.taken: set[tuple[str, str, int, int]] = set()  # topic, name, position: an application has all up to there
        self._life = b"", 0
        self._heard: dict[Key, set[int]] = {}  # all numbers that a CONFIRM said
        self._refused: set[Key] = set()
        self._asked: dict[tuple[bytes, int], Asked] = {}  # by client and number of the subscription
        self._told: dict[tuple[bytes, int], int] = {}  # how far

    # -- the log ----------------------------------------------------------------------------------------------------------

    def concerns(self, record: records.Record) -> bool:
        if isinstance(record, records.Queue):
            return record.name.startswith(TOPIC_MARK)
        return not isinstance(record, records.Granted) and record.queue in self.by_number

    def apply(self, position: int, record: Any, epoch: int) -> None:
        if isinstance(record, records.Queue):
            name = record.name.removeprefix(TOPIC_MARK)
            log = self.by_number[record.number] = self.logs.setdefault(name, TopicLog(name))
            log.policy = TopicPolicy.from_wire(record.policy)
            return
        log = self.by_number[record.queue]
        match record:
            case records.Put():
                log.put(record, position, epoch)
            case records.Drop():
                for first, count in record.ranges:
                    require(first == log.floor, f"updates from {first} on leave the history of {log.name}, its floor is {log.floor}")
                    log.floor += count
            case records.Bind():
                held = tuple(prefix for prefix in log.bindings.get(record.name, ()) if prefix != record.prefix)
                log.bindings[record.name] = (*held, record.prefix) if record.bound else held
            case records.Mark():
                log.names[record.name] = record.epoch, record.seq

    def copied(self, position: int, record: records.Put, queue: str) -> None:
        """What the node puts into a queue by itself: updates that are bound to it."""
        for body, headers in zip(record.parcel.messages(), record.parcel.unpack_columns()["headers"], strict=True):
            self.logs[headers["topic"]].copied(queue, headers["seq"], bytes(body), position)

    def appended(self, position: int, record: Any, epoch: int) -> None:
        """A new record, not one that is read again."""
        if isinstance(record, records.Mark):
            log = self.by_number[record.queue]
            old, name = log.names.get(record.name), record.name
            forward = old is None or not self.good(log, *old) or record.seq > old[1]
            require(forward, f"the position {name} of {log.name} moves back from {old} to {record.seq}")
            require((log.name, name, record.epoch, record.seq) in self.taken, f"the position {name} of {log.name} skips to {record.seq}")
            self.counts["positions kept"] += 1
        elif isinstance(record, records.Swept | records.Values | records.Copy):
            self.counts[f"topic {type(record).__name__.lower()}"] += 1
        self.apply(position, record, epoch)
        if isinstance(record, records.Put):
            log = self.by_number[record.queue]
            self.counts["updates" if record.client else "ttls that ended"] += record.count
            keys = [Key(record.client, log.name, record.first + index) for index in range(record.count)]
            wrong = [key.number for key in keys if key in self._refused]
            require(not wrong, f"updates {wrong} were refused, and are stored all the same")

    def forget(self) -> None:
        """The log has lost its tail, and is read again. What was stays known as it was then."""
        self.logs, self.by_number = {}, {}

    def recovered(self, machine: NodeMachine) -> None:
        """Another process has replayed the log."""
        self._life = machine.core.identity.node, machine.topics._epoch
        self.lives[self._life] = self.logs
        self.check_promises()
        self.compare(machine, begins=True)
        for log in self.logs.values():
            head = machine.topics.hosted[TOPIC_MARK + log.name].topic.head
            require(head == len(log.updates), f"{log.name} is at {head} after a restart, its log at {len(log.updates)}")

    def check_promises(self) -> None:
        for key, seq in self.confirmed.items():
            kept = self.logs.get(key.queue, TopicLog("")).numbers.get((key.client, key.number))
            require(kept == seq, f"update {seq} of {key.queue} was confirmed, and is lost: there is {kept}")

    def wiped(self) -> None:
        """The node kept nothing, and promised nothing beyond its life."""
        self.confirmed.clear()

    def log(self, node: bytes, epoch: int, topic: str) -> TopicLog:
        """The topic as it was, or is, in that life of that node."""
        life = self.lives.get((node, epoch))
        require(life is not None, f"epoch {epoch} of {topic} never was")
        assert life is not None
        return life.get(topic) or TopicLog(topic)

    def good(self, log: TopicLog, epoch: int, seq: int) -> bool:
        """Does that position mean the same update still?"""
        if seq == 0:
            return epoch <= self._life[1]
        life = self.lives.get((self._life[0], epoch), {})
        old = life[log.name].updates if log.name in life else []
        return seq <= min(len(old), len(log.updates)) and old[seq - 1].place == log.updates[seq - 1].place

    # -- what the node says -------------------------------------------------------------------------------------------------

    def said(self, client: bytes, command: Any, durable: int) -> None:
        """A command of the node leaves for this client."""
        if isinstance(command, wire.Confirm):
            self._confirm(client, command, durable)
            return
        asked = self._asked[client, command.number]
        log = self.logs[asked.sub.topic]
        match command:
            case wire.Reset():
                self._reset(client, asked, command, log)
            case wire.Live():
                self._live(client, asked.sub, command, log)
            case wire.Chunk():
                self._chunk(command, log)
            case wire.At():
                missed = log.matching(tuple(asked.sub.prefixes), self._told[client, command.number], command.seq)
                require(not missed, f"AT {command.seq} of {log.name} passes over {[update.seq for update in missed]}")
                self._told[client, command.number] = command.seq
        self._settled(log, self._told[client, command.number], durable)

    def _settled(self, log: TopicLog, seq: int, durable: int) -> None:
        require(seq <= len(log.updates), f"update {seq} of {log.name} is told, the log ends with {len(log.updates)}")
        if seq:
            update = log.updates[seq - 1]
            require(update.memory or update.position <= durable, f"update {seq} of {log.name} is told before it is durable")

    def _confirm(self, client: bytes, command: wire.Confirm, durable: int) -> None:
        topic = command.queue.removeprefix(TOPIC_MARK)
        log = self.logs[topic]
        for index in range(command.count):
            key = Key(client, topic, command.first + index)
            seq = log.numbers.get((client, key.number))
            require(seq == command.qseq + index, f"update {key.number} is confirmed as {command.qseq + index} of {topic}, and is {seq}")
            require(key not in self._refused, f"update {key.number} of {topic} is confirmed and was refused")
            assert seq is not None
            self._heard.setdefault(key, set()).add(seq)
            if command.durability != "memory":
                require(log.updates[seq - 1].position <= durable, f"update {seq} of {topic} is confirmed before it is durable")
                self.confirmed[key] = seq
                late = [queue for (queue, number), position in log.bound.items() if number == seq and not 0 < position <= durable]
                require(not late, f"update {seq} of {topic} is confirmed before it is durable in {late}")
            self.counts[f"updates confirmed, {command.durability}"] += 1

    def _reset(self, client: bytes, asked: Asked, reset: wire.Reset, log: TopicLog) -> None:
        case, found = (client, reset.number), (reset.seq, reset.first, reset.last, reset.scope)
        if case not in self._told:
            self.counts[f"began {Start(asked.sub.start).name}"] += 1
            wanted = self._wanted(asked, log)
            require(found == wanted, f"a subscription of {log.name} begins {found}, not {wanted}, as was asked: {asked}")
        else:
            self.counts["overtaken by the floor"] += 1
            told = self._told[case]
            right = told < reset.first <= log.floor and reset.first <= reset.last == reset.seq and reset.scope == Scope.ALL
            require(right, f"{found} is told to a subscription of {log.name} that is at {told}, the floor is {log.floor}")
            missed = log.matching(tuple(asked.sub.prefixes), told, reset.first - 1)
            require(not missed, f"a gap of {log.name} begins with {reset.first}, {missed} were not told")
        if reset.scope == Scope.ALL:
            self.counts["gaps" if reset.first <= reset.last else "snapshots"] += 1
        self._told[case] = reset.seq

    def _wanted(self, asked: Asked, log: TopicLog) -> tuple[int, int, int, int]:
        """seq, first, last and scope of the RESET that answers this SUB."""
        sub, floor, head = asked.sub, asked.floor, asked.head
        start, epoch, seq, scope = sub.start, sub.epoch, sub.seq, Scope.FRESH if sub.fresh else Scope.NONE
        if asked.named is not None:
            start, (epoch, seq) = Start.POSITION, asked.named
        if start == Start.SNAPSHOT or (start == Start.POSITION and not (seq <= head and self.good(log, epoch, seq))):
            return head, 1, 0, Scope.ALL
        if start in (Start.POSITION, Start.SEQ):
            if seq + 1 < floor:
                return head, seq + 1, head, Scope.ALL
            return min(seq, head), 1, 0, scope
        if start == Start.NOW:
            return head, 1, 0, scope
        since = sub.time if start == Start.TIME else 0.0
        return next((update.seq - 1 for update in log.updates[floor - 1 : head] if update.at >= since), head), 1, 0, scope

    def _live(self, client: bytes, sub: wire.Sub, live: wire.Live, log: TopicLog) -> None:
        last, told = live.first + live.span - 1, self._told[client, live.number]
        require(live.prev == told, f"LIVE {live.first} of {log.name} names {live.prev} as what was told before, it was {told}")
        updates, mask = Updates.read(live.parcel), int.from_bytes(live.mask, "little")
        numbers = [live.first + index for index in range(live.span) if mask >> index & 1 or not live.mask]
        wanted = log.matching(tuple(sub.prefixes), told, last)
        require(numbers == [update.seq for update in wanted], f"LIVE of {log.name} tells {numbers} behind {told}, not {wanted}")
        for update, key, held in zip(wanted, updates.keys, updates.values, strict=True):
            value = held[0] if isinstance(held, list) else held
            require((key, value) == (update.key, update.value), f"LIVE of {log.name} tells {update.seq} as {key} {value!r}")
        self._told[client, live.number] = last

    def _chunk(self, chunk: wire.Chunk, log: TopicLog) -> None:
        state, now = log.states[chunk.seq], self.scheduler.seconds
        for key, held in zip(*unpacked(chunk.parcel)[:2], strict=True):
            value, end = (held[0], now + held[1]) if isinstance(held, list) else (held, None)
            update = state.get(key)
            require(update is not None and update.value == value, f"CHUNK of {log.name} at {chunk.seq} says {key} {value!r}, not {update}")
            assert update is not None
            close = end is None if update.end is None else end is not None and abs(end - update.end) < CLOSE
            require(close, f"CHUNK of {log.name} says that {key} ends at {end}, not {update.end}")
        self.counts["chunks"] += 1

    # -- what clients do ------------------------------------------------------------------------------------------------------

    def arrived(self, client: bytes, sub: wire.Sub, machine: NodeMachine) -> None:
        """The node reads a SUB."""
        hosted = machine.topics.hosted.get(TOPIC_MARK + sub.topic)
        history, names = (hosted.topic.history, hosted.topic.names) if hosted is not None else (None, {})
        named = names.get(sub.name) if sub.name and sub.start != Start.POSITION else None
        floor, head = (history.floor, history.next_seq - 1) if history is not None else (1, 0)
        self._asked[client, sub.number] = Asked(sub, floor, head, named)

    def stored(self, key: Key, count: int, seq: int) -> None:
        for index in range(count):
            said = self._heard.get(key._replace(number=key.number + index), set())
            require(seq + index in said, f"{key} is said to be {seq + index}, and is {said}")

    def rejected(self, key: Key, count: int) -> None:
        for index in range(count):
            refused = key._replace(number=key.number + index)
            self._refused.add(refused)
            log = self.logs.get(key.queue)
            require(log is None or (key.client, refused.number) not in log.numbers, f"{refused} is refused, and stored")

    # -- the node's machine -----------------------------------------------------------------------------------------------------

    def compare(self, machine: NodeMachine, begins: bool = False) -> None:
        """The machine holds what the log says. `begins`: it has not said yet what it adds to the log."""
        hosted = {name.removeprefix(TOPIC_MARK): hosted for name, hosted in machine.topics.hosted.items()}
        require(hosted.keys() == self.logs.keys(), f"topics {sorted(hosted)}, the log says {sorted(self.logs)}")
        for name, log in self.logs.items():
            topic = hosted[name].topic
            require(topic.next_qseq == len(log.updates) + 1, f"{name} goes on with {topic.next_qseq} behind {len(log.updates)}")
            require(topic.history.floor == log.floor, f"the floor of {name} is {topic.history.floor}, the log says {log.floor}")
            owed = [case for case, position in log.bound.items() if not position and not begins]
            require(not owed, f"updates of {name} are no messages yet: {owed}")
            require(topic.names == log.names, f"names of {name}: {topic.names}, the log says {log.names}")
            found = {key: held if isinstance(held, bytes) else held[0] for key, held in topic.values.items()}
            state = log.states[topic.head] if log.policy.keep_values else {}
            wanted = {key: update.value for key, update in state.items()}
            require(found == wanted, f"the state of {name} at {topic.head} is {found}, the log says {wanted}")
            for key, held in topic.values.items():
                end, ends = (held[1] if isinstance(held, tuple) else None), state[key].end
                close = end is None if ends is None else end is not None and abs(end - ends) < CLOSE
                require(close, f"{key} of {name} ends at {end}, the log says {ends}")


def check_topics(machine: NodeMachine) -> None:
    """What a node's topics count, they count right; and nothing grows with their subscribers but one entry each."""
    follow = {(client, number) for client, found in machine.topics.followed.items() for number in found}
    told = set[tuple[bytes, int]]()
    for name, hosted in machine.topics.hosted.items():
        if machine.topics.by_number.get(hosted.topic.number) is not hosted:
            fail(f"topic {name} is not found by its number")
        _check_history(hosted)
        _check_subscribers(hosted)
        told |= hosted.fanout.subscribers.keys()
    if told != follow:
        fail(f"subscribers {sorted(told ^ follow)} are followed by their client or their topic only")


def _check_history(hosted: Hosted) -> None:
    topic, history = hosted.topic, hosted.topic.history
    rows = [history.at(place) for place in range(history.first, history.end)]
    seq = history.floor
    for row in rows:
        if row.qseq != seq:
            fail(f"the history of {topic.name} goes on with {row.qseq} where {seq} is next")
        seq += row.count
    if seq != history.next_seq or history.messages != sum(row.count for row in rows) or history.size != sum(row.size for row in rows):
        fail(f"the history of {topic.name} says {history.messages} updates of {history.size} bytes before {history.next_seq}")
    positions = [body.position for body in hosted.keeping.all_bodies()]
    if len(positions) != len(set(positions)):
        fail(f"{topic.name}: two bodies at one position")


def _check_subscribers(hosted: Hosted) -> None:
    topic, history, fanout = hosted.topic, hosted.topic.history, hosted.fanout
    if fanout._matches or fanout._cuts:
        fail(f"{topic.name} keeps what it told")
    for subscriber in fanout.subscribers.values():
        if not subscriber.told <= subscriber.cursor <= topic.head:
            fail(f"a subscriber of {topic.name} was told {subscriber.told}, is at {subscriber.cursor}, the head at {topic.head}")
        if subscriber.cursor + 1 >= history.floor and subscriber.place != history.place_of(subscriber.cursor + 1):
            fail(f"a subscriber of {topic.name} at {subscriber.cursor} reads on at {subscriber.place}")
        if subscriber.sent - subscriber.taken > subscriber.window + FRAME_MAX:
            fail(f"{subscriber.sent - subscriber.taken} bytes are under way to a subscriber of {topic.name}, it takes {subscriber.window}")
        grown = [slot for slot in subscriber.__slots__ if isinstance(getattr(subscriber, slot), list | dict | set)]
        if grown:
            fail(f"a subscriber of {topic.name} has a buffer: {grown}")
