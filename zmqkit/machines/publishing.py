"""PUT: every number of a stream is stored once, and its producer is told what became of it.

Rule 1: exactly the number behind the last is taken; lower ones are answered again, higher ones dropped (on one link they
        can only follow a refusal).
Rule 2: the stream is asked before limits and rights, so that a repeat of what is stored is never answered "full" or "forbidden".
Rule 3: a repeated answer waits for the original record; a refusal waits for the answers before it.
Rule 4: what one producer puts into one queue within a turn becomes one record, one index row, one answer.
"""

from __future__ import annotations

from math import inf

from zmqkit import records
from zmqkit.machines.binding import Copies
from zmqkit.machines.core import Core
from zmqkit.machines.queue import Queue
from zmqkit.machines.session import Accepted, Client, Stream
from zmqkit.machines.topic import Topic
from zmqkit.machines.topics import Topics
from zmqkit.parcel import FULL_BYTES, PARCEL_MESSAGES_MAX, Parcel
from zmqkit.updates import Updates
from zmqkit.wire import TOPIC_MARK, Code, Confirm, Kind, Put, Refused

WINDOW_BATCHES = 64  # of one stream that may be unanswered
RETRY_AFTER = 0.5  # seconds a refused producer should wait; by then consumers or the disk may have made room


class Publishing:
    def __init__(self, core: Core, topics: Topics) -> None:
        self._core, self._topics = core, topics
        self._merging: dict[tuple[bytes, int], tuple[Client, Queue | Topic, Stream]] = {}

    def put(self, client: Client, command: Put, forbidden: str = "") -> None:
        core = self._core
        queue, stream = self._known(client, command.queue) if forbidden else self._made(client, command.queue)
        if queue is None or stream is None:
            code, why = (Code.FORBIDDEN, forbidden) if forbidden else (Code.QUOTA, core.no_room(client.account))
            self._refuse(client, command, None, code, why)
            return
        if command.base > stream.last + 1:
            self.flush()  # what was taken in this turn is stored under the numbers it came with
        stream.pass_base(command.base)
        if command.first + command.count - 1 <= stream.last:
            self._repeat(client, queue, stream, command)
        elif command.first != stream.last + 1:
            core.drop("put-behind-refusal", client.peer, f"{command.queue} {command.first} after {stream.last}")
        elif len(stream.answers) + len(stream.merging) >= WINDOW_BATCHES:
            core.drop("over-window", client.peer, f"{command.queue} {command.first}, base {command.base}")
        elif forbidden:
            self._refuse(client, command, stream, Code.FORBIDDEN, forbidden)
        else:
            self._take(client, queue, stream, command)

    def _known(self, client: Client, name: str) -> tuple[Queue | Topic | None, Stream | None]:
        """What was published into, if anything was."""
        hosted = self._topics.hosted.get(name)
        queue = hosted.topic if hosted is not None else self._core.queues.get(name)
        return queue, client.streams.get(queue.number) if queue is not None else None

    def _made(self, client: Client, name: str) -> tuple[Queue | Topic | None, Stream | None]:
        """What comes into being at its first use. None: there are too many."""
        core, account = self._core, client.account
        queue: Queue | Topic | None = self._topics.topic(name, account) if name[0] == TOPIC_MARK else core.queue(name, account)
        return queue, core.stream(client, queue) if queue is not None else None

    def _repeat(self, client: Client, queue: Queue | Topic, stream: Stream, command: Put) -> None:
        self.flush()
        for answer in stream.answers:
            if answer.first < command.first + command.count and command.first < answer.first + answer.count:
                self._confirm(client, queue, answer)

    def _take(self, client: Client, queue: Queue | Topic, stream: Stream, command: Put) -> None:
        core, parcel = self._core, command.parcel
        if core.stopping:
            self._refuse(client, command, stream, Code.STOPPING, "the node is stopping: it takes no more messages")
        elif core.disk_full:
            self._refuse(client, command, stream, Code.DISK_FULL, "the node's disk is full: free some space there")
        elif client.account.limits.bytes < inf and (wait := client.account.overdrawn(core.now)):
            self._refuse_rate(client, command, stream, queue, wait)
        elif isinstance(queue, Topic):
            self._update(client, queue, stream, command)
        elif not self._has_room(queue, parcel):
            self._refuse_full(client, command, stream, queue)
        else:
            queue.promise(parcel.count, len(parcel.body))
            self._merge(client, queue, stream, parcel)
            self._accept(client, stream, parcel)

    def _accept(self, client: Client, stream: Stream, parcel: Parcel) -> None:
        stream.last += parcel.count
        if client.account.limits.bytes < inf:
            client.account.publish(len(parcel.body) + len(parcel.columns or b""), self._core.now)

    def _update(self, client: Client, topic: Topic, stream: Stream, command: Put) -> None:
        """Updates are looked at here, so that no subscriber ever gets what are none; each batch is a record of its own."""
        try:
            updates = Updates.read(command.parcel)
        except ValueError as error:
            self._refuse(client, command, stream, Code.MALFORMED, f"no updates: {error}")
            return
        copies = self._topics.binding.copies(topic, updates) if topic.bindings else ()
        full = next((queue for queue, parcel in copies or () if not self._has_room(queue, parcel)), None)
        if copies is None:
            self._refuse(client, command, stream, Code.QUOTA, "a queue that these updates are bound to cannot be made: there are too many")
        elif full is not None:
            self._refuse_full(client, command, stream, full)
        else:
            self._accept(client, stream, command.parcel)
            stream.merging.append(updates)
            self._store(client, topic, stream, copies)

    def _has_room(self, queue: Queue, parcel: Parcel) -> bool:
        return queue.has_room(parcel.count, len(parcel.body)) or self._make_room(queue, parcel)

    def _refuse_full(self, client: Client, command: Put, stream: Stream, queue: Queue) -> None:
        text = f"queue {queue.name} is full ({queue.messages:,} messages, {queue.bytes:,} bytes)"
        self._refuse(client, command, stream, Code.WAIT if queue.policy.on_full == "block" else Code.FULL, text)

    def _refuse_rate(self, client: Client, command: Put, stream: Stream, queue: Queue | Topic, wait: float) -> None:
        account = client.account
        text = f"{account.who} publishes more than {account.limits.bytes:,.0f} bytes a second: go on in {wait:.2g} s"
        waits = isinstance(queue, Queue) and queue.policy.on_full == "block"
        self._refuse(client, command, stream, Code.WAIT if waits else Code.QUOTA, text, wait)

    def _make_room(self, queue: Queue, parcel: Parcel) -> bool:
        """The oldest ready messages give way, where the policy says so and it helps."""
        policy, core = queue.policy, self._core
        if policy.on_full not in ("drop_oldest", "dead_letter"):
            return False
        self.flush()
        messages = queue.messages + parcel.count - policy.max_messages if policy.max_messages is not None else 0
        size = queue.bytes + len(parcel.body) - policy.max_bytes if policy.max_bytes is not None else 0
        if size > 0 and policy.on_full == "dead_letter":
            return False  # a dead letter keeps its body
        ranges = queue.give_way(messages, size)
        if ranges is None:
            return False
        if policy.on_full == "drop_oldest":
            record = records.Drop(queue.number, ranges)
            queue.drop(record, core.record(record))
            core.drop("queue-full", b"", f"{queue.name} {ranges}")
        else:
            dead = records.Dead(queue.number, 0, ranges, "the queue was full", core.now, False, "")
            core.record(dead)
            queue.bury_ready(dead)
        return queue.has_room(parcel.count, len(parcel.body))

    def _refuse(
        self, client: Client, command: Put, stream: Stream | None, code: Code, text: str, retry_after: float = RETRY_AFTER
    ) -> None:
        self.flush()
        after = stream.answers[-1].after if stream is not None and stream.answers else 0
        refused = Refused(Kind.PUT, command.queue, command.first, command.count, code, retry_after, text)
        self._core.refuse(client.peer, refused, after)

    # -- merging ----------------------------------------------------------------------------------------------------

    def _merge(self, client: Client, queue: Queue | Topic, stream: Stream, parcel: Parcel) -> None:
        merging = stream.merging
        if merging:
            count = sum(part.count for part in merging) + parcel.count
            size = sum(len(part.body) for part in merging) + len(parcel.body)
            if parcel.columns is not None or merging[0].columns is not None or size > FULL_BYTES or count > PARCEL_MESSAGES_MAX:
                self._store(client, queue, stream)
        merging.append(parcel)
        self._merging[client.id, queue.number] = client, queue, stream

    def flush(self) -> None:
        """What was accepted becomes records."""
        for client, queue, stream in self._merging.values():
            self._store(client, queue, stream)
        self._merging.clear()

    def _store(self, client: Client, queue: Queue | Topic, stream: Stream, copies: Copies = ()) -> None:
        core, parts = self._core, stream.merging
        parcel = parts[0] if len(parts) == 1 else Parcel.merge(parts)
        parts.clear()
        first = stream.last - parcel.count + 1
        base = stream.answers[0].first if stream.answers else first
        qseq = queue.number_messages(parcel.count)
        record = records.Put(queue.number, client.id, first, parcel.count, base, qseq, core.now, parcel)
        if isinstance(queue, Topic):
            after = self._topics.put(queue, record, copies)
        else:
            after = core.record(record)
            queue.put(record, after)
        if stream.answers:
            after = max(after, stream.answers[-1].after)  # rule 3: one "in memory" waits for nothing else
        answer = Accepted(first, parcel.count, qseq, after)
        stream.answers.append(answer)
        self._confirm(client, queue, answer)

    def _confirm(self, client: Client, queue: Queue | Topic, answer: Accepted) -> None:
        durability = "memory" if isinstance(queue, Topic) and queue.policy.durability == "memory" else self._core.identity.durability
        confirm = Confirm(queue.name, answer.first, answer.count, answer.qseq, durability)
        # What was taken "in memory", and is told as more because the policy has changed, has to be more.
        after = answer.after or (self._core.last if isinstance(queue, Topic) and durability != "memory" else 0)
        self._core.send(client.peer, confirm, after)
