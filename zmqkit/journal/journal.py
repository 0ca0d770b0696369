"""The file journal: a log in a directory of this machine.

This file is the face that the rest sees, and runs in the caller's thread: numbers are given, bodies cached, work handed on.
`writer` writes and syncs, `upkeep` prepares and tidies, `recovery` reads at the start, `bodies` finds payloads again.
"""

from __future__ import annotations

import contextlib
import os
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence

from ..errors import Closed, JournalCorrupt, JournalError, JournalLocked
from .bodies import Bodies, Cache
from .checkpoint import SUFFIX
from .directory import NO_ROOM, TEMPORARY, Directory, readable, size_of
from .failstop import FailStop
from .log import Entry, Item
from .meta import EPOCH_MAX, META, Meta, read_meta, write_meta
from .record import OVERHEAD_BYTES, salt_of
from .recovery import examine, remove_temporaries, repair, replay
from .segment import SegmentFile, Start, parse_name
from .upkeep import Upkeep
from .writer import Batch, Turnover, Writer

SEGMENT_BYTES = 64 << 20
SEGMENT_RECORDS_MAX = 50_000  # a start replays those of the last segment, at some 20 µs each
CACHE_BYTES = 64 << 20
RESERVE_BYTES = 1 << 20  # of a segment, for acks on a full disk, and for its index
SEGMENT_BYTES_MAX = 2 << 30  # however long there is no next segment: offsets are kept in 32 bits
RECORD_BYTES_MAX = 1 << 30
NUMBERED_MAX = 10_000

_FIRST_SEGMENT = "first" + TEMPORARY


class Journal:
    """A log in the directory `path`, which is made if it is missing. With "{n}" in it: the first number that no other
    process has.

    durability: "disk" survives a power cut; "os" only the death of the process, and syncs only whole segments.
    segment_bytes: of a file; a checkpoint is wanted and old files go at this rate. cache_bytes: bodies kept in memory.
    directory: what the operating system is asked through; tests put other disks here.

    Raises JournalLocked, JournalCorrupt, JournalFormat; JournalError when the directory cannot be used.
    """

    def __init__(
        self,
        path: str,
        durability: str = "disk",
        *,
        segment_bytes: int = SEGMENT_BYTES,
        cache_bytes: int = CACHE_BYTES,
        directory: Callable[[str], Directory] = Directory,
    ) -> None:
        if durability not in ("disk", "os"):
            raise ValueError(f'durability is "disk" or "os", not {durability!r}; for "memory" use MemoryLog')
        self.durability = durability
        self.last = 0
        self._pid = os.getpid()
        self._closed = False
        self._started = False
        self._segment_bytes = segment_bytes
        self._room = segment_bytes - min(RESERVE_BYTES, segment_bytes // 4)
        self._filled = self._records = 0
        self._floor = 0
        self._released_at = 0
        self._emptied = False
        self._cache = Cache(cache_bytes)
        self._directory = _locked(path, directory)
        self.path = self._directory.path
        try:
            with readable(self.path):
                self._open()
        except BaseException:
            self._directory.leave()
            raise
        _open_journals.add(self)

    def _open(self) -> None:
        """Find out what is there, make it fit to be continued, and only then take the next epoch."""
        meta = read_meta(self._directory) or _first_meta(self._directory)
        history = examine(self._directory, meta)
        self.node, self.epoch = meta.node, max(meta.epoch, history.highest_epoch) + 1
        if self.epoch > EPOCH_MAX:
            raise JournalError(self.path, f"opened {EPOCH_MAX} times, which is the most: move its messages to a new journal")
        remove_temporaries(self._directory)
        start = Start(self.epoch, history.last + 1, self.node)
        self._failstop = FailStop(self.path)
        self._upkeep = Upkeep(self._directory, self._failstop, self._segment_bytes, history.checkpoints)
        file = self._first_segment(start)
        try:
            repair(self._directory, meta, history, self.epoch, file, _FIRST_SEGMENT)
            write_meta(self._directory, Meta(self.node, self.epoch, start.first))
        except BaseException:
            file.close()
            raise
        self.last = history.last
        self.notes = history.notes  # what a person might want to know of this start
        self._history = history
        self._bodies = Bodies(self._directory, [*history.segments, file.segment], salt_of(self.node))
        self._writer = Writer(file, start, self._bodies, self._upkeep, self._failstop, self.durability == "disk")

    def _first_segment(self, start: Start) -> SegmentFile:
        """A new segment for this process. On a full disk it starts without room of its own, so that acks can free some."""
        fd = self._directory.create(_FIRST_SEGMENT)
        try:
            self._directory.allocate(fd, self._segment_bytes)
            return SegmentFile(self._directory, fd, start, self._segment_bytes)
        except OSError as error:
            if error.errno not in NO_ROOM:
                self._directory.close(fd)
                raise
            self._upkeep.starved = True
            self._filled = self._room
            return SegmentFile(self._directory, fd, start, 0)

    # -- what the node asks --------------------------------------------------------------------------------------------

    @property
    def durable(self) -> int:
        return self._writer.durable

    @property
    def full(self) -> bool:
        return self._writer.stalled or (self._upkeep.starved and self._filled >= self._room)

    @property
    def wants_checkpoint(self) -> bool:
        """The segment is full, and the next one is there: without it the reserve is used up first."""
        return (self._filled >= self._room or self._records >= SEGMENT_RECORDS_MAX) and self._upkeep.has_spare

    def replay(self) -> Iterator[Entry]:
        with readable(self.path):
            yield from replay(self._directory, self.node, self._history)

    def retain(self, positions: Iterable[int]) -> None:
        self._bodies.retain(positions)

    def start(self, on_durable: Callable[[], None], on_failed: Callable[[Exception], None]) -> None:
        self._started = True
        self._failstop.tell(on_failed)
        self._upkeep.start()
        self._writer.start(on_durable)

    def append(self, items: Sequence[Item], waited: bool) -> int:
        self._check()
        if self.wants_checkpoint or self._filled >= SEGMENT_BYTES_MAX:
            self._turn_over(None)  # the caller had no checkpoint to give: the next start replays more
        items = tuple(items)
        sizes = [size_of(chunks) for _, chunks, _ in items]
        if items and max(sizes) > RECORD_BYTES_MAX:
            raise ValueError(f"a record of {max(sizes):,} bytes is over the limit of {RECORD_BYTES_MAX:,}")
        first, self.last = self.last + 1, self.last + len(items)
        self._writer.put(Batch(first, items, sizes, waited))
        self._filled += sum(sizes) + OVERHEAD_BYTES * len(items)
        self._records += len(items)
        self._keep_bodies(first, items, sizes)
        if (self._filled > self._room // 2 or self._records > SEGMENT_RECORDS_MAX // 2) and not self._upkeep.has_spare:
            self._upkeep.prepare_spare()
        self._remove_unneeded()
        return self.last

    def checkpoint(self, items: Sequence[Item]) -> None:
        self._check()
        self._turn_over(tuple(items))

    def read(self, position: int) -> memoryview:
        found = self._cache.get(position)
        if found is None:
            self._check_open()
            found = self._bodies.read(position)
        return found

    def release(self, positions: Iterable[int]) -> None:
        positions = list(positions)
        self._cache.drop(positions)
        self._released_at = self._writer.durable
        self._emptied = self._bodies.release(positions, self._floor) or self._emptied
        self._remove_unneeded()

    def stragglers(self) -> tuple[int, int] | None:
        return self._bodies.stragglers(self._floor, self._segment_bytes)

    def close(self) -> None:
        """Raises JournalFailed: it failed just now, before all was synced."""
        if self._closed:
            return
        failed_before = self._failstop.error is not None
        if not self._started:
            self.start(lambda: None, lambda error: None)
        self._closed = True
        _open_journals.discard(self)
        self._writer.stop()
        self._upkeep.stop()
        self._writer.close_file()
        self._bodies.close()
        self._directory.leave()
        if not failed_before:
            self._failstop.check()

    # -- inside --------------------------------------------------------------------------------------------------------

    def _check(self) -> None:
        self._check_open()
        self._failstop.check()

    def _check_open(self) -> None:
        if self._closed or os.getpid() != self._pid:
            raise Closed(f"{self.path}: the journal is closed, or this is a forked child: open a new one")

    def _keep_bodies(self, position: int, items: Sequence[Item], sizes: Sequence[int]) -> None:
        written = self._writer.written
        for (_, chunks, body), size in zip(items, sizes, strict=True):
            if body:
                self._cache.put(position, chunks, size, written)
            position += 1

    def _turn_over(self, checkpoint: Sequence[Item] | None) -> None:
        self._writer.put(Turnover(self.last, checkpoint))
        self._filled = self._records = 0

    def _remove_unneeded(self) -> None:
        """A new checkpoint, or a release, may have made old segments needless. In mode "os" the records that say so may not
        have been synced yet: then the files wait, or after a power cut a body would be needed that is gone."""
        floor = self._upkeep.floor
        if (self._emptied or floor != self._floor) and self._writer.synced >= self._released_at:
            self._floor, self._emptied = floor, False
            self._upkeep.discard(self._bodies.take_unneeded(floor))

    def _abandon(self) -> None:
        """In a forked child: close every descriptor and write nothing; threads and lock are the parent's."""
        self._closed = True
        with contextlib.suppress(OSError):
            self._writer.close_file()
        with contextlib.suppress(OSError):
            self._upkeep.close_spare()
        with contextlib.suppress(OSError):
            self._bodies.close()
        with contextlib.suppress(OSError):
            self._directory.drop()


def _locked(path: str, directory: Callable[[str], Directory]) -> Directory:
    """The directory, locked. "{n}" in its path: the first number that no other process holds."""
    if "{n}" not in path:
        return _lock(path, directory)
    for number in range(1, NUMBERED_MAX + 1):
        with contextlib.suppress(JournalLocked):
            return _lock(path.replace("{n}", str(number)), directory)
    raise JournalError(path, f"all {NUMBERED_MAX} numbers are locked by other processes")


def _lock(path: str, directory: Callable[[str], Directory]) -> Directory:
    with readable(path):
        opened = directory(path)
        try:
            opened.lock()
        except BaseException:
            opened.drop()
            raise
        return opened


def _first_meta(directory: Directory) -> Meta:
    """A new journal's. Its id is durable before any segment holds it."""
    if any(parse_name(name) or parse_name(name, SUFFIX) for name in directory.names()):
        raise JournalCorrupt(os.path.join(directory.path, META), 0, 0, "the journal's meta file is missing")
    meta = Meta(os.urandom(16), 0, 0)
    write_meta(directory, meta)
    return meta


# Process-wide, because a fork hook cannot be taken back: it must not keep closed journals alive.
_open_journals: weakref.WeakSet[Journal] = weakref.WeakSet()


def _abandon_all() -> None:
    for journal in list(_open_journals):
        journal._abandon()
    _open_journals.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_abandon_all)
