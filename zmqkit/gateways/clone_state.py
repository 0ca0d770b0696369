"""What a Clone server knows: the state that clients ask for, and the newest updates, as they were told.

Rule 1  What a key holds is told first and asked for later: so a snapshot is never older than what was published before it.
Rule 2  The newest updates are kept, and told again to every subscription that is new. Whose subscription came later than its snapshot, or
        whose connection was mended by ZeroMQ without a word, has what it missed; others drop it, for they know a higher seq.
Rule 3  After a gap of our own (the topic's history was shorter than what came at once) the state comes anew. What differs is told under
        numbers from the gap: each key that differs had an update in it, so there are enough.
"""

from __future__ import annotations

from collections import deque
from math import inf
from typing import NamedTuple

from zmqkit.gateways import chp, zmtp
from zmqkit.gateways.chp import Pair

RECENT_MESSAGES, RECENT_BYTES, RECENT_SECONDS = 10_000, 1024 * 1024, 60.0


class Update(NamedTuple):
    """From the topic. `value` None: deleted. `ttl`: seconds. `note`: as `chp.note` makes it."""

    key: bytes
    seq: int
    value: bytes | None
    ttl: float | None = None
    note: bytes = b""


class Entry(NamedTuple):
    seq: int
    value: bytes
    end: float  # inf: none
    note: bytes


class Told(NamedTuple):
    """An update as it travels."""

    key: bytes
    frames: bytes
    at: float


class CloneState:
    def __init__(self) -> None:
        self.seq = 0
        self.loaded = False
        self.recent: deque[Told] = deque()
        self._recent_bytes = 0
        self._entries: dict[bytes, Entry] = {}
        self._before: tuple[int, dict[bytes, Entry]] | None = None  # seq and state before a gap, until the new one is complete
        self._frozen: list[tuple[bytes, Entry]] | None = None

    def update(self, update: Update, now: float) -> Told | None:
        """Returns what is to be told, if anything is yet."""
        self.seq = max(self.seq, update.seq)
        self._store(update, update.seq, now)
        return self._tell(self._pair(update), now) if self._before is None else None

    def load(self, update: Update, now: float) -> None:
        """A piece of the state, as it is now: nothing that is told."""
        known = self._entries.get(update.key)
        self._store(update, update.seq if known is None else known.seq, now)

    def lost(self) -> None:
        """Rule 3: the whole state follows, then `complete`."""
        if self._before is None and self.loaded:
            self._before = self.seq, self._entries
        self._entries, self._frozen, self.loaded = {}, None, False

    def complete(self, seq: int, now: float) -> list[Told]:
        """The state is complete. What is to be told."""
        gap, self._before = self._before, None
        self.seq, self.loaded = max(self.seq, seq), True
        if gap is None:
            return []
        first, before = gap
        told = []
        for key in [*before, *(key for key in self._entries if key not in before)]:
            old, new = before.get(key), self._entries.get(key)
            if new is None or old is None or (old.value, old.note) != (new.value, new.note):
                first = min(first + 1, self.seq)
                told.append(self._tell(self._again(key, new, first, now), now))
        return told

    def snapshot(self) -> list[tuple[bytes, Entry]]:
        """All of this moment. Shared, until something changes."""
        if self._frozen is None:
            self._frozen = list(self._entries.items())
        return self._frozen

    def _store(self, update: Update, seq: int, now: float) -> None:
        self._frozen = None
        if update.value:
            end = inf if update.ttl is None else now + update.ttl
            self._entries[update.key] = Entry(seq, update.value, end, update.note)
        else:
            self._entries.pop(update.key, None)

    def _pair(self, update: Update) -> Pair:
        """Properties are told as they were given; of a ttl that none of them names there is one more."""
        uuid, props = chp.noted(update.note)
        if update.ttl is not None and not any(line.startswith(b"ttl=") for line in props.splitlines()):
            props += f"ttl={update.ttl:g}\n".encode()
        return Pair(update.key, update.seq, uuid, props, update.value or b"")

    def _again(self, key: bytes, entry: Entry | None, seq: int, now: float) -> Pair:
        if entry is None:
            return Pair(key, seq)
        uuid, props = chp.noted(entry.note)
        return Pair(key, seq, uuid, props if entry.end == inf else chp.with_ttl(props, max(0.001, entry.end - now)), entry.value)

    def _tell(self, pair: Pair, now: float) -> Told:
        told = Told(pair.key, zmtp.message(pair.frames), now)
        self.recent.append(told)
        self._recent_bytes += len(told.frames)
        self.trim(now)
        return told

    def trim(self, now: float) -> None:
        recent = self.recent
        while recent and (len(recent) > RECENT_MESSAGES or self._recent_bytes > RECENT_BYTES or recent[0].at < now - RECENT_SECONDS):
            self._recent_bytes -= len(recent.popleft().frames)


def synced(key: bytes, entry: Entry) -> list[bytes]:
    """An entry of a snapshot, as frames."""
    uuid, props = chp.noted(entry.note)
    return Pair(key, entry.seq, uuid, props if entry.end == inf else chp.with_ttl(props, entry.end), entry.value).frames
