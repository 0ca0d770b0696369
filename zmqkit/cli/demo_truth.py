"""What `zmqkit demo topic` holds its subscribers against: the log of all updates in their order, and the map after each of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

Value = list[Any]  # [number of the update, monotonic time of its making, its ttl or None]
Map = dict[str, Value]
EARLY_SECONDS = 1.0  # a busy node takes an update so long, at most, after it has read its clock: from there it counts a ttl


class Entry(NamedTuple):
    """One update, as a topic's observer or its publisher knows it. `value` None: the key is deleted."""

    seq: int
    key: str
    value: Value | None


class Follower:
    """A plain fold of a subscription's events, and whether each follows the one before."""

    def __init__(self) -> None:
        self.map: Map = {}
        self.seq = 0
        self.told = 0  # gaps
        self.unnoticed = 0  # events that do not follow the one before, and do not say so
        self._snapshot = True

    def add(self, key: str, value: Value | None, seq: int, from_snapshot: bool, gap: Any) -> None:
        if gap is not None:
            self.told += 1
        elif from_snapshot:
            self.unnoticed += not self._snapshot  # all anew, in the middle
        elif self.seq:
            self.unnoticed += seq != self.seq + 1
        self.seq, self._snapshot = seq, from_snapshot
        if value is None:
            self.map.pop(key, None)
        else:
            self.map[key] = value


class Seen(NamedTuple):
    """A map that somebody had at that monotonic time, when it knew all updates up to `seq`."""

    seq: int
    map: Map
    moment: float


def diverged(log: Iterable[Entry], seen: Sequence[Seen]) -> list[Seen]:
    """Those that differ from the fold of the log up to there."""
    wrong: list[Seen] = []
    waiting = sorted(seen, key=lambda one: one.seq, reverse=True)
    truth: Map = {}
    for seq, key, value in log:
        while waiting and waiting[-1].seq < seq:
            wrong += _differing(waiting.pop(), truth)
        if value is None:
            truth.pop(key, None)
        else:
            truth[key] = value
        last = seq
    while waiting and waiting[-1].seq <= last:
        wrong += _differing(waiting.pop(), truth)
    return wrong + waiting  # nobody else knows of updates that are not in the log


def _differing(one: Seen, truth: Map) -> Iterator[Seen]:
    missing = {key: value for key, value in truth.items() if one.map.get(key) != value}
    if one.map.keys() <= truth.keys() and all(key not in one.map and _over(value, one.moment) for key, value in missing.items()):
        return
    yield one


def _over(value: Value, moment: float) -> bool:
    """Its ttl has run out: a state hides it, and a snapshot leaves it out, before the node's deletion comes."""
    _, made, ttl = value
    return ttl is not None and moment >= made + ttl - EARLY_SECONDS


def lost(log: Sequence[Entry], confirmed: Iterable[Entry]) -> list[Entry]:
    """Confirmed updates that are not in the log under their number."""
    return [entry for entry in confirmed if not 0 < entry.seq <= len(log) or log[entry.seq - 1] != entry]
