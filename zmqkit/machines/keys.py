"""Idempotency keys: what runs under each, and the answers, kept for a while.

Rule 1 (R-C4)  An answer is kept for KEPT_SECONDS, in memory: nobody executes that key again meanwhile, on this node.
Rule 2         A full table refuses new keys. It never forgets an answer early.
"""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

from zmqkit.machines.service import Job, Service
from zmqkit.parcel import Parcel

KEPT_SECONDS = 600.0
KEYS_MAX = 100_000
KEYS_BYTES_MAX = 64 * 1024 * 1024
NOTHING = Parcel(0, b"", b"")


class Entry(NamedTuple):
    run: Job | None  # None: answered
    status: int = 0
    body: Parcel = NOTHING


class Keys:
    def __init__(self) -> None:
        self._entries: dict[tuple[int, str], Entry] = {}  # by service and key
        self._old: deque[tuple[float, tuple[int, str]]] = deque()  # answered ones, and until when each is kept
        self._bytes = 0

    def full(self, now: float) -> bool:
        self._forget_old(now)
        return len(self._entries) >= KEYS_MAX or self._bytes >= KEYS_BYTES_MAX

    def find(self, service: Service, key: str, now: float) -> Entry | None:
        self._forget_old(now)
        return self._entries.get((service.number, key))

    def begin(self, run: Job) -> None:
        self._entries[run.service.number, run.key] = Entry(run)

    def keep(self, run: Job, status: int, body: Parcel, now: float) -> None:
        """The answer, if what runs is still what this key stands for."""
        place = run.service.number, run.key
        entry = self._entries.get(place)
        if entry is not None and entry.run is run:
            whole = Parcel(1, bytes(body.sizes), bytes(body.body))  # a slice would keep the batch that it came in
            self._entries[place] = Entry(None, status, whole)
            self._bytes += len(whole.body)
            self._old.append((now + KEPT_SECONDS, place))

    def drop(self, run: Job) -> None:
        """It has no answer: the next call of this key may run."""
        place = run.service.number, run.key
        entry = self._entries.get(place)
        if entry is not None and entry.run is run:
            del self._entries[place]

    def _forget_old(self, now: float) -> None:
        while self._old and self._old[0][0] <= now:
            entry = self._entries.pop(self._old.popleft()[1])
            self._bytes -= len(entry.body.body)
