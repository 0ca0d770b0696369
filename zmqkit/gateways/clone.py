"""A Clone server (12/CHP) over a topic: snapshots at port P, updates out at P + 1, in at P + 2.

Rule 1  What clients set is published in the topic. It is told, to all, when it comes back from there: persisted, in the order of the topic,
        under the topic's numbers, like what native publishers put.
Rule 2  A snapshot is all of one moment, and is sent a piece at a time, the next once the one before has left. A client has one under way:
        who asks in a loop and does not read gets no second one.
Rule 3  Who is subscribed and hears nothing hears HUGZ: at once, so that its subscription is proved, and each second.
Rule 4  These protocols know no error. What is malformed is dropped and counted; what breaks the transport ends its connection.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from math import inf
from typing import NamedTuple

from zmqkit.gateways import chp, zmtp
from zmqkit.gateways.chp import Malformed, Pair
from zmqkit.gateways.clone_state import CloneState, Entry, Told, Update, synced
from zmqkit.gateways.desk import Send
from zmqkit.gateways.zmtp import Broken, Connection

SNAPSHOTS, UPDATES, COLLECTOR = range(3)  # doors
KINDS = {
    UPDATES: {"SUB": "XPUB", "XSUB": "XPUB"},
    COLLECTOR: {"PUSH": "PULL", "PUB": "SUB", "XPUB": "SUB"},
}
CONNECTIONS_MAX = 10_000  # of a door
KEPT_BYTES_MAX = 64 * 1024 * 1024  # of messages that are not whole, of all peers of a door
MESSAGE_BYTES_MAX = {UPDATES: 1 + 4096, COLLECTOR: 1024 * 1024 + 8192}
PREFIXES_MAX = 1000  # of one subscriber
CHUNK_BYTES = 64 * 1024  # of what is told to one subscriber at a time
SNAPSHOTS_MAX = 10_000  # that wait
RUNNING_MAX = 16  # at once; each holds on to the state of its moment
PIECE_KEYS, PIECE_BYTES = 256, 256 * 1024
STALL_SECONDS = 30.0  # a snapshot that nobody reads any further is given up
HEARTBEAT_PREFIXES = tuple(chp.HUGZ[:size] for size in range(len(chp.HUGZ) + 1))


class Set(NamedTuple):
    """What a client wants a key to hold. `value` None: nothing."""

    key: str
    value: bytes | None
    ttl: float | None
    note: bytes


class Subscriber:
    __slots__ = ("hugged", "out", "prefixes", "spoken")

    def __init__(self) -> None:
        self.prefixes: dict[bytes, int] = {}  # how often each was asked for
        self.out: list[bytes] = []
        self.spoken = False  # since the last beat

    @property
    def beats(self) -> bool:
        return any(prefix in self.prefixes for prefix in HEARTBEAT_PREFIXES)


class Snapshot:
    def __init__(self, subtree: bytes, seq: int, entries: list[tuple[bytes, Entry]], now: float) -> None:
        self.subtree, self.seq, self.entries, self.place = subtree, seq, entries, 0
        self.moved_at = now

    def piece(self) -> Iterator[list[bytes]]:
        """The next messages, up to a bound."""
        size = 0
        place = self.place
        for key, entry in islice(self.entries, place, place + 16 * PIECE_KEYS):
            self.place += 1
            if key.startswith(self.subtree):
                frames = synced(key, entry)
                size += sum(map(len, frames)) + PIECE_BYTES // PIECE_KEYS
                yield frames
                if size >= PIECE_BYTES:
                    return

    @property
    def ended(self) -> bool:
        return self.place >= len(self.entries)


class Clone:
    """`publish` takes what clients set; `unread(door, peer)` tells how many bytes wait for a peer that does not read."""

    def __init__(self, publish: Callable[[Set], None], unread: Callable[[int, bytes], int]) -> None:
        self.dropped: dict[str, int] = Counter()
        self.state = CloneState()
        self._publish, self._unread = publish, unread
        self._connections: dict[int, dict[bytes, Connection]] = {UPDATES: {}, COLLECTOR: {}}
        self._shaking: dict[tuple[int, bytes], Connection] = {}
        self._subscribers: dict[bytes, Subscriber] = {}
        self._news: list[Told] = []  # that subscribers are not told yet
        self._beat_at = inf
        self._asked: dict[bytes, bytes] = {}  # subtrees, by peer
        self._running: dict[bytes, Snapshot] = {}
        self._out: list[Send] = []

    # -- the topic ------------------------------------------------------------------------------------------------------

    def update(self, update: Update, now: float) -> None:
        if not self._is_spoken(update):
            return
        told = self.state.update(update, now)
        if told is not None:
            self._news.append(told)

    def load(self, update: Update, now: float) -> None:
        if self._is_spoken(update):
            self.state.load(update, now)

    def lost(self) -> None:
        self.state.lost()

    def complete(self, seq: int, now: float) -> None:
        self._news += self.state.complete(seq, now)

    def _is_spoken(self, update: Update) -> bool:
        if update.key in chp.RESERVED:
            self._drop("reserved-key")
            return False
        return True

    # -- the driver -----------------------------------------------------------------------------------------------------

    def receive(self, door: int, peer: bytes, frames: Sequence[bytes], now: float) -> None:
        if door == SNAPSHOTS:
            self._ask(peer, frames)
            return
        data, connections = frames[0], self._connections[door]
        connection = connections.get(peer)
        if not data:  # a connection begins, or has ended
            if connection is not None:
                self._forget(door, peer)
            elif len(connections) >= CONNECTIONS_MAX:
                self._end(door, peer, "too-many-connections")
            else:
                connection = Connection(KINDS[door], now, 1 if door == UPDATES else 5, MESSAGE_BYTES_MAX[door])
                connections[peer] = self._shaking[door, peer] = connection
                self._speak(door, peer, connection)
        elif connection is not None:
            try:
                self._hear(door, peer, connection, data, now)
            except Broken as broken:
                self._end(door, peer, str(broken))

    def gone(self, door: int, peer: bytes, now: float) -> None:
        """It does not read, or is gone."""
        if door == SNAPSHOTS:
            self._asked.pop(peer, None)
            self._running.pop(peer, None)
        elif peer in self._connections[door]:
            self._forget(door, peer)
            self._out.append(Send(door, peer, [b""]))

    def tick(self, now: float) -> None:
        for (door, peer), connection in list(self._shaking.items()):
            if connection.deadline > now:
                continue
            try:
                connection.tick(now)
                self._speak(door, peer, connection)
            except Broken as broken:
                self._end(door, peer, str(broken))
        if now >= self._beat_at:
            self._beat(now)
        for peer, snapshot in list(self._running.items()):
            if now >= snapshot.moved_at + STALL_SECONDS:
                del self._running[peer]
                self._drop("snapshot-not-read")

    @property
    def deadline(self) -> float:
        stalled = min([snapshot.moved_at + STALL_SECONDS for snapshot in self._running.values()], default=inf)
        shaken = min([connection.deadline for connection in self._shaking.values()], default=inf)
        return min(self._beat_at, stalled, shaken)

    def take(self, now: float) -> list[Send]:
        if self.state.loaded:
            self._run(now)
        self._flush()
        for peer, subscriber in self._subscribers.items():
            if subscriber.out:
                data = subscriber.out[0] if len(subscriber.out) == 1 else b"".join(subscriber.out)
                subscriber.out.clear()
                self._out += [Send(UPDATES, peer, [data[at : at + CHUNK_BYTES]]) for at in range(0, len(data), CHUNK_BYTES)]
        out, self._out = self._out, []
        return out

    @property
    def has_more(self) -> bool:
        """Another `take` would give something."""
        if not self.state.loaded:
            return False
        return (bool(self._asked) and len(self._running) < RUNNING_MAX) or any(not self._unread(SNAPSHOTS, peer) for peer in self._running)

    # -- connections ----------------------------------------------------------------------------------------------------

    def _hear(self, door: int, peer: bytes, connection: Connection, data: bytes, now: float) -> None:
        try:
            for frames in connection.receive(data):
                self._met(door, peer, connection, now)
                if door == COLLECTOR:
                    self._set(frames)
                else:
                    self._subscribe(peer, frames)
            self._met(door, peer, connection, now)
        finally:
            self._speak(door, peer, connection)
        if connection.kept > CHUNK_BYTES and sum(other.kept for other in self._connections[door].values()) > KEPT_BYTES_MAX:
            raise Broken("too-much-unfinished")

    def _met(self, door: int, peer: bytes, connection: Connection, now: float) -> None:
        """Have we just shaken hands?"""
        if connection.kind and self._shaking.pop((door, peer), None) is not None:
            self._speak(door, peer, connection)
            if door == UPDATES:
                self._subscribers[peer] = Subscriber()
                self._beat_at = min(self._beat_at, now + chp.BEAT_SECONDS)
            elif connection.kind != "PUSH":
                self._out.append(Send(door, peer, [zmtp.message([b"\x01"])]))  # a publisher sends what somebody wants: all

    def _speak(self, door: int, peer: bytes, connection: Connection) -> None:
        data = connection.take()
        if data:
            self._out.append(Send(door, peer, [data]))

    def _end(self, door: int, peer: bytes, reason: str) -> None:
        self._drop(reason)
        self._forget(door, peer)
        self._out.append(Send(door, peer, [b""]))

    def _forget(self, door: int, peer: bytes) -> None:
        self._connections[door].pop(peer, None)
        self._shaking.pop((door, peer), None)
        if door == UPDATES and self._subscribers.pop(peer, None) is not None and not self._subscribers:
            self._beat_at = inf

    # -- in -------------------------------------------------------------------------------------------------------------

    def _set(self, frames: Sequence[bytes]) -> None:
        """KVSET."""
        try:
            pair = chp.read(frames)
            key, ttl = chp.key_of(pair), chp.ttl_of(pair.props)
        except Malformed as malformed:
            self._drop(str(malformed))
            return
        self._publish(Set(key, pair.value or None, ttl if pair.value else None, chp.note(pair.uuid, pair.props) if pair.value else b""))

    def _ask(self, peer: bytes, frames: Sequence[bytes]) -> None:
        if not frames or frames[0] != chp.ICANHAZ or len(frames) > 2 or len(frames[-1]) > chp.KEY_BYTES_MAX:
            self._drop("bad-request")
        elif peer in self._running or peer in self._asked:
            self._drop("asked-again")
        elif len(self._asked) >= SNAPSHOTS_MAX:
            self._drop("too-many-snapshots")
        else:
            self._asked[peer] = frames[1] if len(frames) == 2 else b""

    # -- out ------------------------------------------------------------------------------------------------------------

    def _run(self, now: float) -> None:
        """Rule 2."""
        while self._asked and len(self._running) < RUNNING_MAX:
            peer = next(iter(self._asked))
            self._running[peer] = Snapshot(self._asked.pop(peer), self.state.seq, self.state.snapshot(), now)
        for peer, snapshot in list(self._running.items()):
            if self._unread(SNAPSHOTS, peer):
                continue
            snapshot.moved_at = now
            self._out += [Send(SNAPSHOTS, peer, frames) for frames in snapshot.piece()]
            if snapshot.ended:
                self._out.append(Send(SNAPSHOTS, peer, Pair(chp.KTHXBAI, snapshot.seq, value=snapshot.subtree).frames))
                del self._running[peer]

    def _subscribe(self, peer: bytes, frames: Sequence[bytes]) -> None:
        subscriber, data = self._subscribers[peer], frames[0]
        if len(frames) > 1 or data[:1] not in (b"\0", b"\1"):
            self._drop("bad-subscription")
            return
        prefix, count = data[1:], subscriber.prefixes.get(data[1:], 0)
        self._flush()
        if data[:1] == b"\0":
            if count > 1:
                subscriber.prefixes[prefix] = count - 1
            else:
                subscriber.prefixes.pop(prefix, None)
        elif not count and len(subscriber.prefixes) >= PREFIXES_MAX:
            raise Broken("too-many-prefixes")
        else:
            known = tuple(subscriber.prefixes)
            subscriber.prefixes[prefix] = count + 1
            if not count:
                missed = [told.frames for told in self.state.recent if told.key.startswith(prefix) and not told.key.startswith(known)]
                if prefix in HEARTBEAT_PREFIXES:
                    missed.append(self._hugz())
                if missed:
                    subscriber.out.append(b"".join(missed))

    def _hugz(self) -> bytes:
        return zmtp.message(Pair(chp.HUGZ, self.state.seq).frames)

    def _beat(self, now: float) -> None:
        """Rule 3."""
        self._beat_at = now + chp.BEAT_SECONDS
        self.state.trim(now)
        self._flush()
        hugz = self._hugz()
        for subscriber in self._subscribers.values():
            if not subscriber.spoken and subscriber.beats:
                subscriber.out.append(hugz)
            subscriber.spoken = False

    def _flush(self) -> None:
        """Whoever is subscribed now is told what is new, the same bytes for the same prefixes."""
        if not self._news:
            return
        news, self._news = self._news, []
        chosen: dict[tuple[bytes, ...], bytes] = {}
        for subscriber in self._subscribers.values():
            case = tuple(subscriber.prefixes)
            if case not in chosen:
                chosen[case] = b"".join([told.frames for told in news if told.key.startswith(case)])
            if chosen[case]:
                subscriber.out.append(chosen[case])
                subscriber.spoken = True

    def _drop(self, reason: str) -> None:
        self.dropped[reason] += 1
