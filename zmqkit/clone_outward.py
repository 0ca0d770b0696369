"""Links to somebody else's Clone server: one for each subscription, and one by which keys are set. Each is an application of the reactor.

Nobody confirms what is set there. It counts as sent once it has left by a connection that stands.
"""

from __future__ import annotations

import os
import random
from collections import deque
from collections.abc import Callable, Sequence
from math import inf
from typing import Any, NamedTuple

from zmqkit import codec
from zmqkit.gateways import chp
from zmqkit.gateways.chp import Pair
from zmqkit.gateways.clone_link import SNAPSHOTS, CloneLink, Told
from zmqkit.machines.link import ClientMachine
from zmqkit.ports import Doors, Drops
from zmqkit.updates import Updates
from zmqkit.wire import Sub

TRY_SECONDS = 0.02  # between two looks whether the connection stands
BACKOFF_SECONDS, BACKOFF_SECONDS_MAX = 0.1, 1.0
WAITING_BYTES_MAX = 1024 * 1024


class Outward:
    """What both have in common. `doors`, `reopen` and `leave` are set before it runs."""

    doors: Doors
    reopen: Callable[[], None]
    leave: Callable[[], None]

    def __init__(self, heard_in_vain: dict[str, int]) -> None:
        self.machine = ClientMachine(os.urandom(16), random.random)
        self.trouble = "no answer yet"  # why the server cannot be reached, as far as is known
        self._drops = Drops("clone", lambda: heard_in_vain)
        self.drop = self._drops.add

    def pump(self, now: float) -> None:
        self.machine.tick(now)
        self._drops.report()

    def cut(self, was_up: bool, now: float) -> None:
        """The connection is gone, or never was."""
        self.trouble = "the connection was lost" if was_up else "nobody listens there"

    def gone(self, door: int, peer: bytes, now: float) -> None:
        """A connection is cut; no single peer of it goes."""

    def handle(self, events: list[Any], now: float) -> None:
        """Its own link inside the process has nothing to tell."""

    def closed(self, error: Exception | None) -> None:
        """The server notices nothing."""


class Follower(Outward):
    """A subscription. `tell` speaks to it, in turns of our own."""

    def __init__(self, sub: Sub, tell: Callable[[Told], None], now: float) -> None:
        self.link = CloneLink(sub, tell, now)
        super().__init__(self.link.dropped)

    def receive(self, door: int, peer: bytes, frames: Sequence[bytes], now: float) -> None:
        self.trouble = ""
        self.link.receive(door, frames, now)

    def cut(self, was_up: bool, now: float) -> None:
        super().cut(was_up, now)
        self.link.cut(now)

    def pump(self, now: float) -> None:
        super().pump(now)
        self.link.tick(now)
        if self.link.wants_new_sockets():
            self.reopen()
        for frames in self.link.take():
            self.doors.deliver(SNAPSHOTS, b"", frames)  # what does not leave is asked for again
        self.machine.remind(self.link.deadline)


class Batch(NamedTuple):
    ticket: Any
    size: int
    messages: list[list[bytes]]  # that have not left


class Setter(Outward):
    """`stored` is told a ticket once all of its updates have left. Some collectors are PULL, others SUB: it finds out."""

    def __init__(self, stored: Callable[[Any], None]) -> None:
        super().__init__({})
        self.publishes = False  # its collector is a SUB
        self._stored = stored
        self._waiting: deque[Batch] = deque()
        self._bytes = 0
        self._subscribed = self._stood = False
        self._opens_at, self._backoff = -inf, BACKOFF_SECONDS

    @property
    def stands(self) -> bool:
        return self._subscribed if self.publishes else self.doors.writable()

    @property
    def has_room(self) -> bool:
        """For one batch more."""
        return self._bytes < WAITING_BYTES_MAX and self.stands

    @property
    def tickets(self) -> list[Any]:
        """Of what waits to be sent."""
        return [batch.ticket for batch in self._waiting]

    def put(self, updates: Updates, ticket: Any) -> None:
        messages = []
        for key, held in zip(updates.keys, updates.values, strict=True):
            body, ttl = (held[0], held[1]) if isinstance(held, list) else (held, None)
            value = b"" if body is None else codec.plain(codec.unpack(body))
            props = b"" if ttl is None else f"ttl={ttl:g}\n".encode()
            messages.append(Pair(key.encode(errors="replace"), 0, os.urandom(chp.UUID_BYTES), props, value).frames)
        self._bytes += len(updates.body)
        self._waiting.append(Batch(ticket, len(updates.body), messages))

    def receive(self, door: int, peer: bytes, frames: Sequence[bytes], now: float) -> None:
        self._subscribed = self._subscribed or frames[0][:1] == b"\x01"

    def cut(self, was_up: bool, now: float) -> None:
        super().cut(was_up, now)
        if was_up and not self._stood:
            self.publishes = not self.publishes  # it did not shake hands: it is of the other kind, perhaps
        self._subscribed, self._opens_at = False, now + self._backoff
        self._backoff = min(2 * self._backoff, BACKOFF_SECONDS_MAX)

    def pump(self, now: float) -> None:
        super().pump(now)
        if now >= self._opens_at:
            self._opens_at, self._stood = inf, False
            self.reopen()
        if self.stands:
            self.trouble, self._backoff, self._stood = "", BACKOFF_SECONDS, True
            self.doors.connected = True  # so what was sent last still leaves, when we do
        while self._waiting and self.stands and self._send(self._waiting[0]):
            batch = self._waiting.popleft()
            self._bytes -= batch.size
            self._stored(batch.ticket)
        self.machine.remind(now + TRY_SECONDS if self._waiting else self._opens_at)

    def _send(self, batch: Batch) -> bool:
        """All of it?"""
        sent = 0
        for frames in batch.messages:
            if self.doors.deliver(0, b"", frames) is not None:
                break
            sent += 1
        del batch.messages[:sent]
        return not batch.messages
