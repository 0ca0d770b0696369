"""A disk with a log on it, and what crashes leave of it.

    appended ──at once or soon──> written ──sync──> durable
    SIGKILL keeps what is written; a power cut keeps what is durable and a part, from the front, of what is only written.

Checkpoints are published some time after the records they describe are durable, two are kept, and what both of them and
the released bodies make needless is really gone: a body read or wanted after that is a violation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

from zmqkit.errors import JournalFailed
from zmqkit.journal.log import Entry, Item
from zmqkit.simulator.clock import Scheduler
from zmqkit.simulator.invariants import require

LAZY = 100_000  # microseconds until records that nobody waits for are synced
KEPT = 2
STRAGGLERS_MAX = 3  # so few bodies left before the floor are copied forward


class Stored(NamedTuple):
    kind: int
    payload: bytes
    body: bool


class DiskConfig(NamedTuple):
    sync_us: tuple[int, int] = (100, 3_000)
    write_us: tuple[int, int] = (10, 500)
    segment_records: int = 100
    volatile: bool = False  # the node keeps all in memory: its next process is another node


class Disk:
    """What survives a process. `judge` is told every append and asked about every release."""

    def __init__(self, scheduler: Scheduler, config: DiskConfig, judge: Judge) -> None:
        self.scheduler, self.config, self.judge = scheduler, config, judge
        self.random = scheduler.random("disk")
        self.node = scheduler.random("ids").randbytes(16)
        self.epoch = 0
        self.records: list[Stored] = []
        self.written = self.durable = 0
        self.checkpoints: list[tuple[int, list[Item]]] = []  # position it describes, its items
        self.gone: set[int] = set()  # positions whose bytes were deleted
        self.full = False
        self.stalled_until = 0
        self.break_next_sync = False
        self.damage_newest_checkpoint = False

    @property
    def last(self) -> int:
        return len(self.records)

    def open(self) -> SimLog:
        self.epoch += 1
        return SimLog(self)

    def lose(self, power: bool) -> None:
        """The process is gone."""
        if self.config.volatile:
            self.node, self.epoch = self.random.randbytes(16), 0
            self.checkpoints, self.gone, self.written, self.durable = [], set(), 0, 0
            self.records.clear()
            return
        kept = self.random.randint(self.durable, self.written) if power else self.written
        self.scheduler.note(f"disk keeps {kept} of {self.last} records, {self.durable} were durable")
        del self.records[kept:]
        self.written = self.durable = kept  # the next start syncs what it found before it serves
        require(all(position <= kept for position, _ in self.checkpoints), "a checkpoint was published before its records were durable")


class Judge:
    """What the log asks of whoever knows what records mean."""

    def appended(self, position: int, item: Item, durable: int) -> None: ...

    def released(self, position: int, durable: int) -> None: ...


class SimLog:
    """The Log of one life of a node."""

    durability = "disk"

    def __init__(self, disk: Disk) -> None:
        self._disk, self._random = disk, disk.random
        self.node, self.epoch = disk.node, disk.epoch
        self._open = True
        self._error: JournalFailed | None = None
        self._on_durable: Callable[[], None] = lambda: None
        self._on_failed: Callable[[Exception], None] = lambda error: None
        self._released: set[int] = set()
        self._syncing = False
        self._wanted = 0  # somebody waits for this position
        self._segment_start = disk.last
        if disk.damage_newest_checkpoint and len(disk.checkpoints) == KEPT:
            disk.checkpoints.pop()
            disk.scheduler.hits["damaged checkpoint"] += 1
        disk.damage_newest_checkpoint = False

    @property
    def last(self) -> int:
        return self._disk.last

    @property
    def durable(self) -> int:
        return self._disk.durable

    @property
    def full(self) -> bool:
        return self._disk.full

    @property
    def wants_checkpoint(self) -> bool:
        return self.last - self._segment_start >= self._disk.config.segment_records

    def kill(self) -> None:
        self._open = False

    # -- at start -------------------------------------------------------------------------------------------------------

    def replay(self) -> Iterator[Entry]:
        start = 0
        if self._disk.checkpoints:
            start, items = self._disk.checkpoints[-1]
            for item in items:
                yield Entry(0, item.kind, memoryview(b"".join(item.chunks)))
        for position in range(start + 1, self.last + 1):
            stored = self._disk.records[position - 1]
            yield Entry(position, stored.kind, memoryview(stored.payload))

    def retain(self, positions: Iterable[int]) -> None:
        wanted = list(positions)
        for position in wanted:
            require(position not in self._disk.gone, f"the body at {position} is wanted after a restart, and was deleted")
            require(self._disk.records[position - 1].body, f"a body is wanted at {position}, where none is")
        self._released = {position for position, stored in enumerate(self._disk.records, 1) if stored.body}.difference(wanted)

    def start(self, on_durable: Callable[[], None], on_failed: Callable[[Exception], None]) -> None:
        self._on_durable, self._on_failed = on_durable, on_failed

    # -- writing --------------------------------------------------------------------------------------------------------

    def append(self, items: Sequence[Item], waited: bool) -> int:
        if self._error is not None:
            raise self._error
        disk = self._disk
        for item in items:
            disk.records.append(Stored(item.kind, b"".join(item.chunks), item.body))
            disk.judge.appended(disk.last, item, disk.durable)
        last = disk.last
        disk.scheduler.after(self._random.randint(*disk.config.write_us), lambda: self._write(last))
        if waited:
            self._wanted = last
            self._sync()
        else:
            disk.scheduler.after(LAZY, lambda: self._want(last))
        return last

    def _write(self, position: int) -> None:
        if self._open:
            self._disk.written = max(self._disk.written, position)

    def _want(self, position: int) -> None:
        if self._open and position > self.durable:
            self._wanted = max(self._wanted, position)
            self._sync()

    def _sync(self) -> None:
        if self._syncing or self._wanted <= self.durable or self._error is not None:
            return
        disk, scheduler = self._disk, self._disk.scheduler
        self._syncing = True
        disk.written = covers = disk.last
        ends = max(scheduler.now, disk.stalled_until) + self._random.randint(*disk.config.sync_us)
        scheduler.at(ends, lambda: self._synced(covers))

    def _synced(self, position: int) -> None:
        disk = self._disk
        if not self._open:
            return
        self._syncing = False
        if disk.break_next_sync:
            disk.break_next_sync = False
            disk.scheduler.hits["sync error"] += 1
            self._error = JournalFailed("simulated", "fdatasync: input/output error")
            self._on_failed(self._error)
            return
        disk.durable = max(disk.durable, position)
        disk.scheduler.note(f"disk durable {disk.durable}")
        self._on_durable()
        self._sync()

    # -- checkpoints and bodies -----------------------------------------------------------------------------------------

    def checkpoint(self, items: Sequence[Item]) -> None:
        self._segment_start = position = self.last
        kept = list(items)
        self._publish_later(position, kept)

    def _publish_later(self, position: int, items: list[Item]) -> None:
        def publish() -> None:
            if not self._open:
                return
            if position > self.durable:
                self._want(position)
                self._publish_later(position, items)
                return
            self._disk.checkpoints = [*self._disk.checkpoints[1 - KEPT :], (position, items)]
            self._disk.scheduler.note(f"disk checkpoint {position}")
            self._delete()

        self._disk.scheduler.after(self._random.randint(1_000, 200_000), publish)

    @property
    def _floor(self) -> int:
        checkpoints = self._disk.checkpoints
        return checkpoints[0][0] if len(checkpoints) == KEPT else 0

    def _delete(self) -> None:
        """What no recovery replays and nobody reads any more."""
        self._disk.gone.update(position for position in self._released if position <= self._floor)

    def read(self, position: int) -> memoryview:
        require(position not in self._released, f"the body at {position} is read after its release")
        require(position not in self._disk.gone, f"the body at {position} is read after its deletion")
        return memoryview(self._disk.records[position - 1].payload)

    def release(self, positions: Iterable[int]) -> None:
        for position in positions:
            require(position not in self._released, f"the body at {position} is released twice")
            self._disk.judge.released(position, self.durable)
            self._released.add(position)
        self._delete()

    def stragglers(self) -> tuple[int, int] | None:
        floor = self._floor
        left = [p for p in range(1, floor + 1) if self._disk.records[p - 1].body and p not in self._released]
        return (1, floor) if 0 < len(left) <= STRAGGLERS_MAX else None

    def close(self) -> None:
        if self._error is None:
            self._disk.written = self._disk.durable = self.last
        self._open = False
