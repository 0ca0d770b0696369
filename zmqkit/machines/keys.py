"""Idempotency keys: what runs under each, and the answers, kept for a while.

Rule 1 (R-C4)  An answer is kept for KEPT_SECONDS, in memory: nobody executes that key again meanwhile, on this node.
Rule 2         A key belongs to its user: nobody else's call is answered by it, nor kept from running.
Rule 3         A full table refuses new keys. It never forgets an answer early; one that does not fit is forgotten, but not that
               there was one.
"""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

from zmqkit.machines.service import Job
from zmqkit.parcel import Parcel
from zmqkit.wire import Status

KEPT_SECONDS = 600.0
KEYS_MAX = 100_000
KEYS_BYTES_MAX = 64 * 1024 * 1024
NOTHING = Parcel(0, b"", b"")
FORGOTTEN = Parcel.of([b"it was answered, but the node had no room to keep the answer"])

# User, service and key. A service may be forgotten meanwhile, and be another object when it is used again
Place = tuple[str | None, str, str]


class Entry(NamedTuple):
    run: Job | None  # None: answered
    status: int = 0
    body: Parcel = NOTHING


class Keys:
    def __init__(self) -> None:
        self.entries: dict[Place, Entry] = {}
        self._old: deque[tuple[float, Place]] = deque()  # answered ones, and until when each is kept
        self.bytes = 0

    def refuses(self, place: Place, now: float) -> bool:
        """Is this key a new one, and no room for it?"""
        self._forget_old(now)
        return place not in self.entries and (len(self.entries) >= KEYS_MAX or self.bytes >= KEYS_BYTES_MAX)

    def find(self, job: Job, now: float) -> Entry | None:
        self._forget_old(now)
        return self.entries.get(_place(job))

    def begin(self, run: Job) -> None:
        self.entries[_place(run)] = Entry(run)

    def keep(self, run: Job, status: int, body: Parcel, now: float) -> None:
        """The answer, if what runs is still what this key stands for."""
        place = _place(run)
        entry = self.entries.get(place)
        if entry is not None and entry.run is run:
            whole = Parcel(1, bytes(body.sizes), bytes(body.body))  # a slice would keep the batch that it came in
            if self.bytes + len(whole.body) > KEYS_BYTES_MAX:
                status, whole = Status.MAYBE_EXECUTED, FORGOTTEN
            self.entries[place] = Entry(None, status, whole)
            self.bytes += len(whole.body)
            self._old.append((now + KEPT_SECONDS, place))

    def drop(self, run: Job) -> None:
        """It has no answer: the next call of this key may run."""
        place = _place(run)
        entry = self.entries.get(place)
        if entry is not None and entry.run is run:
            del self.entries[place]

    def _forget_old(self, now: float) -> None:
        while self._old and self._old[0][0] <= now:
            entry = self.entries.pop(self._old.popleft()[1])
            self.bytes -= len(entry.body.body)


def _place(job: Job) -> Place:
    return job.account.user, job.service.title, job.key
