"""One topic of a node: numbered updates, the state that they add up to, and which of them are kept.

Rule 1  An update counts from the moment its record is durable (R-T4): then it is history, part of the state, and told.
Rule 2  The state is the fold of all updates in order. A ttl that runs out is an update too, made by the node: a deletion.
Rule 3  History ends at the floor, and the floor is a record: a replay trims by the same decisions, not by its own clock.
Rule 4 (R-T3)  A position (epoch, seq) still means what it meant if no later epoch began below it: else its number was given
        again, behind a crash that lost the log's tail.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from heapq import heappop, heappush
from math import inf
from typing import Any, NamedTuple

from zmqkit import records
from zmqkit.machines.history import History
from zmqkit.machines.parts import Row
from zmqkit.machines.policy import TopicPolicy
from zmqkit.parcel import Parcel
from zmqkit.updates import Held, Updates, Value, kept, told

RECENT_BYTES = 8 * 1024 * 1024  # of batches that are kept decoded: whoever follows at the head reads no log
EPOCHS_MAX = 1000  # of which the beginning is known; a position of an older one is none any more


class Landing(NamedTuple):
    """Updates that wait for durability."""

    row: Row
    updates: Updates

    @property
    def position(self) -> int:
        return self.row.position


class Topic:
    def __init__(self, number: int, name: str, policy: TopicPolicy, read: Callable[[int], Parcel], owner: str = "") -> None:
        self.number, self.name, self.policy = number, name, policy  # the name with its mark
        self.owner = owner  # the user by whom it came into being
        self.restoring = False  # the state is made when all of the log is read
        self.next_qseq = 1
        self.history = History()
        self.values: dict[str, Value] = {}
        self.deletions = 0  # so many keys left the state
        self.ends: list[tuple[float, str]] = []  # heap of ttls; one that was replaced meanwhile goes when met
        self.epochs: list[tuple[int, int]] = []  # (epoch, last seq when it began), of epochs with updates, ascending
        self.names: dict[str, tuple[int, int]] = {}  # positions that subscribers keep here
        self.bindings: dict[str, tuple[str, ...]] = {}  # queue -> prefixes: such updates are messages there, too
        self.read = read  # what stands at a position of the log
        self._recent: OrderedDict[int, Updates] = OrderedDict()  # by position
        self._recent_bytes = 0

    # -- in ---------------------------------------------------------------------------------------------------------

    def number_messages(self, count: int) -> int:
        """Numbers for updates that become a record now. Returns the first."""
        seq = self.next_qseq
        self.next_qseq += count
        return seq

    def landing(self, record: records.Put, position: int) -> Landing:
        """The updates of a record, on their way."""
        return Landing(Row(record.qseq, record.count, position, len(record.parcel.body), record.at), Updates.read(record.parcel))

    def land(self, what: Landing) -> None:
        """Rule 1."""
        row, updates = what
        self.history.append(row)
        if self.restoring:
            return
        self._remember(row.position, updates)
        if self.policy.keep_values:
            self.fold(updates.keys, updates.values, row.at, updates.plain)

    @property
    def head(self) -> int:
        """The newest update that counts."""
        return self.history.next_seq - 1

    def fold(self, keys: list[str], held: list[Held], at: float, plain: bool = False) -> None:
        """Rule 2."""
        values = self.values
        if plain:
            values.update(zip(keys, held, strict=True))  # type: ignore[arg-type]
            return
        for key, value in zip(keys, held, strict=True):
            if value is None:
                self.deletions += values.pop(key, None) is not None
            elif type(value) is list:
                values[key] = held_till = kept(value, at)
                if held_till[1] < inf:
                    heappush(self.ends, (held_till[1], key))
            else:
                values[key] = value  # type: ignore[assignment]

    # -- time -------------------------------------------------------------------------------------------------------

    @property
    def deadline(self) -> float:
        """When the first ttl runs out."""
        return self.ends[0][0] if self.ends else inf

    def ended(self, now: float) -> list[str]:
        """Keys whose ttl has run out: to be deleted by an update."""
        found: dict[str, None] = {}
        while self.deadline <= now:
            end, key = heappop(self.ends)
            value = self.values.get(key)
            if type(value) is tuple and value[1] == end:
                found[key] = None
        return list(found)

    def surplus(self, now: float) -> records.Ranges:
        """Of the oldest batches, what the policy keeps no longer. Gathered: each trim is a record."""
        history, policy = self.history, self.policy
        messages, size = history.messages, history.size
        count = place = 0
        for place in range(history.first, history.end):
            row = history.at(place)
            over = (
                (policy.max_messages is not None and messages - row.count >= policy.max_messages)
                or (policy.max_bytes is not None and size - row.size >= policy.max_bytes)
                or (policy.max_age is not None and row.at < now - policy.max_age)
            )
            if not over:
                break
            messages, size, count = messages - row.count, size - row.size, count + row.count
        rows = place - history.first
        return [(history.floor, count)] if count and rows >= (history.end - history.first) // 32 else []

    def trim(self, record: records.Drop) -> list[Row]:
        """Rule 3. The batches that went."""
        gone = []
        for first, count in record.ranges:
            while self.history.messages and self.history.floor < first + count:
                gone.append(self.history.pop())
                self._forget(gone[-1].position)
        return gone

    # -- out --------------------------------------------------------------------------------------------------------

    def updates_at(self, place: int) -> Updates:
        position = self.history.at(place).position
        updates = self._recent.get(position)
        if updates is None:
            updates = Updates.read(self.read(position))
            if self._recent_bytes <= RECENT_BYTES:
                self._remember(position, updates)
        return updates

    def _remember(self, position: int, updates: Updates) -> None:
        self._recent[position] = updates
        self._recent_bytes += len(updates.body)

    def forget_old(self) -> None:
        """Once all were told: what landed "in memory" stands in the log only behind this turn's output, and is not forgotten before."""
        while self._recent_bytes > RECENT_BYTES and len(self._recent) > 1:
            self._forget(next(iter(self._recent)))

    def _forget(self, position: int) -> None:
        updates = self._recent.pop(position, None)
        if updates is not None:
            self._recent_bytes -= len(updates.body)

    def held(self, keys: list[str], now: float) -> tuple[list[str], list[Held]]:
        """Those of the keys that have a value, as an update would say it now."""
        values: list[Any] = list(map(self.values.get, keys))
        if tuple in set(map(type, values)):
            values = [told(value, now) if type(value) is tuple else value for value in values]
        if None in values:
            keys = [key for key, value in zip(keys, values, strict=True) if value is not None]
            values = [value for value in values if value is not None]
        return keys, values

    def bind(self, record: records.Bind) -> None:
        prefixes = tuple(prefix for prefix in self.bindings.get(record.name, ()) if prefix != record.prefix)
        if record.bound:
            prefixes = *prefixes, record.prefix
        self.bindings.pop(record.name, None)
        if prefixes:
            self.bindings[record.name] = prefixes

    # -- positions --------------------------------------------------------------------------------------------------

    def begin_epoch(self, epoch: int, last: int) -> None:
        """Its first update comes next; `last` is the one before."""
        self.epochs.append((epoch, last))
        del self.epochs[:-EPOCHS_MAX]

    def holds(self, epoch: int, seq: int) -> bool:
        """Rule 4."""
        if seq > self.head or (self.epochs and epoch < self.epochs[0][0]):
            return seq == 0
        return all(seq <= last for began, last in self.epochs if began > epoch)
