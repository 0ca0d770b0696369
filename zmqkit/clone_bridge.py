"""The bridge of a Clone server: one topic of the node in this process on one side, foreign peers at three doors on the other.

It is one more client of the node: what Clone clients set is put into the topic, and what comes from the topic is told to them. Values:
bytes are the same on both sides; a native text goes out as UTF-8, anything else as JSON.
"""

from __future__ import annotations

import os
import random
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from itertools import repeat
from logging import getLogger
from typing import Any

from zmqkit import codec
from zmqkit.gateways.clone import COLLECTOR, Clone, Set
from zmqkit.gateways.clone_state import RECENT_MESSAGES, Update
from zmqkit.machines import events as ev
from zmqkit.machines.following import Changes, Gap, Loaded, Subscription
from zmqkit.machines.link import ClientMachine
from zmqkit.parcel import FULL_BYTES, PARCEL_MESSAGES_MAX, Parcel
from zmqkit.ports import Doors, Drops
from zmqkit.updates import ALL, UPDATES_BYTES_MAX, Held, message
from zmqkit.wire import TOPIC_MARK, Refused, Start

WAITING_BYTES_MAX = 8 * 1024 * 1024  # that clients set, and the topic has not taken: then they are not read any further

log = getLogger("zmqkit.gateway")


class Values(Subscription):
    """Of a whole topic, from `seq` on, with the state beside. It keeps no state of its own."""

    def __init__(self, topic: str, seq: int) -> None:
        super().__init__(topic, ALL, Start.SEQ, seq=seq)
        self.fresh = ALL

    def _apply(self, changes: Changes, now: float) -> None:
        self.news.append(changes)


class CloneBridge:
    """An application of the reactor. `doors` are set before it runs; `seq` and `floor`: the topic's newest update and its oldest."""

    doors: Doors

    def __init__(self, topic: str, wake: Callable[[], None], seq: int, floor: int) -> None:
        self.machine = ClientMachine(os.urandom(16), random.random)
        self._topic, self._wake = TOPIC_MARK + topic, wake
        self._clone = Clone(self._publish, lambda door, peer: self.doors.unread(door, peer))
        self._values = Values(topic, max(floor - 1, seq - RECENT_MESSAGES))
        self.machine.following.add(self._values)
        self._pack = codec.packer()
        self._sets: deque[bytes] = deque()  # encoded updates that wait
        self._sets_bytes = self._flying = 0
        self._drops = Drops("clone", lambda: self._clone.dropped)
        self.drop = self._drops.add

    # -- the reactor ----------------------------------------------------------------------------------------------------

    def receive(self, door: int, peer: bytes, frames: Sequence[bytes], now: float) -> None:
        """A foreign peer said this."""
        self._clone.receive(door, peer, frames, now)

    def gone(self, door: int, peer: bytes, now: float) -> None:
        self._clone.gone(door, peer, now)

    def cut(self, was_up: bool, now: float) -> None:
        """There is no connection that could be cut: peers come to our doors."""

    def pump(self, now: float) -> None:
        self.machine.tick(now)
        self._step(now)

    def handle(self, events: list[Any], now: float) -> None:
        for event in events:
            if isinstance(event, ev.News):
                self._hear(now)
            elif isinstance(event, ev.Stored | ev.Rejected):
                self._flying -= event.ticket[1]
                if isinstance(event, ev.Rejected):
                    self.drop("not-stored", event.ticket[0])
                    log.warning("clone: %d updates were not stored: %s", event.ticket[0], event.text)
        self._step(now)
        self._wake()  # what was taken, or set, leaves in the next turn

    def closed(self, error: Exception | None) -> None:
        """Foreign peers notice by themselves: there are no more HUGZ."""

    @property
    def dropped(self) -> dict[str, int]:
        """What foreign peers said in vain, counted by reason."""
        return self._drops.all

    def _step(self, now: float) -> None:
        clone = self._clone
        self._put()
        if clone.deadline <= now:
            clone.tick(now)
        while sends := clone.take(now):
            gone: dict[tuple[int, bytes], None] = {}
            for send in sends:
                place = send.door, send.peer
                if place not in gone and (reason := self.doors.deliver(*place, send.frames)) is not None:
                    gone[place] = None  # what follows would make no sense without it
                    if send.frames[0]:  # whom we wanted to leave may have left
                        self.drop(reason)
            for door, peer in gone:
                clone.gone(door, peer, now)
            if not gone:
                break
        if clone.has_more:
            self._wake()
        self.doors.pause(COLLECTOR, self._sets_bytes + self._flying > WAITING_BYTES_MAX)
        self.machine.remind(clone.deadline)
        self._drops.report()

    # -- into the topic -------------------------------------------------------------------------------------------------

    def _publish(self, wanted: Set) -> None:
        value = None if wanted.value is None else self._pack(wanted.value)
        data = message(wanted.key, value, wanted.ttl, wanted.note)
        if len(data) > UPDATES_BYTES_MAX:
            self.drop("value-too-large")
            return
        self._sets.append(data)
        self._sets_bytes += len(data)

    def _put(self) -> None:
        while self._sets and self.machine.has_room(self._topic, self._sets_bytes >= FULL_BYTES):
            batch = [self._sets.popleft()]
            size = len(batch[0])
            while self._sets and size < FULL_BYTES and len(batch) < PARCEL_MESSAGES_MAX and size + len(self._sets[0]) <= UPDATES_BYTES_MAX:
                batch.append(self._sets.popleft())
                size += len(batch[-1])
            self._sets_bytes -= size
            self._flying += size
            self.machine.put(self._topic, Parcel.of(batch), (len(batch), size))

    # -- out of the topic -----------------------------------------------------------------------------------------------

    def _hear(self, now: float) -> None:
        news, self._values.news = self._values.news, []
        for item in news:
            if isinstance(item, Changes):
                tell = self._clone.load if item.snapshot else self._clone.update
                for update in self._updates(item):
                    tell(update, now)
                self.machine.following.take(self._values, item.size)
            elif isinstance(item, Gap):
                self._clone.lost()
            elif isinstance(item, Loaded):
                self._clone.complete(self._values.seq, now)
            elif isinstance(item, Refused):
                log.error("clone: the node does not let us follow the topic: %s", item.text)

    def _updates(self, changes: Changes) -> Iterator[Update]:
        numbers = repeat(changes.numbers) if isinstance(changes.numbers, int) else changes.numbers
        for key, held, seq in zip(changes.keys, changes.values, numbers, strict=False):
            yield self._update(key.encode(errors="replace"), seq, held)

    def _update(self, key: bytes, seq: int, held: Held) -> Update:
        if held is None:
            return Update(key, seq, None)
        body, ttl, *notes = held if isinstance(held, list) else (held, None)
        try:
            return Update(key, seq, codec.plain(codec.unpack(body)), ttl, notes[0] if notes else b"")
        except codec.Undecodable:
            self.drop("undecodable-value")
            return Update(key, seq, None)  # what the key held before does not hold any more
