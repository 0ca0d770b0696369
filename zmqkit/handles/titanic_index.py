"""What Titanic remembers: where each request and its answer are. Threads share it; every change is made under one lock."""

from __future__ import annotations

import threading
from concurrent.futures import Future
from math import inf
from typing import Any


class Entry:
    """One request, until it is closed or its answer expires. Numbers are those of messages in the two queues."""

    __slots__ = ("at", "call", "closed", "dead", "marks", "replies", "request", "tries")

    def __init__(self) -> None:
        self.request: int | None = None  # 0: gone
        self.replies: list[int] = []  # more than one if it was in doubt whether the first is stored
        self.marks: list[int] = []  # that it is closed
        self.at = inf  # when it was answered
        self.closed = self.dead = False
        self.call: Future[Any] | None = None  # the latest
        self.tries = 0  # calls for which there was nobody


class Index:
    def __init__(self) -> None:
        self._entries: dict[str, Entry] = {}
        self._answered: dict[str, Entry] = {}  # the oldest answer first
        self._lock = threading.Lock()

    def find(self, uuid: str) -> Entry | None:
        return self._entries.get(uuid)

    def drop(self, uuid: str) -> None:
        with self._lock:
            self._entries.pop(uuid, None)
            self._answered.pop(uuid, None)

    # -- the life of one ------------------------------------------------------------------------------------------------

    def stored(self, uuid: str, seq: int) -> None:
        with self._lock:
            entry = self._entries.setdefault(uuid, Entry())
            if entry.request is None:  # else it was executed before we heard that it is stored
                entry.request = seq

    def taken(self, uuid: str, seq: int) -> Entry:
        """Somebody is about to execute it."""
        with self._lock:
            entry = self._entries.setdefault(uuid, Entry())
            entry.request, entry.dead = seq, False
            return entry

    def answered(self, uuid: str, entry: Entry, seq: int, at: float) -> None:
        with self._lock:
            entry.replies.append(seq)
            entry.at = min(at, entry.at)
            self._answered[uuid] = entry

    def close(self, uuid: str) -> Entry | None:
        with self._lock:
            entry = self._entries.get(uuid)
            if entry is not None:
                entry.closed = True
            return entry

    def marked(self, uuid: str, entry: Entry, seq: int) -> None:
        with self._lock:
            entry.marks.append(seq)

    # -- expiry -----------------------------------------------------------------------------------------------------------

    def oldest(self) -> float:
        """When the answer was given that has been kept longest; inf if there is none."""
        with self._lock:
            return next(iter(self._answered.values())).at if self._answered else inf

    def expire(self) -> tuple[str, Entry]:
        """Close the oldest."""
        with self._lock:
            uuid = next(iter(self._answered))
            entry = self._answered.pop(uuid)
            entry.closed = True
            return uuid, entry

    # -- at start -----------------------------------------------------------------------------------------------------

    def restore_reply(self, uuid: str, seq: int, closed: bool, at: float) -> None:
        entry = self._entries.setdefault(uuid, Entry())
        entry.request = 0  # unless it is found
        if closed:
            entry.closed = True
            entry.marks.append(seq)
        else:
            self.answered(uuid, entry, seq, at)

    def restore_request(self, uuid: str, seq: int, dead: bool) -> None:
        entry = self._entries.setdefault(uuid, Entry())
        entry.request, entry.dead = seq, dead

    def finished(self) -> list[tuple[str, Entry]]:
        """Closed, and nothing left to execute."""
        return [(uuid, entry) for uuid, entry in self._entries.items() if entry.closed and not entry.request]
